//! One thing that happened, and how a history takes it in.

use std::time::Duration;

use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::ids::ConversationId;

use super::cursors::Cursors;
use super::history::{
    Answer, ChangeAsked, ChangeDone, DeviceFacts, Entry, History, LiveSessions, Row, Sent, Showing, Shown,
    Talk,
};
use super::names::{Device, Text, User};

/// One thing that happened. A history is the fold of many; those of one device, and those of one conversation's changes, in
/// the order in which they happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is this device.
    Device {
        /// Its user's uid.
        uid: String,
        /// Its name, unique with the uid.
        name: String,
        /// What it promises about what it shows.
        showing: Showing,
    },
    /// There is this conversation.
    Talk {
        /// Which.
        id: ConversationId,
        /// Who talks in it.
        talk: Talk,
        /// Entries up to this one are of earlier runs; 0 when it is new.
        base_seq: u64,
    },
    /// A message is about to be handed over.
    Begun {
        /// Into which conversation.
        id: ConversationId,
        /// By which device.
        device: Device,
        /// Of which user.
        user: User,
        /// What it says; never said before.
        text: Text,
        /// When.
        at: Duration,
    },
    /// Its sender was told its place; again, if it was sent again.
    Answered {
        /// Of which conversation.
        id: ConversationId,
        /// Which message.
        text: Text,
        /// What the answer was.
        answer: Answer,
    },
    /// Its sender was told that it will never be there.
    Refused {
        /// Of which conversation.
        id: ConversationId,
        /// Which message.
        text: Text,
        /// Why: a code of the protocol.
        code: u32,
        /// It had arrived by then.
        at: Duration,
    },
    /// A change of a group is about to be asked for, the one before it done.
    ChangeAsked {
        /// Which group.
        id: ConversationId,
        /// What is to change.
        kind: ChangeKind,
        /// For whom.
        user: User,
        /// When.
        at: Duration,
    },
    /// The last change asked for is done.
    ChangeDone {
        /// In which group.
        id: ConversationId,
        /// The answer.
        done: ChangeDone,
    },
    /// A group is called so.
    Named {
        /// Which group.
        id: ConversationId,
        /// Its name.
        name: Text,
    },
    /// A user is about to say how far they have read.
    Marked {
        /// Where.
        id: ConversationId,
        /// Who.
        user: User,
        /// How far.
        read_seq: u64,
    },
    /// A device was shown an entry.
    Shown {
        /// Of this conversation.
        id: ConversationId,
        /// The device.
        device: Device,
        /// What it was shown.
        entry: Entry,
    },
    /// A device was told that an entry is different now.
    Changed {
        /// Of this conversation.
        id: ConversationId,
        /// The device.
        device: Device,
        /// Which entry.
        seq: u64,
    },
    /// A device was given a row of the conversation list.
    Row {
        /// Of this conversation.
        id: ConversationId,
        /// The device.
        device: Device,
        /// The row.
        row: Row,
    },
    /// A device was brought a row and left it out, as one of a notice that does not go on from where it is.
    LeftOut {
        /// Of this conversation.
        id: ConversationId,
        /// The device.
        device: Device,
        /// The row.
        row: Row,
    },
    /// A device's cursor of the conversation list was moved. Cursors are hashes of their bytes, and
    /// [`EMPTY`](super::cursors::EMPTY).
    Synced {
        /// Which device.
        device: Device,
        /// The cursor that was asked with, or that a notice goes on from.
        from: u64,
        /// The cursor afterwards.
        to: u64,
        /// The server said to forget all rows first.
        full_resync: bool,
    },
    /// A device could not read to the end, as the server was not reachable: what it was not shown says nothing.
    Unread {
        /// Which device.
        device: Device,
    },
    /// At rest: what a device's connections say.
    Sessions {
        /// Which device.
        device: Device,
        /// What they say.
        sessions: LiveSessions,
    },
}

