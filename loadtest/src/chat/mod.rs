//! People who chat: the client side of conversations, over whatever carries requests.
//!
//! Every person has one device and one conversation. They behave as docs/protocol.md says a client should: sync after
//! READY, apply notices or sync, pull holes after 300 ms, one batch on its way, retried with the same operation ids until
//! it is answered. Where a run asks for it, owners of groups remove members and invite them back meanwhile. Pure: time is
//! an argument, requests go to a [`Wire`].

mod closing;
mod governing;
mod inbox;
mod outbox;
mod person;
mod preparing;
mod receiving;
mod repeating;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use whimbrel_protocol::client::{
    Content, OutgoingMessage, PullRequest, SendRequest, SendResponse, SyncRequest, Text, content,
};
use whimbrel_protocol::client_session::{Failure, OutgoingRequest};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::RequestId;
use whimbrel_protocol::ids::{ConversationId, OperationId};
use whimbrel_protocol::method::Method;

use self::governing::Governing;
use self::inbox::Inbox;
pub(crate) use self::outbox::{Outbox, Outgoing};
use self::person::{Ask, Person};
pub use self::preparing::Unprepared;
pub(crate) use self::receiving::judge_names;
use crate::engine::{Happening, SeatId, Timers, What};
use crate::record::{Acked, Begun, Device, Recorder, Talk, UserNumber};
use crate::stamp::Stamp;
use crate::wire::{Wire, final_code, request, retry_after};

/// Rows asked for at once.
const SYNC_PAGE: u32 = 100;

/// Entries pulled at once.
const PULL_PAGE: u32 = 200;

/// Messages that may be due and unanswered in one process: 64 bytes each. What does not fit has failed.
pub(crate) const BACKLOG_MAX: usize = 4_000_000;

/// Between syncs that nothing asks for, milliseconds: the net under everything.
const NET_SYNC_MS: std::ops::Range<u64> = 180_000..300_000;

/// After a failed sync.
const SYNC_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a run's chat is like.
#[derive(Debug, Clone)]
pub struct ChatOptions {
    /// Tells this run's messages from others'.
    pub run: u32,
    /// Bytes of a message's text.
    pub payload: usize,
    /// People per conversation, at least 2; two chat directly.
    pub group_size: usize,
    /// Members of groups come and go.
    pub governed: bool,
    /// Before user numbers in uids.
    pub user_prefix: String,
    /// Of everything drawn.
    pub seed: u64,
}

/// A conversation and its people.
#[derive(Debug)]
struct Conversation {
    id: Option<ConversationId>,
    /// Their seats; the first makes the group.
    members: Vec<SeatId>,
    /// Acknowledged messages of all members.
    acked: u64,
    /// The highest acknowledged.
    head: u64,
    /// The head when the run began to use it.
    base: u64,
    preparing: preparing::Step,
    /// Of a group whose members come and go.
    governing: Option<Governing>,
}

/// See the module.
pub struct Chat {
    options: ChatOptions,
    people: Vec<Person>,
    conversations: Vec<Conversation>,
    timers: Timers,
    rng: StdRng,
    recorder: Box<dyn Recorder>,
    backlog: usize,
    /// Messages acknowledged, of a checked run.
    answered: u64,
    /// Users whose new devices could not read to the end.
    unread: BTreeSet<UserNumber>,
    /// The load is over.
    hastened: bool,
    preparing: preparing::Preparing,
}

impl std::fmt::Debug for Chat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat")
            .field("options", &self.options)
            .field("people", &self.people.len())
            .finish_non_exhaustive()
    }
}

impl Conversation {
    /// Whether newcomers read what was before them: in every other group of those whose members come and go.
    const fn has_open_history(&self, talk: usize) -> bool {
        self.governing.is_some() && !talk.is_multiple_of(2)
    }
}

impl Chat {
    /// People of the user numbers from `first` on, whose seats are counted from 0 in the same order. If they do not fill the
    /// last conversation it is smaller, and one person alone joins the one before.
    #[must_use]
    pub fn new(options: ChatOptions, first: u32, count: u32, mut recorder: Box<dyn Recorder>) -> Self {
        let size = options.group_size.max(2);
        let seats: Vec<SeatId> = (0..count).map(SeatId).collect();
        let mut conversations: Vec<Conversation> = seats
            .chunks(size)
            .map(|members| Conversation {
                id: None,
                members: members.to_vec(),
                acked: 0,
                head: 0,
                base: 0,
                preparing: preparing::Step::default(),
                governing: (options.governed && size > 2).then(Governing::default),
            })
            .collect();
        if let Some(last) = conversations.pop_if(|last| last.members.len() < 2)
            && let Some(before) = conversations.last_mut()
        {
            before.members.extend(last.members);
        }
        let people = seats
            .iter()
            .map(|seat| {
                let device = Device {
                    user: UserNumber(first + seat.0),
                    number: 0,
                };
                let talk = (seat.index() / size).min(conversations.len().saturating_sub(1));
                let person = Person::new(device, crate::engine::uid(&options.user_prefix, device), talk);
                recorder.user(device.user, &person.uid);
                person
            })
            .collect();
        Self {
            preparing: preparing::Preparing::new(conversations.len()),
            rng: StdRng::seed_from_u64(options.seed),
            options,
            people,
            conversations,
            timers: Timers::default(),
            recorder,
            backlog: 0,
            answered: 0,
            unread: BTreeSet::new(),
            hastened: false,
        }
    }

