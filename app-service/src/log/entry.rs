//! An entry of the log as it is stored: what members see, and who wrote it.

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{self, entry::Body};
use whimbrel_protocol::ids::{Seq, UserId};

use crate::values::{self, ValueError, storage};

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Who wrote it.
    pub sender: UserId,
    /// The sender's counted entries up to and including this one.
    pub sender_counted: u64,
    /// What members see.
    pub entry: client::Entry,
}

impl LogEntry {
    /// The entry that a value stores.
    ///
    /// # Errors
    /// When the value is damaged or of a newer version.
    pub fn decode(value: &Bytes) -> Result<Self, ValueError> {
        let stored: storage::Entry = values::decode(value)?;
        let len = stored.entry.len();
        let entry = client::Entry::decode(stored.entry).map_err(|source| ValueError::Malformed {
            what: "Entry of members",
            len,
            source,
        })?;
        Ok(Self {
            sender: UserId(stored.sender_user_id),
            sender_counted: stored.sender_counted,
            entry,
        })
    }

    /// Its value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        values::encode(&storage::Entry {
            sender_user_id: self.sender.0,
            sender_counted: self.sender_counted,
            entry: self.entry.encode_to_vec().into(),
        })
    }

    /// Its seq.
    #[must_use]
    pub fn seq(&self) -> Seq {
        Seq(self.entry.seq)
    }

    /// Whether it counts as unread for others. Taking an entry back does not change that.
    #[must_use]
    pub fn counts(&self) -> bool {
        let is_message = matches!(self.entry.body, Some(Body::Message(_) | Body::RecalledByUid(_)));
        is_message
            && !self
                .entry
                .options
                .as_ref()
                .is_some_and(|options| options.uncounted)
    }
}