impl Event {
    /// The conversation that it belongs to; `None` for what every part of a history must know.
    #[must_use]
    pub fn conversation(&self) -> Option<ConversationId> {
        match self {
            Self::Device { .. } | Self::Synced { .. } | Self::Unread { .. } | Self::Sessions { .. } => None,
            Self::Talk { id, .. }
            | Self::Begun { id, .. }
            | Self::Answered { id, .. }
            | Self::Refused { id, .. }
            | Self::ChangeAsked { id, .. }
            | Self::ChangeDone { id, .. }
            | Self::Named { id, .. }
            | Self::Marked { id, .. }
            | Self::Shown { id, .. }
            | Self::Changed { id, .. }
            | Self::Row { id, .. }
            | Self::LeftOut { id, .. } => Some(*id),
        }
    }
}

impl History {
    /// Takes in what happened next.
    ///
    /// An answer to a message that was never begun, and the end of a change that was never asked for, say nothing and are left
    /// out: whoever writes the account begins before it acts.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Device { uid, name, showing } => {
                let user = self.names.add_user(&uid);
                let device = self.names.add_device(&uid, &name);
                self.devices.entry(device).or_insert(DeviceFacts {
                    user,
                    showing,
                    live: None,
                    unread: false,
                    cursors: Cursors::default(),
                });
            }
            Event::Talk { id, talk, base_seq } => {
                let conversation = self.conversations.entry(id).or_default();
                conversation.talk = Some(talk);
                conversation.base_seq = base_seq;
            }
            Event::Begun {
                id,
                device,
                user,
                text,
                at,
            } => self.conversations.entry(id).or_default().push_sent(Sent {
                device,
                user,
                text,
                begun_at: at,
                answers: Vec::new(),
                refused: None,
                refused_at: None,
            }),
            Event::Answered { id, text, answer } => {
                if let Some(sent) = self.sent_mut(id, text) {
                    sent.answers.push(answer);
                }
            }
            Event::Refused { id, text, code, at } => {
                if let Some(sent) = self.sent_mut(id, text) {
                    sent.refused = Some(code);
                    sent.refused_at.get_or_insert(at);
                }
            }
            Event::ChangeAsked { id, kind, user, at } => {
                self.conversations
                    .entry(id)
                    .or_default()
                    .changes
                    .push(ChangeAsked {
                        kind,
                        user,
                        asked_at: at,
                        done: None,
                    });
            }
            Event::ChangeDone { id, done } => {
                let changes = self
                    .conversations
                    .get_mut(&id)
                    .map(|conversation| &mut conversation.changes);
                if let Some(change) = changes.and_then(|changes| changes.last_mut()) {
                    change.done = Some(done);
                }
            }
            Event::Named { id, name } => {
                self.conversations.entry(id).or_default().name = Some(name);
            }
            Event::Marked { id, user, read_seq } => {
                let marks = &mut self.conversations.entry(id).or_default().marks;
                let mark = marks.entry(user).or_default();
                *mark = read_seq.max(*mark);
            }
            Event::Shown { id, device, entry } => {
                let conversation = self.conversations.entry(id).or_default();
                let asked = conversation.changes.len();
                let shown = conversation.shown.entry(device).or_default();
                if shown.asked.last().map_or(0, |(_, before)| *before) != asked {
                    shown.asked.push((shown.entries.len(), asked));
                }
                shown.entries.push(entry);
            }
            Event::Synced {
                device,
                from,
                to,
                full_resync,
            } => {
                if let Some(facts) = self.devices.get_mut(&device) {
                    facts.cursors.take(from, to, full_resync);
                }
            }
            Event::Unread { device } => {
                if let Some(facts) = self.devices.get_mut(&device) {
                    facts.unread = true;
                }
            }
            Event::Changed { id, device, seq } => self.shown_mut(id, device).changed.push(seq),
            Event::Row { id, device, row } => self.shown_mut(id, device).rows.push(row),
            Event::LeftOut { id, device, row } => self.shown_mut(id, device).left_out.push(row),
            Event::Sessions { device, sessions } => {
                if let Some(facts) = self.devices.get_mut(&device) {
                    facts.live = Some(sessions);
                }
            }
        }
    }

    fn sent_mut(&mut self, id: ConversationId, text: Text) -> Option<&mut Sent> {
        self.conversations.get_mut(&id)?.sent_mut(text)
    }

    fn shown_mut(&mut self, id: ConversationId, device: Device) -> &mut Shown {
        let conversation = self.conversations.entry(id).or_default();
        conversation.shown.entry(device).or_default()
    }
}
