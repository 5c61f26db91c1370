//! Locks that stand for longer than commits take: whoever meets one pushes it out of the way.
//!
//! A commit locks its keys, asks for a timestamp, and commits its primary; then the rest follows. Between the first and the last
//! of that its owner may die, and TiKV's client waits for the locks' whole life, three seconds at the least. If the owner died
//! before it took the primary lock, where everybody looks for the outcome, TiKV's client 0.4 means to record there that the
//! transaction is rolled back and never does (its issue 543: the error arrives in another wrapping than the one it matches), so
//! that the key stays unusable for ever. Its garbage collection's way of cleaning up does both right, and at any time; here it
//! is used on one key, for a transaction whose lock is older than the patience of [`crate::pace`].
//!
//! Only whom TiKV's client has told of a lock looks for it, holds no locks of its own meanwhile, and asks for the very keys that
//! were named, else for its own, one by one. All of a store's looks together are few, see
//! [`LOOKS_AT_ONCE`](crate::limits::LOOKS_AT_ONCE), and whoever waits spends at most half of the time looking. A cluster that is
//! merely slow is asked nothing more.
//!
//! # Why that is safe at any time
//! Whether a transaction is committed is told by its primary key alone: by a record of its commit or one of its rollback, and
//! within [`HISTORY_MIN`](crate::limits::HISTORY_MIN) after one of them the other never comes. The store puts either there in one
//! step. Who pushes asks it, in one step too, to look: a commit is there, then the transaction's other locks are committed; a
//! lock, it becomes a rollback; nothing, a rollback is left all the same. A lock's life has no part in this: it only tells
//! clients when to do it. So of an owner that lives
//!
//! - who has not locked all of its keys yet: the primary's lock is refused when it comes, and without it the owner commits
//!   nothing. Other keys that it locks later are found rolled back at the primary. TiKV refuses with a conflict; the store that
//!   stands in for it in tests with an error that proves nothing, so that there the owner's commit is unknown and its locks stay;
//! - who stands still between its locks and its commit, or whose commit is on its way: the commit arrives before the push and
//!   the push finds it, or after it, and the store refuses it for want of a lock. The owner takes that for
//!   [`Unknown`](whimbrel_store::Commit::Unknown), and whoever looks finds nothing of it, now and later;
//! - who has committed its primary: nothing is undone, the other keys are committed with the same timestamp.
//!
//! The owner says committed only when the store has said so of its primary. Readers see none of it or all of it, as before: they
//! too learn of it at the primary. A key of an [`Unknown`](whimbrel_store::Commit::Unknown) batch that shows neither its value
//! nor a lock stays so.
//!
//! Garbage collection takes the record of a rollback in the end. An owner that slept for longer than all history that is kept,
//! with a request to lock its primary in a buffer, could then lock again; none sends anything after a sleep of that length
//! unless its clock slept too, as a paused machine's may.
//!
//! # Why not at once
//! Whoever is pushed out starts again. Locks of the living are gone in milliseconds; to push them out before would have two
//! who want one key push each other out for as long as they try. What is pushed out is so old that its owner is most likely
//! dead, measured by what commits and calls take at the moment; larger batches, whose locks live longer, have as much longer
//! here; who waits for others' locks while holding its own gives up sooner than that (`pool`); and owners come back after a
//! pause of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{StreamExt as _, TryStreamExt as _, iter};
use tikv_client::transaction::ResolveLocksOptions;
use tikv_client::{Error, ProtoLockInfo, Timestamp, TimestampExt as _, TransactionClient};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::limits::{
    CALL_TIME_MAX, CALLS_AT_ONCE, LOCK_LIFE, LOCKS_PER_CALL, LOOK_PAUSE_MAX, LOOK_PAUSE_MIN,
    PATIENCE_IN_CALLS, PATIENCE_MAX, PATIENCE_MIN,
};
use crate::shared::Shared;

/// Where locks are looked for.
#[derive(Debug, Clone)]
pub(crate) enum Where {
    /// On these keys.
    Keys(Vec<Bytes>),
    /// From the first, included, to the second, excluded.
    Span(Bytes, Bytes),
}

impl Where {
    /// On the keys that TiKV's client has named; here if it named none.
    pub(crate) fn or_named(&self, named: Vec<Bytes>) -> Self {
        if named.is_empty() {
            return self.clone();
        }
        Self::Keys(named)
    }

    fn spans(&self) -> Vec<(Bytes, Bytes)> {
        match self {
            Self::Span(start, end) => vec![(start.clone(), end.clone())],
            Self::Keys(keys) => keys.iter().map(|key| (key.clone(), after(key))).collect(),
        }
    }
}

/// The smallest key above `key`.
fn after(key: &[u8]) -> Bytes {
    let mut after = BytesMut::with_capacity(key.len() + 1);
    after.put_slice(key);
    after.put_u8(0);
    after.freeze()
}

