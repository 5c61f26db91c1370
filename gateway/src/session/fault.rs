//! Why a session ends, and what its client is told about it.

use whimbrel_protocol::code::{self, Code};
use whimbrel_protocol::frame::{FrameError, FrameKind, Retry};
use whimbrel_protocol::record::RecordError;
use whimbrel_protocol::request_ids::RequestIdError;

/// How long a client whose connection went wrong waits before it connects again, in milliseconds. Its own jittered
/// backoff comes on top; this only keeps a broken client from spinning.
const RECONNECT_AFTER_MS: u32 = 1_000;

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// A record that cannot be the peer's next one.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Bytes that are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A request id that may not be used (again).
    #[error(transparent)]
    RequestId(#[from] RequestIdError),
    /// A frame that a client may not send, or not now.
    #[error("the client sent {kind}, which it may not send now")]
    Unexpected {
        /// Its kind.
        kind: FrameKind,
    },
    /// An acknowledgement of pushes that were not sent.
    #[error("the client acknowledged push {through}, the last one sent is {sent}")]
    AckBeyond {
        /// What it named.
        through: u32,
        /// The newest there is.
        sent: u32,
    },
    /// Nothing under the new keys: perhaps a replayed hello.
    #[error("no confirmation within its time: the hello may have been a replay")]
    NotConfirmed,
    /// A hello or an authentication that took too long.
    #[error("the handshake was not done within its time")]
    HandshakeTimeout,
    /// A record or frame that began and did not end.
    #[error("a record or frame was not completed within its time")]
    Unfinished,
    /// Nothing authentic for 2.5 heartbeats.
    #[error("nothing was heard from the client for 2.5 heartbeats")]
    Silent,
    /// Pushes stay without acknowledgement although nothing is owed to the client.
    #[error("tracked pushes were not acknowledged within their time")]
    AckOverdue,
    /// The client does not take what it is sent.
    #[error("the client does not read what it is sent: {owed} bytes are waiting")]
    SlowConsumer {
        /// Bytes waiting.
        owed: usize,
    },
    /// The gateway's memory for unfinished records is used up.
    #[error("the gateway's budget for unfinished records is used up")]
    OutOfMemoryBudget,
    /// The token ran out and no new one came.
    #[error("the token ran out and no new one came")]
    TokenExpired,
    /// Authentication or registration said no.
    #[error("refused with code {code}: {message}")]
    Refused {
        /// A number of [`Code`].
        code: u32,
        /// For developers.
        message: String,
        /// When to come back, milliseconds; 0 leaves it to the code.
        retry_after_ms: u32,
    },
    /// Somebody in the cluster asked for it.
    #[error("closed from within the cluster with reason {reason}")]
    Ordered {
        /// A number of [`Code`].
        reason: u32,
    },
    /// The gateway goes out of service.
    #[error("the gateway goes out of service")]
    Draining,
    /// The client said goodbye.
    #[error("the client closed the session")]
    ClosedByClient,
}

impl Fault {
    /// What the CLOSE frame says; `None` when there is nobody to tell.
    pub(crate) fn close(&self) -> Option<(u32, Retry)> {
        let after = Retry::After { ms: RECONNECT_AFTER_MS };
        Some(match self {
            // A flipped bit must not log anybody out for good: connections that went wrong may be made again.
            Self::Record(_)
            | Self::Frame(_)
            | Self::RequestId(_)
            | Self::Unexpected { .. }
            | Self::AckBeyond { .. }
            | Self::NotConfirmed
            | Self::HandshakeTimeout
            | Self::Unfinished => (Code::Malformed.number(), after),
            Self::AckOverdue => (Code::DeadlineExceeded.number(), after),
            Self::SlowConsumer { .. } | Self::OutOfMemoryBudget => (Code::Overloaded.number(), after),
            Self::TokenExpired => (Code::TokenExpired.number(), Retry::NewToken),
            Self::Refused { code, retry_after_ms, .. } => (*code, retry_of(*code, *retry_after_ms)),
            Self::Ordered { reason } => (*reason, retry_of(*reason, 0)),
            Self::Draining => (Code::Unavailable.number(), Retry::NewDirectory),
            Self::Silent | Self::ClosedByClient => return None,
        })
    }

    /// Its value of the `reason` label of `whimbrel_gateway_sessions_ended_total`.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Record(_) => "bad_record",
            Self::Frame(_) => "bad_frame",
            Self::RequestId(_) => "bad_request_id",
            Self::Unexpected { .. } => "unexpected_frame",
            Self::AckBeyond { .. } => "bad_ack",
            Self::NotConfirmed => "not_confirmed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Unfinished => "unfinished",
            Self::Silent => "silent",
            Self::AckOverdue => "ack_overdue",
            Self::SlowConsumer { .. } => "slow_consumer",
            Self::OutOfMemoryBudget => "memory_budget",
            Self::TokenExpired => "token_expired",
            Self::Refused { .. } => "refused",
            Self::Ordered { .. } => "ordered",
            Self::Draining => "draining",
            Self::ClosedByClient => "client_closed",
        }
    }
}

/// What a client does about `code`; codes of later versions are worth another try.
fn retry_of(code: u32, retry_after_ms: u32) -> Retry {
    match Code::from_number(code).map(Code::retry) {
        Some(code::Retry::Never) => Retry::Never,
        Some(code::Retry::NewToken) => Retry::NewToken,
        Some(code::Retry::Later) | None => Retry::After { ms: retry_after_ms.max(RECONNECT_AFTER_MS) },
    }
}
