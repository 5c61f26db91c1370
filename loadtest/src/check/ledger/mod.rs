//! The account of a run on disk, outside the server: what the load generator writes while it runs, and how it is read back.
//!
//! Each process of a run writes into a folder of its own, and there by conversation into one of [`PARTS`] files: what
//! happened in a conversation is always in the files of one number. At the end one number after the other is read whole and
//! judged, so that memory holds a part of the run and time is linear in it. What every part must know (devices, sessions) is
//! in a file of its own.
//!
//! The files are buffered and serve the run that writes them: they are whole once [`Writer::finish`] has returned. Its mark is the
//! last record of each, which says how many events are before it and how many processes the run had. Without it, or with another
//! number, nothing is judged: what is missing from a ledger would be missing from the account.

mod codec;
mod read;
mod write;

use std::path::{Path, PathBuf};

pub use read::{Report, judge, judge_unless};
pub use write::Writer;

/// Files that conversations are spread over: of six million messages to pairs, a part is some 400,000 events and 100 MB while
/// it is judged.
pub const PARTS: usize = 64;

/// Why a ledger cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file or folder of it.
    #[error("the ledger's {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is one already.
    #[error("the ledger's folder {} is of another run: name one that does not exist, or remove it", path.display())]
    Used {
        /// The folder.
        path: PathBuf,
    },
    /// A file does not go on to its end.
    #[error(
        "the ledger's {} has no end: its run was stopped before it had finished, or the file was cut. \
         Only a run that went to its end can be judged: judge a whole copy, or make the run again",
        path.display()
    )]
    NoEnd {
        /// The file.
        path: PathBuf,
    },
    /// A file, or the folder of a process that there was.
    #[error("the ledger's {} is missing: judge a whole copy, or make the run again", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// Whoever asked does not wait for the answer any more.
    #[error("the ledger was not judged to the end: a signal came")]
    Stopped,
    /// Nothing was ever written.
    #[error(
        "the ledger in {} holds nothing to judge: name the folder that the run's --ledger named",
        path.display()
    )]
    Empty {
        /// The run's folder.
        path: PathBuf,
    },
    /// A file holds what was never written.
    #[error(
        "the ledger's {} is damaged at byte {at}: {what}. Judge a whole copy, or make the run again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl LedgerError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// The file of what every part must know.
const COMMON: &str = "common";

/// Before the number of the process whose folder it is.
const PROCESS: &str = "process-";

fn process_name(process: u32) -> String {
    format!("{PROCESS}{process}")
}

fn part_name(part: usize) -> String {
    format!("part-{part:02}")
}
