//! Locks that stand for longer than commits take: whoever meets one pushes it out of the way.
//!
//! A commit locks its keys, asks for a timestamp, and commits its primary; then the rest follows. Between the first and the last of
//! that its owner may die, and TiKV's client waits for the locks' whole life, three seconds at the least. If the owner died before
//! it took the primary lock, where everybody looks for the outcome, TiKV's client 0.4 means to record there that the transaction
//! is rolled back and never does (its issue 543: the error arrives in another wrapping than the one it matches), so that the key
//! stays unusable for ever. Its garbage collection's way of cleaning up does both right, and at any time; here it is used on
//! one key, for a transaction whose lock is older than the patience of [`crate::pace`].
//!
//! # Why that is safe at any time
//! Whether a transaction is committed is told by its primary key alone: by a record of its commit or one of its rollback, and
//! where one of them is the other never comes. The store puts either there in one step. Who pushes asks it, in one step too, to
//! look: a commit is there, then the transaction's other locks are committed; a lock, it becomes a rollback; nothing, a rollback is
//! left all the same. A lock's life has no part in this: it only tells clients when to do it. So of an owner that lives
//!
//! - who has not locked all of its keys yet: the primary's lock is refused when it comes, as a conflict, and without it the owner commits
//!   nothing. Other keys that it locks later are found rolled back at the primary;
//! - who stands still between its locks and its commit, or whose commit is on its way: the commit arrives before the push and the
//!   push finds it, or after it, and the store refuses it for want of a lock. The owner takes that for
//!   [`Unknown`](whimbrel_store::Commit::Unknown), and whoever looks finds nothing of it, now and later;
//! - who has committed its primary: nothing is undone, the other keys are committed with the same timestamp.
//!
//! The owner says committed only when the store has said so of its primary. Readers see none of it or all of it, as before: they
//! too learn of it at the primary. A key of an [`Unknown`](whimbrel_store::Commit::Unknown) batch that shows neither its value nor a
//! lock stays so.
//!
//! # Why not at once
//! Whoever is pushed out starts again. Locks of the living are gone in milliseconds; to push them out before would have two
//! who want one key push each other out for as long as they try. What is pushed out is so old that its owner is most likely dead,
//! measured by what commits take at the moment; larger batches, whose locks live longer, have as much longer here; who waits for
//! others' locks while holding its own gives up in half the time; and owners come back after a pause of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{StreamExt as _, TryStreamExt as _, iter};
use tikv_client::transaction::ResolveLocksOptions;
use tikv_client::{Error, ProtoLockInfo, Timestamp, TimestampExt as _, TransactionClient};
use tokio::time::{Instant, sleep_until, timeout};

use crate::limits::{
    CALL_TIME_MAX, LOCK_LIFE, LOCKS_PER_CALL, LOOK_AFTER_PART, LOOK_INTERVAL_MAX, LOOK_INTERVAL_MIN,
    PATIENCE_IN_LOOKS, PATIENCE_MAX, PATIENCE_MIN, SPANS_AT_ONCE, SPANS_SEARCHED,
};
use crate::shared::Shared;

/// Where locks are looked for.
#[derive(Debug, Clone)]
pub(crate) enum Where {
    /// On these keys, in order.
    Keys(Vec<Bytes>),
    /// From the first, included, to the second, excluded.
    Span(Bytes, Bytes),
}

impl Where {
    fn spans(&self) -> Vec<(Bytes, Bytes)> {
        match self {
            Self::Span(start, end) => vec![(start.clone(), end.clone())],
            Self::Keys(keys) => spans(keys),
        }
    }
}

/// At most [`SPANS_SEARCHED`] spans that hold all of `keys`, cut where neighbours have least in common.
fn spans(keys: &[Bytes]) -> Vec<(Bytes, Bytes)> {
    let mut cuts: Vec<usize> = (1..keys.len()).collect();
    cuts.sort_by_key(|&cut| common(&keys[cut - 1], &keys[cut]));
    cuts.truncate(SPANS_SEARCHED - 1);
    cuts.sort_unstable();
    cuts.push(keys.len());
    let mut from = 0;
    let mut spans = Vec::with_capacity(cuts.len());
    for cut in cuts {
        if let [first, ..] = &keys[from..cut]
            && let [.., last] = &keys[from..cut]
        {
            spans.push((first.clone(), after(last)));
        }
        from = cut;
    }
    spans
}

