//! One user's view of one conversation, from one snapshot.

use bytes::Bytes;
use whimbrel_protocol::client;
use whimbrel_protocol::ids::{ConversationId, ConversationKind, Rev, Seq, UserId};
use whimbrel_store::Snapshot;

use crate::failure::Failure;
use crate::keys::ConversationKeys;
use crate::log::open_direct::peer_of;
use crate::values::decode;
use crate::values::storage::{Head, Member};

/// The head, and the user's own row.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub(crate) keys: ConversationKeys,
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
        let [Some(head), Some(member)] = &*values else {
            return Ok(None);
        };
        Ok(Some(Self {
            keys,
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

    /// Refuses who has left.
    pub(crate) fn require_current(&self) -> Result<(), Failure> {
        if self.member.current {
            Ok(())
        } else {
            Err(Failure::not_member())
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
