//! Members of groups come and go while everybody chats: owners remove somebody, and invite them back.
//!
//! One change of a group at a time, with one operation id over all its attempts, so that the log must tell of exactly the
//! changes that were asked for. Whoever is out goes on sending, and is refused; back in, their device sends what was refused
//! last once more, with the same ids: it must be refused again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use whimbrel_protocol::client::{
    ChangeKind, Entry, GroupChangeResponse, InviteRequest, RemoveMembersRequest, SendResponse, entry,
};
use whimbrel_protocol::client_session::{Failure, OutgoingRequest};
use whimbrel_protocol::ids::OperationId;
use whimbrel_protocol::method::Method;

use super::person::{Ask, Person};
use super::{Chat, Conversation};
use crate::engine::SeatId;
use crate::record::{Membership, UserNumber};
use crate::wire::{Wire, final_code, request, retry_after};

/// Times a member is invited back: of more absences the server forgets the oldest (it keeps 16 intervals).
const RETURNS_MAX: u32 = 12;

/// Groups looked at for one that can be changed now.
const TRIES: usize = 16;

/// Before a change that failed is asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A group whose members come and go.
#[derive(Debug, Default)]
pub(super) struct Governing {
    /// Who is out, and the entry that says so: the last that they may see.
    absent: BTreeMap<UserNumber, u64>,
    /// From which entry to which they were out the last time, of those who are back.
    absences: BTreeMap<UserNumber, (u64, u64)>,
    /// How often somebody was invited back.
    returns: BTreeMap<UserNumber, u32>,
    /// Until when somebody may have been out: the end of their last absence, as far as one can tell from outside.
    maybe_out_until: BTreeMap<UserNumber, Duration>,
    change: Option<Change>,
}

/// A change that is not answered.
#[derive(Debug, Clone, Copy)]
struct Change {
    operation: OperationId,
    what: Membership,
    whose: SeatId,
    asked: bool,
}

impl Governing {
    /// Up to which entry a user is to come, in a group whose head is `head`.
    pub(super) fn end(&self, user: UserNumber, head: u64) -> u64 {
        self.absent.get(&user).copied().unwrap_or(head)
    }

    /// Whether a change is asked for and not answered.
    pub(super) const fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// Whether an entry was written while this user was out. If they come to see it, that says nothing of how fast it was.
    pub(super) fn was_out(&self, user: UserNumber, seq: u64) -> bool {
        let since = self.absent.get(&user);
        let before = self.absences.get(&user);
        since.is_some_and(|from| seq > *from)
            || before.is_some_and(|(from, to)| (from.saturating_add(1)..*to).contains(&seq))
    }

    /// Whether a message that this user began at `begun`, and that is refused now because they are no member, can have met
    /// an absence: from when a removal was asked for until a return was answered.
    pub(super) fn explains(&self, user: UserNumber, begun: Duration) -> bool {
        self.maybe_out_until
            .get(&user)
            .is_some_and(|until| *until >= begun)
    }

    fn may_go(&self, user: UserNumber) -> bool {
        self.returns
            .get(&user)
            .is_none_or(|returns| *returns < RETURNS_MAX)
    }
}

impl Conversation {
    fn change_mut(&mut self) -> Option<&mut Change> {
        self.governing.as_mut()?.change.as_mut()
    }
}

impl Chat {
    /// Has the owner of some group remove a member, or invite one back.
    pub fn change_members(&mut self, now: Duration, wire: &mut dyn Wire) {
        let groups = self.conversations.len().max(1);
        for _ in 0..TRIES {
            let talk = self.rng.random_range(0..groups);
            if let Some(owner) = self.begin_change(talk, now, wire) {
                self.pursue_change(owner, now, wire);
                self.arm(owner);
                return;
            }
        }
    }

