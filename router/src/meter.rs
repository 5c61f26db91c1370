//! What a router counts.
//!
//! | metric | labels | meaning |
//! |---|---|---|
//! | `whimbrel_router_switched_total` | | requests passed on to a node |
//! | `whimbrel_router_answered_total` | | answers passed back |
//! | `whimbrel_router_retried_total` | | requests sent to a second node |
//! | `whimbrel_router_lost_total` | | requests whose node went away and that could not be retried |
//! | `whimbrel_router_expired_total` | | requests not answered in time |
//! | `whimbrel_router_refused_total` | `reason` | requests not passed on: `overloaded`, `unavailable`, `unknown_node`, `bad_request` |
//! | `whimbrel_router_dropped_total` | | answers and one-way frames a full or closed link did not take |
//! | `whimbrel_router_ejections_total` | | nodes taken out for failing |
//! | `whimbrel_router_silences_total` | | nodes taken out for leaving probes unanswered |
//! | `whimbrel_router_pending` | | requests out now |
//! | `whimbrel_router_nodes` | `role`, `state` | nodes `linked`, and of them `fit` |

use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use whimbrel_protocol::cluster::Role;

use crate::core::{Core, Counts};

const ROLES: [(Role, &str); 4] = [
    (Role::Gateway, "gateway"),
    (Role::Router, "router"),
    (Role::AppService, "app-service"),
    (Role::Lbs, "lbs"),
];

/// Picks one count.
type ReadCount = fn(&Counts) -> u64;

/// Publishes what the core has counted.
pub(crate) struct Meter {
    counters: Vec<(Counter, ReadCount)>,
    pending: Gauge,
    nodes: Vec<(Role, Gauge, Gauge)>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let refused = |reason: &'static str| counter!("whimbrel_router_refused_total", "reason" => reason);
        let nodes = |role: &'static str, state: &'static str| gauge!("whimbrel_router_nodes", "role" => role, "state" => state);
        Self {
            counters: vec![
                (counter!("whimbrel_router_switched_total"), |counts| {
                    counts.switched
                }),
                (counter!("whimbrel_router_answered_total"), |counts| {
                    counts.answered
                }),
                (counter!("whimbrel_router_retried_total"), |counts| counts.retried),
                (counter!("whimbrel_router_lost_total"), |counts| counts.lost),
                (counter!("whimbrel_router_expired_total"), |counts| counts.expired),
                (refused("overloaded"), |counts| counts.refused_overloaded),
                (refused("unavailable"), |counts| counts.refused_unavailable),
                (refused("unknown_node"), |counts| counts.refused_unknown_node),
                (refused("bad_request"), |counts| counts.refused_bad_request),
                (counter!("whimbrel_router_dropped_total"), |counts| counts.dropped),
                (counter!("whimbrel_router_ejections_total"), |counts| {
                    counts.ejections
                }),
                (counter!("whimbrel_router_silences_total"), |counts| {
                    counts.silences
                }),
            ],
            pending: gauge!("whimbrel_router_pending"),
            nodes: ROLES
                .map(|(role, label)| (role, nodes(label, "linked"), nodes(label, "fit")))
                .into(),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "gauges are doubles; counts stay far below 2^53"
    )]
    pub(crate) fn publish(&self, now: Duration, core: &Core) {
        for (counter, read) in &self.counters {
            counter.absolute(read(core.counts()));
        }
        self.pending.set(core.pending() as f64);
        for (role, linked, fit) in &self.nodes {
            let (all, well) = core.nodes(now, *role);
            linked.set(all as f64);
            fit.set(well as f64);
        }
    }
}
