//! `Sync(cursor)`: the rows of a user's conversation list that changed since.
//!
//! Counter and rows come from one snapshot. Rows lie in the order of the sync version they were last written under, each
//! conversation once, so an answer holds as many rows as conversations changed, however long the device was away. A page
//! ends with the cursor of its last row, the last page with that of the counter, from where notices go on.
//!
//! No cursor is too old: a row is kept for as long as its conversation, and there is nothing to prune.

pub mod cursor;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{ConversationRow, SyncRequest, SyncResponse};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, ConversationId, SyncVersion, UserId};
use whimbrel_store::{Direction, Epoch, Snapshot};

use crate::failure::Failure;
use crate::keys::{UserKeys, trailing_u64};
use crate::values::{self, storage};
use cursor::Cursor;

/// Rows in one answer when the request does not say.
const LIMIT_DEFAULT: u32 = 100;
/// Rows in one answer at most.
const LIMIT_MAX: u32 = 500;
/// Bytes of rows after which an answer ends: it has to fit one frame (64 KiB) with its last row.
const ROWS_BYTES_MAX: usize = 48 * 1024;
/// Bytes of the longest cursor looked at; ours have 17.
const CURSOR_LEN_MAX: usize = 64;

/// Answers a sync from one snapshot.
///
/// # Errors
/// When the cursor cannot be one, or the store cannot be read.
pub async fn sync(
    snapshot: &dyn Snapshot,
    epoch: Epoch,
    app: &AppKey,
    user: UserId,
    request: &SyncRequest,
) -> Result<SyncResponse, Failure> {
    if request.cursor.len() > CURSOR_LEN_MAX {
        let len = request.cursor.len();
        return Err(Failure::invalid(format!(
            "cursor has {len} bytes: give back one from an answer, or none"
        )));
    }
    let limit = match request.limit {
        0 => LIMIT_DEFAULT,
        limit => limit.min(LIMIT_MAX),
    };
    let keys = UserKeys::new(app, user);
    let counter = match snapshot.get(&keys.sync_counter()).await? {
        Some(value) => SyncVersion(values::decode::<storage::SyncCounter>(&value)?.version),
        None => SyncVersion(0),
    };
    let (after, full_resync) = match cursor::decode(epoch, app, user, &request.cursor) {
        Cursor::Start => (SyncVersion(0), false),
        Cursor::At(version) if version <= counter => (version, false),
        // From a future this store does not have, as after a restore that kept its epoch.
        Cursor::At(_) | Cursor::Foreign => (SyncVersion(0), true),
    };
    let range = keys.versions_after(after);
    let page = snapshot.scan(range, limit as usize, Direction::Forward).await?;
    let (rows, last, cut) = rows(snapshot, &keys, &page.entries).await?;
    let more = cut || page.has_more();
    let reached = if more { last.unwrap_or(after) } else { counter };
    Ok(SyncResponse {
        cursor: cursor::encode(epoch, app, user, reached),
        full_resync,
        rows,
        more,
    })
}

/// The rows that references name, up to what fits an answer: with the version of the last, and whether some are left.
async fn rows(
    snapshot: &dyn Snapshot,
    keys: &UserKeys,
    references: &[(Bytes, Bytes)],
) -> Result<(Vec<ConversationRow>, Option<SyncVersion>, bool), Failure> {
    let mut versions = Vec::with_capacity(references.len());
    let mut row_keys = Vec::with_capacity(references.len());
    for (key, value) in references {
        let reference: storage::RowRef = values::decode(value)?;
        row_keys.push(keys.row(&ConversationId::from_wire(&reference.conversation)?));
        versions.push(SyncVersion(trailing_u64(key).unwrap_or_default()));
    }
    let stored = snapshot.multi_get(&row_keys).await?;
    let (mut rows, mut last, mut bytes) = (Vec::with_capacity(stored.len()), None, 0);
    for (value, version) in stored.iter().zip(versions) {
        if bytes > ROWS_BYTES_MAX {
            return Ok((rows, last, true));
        }
        let value = value.as_ref().ok_or_else(|| {
            Failure::new(
                Code::Internal,
                "a row of the conversation list is missing: the store is damaged",
            )
        })?;
        let row: storage::Row = values::decode(value)?;
        bytes += row.row.len();
        rows.push(ConversationRow::decode(row.row).map_err(|error| {
            Failure::new(
                Code::Internal,
                format!("a row of the conversation list does not parse: {error}"),
            )
        })?);
        last = Some(version);
    }
    Ok((rows, last, false))
}
