//! The seam between Whimbrel and its database: two traits and the plain values they speak in.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Batch, Direction, KeyRange, ScanPage, StoreError};

/// A sorted map of bytes with snapshots and atomic batches. Used as `Arc<dyn Store>`.
///
/// # What a commit promises
/// - A batch is applied whole or not at all, and a snapshot sees whole batches only.
/// - A batch **at** a snapshot conflicts when any key it puts, inserts, deletes or guards was written by
///   another commit after the snapshot's version: the first committer wins. An insert also conflicts when
///   the key exists.
/// - A **blind** batch checks nothing but its inserts. (A networked backend may still answer `Conflict`
///   when it meets another writer; callers retry.)
/// - A guard reads as "this key is still as I saw it". It changes nothing; whether two concurrent batches
///   that only guard the same key conflict is left to the backend.
/// - A write counts as one even when it changes nothing: a put of the same value, a delete of a missing key.
/// - [`Commit::Committed`] is answered only after the batch is durable, and every snapshot taken after that
///   answer sees it. No snapshot ever sees what a power cut could still take back.
///
/// # Order of calls
/// `snapshot` and `commit` may be called from many tasks at once. A dropped `commit` future leaves its batch
/// undecided, as [`Commit::Unknown`] does. After [`close`](Store::close) everything answers [`StoreError::Closed`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// A consistent view of everything committed so far. Cheap; hold it for one operation, not for minutes:
    /// the backend keeps old versions for it.
    ///
    /// # Errors
    /// [`StoreError::NotReady`], [`StoreError::Closed`], [`StoreError::Backend`].
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError>;

    /// A snapshot to read everything at: it serves for as long as it is held, hours if need be. It costs the backend more than
    /// [`snapshot`](Self::snapshot) does, and old versions are kept meanwhile: for backups. Batches cannot rely on it.
    ///
    /// A page of its forward scans may be empty and still have a next.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    async fn long_snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.snapshot().await
    }

    /// Applies `batch` atomically and durably, or says why not. An empty batch is committed.
    async fn commit(&self, batch: Batch) -> Commit;

    /// Whether reads and writes are served now. Never blocks.
    fn readiness(&self) -> Readiness;

    /// How commits that have nothing to do with one another are best put together for this store.
    fn grouping(&self) -> Grouping {
        Grouping::ONE_DISK
    }

    /// The store's identity. Sync cursors carry it, so that clients notice a restore.
    ///
    /// # Errors
    /// [`StoreError::NotReady`], [`StoreError::Closed`], [`StoreError::Backend`].
    async fn epoch(&self) -> Result<Epoch, StoreError>;

    /// Finishes the commits already accepted, answers them, and releases what the store holds. Idempotent.
    async fn close(&self);
}

/// A consistent, unchanging view of the store. Reads of it never see a later commit.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// Where in the order of commits it stands.
    fn version(&self) -> Version;

    /// The value of `key`, or `None`.
    ///
    /// # Errors
    /// A limit of [`crate::limits`], [`StoreError::SnapshotGone`], [`StoreError::Backend`].
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The values of `keys`, in the same order. At most [`crate::limits::MULTI_GET_MAX`].
    ///
    /// # Errors
    /// As [`get`](Snapshot::get); one bad key fails the call.
    async fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// Up to `limit` entries of `range` (1 to [`crate::limits::SCAN_LIMIT_MAX`]), beginning at the end that
    /// `direction` names.
    ///
    /// # Errors
    /// As [`get`](Snapshot::get).
    async fn scan(&self, range: KeyRange, limit: usize, direction: Direction)
    -> Result<ScanPage, StoreError>;
}

/// How a commit ended.
#[derive(Debug, Clone)]
#[must_use = "a batch that conflicted or was refused has not been applied"]
pub enum Commit {
    /// Applied and durable.
    Committed,
    /// Proven not applied: these keys of the batch were written by others since, or exist already. Read
    /// again and retry.
    Conflict(Vec<Bytes>),
    /// May or may not have been applied, now or a moment later. Re-read the operation's idempotency key at a
    /// new snapshot; never replay blindly.
    Unknown(StoreError),
    /// Proven not applied: over a limit, out of space, not ready or closed.
    Refused(StoreError),
}

impl Commit {
    /// Whether the batch is applied and durable.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed)
    }
}

/// How a caller with many small things to commit is best served. Advice: whatever it does is correct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// Commits that one caller has in flight at a time; at least 1.
    pub in_flight: usize,
    /// Things that have nothing to do with one another in one commit; at least 1. What is stuck with one of them is stuck with
    /// all.
    pub unrelated_max: usize,
}

impl Grouping {
    /// For a store on a disk of its own: one sync serves all that waits, so that commits are as large as they come. A few in
    /// flight keep it busy while others are read and decided; no commit waits for another's locks, for there are none.
    pub const ONE_DISK: Self = Self {
        in_flight: 4,
        unrelated_max: usize::MAX,
    };
}

/// A point in the store's order of commits. Only versions of the same store compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// For backends: a version from the backend's own counter or timestamp.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// For backends: the number that [`from_raw`](Self::from_raw) was given.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }
}

/// Sixteen random bytes made with the store and replaced on restore.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub [u8; 16]);

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({:032x})", u128::from_be_bytes(self.0))
    }
}

/// What a store serves at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Reads and writes.
    Ready,
    /// Reads only: writes are refused early, before the disk is full.
    WritesRefused {
        /// Why, for people.
        reason: String,
    },
    /// Nothing.
    NotReady {
        /// Why, for people.
        reason: String,
    },
}

impl Readiness {
    /// Whether snapshots are served.
    #[must_use]
    pub fn serves_reads(&self) -> bool {
        !matches!(self, Self::NotReady { .. })
    }

    /// Whether commits are accepted.
    #[must_use]
    pub fn serves_writes(&self) -> bool {
        matches!(self, Self::Ready)
    }
}
