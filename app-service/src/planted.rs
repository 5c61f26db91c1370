//! Faults that the checker must find in a real run. Compiled only with the feature `planted-faults`, which no build that
//! serves anybody has.
//!
//! One fault at a time is planted in a process, by [`plant`], or in what a thread runs, by [`plant_here`]; the one place where
//! it bites asks [`is`].

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};

/// A fault of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Sends are acknowledged some moments before they are committed.
    AckBeforeCommit = 1,
    /// Operation ids are not looked up.
    DedupOff = 2,
    /// Now and then a seq is left out.
    SeqGap = 3,
    /// Nobody works off the markers of the dead; and rows wait a moment, so that the dead leave some.
    SweeperOff = 4,
    /// Now and then a message counts as two unread ones.
    UnreadTwice = 5,
    /// Who was once a member reads everything since, absences included.
    RemovedStillServed = 6,
}

/// One message in so many gets what [`Fault::SeqGap`] and [`Fault::UnreadTwice`] do: rare enough that most of a run looks
/// well.
const ONE_IN: u64 = 50;

/// The same in a fault of [`plant_here`]: a simulated conversation has some dozens of messages.
const ONE_IN_HERE: u64 = 10;

/// How long [`Fault::AckBeforeCommit`] waits with the commit: time for the answer to arrive before the process is killed.
pub(crate) const COMMIT_LATE: std::time::Duration = std::time::Duration::from_millis(40);

/// How long rows wait with [`Fault::SweeperOff`].
const ROWS_LATE: std::time::Duration = std::time::Duration::from_millis(200);

static PLANTED: AtomicU8 = AtomicU8::new(0);

thread_local! {
    static PLANTED_HERE: Cell<Option<Fault>> = const { Cell::new(None) };
}

impl Fault {
    /// All of them, with the names by which they are chosen.
    pub const ALL: [(&str, Self); 6] = [
        ("ack-before-commit", Self::AckBeforeCommit),
        ("dedup-off", Self::DedupOff),
        ("seq-gap", Self::SeqGap),
        ("sweeper-off", Self::SweeperOff),
        ("unread-twice", Self::UnreadTwice),
        ("removed-still-served", Self::RemovedStillServed),
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
    tracing::warn!("whimbrel-app-service was built with planted faults");
}

/// Whether this fault is planted.
pub(crate) fn is(fault: Fault) -> bool {
    is_here(fault) || PLANTED.load(Ordering::Relaxed) == fault as u8
}

fn is_here(fault: Fault) -> bool {
    PLANTED_HERE.get() == Some(fault)
}

/// What `fault` adds to a counter that stands at `number`.
pub(crate) fn added(fault: Fault, number: u64) -> u64 {
    let one_in = if is_here(fault) { ONE_IN_HERE } else { ONE_IN };
    u64::from(is(fault) && number.is_multiple_of(one_in))
}

/// What rows wait for before they are written.
pub(crate) async fn rows_late(env: &crate::env::Env) {
    if is(Fault::SweeperOff) {
        env.timers.sleep(ROWS_LATE).await;
    }
}
