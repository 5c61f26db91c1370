//! What a client keeps: messages, the conversation list, the send queue, read marks and a few values of its own.
//!
//! One SQLite database per user and folder, owned by the client's one thread. Whoever calls decides where transactions
//! begin and end ([`Store::begin`], [`Store::commit`]); nothing is shown to the app before its transaction is committed.
//! The send queue and what names operations are synced to the disk (`synchronous=FULL`) before their first attempt;
//! the rest can be had from the server again and is only written (`NORMAL`).

mod log;
mod outbox;
mod values;

use std::path::{Path, PathBuf};

pub(crate) use outbox::{BATCH_LEN_MAX, Batch, NewMessage, Unsent};
use rusqlite::Connection;
pub(crate) use values::Value;

/// The database's layout; a newer one is refused, an older one brought up.
///
/// - 1: the first.
/// - 2: `conversations.doubted`.
const SCHEMA_VERSION: i64 = 2;

/// What brings each older layout up to the next.
const UPGRADES: [(i64, &str); 1] = [(
    1,
    "ALTER TABLE conversations ADD COLUMN doubted INTEGER NOT NULL DEFAULT 0;",
)];

const SCHEMA: &str = "
CREATE TABLE own (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE conversations (
    conversation BLOB PRIMARY KEY,
    -- The encoded row; NULL while only pushes told of the conversation.
    list_row BLOB,
    -- Of the full resync that last named it.
    generation INTEGER NOT NULL DEFAULT 0,
    -- NULL until the row said where the log begins.
    start_seq INTEGER, shown_seq INTEGER, rev INTEGER,
    time_ms INTEGER NOT NULL DEFAULT 0,
    -- 1 from when the server began anew until what is kept is verified.
    doubted INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE entries (
    conversation BLOB NOT NULL, seq INTEGER NOT NULL, local_id INTEGER, entry BLOB NOT NULL,
    PRIMARY KEY (conversation, seq)
) WITHOUT ROWID;
CREATE TABLE outbox (
    local_id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation BLOB NOT NULL,
    -- 0 queued, 1 failed, 2 sent.
    state INTEGER NOT NULL,
    content BLOB NOT NULL,
    options BLOB,
    -- Set together, before the first attempt.
    batch INTEGER, client_msg_id BLOB, seen_seq INTEGER,
    -- When failed.
    code INTEGER, message TEXT,
    -- When sent.
    seq INTEGER, time_ms INTEGER
);
CREATE INDEX outbox_by_conversation ON outbox (state, conversation, local_id);
CREATE INDEX outbox_by_client_msg_id ON outbox (client_msg_id) WHERE client_msg_id IS NOT NULL;
CREATE TABLE read_marks (conversation BLOB PRIMARY KEY, read_seq INTEGER NOT NULL) WITHOUT ROWID;
";

/// The database failed or holds what it cannot hold.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite's own words.
    #[error("the local database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// Made by a later version of the SDK.
    #[error(
        "the local database is of layout {found}, this version reads up to {SCHEMA_VERSION}: update the app"
    )]
    Newer {
        /// Its layout.
        found: i64,
    },
    /// A value does not parse.
    #[error(
        "the local database holds a {what} that does not parse: delete the folder to start over from the server"
    )]
    Corrupt {
        /// Which kind.
        what: &'static str,
    },
    /// Another client has it open.
    #[error(
        "the folder {folder} is in use by another client: close it first, or give each client a folder of its own"
    )]
    InUse {
        /// Which.
        folder: String,
    },
    /// The folder cannot be made.
    #[error("the folder {folder} cannot be used: {source}")]
    Folder {
        /// Which.
        folder: String,
        /// Why.
        source: std::io::Error,
    },
}

impl StoreError {
    /// What whoever has the device can do about it, where the error does not say so itself.
    pub(crate) fn cure(&self) -> Option<&'static str> {
        use rusqlite::ErrorCode::{
            CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, PermissionDenied, ReadOnly, SystemIoFailure,
        };
        let Self::Sqlite(error) = self else { return None };
        match error.sqlite_error_code()? {
            NotADatabase | DatabaseCorrupt => Some(
                "move the file away to start over from the server (messages not sent yet are lost with it)",
            ),
            DiskFull | SystemIoFailure => Some("make room on its disk, or give another folder"),
            CannotOpen | PermissionDenied | ReadOnly => Some("make it writable, or give another folder"),
            _ => None,
        }
    }
}

/// The file of the database in `folder`.
pub(crate) fn database(folder: &Path) -> PathBuf {
    folder.join("whimbrel.db")
}

/// The database. See the module.
#[derive(Debug)]
pub(crate) struct Store {
    db: Connection,
    open: bool,
    synced: bool,
}

impl Store {
    /// Opens the database in `folder`, or one in memory.
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, StoreError> {
        let db = match folder {
            None => Connection::open_in_memory()?,
            Some(folder) => {
                let in_words = || folder.display().to_string();
                std::fs::create_dir_all(folder).map_err(|source| StoreError::Folder {
                    folder: in_words(),
                    source,
                })?;
                let db = Connection::open(database(folder))?;
                // Two clients on one queue would send everything twice: the lock is held as long as the client lives.
                lock(&db).map_err(|error| match error.sqlite_error_code() {
                    Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                        StoreError::InUse { folder: in_words() }
                    }
                    _ => error.into(),
                })?;
                db
            }
        };
        db.set_prepared_statement_cache_capacity(64);
        let mut store = Self {
            db,
            open: false,
            synced: false,
        };
        store.begin(false)?;
        let found: i64 = store.db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match found {
            0 => store.db.execute_batch(SCHEMA)?,
            1..=SCHEMA_VERSION => {
                for (_, upgrade) in UPGRADES.iter().filter(|(from, _)| *from >= found) {
                    store.db.execute_batch(upgrade)?;
                }
            }
            found => return Err(StoreError::Newer { found }),
        }
        if found != SCHEMA_VERSION {
            store.db.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        store.commit()?;
        Ok(store)
    }

    /// Begins a transaction; inside one it goes on. `synced`: it must be on the disk when it is committed.
    pub(crate) fn begin(&mut self, synced: bool) -> Result<(), StoreError> {
        if self.open {
            return Ok(());
        }
        if synced != self.synced {
            self.db
                .pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })?;
            self.synced = synced;
        }
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        self.open = true;
        Ok(())
    }

    /// Commits what was begun.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        if self.open {
            self.db.execute_batch("COMMIT")?;
            self.open = false;
        }
        Ok(())
    }

    /// Takes back what was begun.
    pub(crate) fn roll_back(&mut self) {
        if self.open {
            self.open = false;
            if let Err(error) = self.db.execute_batch("ROLLBACK") {
                // SQLite has rolled back by itself then.
                tracing::debug!(%error, "nothing to roll back");
            }
        }
    }

    /// Forgets everything of the user but what names this device.
    pub(crate) fn erase(&mut self) -> Result<(), StoreError> {
        self.db.execute_batch(
            "DELETE FROM conversations; DELETE FROM entries; DELETE FROM outbox; DELETE FROM read_marks;
             DELETE FROM own WHERE key NOT IN ('device_id', 'login_epoch', 'clock_offset_ms', 'directory');",
        )?;
        Ok(())
    }
}

/// Takes the database for this connection alone.
fn lock(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(std::time::Duration::ZERO)?;
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}

/// SQLite's integers are signed; ours end far below 2^63.
fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;
