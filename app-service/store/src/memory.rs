//! The memory backend: for tests, simulation and `standalone --ephemeral`. Nothing survives the process.
//!
//! Every key holds its versions, newest last; a snapshot is a number. Versions that no live snapshot can see
//! are dropped by later commits. No thread, no clock, no task: a seeded run replays exactly.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use bytes::Bytes;

use crate::limits::{check_key, check_multi_get, check_scan_limit};
use crate::recent::RecentWrites;
use crate::snapshots::{LiveSnapshots, SnapshotPin};
use crate::{
    Batch, Commit, Direction, Epoch, KeyRange, Op, Readiness, ScanPage, Snapshot, Store, StoreError, Version,
};

/// Old versions dropped per commit at most, beyond twice what the commit adds: the end of a long-lived
/// snapshot is paid for in slices.
const COLLECT_SLICE: usize = 256;

/// A store in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    state: Arc<RwLock<State>>,
    live: LiveSnapshots,
    epoch: Epoch,
}

#[derive(Debug)]
struct State {
    version: u64,
    rows: BTreeMap<Bytes, Vec<Row>>,
    recent: RecentWrites,
    /// (version, key): once nobody looks below the version, the key's older rows can go.
    superseded: VecDeque<(u64, Bytes)>,
    closed: bool,
}

#[derive(Debug)]
struct Row {
    version: u64,
    /// `None`: deleted at this version.
    value: Option<Bytes>,
}

impl MemoryStore {
    /// An empty store. `epoch` should be random; a simulation passes its own.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        let state = State {
            version: 0,
            rows: BTreeMap::new(),
            recent: RecentWrites::since(0),
            superseded: VecDeque::new(),
            closed: false,
        };
        Self {
            state: Arc::new(RwLock::new(state)),
            live: LiveSnapshots::default(),
            epoch,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while holding this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state
            .write()
            .expect("nothing panics while holding this lock")
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        let state = self.read();
        if state.closed {
            return Err(StoreError::Closed);
        }
        // Pinned under the lock, so that no commit can drop this version's rows in between.
        let pin = self.live.pin(state.version);
        Ok(Arc::new(MemorySnapshot {
            state: Arc::clone(&self.state),
            pin,
        }))
    }

    async fn commit(&self, batch: Batch) -> Commit {
        if let Err(error) = batch.check() {
            return Commit::Refused(error);
        }
        let mut state = self.write();
        if state.closed {
            return Commit::Refused(StoreError::Closed);
        }
        let Ok(conflicts) = state
            .recent
            .conflicts(&batch, |key| Ok::<_, Infallible>(state.newest(key).is_some()));
        if !conflicts.is_empty() {
            return Commit::Conflict(conflicts);
        }
        state.apply(batch, &self.live);
        Commit::Committed
    }

    fn readiness(&self) -> Readiness {
        if self.read().closed {
            Readiness::NotReady {
                reason: StoreError::Closed.to_string(),
            }
        } else {
            Readiness::Ready
        }
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        if self.read().closed {
            Err(StoreError::Closed)
        } else {
            Ok(self.epoch)
        }
    }

    async fn close(&self) {
        self.write().closed = true;
    }
}

impl State {
    fn newest(&self, key: &[u8]) -> Option<&Bytes> {
        self.rows.get(key)?.last()?.value.as_ref()
    }

    fn at(&self, key: &[u8], version: u64) -> Option<&Bytes> {
        visible(self.rows.get(key)?, version)
    }

    fn apply(&mut self, batch: Batch, live: &LiveSnapshots) {
        self.version += 1;
        let version = self.version;
        self.recent.record(&batch, version);
        let collect_max = COLLECT_SLICE + 2 * batch.len();
        for (key, op) in batch.into_ops() {
            let value = match op {
                Op::Put(value) | Op::Insert(value) => Some(value),
                Op::Delete => None,
                Op::Guard => continue,
            };
            let rows = self.rows.entry(key.clone()).or_default();
            if !rows.is_empty() || value.is_none() {
                self.superseded.push_back((version, key));
            }
            rows.push(Row { version, value });
        }
        let oldest_live = live.oldest().unwrap_or(version);
        self.recent.prune(oldest_live);
        self.collect(oldest_live, collect_max);
    }