/// Whose locks stand in the way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose {
    /// Of a read at this version: those of transactions that started no later.
    Before(u64),
    /// Of a commit that started then: everybody else's.
    Others(u64),
}

/// For whoever was told of locks in its way: waits until those at `place` are gone or overdue, and pushes these out of the way;
/// no longer than the patience and a little, nor than `until`. Whether it is worth trying again at once.
pub(crate) async fn clear_the_way(shared: &Shared, place: Where, whose: Whose, until: Instant) -> bool {
    let until = until.min(Instant::now() + shared.patience() + LOOK_PAUSE_MAX);
    timeout_at(until, clear(shared, place, whose))
        .await
        .unwrap_or(false)
}

async fn clear(shared: &Shared, mut place: Where, whose: Whose) -> bool {
    let mut seen_one = false;
    let mut pause = LOOK_PAUSE_MIN;
    loop {
        let turn = shared.looks.acquire().await;
        let begins = Instant::now();
        let pushing = Pushing {
            client: shared.pool.pick(),
            counter: Arc::clone(&shared.pushed_out),
        };
        let looked = timeout(CALL_TIME_MAX, look(&pushing, &place, whose, shared.patience())).await;
        drop(turn);
        let mut wait = pause;
        match looked {
            Ok(Ok(Seen::Nothing)) => return seen_one,
            Ok(Ok(Seen::PushedOut)) => return true,
            Ok(Ok(Seen::Standing { keys, overdue_in })) => {
                seen_one = true;
                place = Where::Keys(keys);
                wait = wait.min(overdue_in);
            }
            Ok(Err(error)) => tracing::debug!(%error, "what stands in the way could not be looked at"),
            Err(_) => tracing::debug!("what stands in the way could not be looked at in time"),
        }
        let now = Instant::now();
        sleep_until(now + wait.max(now - begins)).await;
        pause = (2 * pause).min(LOOK_PAUSE_MAX);
    }
}

/// What pushing takes.
#[derive(Clone)]
struct Pushing {
    client: TransactionClient,
    /// Counts transactions that were pushed out.
    counter: Arc<AtomicU64>,
}

/// Pushes what is overdue off these keys, once, before the store is open.
pub(crate) async fn clear_before_opening(client: &TransactionClient, keys: &[Bytes]) -> Result<(), Error> {
    let place = Where::Keys(keys.to_vec());
    let pushing = Pushing {
        client: client.clone(),
        counter: Arc::default(),
    };
    look(&pushing, &place, Whose::Before(u64::MAX), PATIENCE_MIN).await?;
    Ok(())
}

/// What one look came to.
enum Seen {
    Nothing,
    PushedOut,
    /// One lock on each of these keys, the first of which is overdue then.
    Standing {
        keys: Vec<Bytes>,
        overdue_in: Duration,
    },
}

/// Looks at what stands in the way, and pushes out what has stood there for as long as `patience`.
async fn look(pushing: &Pushing, place: &Where, whose: Whose, patience: Duration) -> Result<Seen, Error> {
    let client = &pushing.client;
    let begins = Instant::now();
    let now = client.current_timestamp().await?;
    let spans = place.spans();
    let rounds = 1 + spans.len().div_ceil(CALLS_AT_ONCE);
    let locks = locks(client, spans, whose, &now).await?;
    if locks.is_empty() {
        return Ok(Seen::Nothing);
    }
    // Where calls are slow just now, a commit may not have come to its end yet.
    let a_call = begins.elapsed() / u32::try_from(rounds).unwrap_or(u32::MAX);
    let patience = patience.max(a_call.saturating_mul(PATIENCE_IN_CALLS).min(PATIENCE_MAX));

    let keys = locks
        .values()
        .map(|lock| Bytes::copy_from_slice(&lock.key))
        .collect();
    let mut overdue_in = LOOK_PAUSE_MAX;
    let mut overdue = Vec::new();
    for (started, lock) in locks {
        let age = age(&lock, &now);
        if age < patience {
            overdue_in = overdue_in.min(patience - age);
        } else {
            overdue.push((started, lock, age));
        }
    }
    // Beside one another, each to its end: one whose primary cannot be reached holds up nobody who waits for another, and whoever
    // goes away leaves nothing half done.
    let mut pushes = iter(overdue)
        .map(|(started, lock, age)| tokio::spawn(push_out(pushing.clone(), started, lock, age)))
        .buffer_unordered(CALLS_AT_ONCE);
    while let Some(pushed) = pushes.next().await {
        if matches!(pushed, Ok(true)) {
            return Ok(Seen::PushedOut);
        }
    }
    Ok(Seen::Standing { keys, overdue_in })
}

