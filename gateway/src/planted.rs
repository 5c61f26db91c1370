//! Faults that the checker must find in a real run. Compiled only with the feature `planted-faults`, which no build that
//! serves anybody has.
//!
//! One fault at a time is planted in a process, by [`plant`], or in what a thread runs, by [`plant_here`]; the few places where
//! it bites ask [`is`].

use std::cell::Cell;
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

thread_local! {
    static PLANTED_HERE: Cell<Option<Fault>> = const { Cell::new(None) };
}

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

/// Plants a fault in what this thread runs, until what is returned is dropped: simulated clusters run side by side, each in a
/// thread of its own.
pub fn plant_here(fault: Fault) -> PlantedHere {
    PlantedHere(PLANTED_HERE.replace(Some(fault)))
}

/// A fault planted by [`plant_here`].
#[derive(Debug)]
#[must_use = "the fault is gone when this is dropped"]
pub struct PlantedHere(Option<Fault>);

impl Drop for PlantedHere {
    fn drop(&mut self) {
        PLANTED_HERE.set(self.0);
    }
}

/// Tells whoever starts it what build this is; and what a build without faults is searched for.
pub(crate) fn say_so() {
    tracing::warn!("whimbrel-gateway was built with planted faults");
}

/// Whether this fault is planted.
pub(crate) fn is(fault: Fault) -> bool {
    PLANTED_HERE.get() == Some(fault) || PLANTED.load(Ordering::Relaxed) == fault as u8
}