    /// Decides on a change of this group, if it can be changed now: its owner's seat.
    fn begin_change(&mut self, talk: usize, now: Duration, wire: &mut dyn Wire) -> Option<SeatId> {
        let conversation = self.conversations.get_mut(talk)?;
        let id = conversation.id?;
        let governing = conversation.governing.as_mut()?;
        let (owner, others) = conversation.members.split_first()?;
        if governing.is_changing() {
            return None;
        }
        let user_of = |seat: &SeatId| self.people.get(seat.index()).map(|person| person.device.user);
        let (absent, present): (Vec<_>, Vec<_>) = others
            .iter()
            .filter_map(|seat| Some((*seat, user_of(seat)?)))
            .partition(|(_, user)| governing.absent.contains_key(user));
        let comes = absent.len() * 2 >= others.len() || (!absent.is_empty() && self.rng.random());
        let (what, candidates) = if comes {
            (Membership::Invited, absent)
        } else {
            let mut present = present;
            present.retain(|(_, user)| governing.may_go(*user));
            (Membership::Removed, present)
        };
        let (whose, user) = *candidates.choose(&mut self.rng)?;
        let operation = OperationId::new(wire.server_ms(now), self.rng.random());
        governing.change = Some(Change {
            operation,
            what,
            whose,
            asked: false,
        });
        if what == Membership::Removed {
            governing.maybe_out_until.insert(user, Duration::MAX);
        }
        self.recorder.change_asked(operation, id, what, user, now);
        let owner = *owner;
        self.people.get_mut(owner.index())?.change_at = Some(now);
        Some(owner)
    }

    /// Asks for the change that the group of this owner is waiting for, if it is time.
    pub(super) fn pursue_change(&mut self, owner: SeatId, now: Duration, wire: &mut dyn Wire) {
        let Some((made, due)) = self.change_request(owner) else {
            return;
        };
        if now < due {
            return;
        }
        let asked = wire.ask(owner, made, now);
        let Some(person) = self.people.get_mut(owner.index()) else {
            return;
        };
        let Ok(id) = asked else {
            person.change_at = Some(now + AGAIN_AFTER);
            return;
        };
        person.change_at = None;
        person.asks.push((id, Ask::Change));
        if let Some(change) = self
            .conversations
            .get_mut(person.talk)
            .and_then(Conversation::change_mut)
        {
            change.asked = true;
        }
    }

    /// The request, and when it is due; `None` when there is nothing to ask for, or it was asked for already.
    fn change_request(&self, owner: SeatId) -> Option<(OutgoingRequest, Duration)> {
        let person = self.people.get(owner.index()).filter(|person| person.ready)?;
        let due = person.change_at?;
        let conversation = self.conversations.get(person.talk)?;
        let id = conversation.id?;
        let change = conversation.governing.as_ref()?.change.as_ref()?;
        if change.asked || conversation.members.first() != Some(&owner) {
            return None;
        }
        let uids = vec![self.people.get(change.whose.index())?.uid.clone()];
        let operation_id = Bytes::copy_from_slice(change.operation.as_bytes());
        let conversation = Bytes::copy_from_slice(id.as_bytes());
        let made = match change.what {
            Membership::Invited => {
                let message = InviteRequest {
                    operation_id,
                    conversation,
                    uids,
                };
                request(Method::Invite, Some(&id), &message)
            }
            Membership::Removed => {
                let message = RemoveMembersRequest {
                    operation_id,
                    conversation,
                    uids,
                };
                request(Method::RemoveMembers, Some(&id), &message)
            }
        };
        Some((made, due))
    }

