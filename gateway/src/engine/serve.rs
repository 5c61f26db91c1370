//! What a reactor does with its sessions' events, with the cluster's replies, and with strangers.

use std::sync::atomic::Ordering::Relaxed;

use whimbrel_host::fair;
use whimbrel_protocol::answer::{Answer as HelloAnswer, Reject, RejectReason};
use whimbrel_protocol::cluster::{OpenSessionResponse, SessionRecord};
use whimbrel_protocol::code::Code;

use super::addresses::{HandshakeTicket, TurnedAway};
use super::connection::Connection;
use super::listener::ACCEPT_RETRY_AFTER;
use super::message::{Asked, Migrant, Reply, lost};
use super::net::Stream;
use super::port::REPLIES_MAX;
use super::reactor::Reactor;
use super::reading::HANDSHAKES_PER_TURN;
use super::slots::Place;
use super::upstream::Authenticate;
use super::users;
use crate::session::{Answer, Event, Fault, LoginMessage, Session, Unanswered, UpRequest};

/// Connections accepted in a turn: twice what can be served, for most hellos are not there yet.
const ACCEPTS_PER_TURN: usize = 2 * HANDSHAKES_PER_TURN;

/// Hellos and judged logins that may wait for their turn before accepting rests: some ten turns of them. Whoever comes
/// later waits in the kernel's backlog, where it costs nothing and nobody's limit counts it.
const HANDSHAKES_WAITING_MAX: usize = 10 * HANDSHAKES_PER_TURN;

/// Connections taken over in a turn.
const MOVES_PER_TURN: usize = 2 * HANDSHAKES_PER_TURN;

/// What a client turned away for want of room waits, in milliseconds.
const RETRY_AFTER_MS: u32 = 2_000;

/// Questions of one reactor that sessions may take, by requests and new tokens: the rest is for logins, however many of them
/// nobody answers. Clients share them by [`fair`]: whoever has no request unanswered gets one through, whatever others ask.
pub(super) const REQUESTS_MAX: usize = REPLIES_MAX / 4 * 3;

/// What is said when those are taken.
const TOO_MANY_REQUESTS: &str = "the gateway has too many unanswered requests";

/// What passing a request on costs, in frames.
const REQUEST_WORK: u32 = 16;

/// For how long the answer to a login is of use, in milliseconds; a client has moved on by then.
const AUTHENTICATE_DEADLINE_MS: u32 = 5_000;

impl Reactor {
    pub(super) fn handle_event(&mut self, place: Place, event: Event) {
        match event {
            Event::HandshakeFailed => {
                self.metrics.handshakes_failed.increment(1);
                if let Some(ticket) = self
                    .slots
                    .at(place)
                    .and_then(|connection| connection.ticket.as_ref())
                {
                    ticket.fail();
                }
            }
            Event::Claimed { bucket } => {
                let home = bucket as usize % self.peers.len();
                if home == usize::from(self.index) {
                    self.authenticate(place);
                } else {
                    self.send_home(place, home);
                }
            }
            Event::Confirmed => self.open(place),
            Event::Request(request) => self.pass_on(place, request),
            Event::Reauthenticate(login) => self.judge_again(place, login),
            Event::Faulted(fault) => {
                self.metrics.ended(&fault);
                // The ticket is there until the client has confirmed.
                if fault.leaves_unconfirmed()
                    && let Some(ticket) = self
                        .slots
                        .at(place)
                        .and_then(|connection| connection.ticket.as_ref())
                {
                    ticket.fail();
                }
            }
        }
    }

    /// Room for one more question, if there is any: so that its answer always has a place.
    pub(super) fn ask(&mut self, place: Place, lost: Reply) -> Option<Asked> {
        if self.questions >= REPLIES_MAX {
            return None;
        }
        self.questions += 1;
        self.asked = true;
        Some(Asked::new(&self.inbox.port, place, lost))
    }

