//! Values of the client's own, read marks among them.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, params};
use whimbrel_protocol::ids::ConversationId;

use super::{Store, StoreError, from_sql, to_sql};

/// A value of the client's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// Where the conversation list stands.
    Cursor,
    /// Counts full resyncs; 0 until the first sync is complete.
    Generation,
    /// 1 while a full resync goes on.
    Resyncing,
    /// This device's name.
    DeviceId,
    /// The last login's.
    LoginEpoch,
    /// Server time minus the device's, milliseconds.
    ClockOffsetMs,
    /// The newest server time of any login, unix milliseconds.
    ServerTimeMs,
    /// The descriptors of gateways.
    Directory,
}

impl Value {
    const fn key(self) -> &'static str {
        match self {
            Self::Cursor => "cursor",
            Self::Generation => "generation",
            Self::Resyncing => "resyncing",
            Self::DeviceId => "device_id",
            Self::LoginEpoch => "login_epoch",
            Self::ClockOffsetMs => "clock_offset_ms",
            Self::ServerTimeMs => "server_time_ms",
            Self::Directory => "directory",
        }
    }
}

impl Store {
    pub(crate) fn value(&self, value: Value) -> Result<Option<Bytes>, StoreError> {
        let found: Option<Vec<u8>> = self
            .db
            .prepare_cached("SELECT value FROM own WHERE key = ?1")?
            .query_row([value.key()], |row| row.get(0))
            .optional()?;
        Ok(found.map(Bytes::from))
    }

    pub(crate) fn set_value(&mut self, value: Value, bytes: &[u8]) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO own (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2",
            )?
            .execute(params![value.key(), bytes])?;
        Ok(())
    }

    /// A number that was set by [`Store::set_number`]; 0 when none was.
    pub(crate) fn number(&self, value: Value) -> Result<i64, StoreError> {
        let bytes = self.value(value)?;
        Ok(bytes
            .and_then(|bytes| bytes.as_ref().try_into().ok())
            .map_or(0, i64::from_be_bytes))
    }

    pub(crate) fn set_number(&mut self, value: Value, number: i64) -> Result<(), StoreError> {
        self.set_value(value, &number.to_be_bytes())
    }

    /// Read marks the server does not have yet.
    pub(crate) fn read_marks(&self) -> Result<Vec<(ConversationId, u64)>, StoreError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT conversation, read_seq FROM read_marks")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)))?;
        let mut marks = Vec::new();
        for row in rows {
            let (conversation, read_seq) = row?;
            let conversation = ConversationId::from_wire(&conversation).map_err(|_| StoreError::Corrupt {
                what: "conversation id",
            })?;
            marks.push((conversation, from_sql(read_seq)));
        }
        Ok(marks)
    }

    /// Remembers a read mark until the server has it; it never goes back.
    pub(crate) fn set_read_mark(
        &mut self,
        conversation: &ConversationId,
        read_seq: u64,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO read_marks (conversation, read_seq) VALUES (?1, ?2)
                 ON CONFLICT DO UPDATE SET read_seq = max(read_seq, ?2)",
            )?
            .execute(params![conversation.as_bytes(), to_sql(read_seq)])?;
        Ok(())
    }

    /// The server has the mark up to `read_seq`.
    pub(crate) fn clear_read_mark(
        &mut self,
        conversation: &ConversationId,
        read_seq: u64,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("DELETE FROM read_marks WHERE conversation = ?1 AND read_seq <= ?2")?
            .execute(params![conversation.as_bytes(), to_sql(read_seq)])?;
        Ok(())
    }
}
