//! What every session with keys has: both halves of the stream, whose it is, and the rules for a client's frames.
//!
//! PERFORMANCE: one of these is all that an idle connection keeps, and every message passes through. What is rare is
//! small or elsewhere; `tests::an_idle_session_fits_its_budget` holds the sum.

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::Response as ClientResponse;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{Frame, FrameView, PAYLOAD_LEN_MAX, Request, RequestId, Response};
use whimbrel_protocol::request_ids::RequestIdCheck;
use whimbrel_protocol::{SessionKeys, Side};

use super::acks::Acks;
use super::closing::Closing;
use super::fault::Fault;
use super::identity::Identity;
use super::inbound::Inbound;
use super::limits::{OWED_WHILE_SHORT_MAX, TOKEN_LEN_MAX};
use super::login_message::LoginMessage;
use super::outbound::Outbound;
use super::provisional::Held;
use super::{Context, Event, Now, Session, SessionLimits, Unanswered, UpRequest};

/// The least bound that a client may set to payloads, bytes: pages hold up to 56 KiB of entries, and one that is refused for
/// its length would be asked for again for ever.
const CLIENT_PAYLOAD_LEN_MIN: usize = 60 * 1024;

/// Bytes of a refusal's message: it may come from another node, and must not grow a frame over its bound.
const REFUSAL_MESSAGE_LEN_MAX: usize = 300;

/// What a refusal takes of the bytes that may wait, at most.
const REFUSAL_COST_MAX: usize = 512;

/// What a client is told to wait whose answer found no room, in milliseconds: others take that long to drain.
const OVERLOADED_RETRY_AFTER_MS: u32 = 1_000;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A service node's Response message, passed on unopened.
    Passed(Bytes),
    /// It never got so far.
    Refused(Unanswered),
}

/// The token's end, and the asking for another.
///
/// Tokens are judged one at a time. Of those that come meanwhile the newest waits, and the verdict on an older one counts
/// only if it is good; but not twice in a row, or a session could live on bad tokens for ever.
#[derive(Debug, Default)]
pub(super) struct Reauth {
    /// When the token runs out, on the monotonic clock.
    pub(super) expires_at_ms: Option<u64>,
    /// Until when a new one may come.
    pub(super) asked_until_ms: Option<u64>,
    /// One is being judged.
    pub(super) judging: bool,
    /// The one before it was refused.
    pub(super) is_last_chance: bool,
    /// The newest, which waits for the verdict. Boxed: an idle session has none.
    pub(super) next: Option<Box<LoginMessage>>,
}

impl Reauth {
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.expires_at_ms.into_iter().chain(self.asked_until_ms).min()
    }
}

/// A session with keys.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) inbound: Inbound,
    pub(super) talk: Talk,
}

/// All of a [`Live`] but its receiving half, so that frames can be handled where they lie in it.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(super) identity: Identity,
    pub(super) outbound: Outbound,
    pub(super) reauth: Reauth,
    acks: Acks,
    request_ids: RequestIdCheck,
    /// Requests without an answer yet.
    pub(super) unanswered: u16,
    frame_payload_max: u32,
}

impl Live {
    pub(super) fn new(keys: SessionKeys, identity: Identity, frame_payload_max: u32, now: Now) -> Self {
        let SessionKeys { suite, send, receive } = keys;
        Self {
            inbound: Inbound::new(receive, suite, now.monotonic_ms),
            talk: Talk {
                identity,
                outbound: Outbound::new(send, suite),
                reauth: Reauth::default(),
                acks: Acks::default(),
                request_ids: RequestIdCheck::new(Side::Client),
                unanswered: 0,
                frame_payload_max,
            },
        }
    }

    /// Opens the records in `bytes` and hands their frames to `on_frame`.
    ///
    /// # Errors
    /// With the first thing that must end the session.
    pub(super) fn take_in(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
        mut on_frame: impl FnMut(&mut Talk, &mut Context<'_>, FrameView<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Self { inbound, talk } = self;
        inbound.handle(cx.now.monotonic_ms, cx.held, bytes, |frame| {
            *cx.work = cx.work.saturating_add(1);
            on_frame(talk, cx, frame)
        })
    }

    /// When something of the session's own may be due.
    pub(super) fn deadline_ms(&self, limits: &SessionLimits) -> u64 {
        let silent = self.inbound.heard_at_ms().saturating_add(limits.liveness_ms());
        [
            self.inbound.deadline_ms(),
            self.talk.acks.deadline_ms(),
            self.talk.outbound.deadline_ms(),
        ]
        .into_iter()
        .flatten()
        .fold(silent, u64::min)
    }

    /// What is due now.
    pub(super) fn due(&self, cx: &Context<'_>) -> Option<Fault> {
        let passed = |deadline_ms: Option<u64>| deadline_ms.is_some_and(|at| at <= cx.now.monotonic_ms);
        if passed(self.inbound.deadline_ms()) {
            return Some(Fault::Unfinished);
        }
        if passed(self.talk.acks.deadline_ms()) {
            return Some(Fault::AckOverdue);
        }
        if passed(self.talk.outbound.deadline_ms()) {
            return Some(Fault::SlowConsumer {
                owed: self.talk.outbound.owed(),
            });
        }
        let silent = self.inbound.heard_at_ms().saturating_add(cx.limits.liveness_ms());
        passed(Some(silent)).then_some(Fault::Silent)
    }

    pub(super) fn poll_transmit(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        let Talk { outbound, acks, .. } = &mut self.talk;
        outbound.poll(acks, cx.plaintext, cx.owed, out);
    }

    pub(super) fn handle_written(&mut self, cx: &mut Context<'_>, burst: &[u8], written: usize) {
        let now_ms = cx.now.monotonic_ms;
        self.talk
            .outbound
            .handle_written(burst, written, cx.owed, cx.spares, now_ms);
        self.talk.note_owing(now_ms);
    }

    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        self.inbound.release(cx.held);
        self.talk.outbound.release(cx.owed, cx.spares);
    }

