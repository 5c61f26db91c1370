//! Before there are keys: reading the hello, and waiting for the token to be judged.
//!
//! Whatever goes wrong here ends with an answer in clear text (a hint to the client, no more) or with none at all.

use prost::Message as _;
use whimbrel_protocol::answer::{Answer as HelloAnswer, Reject, RejectReason};
use whimbrel_protocol::client::LoginAnswer;
use whimbrel_protocol::cluster::AuthenticateResponse;
use whimbrel_protocol::code::{Code, Retry};
use whimbrel_protocol::handshake::{Responder, ResponderError};
use whimbrel_protocol::hello::{Hello, HelloStep};

use super::closing::Closing;
use super::fault::Fault;
use super::identity::{Claim, Identity};
use super::live::Live;
use super::login_message::LoginMessage;
use super::provisional::AwaitConfirm;
use super::{Context, Event, Now, Session, SessionLimits, Unanswered};

/// Bytes of a refusal's message that fit the padded login answer with room to spare.
const REFUSAL_MESSAGE_LEN_MAX: usize = 300;

/// A stranger's hello is coming.
#[derive(Debug)]
pub(crate) struct ReadingHello {
    partial: Vec<u8>,
    taken: usize,
    deadline_ms: u64,
}

impl ReadingHello {
    pub(super) fn new(now: Now, limits: &SessionLimits) -> Self {
        let deadline_ms = now.monotonic_ms.saturating_add(limits.handshake_within_ms);
        Self {
            partial: Vec::new(),
            taken: 0,
            deadline_ms,
        }
    }

    pub(super) fn take_partial(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    pub(super) fn held(&self) -> usize {
        self.taken
    }

    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        cx.held.give(std::mem::take(&mut self.taken));
    }

    pub(super) fn handle_bytes(mut self: Box<Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Session {
        let (hello, consumed) = match Hello::parse(bytes) {
            Ok(HelloStep::Incomplete { .. }) => return self.keep(cx, bytes),
            Ok(HelloStep::Complete { hello, consumed }) => (hello, consumed),
            Err(error) => {
                tracing::debug!(%error, "refused a hello");
                let answer = error.reject().map(HelloAnswer::Reject);
                return self.refuse_and_count(cx, answer.as_ref());
            }
        };
        if consumed != bytes.len() {
            tracing::debug!(
                surplus = bytes.len() - consumed,
                "refused a hello with bytes behind it"
            );
            let answer = HelloAnswer::Reject(Reject::now(RejectReason::MalformedHello));
            return self.refuse_and_count(cx, Some(&answer));
        }
        let (responder, login) = match Responder::read(&hello, &cx.keys.statics, cx.entropy) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(%error, "refused a hello");
                let descriptor = cx.keys.descriptor.clone();
                let answer = error.answer(&descriptor);
                // After a restart every honest client is for a key of before, a city of them behind one address.
                return match error {
                    ResponderError::UnknownKey { .. } => self.refuse(cx, Some(&answer)),
                    _ => self.refuse_and_count(cx, Some(&answer)),
                };
            }
        };
        self.release(cx);
        match Claim::parse(&login, cx.limits.buckets) {
            Ok(Claim {
                identity,
                bucket,
                frame_payload_max,
            }) => {
                cx.events.push(Event::Claimed { bucket });
                Session::Authenticating(Box::new(Authenticating {
                    responder,
                    identity,
                    login: LoginMessage::new(login),
                    frame_payload_max,
                    deadline_ms: self.deadline_ms,
                }))
            }
            Err(error) => {
                cx.events.push(Event::HandshakeFailed);
                let refusal = Unanswered {
                    code: error.code().number(),
                    message: error.to_string(),
                    retry_after_ms: 0,
                };
                refuse_login(cx, responder, refusal, None)
            }
        }
    }

    fn keep(mut self: Box<Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Session {
        let more = bytes.len().saturating_sub(self.taken);
        if !cx.held.try_take_of_half(more) {
            return self.fault(cx, Fault::OutOfMemoryBudget);
        }
        self.taken = self.taken.saturating_add(more);
        self.partial = bytes.to_vec();
        Session::ReadingHello(self)
    }

    /// Ends with `answer`, or without a word, and counts against the address.
    fn refuse_and_count(self, cx: &mut Context<'_>, answer: Option<&HelloAnswer<'_>>) -> Session {
        cx.events.push(Event::HandshakeFailed);
        self.refuse(cx, answer)
    }

    /// Ends with `answer`, or without a word.
    fn refuse(mut self, cx: &mut Context<'_>, answer: Option<&HelloAnswer<'_>>) -> Session {
        self.release(cx);
        let Some(answer) = answer else {
            return Session::Ended;
        };
        let mut plain = Vec::new();
        match answer.encode(&mut plain) {
            Ok(()) => Closing::plain(cx, plain),
            Err(error) => {
                tracing::error!(%error, "an answer to a hello cannot be written");
                Session::Ended
            }
        }
    }

    pub(super) fn fault(self, cx: &mut Context<'_>, fault: Fault) -> Session {
        let answer = match fault {
            Fault::Draining => Some(RejectReason::Draining),
            Fault::OutOfMemoryBudget | Fault::MadeRoom => Some(RejectReason::Overloaded),
            _ => None,
        };
        cx.events.push(Event::Faulted(fault));
        let answer = answer.map(|reason| HelloAnswer::Reject(Reject::now(reason)));
        match answer {
            // The want is ours.
            Some(answer) => self.refuse(cx, Some(&answer)),
            None => self.refuse_and_count(cx, None),
        }
    }

    pub(super) fn handle_timer(self: Box<Self>, cx: &mut Context<'_>) -> Session {
        if cx.now.monotonic_ms < self.deadline_ms {
            return Session::ReadingHello(self);
        }
        self.fault(cx, Fault::HandshakeTimeout)
    }
}