    /// Drops up to `slice` superseded rows that no snapshot from `oldest_live` on can see.
    fn collect(&mut self, oldest_live: u64, slice: usize) {
        for _ in 0..slice {
            match self.superseded.front() {
                Some((version, _)) if *version <= oldest_live => {}
                _ => return,
            }
            let Some((_, key)) = self.superseded.pop_front() else {
                return;
            };
            let Some(rows) = self.rows.get_mut(&key) else {
                continue;
            };
            let seen = rows.partition_point(|row| row.version <= oldest_live);
            // The newest row that the oldest snapshot sees stays, unless it says "deleted".
            let keep_from = match seen.checked_sub(1) {
                Some(last) if rows.get(last).is_some_and(|row| row.value.is_none()) => seen,
                Some(last) => last,
                None => 0,
            };
            rows.drain(..keep_from);
            if rows.is_empty() {
                self.rows.remove(&key);
            }
        }
    }
}

fn visible(rows: &[Row], version: u64) -> Option<&Bytes> {
    rows.iter()
        .rev()
        .find(|row| row.version <= version)?
        .value
        .as_ref()
}

struct MemorySnapshot {
    state: Arc<RwLock<State>>,
    pin: SnapshotPin,
}

impl MemorySnapshot {
    fn read(&self) -> Result<RwLockReadGuard<'_, State>, StoreError> {
        let state = self.state.read().expect("nothing panics while holding this lock");
        if state.closed {
            Err(StoreError::Closed)
        } else {
            Ok(state)
        }
    }
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    fn version(&self) -> Version {
        Version::from_raw(self.pin.version())
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        Ok(self.read()?.at(key, self.pin.version()).cloned())
    }

    async fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError> {
        check_multi_get(keys)?;
        let state = self.read()?;
        Ok(keys
            .iter()
            .map(|key| state.at(key, self.pin.version()).cloned())
            .collect())
    }

    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
        direction: Direction,
    ) -> Result<ScanPage, StoreError> {
        check_scan_limit(limit)?;
        let state = self.read()?;
        let version = self.pin.version();
        let bounds = (
            Bound::Included(range.start().clone()),
            Bound::Excluded(range.end().clone()),
        );
        if range.is_empty() {
            // BTreeMap panics on a range whose bounds are equal and not both included.
            return Ok(ScanPage {
                entries: Vec::new(),
                next: None,
            });
        }
        let rows = state.rows.range::<Bytes, _>(bounds);
        let entry = |(key, rows): (&Bytes, &Vec<Row>)| {
            visible(rows, version).map(|value| Ok((key.clone(), value.clone())))
        };
        match direction {
            Direction::Forward => ScanPage::collect(&range, limit, direction, rows.filter_map(entry)),
            Direction::Reverse => ScanPage::collect(&range, limit, direction, rows.rev().filter_map(entry)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_that_no_snapshot_sees_are_dropped() {
        let store = MemoryStore::new(Epoch([1; 16]));
        for round in 0..100u8 {
            let mut batch = Batch::blind();
            batch.put("kept", vec![round + 1]).put("gone", vec![round + 1]);
            assert!(store.commit(batch).await.is_committed());
        }
        let mut batch = Batch::blind();
        batch.delete("gone");
        assert!(store.commit(batch).await.is_committed());
        let mut batch = Batch::blind();
        batch.put("other", "x");
        assert!(store.commit(batch).await.is_committed());

        let state = store.read();
        assert_eq!(state.rows.values().map(Vec::len).sum::<usize>(), 2);
        assert!(state.superseded.is_empty());
    }
}
