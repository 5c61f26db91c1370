//! What a message of a run says: which run and device it is from, its number, and when it was to be sent.
//!
//! Thirty-two characters, then filler up to the payload's length. In a conversation its name stands before them, so that a
//! message that turns up in another one is known for what it is. The receiver takes latency from the moment the *schedule*
//! meant, so that waiting in a generator that a stalled server holds up is seen. Pure.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use whimbrel_protocol::ids::ConversationId;

use crate::check::Text;

/// Bytes of a stamp, and so the shortest payload to a room.
pub const STAMP_LEN: usize = 32;

/// Bytes of a stamp with its conversation before it, and so the shortest payload in one.
pub const STAMP_IN_LEN: usize = 26 + STAMP_LEN;

const FILLER: u8 = b'.';

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Drawn at random for each run, so that what an earlier run left is not taken for this one's.
    pub run: u32,
    /// The sender's user number.
    pub sender: u32,
    /// Counts the sender's messages, from 1.
    pub order: u64,
    /// When it was to be sent, monotonic.
    pub scheduled: Duration,
}

impl Stamp {
    /// The message, `len` bytes long, or a stamp's length if that is more.
    #[must_use]
    pub fn to_text(self, len: usize) -> String {
        let mut bytes = Vec::with_capacity(24);
        bytes.extend_from_slice(&self.run.to_be_bytes());
        bytes.extend_from_slice(&self.sender.to_be_bytes());
        bytes.extend_from_slice(&self.order.to_be_bytes());
        let nanoseconds = u64::try_from(self.scheduled.as_nanos()).unwrap_or(u64::MAX);
        bytes.extend_from_slice(&nanoseconds.to_be_bytes());
        let mut text = String::with_capacity(len.max(STAMP_LEN));
        BASE64URL_NOPAD.encode_append(&bytes, &mut text);
        text.extend(std::iter::repeat_n(
            char::from(FILLER),
            len.saturating_sub(STAMP_LEN),
        ));
        text
    }

    /// The message for a conversation, `len` bytes long, or as long as its name and a stamp if that is more.
    #[must_use]
    pub fn to_text_in(self, conversation: ConversationId, len: usize) -> String {
        let mut text = Text::begin(conversation);
        let stamped = self.to_text(len.saturating_sub(text.len()));
        text.push_str(&stamped);
        text
    }

    /// Reads a message of a conversation back, whichever it names; `None` when it is not a run's.
    #[must_use]
    pub fn of_text_in(text: &str) -> Option<Self> {
        let (_, stamped) = text.split_once(' ')?;
        Self::of_text(stamped)
    }

    /// Reads a message back; `None` when it is not a run's.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        let mut bytes = [0; 24];
        let stamp = text.as_bytes().get(..STAMP_LEN)?;
        BASE64URL_NOPAD.decode_mut(stamp, &mut bytes).ok()?;
        let [run, sender, order, nanoseconds] = [0..4, 4..8, 8..16, 16..24].map(|range| {
            let field = bytes.get(range).unwrap_or_default();
            field
                .iter()
                .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte))
        });
        Some(Self {
            run: u32::try_from(run).ok()?,
            sender: u32::try_from(sender).ok()?,
            order,
            scheduled: Duration::from_nanos(nanoseconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_protocol::ids::ConversationKind;

    use super::*;

    #[test]
    fn a_message_says_what_was_put_into_it_at_any_length() {
        let stamp = Stamp {
            run: 0xdead_beef,
            sender: 60_000,
            order: 7,
            scheduled: Duration::from_nanos(123_456_789_012_345),
        };
        for (len, expected) in [(0, 32), (32, 32), (33, 33), (1_000, 1_000)] {
            let text = stamp.to_text(len);
            assert_eq!(text.len(), expected);
            assert_eq!(Stamp::of_text(&text), Some(stamp));
        }
    }

    #[test]
    fn a_message_in_a_conversation_names_it() {
        let stamp = Stamp {
            run: 1,
            sender: 2,
            order: 3,
            scheduled: Duration::from_millis(4),
        };
        let id = ConversationId::from_parts(ConversationKind::Group, [7; 15]);
        for (len, expected) in [(0, STAMP_IN_LEN), (STAMP_IN_LEN, STAMP_IN_LEN), (100, 100)] {
            let text = stamp.to_text_in(id, len);
            assert_eq!(text.len(), expected);
            assert_eq!(Text::conversation(&text), Some(id));
            assert_eq!(Stamp::of_text_in(&text), Some(stamp));
        }
    }

    #[test]
    fn what_people_write_is_no_stamp() {
        for text in [
            "",
            "hello",
            "thirty-two characters and spaces, é",
            "....................................",
        ] {
            assert_eq!(Stamp::of_text(text), None, "{text}");
        }
    }
}
