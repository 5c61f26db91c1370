//! Between the answer to the login and READY: the client shows that it holds the keys, then the session is opened.
//!
//! Until the first record opens, the hello may have been a replay, and nothing has been written or displaced on its
//! account. Requests that come right behind Confirm (a Sync, as a rule) wait for READY, so that no commit can fall
//! between the sync's snapshot and the registration.

use whimbrel_protocol::cluster::OpenSessionResponse;
use whimbrel_protocol::frame::Frame;
use whimbrel_protocol::timing;

use super::fault::Fault;
use super::live::Live;
use super::ready::Ready;
use super::{Context, Event, Now, PushOutcome, Session, Unanswered, UpRequest};

/// The token is good; the first record under the new keys is awaited.
#[derive(Debug)]
pub(crate) struct AwaitConfirm {
    pub(super) live: Box<Live>,
    deadline_ms: u64,
}

impl AwaitConfirm {
    pub(super) fn new(live: Box<Live>, now: Now) -> Self {
        Self {
            live,
            deadline_ms: now.monotonic_ms.saturating_add(timing::CONFIRM_WITHIN_MS),
        }
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    pub(super) fn handle_bytes(mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Session {
        let mut held = Held::default();
        let mut confirmed = false;
        let result = self.live.take_in(cx, bytes, |talk, cx, frame| match frame {
            frame if confirmed => talk.handle_frame(cx, frame, Some(&mut held)),
            Frame::Confirm => {
                confirmed = true;
                Ok(())
            }
            Frame::Padding { .. } => Ok(()),
            frame => Err(Fault::Unexpected { kind: frame.kind() }),
        });
        if let Err(fault) = result {
            held.release(cx);
            return self.live.fault(cx, fault);
        }
        if !confirmed {
            return Session::AwaitConfirm(self);
        }
        cx.events.push(Event::Confirmed);
        Session::Opening(Box::new(Opening {
            live: self.live,
            held,
            missed: false,
        }))
    }

    pub(super) fn handle_timer(self, cx: &mut Context<'_>) -> Session {
        if cx.now.monotonic_ms < self.deadline_ms {
            return Session::AwaitConfirm(self);
        }
        self.live.fault(cx, Fault::NotConfirmed)
    }
}

/// Requests that wait for READY; at most as many as a client may have unanswered.
#[derive(Debug, Default)]
pub(crate) struct Held {
    requests: Vec<UpRequest>,
    bytes: usize,
}

impl Held {
    /// Keeps `request` until READY.
    ///
    /// # Errors
    /// When the gateway's memory for unfinished things is used up.
    pub(super) fn keep(&mut self, cx: &mut Context<'_>, request: UpRequest) -> Result<(), Fault> {
        if !cx.held.try_take(request.payload.len()) {
            return Err(Fault::OutOfMemoryBudget);
        }
        self.bytes += request.payload.len();
        self.requests.push(request);
        Ok(())
    }

    fn release(&mut self, cx: &mut Context<'_>) -> Vec<UpRequest> {
        let requests = std::mem::take(&mut self.requests);
        cx.held.give(std::mem::take(&mut self.bytes));
        requests
    }
}

/// The client is who it says; the session is being opened and registered.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(super) live: Box<Live>,
    held: Held,
    /// A push came between registration and READY. The client's first Sync may already have been read from the store.
    missed: bool,
}

impl Opening {
    /// Bytes of requests that wait.
    pub(super) fn held(&self) -> usize {
        self.held.bytes
    }

    pub(super) fn handle_bytes(mut self: Box<Self>, cx: &mut Context<'_>, bytes: &mut [u8]) -> Session {
        let Self { live, held, .. } = &mut *self;
        match live.take_in(cx, bytes, |talk, cx, frame| {
            talk.handle_frame(cx, frame, Some(held))
        }) {
            Ok(()) => Session::Opening(self),
            Err(fault) => self.fault(cx, fault),
        }
    }

    pub(super) fn handle_opened(
        mut self,
        cx: &mut Context<'_>,
        result: Result<OpenSessionResponse, Unanswered>,
    ) -> Session {
        let refused = match result {
            Ok(opened) if opened.code == 0 => {
                self.live.talk.identity.user_id = opened.user_id;
                return self.ready(cx);
            }
            Ok(OpenSessionResponse { code, message, .. }) => Fault::Refused {
                code,
                message,
                retry_after_ms: 0,
            },
            Err(Unanswered {
                code,
                message,
                retry_after_ms,
            }) => Fault::Refused {
                code,
                message,
                retry_after_ms,
            },
        };
        self.fault(cx, refused)
    }

    fn ready(mut self, cx: &mut Context<'_>) -> Session {
        let held = self.held.release(cx);
        let mut ready = Ready::new(self.live);
        ready.live.talk.send(cx, Frame::Ready);
        if self.missed {
            ready.handle_missed(cx, 0);
        }
        held.into_iter()
            .for_each(|request| cx.events.push(Event::Request(request)));
        Session::Ready(ready)
    }

    /// READY comes first; what was pushed before it, a sync brings.
    pub(super) fn handle_push(&mut self, user_id: u64) -> PushOutcome {
        let known = self.live.talk.identity.user_id;
        if known != 0 && known != user_id {
            return PushOutcome::Gone;
        }
        self.missed = true;
        PushOutcome::Accepted
    }

    pub(super) fn handle_missed(&mut self) {
        self.missed = true;
    }

    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        self.held.release(cx);
        self.live.release(cx);
    }

    pub(super) fn fault(mut self, cx: &mut Context<'_>, fault: Fault) -> Session {
        self.held.release(cx);
        self.live.fault(cx, fault)
    }

    pub(super) fn handle_timer(self: Box<Self>, cx: &mut Context<'_>) -> Session {
        match self.live.due(cx) {
            Some(fault) => self.fault(cx, fault),
            None => Session::Opening(self),
        }
    }
}
