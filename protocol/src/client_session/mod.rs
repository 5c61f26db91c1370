//! One connection from the client's end: hello, login, Confirm, then requests and pushes until it ends.
//!
//! A [`ClientSession`] is what the SDK, the load generator and the simulation run over whatever carries bytes. It is pure:
//! bytes, requests and timers come in with `now` (any monotonic time), bytes to write, [`Event`]s and the next timer come
//! out. It does not dial, retry, verify descriptors or open business payloads; whoever owns it does.
//!
//! The legal order of calls: [`ClientSession::start`], then any of `handle_*`, [`ClientSession::request`],
//! [`ClientSession::reauthenticate`], [`ClientSession::probe`] and [`ClientSession::close`], each followed by
//! [`ClientSession::poll_output`] and [`ClientSession::poll_event`] until they give nothing more, and a call of
//! [`ClientSession::handle_timeout`] when the time of [`ClientSession::poll_timeout`] has come. [`Event::Ended`] is the last
//! event; after it the connection is closed and every call does nothing.
//!
//! One request may be made before the session is in: it goes out in the record of the Confirm, so that a Sync costs no
//! round trip of its own. Others wait for READY.

mod established;
mod event;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;

use self::established::Established;
pub use self::event::{End, Event, Failure, Fault, Refusal};
use self::requests::Requests;
pub use self::requests::{IN_FLIGHT_MAX, OutgoingRequest, QUEUED_BYTES_MAX, QUEUED_MAX, RequestError};
use crate::answer::{Answer, AnswerStep};
use crate::client;
use crate::entropy::Entropy;
use crate::frame::RequestId;
use crate::handshake::{Initiator, InitiatorError};
use crate::keys::StaticPublicKey;
use crate::suite::Suite;
use crate::timing;

/// How long the gateway may take from the accept to READY, in milliseconds: a registration and a database write, with
/// room for both to be retried.
pub const READY_WITHIN_MS: u64 = 20_000;

/// How long a connection may stay silent after a ping, in milliseconds: beyond the slowest mobile round trip, short
/// against the heartbeat.
pub const PROBE_WITHIN_MS: u64 = 10_000;

/// One login of one device over one connection. See the module for the order of calls.
#[derive(Debug)]
pub struct ClientSession {
    state: State,
    events: VecDeque<Event>,
    /// Sealed or clear-text bytes that only await their writing.
    output: Vec<u8>,
}

#[derive(Debug)]
enum State {
    AwaitingAnswer(Box<AwaitingAnswer>),
    Established(Box<Established>),
    Ended,
}

/// The hello is out.
#[derive(Debug)]
struct AwaitingAnswer {
    initiator: Initiator,
    answer: Vec<u8>,
    requests: Requests,
    deadline: Duration,
}

