//! The seam after the commit: what became durable, for whoever tells the world.
//!
//! The committer hands each conversation's part of a commit to a [`CommitSink`], once, after it is durable and before its
//! operations are answered. Pushing, the users' rows and the deletion of markers happen behind it; nothing here waits
//! for them, for the marker in the same commit makes up for what is lost.

use std::sync::Arc;

use whimbrel_protocol::client;
use whimbrel_protocol::ids::{AppKey, ConversationId, Rev, Seq, Uid, UserId};

use crate::keys::MarkerKey;

/// Takes what was committed. Called on the committer's task: it must queue and return.
pub trait CommitSink: Send + Sync + 'static {
    /// `committed` is durable. What is dropped here is redone from its marker.
    fn committed(&self, committed: Committed);

    /// A commit that may be durable was given up: if it is, nothing follows from it but by its markers.
    fn left_undecided(&self) {}
}

/// One conversation's part of one commit.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The app.
    pub app: AppKey,
    /// The conversation.
    pub conversation: ConversationId,
    /// New entries (their `rev` is 0) and changed ones (as they are now), ascending by seq.
    pub entries: Vec<client::Entry>,
    /// The last seq after the commit.
    pub head_seq: Seq,
    /// The rev after the commit.
    pub head_rev: Rev,
    /// Grew with name, members or roles.
    pub info_version: u64,
    /// What kinds of change it holds.
    pub changed: Changed,
    /// Who is concerned: members before or after the commit, the sender among them; of `only_user`, that one alone.
    /// Who may see which entry says each [`Recipient`].
    pub recipients: Arc<Members>,
    /// Delete it once all recipients' rows are durable.
    pub marker: MarkerKey,
    /// A read mark concerns only this user's row.
    pub only_user: Option<UserId>,
}

/// What a commit changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// New entries.
    pub entries: bool,
    /// Existing entries.
    pub rev: bool,
    /// Members, roles or the name.
    pub info: bool,
    /// Somebody's read_seq.
    pub read: bool,
}

/// The members of a conversation as of one commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Ascending by user id.
    pub list: Vec<Recipient>,
}

impl Members {
    /// The member with this user id.
    #[must_use]
    pub fn by_id(&self, user: UserId) -> Option<&Recipient> {
        let at = self.list.binary_search_by_key(&user, |member| member.user).ok()?;
        self.list.get(at)
    }
}

/// Somebody concerned by a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The user.
    pub user: UserId,
    /// As the customer names them.
    pub uid: Uid,
    /// Their role; of somebody removed, the one they had.
    pub role: client::Role,
    /// The lowest seq that may be delivered to them.
    pub first_visible_seq: Seq,
    /// The highest: the entry that tells of their removal; `Seq(u64::MAX)` for a member.
    pub last_visible_seq: Seq,
}

impl Recipient {
    /// Whether the entry at `seq` may be delivered to them.
    #[must_use]
    pub fn sees(&self, seq: Seq) -> bool {
        self.first_visible_seq <= seq && seq <= self.last_visible_seq
    }

    /// Whether they are a member after the commit.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.last_visible_seq == Seq(u64::MAX)
    }
}
