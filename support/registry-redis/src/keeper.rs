//! One connection, kept: dialled again with growing, jittered pauses whenever it breaks.
//!
//! While there is none, whoever wants it is told so at once. A call that got no answer in time takes a connection to one server
//! down, so that the calls after it do not wait as well. A Cluster's connection mends itself, one master at a time; it is
//! made anew only when it does not.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use redis::Client;
use tokio::sync::watch;
use whimbrel_registry::RegistryError;

use crate::meter;
use crate::wire::{DialError, Dialer, Wire};

/// The first pause between two attempts; each is drawn between this and its double.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest, half of it drawn: whoever comes back finds everybody within two seconds.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often Sentinels are asked whether the master is still the one.
const MASTER_INTERVAL: Duration = Duration::from_secs(2);
/// What is told to callers while there is no connection, ms.
pub(crate) const RETRY_AFTER_MS: u32 = 500;

/// Said before the first attempt has come to anything.
pub(crate) const NOT_YET: &str = "not connected yet";

/// The connection, or why there is none.
#[derive(Clone)]
pub(crate) enum State {
    /// Not yet, or not any more.
    Down {
        reason: String,
        /// Somebody has to change something.
        is_final: bool,
        /// Since when.
        since: Instant,
    },
    Up {
        /// Which connection this is.
        number: u64,
        wire: Wire,
        /// Where parts of a Cluster that do not answer are asked whether they do again.
        feeler: Option<Wire>,
        /// Where notices come from.
        notices: Box<Client>,
    },
}

/// Keeps a connection.
pub(crate) struct Keeper {
    /// As the URL names it, without passwords.
    redis: String,
    is_cluster: bool,
    state: watch::Sender<State>,
    /// The newest connection that is of no more use.
    broken: watch::Sender<u64>,
}

impl Keeper {
    pub(crate) fn new(redis: String, is_cluster: bool) -> Self {
        let state = State::Down {
            reason: NOT_YET.to_owned(),
            is_final: false,
            since: Instant::now(),
        };
        Self {
            redis,
            is_cluster,
            state: watch::channel(state).0,
            broken: watch::channel(0).0,
        }
    }

    /// What it is connected to, as people read it.
    pub(crate) fn redis(&self) -> &str {
        &self.redis
    }

    /// The connection and its changes.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The connection, if there is one.
    pub(crate) fn wire(&self) -> Result<(u64, Wire), RegistryError> {
        match &*self.state.borrow() {
            State::Up { number, wire, .. } => Ok((*number, wire.clone())),
            State::Down { reason, since, .. } => {
                let seconds = since.elapsed().as_secs();
                Err(self.unavailable(&format!("not connected for {seconds} s: {reason}")))
            }
        }
    }

    /// The connection to a Cluster, of which parts may be silent, on which those are asked.
    pub(crate) fn feeler(&self) -> Option<Wire> {
        match &*self.state.borrow() {
            State::Up { feeler, .. } => feeler.clone(),
            State::Down { .. } => None,
        }
    }

    pub(crate) fn unavailable(&self, reason: &str) -> RegistryError {
        RegistryError::Unavailable {
            reason: format!("Redis at {}: {reason}", self.redis),
            retry_after_ms: RETRY_AFTER_MS,
        }
    }

    /// A call on this connection has failed in a way that breaks one.
    pub(crate) fn failed(&self, number: u64, reason: &str) {
        if !self.is_cluster {
            self.give_up(number, reason);
        }
    }

    /// This connection does not mend itself.
    pub(crate) fn is_beyond_mending(&self, number: u64, reason: &str) {
        if self.is_cluster {
            if matches!(&*self.state.borrow(), State::Up { number: now, .. } if *now == number) {
                tracing::warn!(redis = self.redis, reason, "the connection is made anew");
                self.broken.send_replace(number);
            }
        } else {
            self.give_up(number, reason);
        }
    }

    fn give_up(&self, number: u64, reason: &str) {
        let was_up = self.state.send_if_modified(|state| {
            let is_this = matches!(state, State::Up { number: now, .. } if *now == number);
            if is_this {
                *state = State::Down {
                    reason: reason.to_owned(),
                    is_final: false,
                    since: Instant::now(),
                };
            }
            is_this
        });
        if was_up {
            meter::connected(false);
            tracing::warn!(
                redis = self.redis,
                reason,
                "Redis is lost; connecting again. Sessions go on, new logins wait"
            );
            self.broken.send_replace(number);
        }
    }

    /// Dials for ever.
    pub(crate) async fn run(&self, mut dialer: Dialer) {
        meter::connected(false);
        let mut number = 0;
        loop {
            let pauses = ExponentialBuilder::default()
                .with_min_delay(PAUSE_MIN)
                .with_max_delay(PAUSE_MAX)
                .with_jitter()
                .without_max_times();
            let mut pauses = pauses.build();
            let dialled = loop {
                match dialer.dial().await {
                    Ok(dialled) => break dialled,
                    Err(error) => self.say(&error),
                }
                tokio::time::sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
            };
            number += 1;
            self.state.send_replace(State::Up {
                number,
                wire: dialled.wire,
                feeler: dialled.feeler,
                notices: Box::new(dialled.notices),
            });
            meter::connect();
            // Whether all parts of a Cluster answer is felt out.
            if !self.is_cluster {
                meter::connected(true);
            }
            tracing::info!(redis = self.redis, "connected to Redis");
            self.until_broken(&mut dialer, number).await;
        }
    }

    /// Why there is still no connection. One that there is, of a Cluster, goes on meanwhile.
    fn say(&self, error: &DialError) {
        tracing::debug!(
            redis = self.redis,
            reason = error.reason,
            "no connection to Redis"
        );
        self.state.send_if_modified(|state| match state {
            State::Up { .. } => false,
            State::Down { reason, is_final, .. } => {
                reason.clone_from(&error.reason);
                *is_final = error.is_final;
                true
            }
        });
    }

    /// Waits until this connection is given up, or the Sentinels name another master.
    async fn until_broken(&self, dialer: &mut Dialer, number: u64) {
        let mut broken = self.broken.subscribe();
        let master = dialer.master_address().await;
        loop {
            let broken = broken.wait_for(|broken| *broken >= number);
            // A Cluster's goes on while another is made.
            if tokio::time::timeout(MASTER_INTERVAL, broken).await.is_ok() {
                return;
            }
            if master.is_none() {
                continue;
            }
            let now = dialer.master_address().await;
            if now.is_some() && now != master {
                self.give_up(number, "the Sentinels name another master");
            }
        }
    }
}
