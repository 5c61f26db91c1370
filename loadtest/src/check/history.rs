//! What happened, as seen from outside the server: what users did, what they were told, what their devices were shown.
//!
//! Plain data, filled by [`Event`](super::Event)s, judged by [`check`](super::check).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::ids::ConversationId;

use super::cursors::Cursors;
use super::names::{Device, Names, Text, User};

/// Everything the judge knows. Times count from any one moment, the same for all.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Every device there was.
    pub devices: BTreeMap<Device, DeviceFacts>,
    /// What happened in each conversation.
    pub conversations: BTreeMap<ConversationId, Conversation>,
    /// For texts of violations.
    pub names: Names,
}

/// A device, and where its connection stood in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Whose it is.
    pub user: User,
    /// How it shows what it receives.
    pub showing: Showing,
    /// The login epochs of the sessions that are live at rest; at most the newest may be.
    pub live: Option<LiveSessions>,
    /// It could not read to the end: what it was not shown says nothing.
    pub unread: bool,
    /// How its cursor of the conversation list moved.
    pub cursors: Cursors,
}

/// What a device's connections say at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveSessions {
    /// The highest epoch that was ever granted a session.
    pub newest_epoch: u64,
    /// The highest epoch among those still live.
    pub live_epoch: u64,
    /// How many of the device's sessions are live.
    pub count: u32,
}

/// What a device promises about what it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// Like a device of a user: everything once, in order, without holes.
    InOrder,
    /// As it comes from the server: everything, as often as it comes and in any order.
    AsItComes,
    /// Nothing: it is there to be logged in, and asks for nothing. What is pushed to it must be its user's all the same.
    Nothing,
}

/// What happened in one conversation.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Who talks in it; `None` when nobody of the run opened it.
    pub talk: Option<Talk>,
    /// Entries up to this one are of earlier runs: whoever sent them is not asked.
    pub base_seq: u64,
    /// Every message handed over; those of one device in that order.
    pub sent: Vec<Sent>,
    /// Every change of its members asked for; one after the other.
    pub changes: Vec<ChangeAsked>,
    /// What a group is called, if the account says; a direct conversation has no name.
    pub name: Option<Text>,
    /// How far users said they had read.
    pub marks: BTreeMap<User, u64>,
    /// What each device was shown.
    pub shown: BTreeMap<Device, Shown>,
    /// Where in `sent` a text is.
    pub(super) places: HashMap<Text, usize>,
}

/// Who talks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// These two, always.
    Direct([User; 2]),
    /// Whom its log says.
    Group {
        /// Newcomers see what was before them.
        open_history: bool,
    },
}

/// A message that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// By which device.
    pub device: Device,
    /// Whose.
    pub user: User,
    /// Unique in a run.
    pub text: Text,
    /// It was not on its way before.
    pub begun_at: Duration,
    /// What its sender was told; more than one when it was sent again with the same operation id.
    pub answers: Vec<Answer>,
    /// The code with which it was refused for good.
    pub refused: Option<u32>,
    /// When that was told for the first time.
    pub refused_at: Option<Duration>,
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The place it was given.
    pub seq: u64,
    /// The time it was given, unix milliseconds of the server.
    pub time_ms: u64,
    /// It had arrived by then.
    pub at: Duration,
}

/// A change of a group's members that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeAsked {
    /// Invited, left, removed, ...
    pub kind: ChangeKind,
    /// To whom it happens.
    pub user: User,
    /// When.
    pub asked_at: Duration,
    /// The server said that it is done.
    pub done: Option<ChangeDone>,
}

/// The answer to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeDone {
    /// The entry that tells of it, as the answer says; `None` when whoever wrote the account was not told.
    pub seq: Option<u64>,
    /// It had arrived by then.
    pub at: Duration,
}

/// What one device was shown of one conversation, in the order in which it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Its entries.
    pub entries: Vec<Entry>,
    /// From which entry on how many changes of the group had been asked for; none before the first.
    pub asked: Vec<(usize, usize)>,
    /// Its row of the conversation list, as it changed.
    pub rows: Vec<Row>,
    /// Rows that it was brought and left out, in any order.
    pub left_out: Vec<Row>,
    /// Entries that were said to be different now.
    pub changed: Vec<u64>,
}

/// An entry of a conversation's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub seq: u64,
    /// Its time, unix milliseconds of the server.
    pub time_ms: u64,
    /// Who sent it, or did what it records.
    pub sender: User,
    /// A hash of what else of it is the same for all, the sender's id of it and the running count; 0 when the account does
    /// not say.
    pub rest: u64,
    /// What it says.
    pub body: Body,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A message.
    Text {
        /// What it says.
        text: Text,
        /// The conversation that the text itself says it is for.
        meant_for: Option<ConversationId>,
    },
    /// A change of the group.
    Change {
        /// What changed.
        kind: ChangeKind,
        /// Those it happened to.
        users: Vec<User>,
    },
    /// Anything that nobody in the run has sent.
    Other(String),
}

impl Body {
    /// A message of this text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text {
            text: Text::of(text),
            meant_for: Text::conversation(text),
        }
    }
}

/// A row of the conversation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The newest seq the user may see.
    pub head_seq: u64,
    /// Read up to here.
    pub read_seq: u64,
    /// Messages of others after that.
    pub unread: u64,
    /// False after leaving or removal.
    pub member: bool,
    /// The lowest seq the user may see.
    pub first_visible_seq: u64,
    /// What else it shows, where the account says.
    pub shows: Option<Shows>,
}

/// What a row shows beside numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shows {
    /// The other one of a direct conversation.
    pub peer: Option<User>,
    /// The name of a group.
    pub name: Option<Text>,
    /// The newest entry.
    pub preview: Option<Preview>,
}

/// An entry in a row, which may be cut: what of it is never cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preview {
    /// As of [`Entry`].
    pub seq: u64,
    /// As of [`Entry`].
    pub time_ms: u64,
    /// As of [`Entry`].
    pub sender: User,
    /// As of [`Entry`].
    pub rest: u64,
    /// The conversation that its text says it is for.
    pub meant_for: Option<ConversationId>,
}

impl Shown {
    /// How many changes of the group had been asked for when this entry of the list was shown.
    #[must_use]
    pub fn asked_before(&self, entry: usize) -> usize {
        let begun = self.asked.partition_point(|(from, _)| *from <= entry);
        let last = begun.checked_sub(1).and_then(|at| self.asked.get(at));
        last.map_or(0, |(_, asked)| *asked)
    }
}

impl History {
    /// Forgets how cursors moved: for copies of a history whose devices were judged.
    pub(super) fn forget_cursors(&mut self) {
        for facts in self.devices.values_mut() {
            facts.cursors = Cursors::default();
        }
    }
}

impl Conversation {
    /// A message was handed over.
    pub fn push_sent(&mut self, sent: Sent) {
        self.places.insert(sent.text, self.sent.len());
        self.sent.push(sent);
    }

    /// The message of this text, if it was sent here.
    pub fn sent_mut(&mut self, text: Text) -> Option<&mut Sent> {
        let place = *self.places.get(&text)?;
        self.sent.get_mut(place)
    }
}
