//! A router's lease: how nodes that ask the registry find it; and what the registry says of who holds a name that was refused here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use whimbrel_host::Drain;
use whimbrel_link::Endpoint;
use whimbrel_protocol::cluster::NodeLease;
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{Registry, RegistryError, lease_of};

use crate::shell::RouterView;

/// Between renewals, and between looks at who holds the names: a registry that forgot everything knows the routers again within it, and a
/// node that has just come has its lease there.
const RENEWAL: Duration = Duration::from_secs(3);
/// Renewals that a lease outlives.
const RENEWALS_PER_LEASE: u32 = 3;
/// How long giving the lease back may take: it ends by itself.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps a lease with `link_address` (host:port, as other nodes reach it) in `registry`, until the router's endpoint is
/// told to shut down; then gives it back. From the drain's start on it says so, and nobody new comes. When the endpoint has refused
/// an earlier life of some node, it learns here which lives hold the names: its own memory of who came last can be wrong. It asks with
/// the renewals and at no other time.
pub async fn announce(
    registry: Arc<dyn Registry>,
    endpoint: Endpoint,
    link_address: String,
    view: RouterView,
    drain: Drain,
) {
    let own = endpoint.identity().clone();
    let lease = NodeLease {
        link_address,
        ..lease_of(&own, RENEWAL * RENEWALS_PER_LEASE)
    };
    let mut renewals = tokio::time::interval(RENEWAL);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut failing, mut drain_told) = (false, false);
    loop {
        let is_due = tokio::select! {
            () = endpoint.stopping() => break,
            () = drain.started(), if !drain_told => {
                drain_told = true;
                false
            }
            _ = renewals.tick() => true,
        };
        let seen = view.look().await;
        let renewed = NodeLease {
            load_permille: seen.as_ref().map_or(0, |seen| seen.router.load_permille),
            connections: seen.map_or(0, |seen| seen.nodes.len() as u64),
            draining: drain.is_started(),
            ..lease.clone()
        };
        match registry.put_node(renewed).await {
            Ok(_) => failing = false,
            Err(error @ RegistryError::Superseded { .. }) => {
                tracing::error!(%error, "this router leaves");
                drain.start();
                return;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the router's lease was not renewed; nodes that are linked stay so");
                }
                failing = true;
            }
        }
        if is_due
            && endpoint.has_refused_lives()
            && let Ok(leases) = registry.nodes(None).await
        {
            endpoint.learn_holders(leases.iter().filter_map(holder));
        }
    }
    let removal = registry.remove_node(&own.node, own.incarnation);
    if !matches!(tokio::time::timeout(REMOVAL_TIMEOUT, removal).await, Ok(Ok(()))) {
        tracing::debug!("the lease was not given back; it ends by itself");
    }
}

/// Who holds the name of a lease.
fn holder(lease: &NodeLease) -> Option<(NodeId, Incarnation)> {
    Some((NodeId::new(&lease.node).ok()?, Incarnation(lease.incarnation)))
}
