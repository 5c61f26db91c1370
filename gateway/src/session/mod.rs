//! One login session, from a stranger's first byte to the last that is written: a state machine without sockets, clocks
//! or threads.
//!
//! ```text
//! ReadingHello -> Authenticating -> AwaitConfirm -> Opening -> Ready -> Closing
//!                 (provisional: nothing is written or displaced)  |
//!                                      registered, READY is queued +
//! ```
//! Inputs are bytes, the cluster's answers, pushes and timers, each with `now`; outputs are [`Event`]s for whoever owns
//! the session, and bursts of bytes ([`Session::poll_transmit`]). After every input the owner looks at
//! [`Session::has_output`], [`Session::deadline_ms`] and [`Session::is_over`].
//!
//! It owns the keys and the queue of one connection. It does not know its socket, its handle, or anybody else's session,
//! and never opens a business payload.

mod acks;
mod budget;
mod closing;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod identity;
mod inbound;
mod limits;
mod live;
mod login_message;
mod outbound;
mod provisional;
mod ready;
mod room;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests;

use bytes::Bytes;
use whimbrel_protocol::cluster::{AuthenticateResponse, OpenSessionResponse};
use whimbrel_protocol::entropy::Entropy;
use whimbrel_protocol::frame::{Frame, RequestId};
use whimbrel_protocol::timing::CONFIRM_WITHIN_MS;

pub(crate) use budget::Budget;
pub(crate) use fault::Fault;
pub(crate) use identity::Identity;
pub(crate) use limits::SessionLimits;
pub(crate) use live::Answer;
pub(crate) use login_message::LoginMessage;
pub(crate) use outbound::SpareQueues;
pub(crate) use room::RoomPush;

use crate::keys::KeyRing;

/// The two clocks a session needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Since the process began; never goes back.
    pub(crate) monotonic_ms: u64,
    /// Unix time, for what is told to clients and for tokens.
    pub(crate) unix_ms: u64,
}

/// What a session works with besides its own state: the reactor's, lent for one call.
pub(crate) struct Context<'a> {
    /// The time of this input.
    pub(crate) now: Now,
    /// Bounds.
    pub(crate) limits: &'a SessionLimits,
    /// The gateway's keys and descriptor.
    pub(crate) keys: &'a KeyRing,
    /// Bytes that unfinished hellos, records, frames and held requests take.
    pub(crate) held: &'a Budget,
    /// Bytes that wait for clients.
    pub(crate) owed: &'a Budget,
    /// Drained queues for reuse.
    pub(crate) spares: &'a mut SpareQueues,
    /// Scratch for what is about to be sealed.
    pub(crate) plaintext: &'a mut Vec<u8>,
    /// Randomness for handshakes.
    pub(crate) entropy: &'a mut dyn Entropy,
    /// Counts what the inputs cost, a frame 1: about 0.2 us each.
    pub(crate) work: &'a mut u32,
    /// Outputs are appended here.
    pub(crate) events: &'a mut Vec<Event>,
}

/// A request on its way to a service node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpRequest {
    /// The client's number for it.
    pub(crate) id: RequestId,
    /// What is asked.
    pub(crate) method: u32,
    /// Where it is best placed; 0 when the client does not say.
    pub(crate) affinity: u32,
    /// When an answer is of no more use, on the monotonic clock.
    pub(crate) expires_at_ms: u64,
    /// The message, unopened.
    pub(crate) payload: Bytes,
}

/// What a session wants from its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The hello was no hello, or not for us: counts against the address it came from.
    HandshakeFailed,
    /// A login's claims are known: move the session to its user's bucket, then authenticate [`Session::login`].
    Claimed {
        /// The user's bucket.
        bucket: u32,
    },
    /// The client holds the keys: open and register the session, then [`Session::handle_opened`].
    Confirmed,
    /// Pass this on, then [`Session::handle_response`].
    Request(UpRequest),
    /// Have this Login judged, then [`Session::handle_reauthenticated`].
    Reauthenticate(LoginMessage),
    /// The session ends, and why. Reported once.
    Faulted(Fault),
}

