//! What all parts of an open store share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tikv_client::Transaction;
use tokio::sync::{RwLock, Semaphore, watch};
use whimbrel_store::{Epoch, Readiness, StoreError, Version};

use crate::TikvConfig;
use crate::limits::{PD_LOST_AFTER, READS_LOST_AFTER, SNAPSHOT_AGE_MAX};
use crate::pace::Pace;
use crate::pool::Pool;

pub(crate) struct Shared {
    pub(crate) config: TikvConfig,
    pub(crate) pool: Pool,
    pub(crate) epoch: Epoch,
    pub(crate) health: Health,
    pub(crate) snapshots: OpenSnapshots,
    pub(crate) pace: Mutex<Pace>,
    /// For who looks for others' locks.
    pub(crate) looks: Semaphore,
    /// Transactions of others that were pushed out of the way.
    pub(crate) pushed_out: Arc<AtomicU64>,
    /// Held for reading by commits under way; closing waits for it.
    pub(crate) commits: Arc<RwLock<()>>,
    /// True from the call of `close`.
    pub(crate) closed: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        if *self.closed.borrow() {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    /// One more commit took so long.
    pub(crate) fn note_commit(&self, took: Duration) {
        self.pace().note(Instant::now(), took);
    }

    /// How old a lock is to be before it is pushed out of the way.
    pub(crate) fn patience(&self) -> Duration {
        self.pace().patience(Instant::now())
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().expect("nothing panics while it holds this lock")
    }

    /// Open and, as far as is known, in touch with the cluster.
    pub(crate) fn check_ready(&self) -> Result<(), StoreError> {
        self.check_open()?;
        match self.health.readiness(&self.config.endpoints) {
            Readiness::NotReady { reason } => Err(StoreError::NotReady { reason }),
            _ => Ok(()),
        }
    }

    /// An error of a call to the cluster.
    pub(crate) fn backend(
        &self,
        action: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StoreError {
        StoreError::backend(
            format!(
                "{action} in TiKV by way of PD at {}",
                self.config.endpoints.join(", ")
            ),
            source,
        )
    }
}

/// When the cluster last answered. Kept in milliseconds since the store was opened.
pub(crate) struct Health {
    opened: Instant,
    timestamp_ms: AtomicU64,
    read_ms: AtomicU64,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            opened: Instant::now(),
            timestamp_ms: AtomicU64::new(0),
            read_ms: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn had_timestamp(&self) {
        self.timestamp_ms.fetch_max(self.now_ms(), Ordering::Relaxed);
    }

    pub(crate) fn had_read(&self) {
        self.read_ms.fetch_max(self.now_ms(), Ordering::Relaxed);
    }

    pub(crate) fn readiness(&self, endpoints: &[String]) -> Readiness {
        let since = |when: &AtomicU64| {
            Duration::from_millis(self.now_ms().saturating_sub(when.load(Ordering::Relaxed)))
        };
        let (timestamp, read) = (since(&self.timestamp_ms), since(&self.read_ms));
        let endpoints = endpoints.join(", ");
        if timestamp > PD_LOST_AFTER {
            return Readiness::NotReady {
                reason: format!("PD at {endpoints} has given no timestamp for {timestamp:.0?}"),
            };
        }
        if read > READS_LOST_AFTER {
            return Readiness::NotReady {
                reason: format!("the stores of PD at {endpoints} have answered no read for {read:.0?}"),
            };
        }
        Readiness::Ready
    }
}

/// The transactions with which batches at a living snapshot commit, by the snapshot's version. A transaction is identified
/// by its timestamp, so each serves one commit, and the snapshot brings several.
#[derive(Default)]
pub(crate) struct OpenSnapshots {
    by_version: Mutex<HashMap<u64, Brought>>,
}

struct Brought {
    taken: Instant,
    /// Oldest first.
    transactions: Vec<Transaction>,
}

impl OpenSnapshots {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Brought>> {
        self.by_version
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Remembers a snapshot; `transactions` come oldest first, none newer than `version`.
    pub(crate) fn add(&self, version: Version, transactions: Vec<Transaction>) {
        let brought = Brought {
            taken: Instant::now(),
            transactions,
        };
        self.lock().insert(version.as_raw(), brought);
    }

    /// The newest transaction that no commit had yet. `None` once the snapshot is dropped, too old or used up.
    pub(crate) fn take(&self, version: Version) -> Option<Transaction> {
        let mut snapshots = self.lock();
        let brought = snapshots.get_mut(&version.as_raw())?;
        if brought.taken.elapsed() > SNAPSHOT_AGE_MAX {
            return None;
        }
        brought.transactions.pop()
    }

    pub(crate) fn remove(&self, version: Version) {
        let removed = self.lock().remove(&version.as_raw());
        drop(removed);
    }
}
