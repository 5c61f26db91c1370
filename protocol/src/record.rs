//! Records: `length(2) | ciphertext with tag`, sealed and opened in the caller's buffer.
//!
//! Nonces are Noise's counters, the associated data is empty, and every 2^16 records a direction's key is replaced by
//! Noise's rekey (4.2), on both ends without a word. Between bursts a direction is a [`DirectionKey`] of 40 bytes; a
//! burst expands it into a [`Sealer`] or [`Opener`] (0.15 us), which advances the key it borrows, so a counter can
//! never go back and no second copy of a key exists.
//!
//! Decide what to drop *before* sealing: a sealed record must be written, or the peer's counter and ours part for good.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead;
use zeroize::Zeroize as _;

use crate::side::Side;
use crate::suite::Suite;

/// A whole record is at most this long, in bytes, its length prefix included.
pub const RECORD_LEN_MAX: usize = 65_535;

/// The length prefix.
pub const RECORD_PREFIX_LEN: usize = 2;

/// The tag at a record's end.
pub const TAG_LEN: usize = 16;

/// What a record adds to its plaintext.
pub const RECORD_OVERHEAD: usize = RECORD_PREFIX_LEN + TAG_LEN;

/// The most plaintext in a record from a gateway, in bytes.
pub const SERVER_PLAINTEXT_MAX: usize = RECORD_LEN_MAX - RECORD_OVERHEAD;

/// The most plaintext in a record from a client, in bytes: what a stranger can make a gateway hold until the tag has
/// come, times the number of strangers.
pub const CLIENT_PLAINTEXT_MAX: usize = 16 * 1024;

/// After this many records a direction takes its next key. Far below AES-GCM's bound for one key, and small enough that
/// what an idle connection keeps never opens more than the last 2^16 records.
pub const REKEY_INTERVAL: u64 = 1 << 16;

/// A direction ends after this many records, in its 2^32nd key. No session lives that long; a counter near it is a fault.
pub const COUNTER_MAX: u64 = 1 << 48;

/// The most plaintext `side` may put into one record.
#[must_use]
pub const fn plaintext_max(side: Side) -> usize {
    match side {
        Side::Client => CLIENT_PLAINTEXT_MAX,
        Side::Server => SERVER_PLAINTEXT_MAX,
    }
}

/// Why a record was refused or could not be made. Each ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The prefix announces more than its sender may send.
    #[error("a record of {len} bytes is over its bound of {max}")]
    TooLong {
        /// The whole record's length.
        len: usize,
        /// The most.
        max: usize,
    },
    /// The prefix announces less than a tag and one byte.
    #[error("a record of {len} bytes is empty: the least is {}", RECORD_OVERHEAD + 1)]
    TooShort {
        /// The whole record's length.
        len: usize,
    },
    /// The tag does not fit: altered, replayed, out of order, or under another key.
    #[error(
        "record {counter} is not authentic: it was altered, replayed, reordered or sealed under another key"
    )]
    NotAuthentic {
        /// Which record was expected.
        counter: u64,
    },
    /// The direction has sent all the records it may.
    #[error("the session has carried 2^48 records in one direction: connect again")]
    CounterExhausted,
}

/// How far the record at the start of a buffer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordStep {
    /// More bytes are needed: at least until there are `needed` in all.
    Incomplete {
        /// The total to wait for; it may grow once the length is known.
        needed: usize,
    },
    /// The first `len` bytes are a record, prefix included.
    Complete {
        /// Its whole length.
        len: usize,
    },
}

