//! What can go wrong while reading from or committing to an open store.
//!
//! Opening has errors of its own, see [`crate::OpenError`].

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{
    BATCH_BYTES_MAX, BATCH_OPS_MAX, KEY_LEN_MAX, MULTI_GET_MAX, SCAN_LIMIT_MAX, VALUE_LEN_MAX,
};

/// An error of a read, or the reason of a refused or undecided commit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A key was empty.
    #[error("a key is empty; keys hold 1 to {KEY_LEN_MAX} bytes")]
    KeyEmpty,
    /// A key was longer than the limit.
    #[error("a key of {len} bytes is too long; keys hold 1 to {KEY_LEN_MAX} bytes")]
    KeyTooLong {
        /// The key's length in bytes.
        len: usize,
    },
    /// A value was empty.
    #[error(
        "the value of key {} is empty; values hold 1 to {VALUE_LEN_MAX} bytes, delete the key instead",
        Hex(key)
    )]
    ValueEmpty {
        /// The key it was meant for.
        key: Bytes,
    },
    /// A value was longer than the limit.
    #[error(
        "the value of key {} has {len} bytes; values hold 1 to {VALUE_LEN_MAX} bytes",
        Hex(key)
    )]
    ValueTooLong {
        /// The key it was meant for.
        key: Bytes,
        /// The value's length in bytes.
        len: usize,
    },
    /// A batch held more operations than the limit.
    #[error("a batch of {ops} operations is too large; a batch holds at most {BATCH_OPS_MAX}: split it")]
    BatchTooManyOps {
        /// How many it held.
        ops: usize,
    },
    /// A batch held more bytes than the limit.
    #[error("a batch of {bytes} bytes is too large; a batch holds at most {BATCH_BYTES_MAX}: split it")]
    BatchTooLarge {
        /// Bytes of its keys and values.
        bytes: usize,
    },
    /// A batch asked for two things of one key that exclude each other.
    #[error(
        "a batch inserts key {} and also puts or deletes it; an inserted key is written once",
        Hex(key)
    )]
    BatchContradiction {
        /// The key.
        key: Bytes,
    },
    /// A blind batch held a guard, which says nothing without a snapshot.
    #[error(
        "a blind batch guards key {}; only a batch at a snapshot can hold guards",
        Hex(key)
    )]
    BlindGuard {
        /// The guarded key.
        key: Bytes,
    },
    /// A `multi_get` asked for more keys than the limit.
    #[error("{count} keys in one read are too many; at most {MULTI_GET_MAX}: split the read")]
    TooManyKeys {
        /// How many it asked for.
        count: usize,
    },
    /// A scan's limit was zero or above the limit.
    #[error("a scan's limit is {limit}; it must be 1 to {SCAN_LIMIT_MAX}: read page by page")]
    ScanLimit {
        /// The limit asked for.
        limit: usize,
    },
    /// A range had a bound that is missing, too long, or the wrong way round.
    #[error("the range from {} to {} is not one: {expected}", Hex(start), Hex(end))]
    Range {
        /// Its lower bound.
        start: Bytes,
        /// Its upper bound.
        end: Bytes,
        /// What a range must be.
        expected: &'static str,
    },
    /// Writes are refused because the disk is nearly full. Reads go on.
    #[error(
        "{place} has {free_bytes} bytes free, less than the {min_free_bytes} that are kept back; free some space, writes resume by themselves"
    )]
    OutOfSpace {
        /// The folder or cluster that is nearly full.
        place: String,
        /// What is free.
        free_bytes: u64,
        /// The watermark.
        min_free_bytes: u64,
    },
    /// The store cannot be used now and is being reopened or reconnected.
    #[error("the store is not ready: {reason}; it recovers by itself, retry later")]
    NotReady {
        /// Why, for people.
        reason: String,
    },
    /// The snapshot can no longer be read: the store was reopened, or it is older than what is kept.
    #[error("the snapshot at version {version} is no longer readable ({reason}); take a new one")]
    SnapshotGone {
        /// The snapshot's version.
        version: u64,
        /// Why, for people.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The storage below failed.
    #[error("{action} failed: {source}")]
    Backend {
        /// What was being done, and where.
        action: String,
        /// What the storage said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Wraps an error of the storage below.
    pub fn backend(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Backend {
            action: action.into(),
            source: Arc::from(source.into()),
        }
    }

    /// Whether the same call may succeed later without being changed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::OutOfSpace { .. }
                | Self::NotReady { .. }
                | Self::SnapshotGone { .. }
                | Self::Backend { .. }
        )
    }
}

/// Shows the beginning of a key in hexadecimal: keys are binary and up to 4 KiB long.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

/// How many bytes of a key an error shows: app, hash and most of an entity's id.
const HEX_SHOWN: usize = 24;

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take(HEX_SHOWN) {
            write!(f, "{byte:02x}")?;
        }
        match self.0.len() {
            0 => f.write_str("(empty)"),
            len if len > HEX_SHOWN => write!(f, "..({len} bytes)"),
            _ => Ok(()),
        }
    }
}