    /// Messages that are due and not answered.
    #[must_use]
    pub const fn backlog(&self) -> usize {
        self.backlog
    }

    /// When [`Chat::tick`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Whoever hears of the chat.
    pub(crate) fn recorder(&mut self) -> &mut dyn Recorder {
        self.recorder.as_mut()
    }

    /// Gives the recorder back: the chat is over.
    #[must_use]
    pub fn into_recorder(self) -> Box<dyn Recorder> {
        self.recorder
    }

    /// Has somebody send a message that was due at `scheduled`.
    pub fn send(&mut self, scheduled: Duration, now: Duration, wire: &mut dyn Wire) {
        wire.counter().send(scheduled);
        let who = self.rng.random_range(0..self.people.len().max(1));
        let ready = self
            .people
            .get(who)
            .is_some_and(|person| self.id_of(person).is_some());
        if self.backlog >= BACKLOG_MAX || !ready {
            wire.counter().tally.backlog_dropped += 1;
            return;
        }
        let operation = OperationId::new(wire.server_ms(now), self.rng.random());
        let Some(person) = self.people.get_mut(who) else {
            return;
        };
        person.order += 1;
        let outgoing = Outgoing {
            operation,
            order: person.order,
            scheduled,
            begun: now,
        };
        person.outbox.push(outgoing);
        self.backlog += 1;
        let device = person.device;
        if let Some(conversation) = self.people.get(who).and_then(|person| self.id_of(person)) {
            let text = self.text(conversation, device, outgoing);
            self.recorder.send_begun(&Begun {
                operation,
                conversation,
                device,
                order: outgoing.order,
                text: &text,
                scheduled,
                at: now,
            });
        }
        self.pump(SeatId(u32::try_from(who).unwrap_or_default()), now, wire);
    }

    /// Takes in what happened to a device.
    pub fn handle(&mut self, happening: Happening, wire: &mut dyn Wire) {
        let (seat, now) = (happening.seat, happening.at);
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        match happening.what {
            What::Hello => self.sync(seat, now, wire),
            What::Ready { epoch } => {
                person.ready = true;
                self.recorder.login(person.device, epoch, now);
                person.net_sync_at = now + Duration::from_millis(self.rng.random_range(NET_SYNC_MS));
                self.plan_repeat_after_fault(seat, now);
                self.pump(seat, now, wire);
                self.pursue_change(seat, now, wire);
                if person_syncs_not(&self.people, seat) {
                    self.sync(seat, now, wire);
                }
                self.preparing.wake();
            }
            What::Lost {
                epoch,
                was_ready,
                why,
                ..
            } => {
                if was_ready {
                    self.recorder.disconnected(person.device, epoch, &why, now);
                }
                if person.lose() {
                    wire.counter().tally.retries += 1;
                }
                let talk = person.talk;
                if let Some(conversation) = self.conversations.get_mut(talk) {
                    conversation
                        .preparing
                        .lost(seat == conversation.members.first().copied().unwrap_or(seat));
                }
                self.lose_change(seat, now);
                self.preparing.wake();
            }
            What::Response { id, result } => self.handle_response(seat, id, result, now, wire),
            What::Push { method, payload } => {
                self.take_push(seat, method, payload, now, wire);
            }
            What::SyncHint { spread_ms } => {
                let wait = self.rng.random_range(0..=u64::from(spread_ms));
                person.sync_at = Some(now + Duration::from_millis(wait));
            }
        }
        self.arm(seat);
    }

