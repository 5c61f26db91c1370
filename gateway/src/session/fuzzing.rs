//! One login session as a fuzzer drives it: the production state machine with its context around it, and the promises that
//! must hold after every input.
//!
//! Behind the feature `fuzzing`, since nothing that ships needs it. Whoever calls plays the socket and the cluster; the
//! promises are asserted here, where the session's insides can be seen.

mod rooms;

use std::num::NonZeroU32;

use bytes::Bytes;
use whimbrel_protocol::cluster::{AuthenticateResponse, OpenSessionResponse};
use whimbrel_protocol::frame::{Frame, RequestId};
use whimbrel_protocol::keys::{StaticKey, StaticPublicKey};

use self::rooms::Around;
pub use self::rooms::{DeskOrder, Obeyed};
use super::closing::Closing;
use super::{
    Answer, Budget, Context, Event, Fault, LoginMessage, Now, PushOutcome, RoomPush, Session, SessionLimits,
    SpareQueues, Unanswered,
};
use crate::engine::RoomFrame;
use crate::keys::KeyRing;

/// What the session's clock says at first, unix milliseconds.
const START_UNIX_MS: u64 = 1_800_000_000_000;

/// Bytes handed to [`Harness::read`] at a time, at most.
pub const READ_MAX: usize = 16 * 1024;

/// By how much what waits may go over its bound: what was read in one turn is answered, even where no more is read, and a
/// ping of 4 bytes is answered by a frame that counts 96. A turn sees at most what was read, a record and a frame that
/// were nearly whole before.
const OVERSHOOT_MAX: usize = 32 * 3 * READ_MAX;

/// What a run is held to.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of unfinished things.
    pub held_max: usize,
    /// Bytes that may wait for clients.
    pub owed_max: usize,
    /// Waiting bytes at which pushes become a hint.
    pub outbound_collapse_bytes: usize,
    /// Waiting bytes at which the session is closed.
    pub outbound_close_bytes: usize,
    /// Requests a client may have unanswered.
    pub requests_max: u16,
}

/// An answer of the cluster that did not come.
#[derive(Debug, Clone)]
pub struct NoAnswer {
    /// A number of [`whimbrel_protocol::code::Code`], or none that is known.
    pub code: u32,
    /// For developers.
    pub message: String,
    /// When to try again, milliseconds.
    pub retry_after_ms: u32,
}

impl From<NoAnswer> for Unanswered {
    fn from(value: NoAnswer) -> Self {
        let NoAnswer {
            code,
            message,
            retry_after_ms,
        } = value;
        Self {
            code,
            message,
            retry_after_ms,
        }
    }
}

/// Why somebody within the gateway ends a session.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// Out of service.
    Draining,
    /// No room.
    OutOfMemoryBudget,
    /// By the cluster, with this reason.
    Ordered(u32),
    /// What a session behind the bound is ended for, if it is behind.
    IfBehind,
}

/// What the session wanted of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Counts against the address.
    HandshakeFailed,
    /// Move to this bucket and judge the login.
    Claimed {
        /// The login, exact bytes.
        login: Bytes,
    },
    /// Open and register.
    Confirmed,
    /// Pass a request on.
    Request {
        /// The client's number.
        id: RequestId,
        /// The message.
        payload: Bytes,
    },
    /// Judge a new token.
    Reauthenticate,
    /// It ends.
    Faulted,
}

/// The session, and all that production lends it.
#[derive(Debug)]
pub struct Harness {
    session: Session,
    now_ms: u64,
    limits: SessionLimits,
    keys: KeyRing,
    held: Budget,
    owed: Budget,
    bounds: Bounds,
    spares: SpareQueues,
    plaintext: Vec<u8>,
    events: Vec<Event>,
    drawn: u64,
    faulted: bool,
    passed_on: usize,
    around: Around,
}

