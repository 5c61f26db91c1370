//! Getting to a gateway: which there are, which to try, and dialling.
//!
//! [`directory`] and [`race`] decide and are pure; [`dial`] and [`lbs`] do.

pub(crate) mod dial;
pub(crate) mod directory;
pub(crate) mod lbs;
pub(crate) mod race;
