//! The send queue: messages from the moment the app hands them over until the server has them.
//!
//! A message gets its operation id and its batch together, in a transaction that is on the disk before the first
//! attempt; from then on both stay, so that every retry is the same request.

use prost::Message as _;
use rusqlite::{OptionalExtension as _, params};
use whimbrel_protocol::client::{Accepted, Content, MessageOptions, OutgoingMessage};
use whimbrel_protocol::ids::{ConversationId, OperationId};

use super::{Store, StoreError, from_sql, to_sql};
use crate::types::LocalMessageId;

const QUEUED: i64 = 0;
const FAILED: i64 = 1;
const SENT: i64 = 2;

/// Messages in one atomic batch: the protocol's bound.
pub(crate) const BATCH_LEN_MAX: usize = 32;

/// Bytes of contents in one batch: the protocol's 48 KiB less what 32 messages take besides.
const BATCH_BYTES_MAX: usize = 44 * 1024;

/// A message to be queued.
#[derive(Debug, Clone)]
pub(crate) struct NewMessage {
    pub(crate) conversation: ConversationId,
    pub(crate) content: Content,
    pub(crate) options: Option<MessageOptions>,
}

/// A queued message with its operation id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outgoing {
    pub(crate) local_id: LocalMessageId,
    pub(crate) message: OutgoingMessage,
}

/// Messages that go out together, now and at every retry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    pub(crate) number: i64,
    pub(crate) seen_seq: u64,
    pub(crate) messages: Vec<Outgoing>,
}