    fn overloaded(&mut self, place: Place) {
        self.with(place, |session, cx| {
            let message = "the gateway has too many unanswered questions".to_owned();
            let code = Code::Overloaded.number();
            session.handle_fault(
                cx,
                Fault::Refused {
                    code,
                    message,
                    retry_after_ms: RETRY_AFTER_MS,
                },
            );
        });
    }

    /// A session has come to its bucket's reactor: its token is judged.
    fn authenticate(&mut self, place: Place) {
        let Some(asked) = self.ask(place, Reply::Authenticated(Err(lost()))) else {
            return self.overloaded(place);
        };
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        let (Some(login), Some(identity)) = (connection.session.login(), connection.session.identity())
        else {
            return;
        };
        let remote = connection
            .ticket
            .as_ref()
            .map(|ticket| ticket.peer().ip().to_string());
        let question = Authenticate {
            login,
            app: identity.app().to_owned(),
            remote_address: remote.unwrap_or_default(),
            again: false,
            deadline_ms: AUTHENTICATE_DEADLINE_MS,
        };
        self.upstream.authenticate(question, asked);
    }

    /// A session has a new token, as one of its questions. When there is no room for it, it goes on and is asked again later.
    fn judge_again(&mut self, place: Place, login: LoginMessage) {
        // One is judged at a time, so it has none of these. Its requests do not count, or who asks much could put off the verdict.
        let has_room = fair::may_take(0, self.questions, REQUESTS_MAX);
        let asked = has_room
            .then(|| self.ask(place, Reply::Reauthenticated(Err(lost()))))
            .flatten();
        let Some(asked) = asked else {
            let unjudged = Unanswered {
                code: Code::Overloaded.number(),
                message: TOO_MANY_REQUESTS.to_owned(),
                retry_after_ms: RETRY_AFTER_MS,
            };
            self.with(place, |session, cx| {
                session.handle_reauthenticated(cx, Err(unjudged));
            });
            return;
        };
        let Some(identity) = self
            .slots
            .at(place)
            .and_then(|connection| connection.session.identity())
        else {
            return;
        };
        let question = Authenticate {
            login,
            app: identity.app().to_owned(),
            remote_address: String::new(),
            again: true,
            deadline_ms: AUTHENTICATE_DEADLINE_MS,
        };
        self.upstream.authenticate(question, asked);
    }

    /// Moves a connection to the reactor of its user's bucket, while there is almost nothing to move.
    fn send_home(&mut self, place: Place, home: usize) {
        let Some(mut connection) = self.slots.remove(place) else {
            return;
        };
        connection.session.release(&mut self.tools.lend());
        let ticket = connection
            .ticket
            .take()
            .expect("an unfinished handshake holds its ticket");
        if let Err(error) = self.poll.deregister(&mut connection.stream) {
            tracing::warn!(%error, "a connection that moves cannot be deregistered");
        }
        let migrant = Migrant {
            stream: connection.stream,
            session: connection.session,
            ticket,
        };
        let Err(refused) = self.peers[home].hand_over(migrant) else {
            return;
        };
        let Some(place) = self.adopt(refused) else { return };
        self.overloaded(place);
    }

    fn adopt(&mut self, migrant: Migrant) -> Option<Place> {
        let Migrant {
            stream,
            session,
            ticket,
        } = migrant;
        let place = self.settle_in(Connection::new(stream, session, Some(ticket)))?;
        self.note_stranger(place);
        Some(place)
    }

    /// Puts a connection into a slot and asks for its events.
    fn settle_in(&mut self, connection: Connection) -> Option<Place> {
        let place = self.slots.insert(connection);
        let connection = self.slots.at(place).expect("it was just put there");
        if let Err(error) = self.poll.register(&mut connection.stream, place.token()) {
            tracing::warn!(%error, "a connection cannot be registered for events");
            self.end(place, "not_registered");
            return None;
        }
        self.after(place);
        Some(place)
    }

    pub(super) fn take_moves(&mut self) {
        for _ in 0..MOVES_PER_TURN {
            let Ok(migrant) = self.inbox.moves.try_recv() else {
                return;
            };
            self.rounds.note_arrival();
            if let Some(place) = self.adopt(migrant) {
                self.authenticate(place);
            }
        }
        self.inbox.call_again();
    }

