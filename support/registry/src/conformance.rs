//! What every registry does: one suite, run by each backend's tests.
//!
//! ```text
//! conformance::run(&mut harness).await;   // panics where the backend differs
//! ```

mod rooms;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use whimbrel_protocol::cluster::{NodeLease, Role, SessionHandle, SessionRecord, UserKey};
use whimbrel_protocol::ids::{Incarnation, NodeId};

pub use self::rooms::room_counts;
use crate::{ANNOUNCE_LEN_MAX, LEASELESS_GRACE, Registry, RegistryError, SESSIONS_PER_USER_MAX};

/// What the suite needs of a backend.
#[async_trait]
pub trait Harness: Send {
    /// An empty registry.
    async fn empty(&mut self) -> Arc<dyn Registry>;
    /// Lets time pass for it.
    async fn pass(&mut self, time: Duration);
}

/// A lease of `ttl_ms` for one life of a node.
#[must_use]
pub fn lease(node: &str, role: Role, incarnation: u64, ttl_ms: u32) -> NodeLease {
    NodeLease {
        node: node.to_owned(),
        role: role.into(),
        incarnation,
        ttl_ms,
        ..NodeLease::default()
    }
}

/// A session record of app `demo`.
#[must_use]
pub fn session(gateway: (&str, u64), slot: u32, user_id: u64, device: &str, epoch: u64) -> SessionRecord {
    let (gateway, incarnation) = (gateway.0.to_owned(), gateway.1);
    SessionRecord {
        app_key: "demo".to_owned(),
        user_id,
        device_id: device.to_owned(),
        login_epoch: epoch,
        session: Some(SessionHandle {
            gateway,
            incarnation,
            reactor: 0,
            slot,
            generation: 1,
        }),
        platform: String::new(),
    }
}

/// Runs the whole suite.
///
/// # Panics
/// Where the backend differs from what [`Registry`] promises.
pub async fn run(harness: &mut dyn Harness) {
    leases_end_unless_renewed(harness).await;
    nodes_are_told_by_role(harness).await;
    removing_needs_the_right_incarnation(harness).await;
    a_later_life_displaces_an_earlier_one_for_good(harness).await;
    a_later_life_displaces_one_whose_lease_had_ended(harness).await;
    one_life_may_be_away_for_as_long_as_nobody_takes_its_name(harness).await;
    a_name_given_back_is_given_back_though_its_lease_had_ended(harness).await;
    putting_a_lease_says_whether_it_begins(harness).await;
    the_highest_login_epoch_of_a_device_wins(harness).await;
    unregistering_needs_the_right_handle(harness).await;
    sessions_end_with_their_gateways_lease(harness).await;
    sessions_of_a_gateway_without_lease_last_a_grace(harness).await;
    a_user_has_a_bounded_number_of_sessions(harness).await;
    announcing_tells_all_that_lost_their_place(harness).await;
    who_lost_its_place_is_told_again_to_whoever_comes_next(harness).await;
    looking_up_keeps_apps_and_users_apart(harness).await;
    nonsense_is_refused(harness).await;
    rooms::run(harness).await;
}

const G1: (&str, u64) = ("g1", 1);
const G2: (&str, u64) = ("g2", 2);

async fn with_gateways(harness: &mut dyn Harness) -> Arc<dyn Registry> {
    let registry = harness.empty().await;
    for (name, incarnation) in [G1, G2] {
        done(
            registry
                .put_node(lease(name, Role::Gateway, incarnation, 60_000))
                .await,
        );
    }
    registry
}

fn done<T>(result: Result<T, RegistryError>) -> T {
    result.expect("the registry does what it is asked")
}

async fn names(registry: &dyn Registry, role: Option<Role>) -> Vec<String> {
    done(registry.nodes(role).await)
        .into_iter()
        .map(|lease| lease.node)
        .collect()
}

async fn slots(registry: &dyn Registry, user_id: u64) -> Vec<u32> {
    let user = UserKey {
        app_key: "demo".to_owned(),
        user_id,
    };
    let sessions = done(registry.look_up(vec![user]).await);
    sessions
        .into_iter()
        .filter_map(|record| record.session)
        .map(|handle| handle.slot)
        .collect()
}

/// A lease that is to end: it lasts while a busy machine makes a few calls.
const LEASE_MS: u32 = 10_000;
const PART_OF_LEASE: Duration = Duration::from_secs(6);
const MORE_THAN_LEASE: Duration = Duration::from_secs(11);

