//! Keys as people see them: a prefix that says what the key is, then lowercase base32 (RFC 4648, no padding) of the
//! key's 32 bytes and a checksum of three, 56 letters in all.
//!
//! The checksum is the start of the SHA-256 of prefix and key: a letter lost in copying, or a key of another kind, is
//! told at once instead of as a signature that fails later.

use aws_lc_rs::digest;
use data_encoding::{Encoding, Specification};
use zeroize::Zeroize as _;

use crate::keys::KEY_LEN;

const CHECKSUM_LEN: usize = 3;
const TEXT_LEN: usize = 56;

/// Why a text is not the key that was expected. Secrets are not repeated in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// It does not start as such a key does.
    #[error(
        "the text is not {what}: it should start with `{prefix}`; copy the whole line `whimbrel keygen` printed"
    )]
    WrongPrefix {
        /// What was expected.
        what: &'static str,
        /// How it starts.
        prefix: &'static str,
    },
    /// Letters are missing or too many.
    #[error("{what} has {TEXT_LEN} letters after `{prefix}`, this has {found}: copy it again, whole")]
    WrongLength {
        /// What was expected.
        what: &'static str,
        /// How it starts.
        prefix: &'static str,
        /// How many follow.
        found: usize,
    },
    /// A letter that base32 does not have.
    #[error(
        "{what} is written in a to z and 2 to 7 after `{prefix}`, letter {position} is another: copy it again"
    )]
    WrongLetter {
        /// What was expected.
        what: &'static str,
        /// How it starts.
        prefix: &'static str,
        /// Which letter after the prefix, from 1.
        position: usize,
    },
    /// Well-formed, but not what was written.
    #[error("the checksum of {what} does not fit: a letter was changed in copying; copy it again")]
    WrongChecksum {
        /// What was expected.
        what: &'static str,
    },
}

pub(super) fn to_text(prefix: &str, key: &[u8; KEY_LEN]) -> String {
    let mut bytes = [key.as_slice(), &checksum(prefix, key)].concat();
    let text = format!("{prefix}{}", base32().encode(&bytes));
    bytes.zeroize();
    text
}

pub(super) fn from_text(
    prefix: &'static str,
    what: &'static str,
    text: &str,
) -> Result<[u8; KEY_LEN], KeyTextError> {
    let letters = text
        .trim()
        .strip_prefix(prefix)
        .ok_or(KeyTextError::WrongPrefix { what, prefix })?;
    if let Some(at) = letters
        .bytes()
        .position(|byte| !matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
    {
        return Err(KeyTextError::WrongLetter {
            what,
            prefix,
            position: at.saturating_add(1),
        });
    }
    if letters.len() != TEXT_LEN {
        return Err(KeyTextError::WrongLength {
            what,
            prefix,
            found: letters.len(),
        });
    }
    let wrong_checksum = KeyTextError::WrongChecksum { what };
    let mut bytes = base32()
        .decode(letters.as_bytes())
        .map_err(|_| wrong_checksum.clone())?;
    let key = bytes
        .split_first_chunk::<KEY_LEN>()
        .filter(|(key, found)| *found == checksum(prefix, key))
        .map(|(key, _)| *key);
    bytes.zeroize();
    key.ok_or(wrong_checksum)
}

fn checksum(prefix: &str, key: &[u8; KEY_LEN]) -> [u8; CHECKSUM_LEN] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(prefix.as_bytes());
    context.update(key);
    *context
        .finish()
        .as_ref()
        .first_chunk()
        .expect("SHA-256 has 32 bytes")
}

fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification
        .encoding()
        .expect("thirty-two distinct letters are a base32 alphabet")
}
