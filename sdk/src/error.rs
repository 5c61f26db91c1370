//! The one error of the public API: a number, what to do, and a sentence for developers.

use std::fmt;

use whimbrel_protocol::client_session::Refusal;
use whimbrel_protocol::code::{self, Code};

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same call fails the same way.
    Never,
    /// The same call may succeed after a pause.
    Later,
    /// A new token is needed first; the client asks its provider by itself.
    NewToken,
}

/// Codes of the SDK's own, above the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// The configuration is wrong.
    Config = 1000,
    /// No gateway answered in time.
    Offline = 1001,
    /// The client is closed or logged out.
    Closed = 1002,
    /// The send queue is full.
    QueueFull = 1003,
    /// An argument is out of its bounds.
    InvalidArgument = 1004,
    /// The local database failed.
    Storage = 1005,
    /// The token provider failed.
    Token = 1006,
    /// The server's answer does not parse.
    MalformedAnswer = 1007,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// A server's code (docs/protocol.md, below 1000) or an [`ErrorCode`].
    pub code: u32,
    /// What to do about it.
    pub retry: Retry,
    /// The least pause before another try, in milliseconds; 0 when none was named.
    pub retry_after_ms: u32,
    /// For developers, in English, not for display.
    pub message: String,
}

impl Error {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry = match code {
            ErrorCode::Config
            | ErrorCode::Closed
            | ErrorCode::InvalidArgument
            | ErrorCode::MalformedAnswer => Retry::Never,
            ErrorCode::Offline | ErrorCode::QueueFull | ErrorCode::Storage | ErrorCode::Token => Retry::Later,
        };
        Self {
            code: code as u32,
            retry,
            retry_after_ms: 0,
            message: message.into(),
        }
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorCode::Closed, "the client is closed: start a new one")
    }

    pub(crate) fn offline() -> Self {
        Self::new(
            ErrorCode::Offline,
            "no answer came in time: the network or the server is away",
        )
    }

    /// An unknown code is of a later server; trying again later is the safe guess.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code,
            retry: refusal
                .known_code()
                .map_or(Retry::Later, |code| code.retry().into()),
            retry_after_ms: refusal.retry_after_ms,
            message: refusal.message.clone(),
        }
    }

    /// The server's code, when it is one this version knows.
    #[must_use]
    pub const fn server_code(&self) -> Option<Code> {
        Code::from_number(self.code)
    }
}

impl From<code::Retry> for Retry {
    fn from(retry: code::Retry) -> Self {
        match retry {
            code::Retry::Never => Self::Never,
            code::Retry::Later => Self::Later,
            code::Retry::NewToken => Self::NewToken,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl std::error::Error for Error {}
