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
/// So much must have come to all before its share of it is looked at.
const CAME: f64 = 200.0;
/// The run's users and conversations are few, so that chance alone gives a node half or twice its share; a quarter it does not give.
const SHARE_LEAST: f64 = 0.25;

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

/// A service node: all its weight at each router; its share of the work for users' rows, which is every service node's; and of
/// requests, which routers give to the nodes of their own zone, if anybody is at a gateway there.
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
    let all = cluster.members_of(Role::AppService);
    let mut zone = all.clone();
    zone.retain(|node| node.zone() == member.zone());
    let before = [
        got(cluster, &all, "user_work").await,
        got(cluster, &zone, "client_request").await,
    ];
    loop {
        let now = [
            got(cluster, &all, "user_work").await,
            got(cluster, &zone, "client_request").await,
        ];
        let [work, requests] = [0, 1].map(|kind| {
            let growth = now[kind].iter().zip(&before[kind]);
            growth.map(|(now, before)| now - before).collect::<Vec<_>>()
        });
        let nobody_is_there = requests.iter().all(|count| *count == 0.0);
        if has_its_share(member, &all, &work) && (nobody_is_there || has_its_share(member, &zone, &requests))
        {
            return;
        }
        assert!(
            listens.elapsed() < SHARE_WITHIN,
            "{SHARE_WITHIN:?} after {member} listens {all:?} have since had work {work:?}, {zone:?} requests {requests:?}; \
             routers say: {:?}",
            cluster.views()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the node had of all that came to these at least what chance leaves it.
fn has_its_share(member: Member, nodes: &[Member], growth: &[f64]) -> bool {
    let of_all: f64 = growth.iter().sum();
    let own = nodes.iter().zip(growth).find(|(node, _)| **node == member);
    let own = own.map_or(0.0, |(_, growth)| *growth);
    #[expect(clippy::cast_precision_loss, reason = "a few nodes")]
    let share = of_all / nodes.len() as f64;
    of_all >= CAME && own >= SHARE_LEAST * share
}

/// How much of a kind routers have given to each.
async fn got(cluster: &Cluster, nodes: &[Member], kind: &str) -> Vec<f64> {
    let frames = format!(
        "whimbrel_link_frames_total{{from_role=\"router\",to_role=\"app-service\",kind=\"{kind}\",direction=\"in\"}}"
    );
    let mut all = Vec::new();
    for node in nodes {
        all.push(metrics::of(cluster, *node, &frames).await.unwrap_or(0.0));
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
