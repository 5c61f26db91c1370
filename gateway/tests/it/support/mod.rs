//! What the tests of the gateway stand on.

pub(crate) mod attacks;
pub(crate) mod client;
pub(crate) mod socket;
pub(crate) mod world;
