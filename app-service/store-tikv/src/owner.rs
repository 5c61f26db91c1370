//! The record that tells deployments of one name apart: whose the store is. Pure.
//!
//! It has a key of its own beside the [`Identity`](crate::identity::Identity), which builds of before can read therefore. It is
//! compared when a store is opened and not again: whoever serves from a store that somebody else takes over then goes on until
//! it is started again.

use crate::identity::Misfit;

/// The first byte of the record. Who changes what follows it moves [`SCHEMA_VERSION`](crate::SCHEMA_VERSION) too, so that an older
/// build names what it does not understand.
const OWNER_VERSION: u8 = 1;

/// What is kept under the store's own key `owner`: `version u8 | owner`.
pub(crate) fn encode(owner: &str) -> Vec<u8> {
    [&[OWNER_VERSION], owner.as_bytes()].concat()
}

fn decode(bytes: &[u8]) -> Result<&str, Misfit> {
    match bytes.split_first() {
        Some((&OWNER_VERSION, owner)) => std::str::from_utf8(owner).map_err(|_| Misfit::Damaged),
        _ => Err(Misfit::Damaged),
    }
}

/// What becomes of the record when a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owned {
    /// It stays as it is.
    AsItIs,
    /// The store is nobody's: it becomes ours.
    First,
    /// It is taken over from this owner.
    Adopt {
        /// Whose it was.
        from: String,
    },
}

/// Whether a node of `ours` may open a store with this record, or none, and what is to be written first. Who does not say whose
/// they are may, and leave it as it is.
///
/// # Errors
/// [`Misfit::OtherOwner`], or [`Misfit::Damaged`].
pub(crate) fn judge(kept: Option<&[u8]>, ours: Option<&str>, adopt: Option<&str>) -> Result<Owned, Misfit> {
    let Some(ours) = ours else {
        return Ok(Owned::AsItIs);
    };
    let Some(kept) = kept else {
        return Ok(Owned::First);
    };
    let kept = decode(kept)?;
    if kept == ours {
        return Ok(Owned::AsItIs);
    }
    let kept = kept.to_owned();
    if adopt == Some(&*kept) {
        return Ok(Owned::Adopt { from: kept });
    }
    Err(Misfit::OtherOwner {
        kept,
        ours: ours.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_nobody_becomes_ours_and_stays_it() {
        assert_eq!(judge(None, Some("us"), None), Ok(Owned::First));
        assert_eq!(judge(None, Some("us"), Some("them")), Ok(Owned::First));
        assert_eq!(judge(Some(b"\x01us"), Some("us"), None), Ok(Owned::AsItIs));
        assert_eq!(encode("us"), b"\x01us");
    }

    #[test]
    fn anothers_store_is_taken_over_only_by_the_others_name() {
        let kept = encode("them");
        for adopt in [None, Some(""), Some("us"), Some("the")] {
            let misfit = Misfit::OtherOwner {
                kept: "them".to_owned(),
                ours: "us".to_owned(),
            };
            assert_eq!(judge(Some(&kept), Some("us"), adopt), Err(misfit), "{adopt:?}");
        }
        let from = "them".to_owned();
        assert_eq!(
            judge(Some(&kept), Some("us"), Some("them")),
            Ok(Owned::Adopt { from })
        );
    }

    #[test]
    fn who_does_not_say_whose_they_are_changes_nothing() {
        for kept in [None, Some(&b"\x01them"[..])] {
            assert_eq!(judge(kept, None, Some("them")), Ok(Owned::AsItIs));
        }
    }

    #[test]
    fn what_nobody_wrote_is_damaged() {
        for kept in [&b""[..], b"\x02us", b"\x01\xff"] {
            assert_eq!(
                judge(Some(kept), Some("us"), None),
                Err(Misfit::Damaged),
                "{kept:?}"
            );
        }
    }
}
