//! Locks whose owner died before it took its primary lock.
//!
//! A transaction locks its keys in parallel. When its client dies in between, a key may be left locked while the primary
//! lock, where everybody looks for the outcome, was never taken. TiKV answers "no such transaction" to those who look; the
//! right thing is to wait until the lock has outlived its life and then to record on the primary that the transaction is
//! rolled back. TiKV's client 0.4 means to do that and never reaches it (its issue 543: the error arrives in another
//! wrapping than the one it matches), so that the key stays unusable for ever. Only its garbage collection's way of
//! cleaning up does it right; it is used here on one key, once the lock's life is over.

use bytes::{BufMut as _, Bytes, BytesMut};
use tikv_client::transaction::ResolveLocksOptions;
use tikv_client::{Error, ProtoLockInfo, Timestamp, TimestampExt as _, TransactionClient};
use tokio::time::{Duration, sleep};

use crate::limits::{KEYS_SEARCHED_APART, LOCKS_PER_CALL, RETRY_PAUSE};

/// Where the lock is looked for.
#[derive(Debug, Clone)]
pub(crate) enum Where {
    /// On one of these keys, in order.
    Keys(Vec<Bytes>),
    /// From the first, included, to the second, excluded.
    Span(Bytes, Bytes),
}

impl Where {
    fn spans(&self) -> Vec<(Bytes, Bytes)> {
        match self {
            Self::Span(start, end) => vec![(start.clone(), end.clone())],
            Self::Keys(keys) if keys.len() <= KEYS_SEARCHED_APART => {
                keys.iter().map(|key| (key.clone(), after(key))).collect()
            }
            Self::Keys(keys) => match (keys.first(), keys.last()) {
                (Some(first), Some(last)) => vec![(first.clone(), after(last))],
                _ => Vec::new(),
            },
        }
    }
}

/// The smallest key above `key`.
fn after(key: &Bytes) -> Bytes {
    let mut after = BytesMut::with_capacity(key.len() + 1);
    after.put_slice(key);
    after.put_u8(0);
    after.freeze()
}

/// Gets the locks of the transaction that started at `started` out of the way, as far as their life is over; else waits a
/// moment, in which the owner may take its primary lock. The caller tries again afterwards, whatever came of it.
pub(crate) async fn clear(client: &TransactionClient, place: &Where, started: u64) -> Result<(), Error> {
    // One above it: whether a scan includes the locks of its own timestamp is told in two ways by those who serve it.
    let at = Timestamp::from_version(started.saturating_add(1));
    let mut alive = false;
    for (start, end) in place.spans() {
        let range = start.to_vec()..end.to_vec();
        let locks = client.scan_locks(&at, range, LOCKS_PER_CALL).await?;
        for lock in locks.iter().filter(|lock| lock.lock_version == started) {
            let now = client.current_timestamp().await?;
            if left_ms(lock, &now) > 0 {
                alive = true;
                continue;
            }
            tracing::warn!(
                started,
                "a lock without a primary has outlived its owner; it is rolled back"
            );
            let key = Bytes::copy_from_slice(&lock.key);
            let only_it = key.to_vec()..after(&key).to_vec();
            client
                .cleanup_locks(only_it, &at, ResolveLocksOptions::default())
                .await?;
        }
    }
    if alive {
        sleep(RETRY_PAUSE).await;
    } else {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Milliseconds until the lock's life is over; negative afterwards.
fn left_ms(lock: &ProtoLockInfo, now: &Timestamp) -> i64 {
    let taken = Timestamp::from_version(lock.lock_version).physical;
    let life = i64::try_from(lock.lock_ttl).unwrap_or(i64::MAX);
    // One more: a store compares whole milliseconds with "greater".
    taken
        .saturating_add(life)
        .saturating_add(1)
        .saturating_sub(now.physical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_keys_are_searched_apart_and_many_as_one_span() {
        let keys = |count: usize| {
            (0..count)
                .map(|i| Bytes::from(format!("{i:04}")))
                .collect::<Vec<_>>()
        };
        let few = Where::Keys(keys(2)).spans();
        assert_eq!(
            few,
            [
                ("0000".into(), "0000\0".into()),
                (Bytes::from("0001"), Bytes::from("0001\0"))
            ]
        );
        let many = Where::Keys(keys(KEYS_SEARCHED_APART + 1)).spans();
        assert_eq!(many, [(Bytes::from("0000"), Bytes::from("0064\0"))]);
        assert!(Where::Keys(Vec::new()).spans().is_empty());
    }

    #[test]
    fn a_lock_lives_from_the_timestamp_of_its_transaction() {
        let lock = ProtoLockInfo {
            lock_version: Timestamp {
                physical: 1_000,
                ..Timestamp::default()
            }
            .version(),
            lock_ttl: 3_000,
            ..ProtoLockInfo::default()
        };
        let at = |physical| Timestamp {
            physical,
            ..Timestamp::default()
        };
        assert!(left_ms(&lock, &at(3_999)) > 0 && left_ms(&lock, &at(4_000)) > 0);
        assert!(left_ms(&lock, &at(4_001)) <= 0);
    }
}
