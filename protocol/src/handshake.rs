//! From hello to keys: the client's and the gateway's half as separate types whose steps consume them.
//!
//! ```text
//! client: Initiator::start -> hello bytes ... Initiator::finish(accept's message) -> SessionKeys, login answer
//! server: Responder::read(hello, keys) -> login ... Responder::answer(login answer) -> accept bytes, SessionKeys
//! ```
//! Between its two steps the gateway authenticates the login, which may take a while: a waiting [`Responder`] is two
//! words plus boxed state of about 1.5 KiB, counted against the gateway's bound on unfinished handshakes.
//!
//! Message 1 can be replayed: a gateway writes nothing anywhere, and displaces no session, until the first record under
//! the new keys has opened.

use crate::answer::{Answer, Reject, RejectReason};
use crate::entropy::Entropy;
use crate::hello::{self, Hello};
use crate::keys::{KeyId, StaticKey, StaticPublicKey};
use crate::noise::{self, NotAuthentic};
use crate::session_keys::SessionKeys;
use crate::suite::Suite;
use crate::wire::Cursor;

/// The plaintext of message 2 is always this long, in bytes: the login's outcome behind a 16-bit length, then zeros. Its
/// length therefore says nothing about the outcome.
pub const LOGIN_ANSWER_PADDED_LEN: usize = 512;

/// The longest login answer, in bytes.
pub const LOGIN_ANSWER_LEN_MAX: usize = LOGIN_ANSWER_PADDED_LEN - 2;

/// Why the client's half failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InitiatorError {
    /// The login does not fit a hello.
    #[error(
        "the login is {len} bytes long, a hello carries at most {}: use a shorter token",
        hello::LOGIN_LEN_MAX
    )]
    LoginTooLong {
        /// Its length.
        len: usize,
    },
    /// Message 2 is not from the gateway the descriptor names.
    #[error(transparent)]
    NotAuthentic(#[from] NotAuthentic),
    /// Message 2 is authentic but its payload is not a padded login answer.
    #[error(
        "the gateway's login answer is {len} bytes, expected {LOGIN_ANSWER_PADDED_LEN} with a length that fits"
    )]
    MalformedLoginAnswer {
        /// The payload's length.
        len: usize,
    },
}

/// The client, between its hello and the gateway's answer.
#[derive(Debug)]
pub struct Initiator {
    state: noise::InitiatorState,
}

impl Initiator {
    /// Appends a hello to `out`: `login` sealed for `gateway_key`, which comes from a verified descriptor.
    ///
    /// Draws 32 bytes from `entropy`.
    ///
    /// # Errors
    /// When the login is too long.
    pub fn start(
        suite: Suite,
        gateway_key: &StaticPublicKey,
        login: &[u8],
        entropy: &mut dyn Entropy,
        out: &mut Vec<u8>,
    ) -> Result<Self, InitiatorError> {
        let too_long = InitiatorError::LoginTooLong { len: login.len() };
        let message_len = login.len().checked_add(noise::MESSAGE_OVERHEAD).ok_or(too_long)?;
        let header = hello::header(suite, gateway_key.id(), message_len).ok_or(too_long)?;
        out.extend_from_slice(&header);
        Ok(Self {
            state: noise::initiate(suite, &header, gateway_key, login, entropy, out),
        })
    }

    /// Opens an accept's message: the session's keys and the login answer.
    ///
    /// The login answer may still be a refusal; only its authenticity is settled here.
    ///
    /// # Errors
    /// When the message is not the gateway's.
    pub fn finish(self, message: &[u8]) -> Result<(SessionKeys, Vec<u8>), InitiatorError> {
        let (keys, mut padded) = self.state.read(message)?;
        let malformed = InitiatorError::MalformedLoginAnswer { len: padded.len() };
        let mut cursor = Cursor::new(&padded);
        let answer_len = cursor.bytes_u16().ok_or(malformed)?.len();
        if padded.len() != LOGIN_ANSWER_PADDED_LEN {
            return Err(malformed);
        }
        padded.drain(..2);
        padded.truncate(answer_len);
        Ok((keys, padded))
    }
}

