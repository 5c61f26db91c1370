//! The identifiers of the system, each a type of its own, checked where it is made.
//!
//! An id that exists is valid: parsing is the only way in from outside.

use std::{fmt, str::FromStr, sync::Arc};

/// Bytes of the longest uid or device id.
pub const UID_LEN_MAX: usize = 64;
/// Bytes of the longest room id.
pub const ROOM_ID_LEN_MAX: usize = 64;
/// Bytes of the longest app key.
pub const APP_KEY_LEN_MAX: usize = 32;
/// Bytes of the longest node name.
pub const NODE_ID_LEN_MAX: usize = 64;
/// Bytes of an operation id.
pub const OPERATION_ID_LEN: usize = 16;
/// Bytes of a conversation id.
pub const CONVERSATION_ID_LEN: usize = 16;

/// Why a text or bytes are not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing where an id must be.
    #[error("{what} is empty: give 1 to {max} bytes")]
    Empty {
        /// Which id.
        what: &'static str,
        /// Its longest form, bytes.
        max: usize,
    },
    /// Longer than the kind allows.
    #[error("{what} is {len} bytes long: at most {max} are allowed")]
    TooLong {
        /// Which id.
        what: &'static str,
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not of the kind's form.
    #[error("{what} {value:?} is malformed: expected {expected}")]
    Malformed {
        /// Which id.
        what: &'static str,
        /// What was given, shortened.
        value: String,
        /// The form it must have.
        expected: &'static str,
    },
}

fn checked<'a>(what: &'static str, text: &'a str, max: usize) -> Result<&'a str, IdError> {
    match text.len() {
        0 => Err(IdError::Empty { what, max }),
        len if len > max => Err(IdError::TooLong { what, len, max }),
        _ => Ok(text),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $valid:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The checked id.
            ///
            /// # Errors
            /// When `text` is empty, too long, or has characters that the kind does not allow.
            pub fn new(text: &str) -> Result<Self, IdError> {
                let text = checked($what, text, $max)?;
                if !text.chars().all($valid) {
                    return Err(IdError::Malformed { what: $what, value: shortened(text), expected: $expected });
                }
                Ok(Self(Arc::from(text)))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_'
}

fn is_printable(c: char) -> bool {
    !c.is_control()
}

text_id!(
    /// A customer's tenant.
    AppKey, "app key", APP_KEY_LEN_MAX, is_name_char, "lower-case letters, digits, '-' and '_'"
);
text_id!(
    /// A user, as the customer names them.
    Uid, "uid", UID_LEN_MAX, is_printable, "UTF-8 without control characters"
);
text_id!(
    /// A device of a user, as the client names it.
    DeviceId, "device id", UID_LEN_MAX, is_printable, "UTF-8 without control characters"
);
text_id!(
    /// A room of an app, as the customer names it.
    RoomId, "room id", ROOM_ID_LEN_MAX, is_printable, "UTF-8 without control characters"
);
text_id!(
    /// A node of the cluster, as the operator names it.
    NodeId, "node name", NODE_ID_LEN_MAX, is_name_char, "lower-case letters, digits, '-' and '_'"
);

/// A user inside Whimbrel: never given twice, so a deleted and re-created uid gets another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u64);

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user:{:016x}", self.0)
    }
}

/// One life of a node's process: random, chosen at its start, so that what spoke of an earlier life never fits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "life:{:016x}", self.0)
    }
}

/// Follows one client request through the logs of every tier: chosen at random by the gateway that takes the request in; 0 names
/// none. It is shown as 16 hexadecimal digits everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TraceId(pub u64);

impl TraceId {
    /// Whether there is one.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Position of an entry in its conversation; dense from 1. 0 stands before the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Seq(pub u64);

/// A conversation's counter of changes to existing entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Rev(pub u64);

/// A user's counter of changes to the rows of their conversation list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct SyncVersion(pub u64);

/// Which kind of conversation an id names: its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConversationKind {
    /// Between two users; its id follows from them.
    Direct,
    /// A group; its id is random.
    Group,
}

impl ConversationKind {
    const fn tag(self) -> u8 {
        match self {
            Self::Direct => b'd',
            Self::Group => b'g',
        }
    }
}

/// A conversation: one byte `d` or `g`, then 15 bytes. As text the letter and 24 characters of lower-case base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId([u8; CONVERSATION_ID_LEN]);

const CONVERSATION_ID_FORM: &str = "'d' or 'g' and 24 characters a-z2-7 (16 bytes on the wire)";

impl ConversationId {
    /// An id of `kind` from 15 bytes: random for a group, a hash of the two users for a direct conversation.
    #[must_use]
    pub fn from_parts(kind: ConversationKind, rest: [u8; CONVERSATION_ID_LEN - 1]) -> Self {
        let mut bytes = [kind.tag(); CONVERSATION_ID_LEN];
        for (to, from) in bytes.iter_mut().skip(1).zip(rest) {
            *to = from;
        }
        Self(bytes)
    }

    /// An id as it came over the wire.
    ///
    /// # Errors
    /// When it has not 16 bytes or an unknown first one.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, IdError> {
        let malformed = || IdError::Malformed {
            what: "conversation id",
            value: data_encoding::HEXLOWER.encode(bytes.get(..20).unwrap_or(bytes)),
            expected: CONVERSATION_ID_FORM,
        };
        let bytes: [u8; CONVERSATION_ID_LEN] = bytes.try_into().map_err(|_| malformed())?;
        match bytes.first() {
            Some(b'd' | b'g') => Ok(Self(bytes)),
            _ => Err(malformed()),
        }
    }

    /// The id's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; CONVERSATION_ID_LEN] {
        &self.0
    }

    /// Direct or group.
    #[must_use]
    pub fn kind(&self) -> ConversationKind {
        match self.0 {
            [b'd', ..] => ConversationKind::Direct,
            _ => ConversationKind::Group,
        }
    }
}

