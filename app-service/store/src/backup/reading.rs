//! Reading a backup: what comes out has been checked.

use std::io::{self, Read};

use bytes::Bytes;

use super::format::{
    BLOCK_HEAD_LEN, CHECK_LEN, Chain, Count, FORMAT, Header, Kind, MAGIC, PAYLOAD_LEN_MAX, Totals,
    split_entry,
};
use crate::limits::{check_key, check_value};

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file does not begin as a backup does.
    #[error("it is no backup of Whimbrel: it does not begin as one")]
    NoBackup,
    /// A newer version wrote it.
    #[error(
        "it has backup format {found}, this version knows formats up to {FORMAT}: use the version that wrote it, or a newer one"
    )]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// It ends before its end.
    #[error(
        "it is cut off after {entries} entries: the copy was not finished, or the backup was not; copy it again, or use another"
    )]
    CutOff {
        /// Entries before the cut.
        entries: u64,
    },
    /// Something in it is not what was written.
    #[error("it is damaged behind entry {entries}: {detail}; copy it again, or use another backup")]
    Damaged {
        /// Entries before the damage.
        entries: u64,
        /// What is wrong.
        detail: String,
    },
    /// Whoever wrote it broke off and said so.
    #[error("the backup broke off after {entries} entries: {why}")]
    BrokeOff {
        /// Entries written until then.
        entries: u64,
        /// The reason.
        why: String,
    },
    /// The file cannot be read.
    #[error("reading it failed: {0}")]
    Io(#[source] io::Error),
}

/// Reads a backup from its beginning to its end.
///
/// # Order of calls
/// [`next`](Self::next) until it gives `None`: only then is the file known to be whole. After an error there is nothing more to read.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    chain: Chain,
    count: Count,
    header: Header,
    last_key: Bytes,
}

impl<R: Read> Reader<R> {
    /// Reads what the backup says of itself.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(mut from: R) -> Result<Self, ReadError> {
        let mut magic = [0; MAGIC.len()];
        if fill(&mut from, &mut magic).map_err(ReadError::Io)? < magic.len() || magic != MAGIC {
            return Err(ReadError::NoBackup);
        }
        let (mut chain, count) = (Chain::default(), Count::default());
        let mut format = [0; 4];
        exact(&mut from, &mut format, &count)?;
        match u32::from_be_bytes(format) {
            FORMAT => {}
            found if found > FORMAT => return Err(ReadError::NewerFormat { found }),
            _ => return Err(ReadError::NoBackup),
        }
        let header = match block(&mut from, &mut chain, &count)? {
            (Kind::Header, payload) => Header::decode(&payload),
            _ => None,
        };
        let header = header.ok_or_else(|| damaged(&count, "its first block is no header"))?;
        Ok(Self {
            from,
            chain,
            count,
            header,
            last_key: Bytes::new(),
        })
    }

    /// What the backup says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What has been read so far.
    pub fn totals(&self) -> Totals {
        self.count.totals()
    }

    /// The next entries, in the order of their keys; `None` at the end of a file that is whole.
    ///
    /// # Errors
    /// [`ReadError`].
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would go on after an error"
    )]
    pub fn next(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, ReadError> {
        let (kind, payload) = block(&mut self.from, &mut self.chain, &self.count)?;
        match kind {
            Kind::Data => self.entries(payload).map(Some),
            Kind::End => self.end(&payload).map(|()| None),
            Kind::Failed => Err(ReadError::BrokeOff {
                entries: self.count.totals().entries,
                why: String::from_utf8_lossy(&payload).into_owned(),
            }),
            Kind::Header => Err(self.damaged("a second header")),
        }
    }

    fn entries(&mut self, payload: Vec<u8>) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let mut payload = Bytes::from(payload);
        let mut entries = Vec::new();
        while !payload.is_empty() {
            let (key, value) =
                split_entry(&mut payload).ok_or_else(|| self.damaged("an entry is longer than its block"))?;
            check_key(&key)
                .and_then(|()| check_value(&key, &value))
                .map_err(|error| self.damaged(error))?;
            if key <= self.last_key {
                return Err(self.damaged("keys are out of order"));
            }
            self.count.take(&key, &value);
            self.last_key = key.clone();
            entries.push((key, value));
        }
        Ok(entries)
    }

    fn end(&mut self, payload: &[u8]) -> Result<(), ReadError> {
        if Totals::decode(payload) != Some(self.count.totals()) {
            return Err(self.damaged("what it says it holds is not what it holds"));
        }
        match fill(&mut self.from, &mut [0]).map_err(ReadError::Io)? {
            0 => Ok(()),
            _ => Err(self.damaged("something follows its end")),
        }
    }

    fn damaged(&self, detail: impl std::fmt::Display) -> ReadError {
        damaged(&self.count, detail)
    }
}

fn damaged(count: &Count, detail: impl std::fmt::Display) -> ReadError {
    ReadError::Damaged {
        entries: count.totals().entries,
        detail: detail.to_string(),
    }
}

/// The next block, once its check holds.
fn block(from: &mut impl Read, chain: &mut Chain, count: &Count) -> Result<(Kind, Vec<u8>), ReadError> {
    let mut head = [0; BLOCK_HEAD_LEN];
    exact(from, &mut head, count)?;
    let [kind, len @ ..] = head;
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    // Looked at before anything of that length is made.
    if len > PAYLOAD_LEN_MAX {
        return Err(damaged(count, format!("a block claims {len} bytes")));
    }
    let mut payload = vec![0; len];
    exact(from, &mut payload, count)?;
    let mut check = [0; CHECK_LEN];
    exact(from, &mut check, count)?;
    if u128::from_be_bytes(check) != chain.next(&head, &payload) {
        return Err(damaged(count, "a checksum is wrong"));
    }
    let kind = Kind::of(kind).ok_or_else(|| damaged(count, "a block of an unknown kind"))?;
    Ok((kind, payload))
}

fn exact(from: &mut impl Read, into: &mut [u8], count: &Count) -> Result<(), ReadError> {
    if fill(from, into).map_err(ReadError::Io)? < into.len() {
        return Err(ReadError::CutOff {
            entries: count.totals().entries,
        });
    }
    Ok(())
}

/// Reads as much of `into` as there is.
fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
