//! The store itself.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::task::JoinHandle;
use whimbrel_store::{Batch, Commit, Epoch, Grouping, Readiness, Snapshot, Store, StoreError};

use crate::collector::{self, CollectError, Collected};
use crate::opening::{self, OpenError};
use crate::shared::{Health, OpenSnapshots, Shared};
use crate::snapshot::TikvSnapshot;
use crate::{TikvConfig, commit, keeper, limits};

/// A [`Store`] over TiKV.
///
/// # Order of calls
/// As [`Store`] says. It runs on the tokio runtime that it was opened on. Dropped without [`close`](Store::close) it stops
/// looking after itself at once, and commits under way end by themselves.
pub struct TikvStore {
    shared: Arc<Shared>,
    holder: [u8; 16],
    cluster: u64,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl TikvStore {
    /// Connects to the cluster that `config` names. If it is nobody's yet, it becomes this deployment's with `epoch`.
    ///
    /// # Errors
    /// [`OpenError`]: the cluster does not answer in time, is another's, or has a newer schema.
    pub async fn open(config: TikvConfig, epoch: Epoch) -> Result<Self, OpenError> {
        let opened = opening::open(&config, epoch).await?;
        tracing::info!(
            endpoints = config.endpoints.join(", "),
            cluster = opened.cluster,
            "TiKV answers"
        );
        let shared = Arc::new(Shared {
            config,
            pool: opened.pool,
            epoch: opened.epoch,
            health: Health::new(),
            snapshots: OpenSnapshots::default(),
            pace: Mutex::default(),
            looks: Semaphore::new(limits::LOOKS_AT_ONCE),
            pushed_out: Arc::default(),
            commits: Arc::new(RwLock::new(())),
            closed: watch::Sender::new(false),
        });
        let holder = rand::random();
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&shared), holder));
        Ok(Self {
            shared,
            holder,
            cluster: opened.cluster,
            keeper: Mutex::new(Some(keeper)),
        })
    }

    /// The id of the PD cluster.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Before every key of the store's own.
    #[must_use]
    pub fn own_prefix(&self) -> bytes::Bytes {
        self.shared.config.own_prefix.clone()
    }

    /// How many transactions of others this store has pushed out of the way since it was opened, because their locks stood
    /// there for longer than commits take.
    #[must_use]
    pub fn locks_pushed_out(&self) -> u64 {
        self.shared.pushed_out.load(Ordering::Relaxed)
    }

    /// One round of garbage collection now, if this node has or gets the lease: for operators and tests, since the store
    /// does it by itself.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn collect_garbage(&self, keep: std::time::Duration) -> Result<Collected, CollectError> {
        self.shared.check_open()?;
        collector::collect(&self.shared, self.holder, keep).await
    }
}

impl Drop for TikvStore {
    fn drop(&mut self) {
        self.shared.closed.send_replace(true);
    }
}

#[async_trait]
impl Store for TikvStore {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.shared.check_ready()?;
        Ok(Arc::new(TikvSnapshot::take(&self.shared).await?))
    }

    async fn long_snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.shared.check_ready()?;
        Ok(Arc::new(TikvSnapshot::take_and_hold(&self.shared).await?))
    }

    async fn commit(&self, batch: Batch) -> Commit {
        if let Err(error) = batch.check() {
            return Commit::Refused(error);
        }
        let under_way = Arc::clone(&self.shared.commits).read_owned().await;
        if let Err(error) = self.shared.check_ready() {
            return Commit::Refused(error);
        }
        if batch.is_empty() {
            return Commit::Committed;
        }
        let shared = Arc::clone(&self.shared);
        // A caller who goes away leaves no half-taken locks behind.
        let committing = tokio::spawn(async move {
            let _under_way = under_way;
            commit::run(&shared, batch).await
        });
        committing
            .await
            .unwrap_or_else(|error| Commit::Unknown(self.shared.backend("committing", error)))
    }

    fn readiness(&self) -> Readiness {
        match self.shared.check_ready() {
            Ok(()) => Readiness::Ready,
            Err(StoreError::NotReady { reason }) => Readiness::NotReady { reason },
            Err(error) => Readiness::NotReady {
                reason: error.to_string(),
            },
        }
    }

    fn grouping(&self) -> Grouping {
        limits::GROUPING
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.shared.check_open()?;
        Ok(self.shared.epoch)
    }

    async fn close(&self) {
        self.shared.closed.send_replace(true);
        // Waits for those that came before.
        drop(self.shared.commits.write().await);
        let keeper = self
            .keeper
            .lock()
            .expect("nothing panics while it holds this lock")
            .take();
        if let Some(keeper) = keeper
            && let Err(error) = keeper.await
        {
            tracing::error!(%error, "the keeper of the store over TiKV failed");
        }
    }
}
