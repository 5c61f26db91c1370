//! A room full of members, and a few senders. Rate 0: members who only listen.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use whimbrel_protocol::bucket;
use whimbrel_protocol::client::{
    Content, JoinRoomRequest, RoomPush, SendRoomRequest, SendRoomResponse, Text, content,
};
use whimbrel_protocol::client_session::{Failure, OutgoingRequest};
use whimbrel_protocol::frame::{Affinity, RequestId};
use whimbrel_protocol::ids::{OperationId, RoomId};
use whimbrel_protocol::method::{Method, PushMethod};

use super::connecting::Connecting;
use super::{Common, HEAD_START, WAIT_STEP};
use crate::chat::{BACKLOG_MAX, Outbox, Outgoing};
use crate::engine::{Engine, Happening, SeatId, Timers, What};
use crate::lead::{Lead, Phase};
use crate::run::{Scenario, Step};
use crate::schedule::Schedule;
use crate::stamp::Stamp;
use crate::tally::Tally;
use crate::wire::{ANSWER_WITHIN, Wire, final_code, request, retry_after};

/// Between two looks at what is still open.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// When nothing more arrives for this long after the last send, nothing more will.
const QUIET: Duration = Duration::from_millis(500);

/// Before a join that failed is tried again.
const JOIN_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What a room is like.
#[derive(Debug, Clone)]
pub struct RoomOptions {
    /// Its id.
    pub room: RoomId,
    /// How many of the members send, over all processes; at least one in each.
    pub senders: u32,
    /// Messages a second, over all processes.
    pub per_s: f64,
    /// For so long.
    pub lasting: Duration,
    /// Bytes of a message's text.
    pub payload: usize,
}

/// What sending needs of whatever holds the connections: the engine, or a test's imitation.
trait Line: Wire {
    /// See [`Engine::is_ready`].
    fn is_ready(&self, seat: SeatId) -> bool;
}

impl Line for Engine {
    fn is_ready(&self, seat: SeatId) -> bool {
        self.is_ready(seat)
    }
}

#[derive(Debug, Default)]
struct Member {
    joined: bool,
    join: Option<RequestId>,
    join_at: Option<Duration>,
    /// The highest order seen of each sender that was heard, by the sender's user number. There are few.
    seen: Vec<(u32, u64)>,
}

#[derive(Debug, Default)]
struct Sender {
    outbox: Outbox,
    order: u64,
    asked: Option<RequestId>,
}

#[derive(Debug)]
enum State {
    New,
    Connecting(Connecting),
    Connected,
    Joining { deadline: Duration },
    Joined,
    Sending { schedule: Schedule },
    Settling { deadline: Duration },
    Settled,
}

/// See the module.
#[derive(Debug)]
pub struct RoomScenario {
    common: Common,
    options: RoomOptions,
    rng: StdRng,
    members: Vec<Member>,
    senders: Vec<Sender>,
    joined: usize,
    timers: Timers,
    last_delivery: Duration,
    backlog: usize,
    last_refusal: Option<String>,
    lost: u64,
    state: State,
}

impl RoomScenario {
    /// Everybody is a member; the first of each process send.
    #[must_use]
    pub fn new(common: Common, options: RoomOptions) -> Self {
        let senders = common.share.count(options.senders).max(1).min(common.count());
        Self {
            rng: StdRng::seed_from_u64(common.seed()),
            members: (0..common.count()).map(|_| Member::default()).collect(),
            senders: (0..senders).map(|_| Sender::default()).collect(),
            common,
            options,
            joined: 0,
            timers: Timers::default(),
            last_delivery: Duration::ZERO,
            backlog: 0,
            last_refusal: None,
            lost: 0,
            state: State::New,
        }
    }

    fn request(&self, method: Method, message: &impl prost::Message) -> OutgoingRequest {
        OutgoingRequest {
            affinity: Some(Affinity(bucket::room_affinity(&self.options.room))),
            within: ANSWER_WITHIN,
            ..request(method, None, message)
        }
    }

    fn join(&mut self, seat: SeatId, engine: &mut Engine, now: Duration) {
        let message = JoinRoomRequest {
            room: self.options.room.to_string(),
        };
        let asked = engine.ask(seat, self.request(Method::JoinRoom, &message), now);
        let Some(member) = self.members.get_mut(seat.index()) else {
            return;
        };
        member.join = asked.ok();
        member.join_at = None;
        if member.join.is_none() {
            let at = now + JOIN_AGAIN_AFTER;
            member.join_at = Some(at);
            self.timers.arm(seat.0, at);
        }
    }

