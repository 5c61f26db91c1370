//! What happened, as seen from outside the server: what users did, what they were told, what their devices were shown.
//!
//! Plain data, filled by [`crate::ledger`] and [`crate::device`], judged by [`crate::checker`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use whimbrel_sdk::{ConversationId, GroupChangeKind};

/// A user, by the customer's name for them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct User(pub(crate) Arc<str>);

impl User {
    pub(crate) fn new(uid: &str) -> Self {
        Self(uid.into())
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device of a user, unique in a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeviceName(pub(crate) Arc<str>);

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything the checker knows. Times count from the start of the run.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Every conversation there is.
    pub(crate) conversations: BTreeMap<ConversationId, Talk>,
    /// Every message handed over, in that order.
    pub(crate) sent: Vec<Sent>,
    /// Every change of a group asked for; those of one group one after the other.
    pub(crate) changes: Vec<ChangeAsked>,
    /// How far users said they had read.
    pub(crate) marks: BTreeMap<(User, ConversationId), u64>,
    /// What each device was shown.
    pub(crate) views: Vec<View>,
}

/// Who talks in a conversation.
#[derive(Debug, Clone)]
pub(crate) enum Talk {
    /// These two, always.
    Direct([User; 2]),
    /// Whom its log says.
    Group {
        /// Newcomers see what was before them.
        open_history: bool,
    },
}

/// A message that was handed over.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) device: DeviceName,
    pub(crate) user: User,
    pub(crate) conversation: ConversationId,
    /// Unique in a run.
    pub(crate) text: Arc<str>,
    /// It was not on its way before.
    pub(crate) begun_at: Duration,
    /// What its sender was told; more than one when it was sent again with the same operation id.
    pub(crate) answers: Vec<Answer>,
    /// The code with which it was refused for good.
    pub(crate) refused: Option<u32>,
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    /// It had arrived by then.
    pub(crate) at: Duration,
}

/// A change of a group's members that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct ChangeAsked {
    pub(crate) conversation: ConversationId,
    pub(crate) kind: GroupChangeKind,
    pub(crate) user: User,
    /// The server said that it is done.
    pub(crate) acknowledged: bool,
}

/// What one device was shown, in the order in which it was.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) device: DeviceName,
    pub(crate) user: User,
    /// Entries of conversations.
    pub(crate) entries: BTreeMap<ConversationId, Vec<Entry>>,
    /// Each row of the conversation list, as it changed.
    pub(crate) rows: BTreeMap<ConversationId, Vec<Row>>,
    /// Entries that were said to be different now.
    pub(crate) changed: Vec<(ConversationId, u64)>,
}

impl View {
    /// Of a device that was shown nothing yet.
    pub(crate) fn new(device: DeviceName, user: User) -> Self {
        Self {
            device,
            user,
            entries: BTreeMap::new(),
            rows: BTreeMap::new(),
            changed: Vec::new(),
        }
    }
}

/// An entry of a conversation's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    pub(crate) sender: User,
    pub(crate) body: Body,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Text(Arc<str>),
    Change { kind: GroupChangeKind, users: Vec<User> },
    Other(String),
}

/// A row of the conversation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) head_seq: u64,
    pub(crate) read_seq: u64,
    pub(crate) unread: u64,
    pub(crate) member: bool,
    pub(crate) first_visible_seq: u64,
}
