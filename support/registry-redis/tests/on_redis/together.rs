//! Several nodes on one server: what one does the others see, and clusters leave each other alone.

use std::collections::BTreeSet;

use futures::future::join_all;
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::conformance::{lease, room_counts, session};
use whimbrel_registry::{Registry, RegistryError, Role, RoomKey, UserKey};
use whimbrel_registry_redis::{RedisRegistry, StartError};

use crate::block_on;
use crate::faults::done;
use crate::harness::{config, new_cluster, registry};
use crate::server::{Cluster, PATIENCE, Server, wait_for};

pub(crate) const TESTS: [(&str, fn()); 7] = [
    (
        "nodes_see_at_once_what_another_does",
        nodes_see_at_once_what_another_does,
    ),
    (
        "of_logins_that_race_the_highest_stays",
        of_logins_that_race_the_highest_stays,
    ),
    ("large_requests_are_whole", large_requests_are_whole),
    (
        "two_clusters_share_a_server_unseen",
        two_clusters_share_a_server_unseen,
    ),
    (
        "another_cluster_of_the_same_name_is_refused",
        another_cluster_of_the_same_name_is_refused,
    ),
    (
        "what_an_ended_life_left_is_removed",
        what_an_ended_life_left_is_removed,
    ),
    (
        "a_clock_that_jumps_ends_no_lease",
        a_clock_that_jumps_ends_no_lease,
    ),
];

pub(crate) const G1: (&str, u64) = ("g1", 1);
pub(crate) const G2: (&str, u64) = ("g2", 2);

pub(crate) async fn slots(registry: &RedisRegistry, user_id: u64) -> Vec<u32> {
    let user = UserKey {
        app_key: "demo".to_owned(),
        user_id,
    };
    let found = done(|| registry.look_up(vec![user.clone()])).await;
    found
        .into_iter()
        .map(|record| record.session.unwrap().slot)
        .collect()
}

pub(crate) async fn put(registry: &RedisRegistry, gateway: (&str, u64), ttl_ms: u32) {
    let lease = lease(gateway.0, Role::Gateway, gateway.1, ttl_ms);
    done(|| registry.put_node(lease.clone())).await;
}

fn nodes_see_at_once_what_another_does() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let cluster = new_cluster();
        let url = server.url();
        let (one, other) = tokio::join!(registry(&url, &cluster), registry(&url, &cluster));
        assert_eq!(*one.life().borrow(), *other.life().borrow());
        let mut changes = other.changes();
        put(&one, G1, 60_000).await;
        tokio::time::timeout(PATIENCE, changes.changed())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(other.nodes(None).await.unwrap().len(), 1);
        assert!(
            one.register(session(G1, 1, 7, "phone", 1))
                .await
                .unwrap()
                .accepted
        );
        assert_eq!(slots(&other, 7).await, [1]);
        one.put_rooms(room_counts(G1, &[("hall", 3)])).await.unwrap();
        let hall = RoomKey {
            app_key: "demo".to_owned(),
            room: "hall".to_owned(),
        };
        assert_eq!(other.look_up_room(hall).await.unwrap().len(), 1);
        // A later life takes the name: the others hear of it, and believe the former one no more.
        changes.mark_unchanged();
        put(&one, ("g1", 11), 60_000).await;
        tokio::time::timeout(PATIENCE, changes.changed())
            .await
            .unwrap()
            .unwrap();
        assert!(slots(&other, 7).await.is_empty());
        let late = other.register(session(G1, 2, 7, "phone", 2)).await;
        assert!(matches!(late, Err(RegistryError::Superseded { .. })), "{late:?}");
    });
}

fn of_logins_that_race_the_highest_stays() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let cluster = new_cluster();
        let nodes = [
            registry(&server.url(), &cluster).await,
            registry(&server.url(), &cluster).await,
        ];
        put(&nodes[0], G1, 60_000).await;
        put(&nodes[1], G2, 60_000).await;
        for user in 0..20 {
            let logins = (1..=20_u32).map(|epoch| {
                // In an order that is not theirs.
                let epoch = epoch * 7 % 23;
                let (node, gateway) = if epoch % 2 == 0 {
                    (&nodes[0], G1)
                } else {
                    (&nodes[1], G2)
                };
                node.register(session(gateway, epoch, user, "phone", epoch.into()))
            });
            let outcomes: Vec<_> = join_all(logins).await.into_iter().map(Result::unwrap).collect();
            assert_eq!(slots(&nodes[0], user).await, [22]);
            // All that were accepted, but for the last one, were told to somebody; more than once is no harm.
            let accepted = outcomes.iter().filter(|outcome| outcome.accepted).count();
            let displaced: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.displaced).collect();
            let told: BTreeSet<_> = displaced.iter().map(|record| record.login_epoch).collect();
            assert_eq!(told.len(), accepted - 1);
            assert!(!told.contains(&22), "it has its place");
        }
    });
}

