//! The data folder: who may use it, what format it has, and how it comes to be.
//!
//! ```text
//! <folder>/lock             held while open; names the process
//! <folder>/current/format   text: format version and epoch
//! <folder>/current/durable  text: up to where the journal is known to be synced
//! <folder>/current/db/      fjall's own folder
//! <folder>/staging/         a store being made; removed when found
//! ```
//!
//! fjall cannot be opened after a power cut in the middle of its creation, and does not sync the folder that holds its
//! trees. So a new store is made in `staging`, closed, synced from the leaves up, and renamed: `current` is
//! either absent or whole.

use std::any::Any;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fjall::{CompressionType, Database, KeyspaceCreateOptions};

use super::engine::Handles;
use super::{FjallConfig, damage, journal};
use crate::Epoch;

/// The format that this version writes and reads.
///
/// 1: fjall 3 with one keyspace, `data`.
const FORMAT: u32 = 1;

const KEYSPACE: &str = "data";

/// Why a data folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data folder {folder} is in use by {holder}; stop that process or choose another folder")]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// What the lock file says of the other process.
        holder: String,
    },
    /// It was written by a newer version.
    #[error(
        "the data folder {folder} has format {found}, this version knows formats up to {supported}; run the version that wrote it or a newer one"
    )]
    NewerFormat {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that can be read.
        supported: u32,
    },
    /// What it holds is damaged, or is no store.
    #[error(
        "the store at {folder} cannot be read: {detail}; restore a backup, or move the folder away to begin empty"
    )]
    Corrupt {
        /// The data folder.
        folder: PathBuf,
        /// What is wrong, and with which file as far as is known.
        detail: String,
    },
    /// The file system failed.
    #[error("{action} {path} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A setting is out of range.
    #[error("{name} is {value}; it must be at least {min}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Its minimum.
        min: u64,
    },
    /// The committer's thread could not be started.
    #[error("starting the committer's thread failed: {source}")]
    Thread {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Of the engine's error while it opened the database in `db`, in the data folder `root`. What the system refuses for
    /// other reasons than what the files are is told as it is; everything else is damage.
    fn engine(root: &Path, db: &Path, error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source))
                if !damage::is_of_files(&source) =>
            {
                Self::io("opening the database in", db, source)
            }
            fjall::Error::Locked => Self::InUse {
                folder: root.to_path_buf(),
                holder: "a process that opened the database directly".to_owned(),
            },
            error => Self::Corrupt {
                folder: root.to_path_buf(),
                detail: damage::describe(db, &error.to_string()),
            },
        }
    }
}

/// A locked data folder with a whole store in it.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    epoch: Epoch,
    lock: File,
}

/// Whether a store was ever made in this folder.
pub(super) fn exists(root: &Path) -> bool {
    root.join("current/format").exists()
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A child that another thread has forked and that has not begun its program yet holds the same lock: closed here, it would
        // outlast this. What fails to be unlocked is closed with the file.
        let _ = self.lock.unlock();
    }
}

impl Folder {
    /// Locks the folder, makes a store in it if there is none, and checks its format.
    pub(super) fn open(config: &FjallConfig, fresh_epoch: Epoch) -> Result<Self, OpenError> {
        let root = config.folder.clone();
        fs::create_dir_all(&root).map_err(|e| OpenError::io("creating", &root, e))?;
        let lock = lock(&root)?;
        let current = root.join("current");
        let exists = current
            .try_exists()
            .map_err(|e| OpenError::io("looking at", &current, e))?;
        if !exists {
            create(&root, config, fresh_epoch)?;
        }
        let epoch = read_format(&root)?;
        Ok(Self { root, epoch, lock })
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Opens the database, after mending its journal.
    pub(super) fn open_engine(&self, config: &FjallConfig) -> Result<Handles, OpenError> {
        let (root, path) = (&self.root, self.root.join("current/db"));
        damage::check(root, &path)?;
        let mended = journal::mend(root, &path)?;
        if let Err(error) = mended.note(&path) {
            // A full disk is still read from; the note before is a lower bound as well.
            tracing::warn!(%error, "how far the journal is synced could not be noted: the note before stands");
        }
        let db = open_database(root, &path, config)?;
        if !db.keyspace_exists(KEYSPACE) {
            let missing = format!("the keyspace {KEYSPACE:?} is missing");
            return Err(OpenError::Corrupt {
                folder: root.clone(),
                detail: damage::describe(&path, &missing),
            });
        }
        let data = db
            .keyspace(KEYSPACE, || keyspace_options(config))
            .map_err(|e| OpenError::engine(root, &path, e))?;
        let handles = Handles { db, data };
        mended.check_tables(root, handles.persisted_seqno())?;
        Ok(handles)
    }

    /// Notes how far the journal of the database is synced, once that was closed after nothing but successful writes.
    pub(super) fn note_end(&self) -> Result<(), OpenError> {
        journal::note_end(&self.root.join("current/db"))
    }

    /// Bytes that an unprivileged process may still write to the folder's file system.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join("lock");
    let io = |error| OpenError::io("locking", &path, error);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(io(error)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the message; a process id has at most ten digits.
            let known = Read::by_ref(&mut file)
                .take(32)
                .read_to_string(&mut holder)
                .is_ok()
                && !holder.trim().is_empty();
            let holder = if known {
                format!("process {}", holder.trim())
            } else {
                "another process".to_owned()
            };
            return Err(OpenError::InUse {
                folder: root.to_path_buf(),
                holder,
            });
        }
    }
    file.set_len(0).map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

fn create(root: &Path, config: &FjallConfig, epoch: Epoch) -> Result<(), OpenError> {
    let staging = root.join("staging");
    match fs::remove_dir_all(&staging) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(OpenError::io("removing", &staging, error)),
    }
    let db_path = staging.join("db");
    fs::create_dir_all(&db_path).map_err(|e| OpenError::io("creating", &db_path, e))?;
    let db = open_database(root, &db_path, config)?;
    db.keyspace(KEYSPACE, || keyspace_options(config))
        .map_err(|e| OpenError::engine(root, &db_path, e))?;
    drop(db);
    // From now on a journal without a whole batch, and a store without a note of its journal, are damaged.
    journal::mend(root, &db_path)?.note(&db_path)?;

