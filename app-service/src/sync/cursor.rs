//! The opaque mark of how far a device has followed its user's conversation list.
//!
//! 17 bytes: a format byte, the sync version (big-endian), and 8 bytes of SHA-256 over the store's epoch, the user and
//! the version. The check binds a cursor to one store, one user and one version, so that one from before a restore, of
//! another user, or damaged on its way is known for foreign, and a full resync heals all of these. It is no secret
//! and guards nothing: whoever forges a cursor only syncs their own rows from another place.

use aws_lc_rs::digest;
use bytes::{BufMut as _, Bytes, BytesMut};
use whimbrel_protocol::ids::{AppKey, SyncVersion, UserId};
use whimbrel_store::Epoch;

const FORMAT: u8 = 1;
const CHECK_LEN: usize = 8;
const CURSOR_LEN: usize = 1 + 8 + CHECK_LEN;
const DOMAIN: &[u8] = b"whimbrel cursor 1\0";

/// What a cursor that a client sent means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// None yet: a new device.
    Start,
    /// Everything up to this version is known.
    At(SyncVersion),
    /// Of another store, another user, or damaged: all must be read again.
    Foreign,
}

/// The cursor of a user at a version.
#[must_use]
pub fn encode(epoch: Epoch, app: &AppKey, user: UserId, version: SyncVersion) -> Bytes {
    let mut bytes = BytesMut::with_capacity(CURSOR_LEN);
    bytes.put_u8(FORMAT);
    bytes.put_u64(version.0);
    bytes.put_slice(&check(epoch, app, user, version));
    bytes.freeze()
}

/// Reads a cursor that a client sent.
#[must_use]
pub fn decode(epoch: Epoch, app: &AppKey, user: UserId, cursor: &[u8]) -> Cursor {
    let (format, version, given) = match cursor {
        [] => return Cursor::Start,
        [format, rest @ ..] => match rest.split_first_chunk::<8>() {
            Some((version, given)) => (*format, SyncVersion(u64::from_be_bytes(*version)), given),
            None => return Cursor::Foreign,
        },
    };
    if format == FORMAT && given == check(epoch, app, user, version) {
        Cursor::At(version)
    } else {
        Cursor::Foreign
    }
}

fn check(epoch: Epoch, app: &AppKey, user: UserId, version: SyncVersion) -> [u8; CHECK_LEN] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(DOMAIN);
    context.update(&epoch.0);
    context.update(&user.0.to_be_bytes());
    context.update(&version.0.to_be_bytes());
    // Last, because its length varies.
    context.update(app.as_str().as_bytes());
    let digest = context.finish();
    let mut check = [0; CHECK_LEN];
    for (to, from) in check.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    check
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn app(text: &str) -> AppKey {
        AppKey::new(text).unwrap()
    }

    proptest! {
        #[test]
        fn a_cursor_means_what_it_was_made_for(epoch: [u8; 16], user: u64, version: u64) {
            let cursor = encode(Epoch(epoch), &app("demo"), UserId(user), SyncVersion(version));
            prop_assert_eq!(cursor.len(), CURSOR_LEN);
            let read = decode(Epoch(epoch), &app("demo"), UserId(user), &cursor);
            prop_assert_eq!(read, Cursor::At(SyncVersion(version)));
        }

        #[test]
        fn another_store_user_or_app_and_any_damage_make_it_foreign(
            epoch: [u8; 16], other_epoch: [u8; 16], user: u64, version: u64, at in 0..CURSOR_LEN, flip in 1_u8..,
        ) {
            let cursor = encode(Epoch(epoch), &app("demo"), UserId(user), SyncVersion(version));
            prop_assume!(epoch != other_epoch);
            let foreign = [
                decode(Epoch(other_epoch), &app("demo"), UserId(user), &cursor),
                decode(Epoch(epoch), &app("demo2"), UserId(user), &cursor),
                decode(Epoch(epoch), &app("demo"), UserId(user ^ 1), &cursor),
                decode(Epoch(epoch), &app("demo"), UserId(user), &cursor[..at.max(1)]),
            ];
            prop_assert!(foreign.iter().all(|read| *read == Cursor::Foreign));
            let mut damaged = cursor.to_vec();
            damaged[at] ^= flip;
            prop_assert_eq!(decode(Epoch(epoch), &app("demo"), UserId(user), &damaged), Cursor::Foreign);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let read = decode(Epoch([1; 16]), &app("demo"), UserId(1), &bytes);
            prop_assert!(bytes.is_empty() || read == Cursor::Foreign);
        }
    }
}