fn base32_lower() -> data_encoding::Encoding {
    let mut specification = data_encoding::Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification
        .encoding()
        .expect("the alphabet is RFC 4648's, in lower case")
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, rest @ ..] = &self.0;
        write!(f, "{}{}", char::from(*kind), base32_lower().encode(rest))
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ConversationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::Malformed {
            what: "conversation id",
            value: shortened(text),
            expected: CONVERSATION_ID_FORM,
        };
        let kind = match text.chars().next() {
            Some('d') => ConversationKind::Direct,
            Some('g') => ConversationKind::Group,
            _ => return Err(malformed()),
        };
        let rest = text.get(1..).ok_or_else(malformed)?;
        let rest = base32_lower().decode(rest.as_bytes()).map_err(|_| malformed())?;
        Ok(Self::from_parts(kind, rest.try_into().map_err(|_| malformed())?))
    }
}

/// Names one mutation, chosen by the client, so that a retry is known for what it is. UUIDv7 layout (RFC 9562, 5.7):
/// the first 48 bits are unix milliseconds, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId([u8; OPERATION_ID_LEN]);

impl OperationId {
    /// A new id at `now_ms` (server-corrected) from ten random bytes.
    #[must_use]
    pub fn new(now_ms: u64, random: [u8; 10]) -> Self {
        let [_, _, time @ ..] = now_ms.to_be_bytes();
        let mut bytes = [0; OPERATION_ID_LEN];
        for (to, from) in bytes.iter_mut().zip(time.into_iter().chain(random)) {
            *to = from;
        }
        let [.., version, _, variant, _, _, _, _, _, _, _] = &mut bytes;
        *version = (*version & 0x0f) | 0x70;
        *variant = (*variant & 0x3f) | 0x80;
        Self(bytes)
    }

    /// An id as it came over the wire; any 16 bytes.
    ///
    /// # Errors
    /// When it has not 16 bytes.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, IdError> {
        let bytes = bytes.try_into().map_err(|_| IdError::Malformed {
            what: "operation id",
            value: data_encoding::HEXLOWER.encode(bytes.get(..20).unwrap_or(bytes)),
            expected: "16 bytes in the layout of UUIDv7",
        })?;
        Ok(Self(bytes))
    }

    /// Whether version and variant say UUIDv7. Ids of another layout are taken all the same, as long as their first bits are a
    /// time as they should be.
    #[must_use]
    pub fn is_uuid_v7(&self) -> bool {
        let [_, _, _, _, _, _, version, _, variant, ..] = self.0;
        version >> 4 == 0x7 && variant >> 6 == 0b10
    }

    /// The id's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; OPERATION_ID_LEN] {
        &self.0
    }

    /// When it was made, unix milliseconds, by its maker's word.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.0
            .iter()
            .take(6)
            .fold(0, |ms, byte| (ms << 8) | u64::from(*byte))
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Where a login session lives. Slots are reused: whoever holds a handle holds all parts, and all must match.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionHandle {
    /// The gateway.
    pub gateway: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Which of its reactors.
    pub reactor: u16,
    /// Which slot there.
    pub slot: u32,
    /// Which use of the slot.
    pub generation: u32,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn conversation_ids_survive_text_and_wire() {
        let id = ConversationId::from_parts(ConversationKind::Group, [0xA7; 15]);
        assert_eq!(id.to_string().len(), 25);
        assert_eq!(id.to_string().parse::<ConversationId>().unwrap(), id);
        assert_eq!(ConversationId::from_wire(id.as_bytes()).unwrap(), id);
        assert_eq!(id.kind(), ConversationKind::Group);
    }

    #[test]
    fn malformed_conversation_ids_are_named() {
        for text in [
            "",
            "x",
            "d",
            "dAAAAAAAAAAAAAAAAAAAAAAAA",
            "gaaaaaaaaaaaaaaaaaaaaaaa",
            "é",
        ] {
            let error = text.parse::<ConversationId>().unwrap_err().to_string();
            assert!(error.contains("conversation id"), "{error}");
        }
        assert!(ConversationId::from_wire(&[b'x'; 16]).is_err());
        assert!(ConversationId::from_wire(&[b'd'; 17]).is_err());
    }

    #[test]
    fn operation_ids_carry_their_time_in_uuid_v7_layout() {
        let id = OperationId::new(0x0190_1234_5678, [0xFF; 10]);
        assert_eq!(id.time_ms(), 0x0190_1234_5678);
        assert_eq!(id.as_bytes()[6] >> 4, 7);
        assert_eq!(id.as_bytes()[8] >> 6, 0b10);
        assert!(id.is_uuid_v7());
        for (place, byte) in [(6, 0x4f), (8, 0xff), (8, 0x3f)] {
            let mut other = *id.as_bytes();
            other[place] = byte;
            assert!(!OperationId::from_wire(&other).unwrap().is_uuid_v7());
        }
    }

    #[test]
    fn uids_are_bounded_in_bytes_not_characters() {
        assert!(Uid::new(&"x".repeat(64)).is_ok());
        assert!(matches!(
            Uid::new(&"é".repeat(33)),
            Err(IdError::TooLong { len: 66, .. })
        ));
        assert!(Uid::new("").is_err());
        assert!(Uid::new("a\nb").is_err());
        assert!(AppKey::new("Demo").is_err());
    }
}
