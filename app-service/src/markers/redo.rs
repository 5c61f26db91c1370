//! Doing again what follows a commit, from its marker alone.

use std::sync::Arc;

use bytes::Bytes;
use whimbrel_protocol::ids::{ConversationKind, UserId};
use whimbrel_store::limits::SCAN_LIMIT_MAX;
use whimbrel_store::{Direction, Snapshot, Store, StoreError};

use crate::keys::{ConversationKeys, MarkerKey, MarkerSubject, trailing_u64};
use crate::ticket::{Outcome, Ticket};
use crate::user_lane::{Lanes, RowKey, Tell};
use crate::values::{self, ValueError, storage};

/// Why a marker's work could not even be begun.
#[derive(Debug, thiserror::Error)]
pub enum RedoError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it holds cannot be read.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// Takes up markers' work. Clones share.
#[derive(Clone)]
pub struct Redo {
    store: Arc<dyn Store>,
    lanes: Arc<Lanes>,
}

impl Redo {
    /// Reads from `store`, has rows written by `lanes`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, lanes: Arc<Lanes>) -> Self {
        Self { store, lanes }
    }

    /// Rows waiting in the lanes.
    #[must_use]
    pub fn rows_waiting(&self) -> usize {
        self.lanes.waiting()
    }

    /// Has the rows that follow this marker written and their users told, whether or not they were; `end` hears how it
    /// went. A marker that is gone is done.
    ///
    /// # Errors
    /// When the store cannot be read; `end` then hears that the work was lost.
    pub async fn redo(
        &self,
        marker: &MarkerKey,
        end: impl FnOnce(Outcome) + Send + 'static,
    ) -> Result<(), RedoError> {
        let users = match self.concerned(marker).await {
            Ok(users) => users,
            Err(error) => {
                end(Outcome::Lost);
                return Err(error);
            }
        };
        for (user, ticket) in users.iter().zip(Ticket::issue(users.len(), end)) {
            let key = RowKey {
                app: marker.app.clone(),
                user: *user,
                conversation: marker.conversation,
            };
            self.lanes.submit_here(key, Tell::Always, ticket);
        }
        Ok(())
    }

    /// Whose rows follow: today's members and those whom the commit removed. One who was removed later has a later marker.
    async fn concerned(&self, marker: &MarkerKey) -> Result<Vec<UserId>, RedoError> {
        let keys = ConversationKeys::new(&marker.app, marker.conversation);
        let snapshot = self.store.snapshot().await?;
        let read = snapshot.multi_get(&[marker.encode(), keys.head()]).await?;
        let [Some(value), head] = read.as_slice() else {
            return Ok(Vec::new());
        };
        if let MarkerSubject::OneUser { user, .. } = marker.subject {
            return Ok(vec![user]);
        }
        let value: storage::Marker = values::decode(value)?;
        let mut users: Vec<UserId> = value.removed_user_ids.into_iter().map(UserId).collect();
        match marker.conversation.kind() {
            ConversationKind::Direct => users.extend(peers(head.as_ref())?),
            ConversationKind::Group => users.extend(roster(&*snapshot, &keys).await?),
        }
        users.sort_unstable();
        users.dedup();
        Ok(users)
    }
}

fn peers(head: Option<&Bytes>) -> Result<Vec<UserId>, ValueError> {
    let Some(head) = head else { return Ok(Vec::new()) };
    let head: storage::Head = values::decode(head)?;
    Ok(head.peers.iter().map(|peer| UserId(peer.user_id)).collect())
}

async fn roster(snapshot: &dyn Snapshot, keys: &ConversationKeys) -> Result<Vec<UserId>, StoreError> {
    let mut users = Vec::new();
    let mut rest = Some(keys.roster());
    while let Some(range) = rest {
        let page = snapshot.scan(range, SCAN_LIMIT_MAX, Direction::Forward).await?;
        users.extend(
            page.entries
                .iter()
                .filter_map(|(key, _)| trailing_u64(key))
                .map(UserId),
        );
        rest = page.next;
    }
    Ok(users)
}
