//! One user's view of one conversation, from one snapshot.

use bytes::Bytes;
use whimbrel_protocol::client;
use whimbrel_protocol::ids::{ConversationId, ConversationKind, Rev, Seq, UserId};
use whimbrel_store::{Direction, Snapshot};

use crate::failure::Failure;
use crate::keys::ConversationKeys;
use crate::log::LogEntry;
use crate::log::open_direct::peer_of;
use crate::values::decode;
use crate::values::storage::{Head, Member};

/// The head, and the user's own row.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub(crate) keys: ConversationKeys,
    user: UserId,
    /// The conversation's head.
    pub head: Head,
    /// The user's own state, whether they are a member still or were one.
    pub member: Member,
}

impl View {
    /// The view of `user`; `None` when they never were a member, or there is no such conversation.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(
        snapshot: &dyn Snapshot,
        keys: ConversationKeys,
        user: UserId,
    ) -> Result<Option<Self>, Failure> {
        let values = snapshot.multi_get(&[keys.head(), keys.member(user)]).await?;
        Self::from_values(keys, user, &values)
    }

    /// The views of several (conversation, user) pairs from one read, in their order; at most 2,000 pairs.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load_many(
        snapshot: &dyn Snapshot,
        pairs: &[(ConversationKeys, UserId)],
    ) -> Result<Vec<Option<Self>>, Failure> {
        let wanted: Vec<Bytes> = pairs
            .iter()
            .flat_map(|(keys, user)| [keys.head(), keys.member(*user)])
            .collect();
        let values = snapshot.multi_get(&wanted).await?;
        pairs
            .iter()
            .zip(values.chunks(2))
            .map(|((keys, user), values)| Self::from_values(keys.clone(), *user, values))
            .collect()
    }

    fn from_values(
        keys: ConversationKeys,
        user: UserId,
        values: &[Option<Bytes>],
    ) -> Result<Option<Self>, Failure> {
        let [Some(head), Some(member)] = values else {
            return Ok(None);
        };
        Ok(Some(Self {
            keys,
            user,
            head: decode(head)?,
            member: decode(member)?,
        }))
    }

    /// The conversation.
    #[must_use]
    pub fn conversation(&self) -> ConversationId {
        self.keys.conversation()
    }

    /// The last seq the user may see.
    #[must_use]
    pub fn head_seq(&self) -> Seq {
        self.member.last_visible_seq(&self.head)
    }

    /// The last rev the user may see.
    #[must_use]
    pub fn head_rev(&self) -> Rev {
        self.member.last_visible_rev(&self.head)
    }

    /// Entries the user has not read, exact.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.member.unread(&self.head)
    }

    /// Direct: the other's uid. Group: empty.
    #[must_use]
    pub fn peer_uid(&self) -> &str {
        peer_of(&self.head, self.user).map_or("", |peer| &peer.uid)
    }

    /// Refuses who has left.
    pub(crate) fn require_current(&self) -> Result<(), Failure> {
        if self.member.current {
            Ok(())
        } else {
            Err(Failure::not_member())
        }
    }

    /// The newest entry the user may see.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn newest_entry(&self, snapshot: &dyn Snapshot) -> Result<Option<LogEntry>, Failure> {
        let newest = self.head_seq();
        if newest.0 == 0 || !self.member.sees(newest) {
            return Ok(None);
        }
        let page = snapshot
            .scan(self.keys.entries(Seq(1), newest), 1, Direction::Reverse)
            .await?;
        let newest = page
            .entries
            .first()
            .map(|(_, value)| LogEntry::decode(value))
            .transpose()?;
        Ok(newest.filter(|entry| self.member.sees(entry.seq())))
    }

    /// The user's row as their conversation list shows it; `preview` is what [`newest_entry`](Self::newest_entry) gave,
    /// shortened or not.
    #[must_use]
    pub fn row(&self, preview: Option<client::Entry>) -> client::ConversationRow {
        client::ConversationRow {
            conversation: Bytes::copy_from_slice(self.conversation().as_bytes()),
            kind: client_kind(self.conversation()).into(),
            head_seq: self.head_seq().0,
            head_rev: self.head_rev().0,
            info_version: self.head.info_version,
            read_seq: self.member.read_seq,
            unread: self.unread(),
            time_ms: preview
                .as_ref()
                .map_or(self.head.created_ms, |entry| entry.time_ms),
            preview,
            member: self.member.current,
            peer_uid: self.peer_uid().to_owned(),
            name: self.head.name.clone(),
            first_visible_seq: self.member.first_visible_seq().0,
        }
    }
}

fn client_kind(conversation: ConversationId) -> client::ConversationKind {
    match conversation.kind() {
        ConversationKind::Direct => client::ConversationKind::Direct,
        ConversationKind::Group => client::ConversationKind::Group,
    }
}

/// A conversation's outer facts, as a member is told.
#[must_use]
pub fn conversation_info(
    conversation: ConversationId,
    user: UserId,
    head: &Head,
    member: &Member,
) -> client::Conversation {
    client::Conversation {
        conversation: Bytes::copy_from_slice(conversation.as_bytes()),
        kind: client_kind(conversation).into(),
        peer_uid: peer_of(head, user).map_or_else(String::new, |peer| peer.uid.clone()),
        name: head.name.clone(),
        owner_uid: head.owner_uid.clone(),
        member_count: head.member_count,
        head_seq: member.last_visible_seq(head).0,
        head_rev: member.last_visible_rev(head).0,
        info_version: head.info_version,
        my_role: member.client_role().into(),
        history_for_newcomers: head.history_for_newcomers,
    }
}
