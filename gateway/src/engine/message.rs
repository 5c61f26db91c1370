//! What goes into a reactor.

use std::sync::Arc;

use bytes::Bytes;
use whimbrel_protocol::cluster::{
    AuthenticateResponse, OpenSessionResponse, PushResponse, PushTarget, SessionRecord,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{Frame, Push, RequestId};

use super::addresses::HandshakeTicket;
use super::net::Stream;
use super::port::Port;
use super::slots::Place;
use crate::keys::KeyRing;
use crate::receipt::Share;
use crate::session::{Answer, Session, Unanswered};

/// The answer to something a reactor asked the cluster for one of its connections.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A login's token was judged.
    Authenticated(Result<AuthenticateResponse, Unanswered>),
    /// A session was opened and registered under this record.
    Opened(Result<(OpenSessionResponse, Box<SessionRecord>), Unanswered>),
    /// A later token was judged.
    Reauthenticated(Result<AuthenticateResponse, Unanswered>),
    /// A request was answered.
    Answered(RequestId, Answer),
    /// Sessions were announced to a registry that had lost them; or not, and must be again.
    Announced { places: Vec<Place>, done: bool },
}

/// A question under way: exactly one reply comes of it, whatever becomes of the asking.
#[derive(Debug)]
pub(crate) struct Asked {
    port: Arc<Port>,
    place: Place,
    /// What to reply when it is dropped unanswered.
    fallback: Option<Reply>,
}

impl Asked {
    /// Asked by the connection at `place`; `lost` is the reply if nobody gives one.
    pub(super) fn new(port: &Arc<Port>, place: Place, lost: Reply) -> Self {
        Self {
            port: Arc::clone(port),
            place,
            fallback: Some(lost),
        }
    }

    /// Replies.
    pub(crate) fn reply(mut self, reply: Reply) {
        self.fallback = None;
        self.port.reply(self.place, reply);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(reply) = self.fallback.take() {
            self.port.reply(self.place, reply);
        }
    }
}

/// What is said when a question got lost inside this process: at its end, as a rule.
pub(super) fn lost() -> Unanswered {
    Unanswered {
        code: Code::Unavailable.number(),
        message: "the gateway lost the question".to_owned(),
        retry_after_ms: 0,
    }
}

/// A connection that moves to the reactor of its user's bucket.
#[derive(Debug)]
pub(crate) struct Migrant {
    pub(super) stream: Stream,
    pub(super) session: Session,
    pub(super) ticket: Box<HandshakeTicket>,
}

/// Orders to a reactor.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// Answer hellos with these from now on.
    Keys(Arc<KeyRing>),
    /// Close these sessions.
    Close {
        /// Which; others are left alone.
        targets: Vec<PushTarget>,
        /// A close reason.
        reason: u32,
    },
    /// The registry has lost everything: announce every session again.
    Announce,
    /// Take no new connections and ask everybody to connect elsewhere.
    Drain {
        /// Within this time, in milliseconds.
        window_ms: u32,
    },
    /// Close everything and end.
    Stop,
}

/// What a push brings to each of its sessions.
#[derive(Debug, Clone)]
pub(crate) enum Brought {
    /// A message, shared by all.
    Push {
        /// What it tells.
        method: u32,
        /// Whether the clients must acknowledge it.
        tracked: bool,
        /// How it tells it.
        payload: Bytes,
    },
    /// The word that something was dropped on its way to them.
    Missed {
        /// Within how many milliseconds they are to sync.
        spread_ms: u32,
    },
}

impl Brought {
    /// What one session is sent.
    pub(super) fn frame(&self) -> Frame {
        match self {
            Self::Push {
                method,
                tracked,
                payload,
            } => Frame::Push(Push {
                method: *method,
                tracked: *tracked,
                compressed: false,
                payload: payload.clone(),
            }),
            Self::Missed { spread_ms } => Frame::SyncHint {
                spread_ms: *spread_ms,
            },
        }
    }
}

/// A reactor's part of a push: some of its targets.
pub(crate) struct PushPart {
    /// Sessions of that reactor.
    pub(crate) targets: Vec<PushTarget>,
    /// What they are brought.
    pub(crate) brought: Brought,
    share: Share,
}

impl std::fmt::Debug for PushPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushPart")
            .field("targets", &self.targets.len())
            .field("brought", &self.brought)
            .finish()
    }
}

impl PushPart {
    /// A push to the sessions of several reactors: a part for each, and `settle` for the sum.
    pub(crate) fn split(
        by_reactor: Vec<Vec<PushTarget>>,
        brought: &Brought,
        settle: impl FnOnce(PushResponse) + Send + Sync + 'static,
    ) -> Vec<Self> {
        let shares = Share::of(by_reactor.len(), settle);
        let part = |(targets, share)| Self {
            targets,
            brought: brought.clone(),
            share,
        };
        by_reactor.into_iter().zip(shares).map(part).collect()
    }

    /// Reports what became of it. Targets of a part that nobody settled are gone with their reactor.
    pub(super) fn settle(self, outcome: PushResponse) {
        self.share.settle(outcome);
    }

    /// Reports that every target will have it, by way of a sync.
    pub(super) fn settle_all_accepted(self) {
        let accepted = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        self.settle(PushResponse {
            accepted,
            gone: Vec::new(),
        });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn target(reactor: u32, slot: u32) -> PushTarget {
        PushTarget {
            reactor,
            slot,
            generation: 1,
            user_id: 1,
        }
    }

    #[test]
    fn a_push_is_reported_once_all_its_parts_are_settled() {
        let (tell, told) = mpsc::channel();
        let split = vec![
            vec![target(0, 1), target(0, 2)],
            vec![target(1, 1)],
            vec![target(2, 1)],
        ];
        let settle = move |response| tell.send(response).unwrap();
        let mut parts = PushPart::split(split, &Brought::Missed { spread_ms: 0 }, settle);
        parts.remove(0).settle(PushResponse {
            accepted: 1,
            gone: vec![target(0, 2)],
        });
        parts.remove(0).settle_all_accepted();
        assert!(told.try_recv().is_err(), "one part is still out");
        drop(parts);
        let response = told.try_recv().unwrap();
        assert_eq!(
            response.accepted, 2,
            "a part that died with its reactor accepted nothing"
        );
        assert_eq!(response.gone, [target(0, 2)]);
    }
}
