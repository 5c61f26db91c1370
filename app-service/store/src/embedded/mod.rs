//! The embedded backend: fjall, a log-structured merge tree, in one folder on one machine.
//!
//! One thread, the committer, owns all writes. It takes every batch that waits, checks them one after the
//! other, writes those that pass as one journal batch, calls `fdatasync` once, and answers them all. What a
//! snapshot shows moves forward only after that sync, so nothing that anybody ever read can be lost by a
//! power cut.
//!
//! ```text
//! commit() -> bounded queue -> committer thread -> journal, fdatasync -> memtable -> visible view
//! snapshot() ------------------------------------------------------------------------^
//! ```
//!
//! Any error while writing poisons the handle. The group's answer is `Unknown`, the store says that it is not
//! ready, open snapshots say that they are gone, and the committer closes and reopens the folder with growing
//! pauses until that works. An error while reading is that read's error alone.
//!
//! fjall is used for little: one keyspace, write batches, snapshots, point reads and ranges. Never its
//! `clear`, key-value separation, ingestion, direct reads (they see half a batch) or write transactions.
//!
//! | module | what |
//! |---|---|
//! | [`folder`] | layout, lock, format marker, creation that is atomic under power cuts |
//! | [`journal`] | the journal's tail: torn is cut off, damaged or missing is an error |
//! | [`durable`] | a note of how far the journal is known to be synced |
//! | [`damage`] | which of the engine's files is damaged |
//! | [`engine`] | the fjall handle, and snapshots over it |
//! | [`committer`] | the thread |

mod committer;
mod damage;
mod durable;
mod engine;
#[cfg(test)]
mod failing;
mod folder;
mod journal;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::thread;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use crate::snapshots::LiveSnapshots;
use crate::{Batch, Commit, Epoch, Readiness, Snapshot, Store, StoreError};
use committer::{Committer, Message, Request};
use engine::{EngineSlot, FjallSnapshot, View};
pub use folder::OpenError;

/// Bytes of batches that may wait for the committer, in KiB so that they can be counted in semaphore
/// permits: eight of the largest groups. Further callers of `commit` wait.
const QUEUE_KIB_MAX: usize = 64 * 1024;

/// What a fjall store is opened with.
#[derive(Debug, Clone)]
pub struct FjallConfig {
    /// The folder that holds everything; created when missing. One process at a time.
    pub folder: PathBuf,
    /// Bytes of the block cache. Default 64 MiB.
    pub cache_bytes: u64,
    /// Bytes of the tree in memory before it is written out as a table; up to four of them exist at a time.
    /// Default 32 MiB, at least 64 KiB.
    pub memtable_bytes: u64,
    /// Bytes of sealed journals at which their memtables are written out early. Default 256 MiB, at least
    /// 64 MiB.
    pub journal_bytes: u64,
    /// Free space kept back: with less than this free, in bytes, writes are refused and reads go on. Default
    /// 512 MiB: the journals, four memtables on their way to disk, and one compaction.
    pub min_free_bytes: u64,
    /// Faults for tests.
    #[cfg(any(test, feature = "planted-faults"))]
    pub planted: PlantedFaults,
}

/// Faults that tests plant to prove that they would be noticed. Clones share the counters.
#[cfg(any(test, feature = "planted-faults"))]
#[derive(Debug, Clone, Default)]
pub struct PlantedFaults {
    /// Answer commits without the fsync.
    pub no_fsync: bool,
    /// This many next groups fail as on a broken disk, before anything is written.
    pub fail_groups: Arc<std::sync::atomic::AtomicU32>,
    /// This many next attempts to reopen fail.
    pub fail_reopens: Arc<std::sync::atomic::AtomicU32>,
}

/// Smallest journal bound that fjall accepts.
const JOURNAL_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Smallest memtable worth a table.
const MEMTABLE_BYTES_MIN: u64 = 64 * 1024;

impl FjallConfig {
    /// The defaults, in `folder`.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            cache_bytes: 64 * 1024 * 1024,
            memtable_bytes: 32 * 1024 * 1024,
            journal_bytes: 256 * 1024 * 1024,
            min_free_bytes: 512 * 1024 * 1024,
            #[cfg(any(test, feature = "planted-faults"))]
            planted: PlantedFaults::default(),
        }
    }

    fn check(&self) -> Result<(), OpenError> {
        for (name, value, min) in [
            ("journal_bytes", self.journal_bytes, JOURNAL_BYTES_MIN),
            ("memtable_bytes", self.memtable_bytes, MEMTABLE_BYTES_MIN),
        ] {
            if value < min {
                return Err(OpenError::Setting { name, value, min });
            }
        }
        Ok(())
    }
}