    /// Does what has become due, for everybody once: what is due again at once waits for the next call, so that sockets are read
    /// in between.
    pub fn tick(&mut self, now: Duration, wire: &mut dyn Wire) {
        let due: Vec<u32> = std::iter::from_fn(|| self.timers.take(now)).collect();
        for seat in due {
            let seat = SeatId(seat);
            let Some(person) = self.people.get(seat.index()) else {
                continue;
            };
            if person.ready {
                if person.sync_at.is_some_and(|at| at <= now) || person.net_sync_at <= now {
                    self.sync(seat, now, wire);
                }
                self.pull(seat, now, wire);
                self.pump(seat, now, wire);
                self.pursue_change(seat, now, wire);
                self.send_repeats(seat, now, wire);
            }
            self.arm(seat);
        }
    }

    fn arm(&mut self, seat: SeatId) {
        if let Some(due) = self.people.get(seat.index()).and_then(Person::due) {
            self.timers.arm(seat.0, due);
        }
    }

    fn id_of(&self, person: &Person) -> Option<ConversationId> {
        self.conversations.get(person.talk)?.id
    }

    fn text(&self, conversation: ConversationId, device: Device, outgoing: Outgoing) -> String {
        let stamp = Stamp {
            run: self.options.run,
            sender: device.user.0,
            order: outgoing.order,
            scheduled: outgoing.scheduled,
        };
        stamp.to_text_in(conversation, self.options.payload)
    }

    /// The request that sends these, the same each time.
    fn send_request(
        &self,
        conversation: ConversationId,
        device: Device,
        batch: &[Outgoing],
        seen_seq: u64,
    ) -> OutgoingRequest {
        let messages = batch.iter().map(|outgoing| OutgoingMessage {
            client_msg_id: Bytes::copy_from_slice(outgoing.operation.as_bytes()),
            content: Some(Content {
                content: Some(content::Content::Text(Text {
                    text: self.text(conversation, device, *outgoing),
                })),
            }),
            options: None,
        });
        let message = SendRequest {
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            messages: messages.collect(),
            seen_seq,
        };
        request(Method::Send, Some(&conversation), &message)
    }

