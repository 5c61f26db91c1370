//! How values are stored: one byte of schema version, then a prost message of `proto/storage.proto`.
//!
//! Version N+1 reads what N wrote. A version is bumped only when a field's meaning changes; fields that are merely added
//! need none. New versions are written only once every node reads them.
//!
//! | version | since | |
//! |---|---|---|
//! | 1 | 0.1 | the first |

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

/// The schema version that is written.
const WRITTEN_VERSION: u8 = 1;

/// The schema of a whole store, keys and values: what backups are marked with, and the newest that can be restored. It grows with
/// the version of any value and with any change of where keys lie. One line per bump:
/// 1: the first.
pub const SCHEMA: u32 = 1;

/// The stored messages, generated from `proto/storage.proto`.
#[expect(missing_docs, reason = "generated")]
pub mod storage {
    include!("generated/whimbrel.storage.v1.rs");
}

/// A stored value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a byte of it.
    #[error("a stored {what} is empty: expected a version byte and a message")]
    Empty {
        /// Which kind of value.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "a stored {what} has schema version {version}, this program reads {WRITTEN_VERSION}: run the version that wrote it"
    )]
    Version {
        /// Which kind of value.
        what: &'static str,
        /// The version found.
        version: u8,
    },
    /// Not the message it should be.
    #[error(
        "a stored {what} of {len} bytes does not parse ({source}): the store is damaged, restore it from a backup"
    )]
    Malformed {
        /// Which kind of value.
        what: &'static str,
        /// Bytes found.
        len: usize,
        /// What the decoder says.
        source: prost::DecodeError,
    },
    /// A uid that could not have been stored.
    #[error("a stored uid of {len} bytes is none: the store is damaged, restore it from a backup")]
    Uid {
        /// Bytes found.
        len: usize,
    },
}

/// `message` as it is stored.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(WRITTEN_VERSION);
    message
        .encode(&mut bytes)
        .expect("a BytesMut grows as it is written");
    bytes.freeze()
}

/// The message that `bytes` store. Its own `bytes` fields share them.
///
/// # Errors
/// When they are empty, of a newer version, or do not parse.
pub fn decode<M: Message + Default>(bytes: &Bytes) -> Result<M, ValueError> {
    let what = std::any::type_name::<M>().rsplit("::").next().unwrap_or("value");
    match bytes.first() {
        None => Err(ValueError::Empty { what }),
        Some(&WRITTEN_VERSION) => M::decode(bytes.slice(1..)).map_err(|source| ValueError::Malformed {
            what,
            len: bytes.len(),
            source,
        }),
        Some(&version) => Err(ValueError::Version { what, version }),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn values_survive_storing_and_are_never_empty() {
        let head = storage::Head {
            seq: 7,
            name: "team".into(),
            ..Default::default()
        };
        assert_eq!(decode::<storage::Head>(&encode(&head)).unwrap(), head);
        assert_eq!(encode(&storage::Head::default()).len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |bytes: &'static [u8]| {
            decode::<storage::Head>(&Bytes::from_static(bytes))
                .unwrap_err()
                .to_string()
        };
        assert!(error(b"").contains("Head is empty"));
        assert!(error(b"\x02").contains("version 2"));
        assert!(error(b"\x01\xff").contains("does not parse"));
    }
}