    /// Ends the session: tells the client why, if there is somebody to tell.
    pub(super) fn fault(mut self: Box<Self>, cx: &mut Context<'_>, fault: Fault) -> Session {
        let close = fault.close();
        tracing::debug!(uid = self.talk.identity.uid(), device = self.talk.identity.device(), %fault, "session ends");
        cx.events.push(Event::Faulted(fault));
        self.inbound.release(cx.held);
        let Some((reason, retry)) = close else {
            // Nothing is left to write, but whoever registered the session must still learn whose it was.
            self.release(cx);
            return Closing::sealed(cx, self);
        };
        self.talk.outbound.drop_unsealed(cx.owed);
        self.talk.send(cx, Frame::Close { reason, retry });
        Closing::sealed(cx, self)
    }
}

impl Talk {
    /// Queues an answer or control frame.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, frame: Frame) {
        let now_ms = cx.now.monotonic_ms;
        self.outbound.send(frame, cx.owed, cx.spares, now_ms);
        self.note_owing(now_ms);
    }

    /// Queues the answer to a frame that the client may send as often as it likes.
    ///
    /// # Errors
    /// When too much waits for it already: one who asks without reading is closed before the room of others is used up.
    fn answer(&mut self, cx: &mut Context<'_>, frame: Frame) -> Result<(), Fault> {
        self.check_that_it_reads_if_short(cx)?;
        self.send(cx, frame);
        Ok(())
    }

    /// The bound on what a client makes wait by itself: while half of the room is taken.
    fn check_that_it_reads_if_short(&self, cx: &Context<'_>) -> Result<(), Fault> {
        if cx.owed.is_half_taken() {
            self.check_that_it_reads()?;
        }
        Ok(())
    }

    /// While room is short, what is not to be left out is queued only for those who take what waits for them.
    fn check_that_it_reads(&self) -> Result<(), Fault> {
        let owed = self.outbound.owed();
        if owed > OWED_WHILE_SHORT_MAX {
            return Err(Fault::SlowConsumer { owed });
        }
        Ok(())
    }

    pub(super) fn note_owing(&mut self, now_ms: u64) {
        self.acks.handle_owing(!self.outbound.is_empty(), now_ms);
    }

    /// Whether the client takes payloads of this length.
    pub(super) fn fits(&self, payload_len: usize) -> bool {
        let max = match self.frame_payload_max {
            0 => PAYLOAD_LEN_MAX,
            max => usize::try_from(max)
                .unwrap_or(PAYLOAD_LEN_MAX)
                .clamp(CLIENT_PAYLOAD_LEN_MIN, PAYLOAD_LEN_MAX),
        };
        payload_len <= max
    }

    /// Takes note of when the token runs out; 0 is never.
    pub(super) fn set_token_expiry(&mut self, now: Now, expires_unix_ms: u64) {
        let left_ms = expires_unix_ms.saturating_sub(now.unix_ms);
        self.reauth.expires_at_ms = (expires_unix_ms != 0).then(|| now.monotonic_ms.saturating_add(left_ms));
        self.reauth.asked_until_ms = None;
    }

    /// A frame from a confirmed client. Requests are passed on, or wait in `hold` while the session is being opened.
    pub(super) fn handle_frame(
        &mut self,
        cx: &mut Context<'_>,
        frame: FrameView<'_>,
        hold: Option<&mut Held>,
    ) -> Result<(), Fault> {
        match frame {
            Frame::Request(request) => self.handle_request(cx, &request, hold),
            Frame::PushAck { through } => self.acks.handle_ack(through, cx.now.monotonic_ms),
            Frame::Ping { token } => self.answer(cx, Frame::Pong { token }),
            Frame::Pong { .. } | Frame::Padding { .. } => Ok(()),
            Frame::Reauth { payload, .. } if hold.is_none() => self.handle_token(cx, payload),
            Frame::Close { .. } => Err(Fault::ClosedByClient),
            frame => Err(Fault::Unexpected { kind: frame.kind() }),
        }
    }

    fn handle_request(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<&[u8]>,
        hold: Option<&mut Held>,
    ) -> Result<(), Fault> {
        self.request_ids.accept(request.id)?;
        if self.unanswered >= cx.limits.requests_max {
            self.check_that_it_reads_if_short(cx)?;
            let message = format!("{} requests are unanswered, no more are allowed", self.unanswered);
            return self.refuse(cx, request.id, Code::TooManyRequests, message);
        }
        if request.compressed {
            self.check_that_it_reads_if_short(cx)?;
            let message = "no compression was agreed on".to_owned();
            return self.refuse(cx, request.id, Code::Malformed, message);
        }
        let deadline_ms = request.deadline_ms.unwrap_or(cx.limits.request_deadline_ms);
        let deadline_ms = deadline_ms.min(cx.limits.request_deadline_max_ms);
        let request = UpRequest {
            id: request.id,
            method: request.method,
            affinity: request.affinity.map_or(0, |affinity| affinity.0),
            expires_at_ms: cx.now.monotonic_ms.saturating_add(u64::from(deadline_ms)),
            payload: Bytes::copy_from_slice(request.payload),
        };
        self.unanswered += 1;
        match hold {
            Some(held) => held.keep(cx, request),
            None => {
                cx.events.push(Event::Request(request));
                Ok(())
            }
        }
    }

    fn handle_token(&mut self, cx: &mut Context<'_>, token: &[u8]) -> Result<(), Fault> {
        let unfit = |message: &str| Fault::Refused {
            code: Code::TokenInvalid.number(),
            message: message.to_owned(),
            retry_after_ms: 0,
        };
        if token.len() > TOKEN_LEN_MAX {
            return Err(unfit("the token is longer than any that can log in"));
        }
        let token = std::str::from_utf8(token).map_err(|_| unfit("the token is not text"))?;
        let login = self.identity.login_with(token.to_owned());
        let login = LoginMessage::new(login.encode_to_vec());
        if self.reauth.is_last_chance {
            // Its verdict decides.
        } else if self.reauth.judging {
            self.reauth.next = Some(Box::new(login));
        } else {
            self.judge(cx, login);
        }
        Ok(())
    }

    fn judge(&mut self, cx: &mut Context<'_>, login: LoginMessage) {
        self.reauth.judging = true;
        cx.events.push(Event::Reauthenticate(login));
    }

    /// A verdict was given. Whether there is a newer token to be judged, which now is.
    pub(super) fn judge_next(&mut self, cx: &mut Context<'_>, was_refused: bool) -> bool {
        self.reauth.judging = false;
        self.reauth.is_last_chance = false;
        let Some(next) = self.reauth.next.take() else {
            return false;
        };
        self.reauth.is_last_chance = was_refused;
        self.judge(cx, *next);
        true
    }

    /// Queues the answer to a request that was passed on.
    ///
    /// # Errors
    /// When it is a refusal, and too much waits for the client already.
    pub(super) fn handle_response(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        answer: Answer,
    ) -> Result<(), Fault> {
        self.unanswered = self.unanswered.saturating_sub(1);
        match answer {
            Answer::Passed(payload) if !self.fits(payload.len()) => {
                let message = format!(
                    "the answer of {} bytes is longer than the client takes",
                    payload.len()
                );
                self.refuse(cx, id, Code::TooLarge, message)
            }
            // The same request with the same operation id gets the same answer later.
            Answer::Passed(payload)
                if !cx.owed.has_room(payload.len())
                    || (cx.owed.is_half_taken() && !self.outbound.is_empty()) =>
            {
                let message = "too much waits for clients of this gateway".to_owned();
                let code = Code::Overloaded.number();
                self.send_refusal(
                    cx,
                    id,
                    Unanswered {
                        code,
                        message,
                        retry_after_ms: OVERLOADED_RETRY_AFTER_MS,
                    },
                )
            }
            Answer::Passed(payload) => {
                self.send(
                    cx,
                    Frame::Response(Response {
                        id,
                        compressed: false,
                        payload,
                    }),
                );
                Ok(())
            }
            Answer::Refused(unanswered) => self.send_refusal(cx, id, unanswered),
        }
    }

    fn refuse(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        code: Code,
        message: String,
    ) -> Result<(), Fault> {
        self.send_refusal(
            cx,
            id,
            Unanswered {
                code: code.number(),
                message,
                retry_after_ms: 0,
            },
        )
    }

    fn send_refusal(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        refusal: Unanswered,
    ) -> Result<(), Fault> {
        let Unanswered {
            code,
            message,
            retry_after_ms,
        } = refusal;
        let mut message = message;
        message.truncate(message.floor_char_boundary(REFUSAL_MESSAGE_LEN_MAX));
        let response = ClientResponse {
            code,
            message,
            retry_after_ms,
            body: Bytes::new(),
        };
        let payload = Bytes::from(response.encode_to_vec());
        let refusal = Frame::Response(Response {
            id,
            compressed: false,
            payload,
        });
        if !cx.owed.has_room(REFUSAL_COST_MAX) {
            self.check_that_it_reads()?;
        }
        self.send(cx, refusal);
        Ok(())
    }
}