impl Harness {
    /// A stranger has connected to a gateway with these bounds.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let limits = SessionLimits {
            buckets: NonZeroU32::MIN,
            outbound_collapse_bytes: bounds.outbound_collapse_bytes,
            outbound_close_bytes: bounds.outbound_close_bytes,
            requests_max: bounds.requests_max,
            ..SessionLimits::default()
        };
        let now = Now {
            monotonic_ms: 0,
            unix_ms: START_UNIX_MS,
        };
        Self {
            session: Session::new(now, &limits),
            now_ms: 0,
            limits,
            keys: KeyRing {
                statics: vec![StaticKey::from_secret(&[7; 32])],
                descriptor: Bytes::from_static(&[0x2a; 400]),
            },
            held: Budget::new(bounds.held_max),
            owed: Budget::new(bounds.owed_max),
            bounds,
            spares: SpareQueues::default(),
            plaintext: Vec::new(),
            events: Vec::new(),
            drawn: 0,
            faulted: false,
            passed_on: 0,
            around: Around::new(),
        }
    }

    /// The key that hellos are for.
    #[must_use]
    pub fn gateway_key(&self) -> StaticPublicKey {
        self.keys.statics[0].public()
    }

    fn with<R>(&mut self, input: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> R {
        let drawn = &mut self.drawn;
        let mut entropy = |out: &mut [u8]| {
            for byte in out {
                *drawn = drawn.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                *byte = drawn.to_be_bytes()[0];
            }
        };
        let was_over = matches!(self.session, Session::Closing(_) | Session::Ended);
        let before = self.events.len();
        let mut cx = Context {
            now: Now {
                monotonic_ms: self.now_ms,
                unix_ms: START_UNIX_MS + self.now_ms,
            },
            limits: &self.limits,
            keys: &self.keys,
            held: &self.held,
            owed: &self.owed,
            spares: &mut self.spares,
            plaintext: &mut self.plaintext,
            entropy: &mut entropy,
            work: &mut 0,
            events: &mut self.events,
        };
        let result = input(&mut self.session, &mut cx);
        assert!(
            !was_over || self.events.len() == before,
            "a session that has ended wants nothing any more: {:?}",
            &self.events[before..]
        );
        if !self.session.is_ready() {
            self.around.leave_all();
        }
        self.assert_promises();
        self.assert_state();
        result
    }

    fn assert_promises(&self) {
        assert!(
            self.held.used() <= self.bounds.held_max,
            "{} bytes are held, at most {} may be",
            self.held.used(),
            self.bounds.held_max
        );
        let owed = self.outbound_owed();
        assert_eq!(self.owed.used(), owed, "what is charged is what waits");
        let most = self.bounds.outbound_close_bytes + OVERSHOOT_MAX;
        assert!(
            owed <= most,
            "{owed} bytes wait for the client, at most {most} may"
        );
        assert_eq!(
            self.session.deadline_ms(&self.limits).is_none(),
            matches!(self.session, Session::Ended),
            "every session that lives has a time at which it will be looked at"
        );
    }

    /// What the engine asks of a session agrees with the state it is in.
    fn assert_state(&self) {
        let unfinished = self.session.is_unfinished();
        assert!(!unfinished || !self.session.is_ready() && !self.session.is_over());
        assert!(unfinished || !self.session.owes_confirm());
        if let Some(identity) = self.session.identity() {
            assert!(!identity.uid().is_empty() && !identity.device().is_empty());
            assert!(!self.session.is_ready() || identity.may_be(identity.user_id));
        }
    }

    fn outbound_owed(&self) -> usize {
        match &self.session {
            Session::Closing(closing) => Closing::owed(closing),
            session => session.live().map_or(0, |live| live.talk.outbound.owed()),
        }
    }

    /// Whether the session reads from its socket now.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        self.session.wants_bytes(&self.limits)
    }

    /// The socket had these bytes, at most [`READ_MAX`]. To be called while it wants some.
    pub fn read(&mut self, bytes: &[u8]) {
        debug_assert!(
            bytes.len() <= READ_MAX && self.wants_bytes(),
            "the engine would not read now"
        );
        self.with(|session, cx| {
            let mut all = session.take_partial();
            all.extend_from_slice(bytes);
            session.handle_bytes(cx, &mut all);
        });
    }

    /// The socket takes up to `room` bytes, which come back.
    pub fn write(&mut self, room: usize) -> Vec<u8> {
        let mut burst = Vec::new();
        if !self.session.has_output() {
            return burst;
        }
        let written = self.with(|session, cx| {
            session.poll_transmit(cx, &mut burst);
            assert!(!burst.is_empty(), "a session with output has bytes to write");
            let written = burst.len().min(room);
            session.handle_written(cx, &burst, written);
            written
        });
        burst.truncate(written);
        burst
    }

    /// Time passes; what is due is done, as the engine's wheel does it.
    pub fn advance(&mut self, ms: u64) {
        self.now_ms = self.now_ms.saturating_add(ms);
        let is_due = |at_ms: u64| at_ms <= self.now_ms;
        if !self.session.deadline_ms(&self.limits).is_some_and(is_due) {
            return;
        }
        self.with(Session::handle_timer);
        let next = self.session.deadline_ms(&self.limits);
        assert!(
            next.is_none_or(|at_ms| at_ms > self.now_ms),
            "a timer that was served is due again at once: the reactor would spin"
        );
    }

    /// Time passes until something is due.
    pub fn advance_to_deadline(&mut self) {
        if let Some(at_ms) = self.session.deadline_ms(&self.limits) {
            self.advance(at_ms.saturating_sub(self.now_ms));
        }
    }

    /// The login was judged.
    pub fn authenticated(&mut self, result: Result<AuthenticateResponse, NoAnswer>) {
        self.with(|session, cx| session.handle_authenticated(cx, result.map_err(Into::into)));
    }

    /// The session was opened, or was not.
    pub fn opened(&mut self, result: Result<OpenSessionResponse, NoAnswer>) {
        self.with(|session, cx| session.handle_opened(cx, result.map_err(Into::into)));
    }

    /// A later token was judged.
    pub fn reauthenticated(&mut self, result: Result<AuthenticateResponse, NoAnswer>) {
        self.with(|session, cx| session.handle_reauthenticated(cx, result.map_err(Into::into)));
    }

    /// The answer to a request that was passed on.
    pub fn respond(&mut self, id: RequestId, result: Result<Bytes, NoAnswer>) {
        self.passed_on = self.passed_on.saturating_sub(1);
        let answer = match result {
            Ok(payload) => Answer::Passed(payload),
            Err(unanswered) => Answer::Refused(unanswered.into()),
        };
        self.with(|session, cx| session.handle_response(cx, id, answer));
    }

    /// A push for a user; says whether it was taken.
    pub fn push(&mut self, user_id: u64, push: Frame) -> bool {
        self.with(|session, cx| session.handle_push(cx, user_id, push)) == PushOutcome::Accepted
    }

    /// A message to a room that the session is in. What a socket gets of it that takes up to `room` bytes now comes back;
    /// `None` is one that takes nothing, so that it waits.
    pub fn room_push(&mut self, method: u32, payload: Bytes, room: Option<usize>) -> Vec<u8> {
        match RoomFrame::new(method, payload) {
            Ok(frame) => self.deliver(&frame, room),
            Err(_) => Vec::new(),
        }
    }

    fn deliver(&mut self, frame: &RoomFrame, room: Option<usize>) -> Vec<u8> {
        let mut burst = Vec::new();
        let owed = self.owed.used();
        let written = self.with(|session, cx| {
            let outcome = session.handle_room_push(cx, frame, room.is_some(), &mut burst);
            assert_eq!(outcome == RoomPush::Sealed, !burst.is_empty());
            let written = burst.len().min(room.unwrap_or_default());
            if written < burst.len() {
                session.handle_unwritten(cx, &burst[written..]);
            }
            written
        });
        assert!(
            written == 0 || self.owed.used() >= owed,
            "a message to a room takes nothing from what waits"
        );
        burst.truncate(written);
        burst
    }

    /// The client may have missed something.
    pub fn missed(&mut self, spread_ms: u32) {
        self.with(|session, cx| session.handle_missed(cx, spread_ms));
    }

    /// The gateway is going.
    pub fn drain(&mut self, delay_window_ms: u32) {
        self.with(|session, cx| session.handle_drain(cx, delay_window_ms));
    }

    /// Somebody within ends it.
    pub fn end(&mut self, end: End) {
        let now = Now {
            monotonic_ms: self.now_ms,
            unix_ms: START_UNIX_MS + self.now_ms,
        };
        let fault = match end {
            End::Draining => Fault::Draining,
            End::OutOfMemoryBudget => Fault::OutOfMemoryBudget,
            End::Ordered(reason) => Fault::Ordered { reason },
            End::IfBehind => match self.session.behind(now) {
                Some(fault) => fault,
                None => return,
            },
        };
        self.with(|session, cx| session.handle_fault(cx, fault));
    }

    /// Whether requests and pushes flow.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.session.is_ready()
    }

    /// Whether the connection can be closed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.is_over()
    }

    /// What was wanted since the last time.
    pub fn wishes(&mut self) -> Vec<Wish> {
        let events = std::mem::take(&mut self.events);
        let login = self.session.login();
        let wishes: Vec<Wish> = events
            .into_iter()
            .map(|event| match event {
                Event::HandshakeFailed => Wish::HandshakeFailed,
                Event::Claimed { .. } => Wish::Claimed {
                    login: login.clone().map(LoginMessage::into_bytes).unwrap_or_default(),
                },
                Event::Confirmed => Wish::Confirmed,
                Event::Request(request) => {
                    self.passed_on += 1;
                    Wish::Request {
                        id: request.id,
                        payload: request.payload,
                    }
                }
                Event::Reauthenticate(_) => Wish::Reauthenticate,
                Event::Faulted(fault) => {
                    assert!(!self.faulted, "a session ends once, and again with {fault}");
                    self.faulted = true;
                    // Every way to end has words for logs, metrics and the client.
                    assert!(!fault.to_string().is_empty() && !fault.label().is_empty());
                    Wish::Faulted
                }
            })
            .collect();
        assert!(
            self.passed_on <= usize::from(self.bounds.requests_max),
            "{} requests are unanswered",
            self.passed_on
        );
        wishes
    }

    /// The socket is gone: all that was taken is given back.
    pub fn finish(mut self) {
        self.with(|session, cx| session.release(cx));
        assert_eq!(self.held.used(), 0, "bytes of unfinished things stay charged");
        assert_eq!(self.owed.used(), 0, "bytes for the client stay charged");
        self.around.finish();
    }
}
