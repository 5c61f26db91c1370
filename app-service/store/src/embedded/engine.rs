//! The fjall handle, and what reads go through.
//!
//! The handle lives in one slot that the committer empties when the handle is poisoned. Snapshots reach it
//! through the slot only, so that none of them keeps a poisoned database (and its file lock) alive.
//!
//! Three of fjall's hidden accessors are used (`tree.sealed_memtable_count`, `tree.l0_run_count` for back
//! pressure, `tree.get_highest_persisted_seqno` for what must be in the journal); they are public but not promised.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use async_trait::async_trait;
use bytes::Bytes;
use fjall::{AbstractTree as _, Database, Keyspace, PersistMode, Readable as _};

use crate::limits::{check_key, check_multi_get, check_scan_limit};
use crate::snapshots::SnapshotPin;
use crate::{Direction, KeyRange, ScanPage, Snapshot, StoreError, Version};

/// A read of at most this many keys or entries runs on the caller's thread: tens of microseconds from the
/// caches. Larger ones go to the blocking pool, whose hand-over costs about ten.
const INLINE_READS_MAX: usize = 64;

/// Memtables waiting to be written out at which the committer pauses. fjall itself pauses at four, in a loop
/// that never looks whether the thread that writes them has died; one more can be sealed while a group is
/// being written.
const SEALED_MEMTABLES_MAX: usize = 2;

/// Overlapping tables at which the committer pauses. fjall slows down from 20 and stops at 30, in such a loop too.
const TABLE_RUNS_MAX: usize = 24;

/// An open fjall database with Whimbrel's one keyspace.
#[derive(Clone)]
pub(super) struct Handles {
    pub(super) db: Database,
    pub(super) data: Keyspace,
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handles").finish_non_exhaustive()
    }
}

impl Handles {
    /// Writes one journal batch, syncs it with `mode`, and makes it visible to snapshots taken afterwards.
    /// `None` deletes the key.
    pub(super) fn write(
        &self,
        writes: BTreeMap<Bytes, Option<Bytes>>,
        mode: PersistMode,
    ) -> Result<(), fjall::Error> {
        let mut batch = self.db.batch().durability(Some(mode));
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(&self.data, key, value),
                None => batch.remove(&self.data, key),
            }
        }
        batch.commit()
    }

    /// Fails when a write or a background thread has failed since the database was opened.
    pub(super) fn check_health(&self) -> Result<(), fjall::Error> {
        self.db.persist(PersistMode::Buffer)
    }

    /// The sequence number of the newest write that a table holds.
    pub(super) fn persisted_seqno(&self) -> Option<u64> {
        self.data.tree.get_highest_persisted_seqno()
    }

    /// Whether the background threads are so far behind that writing must pause.
    pub(super) fn is_behind(&self) -> bool {
        self.data.tree.sealed_memtable_count() > SEALED_MEMTABLES_MAX
            || self.data.tree.l0_run_count() > TABLE_RUNS_MAX
    }
}

/// Where the open database is, or why there is none. Clones share the slot.
#[derive(Debug, Clone)]
pub(super) struct EngineSlot(Arc<RwLock<Result<Handles, StoreError>>>);

impl EngineSlot {
    pub(super) fn new(handles: Handles) -> Self {
        Self(Arc::new(RwLock::new(Ok(handles))))
    }

    fn read(&self) -> RwLockReadGuard<'_, Result<Handles, StoreError>> {
        self.0.read().expect("nothing panics while holding this lock")
    }

    /// Runs `f` on the open database, which stays open meanwhile.
    pub(super) fn with<T>(&self, f: impl FnOnce(&Handles) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.read() {
            Ok(handles) => f(handles),
            Err(error) => Err(error.clone()),
        }
    }

    /// Takes the database out; from now on readers get `error`. Dropping what is returned closes it.
    pub(super) fn empty(&self, error: StoreError) -> Option<Handles> {
        let mut slot = self.0.write().expect("nothing panics while holding this lock");
        std::mem::replace(&mut *slot, Err(error)).ok()
    }
}

