//! Before anybody chats: direct conversations are opened, groups created and filled, by requests of their first member.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::RngExt as _;
use whimbrel_protocol::client;
use whimbrel_protocol::client_session::Failure;
use whimbrel_protocol::ids::{ConversationId, OperationId};
use whimbrel_protocol::method::Method;

use super::Chat;
use super::person::{Ask, Person};
use crate::engine::SeatId;
use crate::wire::{Wire, request};

/// Members named in one request: below the server's 500.
const MEMBERS_PER_STEP: usize = 400;

/// Conversations being made at once: enough to fill commits, too few to be a load test of its own.
const AT_ONCE: usize = 64;

/// Before a step that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How far a conversation's making has come.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The group, once it is created.
    created: Option<ConversationId>,
    /// Members that are in, the maker first.
    members_in: usize,
    /// Of the step that is under way, over its attempts.
    operation: Option<OperationId>,
    asked: bool,
    again_at: Duration,
    done: bool,
    /// Of the last attempt.
    failure: Option<String>,
}

impl Step {
    /// A member lost its connection.
    pub(super) fn lost(&mut self, was_maker: bool) {
        if was_maker {
            self.asked = false;
        }
    }
}

/// Which conversations are still to be made.
#[derive(Debug)]
pub(super) struct Preparing {
    open: Vec<usize>,
    look: bool,
}

impl Preparing {
    pub(super) fn new(count: usize) -> Self {
        Self {
            open: (0..count).rev().collect(),
            look: true,
        }
    }

    /// Something changed: it is worth a look.
    pub(super) const fn wake(&mut self) {
        self.look = true;
    }
}

/// Conversations that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{open} of {all} conversations could not be opened in time (--connect-within): {why}")]
pub struct Unprepared {
    open: usize,
    all: usize,
    why: String,
}

impl Chat {
    /// Goes on with the conversations that are to be made: whether all are.
    pub fn prepare(&mut self, now: Duration, wire: &mut dyn Wire) -> bool {
        if !std::mem::take(&mut self.preparing.look) {
            return self.preparing.open.is_empty();
        }
        let conversations = &self.conversations;
        self.preparing
            .open
            .retain(|talk| conversations.get(*talk).is_some_and(|talk| !talk.preparing.done));
        let front = self.preparing.open.len().saturating_sub(AT_ONCE);
        let active: Vec<usize> = self.preparing.open.get(front..).unwrap_or_default().to_vec();
        for talk in active {
            self.prepare_one(talk, now, wire);
        }
        self.preparing.open.is_empty()
    }

    /// When [`Chat::prepare`] is worth calling although nothing happened.
    #[must_use]
    pub fn prepare_due(&self, now: Duration) -> Duration {
        now + AGAIN_AFTER / 5
    }

    /// What could not be made.
    ///
    /// # Errors
    /// When there is any of it.
    pub fn all_prepared(&self) -> Result<(), Unprepared> {
        let undone = self.conversations.iter().filter(|talk| !talk.preparing.done);
        let why = undone.clone().find_map(|talk| talk.preparing.failure.clone());
        match undone.count() {
            0 => Ok(()),
            open => Err(Unprepared {
                open,
                all: self.conversations.len(),
                why: why.unwrap_or_else(|| "no answer came".to_owned()),
            }),
        }
    }

    fn prepare_one(&mut self, talk: usize, now: Duration, wire: &mut dyn Wire) {
        let Some(conversation) = self.conversations.get_mut(talk) else {
            return;
        };
        let open_history = conversation.has_open_history(talk);
        let step = &mut conversation.preparing;
        let Some(maker) = conversation.members.first().copied() else {
            step.done = true;
            return;
        };
        if step.asked || step.done || now < step.again_at {
            self.preparing.look |= !step.asked;
            return;
        }
        let uid_of = |seat: &SeatId| self.people.get(seat.index()).map(|person| person.uid.clone());
        let rest = conversation
            .members
            .get(step.members_in.max(1)..)
            .unwrap_or_default();
        let uids: Vec<String> = rest.iter().take(MEMBERS_PER_STEP).filter_map(uid_of).collect();
        let made = match (
            self.options.group_size <= 2 && conversation.members.len() == 2,
            step.created,
        ) {
            (true, _) => {
                let uid = uids.into_iter().next().unwrap_or_default();
                request(Method::OpenDirect, None, &client::OpenDirectRequest { uid })
            }
            (false, created) => {
                let server_ms = wire.server_ms(now);
                let operation = step
                    .operation
                    .get_or_insert_with(|| OperationId::new(server_ms, self.rng.random()));
                let operation_id = Bytes::copy_from_slice(operation.as_bytes());
                match created {
                    None => {
                        let message = client::CreateGroupRequest {
                            operation_id,
                            name: group_name(self.options.run, self.people.get(maker.index())),
                            member_uids: uids,
                            history_for_newcomers: open_history,
                        };
                        request(Method::CreateGroup, None, &message)
                    }
                    Some(id) => {
                        let message = client::InviteRequest {
                            operation_id,
                            conversation: Bytes::copy_from_slice(id.as_bytes()),
                            uids,
                        };
                        request(Method::Invite, Some(&id), &message)
                    }
                }
            }
        };
        match wire.ask(maker, made, now) {
            Ok(id) => {
                step.asked = true;
                if let Some(person) = self.people.get_mut(maker.index()) {
                    person.asks.push((id, Ask::Prepare));
                }
            }
            Err(error) => {
                step.failure = Some(error.to_string());
                step.again_at = now + AGAIN_AFTER;
                self.preparing.look = true;
            }
        }
    }

    pub(super) fn take_prepared(&mut self, seat: SeatId, result: Result<Bytes, Failure>, now: Duration) {
        self.preparing.wake();
        let Some(talk) = self.people.get(seat.index()).map(|person| person.talk) else {
            return;
        };
        let Some(conversation) = self.conversations.get_mut(talk) else {
            return;
        };
        let direct = self.options.group_size <= 2 && conversation.members.len() == 2;
        let step = &mut conversation.preparing;
        step.asked = false;
        let taken = result
            .map_err(|failure| failure.to_string())
            .and_then(|body| read_made(direct, body));
        let (id, head_seq) = match taken {
            Ok(taken) => taken,
            Err(why) => {
                step.failure = Some(why);
                step.again_at = now + AGAIN_AFTER;
                return;
            }
        };
        step.operation = None;
        step.created = Some(id);
        step.members_in = (step.members_in.max(1) + MEMBERS_PER_STEP).min(conversation.members.len());
        if direct || step.members_in == conversation.members.len() {
            step.done = true;
            self.conversation_is(talk, id, head_seq);
        }
    }
}

/// What a group is called: after the run and its maker, so that none is called like another.
pub(super) fn group_name(run: u32, maker: Option<&Person>) -> String {
    let maker = maker.map_or(0, |person| person.device.user.0);
    format!("load {run:08x} of {maker}")
}

/// The conversation, and how far its log goes.
fn read_made(direct: bool, body: Bytes) -> Result<(ConversationId, u64), String> {
    let (id, head_seq) = if direct {
        let made = client::Conversation::decode(body).map_err(|error| error.to_string())?;
        (made.conversation, made.head_seq)
    } else {
        let made = client::GroupChangeResponse::decode(body).map_err(|error| error.to_string())?;
        (made.conversation, made.seq)
    };
    let id = ConversationId::from_wire(&id).map_err(|error| error.to_string())?;
    Ok((id, head_seq))
}