impl ClientSession {
    /// Writes the hello: `login` sealed for `gateway_key`, which comes from a verified descriptor.
    ///
    /// # Errors
    /// When the login does not fit a hello.
    pub fn start(
        suite: Suite,
        gateway_key: &StaticPublicKey,
        login: &client::Login,
        now: Duration,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, InitiatorError> {
        let mut output = Vec::new();
        let initiator = Initiator::start(suite, gateway_key, &login.encode_to_vec(), entropy, &mut output)?;
        let state = State::AwaitingAnswer(Box::new(AwaitingAnswer {
            initiator,
            answer: Vec::new(),
            requests: Requests::new(),
            deadline: now.saturating_add(Duration::from_millis(timing::HANDSHAKE_WITHIN_MS)),
        }));
        Ok(Self {
            state,
            events: VecDeque::new(),
            output,
        })
    }

    /// Takes in what the connection has read.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Duration) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::AwaitingAnswer(waiting) => self.handle_answer(waiting, bytes, now),
            State::Established(mut established) => {
                let outcome = established.handle_bytes(bytes, now, &mut self.events);
                self.go_on(established, outcome);
            }
            State::Ended => {}
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Duration) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::AwaitingAnswer(waiting) if now >= waiting.deadline => self.end(End::HandshakeStalled),
            State::AwaitingAnswer(mut waiting) => {
                waiting.requests.expire(now, &mut self.events);
                self.state = State::AwaitingAnswer(waiting);
            }
            State::Established(mut established) => {
                let outcome = established.handle_timeout(now, &mut self.events);
                self.go_on(established, outcome);
            }
            State::Ended => {}
        }
    }

    /// When [`ClientSession::handle_timeout`] is to be called next; `None` once ended.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.state {
            State::AwaitingAnswer(waiting) => Some(
                waiting
                    .requests
                    .due()
                    .unwrap_or(waiting.deadline)
                    .min(waiting.deadline),
            ),
            State::Established(established) => Some(established.due()),
            State::Ended => None,
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Appends the bytes to be written to `out`; says whether there were any. They must be written, in this order.
    pub fn poll_output(&mut self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        out.append(&mut self.output);
        if let State::Established(established) = &mut self.state
            && let Err(fault) = established.seal(out)
        {
            self.end(End::Faulty(fault));
        }
        out.len() > before
    }

    /// Asks something. Its outcome comes as [`Event::Response`], unless the session ends first.
    ///
    /// # Errors
    /// When the request cannot be taken; nothing was sent then.
    pub fn request(&mut self, request: OutgoingRequest, now: Duration) -> Result<RequestId, RequestError> {
        match &mut self.state {
            State::AwaitingAnswer(waiting) => waiting.requests.submit(request, now),
            State::Established(established) => established.request(request, now),
            State::Ended => Err(RequestError::Ended),
        }
    }

    /// Hands over a new token for the login that is running, as [`Event::Reauth`] asks.
    ///
    /// # Errors
    /// When the token is longer than any frame, or no login is running.
    pub fn reauthenticate(&mut self, token: &str, now: Duration) -> Result<(), RequestError> {
        match &mut self.state {
            State::Established(established) => established.reauthenticate(token, now),
            State::AwaitingAnswer(_) | State::Ended => Err(RequestError::Ended),
        }
    }

    /// Finds out soon whether the connection is alive: after a change of network, or an answer that did not come.
    pub fn probe(&mut self, now: Duration) {
        if let State::Established(established) = &mut self.state {
            established.probe(now);
        }
    }

    /// Says good-bye. The last bytes are in [`ClientSession::poll_output`].
    pub fn close(&mut self) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::AwaitingAnswer(_) => self.end(End::Asked),
            State::Established(mut established) => {
                established.say_close();
                self.go_on(established, Err(End::Asked));
            }
            State::Ended => {}
        }
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    fn handle_answer(&mut self, mut waiting: Box<AwaitingAnswer>, bytes: &[u8], now: Duration) {
        // The gateway sends nothing behind its answer before our Confirm, so this stays within one answer.
        waiting.answer.extend_from_slice(bytes);
        let (message, consumed) = match Answer::parse(&waiting.answer) {
            Ok(AnswerStep::Incomplete { .. }) => {
                self.state = State::AwaitingAnswer(waiting);
                return;
            }
            Ok(AnswerStep::Complete {
                answer: Answer::Accept(message),
                consumed,
            }) => (message, consumed),
            Ok(AnswerStep::Complete { answer, .. }) => return self.end(End::of_answer(&answer)),
            Err(fault) => return self.end(End::Faulty(Fault::Answer(fault))),
        };
        let (keys, login_answer) = match waiting.initiator.finish(message) {
            Ok(finished) => finished,
            Err(fault) => return self.end(End::Faulty(Fault::Handshake(fault))),
        };
        let Ok(login_answer) = client::LoginAnswer::decode(&*login_answer) else {
            return self.end(End::Faulty(Fault::LoginAnswer));
        };
        if login_answer.code != 0 {
            return self.end(End::LoginRefused {
                refusal: Refusal {
                    code: login_answer.code,
                    message: login_answer.message,
                    retry_after_ms: login_answer.retry_after_ms,
                },
                server_time_ms: login_answer.server_time_ms,
            });
        }
        let mut established = Box::new(Established::new(keys, &login_answer, waiting.requests, now));
        self.events.push_back(Event::Connected {
            server_time_ms: login_answer.server_time_ms,
            token_expires_ms: login_answer.token_expires_ms,
            features: login_answer.features,
        });
        let rest = waiting.answer.get(consumed..).unwrap_or_default();
        let outcome = established.handle_bytes(rest, now, &mut self.events);
        self.go_on(established, outcome);
    }

    /// Keeps the established state, unless `outcome` ends it; what it still had to say goes out first.
    fn go_on(&mut self, mut established: Box<Established>, outcome: Result<(), End>) {
        match outcome {
            Ok(()) => self.state = State::Established(established),
            Err(end) => {
                let sealed = established.seal(&mut self.output);
                self.end(match sealed {
                    Ok(()) => end,
                    Err(fault) => End::Faulty(fault),
                });
            }
        }
    }

    fn end(&mut self, end: End) {
        self.state = State::Ended;
        self.events.push_back(Event::Ended(end));
    }
}
