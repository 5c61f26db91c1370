//! The recorder's log, read back. The format is documented in `whimbrel-powercut`.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::DiskError;

/// One thing that the process under test did. Paths are relative to the recorded folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A file or folder was opened.
    Open {
        /// Names it from now on.
        handle: u32,
        /// Which.
        path: String,
        /// It may not have been there.
        creates: bool,
        /// It is emptied.
        truncates: bool,
    },
    /// Bytes were written.
    Write {
        /// To which file.
        handle: u32,
        /// From this byte on.
        offset: u64,
        /// These.
        data: Vec<u8>,
    },
    /// Everything of it so far is safe.
    Sync {
        /// Of which file or folder.
        handle: u32,
    },
    /// A file was made shorter or longer.
    SetLen {
        /// Which.
        handle: u32,
        /// Its length now, bytes.
        len: u64,
    },
    /// A name was changed, or moved to another folder.
    Rename {
        /// The name before.
        from: String,
        /// The name after.
        to: String,
    },
    /// A file's name was removed.
    RemoveFile {
        /// Which.
        path: String,
    },
    /// A folder was made.
    MakeFolder {
        /// Which.
        path: String,
    },
    /// A folder was removed.
    RemoveFolder {
        /// Which.
        path: String,
    },
    /// A call begins: its record follows, unless it fails or the process ends within it.
    Begin,
}

/// Bytes of a record before its own bytes.
const HEAD_LEN: usize = 17;

/// The records of a log, in order. A last one that was cut off is left out.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    log: BufReader<File>,
    at: u64,
}

impl Records {
    /// From the log's beginning.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let log = File::open(path).map_err(DiskError::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            log: BufReader::with_capacity(1 << 20, log),
            at: 0,
        })
    }

    fn read(&mut self) -> Result<Option<Record>, DiskError> {
        let mut head = [0; HEAD_LEN];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let [kind, handle @ .., _, _, _, _, _, _, _, _, _, _, _, _] = head;
        let [_, _, _, _, _, number @ .., _, _, _, _] = head;
        let [.., len_0, len_1, len_2, len_3] = head;
        let (handle, number) = (u32::from_le_bytes(handle), u64::from_le_bytes(number));
        let len = u32::from_le_bytes([len_0, len_1, len_2, len_3]);
        let mut data = vec![0; len as usize];
        if !self.fill(&mut data)? {
            return Ok(None);
        }
        let (path, at) = (&self.path, self.at);
        let bad = |what| DiskError::BadLog {
            path: path.clone(),
            at,
            what,
        };
        let text = |data| String::from_utf8(data).map_err(|_| bad("a path that is not UTF-8"));
        let record = match kind {
            1 => Record::Open {
                handle,
                path: text(data)?,
                creates: number & 1 != 0,
                truncates: number & 2 != 0,
            },
            2 => Record::Write {
                handle,
                offset: number,
                data,
            },
            3 => Record::Sync { handle },
            4 => Record::SetLen { handle, len: number },
            5 => {
                let both = text(data)?;
                let (from, to) = both.split_once('\0').ok_or_else(|| bad("a rename of one path"))?;
                Record::Rename {
                    from: from.to_owned(),
                    to: to.to_owned(),
                }
            }
            6 => Record::RemoveFile { path: text(data)? },
            7 => Record::MakeFolder { path: text(data)? },
            8 => Record::RemoveFolder { path: text(data)? },
            9 => Record::Begin,
            _ => return Err(bad("a record of an unknown kind")),
        };
        self.at += HEAD_LEN as u64 + u64::from(len);
        Ok(Some(record))
    }

    /// Whether there was enough left.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool, DiskError> {
        match self.log.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(DiskError::io(&self.path)(error)),
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record, DiskError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
