//! Faults that the checker must find in a real run. Compiled only with the feature `planted-faults`, which no build that
//! serves anybody has.
//!
//! One fault at a time is planted in a process, by [`plant`]; the few places where it bites ask [`is`].

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A fault of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// A push goes to whoever has the slot now; and sessions that ended stay registered, as when that order is lost.
    PushToReusedSlot = 1,
    /// A session is registered only some time after its requests are served.
    RegistrationAfterSync = 2,
}

/// How long after its READY a session is registered, with [`Fault::RegistrationAfterSync`].
pub(crate) const REGISTERED_LATE: Duration = Duration::from_secs(3);

static PLANTED: AtomicU8 = AtomicU8::new(0);

impl Fault {
    /// All of them, with the names by which they are chosen.
    pub const ALL: [(&str, Self); 2] = [
        ("push-to-reused-slot", Self::PushToReusedSlot),
        ("registration-after-sync", Self::RegistrationAfterSync),
    ];
}

/// Plants a fault in this process, or none.
pub fn plant(fault: Option<Fault>) {
    PLANTED.store(fault.map_or(0, |fault| fault as u8), Ordering::Relaxed);
}

/// Whether this fault is planted.
pub(crate) fn is(fault: Fault) -> bool {
    PLANTED.load(Ordering::Relaxed) == fault as u8
}