    fn open(&mut self, place: Place) {
        let Some(asked) = self.ask(place, Reply::Opened(Err(lost()))) else {
            return self.overloaded(place);
        };
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        connection.ticket = None;
        if let Err(error) = self.poll.promote(&mut connection.stream, place.token()) {
            tracing::warn!(%error, "a session cannot be registered for events");
            return self.end(place, "not_registered");
        }
        let Some(identity) = connection.session.identity() else {
            return;
        };
        let record = self.shared.record(identity, self.index, place);
        self.upstream.open(record, identity.uid(), asked);
    }

    fn pass_on(&mut self, place: Place, request: UpRequest) {
        let id = request.id;
        let now_ms = self.tools.now.monotonic_ms;
        let left_ms = u32::try_from(request.expires_at_ms.saturating_sub(now_ms)).unwrap_or(u32::MAX);
        let refusal = |code: Code, message: &str, retry_after_ms| {
            Answer::Refused(Unanswered {
                code: code.number(),
                message: message.to_owned(),
                retry_after_ms,
            })
        };
        if left_ms == 0 {
            let answer = refusal(Code::DeadlineExceeded, "the request waited too long", 0);
            self.with(place, |session, cx| session.handle_response(cx, id, answer));
            return;
        }
        // All that it has unanswered, but for this one.
        let own = self
            .slots
            .at(place)
            .map_or(0, |connection| connection.session.unanswered().saturating_sub(1));
        let has_room = fair::may_take(own, self.questions, REQUESTS_MAX);
        let asked = has_room
            .then(|| self.ask(place, Reply::Answered(id, Answer::Refused(lost()))))
            .flatten();
        let Some(asked) = asked else {
            let answer = refusal(Code::Overloaded, TOO_MANY_REQUESTS, RETRY_AFTER_MS);
            self.with(place, |session, cx| session.handle_response(cx, id, answer));
            return;
        };
        let handle = self.shared.handle(self.index, place);
        let Some(identity) = self
            .slots
            .at(place)
            .and_then(|connection| connection.session.identity())
        else {
            return;
        };
        self.metrics.requests.increment(1);
        self.tools.work = self.tools.work.saturating_add(REQUEST_WORK);
        self.upstream.request(identity, handle, request, left_ms, asked);
    }

    pub(super) fn handle_reply(&mut self, place: Place, reply: Reply) {
        match reply {
            Reply::Authenticated(result) => self.queue_judged(place, result),
            Reply::Opened(result) => {
                self.rounds.note_step();
                self.handle_opened(place, result);
            }
            Reply::Reauthenticated(result) => {
                self.with(place, |session, cx| session.handle_reauthenticated(cx, result));
            }
            Reply::Answered(id, answer) => {
                self.with(place, |session, cx| session.handle_response(cx, id, answer));
            }
            Reply::Announced { places, done } => self.handle_announced(&places, done),
        }
    }

    fn handle_opened(
        &mut self,
        place: Place,
        result: Result<(OpenSessionResponse, Box<SessionRecord>), Unanswered>,
    ) {
        let (result, record) = match result {
            Ok((opened, record)) => (Ok(opened), Some(record)),
            Err(unanswered) => (Err(unanswered), None),
        };
        self.with(place, |session, cx| session.handle_opened(cx, result));
        self.note_holder(place);
        let Some(connection) = self
            .slots
            .at(place)
            .filter(|connection| connection.session.is_ready())
        else {
            // It left while it was being registered.
            if let Some(record) = record {
                self.upstream.ended(*record);
            }
            return;
        };
        connection.registered = true;
        self.shared.sessions.fetch_add(1, Relaxed);
        self.metrics.logins.increment(1);
        if let Some(identity) = connection.session.identity() {
            let session = users::Session::Local(place);
            let oldest = self.users.insert(identity.app(), identity.user_id, session);
            if let Some(users::Session::Local(oldest)) = oldest {
                let reason = whimbrel_protocol::close::CloseReason::Displaced.number();
                self.with(oldest, |session, cx| {
                    session.handle_fault(cx, Fault::Ordered { reason })
                });
            }
        }
        if let Some(window_ms) = self.draining_window_ms {
            self.with(place, |session, cx| session.handle_drain(cx, window_ms));
        }
    }