/// Why the gateway could not open a hello. Each has an answer to give before closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponderError {
    /// A suite this build does not speak.
    #[error(
        "the hello asks for suite {suite_id}, this gateway speaks 1 and 2: its descriptor lists what it speaks"
    )]
    UnknownSuite {
        /// Its number.
        suite_id: u8,
    },
    /// A key that is not, or no longer, ours: answer with the current descriptor.
    #[error(
        "the hello is for key {key_id}, which this gateway does not hold: answer with the current descriptor"
    )]
    UnknownKey {
        /// Its id.
        key_id: KeyId,
    },
    /// Message 1 does not open.
    #[error(transparent)]
    NotAuthentic(#[from] NotAuthentic),
}

impl ResponderError {
    /// The answer to give. `descriptor` is the gateway's current one.
    #[must_use]
    pub fn answer<'a>(&self, descriptor: &'a [u8]) -> Answer<'a> {
        match self {
            Self::UnknownSuite { .. } => Answer::Reject(Reject::now(RejectReason::UnsupportedSuite)),
            Self::UnknownKey { .. } => Answer::StaleKey(descriptor),
            Self::NotAuthentic(_) => Answer::Reject(Reject::now(RejectReason::HandshakeFailed)),
        }
    }
}

/// The login answer does not fit its padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the login answer is {len} bytes long, at most {LOGIN_ANSWER_LEN_MAX} fit its fixed size")]
pub struct LoginAnswerTooLong {
    /// Its length.
    pub len: usize,
}

/// The gateway, between opening a hello and answering it.
#[derive(Debug)]
pub struct Responder {
    state: noise::ResponderState,
}

impl Responder {
    /// Opens `hello` with whichever of the gateway's live `keys` it names; returns the login with the waiting state.
    ///
    /// Draws 32 bytes from `entropy`.
    ///
    /// # Errors
    /// When suite or key are not ours or the message does not open; see [`ResponderError::answer`].
    pub fn read(
        hello: &Hello<'_>,
        keys: &[StaticKey],
        entropy: &mut dyn Entropy,
    ) -> Result<(Self, Vec<u8>), ResponderError> {
        let suite = hello.suite().ok_or(ResponderError::UnknownSuite {
            suite_id: hello.suite_id(),
        })?;
        let key_id = hello.key_id();
        let key = keys
            .iter()
            .find(|key| key.id() == key_id)
            .ok_or(ResponderError::UnknownKey { key_id })?;
        let (state, login) = noise::respond(suite, hello.prologue(), key, hello.message(), entropy)?;
        Ok((Self { state }, login))
    }

    /// Appends the accept answer to `out`, with `login_answer` padded and sealed inside, and gives the session's keys.
    /// A refused login is answered the same way; its keys are dropped.
    ///
    /// # Errors
    /// When the login answer is over [`LOGIN_ANSWER_LEN_MAX`].
    pub fn answer(self, login_answer: &[u8], out: &mut Vec<u8>) -> Result<SessionKeys, LoginAnswerTooLong> {
        let too_long = LoginAnswerTooLong {
            len: login_answer.len(),
        };
        if login_answer.len() > LOGIN_ANSWER_LEN_MAX {
            return Err(too_long);
        }
        let answer_len = u16::try_from(login_answer.len()).map_err(|_| too_long)?;
        let mut padded = Vec::with_capacity(LOGIN_ANSWER_PADDED_LEN);
        padded.extend_from_slice(&answer_len.to_be_bytes());
        padded.extend_from_slice(login_answer);
        padded.resize(LOGIN_ANSWER_PADDED_LEN, 0);
        let mut message = Vec::with_capacity(LOGIN_ANSWER_PADDED_LEN.saturating_add(noise::MESSAGE_OVERHEAD));
        let keys = self.state.write(&padded, &mut message);
        Answer::Accept(&message)
            .encode(out)
            .expect("560 bytes are below the bound of an answer");
        Ok(keys)
    }
}
