//! Faults that the checker must find in a real run. Compiled only with the feature `planted-faults`, which no build that
//! serves anybody has.
//!
//! How one is planted is the `whimbrel-planted` crate's; the few places where one bites ask [`is`].

pub(crate) use whimbrel_planted::is;
use whimbrel_planted::is_here;

/// A fault of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Sends are acknowledged some moments before they are committed.
    AckBeforeCommit,
    /// Operation ids are not looked up.
    DedupOff,
    /// Now and then a seq is left out.
    SeqGap,
    /// Nobody works off the markers of the dead; and rows wait a moment, so that the dead leave some.
    SweeperOff,
    /// Now and then a message counts as two unread ones.
    UnreadTwice,
    /// Who was once a member reads everything since, absences included.
    RemovedStillServed,
}

/// One message in so many gets what [`Fault::SeqGap`] and [`Fault::UnreadTwice`] do: rare enough that most of a run looks
/// well.
const ONE_IN: u64 = 50;

/// The same in a fault of [`plant_here`](whimbrel_planted::plant_here): a simulated conversation has some dozens of messages.
const ONE_IN_HERE: u64 = 10;

/// How long [`Fault::AckBeforeCommit`] waits with the commit: time for the answer to arrive before the process is killed.
pub(crate) const COMMIT_LATE: std::time::Duration = std::time::Duration::from_millis(40);

/// How long rows wait with [`Fault::SweeperOff`].
const ROWS_LATE: std::time::Duration = std::time::Duration::from_millis(200);

impl whimbrel_planted::Fault for Fault {
    const ALL: &'static [(&'static str, Self)] = &[
        ("ack-before-commit", Self::AckBeforeCommit),
        ("dedup-off", Self::DedupOff),
        ("seq-gap", Self::SeqGap),
        ("sweeper-off", Self::SweeperOff),
        ("unread-twice", Self::UnreadTwice),
        ("removed-still-served", Self::RemovedStillServed),
    ];
}

/// Tells whoever starts it what build this is; and what a build without faults is searched for.
pub(crate) fn say_so() {
    tracing::warn!("whimbrel-app-service was built with planted faults");
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
