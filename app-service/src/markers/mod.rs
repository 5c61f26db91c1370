//! Markers: what must still follow a commit, kept in the Store until it has.
//!
//! A marker is written in the transaction it speaks of. A second after all rows that follow are durable, the
//! living owner deletes it without looking ([`Cleaner`]). Work that was lost is taken up again from its marker ([`Redo`]): by the owner
//! after a pause, and by one of the living for a node that died ([`Sweeper`]). Everything here is idempotent, and
//! safe to do for a node that only seemed dead.

mod cleaner;
mod redo;
mod retry;
mod sweeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::env::Env;
use crate::keys::MarkerKey;
use crate::ticket::Outcome;
pub use cleaner::Cleaner;
pub use redo::{Redo, RedoError};
pub use retry::RetryList;
pub use sweeper::{Sweeper, SweeperParts};

/// Where the work of a marker ends: it is done and the marker goes, or lost and taken up again. Clones share.
#[derive(Clone)]
pub struct Markers {
    cleaner: Cleaner,
    retries: Arc<RetryList>,
    some_left_behind: Arc<AtomicBool>,
    env: Env,
}

impl Markers {
    /// Starts the cleaner's task; it ends when the last clone is gone and what was done is deleted.
    #[must_use]
    pub fn start(store: Arc<dyn whimbrel_store::Store>, env: Env) -> Self {
        Self {
            cleaner: Cleaner::start(store, &env),
            retries: Arc::new(RetryList::default()),
            some_left_behind: Arc::default(),
            env,
        }
    }

    /// The work of this marker ended; `attempt` is how often it was lost before.
    pub fn ended(&self, marker: MarkerKey, attempt: u32, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.cleaner.delete(marker.encode()),
            Outcome::Lost => {
                metrics::counter!("whimbrel_marker_work_lost_total").increment(1);
                self.retries.add(marker, attempt, self.env.clock.monotonic());
            }
        }
    }

    /// Markers of this node may be there, or be on their way, that nobody knows of: they are looked for soon.
    pub fn leave_some_behind(&self) {
        self.some_left_behind.store(true, Ordering::Relaxed);
    }

    /// Whether some were left behind since this was asked last.
    fn take_left_behind(&self) -> bool {
        self.some_left_behind.swap(false, Ordering::Relaxed)
    }

    /// Deletes what is done so far, and ends.
    pub fn close(&self) {
        self.cleaner.close();
    }

    /// What is to be tried again.
    #[must_use]
    pub fn retries(&self) -> &RetryList {
        &self.retries
    }
}
