//! Deletes the markers of work that is done: blindly, many in one commit.
//!
//! Nobody waits for it. A marker that stays by mistake costs one look at rows that are up to date already.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use whimbrel_store::{Batch, Commit, Store};

use crate::env::Env;

/// How long deletions gather. Each commit costs a share of an fsync, and nothing hurries.
const LINGER: Duration = Duration::from_millis(20);
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
    done: Vec<Bytes>,
    closed: bool,
}

impl Waiting {
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
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
        if keys.closed || keys.done.len() >= WAITING_MAX {
            metrics::counter!("whimbrel_markers_left_total").increment(1);
            return;
        }
        keys.done.push(key);
        let first = keys.done.len() == 1;
        drop(keys);
        if first {
            self.0.0.wake.notify_one();
        }
    }
}

async fn run(waiting: Arc<Waiting>, store: Arc<dyn Store>, env: Env) {
    loop {
        let keys = {
            let mut keys = waiting.keys();
            let from = keys.done.len().saturating_sub(COMMIT_KEYS_MAX);
            let taken = keys.done.split_off(from);
            if taken.is_empty() && keys.closed {
                return;
            }
            taken
        };
        if keys.is_empty() {
            waiting.wake.notified().await;
            if !waiting.keys().closed {
                env.timers.sleep(LINGER).await;
            }
            continue;
        }
        let mut batch = Batch::blind();
        for key in &keys {
            batch.delete(key.clone());
        }
        match store.commit(batch).await {
            Commit::Committed => {
                metrics::counter!("whimbrel_markers_deleted_total").increment(keys.len() as u64);
            }
            // Deleting is idempotent: whatever became of it, it is simply done again.
            Commit::Conflict(_) | Commit::Unknown(_) | Commit::Refused(_) => {
                let closed = {
                    let mut waiting = waiting.keys();
                    waiting.done.extend(keys);
                    waiting.done.truncate(WAITING_MAX);
                    waiting.closed
                };
                if closed {
                    // The next life of this node finds them.
                    return;
                }
                env.timers.sleep(env.jittered(REFUSED_WAIT)).await;
            }
        }
    }
}