    /// Takes in some of those who wait to be; how many.
    pub(super) fn accept_some(&mut self) -> usize {
        if !self.accept_ready || self.handshakes_waiting() >= HANDSHAKES_WAITING_MAX {
            return 0;
        }
        let mut accepted = 0;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { break };
            match listener.accept() {
                Ok((stream, peer)) => {
                    accepted += 1;
                    self.rounds.note_arrival();
                    self.receive(stream, peer);
                }
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock => {
                        self.accept_ready = false;
                        if let Some(failed) = self.accept_trouble.is_over() {
                            tracing::info!(failed, reactor = self.index, "accepting connections again");
                        }
                        break;
                    }
                    std::io::ErrorKind::Interrupted | std::io::ErrorKind::ConnectionAborted => {}
                    // Out of descriptors or memory: the waiting connections will bring no second event.
                    _ => {
                        if self.accept_trouble.has_failed() {
                            tracing::warn!(
                                %error,
                                reactor = self.index,
                                "out of descriptors or memory: connections wait to be accepted until some end; trying \
                                 again ten times a second and counting"
                            );
                        }
                        self.metrics.accept_errors.increment(1);
                        self.shared.accept_errors.fetch_add(1, Relaxed);
                        let retry_ms = u64::try_from(ACCEPT_RETRY_AFTER.as_millis()).unwrap_or(u64::MAX);
                        self.accept_again_at_ms = Some(self.tools.now.monotonic_ms.saturating_add(retry_ms));
                        self.accept_ready = false;
                        break;
                    }
                },
            }
        }
        accepted
    }

    fn receive(&mut self, mut stream: Stream, peer: std::net::SocketAddr) {
        self.metrics.accepted.increment(1);
        let count = self.shared.connections.fetch_add(1, Relaxed);
        let mut admitted = self.admit(count, peer);
        if matches!(admitted, Err(TurnedAway::Overloaded)) && self.make_room_for(peer) {
            admitted = self.admit(self.shared.connections.load(Relaxed) - 1, peer);
        }
        let ticket = match admitted {
            Ok(ticket) => ticket,
            Err(turned_away) => {
                self.shared.connections.fetch_sub(1, Relaxed);
                self.metrics.turned_away(turned_away);
                return turn_away(&mut stream, turned_away);
            }
        };
        let session = Session::new(self.tools.now, &self.tools.limits);
        if let Some(place) = self.settle_in(Connection::new(stream, session, Some(Box::new(ticket)))) {
            self.note_stranger(place);
            tracing::trace!(reactor = self.index, slot = place.slot, %peer, "connection accepted");
        }
    }
}

impl Reactor {
    /// Whether there is a place for one who comes to `others` connections.
    fn admit(&self, others: usize, peer: std::net::SocketAddr) -> Result<HandshakeTicket, TurnedAway> {
        if others >= self.shared.limits.connections_max {
            return Err(TurnedAway::Overloaded);
        }
        self.shared.addresses.admit(peer, self.tools.now.monotonic_ms)
    }
}

/// Says why, if the kernel takes six bytes at once, and hangs up.
fn turn_away(stream: &mut Stream, why: TurnedAway) {
    let reason = match why {
        TurnedAway::AddressLimited => RejectReason::AddressLimited,
        TurnedAway::Overloaded => RejectReason::Overloaded,
    };
    let mut answer = Vec::new();
    let reject = HelloAnswer::Reject(Reject {
        reason,
        retry_after_ms: RETRY_AFTER_MS,
    });
    if reject.encode(&mut answer).is_ok() {
        // A hint: whether it arrives is the peer's luck.
        let _hint = stream.write(&answer);
        let _end = stream.finish();
    }
    // Closing over an unread hello resets the connection, and the reset overtakes the answer.
    let _unread = stream.read(&mut [0; 4096]);
}
