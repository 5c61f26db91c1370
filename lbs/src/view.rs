//! What is known of the gateways: the registry's last good answer, ready to be served.
//!
//! A registry that does not answer changes nothing here. One that has lost everything (another life) answers with few
//! gateways or none until they have announced themselves again; for a grace those known before stay listed, since a
//! client that tries a gateway which is gone loses a moment, and one that is told of none is locked out.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::watch;
use whimbrel_host::{HostParts, Readiness};
use whimbrel_protocol::{
    cluster::{NodeLease, Role},
    ids::Incarnation,
};
use whimbrel_registry::Registry;

use crate::{COMPONENT, choose::Load, config::LbsConfig};

/// One live gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) node: String,
    /// The signed descriptor's exact bytes, in base64url without padding.
    pub(crate) descriptor: String,
    pub(crate) load: Load,
    /// Apps it serves; empty for all.
    pub(crate) app_keys: Vec<String>,
}

impl Gateway {
    /// The gateway of a lease, if clients may be sent there.
    fn of_lease(lease: &NodeLease) -> Option<Self> {
        if lease.draining || lease.role() != Role::Gateway || lease.descriptor.is_empty() {
            return None;
        }
        Some(Self {
            node: lease.node.clone(),
            descriptor: data_encoding::BASE64URL_NOPAD.encode(&lease.descriptor),
            load: Load {
                permille: lease.load_permille,
                connections: lease.connections,
            },
            app_keys: lease.app_keys.clone(),
        })
    }

    pub(crate) fn serves(&self, app_key: &str) -> bool {
        self.app_keys.is_empty() || self.app_keys.iter().any(|key| key == app_key)
    }
}

/// The gateways as last heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) gateways: Vec<Gateway>,
    life: Option<Incarnation>,
    /// Gateways of the registry's life before, and until when they stay listed.
    remembered: Option<(Vec<Gateway>, Duration)>,
}

impl View {
    /// Nothing heard yet.
    pub(crate) fn new() -> Self {
        Self {
            gateways: Vec::new(),
            life: None,
            remembered: None,
        }
    }

    /// A view of these, for tests of what is made of it.
    #[cfg(test)]
    pub(crate) fn of(gateways: Vec<Gateway>) -> Self {
        Self {
            gateways,
            ..Self::new()
        }
    }

    /// The view after the registry, in this life of it, answered with `leases` at `now`.
    pub(crate) fn after(
        &self,
        now: Duration,
        life: Option<Incarnation>,
        leases: &[NodeLease],
        grace: Duration,
    ) -> Self {
        let mut gateways: Vec<Gateway> = leases.iter().filter_map(Gateway::of_lease).collect();
        let mut remembered = if self.life.is_some() && life.is_some() && life != self.life {
            Some((self.gateways.clone(), now.saturating_add(grace)))
        } else {
            self.remembered.clone().filter(|(_, until)| now < *until)
        };
        if let Some((earlier, _)) = &mut remembered {
            // One that has announced itself again, draining or not, is listed as it is now, and when it has left, not at
            // all: what was before counts for it no more.
            let heard: BTreeSet<&str> = leases.iter().map(|lease| lease.node.as_str()).collect();
            earlier.retain(|gateway| !heard.contains(gateway.node.as_str()));
            gateways.extend_from_slice(earlier);
        }
        gateways.sort_by(|a, b| a.node.cmp(&b.node));
        Self {
            gateways,
            life: life.or(self.life),
            remembered,
        }
    }
}

