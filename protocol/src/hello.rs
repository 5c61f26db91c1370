//! The client's first bytes.
//!
//! `magic(4) | version(1) | length(2) | body`; in version 1 the body is `suite(1) | key id(4) | Noise message 1`. Only
//! the framing (magic, version, length, at most 4 KiB in all) is fixed for ever: a gateway can answer a version it has
//! never heard of. The bytes before Noise's message are its prologue, so nobody on the path can alter them unnoticed.

use crate::answer::{Reject, RejectReason};
use crate::keys::KeyId;
use crate::suite::Suite;
use crate::wire::Cursor;

/// What every hello starts with. The first byte is neither a TLS record (0x16) nor ASCII, so one port can tell
/// Whimbrel, TLS and HTTP apart by one byte.
pub const MAGIC: [u8; 4] = [0xf7, b'W', b'B', b'L'];

/// The version this build speaks.
pub const VERSION: u8 = 1;

/// A whole hello is at most this long, in bytes: room for a token and later for post-quantum keys (about 1.2 KiB), and
/// little for a stranger to make us hold.
pub const HELLO_LEN_MAX: usize = 4096;

/// Magic, version and length.
pub const FRAMING_LEN: usize = 7;

/// Everything before Noise's first message in version 1: the prologue.
pub const HEADER_LEN: usize = 12;

/// The shortest first message: an ephemeral key and a tag over an empty login.
pub const MESSAGE_1_LEN_MIN: usize = 48;

/// The longest login a hello can carry, in bytes.
pub const LOGIN_LEN_MAX: usize = HELLO_LEN_MAX - HEADER_LEN - MESSAGE_1_LEN_MIN;

/// A complete hello of version 1, borrowed from the bytes it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    header: &'a [u8; HEADER_LEN],
    message: &'a [u8],
}

/// How far a hello has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloStep<'a> {
    /// More bytes are needed: at least until there are `needed` in all.
    Incomplete {
        /// The total to wait for; it may grow once the length is known.
        needed: usize,
    },
    /// All of it is there.
    Complete {
        /// The hello.
        hello: Hello<'a>,
        /// How many bytes it took. A client of version 1 sends nothing behind it until it has the answer.
        consumed: usize,
    },
}

/// Why bytes are not a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Some other protocol.
    #[error(
        "byte {offset} of the hello is {found:#04x}, expected {expected:#04x}: the peer does not speak Whimbrel"
    )]
    WrongMagic {
        /// Where the bytes first differ.
        offset: usize,
        /// The byte there.
        found: u8,
        /// What belongs there.
        expected: u8,
    },
    /// Longer than any hello.
    #[error("the hello says it is {len} bytes long, the most is {HELLO_LEN_MAX}")]
    TooLong {
        /// The announced total.
        len: usize,
    },
    /// Shorter than version 1 can be.
    #[error("the hello is {len} bytes long, version 1 needs at least {}", HEADER_LEN + MESSAGE_1_LEN_MIN)]
    TooShort {
        /// The announced total.
        len: usize,
    },
    /// A version this build does not speak; its hello has come in full.
    #[error(
        "the hello is of version {version}, this gateway speaks {VERSION}: its descriptor lists what it speaks"
    )]
    UnsupportedVersion {
        /// The version asked for.
        version: u8,
    },
}

impl HelloError {
    /// What to answer before closing; nothing to somebody who does not speak Whimbrel at all.
    #[must_use]
    pub fn reject(&self) -> Option<Reject> {
        match self {
            Self::WrongMagic { .. } => None,
            Self::TooLong { .. } | Self::TooShort { .. } => Some(Reject::now(RejectReason::MalformedHello)),
            Self::UnsupportedVersion { .. } => Some(Reject::now(RejectReason::UnsupportedVersion)),
        }
    }
}

impl<'a> Hello<'a> {
    /// Reads the hello at the start of `bytes`, which may still be arriving. Wrong magic shows from its first byte.
    ///
    /// # Errors
    /// When the bytes can no longer become a hello of version 1.
    pub fn parse(bytes: &'a [u8]) -> Result<HelloStep<'a>, HelloError> {
        for (offset, (&found, &expected)) in bytes.iter().zip(&MAGIC).enumerate() {
            if found != expected {
                return Err(HelloError::WrongMagic {
                    offset,
                    found,
                    expected,
                });
            }
        }
        let mut cursor = Cursor::new(bytes);
        let (Some(_magic), Some(version), Some(body_len)) = (cursor.array::<4>(), cursor.u8(), cursor.u16())
        else {
            return Ok(HelloStep::Incomplete { needed: FRAMING_LEN });
        };
        let len = FRAMING_LEN.saturating_add(usize::from(body_len));
        if len > HELLO_LEN_MAX {
            return Err(HelloError::TooLong { len });
        }
        let Some(whole) = bytes.get(..len) else {
            return Ok(HelloStep::Incomplete { needed: len });
        };
        if version != VERSION {
            return Err(HelloError::UnsupportedVersion { version });
        }
        match whole.split_first_chunk::<HEADER_LEN>() {
            Some((header, message)) if message.len() >= MESSAGE_1_LEN_MIN => Ok(HelloStep::Complete {
                hello: Hello { header, message },
                consumed: len,
            }),
            _ => Err(HelloError::TooShort { len }),
        }
    }

    /// The suite's number, which may be one this build does not know.
    #[must_use]
    pub fn suite_id(&self) -> u8 {
        let [_, _, _, _, _, _, _, suite, ..] = self.header;
        *suite
    }

    /// The suite, if this build speaks it.
    #[must_use]
    pub fn suite(&self) -> Option<Suite> {
        Suite::from_id(self.suite_id())
    }

    /// Which of the gateway's keys the message is for.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        let [_, _, _, _, _, _, _, _, a, b, c, d] = *self.header;
        KeyId([a, b, c, d])
    }

    /// Noise's prologue: all of the hello before the message.
    #[must_use]
    pub fn prologue(&self) -> &'a [u8; HEADER_LEN] {
        self.header
    }

    /// Noise's first message.
    #[must_use]
    pub fn message(&self) -> &'a [u8] {
        self.message
    }
}

/// Builds the header for a first message of `message_len` bytes; `None` when the hello would be over its bound.
pub(crate) fn header(suite: Suite, key_id: KeyId, message_len: usize) -> Option<[u8; HEADER_LEN]> {
    if message_len > HELLO_LEN_MAX.checked_sub(HEADER_LEN)? {
        return None;
    }
    let body_len = HEADER_LEN.checked_sub(FRAMING_LEN)?.checked_add(message_len)?;
    let [high, low] = u16::try_from(body_len).ok()?.to_be_bytes();
    let [m0, m1, m2, m3] = MAGIC;
    let KeyId([k0, k1, k2, k3]) = key_id;
    Some([m0, m1, m2, m3, VERSION, high, low, suite.id(), k0, k1, k2, k3])
}
