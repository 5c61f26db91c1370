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

/// Keeps a fault planted in this thread's cores.
#[cfg(feature = "planted-faults")]
#[derive(Debug)]
pub(crate) enum InCode {
    Nothing,
    Service { _planted: service::PlantedHere },
    Gateway { _planted: gateway::PlantedHere },
}

impl Plant {
    /// Plants the fault in the cores that this thread runs, if that is where it sits.
    #[cfg(feature = "planted-faults")]
    pub(crate) fn in_code(self) -> InCode {
        let service = |fault| InCode::Service {
            _planted: service::plant_here(fault),
        };
        let gateway = |fault| InCode::Gateway {
            _planted: gateway::plant_here(fault),
        };
        match self {
            Self::AckBeforeCommit | Self::DedupOff | Self::ConflictsIgnored | Self::SweeperOff => {
                InCode::Nothing
            }
            Self::SeqGap => service(service::Fault::SeqGap),
            Self::UnreadTwice => service(service::Fault::UnreadTwice),
            Self::RemovedStillServed => service(service::Fault::RemovedStillServed),
            Self::PushToReusedSlot => gateway(gateway::Fault::PushToReusedSlot),
            Self::RegistrationAfterSync => gateway(gateway::Fault::RegistrationAfterSync),
        }
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
