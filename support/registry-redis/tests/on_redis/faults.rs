//! Redis killed, frozen, emptied, replaced; and Redis that was never there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::sync::watch;
use whimbrel_protocol::cluster::registry_request::Call;
use whimbrel_protocol::cluster::{LookUpSessions, RegistryRequest};
use whimbrel_protocol::ids::Incarnation;
use whimbrel_registry::conformance::{lease, room_counts, session};
use whimbrel_registry::{Registry, RegistryError, Role, RoomKey, UserKey, serve};
use whimbrel_registry_redis::{RedisRegistry, StartError};

use crate::block_on;
use crate::harness::{config, new_cluster, registry};
use crate::server::{Cluster, PATIENCE, Server, Watched};
use crate::together::{G1, put, slots};

pub(crate) const TESTS: [(&str, fn()); 14] = [
    (
        "one_restarted_empty_is_noticed_by_all",
        one_restarted_empty_is_noticed_by_all,
    ),
    (
        "one_emptied_is_noticed_without_a_call",
        one_emptied_is_noticed_without_a_call,
    ),
    (
        "one_emptied_calls_no_room_empty_before_its_new_life_is_seen",
        one_emptied_calls_no_room_empty_before_its_new_life_is_seen,
    ),
    (
        "one_restarted_with_old_data_is_noticed",
        one_restarted_with_old_data_is_noticed,
    ),
    (
        "one_frozen_answers_nobody_for_long_and_loses_nothing",
        one_frozen_answers_nobody_for_long_and_loses_nothing,
    ),
    (
        "who_was_displaced_by_a_call_without_an_answer_is_told_to_the_next",
        who_was_displaced_by_a_call_without_an_answer_is_told_to_the_next,
    ),
    (
        "one_that_is_not_there_is_named_at_start",
        one_that_is_not_there_is_named_at_start,
    ),
    (
        "one_that_comes_late_is_waited_for",
        one_that_comes_late_is_waited_for,
    ),
    (
        "one_that_will_not_do_is_refused_with_the_cure",
        one_that_will_not_do_is_refused_with_the_cure,
    ),
    (
        "a_replica_that_takes_over_is_found_and_noticed",
        a_replica_that_takes_over_is_found_and_noticed,
    ),
    (
        "a_master_of_a_cluster_restarted_empty_is_noticed",
        a_master_of_a_cluster_restarted_empty_is_noticed,
    ),
    (
        "one_restarted_with_old_data_has_a_term_again_that_had_ended",
        one_restarted_with_old_data_has_a_term_again_that_had_ended,
    ),
    (
        "a_master_of_a_cluster_that_stands_still_has_nobody_wait",
        a_master_of_a_cluster_that_stands_still_has_nobody_wait,
    ),
    (
        "a_cluster_that_is_gone_counts_as_not_connected",
        a_cluster_that_is_gone_counts_as_not_connected,
    ),
];

type Life = watch::Receiver<Option<Incarnation>>;

async fn another(life: &mut Life) -> Option<Incarnation> {
    tokio::time::timeout(PATIENCE, life.changed())
        .await
        .expect("a new life is noticed")
        .unwrap();
    *life.borrow_and_update()
}

