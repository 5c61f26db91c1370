//! Why a session ends: the numbers in a CLOSE frame.

use crate::frame::Retry;
use crate::method::numbered;

numbered! {
    /// The reason in a CLOSE.
    CloseReason {
        /// The peer broke the protocol: a malformed or illegal frame, a duplicate request id, a bound overstepped.
        ProtocolViolation = 1,
        /// No Confirm came within its time.
        NotConfirmed = 2,
        /// The session could not be registered, or the registry has lost it.
        NotRegistered = 3,
        /// The gateway is leaving service and the window of its GOAWAY is over.
        Draining = 4,
        /// The client did not take in what was sent, even after its queue was collapsed into one SYNC_HINT.
        SlowConsumer = 5,
        /// A tracked push was not acknowledged in time.
        AckOverdue = 6,
        /// Nothing authentic came for 2.5 heartbeats.
        Silent = 7,
        /// A newer login of the same device took its place.
        Superseded = 8,
        /// The device policy ended it in favour of another device.
        Displaced = 9,
        /// The token ran out and no new one came, or the new one was refused.
        TokenExpired = 10,
        /// The user was disabled or deleted, or the token revoked.
        LoginRevoked = 11,
        /// The server sheds load.
        Overloaded = 12,
        /// A fault of the server.
        Internal = 13,
        /// The client leaves of its own will.
        Leaving = 14,
        /// A login on QUIC or WebSocket was refused; the login answer before it says why.
        LoginRefused = 15,
    }
}

/// How long a client stays away after a close that names no time of its own, in milliseconds: long enough that a
/// gateway in trouble is not met by everybody at once, short enough that nobody gives up waiting.
pub const RECONNECT_AFTER_MS: u32 = 2_000;

impl CloseReason {
    /// What the client does next, unless the sender of the CLOSE knows better.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::Superseded | Self::Displaced | Self::LoginRevoked | Self::Leaving | Self::LoginRefused => {
                Retry::Never
            }
            Self::TokenExpired => Retry::NewToken,
            Self::Draining => Retry::NewDirectory,
            Self::NotConfirmed | Self::SlowConsumer | Self::AckOverdue | Self::Silent => {
                Retry::After { ms: 0 }
            }
            Self::ProtocolViolation | Self::NotRegistered | Self::Overloaded | Self::Internal => {
                Retry::After {
                    ms: RECONNECT_AFTER_MS,
                }
            }
        }
    }
}
