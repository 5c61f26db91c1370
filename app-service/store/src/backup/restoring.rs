//! Restoring: a backup into an empty store.
//!
//! The first thing written is a *mark*, and the last thing done is to remove it, after everything was read back and compared. A
//! store with a mark is nobody's to serve; the same restore begun again finishes it, whatever was written before.

use std::collections::VecDeque;
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;

use super::format::{Count, Totals};
use super::reading::{ReadError, Reader};
use super::saving::next_page;
use crate::{Batch, Commit, Direction, KeyRange, Store, StoreError};

/// Bytes of one batch: large enough that commits do not count, small enough that a networked backend takes it in one go.
const BATCH_BYTES: usize = 512 * 1024;
/// Entries of one batch, for the same reasons.
const BATCH_ENTRIES: usize = 1024;

/// Attempts at one batch before the restore gives up: half a minute.
const ATTEMPTS_MAX: u32 = 30;
/// Between them.
const PAUSE: Duration = Duration::from_secs(1);

/// What of a store is saved and restored: whoever gives keys their meaning says so.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The newest schema that can be read, and the one that is written.
    pub schema: u32,
    /// Everything, ascending and apart.
    pub ranges: Vec<KeyRange>,
    /// The key of the mark, inside the ranges and used for nothing else.
    pub mark: Bytes,
}

impl Contents {
    fn cover(&self, key: &[u8]) -> bool {
        key != &self.mark[..] && self.ranges.iter().any(|range| range.contains(key))
    }
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup cannot be read. Where that shows before the first write, the store was not touched.
    #[error(transparent)]
    Backup(#[from] ReadError),
    /// A newer version took it.
    #[error(
        "the backup has schema {found}, this version knows up to {known}: restore it with the version that took it, or a newer one"
    )]
    NewerSchema {
        /// The backup's.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// It holds a key that no backup of Whimbrel has.
    #[error("the backup holds keys that are none of Whimbrel's: it is of another program, or made by hand")]
    Foreign,
    /// The store is not empty.
    #[error(
        "the store is not empty: a backup is restored into an empty one only, so give it a new folder or a new cluster"
    )]
    NotEmpty,
    /// Another restore into this store was not finished.
    #[error(
        "another backup's restore into this store was never finished: restore that one again, or begin with an empty store"
    )]
    OtherUnfinished,
    /// What the store gave back is not what was written.
    #[error(
        "the store gives back {found:?} where the backup has {expected:?}: somebody else writes to it, or it loses data; nothing may \
         be served from it"
    )]
    Differs {
        /// The backup's.
        expected: Totals,
        /// The store's.
        found: Totals,
    },
    /// The store failed.
    #[error("the store failed ({0}); the same restore can be begun again")]
    Store(#[from] StoreError),
}

/// Reads a backup from beginning to end and says what it holds.
///
/// # Errors
/// [`RestoreError::Backup`], [`RestoreError::NewerSchema`], [`RestoreError::Foreign`].
pub(super) fn check<R: Read>(reader: &mut Reader<R>, contents: &Contents) -> Result<Totals, RestoreError> {
    let found = reader.header().schema;
    if found > contents.schema {
        return Err(RestoreError::NewerSchema {
            found,
            known: contents.schema,
        });
    }
    while let Some(entries) = reader.next()? {
        if entries.iter().any(|(key, _)| !contents.cover(key)) {
            return Err(RestoreError::Foreign);
        }
    }
    Ok(reader.totals())
}

impl<R: Read> Reader<R> {
    /// Reads all of it, and says what it holds: whether [`restore`] would take it.
    ///
    /// # Errors
    /// As [`restore`] names them for the backup itself.
    pub fn check(mut self, contents: &Contents) -> Result<Totals, RestoreError> {
        check(&mut self, contents)
    }
}

