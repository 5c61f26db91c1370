//! Finding routers: an endpoint that dials those whose leases the registry shows.
//!
//! For nodes whose registry can be reached without a router (Redis), and for finding further routers through one that is
//! known. What to dial is decided in `core`; here it is asked for and done. A registry that does not answer changes
//! nothing, and a link that works is never cut for what the registry says.

mod core;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use whimbrel_link::{Dialing, Endpoint};
use whimbrel_protocol::cluster::Role;

use self::core::{Core, Step};
use crate::Registry;

/// Between two looks at the registry: a router that was added gets its share within seconds, and a thousand nodes ask it
/// three hundred times a second at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps `endpoint` dialling the routers that `registry` knows, until the endpoint shuts down. Addresses that the endpoint
/// was told to dial by others are left alone.
///
/// | metric | meaning |
/// |---|---|
/// | `whimbrel_discovery_routers` | routers found and dialled now |
/// | `whimbrel_discovery_errors_total` | looks that the registry did not answer |
pub async fn follow_routers(registry: Arc<dyn Registry>, endpoint: Endpoint) {
    let start = Instant::now();
    let (mut core, mut dialled) = (Core::default(), BTreeMap::<String, Dialing>::new());
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = endpoint.stopping() => return,
            _ = looks.tick() => {}
        }
        let answer = tokio::select! {
            () = endpoint.stopping() => return,
            answer = tokio::time::timeout(LOOK_TIMEOUT, registry.nodes(Some(Role::Router))) => answer,
        };
        let fault = match answer {
            Ok(Ok(leases)) => {
                for step in core.handle_view(start.elapsed(), &leases, &|node| endpoint.is_linked(node)) {
                    match step {
                        Step::Dial { router, address } => {
                            tracing::info!(%router, address, "a router was found");
                            dialled.insert(address.clone(), endpoint.dial(address));
                        }
                        Step::GiveUp { router, address } => {
                            tracing::info!(%router, address, "a router's lease has ended: it is dialled no more");
                            if let Some(dialing) = dialled.remove(&address) {
                                dialing.give_up();
                            }
                        }
                    }
                }
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a gauge is a float; routers are bounded"
                )]
                metrics::gauge!("whimbrel_discovery_routers").set(dialled.len() as f64);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {LOOK_TIMEOUT:?}")),
        };
        if let Some(reason) = &fault {
            metrics::counter!("whimbrel_discovery_errors_total").increment(1);
            if !failing {
                tracing::warn!(
                    reason,
                    "the registry does not say which routers there are; those found before are kept"
                );
            }
        } else if failing {
            tracing::info!("the registry says again which routers there are");
        }
        failing = fault.is_some();
    }
}
