//! The memory store with planted faults, told by what a commit is for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use whimbrel_app_service::env::Entropy as _;
use whimbrel_store::{Batch, Commit, Epoch, MemoryStore, Op, Readiness, Snapshot, Store, StoreError};

use crate::world::Seeded;

/// What happens to commits of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They never come back and are not applied.
    Hang,
    /// The next one waits for [`Faulty::release`].
    Hold,
    /// Refused, nothing applied.
    Refuse,
    /// Applied, but nobody learns of it; once.
    LoseAnswer,
    /// Not applied, and nobody learns of it; once.
    LoseCommit,
    /// Applied, but nobody learns of it: the store is away from then on, until [`Faulty::come_back`]; once.
    LastWord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kindred {
    /// Commits that rewrite users' rows.
    Rows,
    /// Commits that delete markers.
    Cleaning,
    /// All others: those of conversations' logs.
    Log,
}

/// The memory store, with planted faults.
pub(crate) struct Faulty {
    inner: MemoryStore,
    fates: Mutex<BTreeMap<Kindred, VecDeque<Fate>>>,
    /// How long a commit of rows takes at most, ms: time for others to get in between.
    slow_ms: AtomicU64,
    entropy: Arc<Seeded>,
    released: Notify,
    is_away: AtomicBool,
}

impl Faulty {
    pub(crate) fn new(entropy: Arc<Seeded>) -> Self {
        Self {
            inner: MemoryStore::new(Epoch([5; 16])),
            fates: Mutex::default(),
            slow_ms: AtomicU64::new(0),
            entropy,
            released: Notify::new(),
            is_away: AtomicBool::new(false),
        }
    }

    fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    pub(crate) fn come_back(&self) {
        self.is_away.store(false, Ordering::Relaxed);
    }

    pub(crate) fn release(&self) {
        self.released.notify_one();
    }

    pub(crate) fn slow_down(&self, up_to_ms: u64) {
        self.slow_ms.store(up_to_ms, Ordering::Relaxed);
    }

    pub(crate) fn plant(&self, kindred: Kindred, fate: Fate) {
        self.plant_in_turn(kindred, [fate]);
    }

    /// One after the other, each of them one that happens once.
    pub(crate) fn plant_in_turn(&self, kindred: Kindred, fates: impl IntoIterator<Item = Fate>) {
        let fates = fates.into_iter().collect();
        self.fates.lock().unwrap().insert(kindred, fates);
    }

    pub(crate) fn heal(&self) {
        self.fates.lock().unwrap().clear();
    }

    fn fate_of(&self, batch: &Batch) -> Option<Fate> {
        let kindred = kindred(batch);
        let mut fates = self.fates.lock().unwrap();
        let fates = fates.get_mut(&kindred)?;
        let fate = fates.front().copied();
        if matches!(
            fate,
            Some(Fate::LoseAnswer | Fate::LoseCommit | Fate::LastWord | Fate::Hold)
        ) {
            fates.pop_front();
        }
        fate
    }
}

fn kindred(batch: &Batch) -> Kindred {
    // Second byte 0: the cluster's; else the app key's length, and behind the app key the space.
    let is_row = |key: &[u8]| key[1] > 0 && key[2 + usize::from(key[1])] == b'u';
    if batch.keys().any(|key| is_row(key)) {
        return Kindred::Rows;
    }
    if batch.iter().all(|(_, op)| *op == Op::Delete) {
        return Kindred::Cleaning;
    }
    Kindred::Log
}

fn away() -> StoreError {
    StoreError::NotReady {
        reason: "planted".into(),
    }
}

fn lost() -> StoreError {
    StoreError::backend("committing", "planted")
}

#[async_trait]
impl Store for Faulty {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        if self.is_away() {
            return Err(away());
        }
        self.inner.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Commit {
        let slow_ms = self.slow_ms.load(Ordering::Relaxed);
        if slow_ms > 0 && kindred(&batch) == Kindred::Rows {
            tokio::time::sleep(Duration::from_millis(self.entropy.random_u64() % slow_ms)).await;
        }
        if self.is_away() {
            return Commit::Refused(away());
        }
        match self.fate_of(&batch) {
            None => self.inner.commit(batch).await,
            Some(Fate::Hold) => {
                self.released.notified().await;
                self.inner.commit(batch).await
            }
            Some(Fate::Hang) => std::future::pending().await,
            Some(Fate::Refuse) => Commit::Refused(away()),
            Some(Fate::LoseAnswer) => {
                assert!(self.inner.commit(batch).await.is_committed());
                Commit::Unknown(lost())
            }
            Some(Fate::LoseCommit) => Commit::Unknown(lost()),
            Some(Fate::LastWord) => {
                assert!(self.inner.commit(batch).await.is_committed());
                self.is_away.store(true, Ordering::Relaxed);
                Commit::Unknown(lost())
            }
        }
    }

    fn readiness(&self) -> Readiness {
        if self.is_away() {
            return Readiness::NotReady {
                reason: away().to_string(),
            };
        }
        self.inner.readiness()
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.inner.epoch().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