/// Keeps `publish` at the registry's newest answer until the drain has begun.
pub(crate) async fn refresh(
    registry: Arc<dyn Registry>,
    config: LbsConfig,
    host: HostParts,
    publish: watch::Sender<Arc<View>>,
) {
    let life = registry.life();
    let mut ticks = tokio::time::interval(config.refresh_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    // An LBS that has never had a gateway to name is of no use yet; one that has lost them all is not made better by
    // being taken out of service.
    let mut listed = false;
    loop {
        tokio::select! {
            () = host.drain.started() => return,
            _ = ticks.tick() => {}
        }
        let answer = tokio::select! {
            () = host.drain.started() => return,
            answer = tokio::time::timeout(config.registry_timeout, registry.nodes(Some(Role::Gateway))) => answer,
        };
        let fault = match answer {
            Ok(Ok(leases)) => {
                let life = *life.borrow();
                let now = host.clock.monotonic();
                publish.send_modify(|view| {
                    *view = Arc::new(view.after(now, life, &leases, config.registry_loss_grace));
                });
                metrics::gauge!("whimbrel_lbs_gateways").set(count(publish.borrow().gateways.len()));
                listed |= !publish.borrow().gateways.is_empty();
                let readiness = if listed {
                    Readiness::Ready
                } else {
                    Readiness::NotReady("no gateway is in the registry yet".to_owned())
                };
                host.health.set_ready(COMPONENT, readiness);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {:?}", config.registry_timeout)),
        };
        if let Some(reason) = &fault {
            metrics::counter!("whimbrel_lbs_registry_errors_total").increment(1);
            if !failing {
                tracing::warn!(
                    reason,
                    "the registry does not answer; the gateways last known stay listed"
                );
            }
        } else if failing {
            tracing::info!("the registry answers again");
        }
        failing = fault.is_some();
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; a cluster's gateways are far below 2^53"
)]
fn count(gateways: usize) -> f64 {
    gateways as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);
    const FIRST: Option<Incarnation> = Some(Incarnation(1));
    const SECOND: Option<Incarnation> = Some(Incarnation(2));

    fn lease(node: &str) -> NodeLease {
        NodeLease {
            node: node.to_owned(),
            role: Role::Gateway.into(),
            descriptor: vec![0xff, 0xfe].into(),
            ..NodeLease::default()
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn names(view: &View) -> Vec<&str> {
        view.gateways
            .iter()
            .map(|gateway| gateway.node.as_str())
            .collect()
    }

    #[test]
    fn only_gateways_that_take_clients_are_listed() {
        let draining = NodeLease {
            draining: true,
            ..lease("draining")
        };
        let router = NodeLease {
            role: Role::Router.into(),
            ..lease("router")
        };
        let unsigned = NodeLease {
            descriptor: Vec::new().into(),
            ..lease("unsigned")
        };
        let view = View::new().after(at(0), FIRST, &[draining, router, unsigned, lease("g1")], GRACE);
        assert_eq!(names(&view), ["g1"]);
        assert_eq!(view.gateways[0].descriptor, "__4");
    }

    #[test]
    fn a_gateway_that_left_in_the_same_life_is_gone_at_once() {
        let view = View::new().after(at(0), FIRST, &[lease("g1"), lease("g2")], GRACE);
        assert_eq!(names(&view.after(at(1), FIRST, &[lease("g2")], GRACE)), ["g2"]);
    }

    #[test]
    fn a_registry_that_lost_everything_keeps_the_known_ones_listed_for_the_grace() {
        let view = View::new().after(at(0), FIRST, &[lease("g1"), lease("g2"), lease("g3")], GRACE);
        let view = view.after(at(1), SECOND, &[], GRACE);
        assert_eq!(names(&view), ["g1", "g2", "g3"]);
        let back = NodeLease {
            draining: true,
            ..lease("g2")
        };
        let view = view.after(at(2), SECOND, &[lease("g1"), back], GRACE);
        assert_eq!(
            names(&view),
            ["g1", "g3"],
            "what announced itself again is listed as it is now"
        );
        let view = view.after(at(11), SECOND, &[lease("g1")], GRACE);
        assert_eq!(names(&view), ["g1"]);
    }

    #[test]
    fn a_gateway_that_came_back_after_the_loss_and_left_is_not_listed_again() {
        let view = View::new().after(at(0), FIRST, &[lease("g1"), lease("g2")], GRACE);
        let draining = NodeLease {
            draining: true,
            ..lease("g2")
        };
        let view = view.after(at(1), SECOND, &[lease("g1"), draining], GRACE);
        assert_eq!(names(&view), ["g1"]);
        let view = view.after(at(2), SECOND, &[lease("g1")], GRACE);
        assert_eq!(names(&view), ["g1"], "its lease ended with its drain");
    }

    #[test]
    fn a_gateway_of_its_own_serves_its_apps_only() {
        let own = NodeLease {
            app_keys: vec!["acme".to_owned()],
            ..lease("own")
        };
        let view = View::new().after(at(0), FIRST, &[own, lease("shared")], GRACE);
        let serving = |app: &str| view.gateways.iter().filter(|gateway| gateway.serves(app)).count();
        assert_eq!((serving("acme"), serving("demo")), (2, 1));
    }
}