/// Waits until calls are answered again.
async fn answers(node: &RedisRegistry) {
    let began = Instant::now();
    while let Err(error) = node.nodes(None).await {
        assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");
        assert!(began.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a call comes to once its part of Redis is there again.
pub(crate) async fn done<T, F: Future<Output = Result<T, RegistryError>>>(call: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is_unavailable(node: &RedisRegistry) {
    let answer = tokio::time::timeout(PATIENCE, node.nodes(None)).await.unwrap();
    assert!(
        matches!(answer, Err(RegistryError::Unavailable { .. })),
        "{answer:?}"
    );
}

fn one_restarted_empty_is_noticed_by_all() {
    let mut server = Server::start(&["--save", ""]);
    block_on(async {
        let cluster = new_cluster();
        let (one, other) = (
            registry(&server.url(), &cluster).await,
            registry(&server.url(), &cluster).await,
        );
        let (mut life_of_one, mut life_of_other) = (one.life(), other.life());
        put(&one, G1, 60_000).await;
        one.register(session(G1, 1, 7, "phone", 1)).await.unwrap();
        server.kill();
        is_unavailable(&one).await;
        is_unavailable(&other).await;
        server.run();
        let (new_to_one, new_to_other) = tokio::join!(another(&mut life_of_one), another(&mut life_of_other));
        assert_eq!(new_to_one, new_to_other);
        answers(&one).await;
        answers(&other).await;
        assert!(slots(&other, 7).await.is_empty());
        // As a gateway does then.
        put(&one, G1, 60_000).await;
        assert!(
            one.announce(vec![session(G1, 1, 7, "phone", 1)])
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(slots(&other, 7).await, [1]);
    });
}

fn one_emptied_is_noticed_without_a_call() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let cluster = new_cluster();
        let (one, other) = (
            registry(&server.url(), &cluster).await,
            registry(&server.url(), &cluster).await,
        );
        let (mut life_of_one, mut life_of_other) = (one.life(), other.life());
        for _ in 0..3 {
            let _: String = server.ask("FLUSHALL");
            let lives = tokio::join!(another(&mut life_of_one), another(&mut life_of_other));
            // Places begin their lives one by one: at rest all agree.
            let (mut last_of_one, mut last_of_other) = lives;
            while last_of_one != last_of_other {
                tokio::select! {
                    last = another(&mut life_of_one) => last_of_one = last,
                    last = another(&mut life_of_other) => last_of_other = last,
                }
            }
        }
        put(&one, G1, 60_000).await;
        assert_eq!(other.nodes(None).await.unwrap().len(), 1);
    });
}

fn one_emptied_calls_no_room_empty_before_its_new_life_is_seen() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let node = registry(&server.url(), &new_cluster()).await;
        put(&node, G1, 60_000).await;
        node.put_rooms(room_counts(G1, &[("hall", 3)])).await.unwrap();
        let hall = RoomKey {
            app_key: "demo".to_owned(),
            room: "hall".to_owned(),
        };
        let before = *node.life().borrow();
        let _: String = server.ask("FLUSHALL");
        let patience = Instant::now() + PATIENCE;
        let told = loop {
            assert!(Instant::now() < patience, "nothing is said of the room any more");
            if let Ok(told) = node.look_up_room(hall.clone()).await {
                break told;
            }
            tokio::task::yield_now().await;
        };
        assert!(told.is_empty());
        assert_ne!(*node.life().borrow(), before);
    });
}

fn one_restarted_with_old_data_is_noticed() {
    let mut server = Server::start(&["--dbfilename", "dump.rdb"]);
    block_on(async {
        let node = registry(&server.url(), &new_cluster()).await;
        let mut life = node.life();
        put(&node, G1, 60_000).await;
        node.register(session(G1, 1, 7, "phone", 1)).await.unwrap();
        let _: String = server.ask("SAVE");
        // This one is not in what it comes back with.
        node.register(session(G1, 2, 8, "phone", 1)).await.unwrap();
        server.kill();
        server.run();
        another(&mut life).await;
        answers(&node).await;
        assert_eq!(slots(&node, 7).await, [1]);
        assert!(slots(&node, 8).await.is_empty());
    });
}

fn one_restarted_with_old_data_has_a_term_again_that_had_ended() {
    let mut server = Server::start(&["--dbfilename", "dump.rdb"]);
    block_on(async {
        let cluster = new_cluster();
        let (node, other) = (
            registry(&server.url(), &cluster).await,
            registry(&server.url(), &cluster).await,
        );
        let mut life = other.life();
        put(&node, G1, 60_000).await;
        done(|| node.register(session(G1, 1, 7, "phone", 1))).await;
        let _: String = server.ask("SAVE");
        // The lease ends, which the other one sees, and begins again.
        let key = format!("whimbrel:1:{{{cluster}.n}}:clock");
        let _: i64 = server.ask(&format!("HINCRBY {key} passed 61000"));
        assert!(slots(&other, 7).await.is_empty());
        put(&node, G1, 60_000).await;
        done(|| node.register(session(G1, 1, 7, "phone", 1))).await;
        assert_eq!(slots(&other, 7).await, [1]);
        server.kill();
        server.run();
        another(&mut life).await;
        answers(&other).await;
        // As a gateway does then.
        put(&node, G1, 60_000).await;
        done(|| node.announce(vec![session(G1, 1, 7, "phone", 1)])).await;
        assert_eq!(slots(&other, 7).await, [1], "the lease is the one that had ended");
    });
}