async fn leases_end_unless_renewed(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    done(registry.put_node(lease("a", Role::AppService, 1, LEASE_MS)).await);
    done(registry.put_node(lease("b", Role::AppService, 1, LEASE_MS)).await);
    harness.pass(PART_OF_LEASE).await;
    done(registry.put_node(lease("b", Role::AppService, 1, LEASE_MS)).await);
    harness.pass(PART_OF_LEASE).await;
    assert_eq!(names(&*registry, None).await, ["b"]);
    harness.pass(PART_OF_LEASE).await;
    assert!(names(&*registry, None).await.is_empty());
}

async fn nodes_are_told_by_role(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    done(registry.put_node(lease("a", Role::AppService, 1, 60_000)).await);
    assert_eq!(names(&*registry, Some(Role::Gateway)).await, ["g1", "g2"]);
    assert_eq!(names(&*registry, None).await, ["a", "g1", "g2"]);
    let full = NodeLease {
        descriptor: vec![1, 2].into(),
        draining: true,
        load_permille: 7,
        ..lease("g1", Role::Gateway, 1, 60_000)
    };
    done(registry.put_node(full.clone()).await);
    assert_eq!(
        done(registry.nodes(Some(Role::Gateway)).await).first(),
        Some(&full)
    );
}

async fn removing_needs_the_right_incarnation(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let g1 = NodeId::new("g1").expect("a valid name");
    done(registry.register(session(G1, 1, 7, "phone", 1)).await);
    done(registry.remove_node(&g1, Incarnation(99)).await);
    assert_eq!(names(&*registry, None).await, ["g1", "g2"]);
    done(registry.remove_node(&g1, Incarnation(1)).await);
    assert_eq!(names(&*registry, None).await, ["g2"]);
    assert!(slots(&*registry, 7).await.is_empty());
    done(registry.remove_node(&g1, Incarnation(1)).await);
}

async fn a_later_life_displaces_an_earlier_one_for_good(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    done(registry.register(session(G1, 1, 7, "phone", 1)).await);
    done(registry.put_node(lease("g1", Role::Gateway, 11, 60_000)).await);
    assert!(slots(&*registry, 7).await.is_empty());
    // The earlier process was only frozen, and wakes.
    let woken = registry.put_node(lease("g1", Role::Gateway, 1, 60_000)).await;
    assert_eq!(
        woken,
        Err(RegistryError::Superseded {
            node: "g1".to_owned()
        })
    );
    let woken = registry.register(session(G1, 1, 7, "phone", 9)).await;
    assert_eq!(
        woken,
        Err(RegistryError::Superseded {
            node: "g1".to_owned()
        })
    );
    done(registry.put_node(lease("g1", Role::Gateway, 11, 60_000)).await);
}

async fn a_later_life_displaces_one_whose_lease_had_ended(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    done(registry.put_node(lease("g1", Role::Gateway, 1, 1_000)).await);
    harness.pass(Duration::from_secs(2)).await;
    assert!(names(&*registry, None).await.is_empty());
    done(registry.put_node(lease("g1", Role::Gateway, 11, 1_000)).await);
    // It stood still for longer than its lease, and so, later, does the one that took its name.
    for ended in [false, true] {
        if ended {
            harness.pass(Duration::from_secs(2)).await;
        }
        let woken = registry.put_node(lease("g1", Role::Gateway, 1, 60_000)).await;
        assert!(
            matches!(&woken, Err(RegistryError::Superseded { node }) if node == "g1"),
            "{woken:?}"
        );
        let woken = registry.register(session(G1, 1, 7, "phone", 9)).await;
        assert!(
            matches!(woken, Err(RegistryError::Superseded { .. })),
            "{woken:?}"
        );
    }
    done(registry.put_node(lease("g1", Role::Gateway, 11, 60_000)).await);
    let leases = done(registry.nodes(None).await);
    assert_eq!(leases, [lease("g1", Role::Gateway, 11, 60_000)]);
}

async fn one_life_may_be_away_for_as_long_as_nobody_takes_its_name(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    for _ in 0..2 {
        done(registry.put_node(lease("g1", Role::Gateway, 1, 1_000)).await);
        harness.pass(Duration::from_secs(2)).await;
        assert!(names(&*registry, None).await.is_empty());
    }
    done(registry.put_node(lease("g1", Role::Gateway, 1, 60_000)).await);
    assert_eq!(names(&*registry, None).await, ["g1"]);
}

async fn a_name_given_back_is_given_back_though_its_lease_had_ended(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    let g1 = NodeId::new("g1").expect("a valid name");
    let put = async |incarnation| {
        let lease = lease("g1", Role::Gateway, incarnation, 1_000);
        registry.put_node(lease).await
    };
    for (given_back, stays_out) in [(Incarnation(1), false), (Incarnation(99), true)] {
        done(put(1).await);
        harness.pass(Duration::from_secs(2)).await;
        done(registry.remove_node(&g1, given_back).await);
        done(put(11).await);
        done(registry.remove_node(&g1, Incarnation(11)).await);
        let again = put(1).await;
        assert_eq!(
            again.is_err(),
            stays_out,
            "{given_back:?} was given back: {again:?}"
        );
    }
}