    let format = staging.join("format");
    let text = format!(
        "whimbrel-store {FORMAT}\nepoch {:032x}\n",
        u128::from_be_bytes(epoch.0)
    );
    fs::write(&format, text).map_err(|e| OpenError::io("writing", &format, e))?;

    sync_tree(&staging)?;
    let current = root.join("current");
    fs::rename(&staging, &current).map_err(|e| OpenError::io("renaming", &staging, e))?;
    sync(root)?;
    // The root itself may be new as well.
    match root.canonicalize().ok().as_deref().and_then(Path::parent) {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// Syncs every file and folder in `folder`, leaves first, then the folder.
fn sync_tree(folder: &Path) -> Result<(), OpenError> {
    let listing = |e| OpenError::io("listing", folder, e);
    for entry in fs::read_dir(folder).map_err(listing)? {
        let entry = entry.map_err(listing)?;
        if entry.file_type().map_err(listing)?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync(&entry.path())?;
        }
    }
    sync(folder)
}

pub(super) fn sync(path: &Path) -> Result<(), OpenError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| OpenError::io("syncing", path, e))
}

fn read_format(root: &Path) -> Result<Epoch, OpenError> {
    let path = root.join("current/format");
    let corrupt = |detail: String| OpenError::Corrupt {
        folder: root.to_path_buf(),
        detail,
    };
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(256).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(corrupt("current/format is missing".to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(corrupt("current/format is not text".to_owned()));
        }
        Err(error) => return Err(OpenError::io("reading", &path, error)),
    }
    let bad = || corrupt(format!("current/format says {text:?}"));
    let mut lines = text.lines();
    let found: u32 = lines
        .next()
        .and_then(|line| line.strip_prefix("whimbrel-store ")?.parse().ok())
        .ok_or_else(bad)?;
    if found > FORMAT {
        return Err(OpenError::NewerFormat {
            folder: root.to_path_buf(),
            found,
            supported: FORMAT,
        });
    }
    let epoch = lines
        .next()
        .and_then(|line| line.strip_prefix("epoch "))
        .filter(|hex| found == FORMAT && hex.len() == 32)
        .and_then(|hex| u128::from_str_radix(hex, 16).ok())
        .ok_or_else(bad)?;
    Ok(Epoch(epoch.to_be_bytes()))
}

fn open_database(root: &Path, path: &Path, config: &FjallConfig) -> Result<Database, OpenError> {
    // With two workers fjall keeps one of them spinning while the other compacts.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if cores < 4 { 1 } else { 2 };
    let builder = Database::builder(path)
        .cache_size(config.cache_bytes)
        .max_journaling_size(config.journal_bytes)
        // Compressing on the commit path costs more than the bytes it saves.
        .journal_compression(CompressionType::None)
        .worker_threads(workers);
    // fjall asserts where files are not as it left them.
    match catch_unwind(AssertUnwindSafe(|| builder.open())) {
        Ok(opened) => opened.map_err(|e| OpenError::engine(root, path, e)),
        Err(panic) => Err(OpenError::Corrupt {
            folder: root.to_path_buf(),
            detail: damage::describe(path, panic_message(&*panic)),
        }),
    }
}

fn keyspace_options(config: &FjallConfig) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(config.memtable_bytes)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the database engine panicked")
}
