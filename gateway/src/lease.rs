//! The gateway's lease in the registry, and its word to probes and health checks.
//!
//! One task: renews the lease with load and descriptor, makes new keys when they are due, and has every session announced
//! again when the registry has lost them: all of them with its own life, ours with our lease when that had ended, as it
//! does while this process is stopped or cut off. That it had ended the registry says, whatever our clock says, which may have stood still
//! with the machine: by another term ([`whimbrel_registry::Put`]), which it still says when the first answer was lost and the call
//! repeated. A home of before does not say it, and then more time than the lease's tells. After a renewal that
//! failed they are announced as well: while the registry could not be reached, nobody could look up whom to push to, and the announced are
//! told to sync.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use whimbrel_host::{Clock, Drain, Health, Readiness};
use whimbrel_link::{Identity, Uplink};
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::cluster::NodeLease;
use whimbrel_protocol::ids::Incarnation;
use whimbrel_registry::{Registry, RegistryError, lease_of};

use crate::certificate::Expiry;
use crate::config::GatewayConfig;
use crate::engine::{Order, Reach};
use crate::keys::{KeyMaker, KeyRing};
use crate::rooms::Desk;

/// What a gateway that takes nobody says of its load, permille.
const LOAD_FULL: u32 = 1_000;

/// The gateway's name among the components of its process.
pub(crate) const COMPONENT: &str = "gateway";

/// Keeps the gateway known.
pub(crate) struct Lease {
    pub(crate) config: GatewayConfig,
    pub(crate) identity: Identity,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) uplink: Uplink,
    pub(crate) reach: Reach,
    pub(crate) desk: Desk,
    pub(crate) health: Health,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) maker: KeyMaker,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) expiry: Expiry,
    /// When the keys were made, unix milliseconds.
    pub(crate) rotated_at_ms: u64,
    /// When the last renewal that the registry took was sent.
    pub(crate) renewed_at: Option<Instant>,
    /// What the registry calls the lease, as last heard.
    pub(crate) term: Option<NonZeroU64>,
    /// A renewal has failed since, or no router was linked for long: orders and pushes may have been given up.
    pub(crate) missed: bool,
    /// Since when no router has been linked.
    pub(crate) unlinked_since: Option<Instant>,
    /// The process's order to leave.
    pub(crate) drain: Drain,
    /// Cancelled when the gateway starts to leave.
    pub(crate) draining: CancellationToken,
    /// Cancelled when it is gone.
    pub(crate) stop: CancellationToken,
}

impl Lease {
    /// Runs until it is stopped.
    pub(crate) async fn run(mut self) {
        let mut renewals =
            tokio::time::interval(Duration::from_millis(u64::from(self.config.lease.renew_ms)));
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut life = self.registry.life();
        let mut routers = self.uplink.ready_routers();
        let mut known_life: Option<Incarnation> = *life.borrow();
        let draining = self.draining.clone();
        let mut drain_told = false;
        loop {
            tokio::select! {
                // A fixed order, so that a simulation replays.
                biased;
                () = self.stop.cancelled() => return,
                () = draining.cancelled(), if !drain_told => drain_told = true,
                _ = renewals.tick() => {}
                changed = life.changed() => if changed.is_err() { return },
                changed = routers.changed() => if changed.is_err() { return },
            }
            let now_ms = self.clock.now_ms();
            // By the clock that descriptors are judged by; far back counts like far on: the statement names that time.
            if now_ms.abs_diff(self.rotated_at_ms) >= self.config.key_rotation_ms {
                self.rotated_at_ms = now_ms;
                self.rotate(now_ms).await;
            }
            let may_be_lost = self.renew().await;
            let seen = *life.borrow_and_update();
            let has_lost_all = matches!((known_life, seen), (Some(known), Some(seen)) if known != seen);
            if has_lost_all || may_be_lost {
                tracing::warn!(
                    sessions = self.reach.sessions(),
                    has_lost_all,
                    may_be_lost,
                    "the registry has lost our sessions, or pushes to them; announcing again"
                );
                self.desk.lost().await;
                self.reach.order_all(&Order::Announce).await;
            }
            known_life = seen.or(known_life);
        }
    }