/// What is visible after one group of commits. All snapshots taken until the next group share it.
#[derive(Clone)]
pub(super) struct View {
    engine: EngineSlot,
    snapshot: Arc<fjall::Snapshot>,
    pub(super) version: u64,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl View {
    /// Everything written so far, as `version`. Only the committer may call it, between groups.
    pub(super) fn newest(engine: &EngineSlot, version: u64) -> Result<Self, StoreError> {
        let snapshot = engine.with(|handles| Ok(Arc::new(handles.db.snapshot())))?;
        Ok(Self {
            engine: engine.clone(),
            snapshot,
            version,
        })
    }

    fn with<T>(
        &self,
        action: &str,
        f: impl FnOnce(&Handles) -> Result<T, fjall::Error>,
    ) -> Result<T, StoreError> {
        let read = self.engine.with(|handles| {
            f(handles).map_err(|error| {
                // A disk that cannot be read, or a block that is not what was written: somebody must look at it.
                tracing::error!(%error, action, "the store cannot be read");
                metrics::counter!("whimbrel_store_read_errors_total").increment(1);
                StoreError::backend(action, error)
            })
        });
        read.map_err(|error| match error {
            StoreError::SnapshotGone { reason, .. } => StoreError::SnapshotGone {
                version: self.version,
                reason,
            },
            error => error,
        })
    }

    pub(super) fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.with("reading a key", |handles| {
            self.snapshot.contains_key(&handles.data, key)
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.with("reading a key", |handles| {
            Ok(self.snapshot.get(&handles.data, key)?.map(Bytes::from))
        })
    }

    fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.with("reading keys", |handles| {
            keys.iter()
                .map(|key| Ok(self.snapshot.get(&handles.data, key)?.map(Bytes::from)))
                .collect()
        })
    }

    fn scan(&self, range: &KeyRange, limit: usize, direction: Direction) -> Result<ScanPage, StoreError> {
        if range.is_empty() {
            return Ok(ScanPage {
                entries: Vec::new(),
                next: None,
            });
        }
        self.with("scanning a range", |handles| {
            let bounds: (&[u8], &[u8]) = (range.start(), range.end());
            let entries = self.snapshot.range::<&[u8], _>(&handles.data, bounds.0..bounds.1);
            let entry = |guard: fjall::Guard| {
                guard
                    .into_inner()
                    .map(|(key, value)| (Bytes::from(key), Bytes::from(value)))
            };
            match direction {
                Direction::Forward => ScanPage::collect(range, limit, direction, entries.map(entry)),
                Direction::Reverse => ScanPage::collect(range, limit, direction, entries.rev().map(entry)),
            }
        })
    }
}

/// A snapshot of the embedded store.
pub(super) struct FjallSnapshot {
    view: View,
    pin: SnapshotPin,
}

impl FjallSnapshot {
    pub(super) fn new(view: View, pin: SnapshotPin) -> Self {
        Self { view, pin }
    }

    async fn on_pool<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let view = self.view.clone();
        tokio::task::spawn_blocking(move || read(&view))
            .await
            .map_err(|error| StoreError::backend("reading on the blocking pool", error))?
    }
}

#[async_trait]
impl Snapshot for FjallSnapshot {
    fn version(&self) -> Version {
        Version::from_raw(self.pin.version())
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        self.view.get(key)
    }

    async fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError> {
        check_multi_get(keys)?;
        if keys.len() <= INLINE_READS_MAX {
            return self.view.multi_get(keys);
        }
        let keys = keys.to_vec();
        self.on_pool(move |view| view.multi_get(&keys)).await
    }

    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
        direction: Direction,
    ) -> Result<ScanPage, StoreError> {
        check_scan_limit(limit)?;
        if limit <= INLINE_READS_MAX {
            return self.view.scan(&range, limit, direction);
        }
        self.on_pool(move |view| view.scan(&range, limit, direction))
            .await
    }
}
