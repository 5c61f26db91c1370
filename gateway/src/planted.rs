//! Faults that the checker must find in a real run. Compiled only with the feature `planted-faults`, which no build that
//! serves anybody has.
//!
//! How one is planted is the `whimbrel-planted` crate's; the few places where one bites ask [`is`].

use std::time::Duration;

pub(crate) use whimbrel_planted::is;

/// A fault of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A push goes to whoever has the slot now; and sessions that ended stay registered, as when that order is lost.
    PushToReusedSlot,
    /// A session is registered only some time after its requests are served.
    RegistrationAfterSync,
}

/// How long after its READY a session is registered, with [`Fault::RegistrationAfterSync`].
pub(crate) const REGISTERED_LATE: Duration = Duration::from_secs(3);

impl whimbrel_planted::Fault for Fault {
    const ALL: &'static [(&'static str, Self)] = &[
        ("push-to-reused-slot", Self::PushToReusedSlot),
        ("registration-after-sync", Self::RegistrationAfterSync),
    ];
}

/// Tells whoever starts it what build this is; and what a build without faults is searched for.
pub(crate) fn say_so() {
    tracing::warn!("whimbrel-gateway was built with planted faults");
}
