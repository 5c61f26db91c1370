//! A note of how far the journal is known to be synced: the file `durable` beside the database.
//!
//! ```text
//! journal 3 end 1234567
//! ```
//!
//! Whole batches up to that byte of that journal are on disk. It is written whenever the store was opened and closed, never on the
//! way of a commit: a lower bound, by which a journal that was emptied or cut short is told from one that ends
//! where it ended. Journals begun later have higher numbers. A store of a version that wrote none has no bound until it was
//! opened once.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::folder::{OpenError, sync};

const NAME: &str = "durable";

/// Longest note: two numbers of 20 digits and the words.
const LEN_MAX: u64 = 64;

/// Up to where a journal is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Durable {
    /// The journal's number.
    pub(super) journal: u64,
    /// Where its last whole batch ended, in bytes.
    pub(super) end: u64,
}

impl Durable {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
        let (journal, end) = text.strip_prefix("journal ")?.split_once(" end ")?;
        Some(Self {
            journal: journal.parse().ok()?,
            end: end.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Durable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "journal {} end {}", self.journal, self.end)
    }
}

/// The note beside the database in `db`. One that cannot be understood says nothing of the data, and is none.
pub(super) fn read(db: &Path) -> Result<Option<Durable>, OpenError> {
    let path = db.with_file_name(NAME);
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(LEN_MAX).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("reading", &path, error)),
    }
    let known = Durable::parse(&text);
    if known.is_none() {
        tracing::warn!(file = %path.display(), "the note of what was synced is damaged: a journal cut short would not be noticed this time");
    }
    Ok(known)
}

/// Notes `durable`, which must be synced, beside the database in `db`; after a power cut this note is there or the one
/// before.
pub(super) fn write(db: &Path, durable: Durable) -> Result<(), OpenError> {
    if read(db)? == Some(durable) {
        return Ok(());
    }
    let path = db.with_file_name(NAME);
    let fresh = path.with_extension("new");
    let io = |error| OpenError::io("writing", &path, error);
    let mut file = File::create(&fresh).map_err(io)?;
    file.write_all(durable.to_string().as_bytes()).map_err(io)?;
    file.sync_all().map_err(io)?;
    fs::rename(&fresh, &path).map_err(io)?;
    match path.parent() {
        Some(folder) => sync(folder),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_half_of_one_is_none() {
        let folder = tempfile::TempDir::new().unwrap();
        let db = folder.path().join("db");
        assert_eq!(read(&db).unwrap(), None);
        let longest = Durable {
            journal: u64::MAX,
            end: u64::MAX,
        };
        for durable in [
            Durable {
                journal: 3,
                end: 1234,
            },
            longest,
        ] {
            write(&db, durable).unwrap();
            assert_eq!(read(&db).unwrap(), Some(durable));
        }
        let text = longest.to_string();
        for cut in 0..text.len() {
            assert_eq!(Durable::parse(&text.as_bytes()[..cut]), None, "{cut}");
        }
    }
}