async fn putting_a_lease_says_whether_it_begins(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    let put = async |incarnation| {
        let lease = lease("g1", Role::Gateway, incarnation, LEASE_MS);
        let put = done(registry.put_node(lease).await);
        (put.began, put.term.expect("a registry that lost nothing tells"))
    };
    let (began, first) = put(1).await;
    assert!(began);
    assert_eq!(put(1).await, (false, first));
    harness.pass(MORE_THAN_LEASE).await;
    // That a session came first hides nothing: those of before are gone.
    done(registry.register(session(G1, 1, 7, "phone", 1)).await);
    let (began, second) = put(1).await;
    assert!(began && second != first);
    // Where that answer is lost and the call repeated, the term tells it all the same; until another begins.
    assert_eq!(put(1).await, (false, second));
    harness.pass(PART_OF_LEASE).await;
    assert_eq!(put(1).await, (false, second));
    let (began, later) = put(11).await;
    assert!(began && later != second);
    let g1 = NodeId::new("g1").expect("a valid name");
    done(registry.remove_node(&g1, Incarnation(11)).await);
    let (began, again) = put(11).await;
    assert!(began && again != later);
}

async fn the_highest_login_epoch_of_a_device_wins(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let first = session(G1, 1, 7, "phone", 5);
    let registered = done(registry.register(first.clone()).await);
    assert!(registered.accepted && registered.displaced.is_empty());
    for epoch in [4, 5] {
        let registered = done(registry.register(session(G2, 2, 7, "phone", epoch)).await);
        assert!(
            !registered.accepted && registered.displaced.is_empty(),
            "epoch {epoch}"
        );
    }
    let again = done(registry.register(first.clone()).await);
    assert!(again.accepted && again.displaced.is_empty());
    let registered = done(registry.register(session(G2, 3, 7, "phone", 6)).await);
    assert!(registered.accepted);
    assert_eq!(registered.displaced, [first]);
    assert_eq!(slots(&*registry, 7).await, [3]);
    // Another device of the user is no rival.
    let other = done(registry.register(session(G1, 4, 7, "tablet", 1)).await);
    assert!(other.accepted && other.displaced.is_empty());
    assert_eq!(slots(&*registry, 7).await, [3, 4]);
}

async fn unregistering_needs_the_right_handle(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    done(registry.register(session(G1, 1, 7, "phone", 1)).await);
    done(registry.register(session(G1, 2, 7, "phone", 2)).await);
    done(registry.unregister(session(G1, 1, 7, "phone", 1)).await);
    assert_eq!(slots(&*registry, 7).await, [2]);
    done(registry.unregister(session(G1, 2, 7, "phone", 2)).await);
    assert!(slots(&*registry, 7).await.is_empty());
    // Forgotten is forgotten: any epoch may come now.
    assert!(done(registry.register(session(G1, 3, 7, "phone", 1)).await).accepted);
}

async fn sessions_end_with_their_gateways_lease(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    done(registry.put_node(lease("g1", Role::Gateway, 1, LEASE_MS)).await);
    done(registry.put_node(lease("g2", Role::Gateway, 2, 60_000)).await);
    done(registry.register(session(G1, 1, 7, "phone", 1)).await);
    done(registry.register(session(G1, 2, 7, "tablet", 1)).await);
    done(registry.register(session(G2, 3, 7, "tablet", 2)).await);
    harness.pass(MORE_THAN_LEASE).await;
    assert_eq!(slots(&*registry, 7).await, [3]);
}

async fn sessions_of_a_gateway_without_lease_last_a_grace(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    done(registry.register(session(G1, 1, 7, "phone", 1)).await);
    done(registry.register(session(G2, 2, 7, "tablet", 1)).await);
    assert_eq!(slots(&*registry, 7).await, [1, 2]);
    done(registry.put_node(lease("g1", Role::Gateway, 1, 60_000)).await);
    harness.pass(LEASELESS_GRACE).await;
    assert_eq!(slots(&*registry, 7).await, [1]);
}

async fn a_user_has_a_bounded_number_of_sessions(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let max = u32::try_from(SESSIONS_PER_USER_MAX).expect("a small bound");
    for slot in 0..max {
        let device = format!("device-{slot}");
        assert!(
            done(
                registry
                    .register(session(G1, slot, 7, &device, u64::from(slot) + 10))
                    .await
            )
            .accepted
        );
    }
    let registered = done(registry.register(session(G1, max, 7, "one-more", 1)).await);
    assert!(registered.accepted);
    assert_eq!(registered.displaced, [session(G1, 0, 7, "device-0", 10)]);
    assert_eq!(slots(&*registry, 7).await.len(), SESSIONS_PER_USER_MAX);
}