/// Bytes that both begin with.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
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
enum Whose {
    /// Of a read at this version: those of transactions that started no later.
    Before(u64),
    /// Of a commit that started then: everybody else's.
    Others(u64),
}

/// Looks after one call that may have to wait for others' locks.
pub(crate) struct Watch<'a> {
    shared: &'a Shared,
    place: Where,
    whose: Whose,
    next_look: Instant,
}

impl<'a> Watch<'a> {
    /// For a read of `place` at `version`.
    pub(crate) fn of_a_read(shared: &'a Shared, place: Where, version: u64) -> Self {
        Self::new(shared, place, Whose::Before(version))
    }

    /// For the commit of `keys`, in order, by the transaction that started at `started`.
    pub(crate) fn of_a_commit(shared: &'a Shared, keys: Vec<Bytes>, started: u64) -> Self {
        Self::new(shared, Where::Keys(keys), Whose::Others(started))
    }

    fn new(shared: &'a Shared, place: Where, whose: Whose) -> Self {
        Self {
            shared,
            place,
            whose,
            next_look: Instant::now() + shared.patience() / LOOK_AFTER_PART,
        }
    }

    /// `work`, and beside it everything is pushed out of its way that is overdue.
    pub(crate) async fn over<T>(&mut self, work: impl Future<Output = T>) -> T {
        let pushing = async {
            loop {
                self.pushed_out().await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = pushing => unreachable!("it never ends"),
        }
    }

    /// Looks once, to the end: for whoever gave up because something was in the way. Else one who tries again and again, where calls
    /// are slower than tries, would never see a look through.
    pub(crate) async fn once(&self) {
        match timeout(CALL_TIME_MAX, self.look()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "what stands in the way could not be looked at"),
            Err(_) => tracing::debug!("what stands in the way could not be looked at in time"),
        }
    }

    /// Waits until something was overdue, and has been pushed out of the way. May be dropped and called again at any time.
    pub(crate) async fn pushed_out(&mut self) {
        loop {
            sleep_until(self.next_look).await;
            // Should this be dropped half-way.
            self.next_look = Instant::now() + LOOK_INTERVAL_MAX;
            match self.look().await {
                Ok(seen) => {
                    let pause = seen.next.clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX);
                    self.next_look = Instant::now() + pause;
                    if seen.pushed_out {
                        return;
                    }
                }
                Err(error) => {
                    self.next_look = Instant::now() + LOOK_INTERVAL_MAX;
                    tracing::debug!(%error, "what stands in the way could not be looked at");
                }
            }
        }
    }

    async fn look(&self) -> Result<Seen, Error> {
        let pushing = Pushing {
            client: self.shared.pool.pick(),
            counter: Arc::clone(&self.shared.pushed_out),
        };
        look(&pushing, &self.place, self.whose, self.shared.patience()).await
    }
}

/// What pushing takes.
#[derive(Clone)]
struct Pushing {
    client: TransactionClient,
    /// Counts transactions that were pushed out.
    counter: Arc<AtomicU64>,
}

/// Pushes what is overdue off `key`, once, before the store is open.
pub(crate) async fn clear(client: &TransactionClient, key: &[u8]) -> Result<(), Error> {
    let place = Where::Keys(vec![Bytes::copy_from_slice(key)]);
    let pushing = Pushing {
        client: client.clone(),
        counter: Arc::default(),
    };
    look(&pushing, &place, Whose::Before(u64::MAX), PATIENCE_MIN).await?;
    Ok(())
}

/// What one look came to.
struct Seen {
    pushed_out: bool,
    /// In what time there may be something to push out.
    next: Duration,
}

