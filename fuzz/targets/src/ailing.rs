//! The store in memory, whose health a script decides.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use whimbrel_store::{Batch, Commit, Epoch, MemoryStore, Readiness, Snapshot, Store, StoreError};

/// How a store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It reads and writes.
    #[default]
    Well,
    /// Its disk is nearly full: it reads only.
    Full,
    /// It does nothing, and says so.
    Gone,
    /// It does nothing, and says that it is well.
    Silent,
    /// It says that it is well, and each commit comes to an end that nobody learns of; none is applied.
    LosesCommits,
    /// The same, and each is applied.
    LosesAnswers,
}

/// A store of that health. Clones share.
#[derive(Clone)]
pub(crate) struct Ailing {
    inner: Arc<MemoryStore>,
    health: Arc<Mutex<Health>>,
}

impl Ailing {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            inner: Arc::new(MemoryStore::new(epoch)),
            health: Arc::default(),
        }
    }

    pub(crate) fn health(&self) -> Health {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn be(&self, health: Health) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }
}

fn gone() -> StoreError {
    StoreError::NotReady {
        reason: "the script has it gone".to_owned(),
    }
}

fn full() -> StoreError {
    StoreError::OutOfSpace {
        place: "memory".to_owned(),
        free_bytes: 1,
        min_free_bytes: 2,
    }
}

fn lost() -> StoreError {
    StoreError::backend("committing", "the answer was lost")
}

#[async_trait]
impl Store for Ailing {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        match self.health() {
            Health::Gone | Health::Silent => Err(gone()),
            _ => self.inner.snapshot().await,
        }
    }

    async fn commit(&self, batch: Batch) -> Commit {
        match self.health() {
            Health::Well => self.inner.commit(batch).await,
            Health::Full => Commit::Refused(full()),
            Health::Gone | Health::Silent => Commit::Refused(gone()),
            Health::LosesCommits => Commit::Unknown(lost()),
            Health::LosesAnswers => match self.inner.commit(batch).await {
                Commit::Committed => Commit::Unknown(lost()),
                other => other,
            },
        }
    }

    fn readiness(&self) -> Readiness {
        match self.health() {
            Health::Gone => Readiness::NotReady {
                reason: gone().to_string(),
            },
            Health::Full => Readiness::WritesRefused {
                reason: full().to_string(),
            },
            _ => self.inner.readiness(),
        }
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.inner.epoch().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