async fn announcing_tells_all_that_lost_their_place(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let (older, newer) = (session(G1, 1, 7, "phone", 1), session(G1, 2, 8, "phone", 9));
    done(registry.announce(vec![older.clone(), newer]).await);
    let beaten = session(G2, 4, 8, "phone", 3);
    let displaced = done(
        registry
            .announce(vec![session(G2, 3, 7, "phone", 2), beaten.clone()])
            .await,
    );
    assert_eq!(displaced, [older, beaten]);
    assert_eq!(slots(&*registry, 7).await, [3]);
    assert_eq!(slots(&*registry, 8).await, [2]);
}

async fn who_lost_its_place_is_told_again_to_whoever_comes_next(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let lost = session(G1, 1, 7, "phone", 1);
    done(registry.register(lost.clone()).await);
    // Whoever asked for this never hears what it came to, and comes again.
    let ghost = session(G2, 2, 7, "phone", 2);
    done(registry.register(ghost.clone()).await);
    for again in [
        done(registry.announce(vec![ghost.clone()]).await),
        done(registry.register(ghost.clone()).await).displaced,
    ] {
        assert_eq!(again, std::slice::from_ref(&lost));
    }
    let third = session(G2, 3, 7, "phone", 3);
    let mut told = done(registry.register(third.clone()).await).displaced;
    told.sort_by_key(|record| record.login_epoch);
    assert_eq!(told, [lost.clone(), ghost]);
    // Another device is told nothing of it.
    let tablet = done(registry.register(session(G2, 4, 7, "tablet", 1)).await);
    assert!(tablet.accepted && tablet.displaced.is_empty());
    // One that has a place again did not lose it.
    done(registry.unregister(third).await);
    assert!(done(registry.register(lost.clone()).await).accepted);
    let told = done(registry.register(lost.clone()).await).displaced;
    assert!(!told.contains(&lost), "{told:?}");
}

async fn looking_up_keeps_apps_and_users_apart(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let other_app = SessionRecord {
        app_key: "other".to_owned(),
        ..session(G1, 3, 7, "phone", 1)
    };
    for record in [
        session(G1, 1, 7, "phone", 1),
        session(G1, 2, 8, "phone", 1),
        other_app,
    ] {
        assert!(done(registry.register(record).await).accepted);
    }
    assert_eq!(slots(&*registry, 7).await, [1]);
    let users = [9, 8, 7, 8].map(|user_id| UserKey {
        app_key: "demo".to_owned(),
        user_id,
    });
    let found = done(registry.look_up(users.to_vec()).await);
    assert_eq!(
        found.iter().map(|record| record.user_id).collect::<Vec<_>>(),
        [7, 8]
    );
}

async fn nonsense_is_refused(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    let whole = session(G1, 1, 7, "phone", 1);
    let records = [
        SessionRecord {
            session: None,
            ..whole.clone()
        },
        SessionRecord {
            device_id: String::new(),
            ..whole.clone()
        },
        SessionRecord {
            app_key: "Not An App".to_owned(),
            ..whole.clone()
        },
        SessionRecord {
            session: Some(SessionHandle::default()),
            ..whole.clone()
        },
    ];
    for record in records {
        assert!(
            matches!(
                registry.register(record.clone()).await,
                Err(RegistryError::Invalid(_))
            ),
            "{record:?}"
        );
        assert!(matches!(
            registry.unregister(record).await,
            Err(RegistryError::Invalid(_))
        ));
    }
    let leases = [
        lease("", Role::Gateway, 1, 1_000),
        lease("g1", Role::Unspecified, 1, 1_000),
        lease("g1", Role::Gateway, 1, 0),
        lease("g1", Role::Gateway, 1, u32::MAX),
    ];
    for lease in leases {
        assert!(
            matches!(
                registry.put_node(lease.clone()).await,
                Err(RegistryError::Invalid(_))
            ),
            "{lease:?}"
        );
    }
    let half = vec![
        whole.clone(),
        SessionRecord {
            session: None,
            ..whole.clone()
        },
    ];
    assert!(matches!(
        registry.announce(half).await,
        Err(RegistryError::Invalid(_))
    ));
    let too_many = vec![whole; ANNOUNCE_LEN_MAX + 1];
    assert!(matches!(
        registry.announce(too_many).await,
        Err(RegistryError::Invalid(_))
    ));
    assert!(names(&*registry, None).await.is_empty());
    assert!(slots(&*registry, 7).await.is_empty());
}