/// Why nobody in the cluster answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// A number of [`whimbrel_protocol::code::Code`].
    pub(crate) code: u32,
    /// For developers.
    pub(crate) message: String,
    /// When to try again, milliseconds; 0 when nobody said.
    pub(crate) retry_after_ms: u32,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushOutcome {
    /// The client will have it, or will sync because of it.
    Accepted,
    /// Not this user's session, or none that can take pushes.
    Gone,
}

/// One session. See the module for the order of its states.
#[derive(Debug)]
pub(crate) enum Session {
    /// The hello is still coming.
    ReadingHello(Box<handshake::ReadingHello>),
    /// Message 1 is open; the token is being judged.
    Authenticating(Box<handshake::Authenticating>),
    /// The token is good; the client must show that it holds the keys.
    AwaitConfirm(provisional::AwaitConfirm),
    /// It does; the session is being opened and registered.
    Opening(Box<provisional::Opening>),
    /// Registered; requests and pushes flow.
    Ready(ready::Ready),
    /// The last bytes are being written.
    Closing(Box<closing::Closing>),
    /// Nothing is left.
    Ended,
}

impl Session {
    /// A stranger has connected.
    pub(crate) fn new(now: Now, limits: &SessionLimits) -> Self {
        Self::ReadingHello(Box::new(handshake::ReadingHello::new(now, limits)))
    }

    fn step(&mut self, transition: impl FnOnce(Self) -> Self) {
        let state = std::mem::replace(self, Self::Ended);
        *self = transition(state);
    }

    /// Bytes that came earlier and belong before those read next.
    pub(crate) fn take_partial(&mut self) -> Vec<u8> {
        match self {
            Self::ReadingHello(state) => state.take_partial(),
            Self::AwaitConfirm(state) => state.live.inbound.take_partial(),
            Self::Opening(state) => state.live.inbound.take_partial(),
            Self::Ready(state) => state.live.inbound.take_partial(),
            Self::Authenticating(_) | Self::Closing(_) | Self::Ended => Vec::new(),
        }
    }

    /// Takes in `bytes`: what [`Session::take_partial`] gave, and what was read behind it. Records are opened in place.
    pub(crate) fn handle_bytes(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) {
        self.step(|state| match state {
            Self::ReadingHello(state) => state.handle_bytes(cx, bytes),
            Self::AwaitConfirm(state) => state.handle_bytes(cx, bytes),
            Self::Opening(state) => state.handle_bytes(cx, bytes),
            Self::Ready(state) => state.handle_bytes(cx, bytes),
            state @ (Self::Authenticating(_) | Self::Closing(_) | Self::Ended) => state,
        });
    }

    /// The token was judged, or nobody answered.
    pub(crate) fn handle_authenticated(
        &mut self,
        cx: &mut Context<'_>,
        result: Result<AuthenticateResponse, Unanswered>,
    ) {
        self.step(|state| match state {
            Self::Authenticating(state) => state.handle_authenticated(cx, result),
            state => state,
        });
    }

    /// The session was opened and registered, or was not.
    pub(crate) fn handle_opened(
        &mut self,
        cx: &mut Context<'_>,
        result: Result<OpenSessionResponse, Unanswered>,
    ) {
        self.step(|state| match state {
            Self::Opening(state) => state.handle_opened(cx, result),
            state => state,
        });
    }

    /// The token that followed the first was judged.
    pub(crate) fn handle_reauthenticated(
        &mut self,
        cx: &mut Context<'_>,
        result: Result<AuthenticateResponse, Unanswered>,
    ) {
        self.step(|state| match state {
            Self::Ready(state) => state.handle_reauthenticated(cx, result),
            state => state,
        });
    }

    /// The answer to request `id`.
    pub(crate) fn handle_response(&mut self, cx: &mut Context<'_>, id: RequestId, answer: Answer) {
        self.step(|state| match state {
            Self::Ready(state) => state.handle_response(cx, id, answer),
            state => state,
        });
    }