/// Message 1 is open. Provisional: it may be a replay.
#[derive(Debug)]
pub(crate) struct Authenticating {
    responder: Responder,
    identity: Identity,
    login: LoginMessage,
    frame_payload_max: u32,
    deadline_ms: u64,
}

impl Authenticating {
    pub(super) fn login(&self) -> LoginMessage {
        self.login.clone()
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    pub(super) fn handle_authenticated(
        mut self,
        cx: &mut Context<'_>,
        result: Result<AuthenticateResponse, Unanswered>,
    ) -> Session {
        let judged = match result {
            Ok(judged) if judged.code == 0 => judged,
            Ok(AuthenticateResponse {
                code,
                message,
                retry_after_ms,
                ..
            }) => {
                if is_suspicious(code) {
                    cx.events.push(Event::HandshakeFailed);
                }
                let refusal = Unanswered {
                    code,
                    message,
                    retry_after_ms,
                };
                return refuse_login(cx, self.responder, refusal, Some(&self.identity));
            }
            Err(unanswered) => return refuse_login(cx, self.responder, unanswered, Some(&self.identity)),
        };
        let login_answer = LoginAnswer {
            server_time_ms: cx.now.unix_ms,
            heartbeat_ms: cx.limits.heartbeat_ms,
            requests_max: u32::from(cx.limits.requests_max),
            token_expires_ms: judged.token_expires_ms,
            ..LoginAnswer::default()
        };
        let mut answer = Vec::new();
        let keys = self
            .responder
            .answer(&login_answer.encode_to_vec(), &mut answer)
            .expect("five numbers fit a login answer");
        self.identity.user_id = judged.user_id;
        let mut live = Live::new(keys, self.identity, self.frame_payload_max, cx.now);
        live.talk.set_token_expiry(cx.now, judged.token_expires_ms);
        live.talk
            .outbound
            .send_plain(answer, cx.owed, cx.spares, cx.now.monotonic_ms);
        Session::AwaitConfirm(AwaitConfirm::new(Box::new(live), cx.now))
    }

    pub(super) fn fault(self, cx: &mut Context<'_>, fault: Fault) -> Session {
        let (code, retry_after_ms) = match &fault {
            Fault::Draining => (Code::Unavailable.number(), 0),
            Fault::HandshakeTimeout => (Code::DeadlineExceeded.number(), 0),
            Fault::Refused {
                code, retry_after_ms, ..
            } => (*code, *retry_after_ms),
            _ => (Code::Internal.number(), 0),
        };
        let refusal = Unanswered {
            code,
            message: fault.to_string(),
            retry_after_ms,
        };
        cx.events.push(Event::Faulted(fault));
        refuse_login(cx, self.responder, refusal, Some(&self.identity))
    }

    pub(super) fn handle_timer(self: Box<Self>, cx: &mut Context<'_>) -> Session {
        if cx.now.monotonic_ms < self.deadline_ms {
            return Session::Authenticating(self);
        }
        self.fault(cx, Fault::HandshakeTimeout)
    }
}

/// Whether a refusal counts against the address it came from. An expired token is everyday life, an overload is ours.
fn is_suspicious(code: u32) -> bool {
    match Code::from_number(code) {
        None | Some(Code::TokenExpired) => false,
        Some(code) => code.retry() != Retry::Later,
    }
}

/// Answers a login that is refused: sealed and padded like any other, so that nobody on the path learns it.
fn refuse_login(
    cx: &mut Context<'_>,
    responder: Responder,
    refusal: Unanswered,
    identity: Option<&Identity>,
) -> Session {
    let mut message = refusal.message;
    message.truncate(message.floor_char_boundary(REFUSAL_MESSAGE_LEN_MAX));
    tracing::debug!(
        code = refusal.code,
        message,
        uid = identity.map(Identity::uid),
        "refused a login"
    );
    let login_answer = LoginAnswer {
        code: refusal.code,
        message,
        retry_after_ms: refusal.retry_after_ms,
        server_time_ms: cx.now.unix_ms,
        ..LoginAnswer::default()
    };
    let mut answer = Vec::new();
    responder
        .answer(&login_answer.encode_to_vec(), &mut answer)
        .expect("a message of 300 bytes and three numbers fit a login answer");
    Closing::plain(cx, answer)
}