fn a_master_of_a_cluster_that_stands_still_has_nobody_wait() {
    let cluster = Cluster::start();
    block_on(async {
        let name = new_cluster();
        let node = registry(&cluster.url(), &name).await;
        put(&node, G1, 60_000).await;
        for user in 0..100 {
            done(|| node.register(session(G1, 1, user, "phone", 1))).await;
        }
        for master in &cluster.masters {
            let _: redis::Value = master.ask("CONFIG SET cluster-require-full-coverage no");
        }
        // Without the nodes no session can be told to anybody.
        let nodes_are_on = cluster.master_of(&format!("{{{name}.n}}"));
        let frozen = &cluster.masters[(nodes_are_on + 1) % 3];
        frozen.freeze();
        let look_up = async |user_id| {
            let user = UserKey {
                app_key: "demo".to_owned(),
                user_id,
            };
            let look_up = Call::LookUp(LookUpSessions { users: vec![user] });
            serve(&*node, RegistryRequest { call: Some(look_up) }).await
        };
        // Until that is seen calls wait for as long as they may.
        let began = Instant::now();
        let (mut at_once, mut found) = (0, 0);
        while at_once < 100 {
            let asked = Instant::now();
            let answer = look_up(at_once).await;
            assert!(began.elapsed() < PATIENCE, "{found} of {at_once}: {answer:?}");
            let is_of_all = answer.registry_incarnation != 0;
            if asked.elapsed() > Duration::from_millis(900) || is_of_all {
                (at_once, found) = (0, 0);
                continue;
            }
            at_once += 1;
            found += u64::from(!answer.sessions.is_empty());
            if at_once == 100 && found < 30 {
                // The client's calls to the others waited, too, when the one was lost; they are heard soon.
                (at_once, found) = (0, 0);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        frozen.thaw();
        cluster.wait_until_whole();
        for user in 0..100 {
            assert_eq!(slots(&node, user).await, [1]);
        }
        let named = async || look_up(0).await.registry_incarnation != 0;
        while !named().await {
            assert!(began.elapsed() < 2 * PATIENCE, "the life is named again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

fn one_frozen_answers_nobody_for_long_and_loses_nothing() {
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let node = registry(&server.url(), &new_cluster()).await;
        let life = *node.life().borrow();
        // Shorter than the server stands still, longer than a standstill counts, by as much as it may take to be connected again.
        put(&node, G1, 10_500).await;
        node.register(session(G1, 1, 7, "phone", 1)).await.unwrap();
        server.freeze();
        let frozen = Instant::now();
        is_unavailable(&node).await;
        // While there is no connection nobody waits: many calls take no longer than the first.
        for _ in 0..1_000 {
            is_unavailable(&node).await;
        }
        tokio::time::sleep(Duration::from_secs(11).saturating_sub(frozen.elapsed())).await;
        server.thaw();
        answers(&node).await;
        assert_eq!(
            slots(&node, 7).await,
            [1],
            "nobody could renew, so no lease has ended"
        );
        assert_eq!(*node.life().borrow(), life);
    });
}

fn who_was_displaced_by_a_call_without_an_answer_is_told_to_the_next() {
    // A call may be caught while it asks for the gateway's term, which is believed for a second at most: then it did nothing.
    const ATTEMPTS: u64 = 20;
    let server = Server::start(&["--save", ""]);
    block_on(async {
        let node = registry(&server.url(), &new_cluster()).await;
        for user in 1.. {
            assert!(
                user <= ATTEMPTS,
                "no call was on its way when the server stood still"
            );
            done(|| node.put_node(lease(G1.0, Role::Gateway, G1.1, 60_000))).await;
            let first = session(G1, 1, user, "phone", 1);
            done(|| node.register(first.clone())).await;
            // It stands still, finds the call in its socket when it wakes, and carries it out: nobody waits for the answer any more.
            server.freeze();
            let ghost = session(G1, 2, user, "phone", 2);
            let unheard = node.register(ghost.clone()).await;
            assert!(
                matches!(unheard, Err(RegistryError::Unavailable { .. })),
                "{unheard:?}"
            );
            server.thaw();
            answers(&node).await;
            if slots(&node, user).await == [1] {
                continue;
            }
            assert_eq!(slots(&node, user).await, [2]);
            let next = session(G1, 3, user, "phone", 3);
            let registered = done(|| node.register(next.clone())).await;
            assert!(registered.accepted);
            let mut displaced = registered.displaced;
            displaced.sort_by_key(|record| record.login_epoch);
            assert_eq!(displaced, [first, ghost]);
            break;
        }
    });
}

fn one_that_is_not_there_is_named_at_start() {
    block_on(async {
        // Nobody listens on port 1.
        let mut config = config("redis://:hush@127.0.0.1:1", "c");
        config.start_within = Duration::from_secs(3);
        let error = RedisRegistry::start(config).await.unwrap_err();
        assert!(matches!(error, StartError::Silent { .. }));
        let text = error.to_string();
        for part in ["redis://127.0.0.1:1 does not answer", "refused", "3s"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        assert!(!text.contains("hush"), "{text}");
    });
}

fn one_that_comes_late_is_waited_for() {
    let mut server = Server::start(&["--save", ""]);
    server.kill();
    block_on(async {
        let cluster = new_cluster();
        let url = server.url();
        let (node, ()) = tokio::join!(registry(&url, &cluster), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.run();
        });
        assert!(node.nodes(None).await.unwrap().is_empty());
    });
}

fn one_that_will_not_do_is_refused_with_the_cure() {
    let locked = Server::start(&["--save", "", "--requirepass", "hush"]);
    let node = Server::start(&["--save", "", "--cluster-enabled", "yes"]);
    let plain = Server::start(&["--save", ""]);
    let sentinel = Server::start(&["--sentinel"]);
    block_on(async {
        let with = |scheme: &str, server: &Server| format!("{scheme}127.0.0.1:{}", server.port);
        for (url, cure) in [
            (locked.url(), "user and password"),
            (with("redis://:wrong@", &locked), "user and password"),
            (node.url(), "redis+cluster://"),
            (with("redis+cluster://", &plain), "redis://"),
            (sentinel.url(), "redis+sentinel://"),
        ] {
            let error = RedisRegistry::start(config(&url, "c")).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, StartError::Refused { .. }), "{url}: {text}");
            assert!(text.contains(cure) && !text.contains("hush"), "{url}: {text}");
        }
        let good = with("redis://:hush@", &locked);
        put(&*registry(&good, "c").await, G1, 1_000).await;
    });
}

fn a_replica_that_takes_over_is_found_and_noticed() {
    let mut watched = Watched::start(1_000);
    block_on(async {
        let node = registry(&watched.url(), &new_cluster()).await;
        let mut life = node.life();
        put(&node, G1, 60_000).await;
        watched.master.kill();
        // What was written last may not have reached the replica.
        another(&mut life).await;
        answers(&node).await;
        put(&node, G1, 60_000).await;
        let role: String = watched.replica.ask("INFO replication");
        assert!(role.contains("role:master"), "{role}");
    });
}

fn a_master_of_a_cluster_restarted_empty_is_noticed() {
    let mut cluster = Cluster::start();
    block_on(async {
        let name = new_cluster();
        let (one, other) = (
            registry(&cluster.url(), &name).await,
            registry(&cluster.url(), &name).await,
        );
        let (mut life_of_one, mut life_of_other) = (one.life(), other.life());
        let lease = lease("g1", Role::Gateway, 1, 60_000);
        for nth in 0..3 {
            done(|| one.put_node(lease.clone())).await;
            for user in 0..100 {
                let record = session(G1, 1, user, "phone", nth + 1);
                let registered = done(|| one.register(record.clone())).await;
                assert!(registered.accepted);
            }
            let master = usize::try_from(nth).unwrap();
            cluster.masters[master].kill();
            cluster.masters[master].run();
            cluster.wait_until_whole();
            tokio::join!(another(&mut life_of_one), another(&mut life_of_other));
            answers(&one).await;
            answers(&other).await;
        }
        done(|| one.put_node(lease.clone())).await;
        assert_eq!(done(|| other.nodes(None)).await.len(), 1);
    });
}

/// Keeps whether there is a connection, for the thread that it is installed in.
#[derive(Default)]
struct Connected(Arc<AtomicU64>);

impl Connected {
    fn is(&self) -> bool {
        f64::from_bits(self.0.load(Ordering::Relaxed)) > 0.5
    }
}

impl Recorder for Connected {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match key.name() {
            "whimbrel_registry_redis_connected" => Gauge::from_arc(Arc::clone(&self.0)),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

async fn until(connected: &Connected, is: bool) {
    let began = Instant::now();
    while connected.is() != is {
        assert!(began.elapsed() < PATIENCE, "it is said to be connected: {}", !is);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn a_cluster_that_is_gone_counts_as_not_connected() {
    let mut cluster = Cluster::start();
    let connected = Connected::default();
    let _recorded = metrics::set_default_local_recorder(&connected);
    // What is recorded for a thread is said by that thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let node = registry(&cluster.url(), &new_cluster()).await;
        until(&connected, true).await;
        cluster.masters.iter_mut().for_each(Server::kill);
        until(&connected, false).await;
        cluster.masters.iter_mut().for_each(Server::run);
        cluster.wait_until_whole();
        until(&connected, true).await;
        answers(&node).await;
    });
}
