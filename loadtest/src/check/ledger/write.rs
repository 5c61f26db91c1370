//! Writing: one process's share of a run.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use whimbrel_protocol::bucket::city_hash;

use super::codec::{End, encode, encode_end};
use super::{COMMON, LedgerError, PARTS, part_name, process_name};
use crate::check::Event;
use crate::schedule::Share;

/// Bytes held back per file, so that the disk is asked rarely: 64 files of these are 4 MiB.
const BUFFER_LEN: usize = 64 * 1024;

/// Writes a process's events. See the module.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    processes: u32,
    common: Output,
    parts: Vec<Output>,
    scratch: Vec<u8>,
    /// The first error; nothing is written after it, and the run cannot be judged.
    failed: Option<LedgerError>,
}

/// A file, and the events in it.
#[derive(Debug)]
struct Output {
    file: BufWriter<File>,
    events: u64,
}

impl Output {
    fn create(path: &Path) -> Result<Self, LedgerError> {
        let file = File::create_new(path).map_err(LedgerError::io(path))?;
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER_LEN, file),
            events: 0,
        })
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let len = u32::try_from(record.len()).expect("an event is a few bytes, or a group's members");
        self.file.write_all(&len.to_le_bytes())?;
        self.file.write_all(record)
    }
}

impl Writer {
    /// A process's share in the run's folder.
    ///
    /// # Errors
    /// When there is one already, or it cannot be made.
    pub fn create(run: &Path, share: Share) -> Result<Self, LedgerError> {
        let folder = run.join(process_name(share.index));
        if folder.exists() {
            return Err(LedgerError::Used { path: folder });
        }
        fs::create_dir_all(&folder).map_err(LedgerError::io(&folder))?;
        Ok(Self {
            processes: share.of,
            common: Output::create(&folder.join(COMMON))?,
            parts: (0..PARTS)
                .map(|part| Output::create(&folder.join(part_name(part))))
                .collect::<Result<_, _>>()?,
            folder,
            scratch: Vec::new(),
            failed: None,
        })
    }

    /// Writes what happened next. An error shows in [`Writer::finish`].
    pub fn note(&mut self, event: &Event) {
        if self.failed.is_some() {
            return;
        }
        self.scratch.clear();
        encode(event, &mut self.scratch);
        let output = match event.conversation() {
            None => &mut self.common,
            Some(id) => {
                let hash = city_hash(id.as_bytes()) % PARTS as u64;
                let part = usize::try_from(hash).expect("less than the number of parts");
                self.parts.get_mut(part).expect("there is one for each remainder")
            }
        };
        output.events += 1;
        if let Err(error) = output.write(&self.scratch) {
            self.failed = Some(LedgerError::io(&self.folder)(error));
        }
    }

    /// Everything is written: each file gets its end.
    ///
    /// # Errors
    /// When it, or anything before, could not be.
    pub fn finish(mut self) -> Result<(), LedgerError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        for output in self.parts.iter_mut().chain([&mut self.common]) {
            let end = End {
                events: output.events,
                processes: self.processes,
            };
            self.scratch.clear();
            encode_end(end, &mut self.scratch);
            let written = output.write(&self.scratch);
            written
                .and_then(|()| output.file.flush())
                .map_err(LedgerError::io(&self.folder))?;
        }
        Ok(())
    }
}
