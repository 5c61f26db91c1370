//! Deletes the markers of work that is done: blindly, many in one commit, and not at once.
//!
//! Nobody waits for it. A marker that stays by mistake costs one look at rows that are up to date already. One that goes too soon can
//! cost more: what its users are told of is on its way to their gateways when the work is done, and if this node dies with it,
//! the marker has others tell them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use whimbrel_store::{Batch, Commit, Store};

use crate::env::Env;

/// How long a marker stays after its work is done. Notices are with the gateways after some milliseconds, and of those that a
/// busy node has queued most after this; at ten thousand messages a second as many small markers more are kept.
const LINGER: Duration = Duration::from_secs(1);
/// How long deletions gather: each commit costs a share of an fsync, and a large one holds up others.
const GATHER: Duration = Duration::from_millis(100);
/// Markers deleted in one commit, about 60 bytes each.
const COMMIT_KEYS_MAX: usize = 4096;
/// Markers waiting to be deleted; beyond, they are left to the sweeper's look at this node's own.
const WAITING_MAX: usize = 200_000;
/// How long to rest when the store refuses.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Waiting {
    keys: Mutex<Keys>,
    wake: Notify,
}

#[derive(Default)]
struct Keys {
    /// Of work that was done since the task looked last.
    done: Vec<Bytes>,
    /// Those that the task has.
    lingering: usize,
    closed: bool,
}

impl Waiting {
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is nothing to do until somebody wakes the task.
    fn is_at_rest(&self) -> bool {
        let keys = self.keys();
        keys.done.is_empty() && !keys.closed
    }
}

/// The way in. Clones share; when the last is gone the task deletes what waits and ends.
#[derive(Clone)]
pub struct Cleaner(Arc<Owner>);

struct Owner(Arc<Waiting>);

impl Owner {
    fn close(&self) {
        self.0.keys().closed = true;
        self.0.wake.notify_one();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Cleaner {
    /// Starts the task.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, env: &Env) -> Self {
        let waiting = Arc::new(Waiting::default());
        env.spawner.spawn(
            "marker-cleaner",
            Box::pin(run(Arc::clone(&waiting), store, env.clone())),
        );
        Self(Arc::new(Owner(waiting)))
    }

    /// The task deletes what waits and ends.
    pub fn close(&self) {
        self.0.close();
    }

    /// Has the marker at `key` deleted.
    pub fn delete(&self, key: Bytes) {
        let mut keys = self.0.0.keys();
        if keys.closed || keys.done.len() + keys.lingering >= WAITING_MAX {
            metrics::counter!("whimbrel_markers_left_total").increment(1);
            return;
        }
        keys.done.push(key);
        let is_first = keys.done.len() + keys.lingering == 1;
        drop(keys);
        if is_first {
            self.0.0.wake.notify_one();
        }
    }
}

async fn run(waiting: Arc<Waiting>, store: Arc<dyn Store>, env: Env) {
    let mut lingering = Lingering::default();
    loop {
        let now = env.clock.monotonic();
        let closed = {
            let mut keys = waiting.keys();
            lingering.add(std::mem::take(&mut keys.done), now);
            keys.lingering = lingering.len();
            keys.closed
        };
        while let Some((since, keys)) = lingering.take((!closed).then_some(now)) {
            let mut batch = Batch::blind();
            for key in &keys {
                batch.delete(key.clone());
            }
            match store.commit(batch).await {
                Commit::Committed => {
                    metrics::counter!("whimbrel_markers_deleted_total").increment(keys.len() as u64);
                }
                // The next life of this node finds them.
                Commit::Conflict(_) | Commit::Unknown(_) | Commit::Refused(_) if closed => return,
                // Deleting is idempotent: whatever became of it, it is simply done again.
                Commit::Conflict(_) | Commit::Unknown(_) | Commit::Refused(_) => {
                    lingering.put_back(since, keys);
                    env.timers.sleep(env.jittered(REFUSED_WAIT)).await;
                    break;
                }
            }
        }
        if closed {
            return;
        }
        if lingering.len() == 0 {
            waiting.keys().lingering = 0;
            if waiting.is_at_rest() {
                waiting.wake.notified().await;
            }
        } else {
            tokio::select! {
                biased;
                // The end.
                () = waiting.wake.notified() => {}
                () = env.timers.sleep(GATHER) => {}
            }
        }
    }
}

/// Markers whose work is done, by when that was seen. Pure.
#[derive(Default)]
struct Lingering {
    since: VecDeque<(Duration, Vec<Bytes>)>,
    count: usize,
}

impl Lingering {
    fn len(&self) -> usize {
        self.count
    }

    fn add(&mut self, keys: Vec<Bytes>, now: Duration) {
        if !keys.is_empty() {
            self.count += keys.len();
            self.since.push_back((now, keys));
        }
    }

    /// The longest waiting of those that have stayed long enough at `now`, as many as one commit takes, and since when they wait.
    /// Without a time: of all.
    fn take(&mut self, now: Option<Duration>) -> Option<(Duration, Vec<Bytes>)> {
        let (since, keys) = self.since.front_mut()?;
        let since = *since;
        if now.is_some_and(|now| now.saturating_sub(since) < LINGER) {
            return None;
        }
        let from = keys.len().saturating_sub(COMMIT_KEYS_MAX);
        let taken = keys.split_off(from);
        if keys.is_empty() {
            self.since.pop_front();
        }
        self.count -= taken.len();
        Some((since, taken))
    }

    /// Those could not be deleted.
    fn put_back(&mut self, since: Duration, keys: Vec<Bytes>) {
        self.count += keys.len();
        self.since.push_front((since, keys));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<Bytes> {
        vec![Bytes::from_static(b"marker"); count]
    }

    #[test]
    fn markers_stay_for_a_while_and_go_oldest_first_some_at_a_time() {
        let (start, mut lingering) = (Duration::from_secs(9), Lingering::default());
        lingering.add(keys(COMMIT_KEYS_MAX + 5), start);
        lingering.add(keys(3), start + GATHER);
        assert!(lingering.take(Some(start + LINGER - GATHER)).is_none());
        let (since, first) = lingering.take(Some(start + LINGER)).unwrap();
        assert_eq!((since, first.len(), lingering.len()), (start, COMMIT_KEYS_MAX, 8));
        // It failed, and comes again before the others.
        lingering.put_back(since, first);
        let counts = std::iter::from_fn(|| lingering.take(Some(start + LINGER)).map(|(_, keys)| keys.len()));
        assert_eq!(counts.collect::<Vec<_>>(), [COMMIT_KEYS_MAX, 5]);
        assert_eq!(
            lingering.take(None).map(|(_, keys)| keys.len()),
            Some(3),
            "at the end all go"
        );
        assert_eq!(lingering.len(), 0);
    }
}