    fn send(&mut self, scheduled: Duration, now: Duration, line: &mut dyn Line) {
        line.counter().send(scheduled);
        if self.backlog >= BACKLOG_MAX {
            line.counter().tally.backlog_dropped += 1;
            return;
        }
        let who = self.rng.random_range(0..self.senders.len().max(1));
        let operation = OperationId::new(line.server_ms(now), self.rng.random());
        if let Some(sender) = self.senders.get_mut(who) {
            sender.order += 1;
            sender.outbox.push(Outgoing {
                operation,
                order: sender.order,
                scheduled,
                begun: now,
            });
            self.backlog += 1;
            self.pump(SeatId(u32::try_from(who).unwrap_or_default()), now, line);
        }
    }

    fn pump(&mut self, seat: SeatId, now: Duration, line: &mut dyn Line) {
        let user = self.common.first() + seat.0;
        let Some(sender) = self.senders.get_mut(seat.index()) else {
            return;
        };
        if !line.is_ready(seat) {
            return;
        }
        // A send to a room is one message.
        let Some((batch, _)) = sender.outbox.begin(usize::MAX, 0, now) else {
            return;
        };
        let Some(outgoing) = batch.first() else {
            return;
        };
        let stamp = Stamp {
            run: self.common.run,
            sender: user,
            order: outgoing.order,
            scheduled: outgoing.scheduled,
        };
        let message = SendRoomRequest {
            room: self.options.room.to_string(),
            client_msg_id: Bytes::copy_from_slice(outgoing.operation.as_bytes()),
            content: Some(Content {
                content: Some(content::Content::Text(Text {
                    text: stamp.to_text(self.options.payload),
                })),
            }),
        };
        let asked = line.ask(seat, self.request(Method::SendRoom, &message), now);
        let Some(sender) = self.senders.get_mut(seat.index()) else {
            return;
        };
        match asked {
            Ok(id) => sender.asked = Some(id),
            Err(_) => sender.outbox.failed(Duration::ZERO, 0.0, now),
        }
        if let Some(due) = sender.outbox.due() {
            self.timers.arm(seat.0, due);
        }
    }

    fn take_answer(
        &mut self,
        seat: SeatId,
        result: Result<Bytes, Failure>,
        now: Duration,
        engine: &mut Engine,
    ) {
        let Some(sender) = self.senders.get_mut(seat.index()) else {
            return;
        };
        sender.asked = None;
        match result.and_then(|body| SendRoomResponse::decode(body).map_err(|_| Failure::Malformed)) {
            Ok(_) => {
                let batch = sender.outbox.answered();
                self.backlog -= batch.len();
                for outgoing in batch {
                    engine.counter.acked(outgoing.scheduled, now);
                }
            }
            Err(failure) => {
                self.last_refusal = Some(failure.to_string());
                if final_code(&failure).is_some() {
                    let batch = sender.outbox.answered();
                    self.backlog -= batch.len();
                    // Nobody is put out of a room here: nothing explains a refusal.
                    engine.counter.tally.refused_wrongly += batch.len() as u64;
                    for outgoing in batch {
                        engine.counter.refused(outgoing.scheduled);
                    }
                } else {
                    engine.counter.tally.retries += 1;
                    let jitter = self.rng.random_range(0.0..1.0);
                    sender.outbox.failed(retry_after(&failure), jitter, now);
                    if let Some(due) = sender.outbox.due() {
                        self.timers.arm(seat.0, due);
                    }
                }
            }
        }
        self.pump(seat, now, engine);
    }

    fn take_push(&mut self, seat: SeatId, payload: Bytes, now: Duration, engine: &mut Engine) {
        let stamp = match heard(payload, &self.options.room) {
            Ok(stamp) => stamp.filter(|stamp| stamp.run == self.common.run),
            Err(what) => {
                let uid = self.common.first() + seat.0;
                let tally = &mut engine.counter.tally;
                return tally.violate(10, || format!("user {uid} was pushed {what}"));
            }
        };
        let Some((stamp, member)) = stamp.zip(self.members.get_mut(seat.index())) else {
            return;
        };
        let newest = match member.seen.iter_mut().find(|(sender, _)| *sender == stamp.sender) {
            Some((_, newest)) => newest,
            None => {
                member.seen.push((stamp.sender, 0));
                &mut member.seen.last_mut().expect("it was just pushed").1
            }
        };
        // A sender waits for each answer, so what is not newer is the repetition of a send whose answer was lost.
        if stamp.order <= *newest {
            engine.counter.tally.duplicates += 1;
            return;
        }
        *newest = stamp.order;
        self.last_delivery = now;
        engine.counter.delivered(stamp.scheduled, now);
    }

    /// Whether all that can arrive has: every member heard every acknowledged message, or nothing came for a while.
    fn is_settled(&self, engine: &Engine, now: Duration) -> bool {
        let tally = &engine.counter.tally;
        let quiet_since = self.last_delivery.max(tally.last_ack);
        let complete = self.common.share.of == 1
            && tally.deliveries >= tally.acked.saturating_mul(self.members.len() as u64);
        self.backlog == 0 && (complete || now.saturating_sub(quiet_since) >= QUIET)
    }
}