    /// A device lost its connection: what it asked for as an owner is asked for again.
    pub(super) fn lose_change(&mut self, seat: SeatId, now: Duration) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        let conversation = self.conversations.get_mut(person.talk);
        let Some(conversation) = conversation.filter(|talk| talk.members.first() == Some(&seat)) else {
            return;
        };
        if let Some(change) = conversation.change_mut() {
            change.asked = false;
            person.change_at = Some(now);
        }
    }

    pub(super) fn take_changed(
        &mut self,
        owner: SeatId,
        result: Result<Bytes, Failure>,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        let Some(person) = self.people.get_mut(owner.index()) else {
            return;
        };
        let Some(conversation) = self.conversations.get_mut(person.talk) else {
            return;
        };
        let Some(governing) = conversation.governing.as_mut() else {
            return;
        };
        let Some(change) = governing.change.as_mut() else {
            return;
        };
        let answer = result
            .and_then(|body| GroupChangeResponse::decode(body).map_err(|_| Failure::Malformed))
            .map(|done| done.seq);
        let code = match &answer {
            Ok(_) => None,
            Err(failure) => match final_code(failure) {
                Some(code) => Some(code),
                None => {
                    change.asked = false;
                    person.change_at = Some(now + retry_after(failure).max(AGAIN_AFTER));
                    wire.counter().tally.retries += 1;
                    return;
                }
            },
        };
        let Change {
            operation,
            what,
            whose,
            ..
        } = *change;
        governing.change = None;
        self.recorder.change_answered(
            operation,
            answer
                .as_ref()
                .map(|seq| *seq)
                .map_err(|_| code.unwrap_or_default()),
            now,
        );
        let of = self.people.get(whose.index());
        match answer {
            Ok(seq) => {
                wire.counter().tally.membership_changes += 1;
                conversation.head = conversation.head.max(seq);
                let Some(user) = of.map(|person| person.device.user) else {
                    return;
                };
                match what {
                    Membership::Removed => {
                        governing.absent.insert(user, seq);
                    }
                    Membership::Invited => {
                        if let Some(from) = governing.absent.remove(&user) {
                            governing.absences.insert(user, (from, seq));
                        }
                        governing.maybe_out_until.insert(user, now);
                        *governing.returns.entry(user).or_default() += 1;
                    }
                }
            }
            Err(failure) => wire.counter().tally.violate(0, || {
                let uid = of.map_or("?", |person| person.uid.as_str());
                format!("that {uid} be {what:?} was refused for good: {failure}")
            }),
        }
    }

    /// Sends what was refused last once more, if something was. Nothing waits for the answer.
    pub(super) fn send_again(&mut self, seat: SeatId, now: Duration, wire: &mut dyn Wire) {
        let Some(person) = self.people.get(seat.index()) else {
            return;
        };
        let Some(id) = self.id_of(person).filter(|_| !person.refused.is_empty()) else {
            return;
        };
        let made = self.send_request(id, person.device, &person.refused, 0);
        if let Ok(asked) = wire.ask(seat, made, now)
            && let Some(person) = self.people.get_mut(seat.index())
        {
            let batch = std::mem::take(&mut person.refused);
            person.asks.push((asked, Ask::SendAgain(batch)));
        }
    }

    pub(super) fn take_sent_again(
        &mut self,
        seat: SeatId,
        batch: &[super::Outgoing],
        result: Result<Bytes, Failure>,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        match result.and_then(|body| SendResponse::decode(body).map_err(|_| Failure::Malformed)) {
            Ok(answer) => {
                if answer.accepted.len() != batch.len() {
                    self.tell_miscounted(seat, batch.len(), answer.accepted.len(), wire);
                }
                for (outgoing, accepted) in batch.iter().zip(&answer.accepted) {
                    self.tell_again(seat, *outgoing, Ok((accepted.seq, accepted.time_ms)), now);
                }
            }
            Err(failure) => {
                if let Some(code) = final_code(&failure) {
                    for outgoing in batch {
                        self.tell_again(seat, *outgoing, Err(code), now);
                    }
                }
            }
        }
    }
}

/// Whether an entry says that this person was invited.
pub(super) fn invites(entry: &Entry, person: &Person) -> bool {
    let Some(entry::Body::Change(change)) = &entry.body else {
        return false;
    };
    change.kind == i32::from(ChangeKind::Invited) && change.uids.contains(&person.uid)
}
