//! The core as it shows itself. Pure.

use std::time::Duration;

use whimbrel_link::Identity;
use whimbrel_protocol::cluster::Role;

use super::Core;
use super::nodes::{Gone, Node};
use crate::circuit;
use crate::topology::{LinkState, NodeHealth, NodeView, RouterSelf, Topology};

impl Core {
    /// What this router sees now.
    pub(crate) fn topology(&self, now: Duration, up: Duration) -> Topology {
        let linked = self.nodes.iter().map(|node| of_node(now, node));
        let gone = self.nodes.gone(now).map(|gone| of_gone(now, gone));
        let mut nodes: Vec<NodeView> = linked.chain(gone).collect();
        nodes.sort_by(|a, b| (&a.role, &a.node).cmp(&(&b.role, &b.node)));
        let own = &self.own;
        Topology {
            router: RouterSelf {
                node: own.node.as_str().to_owned(),
                incarnation: hex(own),
                cluster: own.cluster.clone(),
                zone: own.zone.clone(),
                version: own.version_tag.clone(),
                draining: self.draining,
                keeps_registry: self.serves_registry,
                clock_ahead_ms: self.own_ahead_ms,
                pending: self.pending.len(),
                load_permille: self.pending.load_permille(),
                up_ms: ms(up),
                switched: self.counts.switched,
                retried: self.counts.retried,
                refused_overloaded: self.counts.refused_overloaded,
                refused_unavailable: self.counts.refused_unavailable,
            },
            nodes,
        }
    }
}

fn of_node(now: Duration, node: &Node) -> NodeView {
    let health = health_of(now, node);
    let told = node.health.told();
    let ejected_for_ms = match node.health.circuit().state() {
        circuit::State::Open { until } => Some(ms(until.saturating_sub(now))),
        circuit::State::Closed { .. } | circuit::State::HalfOpen { .. } => None,
    };
    NodeView {
        link_for_ms: ms(now.saturating_sub(node.since)),
        health,
        reason: told
            .filter(|told| !told.ready)
            .map_or_else(String::new, |told| told.reason.clone()),
        weight: node.weight(now),
        load_permille: told.map_or(0, |told| told.load_permille),
        outstanding: node.outstanding,
        ejected_for_ms,
        ejections: node.health.circuit().openings(),
        clock_ahead_ms: node.health.clock_ahead_ms(),
        ..of_identity(&node.identity)
    }
}

fn of_gone(now: Duration, gone: &Gone) -> NodeView {
    NodeView {
        link: LinkState::Down,
        link_for_ms: ms(now.saturating_sub(gone.at)),
        health: NodeHealth::Gone,
        ..of_identity(&gone.identity)
    }
}

fn of_identity(identity: &Identity) -> NodeView {
    NodeView {
        role: role(identity.role).to_owned(),
        node: identity.node.as_str().to_owned(),
        incarnation: hex(identity),
        zone: identity.zone.clone(),
        version: identity.version_tag.clone(),
        app_keys: identity
            .app_keys
            .iter()
            .map(|key| key.as_str().to_owned())
            .collect(),
        capacity_percent: identity.capacity.percent(),
        link: LinkState::Up,
        link_for_ms: 0,
        health: NodeHealth::Unknown,
        reason: String::new(),
        weight: 0,
        load_permille: 0,
        outstanding: 0,
        ejected_for_ms: None,
        ejections: 0,
        clock_ahead_ms: 0,
    }
}

fn health_of(now: Duration, node: &Node) -> NodeHealth {
    let health = &node.health;
    match (health.told(), health.circuit().state()) {
        _ if health.is_silent() => NodeHealth::Silent,
        _ if health.clock_ahead_ms() != 0 => NodeHealth::ClockOff,
        (None, _) => NodeHealth::Unknown,
        (Some(told), _) if told.draining => NodeHealth::Draining,
        (Some(told), _) if !told.ready => NodeHealth::NotReady,
        (_, circuit::State::Open { .. }) => NodeHealth::Ejected,
        (_, circuit::State::HalfOpen { .. }) => NodeHealth::Tried,
        _ if health.weight_permille(now) < 1_000 => NodeHealth::Starting,
        _ => NodeHealth::Ready,
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Gateway => "gateway",
        Role::Router => "router",
        Role::AppService => "app-service",
        Role::Lbs => "lbs",
        Role::Unspecified => "unknown",
    }
}

fn hex(identity: &Identity) -> String {
    format!("{:016x}", identity.incarnation.0)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
