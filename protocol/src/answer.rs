//! The gateway's first bytes: `type(1) | length(2) | body`, at most 4 KiB in all.
//!
//! Everything but an accept is in clear text and anybody on the path can forge it: it is a hint where to try next, and
//! never a reason to step down to a weaker suite, to log out, or to forget a token.

use crate::wire::Cursor;

/// A whole answer is at most this long, in bytes.
pub const ANSWER_LEN_MAX: usize = 4096;

/// Type and length.
pub const ANSWER_FRAMING_LEN: usize = 3;

/// The longest body of an answer, in bytes.
pub const ANSWER_BODY_LEN_MAX: usize = ANSWER_LEN_MAX - ANSWER_FRAMING_LEN;

const TYPE_ACCEPT: u8 = 1;
const TYPE_REJECT: u8 = 2;
const TYPE_STALE_KEY: u8 = 3;
const TYPE_COOKIE: u8 = 4;

/// What the gateway says to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The handshake goes on: Noise's message 2, with the login's outcome sealed inside.
    Accept(&'a [u8]),
    /// Not here, or not now.
    Reject(Reject),
    /// The key id is unknown or expired: the gateway's current descriptor, to be verified like any other.
    StaleKey(&'a [u8]),
    /// Reserved for floods: bytes to be echoed in a later version. A client of version 1 takes it as an overload.
    Cookie(&'a [u8]),
    /// A type from a later version; the client tries another gateway.
    Unknown {
        /// Its number.
        kind: u8,
    },
}

/// A refusal before the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// How long to leave this gateway alone, in milliseconds.
    pub retry_after_ms: u32,
}

impl Reject {
    /// A refusal that waiting will not change.
    #[must_use]
    pub const fn now(reason: RejectReason) -> Self {
        Self {
            reason,
            retry_after_ms: 0,
        }
    }
}

/// Why a hello was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// 1: the version is not spoken here.
    UnsupportedVersion,
    /// 2: the suite is not spoken here.
    UnsupportedSuite,
    /// 3: the hello's parts do not fit.
    MalformedHello,
    /// 4: message 1 did not decrypt.
    HandshakeFailed,
    /// 5: too busy for another login now.
    Overloaded,
    /// 6: too many unfinished or failed handshakes from this address.
    AddressLimited,
    /// 7: this gateway is being taken out of service.
    Draining,
    /// A reason from a later version; treated like an overload.
    Other(u16),
}

impl RejectReason {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::UnsupportedVersion => 1,
            Self::UnsupportedSuite => 2,
            Self::MalformedHello => 3,
            Self::HandshakeFailed => 4,
            Self::Overloaded => 5,
            Self::AddressLimited => 6,
            Self::Draining => 7,
            Self::Other(code) => code,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::UnsupportedVersion,
            2 => Self::UnsupportedSuite,
            3 => Self::MalformedHello,
            4 => Self::HandshakeFailed,
            5 => Self::Overloaded,
            6 => Self::AddressLimited,
            7 => Self::Draining,
            code => Self::Other(code),
        }
    }
}

/// How far an answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerStep<'a> {
    /// More bytes are needed: at least until there are `needed` in all.
    Incomplete {
        /// The total to wait for; it may grow once the length is known.
        needed: usize,
    },
    /// All of it is there.
    Complete {
        /// The answer.
        answer: Answer<'a>,
        /// How many bytes it took; records follow an accept.
        consumed: usize,
    },
}

/// Why bytes are not an answer, or an answer cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Longer than any answer.
    #[error("the answer is {len} bytes long, the most is {ANSWER_LEN_MAX}")]
    TooLong {
        /// The total.
        len: usize,
    },
    /// A refusal whose body is too short to hold its fields.
    #[error("the refusal's body is {len} bytes long, expected at least 6")]
    ShortReject {
        /// The body's length.
        len: usize,
    },
}

impl<'a> Answer<'a> {
    /// Reads the answer at the start of `bytes`, which may still be arriving.
    ///
    /// # Errors
    /// When the bytes can no longer become an answer.
    pub fn parse(bytes: &'a [u8]) -> Result<AnswerStep<'a>, AnswerError> {
        let mut cursor = Cursor::new(bytes);
        let (Some(kind), Some(body_len)) = (cursor.u8(), cursor.u16()) else {
            return Ok(AnswerStep::Incomplete {
                needed: ANSWER_FRAMING_LEN,
            });
        };
        let len = ANSWER_FRAMING_LEN.saturating_add(usize::from(body_len));
        if len > ANSWER_LEN_MAX {
            return Err(AnswerError::TooLong { len });
        }
        let Some(body) = cursor.take(usize::from(body_len)) else {
            return Ok(AnswerStep::Incomplete { needed: len });
        };
        let answer = match kind {
            TYPE_ACCEPT => Self::Accept(body),
            TYPE_REJECT => Self::Reject(Reject::parse(body)?),
            TYPE_STALE_KEY => Self::StaleKey(body),
            TYPE_COOKIE => Self::Cookie(body),
            kind => Self::Unknown { kind },
        };
        Ok(AnswerStep::Complete {
            answer,
            consumed: len,
        })
    }

    /// Appends the answer. An [`Answer::Unknown`] has no body to write and is written empty.
    ///
    /// # Errors
    /// When it would be over its bound; nothing is written then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), AnswerError> {
        let reject;
        let (kind, body): (u8, &[u8]) = match self {
            Self::Accept(message) => (TYPE_ACCEPT, message),
            Self::Reject(value) => {
                reject = value.to_bytes();
                (TYPE_REJECT, &reject)
            }
            Self::StaleKey(descriptor) => (TYPE_STALE_KEY, descriptor),
            Self::Cookie(cookie) => (TYPE_COOKIE, cookie),
            Self::Unknown { kind } => (*kind, &[]),
        };
        let too_long = AnswerError::TooLong {
            len: ANSWER_FRAMING_LEN.saturating_add(body.len()),
        };
        if body.len() > ANSWER_BODY_LEN_MAX {
            return Err(too_long);
        }
        let body_len = u16::try_from(body.len()).map_err(|_| too_long)?;
        out.push(kind);
        out.extend_from_slice(&body_len.to_be_bytes());
        out.extend_from_slice(body);
        Ok(())
    }
}

impl Reject {
    /// `reason(2) | retry-after in milliseconds(4)`; later versions may append.
    fn parse(body: &[u8]) -> Result<Self, AnswerError> {
        let mut cursor = Cursor::new(body);
        match (cursor.u16(), cursor.u32()) {
            (Some(reason), Some(retry_after_ms)) => Ok(Self {
                reason: RejectReason::from_code(reason),
                retry_after_ms,
            }),
            _ => Err(AnswerError::ShortReject { len: body.len() }),
        }
    }

    fn to_bytes(self) -> [u8; 6] {
        let [r0, r1] = self.reason.code().to_be_bytes();
        let [t0, t1, t2, t3] = self.retry_after_ms.to_be_bytes();
        [r0, r1, t0, t1, t2, t3]
    }
}
