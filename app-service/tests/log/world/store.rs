//! A store that fails on purpose.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use whimbrel_store::{
    Batch, Commit, Direction, Epoch, KeyRange, MemoryStore, Readiness, ScanPage, Snapshot, Store, StoreError,
    Version,
};

use super::env::{Seeded, TestClock};

/// What the next commit meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Says conflict and applies nothing.
    Conflict,
    /// The same after so long, as one who has waited for another's lock does.
    ConflictAfter(Duration),
    /// Applies, and says unknown.
    UnknownApplied,
    /// Says unknown and applies nothing.
    UnknownLost,
    /// Says unknown, and applies it right before the next commit, if it does not conflict by then.
    UnknownLate,
    OutOfSpace,
    NotReady,
}

/// A memory store with faults, a gate, and a random number of steps before each answer.
pub struct TestStore {
    inner: MemoryStore,
    faults: Mutex<VecDeque<Fault>>,
    /// Faults in a thousand commits.
    fault_permille: AtomicU64,
    late: Mutex<Vec<Batch>>,
    /// Whatever writes this key conflicts.
    cursed: Mutex<Option<Bytes>>,
    /// Whatever writes one of these keys hangs until it is let go.
    hanging: watch::Sender<Vec<Bytes>>,
    /// Reads of this key fail, so often.
    unreadable: Arc<Mutex<Option<(Bytes, usize)>>>,
    /// How many commits hang.
    hang: watch::Sender<usize>,
    random: Seeded,
    clock: Arc<TestClock>,
    gate_open: watch::Sender<bool>,
    pub commits: AtomicU64,
}

impl TestStore {
    /// A store whose steps and random faults go by `seed`.
    pub fn new(seed: u64, clock: Arc<TestClock>) -> Self {
        Self {
            inner: MemoryStore::new(Epoch([7; 16])),
            faults: Mutex::default(),
            fault_permille: AtomicU64::new(0),
            late: Mutex::default(),
            cursed: Mutex::default(),
            hanging: watch::Sender::default(),
            unreadable: Arc::default(),
            hang: watch::Sender::default(),
            random: Seeded::new(seed),
            clock,
            gate_open: watch::Sender::new(true),
            commits: AtomicU64::new(0),
        }
    }

    /// What is stored, read without steps and faults.
    pub async fn stored(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.inner.snapshot().await
    }

    pub fn next_commit(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    pub fn fail_often(&self, permille: u64) {
        self.fault_permille.store(permille, Ordering::Relaxed);
    }

    pub fn curse(&self, key: Bytes) {
        *self.cursed.lock().unwrap() = Some(key);
    }

    /// From now on a commit that writes one of `keys` hangs, until there are none or others.
    pub fn hang(&self, keys: Vec<Bytes>) {
        self.hanging.send_replace(keys);
    }

    /// So many reads together with `key` fail.
    pub fn fail_reads(&self, key: Bytes, times: usize) {
        *self.unreadable.lock().unwrap() = Some((key, times));
    }

    /// Waits until so many commits hang.
    pub async fn hangs(&self, commits: usize) {
        let mut hang = self.hang.subscribe();
        hang.wait_for(|hang| *hang == commits).await.unwrap();
    }

    pub fn set_gate(&self, open: bool) {
        self.gate_open.send_replace(open);
    }

    async fn hang_up(&self, batch: &Batch) {
        let mut hanging = self.hanging.subscribe();
        let is_hung = |keys: &Vec<Bytes>| keys.iter().any(|key| batch.op(key).is_some());
        if is_hung(&hanging.borrow().clone()) {
            self.hang.send_modify(|hang| *hang += 1);
            hanging.wait_for(|keys| !is_hung(keys)).await.unwrap();
            self.hang.send_modify(|hang| *hang -= 1);
        }
    }

    fn fault(&self) -> Option<Fault> {
        let scripted = self.faults.lock().unwrap().pop_front();
        let random = || {
            let all = [
                Fault::Conflict,
                Fault::UnknownApplied,
                Fault::UnknownLost,
                Fault::UnknownLate,
            ];
            (self.random.below(1000) < self.fault_permille.load(Ordering::Relaxed))
                .then(|| all[usize::try_from(self.random.below(4)).unwrap()])
        };
        scripted.or_else(random)
    }

    async fn steps(&self) {
        for _ in 0..self.random.below(4) {
            tokio::task::yield_now().await;
        }
    }
}

fn lost_connection() -> StoreError {
    StoreError::backend("a commit", std::io::Error::other("the connection was lost"))
}

#[async_trait]
impl Store for TestStore {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.steps().await;
        Ok(Arc::new(TestSnapshot {
            inner: self.inner.snapshot().await?,
            unreadable: Arc::clone(&self.unreadable),
        }))
    }

    async fn commit(&self, batch: Batch) -> Commit {
        self.steps().await;
        let mut gate = self.gate_open.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
        self.commits.fetch_add(1, Ordering::Relaxed);
        let late: Vec<Batch> = self.late.lock().unwrap().drain(..).collect();
        for batch in late {
            let _late_answer = self.inner.commit(batch).await;
        }
        let cursed = self.cursed.lock().unwrap().clone();
        if let Some(key) = cursed.filter(|key| batch.op(key).is_some()) {
            return Commit::Conflict(vec![key]);
        }
        let fault = self.fault();
        if fault.is_none() {
            self.hang_up(&batch).await;
        }
        match fault {
            None => self.inner.commit(batch).await,
            Some(Fault::Conflict) => Commit::Conflict(batch.keys().cloned().collect()),
            Some(Fault::ConflictAfter(wait)) => {
                self.clock.advance(wait);
                Commit::Conflict(batch.keys().cloned().collect())
            }
            Some(Fault::UnknownApplied) => match self.inner.commit(batch).await {
                Commit::Committed => Commit::Unknown(lost_connection()),
                other => other,
            },
            Some(Fault::UnknownLost) => Commit::Unknown(lost_connection()),
            Some(Fault::UnknownLate) => {
                self.late.lock().unwrap().push(batch);
                Commit::Unknown(lost_connection())
            }
            Some(Fault::OutOfSpace) => Commit::Refused(StoreError::OutOfSpace {
                place: "test".into(),
                free_bytes: 1,
                min_free_bytes: 2,
            }),
            Some(Fault::NotReady) => Commit::Refused(StoreError::NotReady {
                reason: "reopening".into(),
            }),
        }
    }

    fn readiness(&self) -> Readiness {
        self.inner.readiness()
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.inner.epoch().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A snapshot of [`TestStore`].
struct TestSnapshot {
    inner: Arc<dyn Snapshot>,
    unreadable: Arc<Mutex<Option<(Bytes, usize)>>>,
}

#[async_trait]
impl Snapshot for TestSnapshot {
    fn version(&self) -> Version {
        self.inner.version()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key).await
    }

    async fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if let Some((key, times)) = &mut *self.unreadable.lock().unwrap()
            && *times > 0
            && keys.contains(key)
        {
            *times -= 1;
            return Err(lost_connection());
        }
        self.inner.multi_get(keys).await
    }

    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
        direction: Direction,
    ) -> Result<ScanPage, StoreError> {
        self.inner.scan(range, limit, direction).await
    }
}