/// Finds the end of the record at the start of `bytes`, which was sent by `sender`.
///
/// # Errors
/// When the length is not one `sender` may send. It is judged as soon as it is there, before anything is held for it.
pub fn next_record(bytes: &[u8], sender: Side) -> Result<RecordStep, RecordError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<RECORD_PREFIX_LEN>() else {
        return Ok(RecordStep::Incomplete {
            needed: RECORD_PREFIX_LEN,
        });
    };
    let sealed_len = usize::from(u16::from_be_bytes(*prefix));
    let len = sealed_len.saturating_add(RECORD_PREFIX_LEN);
    let max = plaintext_max(sender).saturating_add(RECORD_OVERHEAD);
    if len > max {
        return Err(RecordError::TooLong { len, max });
    }
    if len <= RECORD_OVERHEAD {
        return Err(RecordError::TooShort { len });
    }
    if rest.len() < sealed_len {
        return Ok(RecordStep::Incomplete { needed: len });
    }
    Ok(RecordStep::Complete { len })
}

/// One direction at rest: its raw key and the number of its next record. 40 bytes.
pub struct DirectionKey {
    key: [u8; 32],
    counter: u64,
}

impl DirectionKey {
    /// A direction's first key, fresh from a handshake.
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key, counter: 0 }
    }

    /// A direction in the middle of its life, for published vectors. A second copy of a living direction's key breaks
    /// its secrecy.
    #[doc(hidden)]
    #[must_use]
    pub fn from_parts(key: [u8; 32], counter: u64) -> Self {
        Self { key, counter }
    }

    /// The raw key, for published vectors.
    #[doc(hidden)]
    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// How many records have gone this way: the number of the next one.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Expands the key to seal a burst of records.
    pub fn sealer(&mut self, suite: Suite) -> Sealer<'_> {
        Sealer(Schedule::expand(self, suite))
    }

    /// Expands the key to open a burst of records.
    pub fn opener(&mut self, suite: Suite) -> Opener<'_> {
        Opener(Schedule::expand(self, suite))
    }
}

impl Drop for DirectionKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for DirectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectionKey")
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

/// An expanded key that lives for a burst and moves the key at rest along.
struct Schedule<'a> {
    suite: Suite,
    at_rest: &'a mut DirectionKey,
    expanded: aead::LessSafeKey,
}

impl<'a> Schedule<'a> {
    fn expand(at_rest: &'a mut DirectionKey, suite: Suite) -> Self {
        let expanded = expand(suite, &at_rest.key);
        Self {
            suite,
            at_rest,
            expanded,
        }
    }

    /// The number and nonce of the record at hand, under the right key.
    fn prepare(&mut self) -> Result<(u64, aead::Nonce), RecordError> {
        let counter = self.at_rest.counter;
        if counter >= COUNTER_MAX {
            return Err(RecordError::CounterExhausted);
        }
        Ok((counter, self.suite.nonce(counter)))
    }

    /// Counts a record that was sealed or opened, and rekeys after every 2^16th.
    fn advance(&mut self) {
        self.at_rest.counter = self.at_rest.counter.saturating_add(1);
        if self.at_rest.counter.is_multiple_of(REKEY_INTERVAL) {
            self.rekey();
        }
    }

    /// Noise 4.2: the first 32 bytes of 32 zeros sealed under the old key with the highest nonce.
    fn rekey(&mut self) {
        let mut next = [0_u8; 32];
        let _tag_is_not_part_of_the_key = self
            .expanded
            .seal_in_place_separate_tag(self.suite.nonce(u64::MAX), aead::Aad::empty(), &mut next)
            .expect("32 bytes are below the AEAD's limit");
        self.at_rest.key.zeroize();
        self.at_rest.key = next;
        next.zeroize();
        self.expanded = expand(self.suite, &self.at_rest.key);
    }
}

fn expand(suite: Suite, key: &[u8; 32]) -> aead::LessSafeKey {
    aead::LessSafeKey::new(aead::UnboundKey::new(suite.aead(), key).expect("both suites take 32-byte keys"))
}

/// Seals a burst of records.
pub struct Sealer<'a>(Schedule<'a>);