    /// A push for `user_id`, or the hint that one was missed. It is delivered only to that user.
    pub(crate) fn handle_push(&mut self, cx: &mut Context<'_>, user_id: u64, push: Frame) -> PushOutcome {
        match self {
            Self::Opening(state) => state.handle_push(user_id),
            Self::Ready(state) => state.handle_push(cx, user_id, push),
            _ => PushOutcome::Gone,
        }
    }

    /// The client may have missed something: it is asked to sync within `spread_ms`.
    pub(crate) fn handle_missed(&mut self, cx: &mut Context<'_>, spread_ms: u32) {
        match self {
            Self::Opening(state) => state.handle_missed(),
            Self::Ready(state) => state.handle_missed(cx, spread_ms),
            _ => {}
        }
    }

    /// The gateway is going: the client is asked to connect elsewhere within the window.
    pub(crate) fn handle_drain(&mut self, cx: &mut Context<'_>, delay_window_ms: u32) {
        if let Self::Ready(state) = self {
            state.handle_drain(cx, delay_window_ms);
        }
    }

    /// The session must end.
    pub(crate) fn handle_fault(&mut self, cx: &mut Context<'_>, fault: Fault) {
        self.step(|state| match state {
            Self::ReadingHello(state) => state.fault(cx, fault),
            Self::Authenticating(state) => state.fault(cx, fault),
            Self::AwaitConfirm(state) => state.live.fault(cx, fault),
            Self::Opening(state) => state.fault(cx, fault),
            Self::Ready(state) => state.live.fault(cx, fault),
            state @ (Self::Closing(_) | Self::Ended) => state,
        });
    }

    /// Something of [`Session::deadline_ms`] may be due.
    pub(crate) fn handle_timer(&mut self, cx: &mut Context<'_>) {
        self.step(|state| match state {
            Self::ReadingHello(state) => state.handle_timer(cx),
            Self::Authenticating(state) => state.handle_timer(cx),
            Self::AwaitConfirm(state) => state.handle_timer(cx),
            Self::Opening(state) => state.handle_timer(cx),
            Self::Ready(state) => state.handle_timer(cx),
            Self::Closing(state) => state.handle_timer(cx),
            Self::Ended => Self::Ended,
        });
    }

    /// When [`Session::handle_timer`] is next of use, on the monotonic clock.
    pub(crate) fn deadline_ms(&self, limits: &SessionLimits) -> Option<u64> {
        match self {
            Self::ReadingHello(state) => Some(state.deadline_ms()),
            Self::Authenticating(state) => Some(state.deadline_ms()),
            Self::AwaitConfirm(state) => Some(state.deadline_ms()),
            Self::Opening(state) => Some(state.live.deadline_ms(limits)),
            Self::Ready(state) => Some(state.deadline_ms(limits)),
            Self::Closing(state) => Some(state.deadline_ms()),
            Self::Ended => None,
        }
    }