    async fn rotate(&mut self, now_ms: u64) {
        match self.maker.rotate(now_ms, &mut SystemEntropy) {
            Ok(keys) => {
                self.keys = keys;
                self.reach.order_all(&Order::Keys(Arc::clone(&self.keys))).await;
            }
            Err(error) => tracing::error!(%error, "the descriptor could not be signed again"),
        }
    }

    /// Whether the lease had, or may have, ended before this renewal, and the registry has dropped our sessions, or the registry could
    /// not be reached and pushes were lost.
    async fn renew(&mut self) -> bool {
        let sent_at = Instant::now();
        let draining = self.draining.is_cancelled();
        let ttl = Duration::from_millis(u64::from(self.config.lease.ttl_ms));
        let is_unlinked = *self.uplink.routers().borrow() == 0;
        let unfit = self
            .expiry
            .look(self.clock.now_ms())
            .or_else(|| is_unlinked.then(|| "no router is linked".to_owned()))
            .or_else(|| self.uplink.clock_fault());
        // Routers are told of what is wrong here only: what they said of themselves they know.
        let beyond = (*self.uplink.ready_routers().borrow() == 0)
            .then(|| "no linked router has a service node to serve requests".to_owned());
        let takes_nobody = unfit.is_some() || beyond.is_some();
        let load_permille = self.reach.load_permille();
        let mut lease = NodeLease {
            descriptor: self.keys.descriptor.clone(),
            // Whoever came would be turned away, so that they had better come where there is no other; an empty gateway
            // would be named first.
            load_permille: if takes_nobody { LOAD_FULL } else { load_permille },
            connections: self.reach.connections() as u64,
            draining,
            ..lease_of(
                &self.identity,
                Duration::from_millis(self.config.lease.ttl_ms.into()),
            )
        };
        if !self.config.app_keys.is_empty() {
            lease.app_keys.clone_from(&self.config.app_keys);
        }
        let put = self.registry.put_node(lease).await;
        if let Err(error @ RegistryError::Superseded { .. }) = &put
            && !self.drain.is_started()
        {
            // Its sessions are found by nobody any more: their clients must go elsewhere.
            tracing::error!(%error, "this gateway sends its clients away and leaves");
            self.drain.start();
        }
        let has_sessions = self.reach.sessions() > 0;
        if !is_unlinked {
            self.unlinked_since = None;
        } else if self.unlinked_since.get_or_insert(sent_at).elapsed() > ttl && has_sessions {
            self.missed = true;
        }
        let may_be_lost = if let Ok(put) = put {
            let before = self.renewed_at.replace(sent_at);
            let missed = !is_unlinked && std::mem::take(&mut self.missed);
            let had_ended = put.began || self.term.zip(put.term).is_some_and(|(known, term)| known != term);
            self.term = put.term.or(self.term);
            // Before the first renewal that was heard of there may be sessions as well, of clients that knew the address.
            let may_have_lost = before.is_some() || has_sessions;
            may_have_lost && (missed || had_ended || before.is_some_and(|before| before.elapsed() > ttl))
        } else {
            self.missed = true;
            false
        };
        let reason = if draining {
            Some("draining".to_owned())
        } else {
            unfit.or_else(|| put.err().map(|error| error.to_string()))
        };
        let readiness = match reason.clone().or(beyond) {
            Some(reason) => Readiness::NotReady(reason),
            None => Readiness::Ready,
        };
        self.health.set_ready(COMPONENT, readiness);
        self.uplink.set_readiness(whimbrel_link::Readiness {
            ready: reason.is_none() || draining,
            reason: reason.unwrap_or_default(),
            load_permille,
            draining,
            utc_ms: self.clock.now_ms(),
        });
        may_be_lost
    }
}
