//! One commit: TiKV's optimistic two-phase commit, and what its failures prove.
//!
//! A put, insert or delete is that mutation; a guard locks its key for the time of the commit and changes nothing, so that a
//! write since the snapshot conflicts, and two batches that each write what the other guards meet at the locks.
//!
//! # What an unknown commit needs
//! When this returns [`Commit::Unknown`] nothing new of it is begun any more; what TiKV's client was about to send it may send
//! for some seconds yet. If that is the primary's commit, all keys were locked before. So whoever then reads one of the batch's
//! keys at a new snapshot sees the outcome: the new value, or nothing and never, or the lock, and waits for its end or pushes it
//! out of the way ([`crate::overdue`]); a commit that comes after that is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tikv_client::{TimestampExt as _, Transaction};
use tokio::time::{Instant, timeout};
use whimbrel_store::{Batch, Commit, Op, StoreError};

use crate::limits::{ATTEMPT_AFTER_LOCKS, COMMIT_TIME_MAX, ROLLBACK_TIME_MAX, TIMESTAMP_TIME_MAX, lock_life};
use crate::outcome::{Verdict, judge};
use crate::overdue::{Where, Whose, clear_the_way};
use crate::pool::options;
use crate::shared::Shared;

const ACTION: &str = "committing";

/// Commits `batch`, which is within the limits.
pub(crate) async fn run(shared: &Arc<Shared>, batch: Batch) -> Commit {
    let keys: Vec<Bytes> = batch.keys().cloned().collect();
    let attempt_max = lock_life(batch.bytes()) + ATTEMPT_AFTER_LOCKS;
    let mut transaction = match begin(shared, &batch, &keys).await {
        Ok(transaction) => transaction,
        Err(answer) => return answer,
    };
    if let Err(error) = fill(&mut transaction, batch).await {
        return Commit::Refused(shared.backend("building a commit", error));
    }
    let started = transaction.start_timestamp().version();
    let until = Instant::now() + attempt_max;
    match drive(shared, transaction, &keys, attempt_max).await {
        Driven::Ended(commit) => commit,
        Driven::Locked(named) => {
            // Whoever tries again would only meet them again.
            let place = Where::Keys(keys.clone()).or_named(named.clone());
            clear_the_way(shared, place, Whose::Others(started), until).await;
            Commit::Conflict(known(named, &keys))
        }
    }
}

/// The transaction that `batch` commits with, or the answer when there is none.
async fn begin(shared: &Arc<Shared>, batch: &Batch, keys: &[Bytes]) -> Result<Transaction, Commit> {
    if let Some(version) = batch.version() {
        // Dropped, too old or used up: what was written since is no longer known.
        return shared
            .snapshots
            .take(version)
            .ok_or_else(|| Commit::Conflict(keys.to_vec()));
    }
    let client = shared.pool.pick();
    match timeout(TIMESTAMP_TIME_MAX, client.begin_with_options(options())).await {
        Ok(Ok(transaction)) => Ok(transaction),
        Ok(Err(error)) => Err(Commit::Refused(shared.backend("taking a timestamp", error))),
        Err(_) => Err(Commit::Refused(StoreError::NotReady {
            reason: format!(
                "PD at {} gave no timestamp within {TIMESTAMP_TIME_MAX:?}",
                shared.config.endpoints.join(", ")
            ),
        })),
    }
}

/// Writes come first, for the first mutation's key is the primary: the outcome is kept there, and a guard keeps little.
async fn fill(transaction: &mut Transaction, batch: Batch) -> Result<(), tikv_client::Error> {
    let (writes, guards): (Vec<_>, Vec<_>) = batch.into_ops().partition(|(_, op)| op.is_write());
    for (key, op) in writes {
        let key = Vec::from(key);
        match op {
            Op::Put(value) => transaction.put(key, value).await?,
            Op::Insert(value) => transaction.insert(key, value).await?,
            Op::Delete => transaction.delete(key).await?,
            Op::Guard => {}
        }
    }
    let guarded: Vec<Vec<u8>> = guards.into_iter().map(|(key, _)| Vec::from(key)).collect();
    transaction.lock_keys(guarded).await
}

/// What an attempt came to.
enum Driven {
    Ended(Commit),
    /// It was rolled back because of others' locks, on these keys if any are named. They may be others' primaries.
    Locked(Vec<Bytes>),
}

/// Tries once. Who is in the way for longer than TiKV's client waits is better waited for without holding locks: nothing has been
/// committed, for locks are met while locks are taken.
async fn drive(
    shared: &Arc<Shared>,
    mut transaction: Transaction,
    keys: &[Bytes],
    attempt_max: Duration,
) -> Driven {
    let begins = Instant::now();
    let within = attempt_max.min(COMMIT_TIME_MAX);
    let error = match timeout(within, transaction.commit()).await {
        Ok(Ok(_)) => {
            shared.note_commit(begins.elapsed());
            return Driven::Ended(Commit::Committed);
        }
        Ok(Err(error)) => error,
        Err(_) => {
            // Not noted as usual: what gives no answer at all is away, not slow, and who was pushed out is told so.
            let late = shared.backend(ACTION, format!("no outcome within {within:?}"));
            return Driven::Ended(Commit::Unknown(late));
        }
    };
    match judge(&error) {
        Verdict::Conflict(named) => {
            roll_back(&mut transaction).await;
            Driven::Ended(Commit::Conflict(known(named, keys)))
        }
        Verdict::Locked(named) => {
            roll_back(&mut transaction).await;
            Driven::Locked(named)
        }
        // Also when it was pushed out, and the store no longer knows its lock: that may as well be a commit whose answer was
        // lost.
        Verdict::Unknown => {
            shared.note_commit(begins.elapsed());
            tracing::warn!(%error, "the outcome of a commit is unknown");
            Driven::Ended(Commit::Unknown(shared.backend(ACTION, error)))
        }
    }
}

/// Frees what a proven abort has locked. If that fails, the locks end with their life.
async fn roll_back(transaction: &mut Transaction) {
    match timeout(ROLLBACK_TIME_MAX, transaction.rollback()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an aborted commit was not rolled back"),
        Err(_) => tracing::debug!("an aborted commit was not rolled back in time"),
    }
}

/// Those of `named` that are keys of the batch, or all of its keys: a conflict names at least one.
fn known(mut named: Vec<Bytes>, keys: &[Bytes]) -> Vec<Bytes> {
    named.retain(|key| keys.binary_search(key).is_ok());
    named.sort_unstable();
    named.dedup();
    if named.is_empty() { keys.to_vec() } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_batches_have_locks_that_live_longer() {
        let seconds = |bytes| lock_life(bytes).as_secs_f64();
        assert_eq!([seconds(0), seconds(16 * 1024), seconds(256 * 1024)], [3.0; 3]);
        assert!(seconds(257 * 1024) > 3.0);
        assert_eq!(seconds(4 * 1024 * 1024), 12.0);
        assert_eq!(seconds(usize::MAX), 20.0);
    }

    #[test]
    fn a_conflict_names_keys_of_its_batch_and_at_least_one() {
        let keys: Vec<Bytes> = vec!["a".into(), "b".into()];
        assert_eq!(
            known(vec!["b".into(), "x".into(), "b".into()], &keys),
            [Bytes::from("b")]
        );
        assert_eq!(known(vec!["x".into()], &keys), keys);
        assert_eq!(known(Vec::new(), &keys), keys);
    }
}
