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
    next: AtomicUsize,
}

impl Pool {
    pub(crate) fn new(slots: Vec<Arc<Slot>>) -> Self {
        assert!(!slots.is_empty(), "a pool has a client");
        Self {
            slots,
            next: AtomicUsize::new(0),
        }
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    pub(crate) fn pick(&self) -> TransactionClient {
        let from = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = (0..self.slots.len()).map(|step| &self.slots[from.wrapping_add(step) % self.slots.len()]);
        turn.clone()
            .find(|slot| slot.healthy.load(Ordering::Relaxed))
            .or_else(|| turn.clone().next())
            .expect("a pool has a client")
            .client()
    }
}
