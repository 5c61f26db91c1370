//! A registered session: requests go up, answers and pushes come down, and every clock of its own runs.

use whimbrel_protocol::cluster::AuthenticateResponse;
use whimbrel_protocol::frame::{Frame, RequestId};

use super::fault::Fault;
use super::limits::REAUTH_WITHIN_MS;
use super::live::{Answer, Live};
use super::outbound::Offered;
use super::{Context, PushOutcome, Session, SessionLimits, Unanswered};

/// Requests after a GOAWAY are still answered until the CLOSE: nobody should notice a drain. So the last request that
/// will be answered is any.
const EVERY_REQUEST: RequestId = RequestId(u32::MAX);

/// Registered, READY queued or sent.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(super) live: Box<Live>,
}

impl Ready {
    pub(super) fn new(live: Box<Live>) -> Self {
        Self { live }
    }

    pub(super) fn handle_bytes(mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Session {
        match self
            .live
            .take_in(cx, bytes, |talk, cx, frame| talk.handle_frame(cx, frame, None))
        {
            Ok(()) => self.unless_too_slow(cx),
            Err(fault) => self.live.fault(cx, fault),
        }
    }

    pub(super) fn handle_response(mut self, cx: &mut Context<'_>, id: RequestId, answer: Answer) -> Session {
        match self.live.talk.handle_response(cx, id, answer) {
            Ok(()) => self.unless_too_slow(cx),
            Err(fault) => self.live.fault(cx, fault),
        }
    }

    fn unless_too_slow(self, cx: &mut Context<'_>) -> Session {
        let owed = self.live.talk.outbound.owed();
        if owed > cx.limits.outbound_close_bytes {
            return self.live.fault(cx, Fault::SlowConsumer { owed });
        }
        Session::Ready(self)
    }

    pub(super) fn handle_push(&mut self, cx: &mut Context<'_>, user_id: u64, push: Frame) -> PushOutcome {
        let is_theirs = self.live.talk.identity.user_id == user_id;
        #[cfg(feature = "planted-faults")]
        let is_theirs = is_theirs || crate::planted::is(crate::planted::Fault::PushToReusedSlot);
        if !is_theirs {
            return PushOutcome::Gone;
        }
        let missed = match &push {
            Frame::SyncHint { spread_ms } => Some(*spread_ms),
            Frame::Push(push) if !self.live.talk.fits(push.payload.len()) => Some(0),
            _ => None,
        };
        if let Some(spread_ms) = missed {
            self.handle_missed(cx, spread_ms);
            return PushOutcome::Accepted;
        }
        let live = &mut *self.live;
        let now_ms = cx.now.monotonic_ms;
        if live
            .talk
            .outbound
            .offer(push, cx.limits, cx.owed, cx.spares, now_ms)
            == Offered::Collapsed
        {
            metrics::counter!(crate::metrics::PUSHES_COLLAPSED).increment(1);
        }
        live.talk.note_owing(now_ms);
        PushOutcome::Accepted
    }

    pub(super) fn handle_missed(&mut self, cx: &mut Context<'_>, spread_ms: u32) {
        let now_ms = cx.now.monotonic_ms;
        self.live
            .talk
            .outbound
            .hint(spread_ms, cx.owed, cx.spares, now_ms);
        self.live.talk.note_owing(now_ms);
    }

    pub(super) fn handle_drain(&mut self, cx: &mut Context<'_>, delay_window_ms: u32) {
        let goaway = Frame::GoAway {
            last_request: EVERY_REQUEST,
            delay_window_ms,
            refresh_directory: true,
        };
        self.live.talk.send(cx, goaway);
    }

    pub(super) fn handle_reauthenticated(
        mut self,
        cx: &mut Context<'_>,
        result: Result<AuthenticateResponse, Unanswered>,
    ) -> Session {
        let user_id = self.live.talk.identity.user_id;
        let is_good = |judged: &AuthenticateResponse| judged.code == 0 && judged.user_id == user_id;
        let was_refused = result.as_ref().is_ok_and(|judged| !is_good(judged));
        let is_last_chance = self.live.talk.reauth.is_last_chance;
        let decides = !self.live.talk.judge_next(cx, was_refused && !is_last_chance);
        match result {
            Ok(judged) if is_good(&judged) => {
                self.live.talk.set_token_expiry(cx.now, judged.token_expires_ms);
                Session::Ready(self)
            }
            _ if !decides => Session::Ready(self),
            Ok(AuthenticateResponse {
                code,
                message,
                retry_after_ms,
                ..
            }) => {
                let code = if code == 0 {
                    whimbrel_protocol::code::Code::TokenMismatch.number()
                } else {
                    code
                };
                self.live.fault(
                    cx,
                    Fault::Refused {
                        code,
                        message,
                        retry_after_ms,
                    },
                )
            }
            // Nobody to judge it now is not the client's fault: ask again later.
            Err(_) => {
                let again_ms = cx.now.unix_ms.saturating_add(u64::from(REAUTH_WITHIN_MS));
                self.live.talk.set_token_expiry(cx.now, again_ms);
                Session::Ready(self)
            }
        }
    }

    pub(super) fn deadline_ms(&self, limits: &SessionLimits) -> u64 {
        let deadline_ms = self.live.deadline_ms(limits);
        self.live
            .talk
            .reauth
            .deadline_ms()
            .map_or(deadline_ms, |reauth| reauth.min(deadline_ms))
    }

    pub(super) fn handle_timer(mut self, cx: &mut Context<'_>) -> Session {
        if let Some(fault) = self.live.due(cx) {
            return self.live.fault(cx, fault);
        }
        let now_ms = cx.now.monotonic_ms;
        if self
            .live
            .talk
            .reauth
            .asked_until_ms
            .is_some_and(|until| until <= now_ms)
        {
            if self.live.talk.reauth.judging {
                self.live.talk.reauth.asked_until_ms =
                    Some(now_ms.saturating_add(u64::from(REAUTH_WITHIN_MS)));
                return Session::Ready(self);
            }
            return self.live.fault(cx, Fault::TokenExpired);
        }
        if self
            .live
            .talk
            .reauth
            .expires_at_ms
            .is_some_and(|expires| expires <= now_ms)
        {
            self.live.talk.reauth.expires_at_ms = None;
            self.live.talk.reauth.asked_until_ms = Some(now_ms.saturating_add(u64::from(REAUTH_WITHIN_MS)));
            let ask = Frame::Reauth {
                within_ms: REAUTH_WITHIN_MS,
                payload: bytes::Bytes::new(),
            };
            self.live.talk.send(cx, ask);
        }
        Session::Ready(self)
    }
}