/// Writes a backup into an empty store and compares what it gives back. `reader` has been opened and not read; the backup should have
/// been [checked](Reader::check) before, or damage shows only after half of it was written.
///
/// `told` hears now and then how far it is.
///
/// # Errors
/// [`RestoreError`]. Once something was written, the store carries the mark until the same backup is restored.
pub async fn restore<R: Read + Send>(
    store: &dyn Store,
    contents: &Contents,
    mut reader: Reader<R>,
    mut told: impl FnMut(Totals) + Send,
) -> Result<Totals, RestoreError> {
    let header = reader.header().clone();
    if header.schema > contents.schema {
        return Err(RestoreError::NewerSchema {
            found: header.schema,
            known: contents.schema,
        });
    }
    claim(store, contents, header.id).await?;
    while let Some(entries) = reader.next()? {
        if entries.iter().any(|(key, _)| !contents.cover(key)) {
            return Err(RestoreError::Foreign);
        }
        write(store, entries).await?;
        told(reader.totals());
    }
    let (expected, found) = (reader.totals(), totals(store, contents).await?);
    if expected != found {
        return Err(RestoreError::Differs { expected, found });
    }
    settle(store, || {
        let mut batch = Batch::blind();
        batch.delete(contents.mark.clone());
        batch
    })
    .await?;
    Ok(expected)
}

/// Makes sure that the store is empty and says with the mark that it is being restored; or finds that mark there already.
async fn claim(store: &dyn Store, contents: &Contents, id: [u8; 16]) -> Result<(), RestoreError> {
    let kept = store.snapshot().await?.get(&contents.mark).await?;
    match kept {
        Some(kept) if kept[..] == id => return Ok(()),
        Some(_) => return Err(RestoreError::OtherUnfinished),
        None => {}
    }
    if !holds_nothing(store, contents).await? {
        return Err(RestoreError::NotEmpty);
    }
    let mark = || {
        let mut batch = Batch::blind();
        batch.put(contents.mark.clone(), Bytes::copy_from_slice(&id));
        batch
    };
    settle(store, mark).await?;
    // A node that started meanwhile has written before the mark, and shows now; a later one sees the mark and does not serve.
    if !holds_nothing(store, contents).await? {
        let unmark = || {
            let mut batch = Batch::blind();
            batch.delete(contents.mark.clone());
            batch
        };
        settle(store, unmark).await?;
        return Err(RestoreError::NotEmpty);
    }
    Ok(())
}

async fn holds_nothing(store: &dyn Store, contents: &Contents) -> Result<bool, StoreError> {
    let snapshot = store.snapshot().await?;
    for range in &contents.ranges {
        // The mark, and one more.
        let page = snapshot.scan(range.clone(), 2, Direction::Forward).await?;
        if page.entries.iter().any(|(key, _)| *key != contents.mark) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes entries in batches, one after the other.
async fn write(store: &dyn Store, entries: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
    let mut batch = Batch::blind();
    for (key, value) in entries {
        batch.put(key, value);
        if batch.bytes() >= BATCH_BYTES || batch.len() >= BATCH_ENTRIES {
            let full = std::mem::replace(&mut batch, Batch::blind());
            settle(store, || full.clone()).await?;
        }
    }
    settle(store, || batch.clone()).await
}

/// Commits a blind batch for good. Nobody else writes, so that to write the same again is to write it once: an unknown end and a conflict
/// (with locks that this very restore left behind) are tried again.
async fn settle(store: &dyn Store, batch: impl Fn() -> Batch) -> Result<(), StoreError> {
    let mut last = None;
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        last = match store.commit(batch()).await {
            Commit::Committed => return Ok(()),
            Commit::Conflict(_) => last,
            Commit::Refused(error) if !error.is_transient() => return Err(error),
            Commit::Refused(error) | Commit::Unknown(error) => Some(error),
        };
    }
    Err(last.unwrap_or_else(|| {
        StoreError::backend(
            "restoring",
            "its commits conflict with somebody else's without end",
        )
    }))
}

/// What the store holds, read anew.
async fn totals(store: &dyn Store, contents: &Contents) -> Result<Totals, StoreError> {
    let snapshot = store.long_snapshot().await?;
    let mut left: VecDeque<KeyRange> = contents.ranges.iter().cloned().collect();
    let mut count = Count::default();
    loop {
        let entries = next_page(&*snapshot, &mut left).await?;
        if entries.is_empty() {
            return Ok(count.totals());
        }
        for (key, value) in entries.iter().filter(|(key, _)| *key != contents.mark) {
            count.take(key, value);
        }
    }
}
