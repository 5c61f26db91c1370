//! Saving: one snapshot of a store as the bytes of a backup, a block at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::format::{Header, Totals, Writer};
use super::restoring::Contents;
use crate::limits::SCAN_LIMIT_MAX;
use crate::{Direction, KeyRange, Snapshot, Store, StoreError};

/// Why a store cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It was made by a restore that did not come to its end.
    #[error("the store holds a restore that was never finished: finish that, or save another store")]
    Unfinished,
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A backup under way.
///
/// # Order of calls
/// [`next`](Self::next) until it gives `None`, writing what it gives in order. It may be dropped at any moment; what was written
/// until then is known for cut off.
pub struct Saving {
    snapshot: Arc<dyn Snapshot>,
    left: VecDeque<KeyRange>,
    writer: Writer,
    state: State,
}

enum State {
    Begins(Header),
    GoesOn,
    Ended,
}

impl Saving {
    /// Takes the snapshot of what is to be saved.
    ///
    /// `schema`, `id`, `taken_ms` and `cluster` become those of the [`Header`].
    ///
    /// # Errors
    /// [`SaveError`].
    pub async fn begin(
        store: &dyn Store,
        contents: &Contents,
        (id, taken_ms): ([u8; 16], u64),
        cluster: &str,
    ) -> Result<Self, SaveError> {
        let snapshot = store.long_snapshot().await?;
        if snapshot.get(&contents.mark).await?.is_some() {
            return Err(SaveError::Unfinished);
        }
        let header = Header {
            schema: contents.schema,
            id,
            epoch: store.epoch().await?,
            version: snapshot.version().as_raw(),
            taken_ms,
            cluster: cluster.to_owned(),
        };
        Ok(Self {
            snapshot,
            left: contents.ranges.iter().cloned().collect(),
            writer: Writer::default(),
            state: State::Begins(header),
        })
    }

    /// The next bytes of the backup; `None` once it is whole, or after an error.
    ///
    /// # Errors
    /// When the store cannot be read any more. [`failed`](Self::failed) then tells whoever reads along.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Begins(header) => {
                self.state = State::GoesOn;
                Ok(Some(self.writer.begin(&header)))
            }
            State::GoesOn => {
                let entries = next_page(&*self.snapshot, &mut self.left).await?;
                if entries.is_empty() {
                    return Ok(Some(self.writer.end()));
                }
                self.state = State::GoesOn;
                Ok(Some(self.writer.entries(&entries)))
            }
            State::Ended => Ok(None),
        }
    }

    /// What has been given so far.
    pub fn totals(&self) -> Totals {
        self.writer.totals()
    }

    /// The last bytes of a backup that breaks off, with the reason for whoever reads it.
    pub fn failed(mut self, why: &str) -> Vec<u8> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Begins(header) => [self.writer.begin(&header), self.writer.failed(why)].concat(),
            State::GoesOn | State::Ended => self.writer.failed(why),
        }
    }
}

/// The next entries of what is left; none when nothing is.
pub(super) async fn next_page(
    snapshot: &dyn Snapshot,
    left: &mut VecDeque<KeyRange>,
) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, StoreError> {
    while let Some(range) = left.pop_front() {
        let page = snapshot.scan(range, SCAN_LIMIT_MAX, Direction::Forward).await?;
        if let Some(rest) = page.next {
            left.push_front(rest);
        }
        if !page.entries.is_empty() {
            return Ok(page.entries);
        }
    }
    Ok(Vec::new())
}
