//! Why a session ends, and what its client is told about it.

use whimbrel_protocol::close::{CloseReason, RECONNECT_AFTER_MS};
use whimbrel_protocol::code::{self, Code};
use whimbrel_protocol::frame::{FrameError, FrameKind, Retry};
use whimbrel_protocol::record::RecordError;
use whimbrel_protocol::request_ids::RequestIdError;

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
    /// An acknowledgement of pushes that were not sent, or of fewer than before.
    #[error("the client acknowledged push {through}, expected one from {acknowledged} to {sent}")]
    BadAck {
        /// What it named.
        through: u32,
        /// What it named before.
        acknowledged: u32,
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
    /// What is shared had run short, and this one had held its part for longest.
    #[error("ended to make room for others: it had been unfinished for longest")]
    MadeRoom,
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
        /// A number of [`CloseReason`], or of a later version's.
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
        let told = |reason: CloseReason| Some((reason.number(), reason.retry()));
        match self {
            Self::Record(_)
            | Self::Frame(_)
            | Self::RequestId(_)
            | Self::Unexpected { .. }
            | Self::BadAck { .. }
            | Self::Unfinished => told(CloseReason::ProtocolViolation),
            Self::NotConfirmed | Self::HandshakeTimeout => told(CloseReason::NotConfirmed),
            Self::AckOverdue => told(CloseReason::AckOverdue),
            Self::SlowConsumer { .. } => told(CloseReason::SlowConsumer),
            Self::OutOfMemoryBudget | Self::MadeRoom => told(CloseReason::Overloaded),
            Self::TokenExpired => told(CloseReason::TokenExpired),
            Self::Draining => told(CloseReason::Draining),
            Self::Refused {
                code, retry_after_ms, ..
            } => {
                let (reason, retry) = refusal(*code, *retry_after_ms);
                Some((reason.number(), retry))
            }
            Self::Ordered { reason } => {
                let retry = CloseReason::from_number(*reason).map(CloseReason::retry);
                Some((
                    *reason,
                    retry.unwrap_or(Retry::After {
                        ms: RECONNECT_AFTER_MS,
                    }),
                ))
            }
            Self::Silent | Self::ClosedByClient => None,
        }
    }

    /// Whether a client that was answered but has shown no keys ended this way: its hello may have been a replay.
    pub(crate) const fn leaves_unconfirmed(&self) -> bool {
        matches!(
            self,
            Self::NotConfirmed
                | Self::Record(_)
                | Self::Frame(_)
                | Self::Unexpected { .. }
                | Self::Unfinished
        )
    }

    /// Its value of the `reason` label of `whimbrel_gateway_sessions_ended_total`.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Record(_) => "bad_record",
            Self::Frame(_) => "bad_frame",
            Self::RequestId(_) => "bad_request_id",
            Self::Unexpected { .. } => "unexpected_frame",
            Self::BadAck { .. } => "bad_ack",
            Self::NotConfirmed => "not_confirmed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Unfinished => "unfinished",
            Self::Silent => "silent",
            Self::AckOverdue => "ack_overdue",
            Self::SlowConsumer { .. } => "slow_consumer",
            Self::OutOfMemoryBudget => "memory_budget",
            Self::MadeRoom => "made_room",
            Self::TokenExpired => "token_expired",
            Self::Refused { .. } => "refused",
            Self::Ordered { .. } => "ordered",
            Self::Draining => "draining",
            Self::ClosedByClient => "client_closed",
        }
    }
}

/// How a session ends whose opening or whose new token was refused with `code`.
fn refusal(code: u32, retry_after_ms: u32) -> (CloseReason, Retry) {
    let code = Code::from_number(code);
    let reason = match code {
        Some(Code::TokenInvalid | Code::TokenExpired | Code::TokenMismatch) => CloseReason::TokenExpired,
        Some(Code::UserDisabled | Code::UnknownApp | Code::UnknownUser) => CloseReason::LoginRevoked,
        Some(Code::SupersededLogin) => CloseReason::Superseded,
        Some(Code::Overloaded | Code::TooManyRequests) => CloseReason::Overloaded,
        Some(Code::Internal) => CloseReason::Internal,
        _ => CloseReason::NotRegistered,
    };
    match code.map(Code::retry) {
        Some(code::Retry::Never) => (reason, Retry::Never),
        Some(code::Retry::NewToken) => (reason, Retry::NewToken),
        // Codes of later versions are worth another try.
        Some(code::Retry::Later) | None => (
            reason,
            Retry::After {
                ms: retry_after_ms.max(RECONNECT_AFTER_MS),
            },
        ),
    }
}
