//! Conversations and their entries.

use std::collections::BTreeSet;

use prost::Message as _;
use rusqlite::{OptionalExtension as _, params};
use whimbrel_protocol::client::{ConversationRow, Entry};
use whimbrel_protocol::ids::ConversationId;

use super::{Store, StoreError, from_sql, to_sql};
use crate::core::Position;
use crate::types::LocalMessageId;

/// A conversation as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct KeptConversation {
    pub(crate) id: ConversationId,
    pub(crate) row: Option<ConversationRow>,
    pub(crate) position: Option<Position>,
    /// The server has begun anew, and what is kept is not verified yet.
    pub(crate) doubted: bool,
}

impl Store {
    /// All conversations, the latest first.
    pub(crate) fn conversations(&self) -> Result<Vec<KeptConversation>, StoreError> {
        let mut statement = self.db.prepare_cached(
            "SELECT conversation, list_row, start_seq, shown_seq, rev, doubted FROM conversations
             ORDER BY time_ms DESC",
        )?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, Option<Vec<u8>>>(1)?,
                (
                    row.get::<_, Option<i64>>(2)?,
                    row.get::<_, Option<i64>>(3)?,
                    row.get::<_, Option<i64>>(4)?,
                ),
                row.get::<_, bool>(5)?,
            ))
        })?;
        let mut kept = Vec::new();
        for row in rows {
            let (conversation, list_row, position, doubted) = row?;
            kept.push(KeptConversation {
                id: ConversationId::from_wire(&conversation).map_err(|_| StoreError::Corrupt {
                    what: "conversation id",
                })?,
                row: list_row.map(|bytes| decode_row(&bytes)).transpose()?,
                position: match position {
                    (Some(start), Some(shown), Some(rev)) => Some(Position {
                        start: from_sql(start),
                        shown: from_sql(shown),
                        rev: from_sql(rev),
                    }),
                    _ => None,
                },
                doubted,
            });
        }
        Ok(kept)
    }

    pub(crate) fn row(&self, conversation: &ConversationId) -> Result<Option<ConversationRow>, StoreError> {
        let found: Option<Option<Vec<u8>>> = self
            .db
            .prepare_cached("SELECT list_row FROM conversations WHERE conversation = ?1")?
            .query_row([conversation.as_bytes()], |row| row.get(0))
            .optional()?;
        found.flatten().map(|bytes| decode_row(&bytes)).transpose()
    }

    pub(crate) fn put_row(
        &mut self,
        conversation: &ConversationId,
        row: &ConversationRow,
        generation: i64,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO conversations (conversation, list_row, generation, time_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET list_row = ?2, generation = ?3, time_ms = ?4",
            )?
            .execute(params![conversation.as_bytes(), row.encode_to_vec(), generation, to_sql(row.time_ms)])?;
        Ok(())
    }

    /// Forgets the rows that a full resync did not name again; says which they were. Entries stay.
    pub(crate) fn drop_rows_before(&mut self, generation: i64) -> Result<Vec<ConversationId>, StoreError> {
        let mut statement = self.db.prepare_cached(
            "UPDATE conversations SET list_row = NULL WHERE generation < ?1 AND list_row IS NOT NULL
             RETURNING conversation",
        )?;
        let rows = statement.query_map([generation], |row| row.get::<_, Vec<u8>>(0))?;
        let mut dropped = Vec::new();
        for row in rows {
            dropped.extend(ConversationId::from_wire(&row?).ok());
        }
        Ok(dropped)
    }

    pub(crate) fn put_position(
        &mut self,
        conversation: &ConversationId,
        position: Position,
        doubted: bool,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO conversations (conversation, start_seq, shown_seq, rev, doubted) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET start_seq = ?2, shown_seq = ?3, rev = ?4, doubted = ?5",
            )?
            .execute(params![
                conversation.as_bytes(),
                to_sql(position.start),
                to_sql(position.shown),
                to_sql(position.rev),
                doubted
            ])?;
        Ok(())
    }

    pub(crate) fn put_entry(
        &mut self,
        conversation: &ConversationId,
        entry: &Entry,
        local_id: Option<LocalMessageId>,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO entries (conversation, seq, local_id, entry) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET entry = ?4, local_id = coalesce(local_id, ?3)",
            )?
            .execute(params![
                conversation.as_bytes(),
                to_sql(entry.seq),
                local_id.map(|id| id.0),
                entry.encode_to_vec()
            ])?;
        Ok(())
    }

    pub(crate) fn entry(
        &self,
        conversation: &ConversationId,
        seq: u64,
    ) -> Result<Option<(Entry, Option<LocalMessageId>)>, StoreError> {
        Ok(self.entries_down(conversation, seq, seq, 1)?.pop())
    }

    /// At most `limit` entries from `from` down to `to`, both inclusive, descending.
    pub(crate) fn entries_down(
        &self,
        conversation: &ConversationId,
        from: u64,
        to: u64,
        limit: u32,
    ) -> Result<Vec<(Entry, Option<LocalMessageId>)>, StoreError> {
        let mut statement = self.db.prepare_cached(
            "SELECT entry, local_id FROM entries WHERE conversation = ?1 AND seq BETWEEN ?2 AND ?3
             ORDER BY seq DESC LIMIT ?4",
        )?;
        let rows = statement.query_map(
            params![conversation.as_bytes(), to_sql(to), to_sql(from), limit],
            |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<i64>>(1)?)),
        )?;
        let mut entries = Vec::new();
        for row in rows {
            let (entry, local_id) = row?;
            let entry = Entry::decode(&*entry).map_err(|_| StoreError::Corrupt { what: "message" })?;
            entries.push((entry, local_id.map(LocalMessageId)));
        }
        Ok(entries)
    }

    /// The entries of a conversation that changed since they were written.
    pub(crate) fn changed_seqs(&self, conversation: &ConversationId) -> Result<BTreeSet<u64>, StoreError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT entry FROM entries WHERE conversation = ?1")?;
        let mut rows = statement.query([conversation.as_bytes()])?;
        let mut changed = BTreeSet::new();
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            let entry = Entry::decode(bytes).map_err(|_| StoreError::Corrupt { what: "message" })?;
            if entry.rev > 0 {
                changed.insert(entry.seq);
            }
        }
        Ok(changed)
    }

    pub(crate) fn drop_entries_above(
        &mut self,
        conversation: &ConversationId,
        seq: u64,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("DELETE FROM entries WHERE conversation = ?1 AND seq > ?2")?
            .execute(params![conversation.as_bytes(), to_sql(seq)])?;
        Ok(())
    }
}

fn decode_row(bytes: &[u8]) -> Result<ConversationRow, StoreError> {
    ConversationRow::decode(bytes).map_err(|_| StoreError::Corrupt {
        what: "conversation row",
    })
}
