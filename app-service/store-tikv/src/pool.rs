//! The pool of clients: several, since each has but one connection to a store; and mortal, since a connection whose other
//! end vanished without a word fails no call of TiKV's client for minutes, it only never answers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tikv_client::{Backoff, CheckLevel, Config, RetryOptions, TransactionClient, TransactionOptions};
use tokio::time::timeout;

use crate::limits::{ANSWER_BYTES_MAX, CALL_TIME_MAX, CONNECT_TIME_MAX};

/// 5, 10, ... 80 ms: 155 ms in all, and four calls before each of six tries. A commit waits so long for others' locks while it
/// holds its own, 155 ms and some 27 calls, which is less than the one second or forty calls that others wait before they push it
/// out for that. Whoever then still meets a lock waits for it without holding any (`overdue`).
const LOCK_BACKOFF: Backoff = Backoff::no_jitter_backoff(5, 80, 5);
/// 5, 10, ... 320 ms, then 500 ms each: 7.1 s in all, less than any call of ours may take.
const REGION_BACKOFF: Backoff = Backoff::no_jitter_backoff(5, 500, 20);

/// Options of every transaction and snapshot. No heartbeat: a commit that takes longer than its locks live has failed.
pub(crate) fn options() -> TransactionOptions {
    TransactionOptions::new_optimistic()
        .retry_options(RetryOptions {
            region_backoff: REGION_BACKOFF,
            lock_backoff: LOCK_BACKOFF,
        })
        .drop_check(CheckLevel::None)
        .heartbeat_option(tikv_client::transaction::HeartbeatOption::NoHeartbeat)
}

/// Connects a client to the cluster, or says why not within [`CONNECT_TIME_MAX`].
pub(crate) async fn connect(endpoints: &[String]) -> Result<TransactionClient, ConnectError> {
    let config = Config::default()
        .with_timeout(CALL_TIME_MAX)
        .with_grpc_max_decoding_message_size(ANSWER_BYTES_MAX);
    match timeout(
        CONNECT_TIME_MAX,
        TransactionClient::new_with_config(endpoints.to_vec(), config),
    )
    .await
    {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(ConnectError::Silent {
            waited: CONNECT_TIME_MAX,
        }),
    }
}

/// Why a client could not be connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// It said so.
    #[error(transparent)]
    Client(#[from] tikv_client::Error),
    /// Nobody answered.
    #[error("no answer within {waited:?}")]
    Silent {
        /// For how long it was waited.
        waited: Duration,
    },
}

/// One client and how it fares.
pub(crate) struct Slot {
    client: RwLock<TransactionClient>,
    /// Whether its last probe succeeded.
    healthy: AtomicBool,
}

impl Slot {
    pub(crate) fn new(client: TransactionClient) -> Self {
        Self {
            client: RwLock::new(client),
            healthy: AtomicBool::new(true),
        }
    }

    pub(crate) fn client(&self) -> TransactionClient {
        self.client
            .read()
            .expect("nothing panics while it holds this lock")
            .clone()
    }

    /// From now on `client` serves; calls under way end with the old one.
    pub(crate) fn replace(&self, client: TransactionClient) {
        *self
            .client
            .write()
            .expect("nothing panics while it holds this lock") = client;
    }

    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }
}

/// Clients in turn, those that fare well before those that do not.
pub(crate) struct Pool {
    slots: Vec<Arc<Slot>>,
    turns: Turns,
}

impl Pool {
    pub(crate) fn new(slots: Vec<Arc<Slot>>) -> Self {
        assert!(!slots.is_empty(), "a pool has a client");
        Self {
            slots,
            turns: Turns::default(),
        }
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    pub(crate) fn pick(&self) -> TransactionClient {
        let is_well = |slot: usize| self.slots[slot].healthy.load(Ordering::Relaxed);
        self.slots[self.turns.next(self.slots.len(), is_well)].client()
    }
}

/// Whose turn it is.
#[derive(Default)]
struct Turns {
    next: AtomicUsize,
}

impl Turns {
    /// The next of so many (one at least), passing over those that do not fare well; where none does it is simply the next.
    fn next(&self, count: usize, is_well: impl Fn(usize) -> bool) -> usize {
        let from = self.next.fetch_add(1, Ordering::Relaxed);
        let mut turn = (0..count).map(|step| from.wrapping_add(step) % count);
        turn.find(|slot| is_well(*slot)).unwrap_or(from % count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is picked, in `picks` turns.
    fn picked(turns: &Turns, well: &[bool], picks: usize) -> Vec<usize> {
        (0..picks)
            .map(|_| turns.next(well.len(), |slot| well[slot]))
            .collect()
    }

    #[test]
    fn all_that_fare_well_have_their_turns() {
        let turns = Turns::default();
        assert_eq!(picked(&turns, &[true; 3], 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(picked(&Turns::default(), &[true], 3), [0, 0, 0]);
    }

    #[test]
    fn who_fares_badly_is_passed_over_until_it_is_well_again() {
        let turns = Turns::default();
        assert_eq!(picked(&turns, &[false, true, true, true], 4), [1, 1, 2, 3]);
        assert_eq!(picked(&turns, &[true, false, false, true], 4), [0, 3, 3, 3]);
        assert_eq!(picked(&turns, &[true; 4], 4), [0, 1, 2, 3]);
    }

    #[test]
    fn where_nobody_is_well_all_are_tried() {
        assert_eq!(picked(&Turns::default(), &[false; 3], 4), [0, 1, 2, 0]);
    }

    #[test]
    fn turns_go_on_when_they_are_counted_out() {
        let turns = Turns {
            next: AtomicUsize::new(usize::MAX),
        };
        let picked = picked(&turns, &[true; 4], 2);
        assert_eq!(picked, [3, 0]);
    }
}