    /// Appends the next burst to `out`. All of it must be written, or the rest handed to [`Session::handle_written`].
    pub(crate) fn poll_transmit(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Closing(state) => state.poll_transmit(cx, out),
            _ => {
                if let Some(live) = self.live_mut() {
                    live.poll_transmit(cx, out);
                }
            }
        }
    }

    /// Of `burst`, just polled, the socket took `written` bytes.
    pub(crate) fn handle_written(&mut self, cx: &mut Context<'_>, burst: &[u8], written: usize) {
        match self {
            Self::Closing(state) => state.handle_written(cx, burst, written),
            _ => {
                if let Some(live) = self.live_mut() {
                    live.handle_written(cx, burst, written);
                }
            }
        }
    }

    /// Whether there is anything to write.
    pub(crate) fn has_output(&self) -> bool {
        match self {
            Self::Closing(state) => state.has_output(),
            _ => self.live().is_some_and(|live| !live.talk.outbound.is_empty()),
        }
    }

    /// Whether more may be read from the client now. While it does not take what it is owed, nothing is.
    pub(crate) fn wants_bytes(&self, limits: &SessionLimits) -> bool {
        match self {
            Self::ReadingHello(_) | Self::AwaitConfirm(_) => true,
            // What is read would only wait here.
            Self::Opening(state) if state.held() >= limits::HELD_FOR_READY_MAX => false,
            Self::Opening(_) | Self::Ready(_) => self
                .live()
                .is_some_and(|live| live.talk.outbound.owed() <= limits.outbound_collapse_bytes),
            Self::Authenticating(_) | Self::Closing(_) | Self::Ended => false,
        }
    }

    /// Whether the connection can be closed: nothing is left to write, or nobody to write to.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Closing(state) => !state.has_output(),
            Self::Ended => true,
            _ => false,
        }
    }

    /// Whether the handshake, confirmation included, is still ahead.
    pub(crate) fn is_unfinished(&self) -> bool {
        matches!(
            self,
            Self::ReadingHello(_) | Self::Authenticating(_) | Self::AwaitConfirm(_)
        )
    }

    /// What the client is closed for while room is short, if it has not caught up for long.
    pub(crate) fn behind(&self, now: Now) -> Option<Fault> {
        let outbound = &self.live()?.talk.outbound;
        let owed = outbound.owed();
        outbound
            .is_behind(now.monotonic_ms)
            .then_some(Fault::SlowConsumer { owed })
    }

    /// Requests that are passed on or wait to be.
    pub(crate) fn unanswered(&self) -> usize {
        self.live().map_or(0, |live| usize::from(live.talk.unanswered))
    }

    /// Bytes of unfinished hellos, records and frames, and of requests that wait for READY.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::ReadingHello(state) => state.held(),
            Self::Opening(state) => state.live.inbound.held() + state.held(),
            Self::AwaitConfirm(state) => state.live.inbound.held(),
            Self::Ready(state) => state.live.inbound.held(),
            Self::Authenticating(_) | Self::Closing(_) | Self::Ended => 0,
        }
    }

    /// Since when the next step of the handshake has been the client's.
    pub(crate) fn awaited_since_ms(&self, limits: &SessionLimits) -> Option<u64> {
        match self {
            Self::ReadingHello(state) => Some(state.deadline_ms().saturating_sub(limits.handshake_within_ms)),
            Self::AwaitConfirm(state) => Some(state.deadline_ms().saturating_sub(CONFIRM_WITHIN_MS)),
            _ => None,
        }
    }

    /// Whether it has ended with something the client should still read.
    pub(crate) fn has_said_why(&self) -> bool {
        matches!(self, Self::Closing(state) if state.has_written())
    }

    /// Whether the login was answered and the client has still to show that it holds the keys.
    pub(crate) fn owes_confirm(&self) -> bool {
        matches!(self, Self::AwaitConfirm(_))
    }

    /// Whether requests and pushes flow.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// The Login message as the client sent it, while it is being judged.
    pub(crate) fn login(&self) -> Option<LoginMessage> {
        match self {
            Self::Authenticating(state) => Some(state.login()),
            _ => None,
        }
    }

    /// Whose it is, once claimed.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Authenticating(state) => Some(state.identity()),
            Self::Closing(state) => state.identity(),
            _ => self.live().map(|live| &live.talk.identity),
        }
    }

    /// Gives back what the budgets were charged: the session is moved or dropped.
    pub(crate) fn release(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::ReadingHello(state) => state.release(cx),
            Self::Opening(state) => state.release(cx),
            Self::Closing(state) => state.release(cx),
            _ => {
                if let Some(live) = self.live_mut() {
                    live.release(cx);
                }
            }
        }
    }

    fn live(&self) -> Option<&live::Live> {
        match self {
            Self::AwaitConfirm(state) => Some(&state.live),
            Self::Opening(state) => Some(&state.live),
            Self::Ready(state) => Some(&state.live),
            _ => None,
        }
    }

    fn live_mut(&mut self) -> Option<&mut live::Live> {
        match self {
            Self::AwaitConfirm(state) => Some(&mut state.live),
            Self::Opening(state) => Some(&mut state.live),
            Self::Ready(state) => Some(&mut state.live),
            _ => None,
        }
    }
}