/// What stands in the way: one lock of each transaction, by its start, for its others follow from the same primary.
async fn locks(
    client: &TransactionClient,
    spans: Vec<(Bytes, Bytes)>,
    whose: Whose,
    now: &Timestamp,
) -> Result<BTreeMap<u64, ProtoLockInfo>, Error> {
    // One above it: whether a scan includes the locks of its own timestamp is told in two ways by those who serve it.
    let at = match whose {
        Whose::Before(version) => now.version().min(version.saturating_add(1)),
        Whose::Others(_) => now.version(),
    };
    let at = &Timestamp::from_version(at);
    let in_one = async |(start, end): (Bytes, Bytes)| {
        client
            .scan_locks(at, start.to_vec()..end.to_vec(), LOCKS_PER_CALL)
            .await
    };
    let found: Vec<Vec<ProtoLockInfo>> = iter(spans)
        .map(in_one)
        .buffer_unordered(CALLS_AT_ONCE)
        .try_collect()
        .await?;
    let in_the_way = |lock: &ProtoLockInfo| match whose {
        Whose::Before(version) => lock.lock_version <= version,
        Whose::Others(started) => lock.lock_version != started,
    };
    Ok(found
        .into_iter()
        .flatten()
        .filter(in_the_way)
        .map(|lock| (lock.lock_version, lock))
        .collect())
}

/// Ends the transaction of this lock by way of its primary, and takes the lock away. False if that failed.
async fn push_out(pushing: Pushing, started: u64, lock: ProtoLockInfo, age: Duration) -> bool {
    // It ends whatever started no later and has a lock in this range, which is but one key: a store that gave it the locks of
    // more than was asked for, as the one that stands in for TiKV in tests did before it was corrected, would have it end the
    // transactions of those too.
    let only_it = lock.key.clone()..after(&lock.key).to_vec();
    let at = Timestamp::from_version(started.saturating_add(1));
    let options = ResolveLocksOptions::default();
    let cleaning = pushing.client.cleanup_locks(only_it, &at, options);
    let resolved = match timeout(CALL_TIME_MAX, cleaning).await {
        Ok(Ok(cleaned)) => cleaned.resolved_locks,
        Ok(Err(error)) => {
            tracing::debug!(started, %error, "a lock could not be pushed out of the way");
            return false;
        }
        Err(_) => {
            tracing::debug!(started, "a lock could not be pushed out of the way in time");
            return false;
        }
    };
    // Else it was gone by then.
    if resolved > 0 {
        pushing.counter.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("whimbrel_store_locks_pushed_out_total").increment(1);
        tracing::warn!(
            started,
            age_ms = age.as_millis(),
            "a lock stood in the way for longer than commits take: its transaction was rolled back, unless it was committed"
        );
    }
    true
}

/// For how long a lock has stood, by PD's clock, counted from when its owner made up the request for it; less for the locks of
/// larger batches, which are to live longer.
fn age(lock: &ProtoLockInfo, now: &Timestamp) -> Duration {
    let started = Timestamp::from_version(lock.lock_version).physical;
    let life = i64::try_from(lock.lock_ttl).unwrap_or(i64::MAX);
    let left = started.saturating_add(life).saturating_sub(now.physical);
    let of = i64::try_from(LOCK_LIFE.as_millis()).unwrap_or(i64::MAX);
    Duration::from_millis(u64::try_from(of.saturating_sub(left)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_looked_at_one_by_one_and_those_that_were_named_before_others() {
        let place = Where::Keys(vec!["a".into(), "b".into()]);
        assert_eq!(
            place.or_named(Vec::new()).spans(),
            [("a".into(), "a\0".into()), (Bytes::from("b"), "b\0".into())]
        );
        assert_eq!(
            place.or_named(vec!["c".into()]).spans(),
            [("c".into(), Bytes::from("c\0"))]
        );
    }

    #[test]
    fn a_lock_ages_from_when_it_was_asked_for_and_larger_ones_later() {
        let lock = |ttl| ProtoLockInfo {
            lock_version: Timestamp {
                physical: 10_000,
                ..Timestamp::default()
            }
            .version(),
            lock_ttl: ttl,
            ..ProtoLockInfo::default()
        };
        let at = |physical| Timestamp {
            physical,
            ..Timestamp::default()
        };
        let ms = |lock: &ProtoLockInfo, now| age(lock, &at(now)).as_millis();
        assert_eq!(ms(&lock(3_000), 10_000), 0);
        assert_eq!(ms(&lock(3_000), 11_000), 1_000);
        // Asked for 500 ms after its transaction began.
        assert_eq!(ms(&lock(3_500), 11_000), 500);
        assert_eq!(ms(&lock(60_000), 12_000), 0);
        assert_eq!(ms(&lock(6_000), 14_000), 1_000);
    }
}
