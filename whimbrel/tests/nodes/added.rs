//! A node that is added under load carries its share within 30 s.

use std::time::{Duration, Instant};

use serde_json::Value;
use whimbrel_cluster::{Cluster, Member, Role};

use crate::cluster::{Deployed, LOOK_EVERY, READY_WITHIN};
use crate::{metrics, people};

/// How long after it listens it may take.
const SHARE_WITHIN: Duration = Duration::from_secs(30);
/// A node's whole weight, as routers show it.
const FULL_WEIGHT: u64 = 1_000;
/// Commits of its zone over which its share is looked at.
const COMMITS: f64 = 200.0;
/// The run's conversations are few, so that chance alone gives a node half or twice its share; a quarter it does not give.
const SHARE_LEAST: f64 = 0.25;

const COMMITTED: &str = "whimbrel_commits_total{end=\"committed\"}";
const LOGINS: &str = "whimbrel_gateway_logins_total";

/// Starts the node of a role that was held back and waits until it listens.
async fn add(cluster: &mut Cluster, role: Role) -> Member {
    let there = cluster.members();
    let mut all = cluster.shape().members_of(role);
    let member = all
        .find(|member| !there.contains(member))
        .expect("one was held back");
    cluster.add(member).expect("it was held back");
    let began = Instant::now();
    while !cluster.standings()[&member].up {
        assert!(
            began.elapsed() < READY_WITHIN,
            "{member} does not listen after {READY_WITHIN:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    member
}

/// Whether every router gives it all of an ordinary node's work.
fn has_full_weight(cluster: &Cluster, member: Member) -> bool {
    let views = cluster.views();
    let name = member.to_string();
    let is_full = |view: &Value| {
        let nodes = view["nodes"].as_array().into_iter().flatten();
        let mut own = nodes.filter(|node| node["node"] == *name && node["link"] == "up");
        own.any(|node| node["health"] == "ready" && node["weight"] == FULL_WEIGHT)
    };
    cluster
        .members_of(Role::Router)
        .iter()
        .all(|router| views.get(router).is_some_and(is_full))
}

/// A service node: all its weight at each router, and its share of what is committed in its zone, to whose nodes routers there give
/// what they get.
pub(crate) async fn service_node(deployed: &mut Deployed) {
    let cluster = deployed.cluster();
    let member = add(cluster, Role::AppService).await;
    let listens = Instant::now();
    while !has_full_weight(cluster, member) {
        assert!(
            listens.elapsed() < SHARE_WITHIN,
            "not all of its weight {SHARE_WITHIN:?} after {member} listens: {:?}",
            cluster.views()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut zone = cluster.members_of(Role::AppService);
    zone.retain(|node| node.zone() == member.zone());
    let before = committed(cluster, &zone).await;
    loop {
        let now = committed(cluster, &zone).await;
        let growth: Vec<f64> = now
            .iter()
            .zip(&before)
            .map(|(now, before)| now - before)
            .collect();
        let of_all: f64 = growth.iter().sum();
        let own = zone.iter().zip(&growth).find(|(node, _)| **node == member);
        let own = own.map_or(0.0, |(_, growth)| *growth);
        #[expect(clippy::cast_precision_loss, reason = "a few nodes")]
        let share = of_all / zone.len() as f64;
        if of_all >= COMMITS && own >= SHARE_LEAST * share {
            return;
        }
        assert!(
            listens.elapsed() < SHARE_WITHIN,
            "{SHARE_WITHIN:?} after {member} listens the nodes {zone:?} have since committed {growth:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn committed(cluster: &Cluster, nodes: &[Member]) -> Vec<f64> {
    let mut all = Vec::new();
    for node in nodes {
        all.push(metrics::of(cluster, *node, COMMITTED).await.unwrap_or(0.0));
    }
    all
}

/// A gateway: of those who come now some come to it.
pub(crate) async fn gateway(deployed: &mut Deployed) {
    let member = add(deployed.cluster(), Role::Gateway).await;
    let listens = Instant::now();
    for nth in 0.. {
        people::newcomer(deployed, &format!("newcomer-{nth}")).await;
        let logins = metrics::of(deployed.cluster(), member, LOGINS).await;
        if logins.is_some_and(|logins| logins > 0.0) {
            return;
        }
        assert!(
            listens.elapsed() < SHARE_WITHIN,
            "{SHARE_WITHIN:?} after {member} listens none of {} newcomers came to it",
            2 * (nth + 1)
        );
    }
}
