//! How entries look inside Redis. Pure.
//!
//! A session is `term epoch handle record`: 16 hexadecimal digits, 20 decimal ones, and the handle as text stand in front so that
//! scripts can compare them; the record is the message with everything in it. A room's number on a gateway is `term count`.

use prost::Message as _;
use whimbrel_protocol::cluster::{SessionHandle, SessionRecord};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::validity::Life;

use crate::keys::life_text;

/// One unbroken lease (or grace) of a life of a node. What hangs on it ends with it, and a later lease of the same life is
/// another term: so an entry that has ended never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Term(pub(crate) u64);

impl Term {
    pub(crate) fn text(self) -> String {
        format!("{:016x}", self.0)
    }

    pub(crate) fn of_text(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

/// A session as it was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) term: Term,
    pub(crate) life: Life,
    pub(crate) record: SessionRecord,
}

/// A login epoch so that texts compare as the numbers do, whatever language the server's machine speaks.
pub(crate) fn epoch_text(epoch: u64) -> String {
    format!("{epoch:020}")
}

/// A handle; it begins with its life and a `/`.
pub(crate) fn handle_text(life: &Life, handle: &SessionHandle) -> String {
    format!(
        "{}/{}/{}/{}",
        life_text(life),
        handle.reactor,
        handle.slot,
        handle.generation
    )
}

/// Reads a session's value; `None` is something that this version never wrote.
pub(crate) fn session(value: &[u8]) -> Option<Found> {
    let mut parts = value.splitn(4, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let term = Term::of_text(text()?)?;
    let login_epoch = text()?.parse().ok()?;
    text()?;
    let record = SessionRecord::decode(parts.next()?).ok()?;
    let handle = record.session.as_ref()?;
    let life = (
        NodeId::new(&handle.gateway).ok()?,
        Incarnation(handle.incarnation),
    );
    Some(Found {
        term,
        life,
        // The same handle may have been given a higher epoch since.
        record: SessionRecord {
            login_epoch,
            ..record
        },
    })
}

/// Reads a room's number on a gateway.
pub(crate) fn members(value: &[u8]) -> Option<(Term, u32)> {
    let (term, count) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((Term::of_text(term)?, count.parse().ok()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_registry::conformance;

    use super::*;

    #[test]
    fn a_session_is_read_as_it_was_written_with_the_epoch_in_front() {
        let record = conformance::session(("g1", 7), 3, 9, "a phone", 5);
        let life = (NodeId::new("g1").unwrap(), Incarnation(7));
        let handle = handle_text(&life, record.session.as_ref().unwrap());
        assert_eq!(handle, "g1/0000000000000007/0/3/1");
        let front = format!("{} {} {handle} ", Term(0xab).text(), epoch_text(6));
        let value = [front.as_bytes(), &record.encode_to_vec()].concat();
        let found = session(&value).unwrap();
        assert_eq!((found.term, found.life), (Term(0xab), life));
        assert_eq!(
            found.record,
            SessionRecord {
                login_epoch: 6,
                ..record
            }
        );
    }

    #[test]
    fn epochs_compare_as_texts() {
        for (lower, higher) in [(0, 1), (9, 10), (u64::MAX - 1, u64::MAX)] {
            assert!(epoch_text(lower) < epoch_text(higher));
        }
    }

    #[test]
    fn what_nobody_wrote_is_nothing() {
        for value in ["", "x", "00 1 a/1/1/1/1 ", "00000000000000ab 5 g1"] {
            assert_eq!(session(value.as_bytes()), None, "{value}");
        }
        assert_eq!(members(b"00000000000000ab 12"), Some((Term(0xab), 12)));
        assert_eq!(members(b"12"), None);
    }
}