/// Looks at what stands in the way, and pushes out what has stood there for as long as `patience`.
async fn look(pushing: &Pushing, place: &Where, whose: Whose, patience: Duration) -> Result<Seen, Error> {
    let client = &pushing.client;
    let begins = Instant::now();
    let now = client.current_timestamp().await?;
    let locks = locks(client, place, whose, &now).await?;
    // A commit takes more calls than this: where these are slow just now, it may not have come to its end yet.
    let of_now = begins.elapsed().saturating_mul(PATIENCE_IN_LOOKS);
    let patience = patience.max(of_now.min(PATIENCE_MAX));
    let mut seen = Seen {
        pushed_out: false,
        next: LOOK_INTERVAL_MAX,
    };
    for (started, lock) in locks {
        let age = age(&lock, &now);
        if age < patience {
            seen.next = seen.next.min(patience - age);
            continue;
        }
        // To its end, though whoever waited goes on as soon as the primary tells the outcome.
        let pushed = tokio::spawn(push_out(pushing.clone(), started, lock, age));
        seen.pushed_out |= pushed
            .await
            .map_err(|error| Error::StringError(error.to_string()))??;
    }
    Ok(seen)
}

/// What stands in the way: one lock of each transaction, for its others follow from the same primary.
async fn locks(
    client: &TransactionClient,
    place: &Where,
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
        let mut locks = client
            .scan_locks(at, start.to_vec()..end.to_vec(), LOCKS_PER_CALL)
            .await?;
        // TiKV keeps to the span; what stands in for it gives the whole region's.
        locks.retain(|lock| start[..] <= lock.key[..] && lock.key[..] < end[..]);
        Ok::<_, Error>(locks)
    };
    let found: Vec<Vec<ProtoLockInfo>> = iter(place.spans())
        .map(in_one)
        .buffer_unordered(SPANS_AT_ONCE)
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

/// Ends the transaction of this lock by way of its primary, and takes the lock away. False if the lock was gone by then.
async fn push_out(pushing: Pushing, started: u64, lock: ProtoLockInfo, age: Duration) -> Result<bool, Error> {
    let only_it = lock.key.clone()..after(&lock.key).to_vec();
    let at = Timestamp::from_version(started.saturating_add(1));
    let cleaned = pushing
        .client
        .cleanup_locks(only_it, &at, ResolveLocksOptions::default())
        .await?;
    if cleaned.resolved_locks == 0 {
        return Ok(false);
    }
    pushing.counter.fetch_add(1, Ordering::Relaxed);
    metrics::counter!("whimbrel_store_locks_pushed_out_total").increment(1);
    tracing::warn!(
        started,
        age_ms = age.as_millis(),
        "a lock stood in the way for longer than commits take: its transaction was rolled back, unless it was committed"
    );
    Ok(true)
}

/// For how long a lock has stood, by PD's clock: less for the locks of larger batches, which are to live longer.
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

    fn keys(names: impl IntoIterator<Item = String>) -> Vec<Bytes> {
        names.into_iter().map(Bytes::from).collect()
    }

    #[test]
    fn few_keys_are_searched_one_by_one() {
        let few = spans(&keys(["a".to_owned(), "b".to_owned()]));
        assert_eq!(
            few,
            [("a".into(), "a\0".into()), (Bytes::from("b"), "b\0".into())]
        );
        assert!(spans(&[]).is_empty());
    }

    #[test]
    fn of_many_keys_those_that_begin_alike_are_searched_together() {
        let of = |conversation: usize| (0..5).map(move |key| format!("{conversation:04}/{key}"));
        let many = keys((0..SPANS_SEARCHED).flat_map(of));
        let expected: Vec<(Bytes, Bytes)> = (0..SPANS_SEARCHED)
            .map(|conversation| {
                (
                    format!("{conversation:04}/0").into(),
                    format!("{conversation:04}/4\0").into(),
                )
            })
            .collect();
        assert_eq!(spans(&many), expected);
        let more = keys((0..10 * SPANS_SEARCHED).flat_map(of));
        let spans = spans(&more);
        assert_eq!(spans.len(), SPANS_SEARCHED);
        assert!(
            more.iter()
                .all(|key| spans.iter().any(|(start, end)| start <= key && key < end))
        );
    }

    #[test]
    fn a_lock_ages_from_when_it_was_taken_and_larger_ones_later() {
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
        // Taken 500 ms after its transaction began.
        assert_eq!(ms(&lock(3_500), 11_000), 500);
        assert_eq!(ms(&lock(60_000), 12_000), 0);
        assert_eq!(ms(&lock(6_000), 14_000), 1_000);
    }
}
