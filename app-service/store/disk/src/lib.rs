//! What a machine may find on its disk after the power was cut.
//!
//! The recorder `whimbrel-powercut`, preloaded into a process, logs every write and sync of its files. A [`Disk`] that is
//! [loaded](Disk::load) from the files before, and to which the log's [`Record`]s are [applied](Disk::apply), knows what is
//! safe and what is not; [`Disk::crash`] writes what may be left. Part of tests and of developer commands only.
#![forbid(unsafe_code)]

mod disk;
mod record;

use std::fs::Permissions;
use std::path::{Path, PathBuf};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub use disk::{Disk, Loss};
pub use record::{Record, Records};

/// Why a record could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The log is not one of the recorder's.
    #[error("{} has at byte {at} what the recorder does not write: {what}", path.display())]
    BadLog {
        /// The log.
        path: PathBuf,
        /// Where the record begins.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The log speaks of what is not there: it is not of this disk, or something was not recorded.
    #[error("{what} is not on the disk: the log is of another one, or a call past libc was not recorded")]
    Missing {
        /// What.
        what: String,
    },
    /// Replayed whole, the log does not give the files that are there.
    #[error("the recorder missed something: {what}")]
    Missed {
        /// The first difference.
        what: String,
    },
}

impl DiskError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// A process's folder under the recorder, from one start to its end by a power cut.
///
/// The process is started with [`PowerCut::environment`] after [`PowerCut::begin`]; once it is dead, [`PowerCut::cut`]
/// makes of its folder what the machine would find.
#[derive(Debug)]
pub struct PowerCut {
    folder: PathBuf,
    log: PathBuf,
    /// As it was when the process was started.
    disk: Disk,
}

/// What a cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Records in the log.
    pub records: u64,
    /// Bytes that were written and had not been synced.
    pub unsynced_bytes: u64,
}

impl PowerCut {
    /// Takes note of what `folder` holds, all of it safe; the recorder will write to `log`, which must lie outside.
    ///
    /// # Errors
    /// When the folder cannot be made or read, or an old log cannot be removed.
    pub fn begin(folder: &Path, log: &Path) -> Result<Self, DiskError> {
        std::fs::create_dir_all(folder).map_err(DiskError::io(folder))?;
        if log.exists() {
            std::fs::remove_file(log).map_err(DiskError::io(log))?;
        }
        Ok(Self {
            // The recorder compares paths as the kernel knows them.
            folder: folder.canonicalize().map_err(DiskError::io(folder))?,
            log: log.to_owned(),
            disk: Disk::load(folder)?,
        })
    }

    /// What the process's environment needs; `recorder` is the library.
    #[must_use]
    pub fn environment(&self, recorder: &Path) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", recorder.to_owned()),
            ("WHIMBREL_POWERCUT_ROOT", self.folder.clone()),
            ("WHIMBREL_POWERCUT_LOG", self.log.clone()),
        ]
    }

    /// The process is dead: replaces its folder by what a power cut at that moment leaves.
    ///
    /// # Errors
    /// When the log does not give the files that are there, or they cannot be replaced.
    pub fn cut(mut self, loss: Loss, rng: &mut StdRng) -> Result<Lost, DiskError> {
        let (mut records, mut amid_call) = (0, false);
        for record in Records::open(&self.log)? {
            let record = record?;
            self.disk.apply(&record)?;
            records += 1;
            amid_call = record == Record::Begin;
        }
        // Of a call that was killed before its record nothing is known to be safe: it is lost with the power.
        if !amid_call && let Some(what) = self.disk.difference(&self.folder)? {
            return Err(DiskError::Missed { what });
        }
        let unsynced_bytes = self.disk.unsynced_bytes();
        let mut modes = Vec::new();
        note_modes(&self.folder, &mut modes)?;
        std::fs::remove_dir_all(&self.folder).map_err(DiskError::io(&self.folder))?;
        self.disk.crash(loss, rng, &self.folder)?;
        for (path, mode) in modes {
            if path.exists() {
                std::fs::set_permissions(&path, mode).map_err(DiskError::io(&path))?;
            }
        }
        std::fs::remove_file(&self.log).map_err(DiskError::io(&self.log))?;
        Ok(Lost {
            records,
            unsynced_bytes,
        })
    }
}

/// Who may read each file: secrets stay secret over a cut.
fn note_modes(folder: &Path, modes: &mut Vec<(PathBuf, Permissions)>) -> Result<(), DiskError> {
    for (_, path, is_folder) in disk::list(folder)? {
        let metadata = std::fs::metadata(&path).map_err(DiskError::io(&path))?;
        if is_folder {
            note_modes(&path, modes)?;
        }
        modes.push((path, metadata.permissions()));
    }
    Ok(())
}

/// Writes `disk` as the process saw it into the empty folder `into`.
///
/// # Errors
/// When it cannot be written.
pub fn write_as_seen(disk: &Disk, into: &Path) -> Result<(), DiskError> {
    disk.crash(Loss::Nothing, &mut StdRng::seed_from_u64(0), into)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A record without handle or number, as the recorder writes it.
    fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap();
        [&[kind][..], &[0; 12], &len.to_le_bytes(), bytes].concat()
    }

    /// A process made the folder `known` and then another, whose record is missing behind `last`.
    fn cut_after(last: &[u8]) -> (Result<Lost, DiskError>, tempfile::TempDir) {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, log) = (scratch.path().join("data"), scratch.path().join("log"));
        let cut = PowerCut::begin(&folder, &log).unwrap();
        for name in ["known", "unknown"] {
            std::fs::create_dir(folder.join(name)).unwrap();
        }
        std::fs::write(&log, [&record(9, b""), &record(7, b"known"), last].concat()).unwrap();
        (cut.cut(Loss::Nothing, &mut StdRng::seed_from_u64(1)), scratch)
    }

    #[test]
    fn what_the_recorder_missed_is_noticed() {
        let (lost, _scratch) = cut_after(b"");
        assert!(matches!(lost, Err(DiskError::Missed { .. })), "{lost:?}");
    }

    #[test]
    fn a_call_that_was_killed_before_its_record_is_lost_with_the_power() {
        let half_a_record = &record(7, b"unknown")[..20];
        for last in [record(9, b""), [&record(9, b""), half_a_record].concat()] {
            let (lost, scratch) = cut_after(&last);
            assert_eq!(lost.unwrap().records, 3);
            assert!(scratch.path().join("data/known").exists());
            assert!(!scratch.path().join("data/unknown").exists());
        }
    }
}