fn large_requests_are_whole() {
    let cluster = Cluster::start();
    block_on(async {
        let node = registry(&cluster.url(), &new_cluster()).await;
        put(&node, G1, 60_000).await;
        for chunk in 0..4_u64 {
            let records = (0..1_000).map(|nth| session(G1, 1, chunk * 1_000 + nth, "phone", 1));
            assert!(node.announce(records.collect()).await.unwrap().is_empty());
        }
        let users = (0..4_000).map(|user_id| UserKey {
            app_key: "demo".to_owned(),
            user_id,
        });
        let found = node.look_up(users.collect()).await.unwrap();
        assert_eq!(found.len(), 4_000);
        assert!(found.windows(2).all(|pair| pair[0].user_id < pair[1].user_id));
        let names: Vec<String> = (0..1_000).map(|nth| format!("room {nth}")).collect();
        let counts: Vec<_> = names.iter().map(|name| (name.as_str(), 2)).collect();
        node.put_rooms(room_counts(G1, &counts)).await.unwrap();
    });
}

fn two_clusters_share_a_server_unseen() {
    let server = Server::start(&["--save", ""]);
    let _: String = server.ask("SET somebody else");
    block_on(async {
        let (a, b) = (new_cluster(), new_cluster());
        let (one, other) = (
            registry(&server.url(), &a).await,
            registry(&server.url(), &b).await,
        );
        put(&one, G1, 60_000).await;
        put(&other, G1, 60_000).await;
        one.register(session(G1, 1, 7, "phone", 1)).await.unwrap();
        assert!(slots(&other, 7).await.is_empty());
        other.register(session(G1, 2, 7, "phone", 9)).await.unwrap();
        one.remove_node(&NodeId::new("g1").unwrap(), Incarnation(1))
            .await
            .unwrap();
        assert_eq!(slots(&other, 7).await, [2]);
        let keys: Vec<String> = server.ask("KEYS *");
        for key in keys {
            let is_ours = [&a, &b]
                .iter()
                .any(|name| key.starts_with(&format!("whimbrel:1:{{{name}.")));
            assert!(is_ours || key == "somebody", "{key}");
        }
    });
}

fn another_cluster_of_the_same_name_is_refused() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let cluster = new_cluster();
        let ours = registry(&server.url(), &cluster).await;
        put(&ours, G1, 60_000).await;
        let mut theirs = config(&server.url(), &cluster);
        theirs.owner = "them".to_owned();
        let error = RedisRegistry::start(theirs).await.unwrap_err();
        assert!(matches!(error, StartError::Refused { .. }));
        let text = error.to_string();
        for part in [&*server.url(), &*cluster, "secret differs", "node.cluster"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        assert_eq!(ours.nodes(None).await.unwrap().len(), 1);
    });
}

fn what_an_ended_life_left_is_removed() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let node = registry(&server.url(), &new_cluster()).await;
        put(&node, G1, 60_000).await;
        put(&node, G2, 60_000).await;
        let records = (0..500).map(|user| session(G1, 1, user, "phone", 1)).collect();
        node.announce(records).await.unwrap();
        node.register(session(G2, 2, 7, "tablet", 1)).await.unwrap();
        // Displaced, so that nothing of this user is left on the first.
        node.register(session(G2, 3, 8, "phone", 2)).await.unwrap();
        node.put_rooms(room_counts(G1, &[("hall", 3), ("bar", 1)]))
            .await
            .unwrap();
        node.put_rooms(room_counts(G2, &[("hall", 1)])).await.unwrap();
        node.remove_node(&NodeId::new("g1").unwrap(), Incarnation(1))
            .await
            .unwrap();
        let _server = tokio::task::spawn_blocking(move || {
            wait_for("nothing of the first is left", || {
                let keys: Vec<String> = server.ask("KEYS *");
                let of = |what: &str| keys.iter().filter(|key| key.contains(what)).count();
                let left = (of("}:u:"), of("}:r:"), of("}:i:g1/"));
                (left == (2, 1, 0)).then_some(())
            });
            server
        })
        .await
        .unwrap();
        assert_eq!(slots(&node, 7).await, [2]);
        assert_eq!(slots(&node, 8).await, [3]);
    });
}

fn a_clock_that_jumps_ends_no_lease() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let cluster = new_cluster();
        let node = registry(&server.url(), &cluster).await;
        put(&node, G1, 60_000).await;
        for last in ["1", "99999999999999"] {
            // As though the server's clock had been set by years, on or back.
            let _: i64 = server.ask(&format!("HSET whimbrel:1:{{{cluster}.n}}:clock last {last}"));
            assert_eq!(node.nodes(None).await.unwrap().len(), 1);
        }
        // And time goes on after it.
        put(&node, G2, 1_000).await;
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        assert_eq!(node.nodes(None).await.unwrap().len(), 1);
    });
}
