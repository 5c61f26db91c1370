//! What a client's session tells its owner.

use bytes::Bytes;

use crate::answer::{Answer, AnswerError, Reject};
use crate::code::Code;
use crate::frame::{FrameError, FrameKind, RequestId, Retry};
use crate::handshake::InitiatorError;
use crate::record::RecordError;

/// Something that happened on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The gateway is who its descriptor says, and the login is good. READY is still to come.
    Connected {
        /// The server's clock, unix milliseconds.
        server_time_ms: u64,
        /// When the token's time is over, by the server's clock; 0 when it did not say.
        token_expires_ms: u64,
        /// The optional features of this session.
        features: u64,
    },
    /// The session is registered: from here on no commit is missed.
    Ready,
    /// A request's outcome.
    Response {
        /// Which request.
        id: RequestId,
        /// The method's answer.
        result: Result<Bytes, Failure>,
    },
    /// A message nobody asked for; a tracked one is acknowledged by the session itself.
    Push {
        /// What it tells.
        method: u32,
        /// The message.
        payload: Bytes,
    },
    /// Something may have been missed: sync, after a random wait within the spread.
    SyncHint {
        /// The longest wait, in milliseconds.
        spread_ms: u32,
    },
    /// The token runs out: answer with [`super::ClientSession::reauthenticate`].
    Reauth {
        /// How long there is, in milliseconds.
        within_ms: u32,
    },
    /// The gateway is going: connect elsewhere within the window, then close this session. Requests it will not
    /// answer have failed with [`Failure::NotBegun`] before this event; those it still would are taken as before, and
    /// whoever is told [`RequestError::GoingAway`](super::RequestError::GoingAway) has no reason to wait.
    GoAway {
        /// The window, in milliseconds.
        delay_window_ms: u32,
        /// Whether to ask the LBS first.
        refresh_directory: bool,
    },
    /// The session is over; always the last event. Requests without an outcome may or may not have been carried out.
    Ended(End),
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No answer came in time; it may still have been carried out.
    #[error("no answer came within the request's time")]
    Deadline,
    /// The gateway is leaving and did not begin it: ask elsewhere.
    #[error("the gateway is being taken out of service and did not begin this request")]
    NotBegun,
    /// The answer is not a response message.
    #[error("the answer does not parse")]
    Malformed,
}

/// A refusal in the server's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused with code {code}: {message}")]
pub struct Refusal {
    /// A number from [`Code`], or one from a later version.
    pub code: u32,
    /// For developers, in English.
    pub message: String,
    /// The least wait before another try, in milliseconds; 0 when none was named.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// The code, if this version knows it.
    #[must_use]
    pub const fn known_code(&self) -> Option<Code> {
        Code::from_number(self.code)
    }
}

/// Why the session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its owner asked for it.
    Asked,
    /// The gateway, authentically, refused the login.
    LoginRefused {
        /// Why.
        refusal: Refusal,
        /// The server's clock, unix milliseconds.
        server_time_ms: u64,
    },
    /// A refusal before the handshake: a hint that anybody on the path can forge.
    Rejected(Reject),
    /// The gateway has other keys by now. Verify this descriptor like any other, then try again with it.
    StaleKey {
        /// The gateway's current descriptor.
        descriptor: Bytes,
    },
    /// An answer from a later version: try another gateway.
    UnknownAnswer,
    /// The gateway closed the session.
    Closed {
        /// Why: a number from the table of codes.
        reason: u32,
        /// What to do next.
        retry: Retry,
    },
    /// The handshake was not answered in time.
    HandshakeStalled,
    /// READY did not come in time.
    ReadyStalled,
    /// Nothing authentic came for too long.
    Silent,
    /// As many requests as may be unanswered never were.
    RequestsStalled,
    /// The peer broke the protocol, or somebody on the path broke into it.
    Faulty(Fault),
}

impl End {
    /// For every answer but an accept.
    pub(super) fn of_answer(answer: &Answer<'_>) -> Self {
        match answer {
            Answer::Reject(reject) => Self::Rejected(*reject),
            Answer::StaleKey(descriptor) => Self::StaleKey {
                descriptor: Bytes::copy_from_slice(descriptor),
            },
            Answer::Accept(_) | Answer::Cookie(_) | Answer::Unknown { .. } => Self::UnknownAnswer,
        }
    }
}

/// What was wrong with the peer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The answer to the hello.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The handshake.
    #[error(transparent)]
    Handshake(#[from] InitiatorError),
    /// The login answer inside the handshake.
    #[error("the login answer does not parse")]
    LoginAnswer,
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that a gateway may not send, or not now.
    #[error("a gateway may not send {kind} now")]
    Illegal {
        /// Its kind.
        kind: FrameKind,
    },
    /// A response to no request of ours.
    #[error("a response came to request {}, which nobody made or which was answered before", id.0)]
    UnaskedResponse {
        /// The id.
        id: RequestId,
    },
}