/// What a push to a member of `room` says: the stamp of a message of some run. `None`: somebody else talks in the room.
///
/// # Errors
/// What it is, when it is not for this member: of another room, whoever's run it is of, or nothing that can be read.
fn heard(payload: Bytes, room: &RoomId) -> Result<Option<Stamp>, String> {
    let push = RoomPush::decode(payload).map_err(|error| format!("what is no message of a room: {error}"))?;
    if push.room != room.as_str() {
        return Err(format!("a message of the room {:?}", push.room));
    }
    let Some(Content {
        content: Some(content::Content::Text(Text { text })),
    }) = push.content
    else {
        return Ok(None);
    };
    Ok(Stamp::of_text(&text))
}

impl Scenario for RoomScenario {
    fn handle(&mut self, happening: Happening, engine: &mut Engine) {
        let (seat, now) = (happening.seat, happening.at);
        let Some(member) = self.members.get_mut(seat.index()) else {
            return;
        };
        match happening.what {
            What::Hello | What::SyncHint { .. } => {}
            What::Ready { .. } => {
                if !matches!(self.state, State::New | State::Connecting(_) | State::Connected) {
                    self.join(seat, engine, now);
                }
                self.pump(seat, now, engine);
            }
            What::Lost { .. } => {
                self.joined -= usize::from(std::mem::take(&mut member.joined));
                (member.join, member.join_at) = (None, None);
                if let Some(sender) = self.senders.get_mut(seat.index()) {
                    sender.asked = None;
                    engine.counter.tally.retries += u64::from(sender.outbox.lost());
                }
            }
            What::Response { id, result } => {
                if member.join == Some(id) {
                    member.join = None;
                    match result {
                        Ok(_) => self.joined += usize::from(!std::mem::replace(&mut member.joined, true)),
                        Err(failure) => {
                            self.last_refusal = Some(failure.to_string());
                            let at = now + JOIN_AGAIN_AFTER.max(retry_after(&failure));
                            member.join_at = Some(at);
                            self.timers.arm(seat.0, at);
                        }
                    }
                } else if self
                    .senders
                    .get(seat.index())
                    .is_some_and(|sender| sender.asked == Some(id))
                {
                    self.take_answer(seat, result, now, engine);
                }
            }
            What::Push { method, payload } => {
                if method == PushMethod::Room.number() {
                    self.take_push(seat, payload, now, engine);
                }
            }
        }
    }

    fn tick(&mut self, now: Duration, engine: &mut Engine, lead: &mut dyn Lead) -> anyhow::Result<Step> {
        while let Some(seat) = self.timers.take(now) {
            let seat = SeatId(seat);
            let member = self.members.get(seat.index());
            if member.is_some_and(|member| member.join_at.is_some_and(|at| at <= now))
                && engine.is_ready(seat)
            {
                self.join(seat, engine, now);
            }
            self.pump(seat, now, engine);
        }
        let due = self.timers.next();
        let step = |at: Duration| Ok(Step::Until(due.map_or(at, |due| due.min(at))));
        match &mut self.state {
            State::New => {
                let rate = (self.common.connect_per_s, self.common.share);
                let (first, count) = (self.common.first(), self.common.count());
                let connecting =
                    Connecting::start(engine, first, count, rate, self.common.connect_within, now);
                self.state = State::Connecting(connecting);
                step(now)
            }
            State::Connecting(connecting) => match connecting.poll(engine, now)? {
                Err(look_at) => step(look_at),
                Ok(()) => {
                    self.state = State::Connected;
                    step(now)
                }
            },
            State::Connected => {
                if lead.pass(Phase::Connected).is_some() {
                    let deadline = now + self.common.connect_within;
                    self.state = State::Joining { deadline };
                    for index in 0..self.common.count() {
                        if engine.is_ready(SeatId(index)) {
                            self.join(SeatId(index), engine, now);
                        }
                    }
                }
                step(now + WAIT_STEP)
            }
            State::Joining { deadline } => {
                let connected = engine.counter.tally.connected;
                if self.joined as u64 >= connected {
                    self.state = State::Joined;
                    return step(now);
                }
                if now >= *deadline {
                    bail!(
                        "only {} of {connected} clients could join the room within {:?} (--connect-within): {}",
                        self.joined,
                        self.common.connect_within,
                        self.last_refusal.as_deref().unwrap_or("no answer came")
                    );
                }
                step(now + LOOK_EVERY)
            }
            State::Joined => {
                if let Some(start) = lead.pass(Phase::Prepared) {
                    let start = start + HEAD_START;
                    engine.counter.tally.began = start;
                    let schedule =
                        Schedule::new(start, self.options.lasting, self.options.per_s, self.common.share);
                    self.state = State::Sending { schedule };
                    return step(now);
                }
                step(now + WAIT_STEP)
            }
            State::Sending { schedule } => {
                let owed: Vec<Duration> = schedule.take_some(now).collect();
                let next = schedule.due();
                let over = engine.counter.tally.began + self.options.lasting;
                for due in owed {
                    self.send(due, now, engine);
                }
                match next {
                    Some(next) => step(next),
                    // Idle members are held for as long.
                    None if now < over => step(over),
                    None => {
                        let deadline = now + self.common.grace;
                        self.state = State::Settling { deadline };
                        step(now)
                    }
                }
            }
            State::Settling { deadline } => {
                let deadline = *deadline;
                if self.is_settled(engine, now) || now >= deadline {
                    // Whoever is out of the room hears nothing, though they be online.
                    let there = engine.online().min(self.joined as u64);
                    self.lost = engine.counter.tally.connected.saturating_sub(there);
                    self.state = State::Settled;
                    return step(now);
                }
                step(now + LOOK_EVERY)
            }
            State::Settled => match lead.pass(Phase::Ran) {
                Some(_) => Ok(Step::Done),
                None => step(now + WAIT_STEP),
            },
        }
    }

