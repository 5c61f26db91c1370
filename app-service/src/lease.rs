//! Being known: this node's lease in the registry, its readiness for probes, and the other service nodes it learns of, who must
//! serve from the same store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use whimbrel_host::{Drain, Health};
use whimbrel_link::{Capacity, Identity, Readiness, Uplink};
use whimbrel_protocol::cluster::{NodeLease, Role};
use whimbrel_protocol::ids::{AppKey, Incarnation, NodeId};
use whimbrel_registry::{Registry, RegistryError, lease_of};
use whimbrel_store::Epoch;

use crate::env::Env;
use crate::one_store::OneStore;
use crate::placement::{Peer, Placement};
use crate::rooms::Rooms;
use crate::service::Service;

/// Between looks at whether this node can serve: a store that turns unready is out of the pool within a second.
const LOOK: Duration = Duration::from_millis(500);
/// How long a node that starts waits to hear who serves before it says that it is ready: the registry may be slow to answer, and a
/// node can serve without it.
const FIRST_LOOK_WAIT: Duration = Duration::from_secs(1);
/// Renewals that a lease outlives.
const RENEWALS_PER_LEASE: u32 = 3;
/// This role in the process's health.
const COMPONENT: &str = "app-service";

/// What a renewal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewed {
    /// The registry said who lives.
    Heard,
    /// It did not.
    Unheard,
    /// Another process has taken this node's name.
    Superseded,
}

/// The task that keeps this node known.
pub(crate) struct Lease {
    pub(crate) identity: Identity,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) placement: Placement,
    pub(crate) rooms: Rooms,
    pub(crate) service: Service,
    pub(crate) uplink: Uplink,
    pub(crate) health: Health,
    pub(crate) drain: Drain,
    pub(crate) renewal: Duration,
    pub(crate) env: Env,
    /// The epoch of the store it serves from.
    pub(crate) store: Epoch,
}

impl Lease {
    /// Runs until it is stopped. Readiness waits for the registry at the start only, and not for long.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let superseded = AtomicBool::new(false);
        let first_look = Notify::new();
        let renewals = async {
            let mut silences = 0;
            let mut one_store =
                OneStore::new(self.identity.node.clone(), self.identity.incarnation, self.store);
            while !stop.is_cancelled() {
                let renewed = self.renew(&mut one_store).await;
                first_look.notify_one();
                superseded.store(renewed == Renewed::Superseded, Ordering::Relaxed);
                silences = if renewed == Renewed::Heard {
                    0
                } else {
                    silences + 1
                };
                if silences >= RENEWALS_PER_LEASE {
                    self.placement.doubt();
                }
                self.pause(self.renewal, &stop).await;
            }
        };
        let looks = async {
            tokio::select! {
                biased;
                () = first_look.notified() => {}
                () = self.pause(FIRST_LOOK_WAIT, &stop) => {}
            }
            while !stop.is_cancelled() {
                self.tell_readiness(superseded.load(Ordering::Relaxed));
                self.pause(LOOK, &stop).await;
            }
        };
        tokio::join!(looks, renewals);
    }

    async fn pause(&self, pause: Duration, stop: &CancellationToken) {
        let pause = self.env.timers.sleep(pause);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = pause => {}
        }
    }

    /// Renews the lease and learns of the other nodes.
    async fn renew(&self, one_store: &mut OneStore) -> Renewed {
        match self.registry.put_node(self.lease(one_store)).await {
            Ok(_) => {}
            Err(error @ RegistryError::Superseded { .. }) => {
                if !self.drain.is_started() {
                    tracing::error!(%error, "this node takes no more requests and leaves");
                    self.drain.start();
                }
                return Renewed::Superseded;
            }
            Err(error) => tracing::debug!(%error, "the lease was not renewed"),
        }
        match self.registry.nodes(None).await {
            Ok(leases) => {
                self.placement.update(leases.iter().filter_map(peer));
                self.rooms.learn_gateways(&leases);
                self.keep_to_one_store(one_store, &leases).await;
                Renewed::Heard
            }
            Err(error) => {
                tracing::debug!(%error, "the other nodes are not known; going on with those of before");
                Renewed::Unheard
            }
        }
    }

    fn lease(&self, one_store: &OneStore) -> NodeLease {
        NodeLease {
            load_permille: self.service.load_permille(),
            // One that stands aside gets no users' rows to write.
            draining: self.drain.is_started() || one_store.aside().is_some(),
            store: one_store.told(),
            ..lease_of(&self.identity, self.renewal * RENEWALS_PER_LEASE)
        }
    }

    /// Stands aside, or begins, by who else serves; and has the registry say so at once, for others who begin now.
    async fn keep_to_one_store(&self, one_store: &mut OneStore, leases: &[NodeLease]) {
        let (told, stood_aside) = (one_store.told(), one_store.aside().is_some());
        one_store.look(leases);
        match one_store.aside() {
            Some(why) if !stood_aside => tracing::error!("this node takes no requests: {why}"),
            None if stood_aside => {
                tracing::info!("no node serves from another store any more: this one begins")
            }
            _ => {}
        }
        self.service.stand_aside(one_store.aside().map(str::to_owned));
        if (told, stood_aside) != (one_store.told(), one_store.aside().is_some())
            && let Err(error) = self.registry.put_node(self.lease(one_store)).await
        {
            tracing::debug!(%error, "the lease says it at its next renewal");
        }
    }

    fn tell_readiness(&self, superseded: bool) {
        let reason = if superseded {
            Some("another process has taken this node's name".to_owned())
        } else {
            // A clock that is wrong by much judges tokens and operation ids wrongly.
            self.service.not_ready().or_else(|| self.uplink.clock_fault())
        };
        metrics::gauge!("whimbrel_store_serves").set(self.service.store_serves());
        self.uplink.set_readiness(Readiness {
            utc_ms: self.env.clock.now_ms(),
            ready: reason.is_none(),
            reason: reason.clone().unwrap_or_default(),
            load_permille: self.service.load_permille(),
            draining: self.service.is_draining(),
        });
        let health = match reason {
            None => whimbrel_host::Readiness::Ready,
            Some(reason) => whimbrel_host::Readiness::NotReady(reason),
        };
        self.health.set_ready(COMPONENT, health);
    }
}

/// A service node among the leases.
fn peer(lease: &NodeLease) -> Option<Peer> {
    if lease.role() != Role::AppService {
        return None;
    }
    let node = NodeId::new(&lease.node).ok()?;
    Some(Peer {
        node,
        incarnation: Incarnation(lease.incarnation),
        draining: lease.draining,
        // One that this version cannot read names no app here.
        app_keys: lease
            .app_keys
            .iter()
            .filter_map(|key| AppKey::new(key).ok())
            .collect(),
        capacity: Capacity::of_peer(lease.capacity_percent),
    })
}