impl Sealer<'_> {
    /// Appends `plaintext` to `out` as records of at most `chunk_max` bytes of plaintext (see [`plaintext_max`]).
    /// Nothing is appended for an empty plaintext.
    ///
    /// # Errors
    /// When the counter is exhausted; records already appended stay, and nothing unsealed is behind them.
    pub fn seal(&mut self, plaintext: &[u8], chunk_max: usize, out: &mut Vec<u8>) -> Result<(), RecordError> {
        for chunk in plaintext.chunks(chunk_max.clamp(1, SERVER_PLAINTEXT_MAX)) {
            let start = begin_record(out);
            out.extend_from_slice(chunk);
            if let Err(error) = self.seal_in_place(out, start) {
                // What could not be sealed must not be written by mistake.
                out.truncate(start.0);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Turns everything in `buffer` from `start` (see [`begin_record`]) into one record, without copying it.
    ///
    /// # Errors
    /// When there is no plaintext, too much of it for any record, or the counter is exhausted. The buffer's plaintext
    /// is untouched then.
    pub fn seal_in_place(&mut self, buffer: &mut Vec<u8>, start: RecordStart) -> Result<(), RecordError> {
        let len = buffer.len().saturating_sub(start.0).saturating_add(TAG_LEN);
        if len > RECORD_LEN_MAX {
            return Err(RecordError::TooLong {
                len,
                max: RECORD_LEN_MAX,
            });
        }
        let sealed_len = len
            .checked_sub(RECORD_PREFIX_LEN)
            .filter(|sealed| *sealed > TAG_LEN);
        let sealed_len = sealed_len.and_then(|sealed| u16::try_from(sealed).ok());
        let record = buffer
            .get_mut(start.0..)
            .and_then(|record| record.split_first_chunk_mut::<RECORD_PREFIX_LEN>());
        let (Some(sealed_len), Some((prefix, body))) = (sealed_len, record) else {
            return Err(RecordError::TooShort { len });
        };
        let (_, nonce) = self.0.prepare()?;
        *prefix = sealed_len.to_be_bytes();
        let tag = self
            .0
            .expanded
            .seal_in_place_separate_tag(nonce, aead::Aad::empty(), body)
            .expect("a record is below the AEAD's limit");
        buffer.extend_from_slice(tag.as_ref());
        self.0.advance();
        Ok(())
    }
}

/// Where in a buffer a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordStart(usize);

/// Leaves room for a record's length at the end of `buffer`; frames follow, then [`Sealer::seal_in_place`].
#[must_use]
pub fn begin_record(buffer: &mut Vec<u8>) -> RecordStart {
    let start = RecordStart(buffer.len());
    buffer.extend_from_slice(&[0; RECORD_PREFIX_LEN]);
    start
}

/// Opens a burst of records.
pub struct Opener<'a>(Schedule<'a>);

impl Opener<'_> {
    /// Opens `record`, exactly one as [`next_record`] delimits it, in place; returns where in it the plaintext lies.
    ///
    /// # Errors
    /// When it is not the next record of this direction. The session must end: what followed cannot be trusted.
    pub fn open_in_place(&mut self, record: &mut [u8]) -> Result<Range<usize>, RecordError> {
        let (counter, nonce) = self.0.prepare()?;
        let len = record.len();
        let sealed = record
            .get_mut(RECORD_PREFIX_LEN..)
            .ok_or(RecordError::TooShort { len })?;
        let plaintext = self
            .0
            .expanded
            .open_in_place(nonce, aead::Aad::empty(), sealed)
            .map_err(|_| RecordError::NotAuthentic { counter })?;
        let end = plaintext.len().saturating_add(RECORD_PREFIX_LEN);
        self.0.advance();
        Ok(RECORD_PREFIX_LEN..end)
    }
}

impl fmt::Debug for Sealer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealer").field(&self.0.at_rest).finish()
    }
}

impl fmt::Debug for Opener<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opener").field(&self.0.at_rest).finish()
    }
}
