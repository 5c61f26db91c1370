//! Writing: one process's share of a run.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use whimbrel_protocol::bucket::city_hash;

use super::codec::encode;
use super::{COMMON, LedgerError, PARTS, part_name};
use crate::check::Event;

/// Bytes held back per file, so that the disk is asked rarely: 64 files of these are 4 MiB.
const BUFFER_LEN: usize = 64 * 1024;

/// Writes a process's events. See the module.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    common: BufWriter<File>,
    parts: Vec<BufWriter<File>>,
    scratch: Vec<u8>,
    /// The first error; nothing is written after it, and the run cannot be judged.
    failed: Option<LedgerError>,
}

impl Writer {
    /// A process's share in the run's folder; `process` tells it from the others'.
    ///
    /// # Errors
    /// When there is one already, or it cannot be made.
    pub fn create(run: &Path, process: u32) -> Result<Self, LedgerError> {
        let folder = run.join(format!("process-{process}"));
        if folder.exists() {
            return Err(LedgerError::Used { path: folder });
        }
        fs::create_dir_all(&folder).map_err(LedgerError::io(&folder))?;
        let file = |name: &str| {
            let path = folder.join(name);
            let file = File::create_new(&path).map_err(LedgerError::io(&path))?;
            Ok(BufWriter::with_capacity(BUFFER_LEN, file))
        };
        Ok(Self {
            common: file(COMMON)?,
            parts: (0..PARTS)
                .map(|part| file(&part_name(part)))
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
        let file = match event.conversation() {
            None => &mut self.common,
            Some(id) => {
                let hash = city_hash(id.as_bytes()) % PARTS as u64;
                let part = usize::try_from(hash).expect("less than the number of parts");
                self.parts.get_mut(part).expect("there is one for each remainder")
            }
        };
        let len = u32::try_from(self.scratch.len()).expect("an event is a few bytes, or a group's members");
        let written = file
            .write_all(&len.to_le_bytes())
            .and_then(|()| file.write_all(&self.scratch));
        if let Err(error) = written {
            self.failed = Some(LedgerError::io(&self.folder)(error));
        }
    }

    /// Everything is written.
    ///
    /// # Errors
    /// When it, or anything before, could not be.
    pub fn finish(mut self) -> Result<(), LedgerError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        for file in self.parts.iter_mut().chain([&mut self.common]) {
            file.flush().map_err(LedgerError::io(&self.folder))?;
        }
        Ok(())
    }
}