    /// Sends a person's next batch, if one may go.
    fn pump(&mut self, seat: SeatId, now: Duration, wire: &mut dyn Wire) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        let Some(conversation) = self.conversations.get(person.talk).and_then(|talk| talk.id) else {
            return;
        };
        if !person.ready {
            return;
        }
        let Some((batch, seen_seq)) = person
            .outbox
            .begin(self.options.payload, person.inbox.have(), now)
        else {
            return;
        };
        let device = person.device;
        let made = self.send_request(conversation, device, &batch, seen_seq);
        let asked = wire.ask(seat, made, now);
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        match asked {
            Ok(id) => person.asks.push((id, Ask::Send { seen_seq })),
            Err(_) => person
                .outbox
                .failed(Duration::ZERO, self.rng.random_range(0.0..1.0), now),
        }
        self.arm(seat);
    }

    fn sync(&mut self, seat: SeatId, now: Duration, wire: &mut dyn Wire) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        person.sync_at = None;
        if person.syncing {
            person.sync_again = true;
            return;
        }
        person.net_sync_at = now + Duration::from_millis(self.rng.random_range(NET_SYNC_MS));
        let message = SyncRequest {
            cursor: person.cursor.clone(),
            limit: SYNC_PAGE,
        };
        match wire.ask(seat, request(Method::Sync, None, &message), now) {
            Ok(id) => {
                person.syncing = true;
                let from = person.cursor.clone();
                person.asks.push((id, Ask::Sync { from }));
            }
            Err(_) => person.sync_at = Some(now + SYNC_AGAIN_AFTER),
        }
    }

    fn pull(&mut self, seat: SeatId, now: Duration, wire: &mut dyn Wire) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        let Some(conversation) = self.conversations.get(person.talk).and_then(|talk| talk.id) else {
            return;
        };
        let Some(from_seq) = person.inbox.begin_pull(now) else {
            return;
        };
        wire.counter().tally.pulls += 1;
        let message = PullRequest {
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            from_seq,
            limit: PULL_PAGE,
            ..PullRequest::default()
        };
        match wire.ask(seat, request(Method::Pull, Some(&conversation), &message), now) {
            Ok(id) => person.asks.push((id, Ask::Pull { from_seq })),
            Err(_) => person.inbox.pull_failed(now),
        }
    }

    fn handle_response(
        &mut self,
        seat: SeatId,
        id: RequestId,
        result: Result<Bytes, Failure>,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        let Some(ask) = self
            .people
            .get_mut(seat.index())
            .and_then(|person| person.take_ask(id))
        else {
            return;
        };
        match ask {
            Ask::Send { seen_seq } => self.take_send(seat, seen_seq, result, now, wire),
            Ask::SendAgain(batch) => self.take_sent_again(seat, &batch, result, now, wire),
            Ask::Sync { from } => self.take_sync(seat, &from, result, now, wire),
            Ask::Pull { from_seq } => self.take_page(seat, from_seq, result, now, wire),
            Ask::Prepare => self.take_prepared(seat, result, now),
            Ask::Change => self.take_changed(seat, result, now, wire),
            Ask::Repeat(outgoing) => self.take_repeated(seat, outgoing, result, now, wire),
        }
    }

    fn take_send(
        &mut self,
        seat: SeatId,
        seen_seq: u64,
        result: Result<Bytes, Failure>,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        let answer = result.and_then(|body| SendResponse::decode(body).map_err(|_| Failure::Malformed));
        match answer {
            Ok(answer) => {
                let batch = person.outbox.answered();
                self.backlog -= batch.len();
                if answer.accepted.len() != batch.len() {
                    let (uid, asked, got) = (person.uid.clone(), batch.len(), answer.accepted.len());
                    wire.counter().tally.violate(1, || {
                        format!("{uid} sent a batch of {asked} messages and {got} are acknowledged")
                    });
                }
                // What a refused send says of reading counts for nothing.
                let talk = self.conversations.get(person.talk).and_then(|talk| talk.id);
                if let Some(id) = talk.filter(|_| seen_seq > 0) {
                    self.recorder.read(person.device, id, seen_seq, now);
                }
                for (outgoing, accepted) in batch.iter().zip(&answer.accepted) {
                    let Some(person) = self.people.get_mut(seat.index()) else {
                        return;
                    };
                    wire.counter().acked(outgoing.scheduled, now);
                    person.acked += 1;
                    let before = std::mem::replace(&mut person.last_acked, accepted.seq);
                    if accepted.seq <= before {
                        let (uid, order, seq) = (person.uid.clone(), outgoing.order, accepted.seq);
                        wire.counter().tally.violate(5, || {
                            format!("{uid}'s message {order} has seq {seq}, the one before it {before}")
                        });
                    }
                    if let Some(conversation) = self.conversations.get_mut(person.talk) {
                        conversation.acked += 1;
                        conversation.head = conversation.head.max(accepted.seq);
                    }
                    self.recorder.send_acked(&Acked {
                        operation: outgoing.operation,
                        seq: accepted.seq,
                        time_ms: accepted.time_ms,
                        at: now,
                    });
                    self.plan_repeat(seat, *outgoing, now);
                }
            }
            Err(failure) => match final_code(&failure) {
                Some(code) => {
                    let batch = person.outbox.answered();
                    self.backlog -= batch.len();
                    let user = person.device.user;
                    let governing = self
                        .conversations
                        .get(person.talk)
                        .and_then(|talk| talk.governing.as_ref());
                    for outgoing in &batch {
                        wire.counter().refused(outgoing.scheduled);
                        let tally = &mut wire.counter().tally;
                        let explained = code == Code::NotMember.number()
                            && governing.is_some_and(|group| group.explains(user, outgoing.begun));
                        if !explained {
                            tally.refused_wrongly += 1;
                            tally.last_setback = Some(format!("a send was refused for good: {failure}"));
                        }
                        self.recorder.send_refused(outgoing.operation, code, now);
                    }
                    person.refused = batch;
                }
                None => {
                    wire.counter().tally.retries += 1;
                    let jitter = self.rng.random_range(0.0..1.0);
                    person.outbox.failed(retry_after(&failure), jitter, now);
                }
            },
        }
        self.pump(seat, now, wire);
    }

    /// A conversation exists, and everybody is at `head_seq`.
    fn conversation_is(&mut self, talk: usize, id: ConversationId, head_seq: u64) {
        let Some(conversation) = self.conversations.get_mut(talk) else {
            return;
        };
        conversation.id = Some(id);
        conversation.head = head_seq;
        conversation.base = head_seq;
        let mut numbers = Vec::with_capacity(conversation.members.len());
        for seat in &conversation.members {
            if let Some(person) = self.people.get_mut(seat.index()) {
                person.inbox = Inbox::starting_at(head_seq);
                numbers.push(person.device.user);
            }
        }
        let told = match *numbers {
            [one, two] if self.options.group_size <= 2 => Talk::Direct([one, two]),
            _ => Talk::Group {
                members: numbers,
                open_history: conversation.has_open_history(talk),
                name: preparing::group_name(
                    self.options.run,
                    conversation
                        .members
                        .first()
                        .and_then(|maker| self.people.get(maker.index())),
                ),
            },
        };
        self.recorder.conversation(id, &told, head_seq);
    }
}

fn person_syncs_not(people: &[Person], seat: SeatId) -> bool {
    people.get(seat.index()).is_some_and(|person| !person.syncing)
}