/// A store in a folder on this machine. Clones share it. Call [`Store::close`] before the process ends or the
/// folder is opened again; dropping the last handle closes it a moment later.
#[derive(Debug, Clone)]
pub struct FjallStore {
    shared: Arc<Shared>,
    /// Counts nothing itself: a batch has its permits of [`QUEUE_KIB_MAX`] before it is put here.
    queue: mpsc::Sender<Message>,
}

/// What the committer and the callers both see.
#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    /// Why writes are refused at the moment, though reads are served.
    writes_refused: Mutex<Option<StoreError>>,
    live: LiveSnapshots,
    epoch: Epoch,
    /// Permits are KiB of batches.
    queue_room: Arc<Semaphore>,
}

#[derive(Debug)]
enum State {
    Serving(View),
    Down { reason: String },
    Closed,
}

impl FjallStore {
    /// Whether there is a store in `folder`: opening it would make none.
    #[must_use]
    pub fn exists(folder: &std::path::Path) -> bool {
        folder::exists(folder)
    }

    /// Opens the store in `config.folder`, or makes a new one with the epoch `fresh_epoch` (random bytes; unused
    /// when there is a store already). Blocks on the disk, for longer the more journal there is to replay.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: FjallConfig, fresh_epoch: Epoch) -> Result<Self, OpenError> {
        #[cfg(any(test, feature = "planted-faults"))]
        tracing::warn!("whimbrel-store was built with planted faults");
        config.check()?;
        let folder = folder::Folder::open(&config, fresh_epoch)?;
        let handles = folder.open_engine(&config)?;
        let engine = EngineSlot::new(handles);
        let live = LiveSnapshots::default();
        let view = View::newest(&engine, 0).map_err(|error| OpenError::Corrupt {
            folder: config.folder.clone(),
            detail: error.to_string(),
        })?;
        let shared = Arc::new(Shared {
            state: RwLock::new(State::Serving(view.clone())),
            writes_refused: Mutex::new(None),
            live,
            epoch: folder.epoch(),
            queue_room: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
        });
        let (queue, waiting) = mpsc::channel();
        let committer = Committer::new(Arc::clone(&shared), waiting, folder, config, engine, view);
        thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || committer.run())
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Self { shared, queue })
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while holding this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state
            .write()
            .expect("nothing panics while holding this lock")
    }

    fn writes_refused(&self) -> Option<StoreError> {
        self.writes_refused
            .lock()
            .expect("nothing panics while holding this lock")
            .clone()
    }

    fn set_writes_refused(&self, error: Option<StoreError>) {
        *self
            .writes_refused
            .lock()
            .expect("nothing panics while holding this lock") = error;
    }
}

#[async_trait]
impl Store for FjallStore {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        match &*self.shared.read() {
            State::Serving(view) => {
                // Pinned under the lock, so that the committer cannot forget this version's writes in between.
                let pin = self.shared.live.pin(view.version);
                Ok(Arc::new(FjallSnapshot::new(view.clone(), pin)))
            }
            State::Down { reason } => Err(StoreError::NotReady {
                reason: reason.clone(),
            }),
            State::Closed => Err(StoreError::Closed),
        }
    }

    async fn commit(&self, batch: Batch) -> Commit {
        if let Err(error) = batch.check() {
            return Commit::Refused(error);
        }
        let kib = u32::try_from(batch.bytes() / 1024 + 1).expect("a checked batch is at most 8 MiB");
        let Ok(room) = Arc::clone(&self.shared.queue_room).acquire_many_owned(kib).await else {
            return Commit::Refused(StoreError::Closed);
        };
        let (answer, answered) = oneshot::channel();
        let request = Request {
            batch,
            answer,
            _room: room,
        };
        // Both errors mean that the committer ended without looking at the batch: it ends only by closing, for its
        // panic ends the process.
        if self.queue.send(Message::Commit(request)).is_err() {
            return Commit::Refused(StoreError::Closed);
        }
        answered.await.unwrap_or(Commit::Refused(StoreError::Closed))
    }

    fn readiness(&self) -> Readiness {
        match &*self.shared.read() {
            State::Serving(_) => match self.shared.writes_refused() {
                None => Readiness::Ready,
                Some(error) => Readiness::WritesRefused {
                    reason: error.to_string(),
                },
            },
            State::Down { reason } => Readiness::NotReady {
                reason: reason.clone(),
            },
            State::Closed => Readiness::NotReady {
                reason: StoreError::Closed.to_string(),
            },
        }
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        match &*self.shared.read() {
            State::Closed => Err(StoreError::Closed),
            State::Serving(_) | State::Down { .. } => Ok(self.shared.epoch),
        }
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).is_ok() {
            // An error means that it closed before it came to this message.
            _ = closed.await;
        }
    }
}
