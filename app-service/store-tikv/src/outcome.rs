//! What an error of TiKV's client proves. Pure.
//!
//! A failed commit is over only when it is proven never to happen: it met a newer write, an existing key, or a lock that
//! would not go. All of these are found while locks are taken, before anything is committed. Everything else, a lost reply
//! above all, may hide a commit; to roll it back would tear it.

use bytes::Bytes;
use tikv_client::{Error, ProtoKeyError};

/// What is known after an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Aborted: these keys were written by others since, or exist already.
    Conflict(Vec<Bytes>),
    /// Others' locks stand in the way: on these keys, which are their primaries or what was asked for. They are not named where
    /// a primary lock is nowhere: the owner died before it took that, or has not come that far.
    Locked(Vec<Bytes>),
    /// Nothing is proven.
    Unknown,
}

/// What `error` proves of the call that gave it.
pub(crate) fn judge(error: &Error) -> Verdict {
    let mut seen = Seen::default();
    seen.take(error);
    if seen.unproven {
        return Verdict::Unknown;
    }
    if !seen.conflicts.is_empty() {
        return Verdict::Conflict(seen.conflicts);
    }
    if seen.locked {
        return Verdict::Locked(seen.locks);
    }
    Verdict::Unknown
}

#[derive(Default)]
struct Seen {
    conflicts: Vec<Bytes>,
    locked: bool,
    locks: Vec<Bytes>,
    unproven: bool,
}

impl Seen {
    fn take(&mut self, error: &Error) {
        match error {
            Error::ExtractedErrors(errors) | Error::MultipleKeyErrors(errors) => {
                errors.iter().for_each(|error| self.take(error));
            }
            Error::KeyError(error) => self.take_key_error(error),
            Error::ResolveLockError(locks) => {
                self.locked = true;
                locks.iter().for_each(|lock| self.take_lock(&lock.key));
            }
            Error::TxnNotFound(_) => self.locked = true,
            _ => self.unproven = true,
        }
    }

    fn take_key_error(&mut self, error: &ProtoKeyError) {
        if let Some(conflict) = &error.conflict {
            self.conflicts.push(Bytes::copy_from_slice(&conflict.key));
        } else if let Some(existing) = &error.already_exist {
            self.conflicts.push(Bytes::copy_from_slice(&existing.key));
        } else if error.txn_not_found.is_some() {
            self.locked = true;
        } else if let Some(lock) = &error.locked {
            self.locked = true;
            self.take_lock(&lock.key);
        } else {
            self.unproven = true;
        }
    }

    /// Who looks for a transaction at its primary may learn of its lock and not of its key.
    fn take_lock(&mut self, key: &[u8]) {
        if !key.is_empty() {
            self.locks.push(Bytes::copy_from_slice(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_error(fill: impl FnOnce(&mut ProtoKeyError)) -> Error {
        let mut error = ProtoKeyError::default();
        fill(&mut error);
        Error::KeyError(Box::new(error))
    }

    fn conflict(key: &'static str) -> Error {
        key_error(|e| e.conflict.get_or_insert_default().key = key.into())
    }

    fn exists(key: &'static str) -> Error {
        key_error(|e| e.already_exist.get_or_insert_default().key = key.into())
    }

    fn orphan() -> Error {
        key_error(|e| e.txn_not_found.get_or_insert_default().start_ts = 3)
    }

    #[test]
    fn conflicts_and_existing_keys_are_proven_aborts_however_they_are_wrapped() {
        let nested = Error::ExtractedErrors(vec![Error::MultipleKeyErrors(vec![conflict("a"), exists("b")])]);
        assert_eq!(judge(&nested), Verdict::Conflict(vec!["a".into(), "b".into()]));
        assert_eq!(judge(&conflict("a")), Verdict::Conflict(vec!["a".into()]));
    }

    #[test]
    fn a_conflict_beside_a_lock_is_a_conflict() {
        let both =
            Error::MultipleKeyErrors(vec![orphan(), conflict("a"), Error::ResolveLockError(Vec::new())]);
        assert_eq!(judge(&both), Verdict::Conflict(vec!["a".into()]));
    }

    #[test]
    fn a_lock_is_one_with_its_primary_and_without() {
        let wrapped = Error::MultipleKeyErrors(vec![orphan()]);
        assert_eq!(judge(&wrapped), Verdict::Locked(Vec::new()));
        assert_eq!(
            judge(&Error::ResolveLockError(Vec::new())),
            Verdict::Locked(Vec::new())
        );
    }

    #[test]
    fn of_a_lock_whose_key_is_not_told_none_is_named() {
        let lock = |key: &str| tikv_client::ProtoLockInfo {
            key: key.into(),
            ..tikv_client::ProtoLockInfo::default()
        };
        let both = Error::ResolveLockError(vec![lock(""), lock("a")]);
        assert_eq!(judge(&both), Verdict::Locked(vec!["a".into()]));
    }

    #[test]
    fn one_unproven_error_makes_all_of_it_unknown() {
        let lost = || Error::StringError("the reply was lost".to_owned());
        for error in [
            lost(),
            Error::MultipleKeyErrors(vec![conflict("a"), lost()]),
            Error::UndeterminedError(Box::new(conflict("a"))),
            key_error(|e| e.retryable = "TxnLockNotFound".to_owned()),
            key_error(|e| e.abort = "?".to_owned()),
            Error::ExtractedErrors(Vec::new()),
        ] {
            assert_eq!(judge(&error), Verdict::Unknown, "{error}");
        }
    }
}