impl Store {
    pub(crate) fn enqueue(&mut self, new: &NewMessage) -> Result<LocalMessageId, StoreError> {
        let options = new.options.as_ref().map(|options| options.encode_to_vec());
        self.db
            .prepare_cached(
                "INSERT INTO outbox (conversation, state, content, options) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                new.conversation.as_bytes(),
                QUEUED,
                new.content.encode_to_vec(),
                options
            ])?;
        Ok(LocalMessageId(self.db.last_insert_rowid()))
    }

    pub(crate) fn queued_count(&self) -> Result<u64, StoreError> {
        let count = self
            .db
            .prepare_cached("SELECT count(*) FROM outbox WHERE state = ?1")?
            .query_row([QUEUED], |row| row.get(0))?;
        Ok(from_sql(count))
    }

    /// The conversations that have something to send.
    pub(crate) fn queued_conversations(&self) -> Result<Vec<ConversationId>, StoreError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT DISTINCT conversation FROM outbox WHERE state = ?1")?;
        let rows = statement.query_map([QUEUED], |row| row.get::<_, Vec<u8>>(0))?;
        let mut conversations = Vec::new();
        for row in rows {
            conversations.push(ConversationId::from_wire(&row?).map_err(|_| StoreError::Corrupt {
                what: "conversation id",
            })?);
        }
        Ok(conversations)
    }

    /// The batch a conversation has to send next: the one that was tried before, or else the oldest messages, which
    /// become a batch here. `operation_id` gives the ids of a new one.
    pub(crate) fn next_batch(
        &mut self,
        conversation: &ConversationId,
        seen_seq: u64,
        mut operation_id: impl FnMut() -> OperationId,
    ) -> Result<Option<Batch>, StoreError> {
        let tried: Option<i64> = self
            .db
            .prepare_cached("SELECT min(batch) FROM outbox WHERE state = ?1 AND conversation = ?2")?
            .query_row(params![QUEUED, conversation.as_bytes()], |row| row.get(0))?;
        let number = match tried {
            Some(number) => number,
            None => match self.form_batch(conversation, seen_seq, &mut operation_id)? {
                Some(number) => number,
                None => return Ok(None),
            },
        };
        self.batch(number).map(Some)
    }

    /// Makes a batch of the oldest messages of a conversation; `None` when there are none.
    fn form_batch(
        &mut self,
        conversation: &ConversationId,
        seen_seq: u64,
        operation_id: &mut dyn FnMut() -> OperationId,
    ) -> Result<Option<i64>, StoreError> {
        let mut statement = self.db.prepare_cached(
            "SELECT local_id, length(content) FROM outbox WHERE state = ?1 AND conversation = ?2
             ORDER BY local_id LIMIT ?3",
        )?;
        let rows = statement.query_map(
            params![QUEUED, conversation.as_bytes(), to_sql(BATCH_LEN_MAX as u64)],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        let mut bytes: u64 = 0;
        let mut local_ids = Vec::new();
        for row in rows {
            let (local_id, len) = row?;
            bytes = bytes.saturating_add(from_sql(len));
            if !local_ids.is_empty() && bytes > BATCH_BYTES_MAX as u64 {
                break;
            }
            local_ids.push(local_id);
        }
        // A batch is named after its first message, of which there is only one.
        let Some(number) = local_ids.first().copied() else {
            return Ok(None);
        };
        for local_id in local_ids {
            self.db
                .prepare_cached(
                    "UPDATE outbox SET batch = ?2, client_msg_id = ?3, seen_seq = ?4 WHERE local_id = ?1",
                )?
                .execute(params![
                    local_id,
                    number,
                    operation_id().as_bytes(),
                    to_sql(seen_seq)
                ])?;
        }
        Ok(Some(number))
    }

    fn batch(&self, number: i64) -> Result<Batch, StoreError> {
        let mut statement = self.db.prepare_cached(
            "SELECT local_id, client_msg_id, content, options, seen_seq FROM outbox
             WHERE batch = ?1 AND state = ?2 ORDER BY local_id",
        )?;
        let rows = statement.query_map(params![number, QUEUED], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, Vec<u8>>(2)?,
                row.get::<_, Option<Vec<u8>>>(3)?,
                row.get::<_, i64>(4)?,
            ))
        })?;
        let mut batch = Batch {
            number,
            seen_seq: 0,
            messages: Vec::new(),
        };
        for row in rows {
            let (local_id, client_msg_id, content, options, seen_seq) = row?;
            let corrupt = |_| StoreError::Corrupt {
                what: "queued message",
            };
            batch.seen_seq = from_sql(seen_seq);
            batch.messages.push(Outgoing {
                local_id: LocalMessageId(local_id),
                message: OutgoingMessage {
                    client_msg_id: client_msg_id.into(),
                    content: Some(Content::decode(&*content).map_err(corrupt)?),
                    options: options
                        .map(|bytes| MessageOptions::decode(&*bytes))
                        .transpose()
                        .map_err(corrupt)?,
                },
            });
        }
        Ok(batch)
    }

    /// Makes a batch of its own of every message of a refused batch, so that a bad one does not fail its neighbours.
    /// Ids stay: whatever was decided about one of them before holds, and the others go through.
    pub(crate) fn split_batch(&mut self, number: i64) -> Result<(), StoreError> {
        self.db
            .prepare_cached("UPDATE outbox SET batch = local_id WHERE batch = ?1 AND state = ?2")?
            .execute(params![number, QUEUED])?;
        Ok(())
    }

    pub(crate) fn mark_sent(
        &mut self,
        local_id: LocalMessageId,
        accepted: &Accepted,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("UPDATE outbox SET state = ?2, seq = ?3, time_ms = ?4 WHERE local_id = ?1")?
            .execute(params![
                local_id.0,
                SENT,
                to_sql(accepted.seq),
                to_sql(accepted.time_ms)
            ])?;
        Ok(())
    }

    pub(crate) fn mark_failed(
        &mut self,
        local_id: LocalMessageId,
        code: u32,
        message: &str,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("UPDATE outbox SET state = ?2, code = ?3, message = ?4 WHERE local_id = ?1")?
            .execute(params![local_id.0, FAILED, code, message])?;
        Ok(())
    }

    /// Which message of this device an entry is.
    pub(crate) fn local_id(&self, client_msg_id: &[u8]) -> Result<Option<LocalMessageId>, StoreError> {
        if client_msg_id.is_empty() {
            return Ok(None);
        }
        let found: Option<i64> = self
            .db
            .prepare_cached("SELECT local_id FROM outbox WHERE client_msg_id = ?1")?
            .query_row([client_msg_id], |row| row.get(0))
            .optional()?;
        Ok(found.map(LocalMessageId))
    }

    /// Forgets sent messages whose entries are in the log.
    pub(crate) fn forget_sent(
        &mut self,
        conversation: &ConversationId,
        through_seq: u64,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("DELETE FROM outbox WHERE state = ?1 AND conversation = ?2 AND seq <= ?3")?
            .execute(params![SENT, conversation.as_bytes(), to_sql(through_seq)])?;
        Ok(())
    }

    /// Puts a failed message back to the queue, as a new one with an id to come. Says whether it was a failed one.
    pub(crate) fn requeue(&mut self, local_id: LocalMessageId) -> Result<Option<ConversationId>, StoreError> {
        let found: Option<Vec<u8>> = self
            .db
            .prepare_cached(
                "UPDATE outbox SET state = ?2, batch = NULL, client_msg_id = NULL WHERE local_id = ?1 AND state = ?3
                 RETURNING conversation",
            )?
            .query_row(params![local_id.0, QUEUED, FAILED], |row| row.get(0))
            .optional()?;
        Ok(found.and_then(|bytes| ConversationId::from_wire(&bytes).ok()))
    }

    /// Drops a failed message. Says whether it was one.
    pub(crate) fn discard(&mut self, local_id: LocalMessageId) -> Result<bool, StoreError> {
        let dropped = self
            .db
            .prepare_cached("DELETE FROM outbox WHERE local_id = ?1 AND state = ?2")?
            .execute(params![local_id.0, FAILED])?;
        Ok(dropped > 0)
    }

    /// Every message of the queue that is not sent, with how it ended if it failed, oldest first.
    pub(crate) fn unsent(&self) -> Result<Vec<Unsent>, StoreError> {
        let mut statement = self.db.prepare_cached(
            "SELECT local_id, conversation, content, state, code, message FROM outbox WHERE state <> ?1
             ORDER BY local_id",
        )?;
        let rows = statement.query_map([SENT], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, Vec<u8>>(2)?,
                (row.get::<_, i64>(3)? == FAILED)
                    .then(|| Ok::<_, rusqlite::Error>((row.get::<_, u32>(4)?, row.get::<_, String>(5)?)))
                    .transpose()?,
            ))
        })?;
        let mut unsent = Vec::new();
        for row in rows {
            let (local_id, conversation, content, failed) = row?;
            unsent.push(Unsent {
                local_id: LocalMessageId(local_id),
                conversation: ConversationId::from_wire(&conversation).map_err(|_| StoreError::Corrupt {
                    what: "conversation id",
                })?,
                content: Content::decode(&*content).map_err(|_| StoreError::Corrupt {
                    what: "queued message",
                })?,
                failed,
            });
        }
        Ok(unsent)
    }
}

/// A message of the queue the server does not have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unsent {
    pub(crate) local_id: LocalMessageId,
    pub(crate) conversation: ConversationId,
    pub(crate) content: Content,
    /// Code and message, when it failed.
    pub(crate) failed: Option<(u32, String)>,
}
