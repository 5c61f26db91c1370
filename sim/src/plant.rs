//! Faults planted into the cluster, for the proof that runs would find them.
//!
//! They sit at the store's seam, so that nothing of production is touched: what the store is told and what it answers is bent
//! as if the code above it had the fault.

use whimbrel_app_service::keys::ConversationKeys;
use whimbrel_store::{Batch, Op};

/// Bytes of an operation's key behind its kind: its id and its user.
const OPERATION_LEN: usize = 24;

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// Senders are answered before the commit is decided.
    AckBeforeCommit,
    /// Nobody looks whether an operation was done before.
    DedupOff,
    /// Commits that conflict are applied.
    ConflictsIgnored,
    /// Nobody takes up what dead nodes left behind.
    SweeperOff,
}

impl Plant {
    /// Whether what lies at (or behind) `key` is not found.
    pub(crate) fn hides(self, key: &[u8]) -> bool {
        match self {
            Self::DedupOff => {
                let row = key
                    .len()
                    .checked_sub(OPERATION_LEN + 1)
                    .and_then(|at| key.get(at));
                row == Some(&b'i') && ConversationKeys::operation_time_ms(key).is_some()
            }
            // Owner and cluster: markers, and the lives of nodes.
            Self::SweeperOff => key.starts_with(b"w\0"),
            Self::AckBeforeCommit | Self::ConflictsIgnored => false,
        }
    }

    /// A batch as it reaches the store.
    pub(crate) fn distort(self, batch: Batch) -> Batch {
        match self {
            Self::DedupOff if batch.keys().any(|key| self.hides(key)) => unchecked(batch),
            Self::ConflictsIgnored => unchecked(batch),
            _ => batch,
        }
    }
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
