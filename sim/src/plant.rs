//! Faults planted into a cluster, for the proof that runs would find them.
//!
//! Some sit at the store's seam, so that nothing of production is touched: what the store is told and what it answers is bent
//! as if the code above it had the fault. The others are production's own planted code, compiled with the feature
//! `planted-faults` alone, and planted for the thread of one run. A missing fsync is not among them: there is no disk here.

use whimbrel_app_service::keys::ConversationKeys;
#[cfg(feature = "planted-faults")]
use whimbrel_app_service::planted as service;
#[cfg(feature = "planted-faults")]
use whimbrel_gateway::planted as gateway;
#[cfg(feature = "planted-faults")]
use whimbrel_planted::{PlantedHere, plant_here};
use whimbrel_store::{Batch, Op};

/// Bytes of an operation's key behind its kind: its id and its user.
const OPERATION_LEN: usize = 24;

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// Senders are answered before the commit is decided.
    AckBeforeCommit,
    /// No operation is remembered, so nobody knows that it was done before. Everything else is checked as ever.
    DedupOff,
    /// Commits that conflict are applied.
    ConflictsIgnored,
    /// Nobody takes up what dead nodes left behind.
    SweeperOff,
    /// Now and then a seq is left out.
    #[cfg(feature = "planted-faults")]
    SeqGap,
    /// Now and then a message counts as two unread ones.
    #[cfg(feature = "planted-faults")]
    UnreadTwice,
    /// Who was once a member reads everything since, absences included.
    #[cfg(feature = "planted-faults")]
    RemovedStillServed,
    /// A push goes to whoever has the slot now.
    #[cfg(feature = "planted-faults")]
    PushToReusedSlot,
    /// A session is registered only some time after its requests are served.
    #[cfg(feature = "planted-faults")]
    RegistrationAfterSync,
}

impl Plant {
    /// Plants the fault in the cores that this thread runs, if that is where it sits, until what is returned is dropped.
    #[cfg(feature = "planted-faults")]
    pub(crate) fn in_code(self) -> Option<PlantedHere> {
        Some(match self {
            Self::AckBeforeCommit | Self::DedupOff | Self::ConflictsIgnored | Self::SweeperOff => {
                return None;
            }
            Self::SeqGap => plant_here(service::Fault::SeqGap),
            Self::UnreadTwice => plant_here(service::Fault::UnreadTwice),
            Self::RemovedStillServed => plant_here(service::Fault::RemovedStillServed),
            Self::PushToReusedSlot => plant_here(gateway::Fault::PushToReusedSlot),
            Self::RegistrationAfterSync => plant_here(gateway::Fault::RegistrationAfterSync),
        })
    }

    /// Whether what lies at (or behind) `key` is not found.
    pub(crate) fn hides(self, key: &[u8]) -> bool {
        // Owner and cluster: markers, and the lives of nodes.
        self == Self::SweeperOff && key.starts_with(b"w\0")
    }

    /// A batch as it reaches the store.
    pub(crate) fn distort(self, batch: Batch) -> Batch {
        match self {
            Self::DedupOff => batch.without(is_operation),
            Self::ConflictsIgnored => unchecked(batch),
            _ => batch,
        }
    }
}

/// Whether an operation is remembered at `key`.
fn is_operation(key: &[u8]) -> bool {
    let row = key
        .len()
        .checked_sub(OPERATION_LEN + 1)
        .and_then(|at| key.get(at));
    row == Some(&b'i') && ConversationKeys::operation_time_ms(key).is_some()
}

/// The same writes, whatever was written meanwhile.
fn unchecked(batch: Batch) -> Batch {
    let mut blind = Batch::blind();
    for (key, op) in batch.into_ops() {
        match op {
            Op::Put(value) | Op::Insert(value) => blind.put(key, value),
            Op::Delete => blind.delete(key),
            Op::Guard => &mut blind,
        };
    }
    blind
}