    fn backlog(&self) -> u64 {
        self.backlog as u64
    }

    fn close(&mut self, tally: &mut Tally) {
        tally.unresolved += self.backlog as u64 + tally.backlog_dropped;
        tally.lost += self.lost;
        tally.room_members += self.members.len() as u64;
    }

    fn cut(&mut self, tally: &mut Tally) {
        tally.unresolved += self.backlog as u64 + tally.backlog_dropped;
        tally.room_members += self.members.len() as u64;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::client_session::RequestError;

    use super::*;
    use crate::schedule::Share;
    use crate::tally::Counter;

    /// Nobody is in.
    #[derive(Default)]
    struct Nobody(Counter);

    impl Wire for Nobody {
        fn ask(&mut self, _: SeatId, _: OutgoingRequest, _: Duration) -> Result<RequestId, RequestError> {
            Err(RequestError::Ended)
        }

        fn server_ms(&self, _: Duration) -> u64 {
            0
        }

        fn counter(&mut self) -> &mut Counter {
            &mut self.0
        }
    }

    impl Line for Nobody {
        fn is_ready(&self, _: SeatId) -> bool {
            false
        }
    }

    #[test]
    fn what_does_not_fit_the_backlog_has_failed() {
        let common = Common {
            share: Share::WHOLE,
            clients: 4,
            connect_per_s: 0.0,
            connect_within: Duration::ZERO,
            grace: Duration::ZERO,
            run: 7,
        };
        let options = RoomOptions {
            room: RoomId::new("ours").unwrap(),
            senders: 2,
            per_s: 1.0,
            lasting: Duration::from_secs(1),
            payload: 40,
        };
        let mut scenario = RoomScenario::new(common, options);
        let mut nobody = Nobody::default();
        scenario.backlog = BACKLOG_MAX - 1;
        for _ in 0..3 {
            scenario.send(Duration::ZERO, Duration::ZERO, &mut nobody);
        }
        assert_eq!(scenario.backlog, BACKLOG_MAX);
        let tally = &mut nobody.0.tally;
        assert_eq!((tally.sends, tally.backlog_dropped), (3, 2));
        scenario.close(tally);
        assert_eq!(tally.unresolved, BACKLOG_MAX as u64 + 2);
    }

    fn push(room: &str, text: &str) -> Bytes {
        let content = Content {
            content: Some(content::Content::Text(Text {
                text: text.to_owned(),
            })),
        };
        let push = RoomPush {
            room: room.to_owned(),
            content: Some(content),
            ..RoomPush::default()
        };
        push.encode_to_vec().into()
    }

    #[test]
    fn a_message_of_another_room_is_told_whoever_sent_it() {
        let room = RoomId::new("ours").unwrap();
        let stamp = Stamp {
            run: 7,
            sender: 1,
            order: 1,
            scheduled: Duration::ZERO,
        };
        assert_eq!(heard(push("ours", &stamp.to_text(40)), &room), Ok(Some(stamp)));
        assert_eq!(heard(push("ours", "hello"), &room), Ok(None));
        for text in [stamp.to_text(40).as_str(), "a secret of strangers"] {
            let what = heard(push("theirs", text), &room).unwrap_err();
            assert!(what.contains("theirs"), "{what}");
        }
        assert!(heard(Bytes::from_static(b"\xff\xff"), &room).is_err());
    }
}
