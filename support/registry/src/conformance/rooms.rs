//! The suite's part about rooms.

use whimbrel_protocol::cluster::{Role, RoomCount, RoomCounts, RoomKey};

use super::{G1, G2, Harness, LEASE_MS, MORE_THAN_LEASE, done, lease, with_gateways};
use crate::{LEASELESS_GRACE, ROOM_COUNTS_LEN_MAX, Registry, RegistryError};

pub(super) async fn run(harness: &mut dyn Harness) {
    counts_of_rooms_are_absolute(harness).await;
    counts_of_rooms_that_were_overtaken_are_left_out(harness).await;
    counts_of_rooms_end_with_their_gateways_lease(harness).await;
    rooms_of_apps_and_of_other_names_are_kept_apart(harness).await;
    nonsense_about_rooms_is_refused(harness).await;
}

/// Says how many members rooms of app `demo` have on a gateway.
#[must_use]
pub fn room_counts(gateway: (&str, u64), counts: &[(&str, u32)]) -> RoomCounts {
    let count = |(room, members): &(&str, u32)| RoomCount {
        room: Some(room_key("demo", room)),
        members: *members,
    };
    RoomCounts {
        gateway: gateway.0.to_owned(),
        incarnation: gateway.1,
        counts: counts.iter().map(count).collect(),
        order: 0,
    }
}

fn room_key(app: &str, room: &str) -> RoomKey {
    RoomKey {
        app_key: app.to_owned(),
        room: room.to_owned(),
    }
}

async fn members(registry: &dyn Registry, app: &str, room: &str) -> Vec<(String, u64, u32)> {
    let on_gateways = done(registry.look_up_room(room_key(app, room)).await);
    on_gateways
        .into_iter()
        .map(|on| (on.gateway, on.incarnation, on.members))
        .collect()
}

async fn counts_of_rooms_are_absolute(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    assert!(members(&*registry, "demo", "hall").await.is_empty());
    done(
        registry
            .put_rooms(room_counts(G2, &[("hall", 5), ("bar", 2)]))
            .await,
    );
    done(registry.put_rooms(room_counts(G1, &[("hall", 3)])).await);
    // The same again, as after an answer that was lost, adds nothing.
    done(registry.put_rooms(room_counts(G1, &[("hall", 3)])).await);
    let expected = [("g1".to_owned(), 1, 3), ("g2".to_owned(), 2, 5)];
    assert_eq!(members(&*registry, "demo", "hall").await, expected);
    // What is not named keeps its number; nobody is no gateway.
    done(registry.put_rooms(room_counts(G2, &[("hall", 0)])).await);
    assert_eq!(members(&*registry, "demo", "hall").await, expected[..1]);
    assert_eq!(
        members(&*registry, "demo", "bar").await,
        [("g2".to_owned(), 2, 2)]
    );
    done(registry.put_rooms(room_counts(G1, &[("hall", 0)])).await);
    done(registry.put_rooms(room_counts(G1, &[("hall", 0)])).await);
    assert!(members(&*registry, "demo", "hall").await.is_empty());
}

async fn counts_of_rooms_that_were_overtaken_are_left_out(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let in_order = |gateway, order, members| RoomCounts {
        order,
        ..room_counts(gateway, &[("hall", members)])
    };
    done(registry.put_rooms(in_order(G1, 2, 5)).await);
    // It stood still on the way; that it is too late is no fault of whoever still waits for its answer.
    done(registry.put_rooms(in_order(G1, 1, 3)).await);
    let expected = [("g1".to_owned(), 1, 5)];
    assert_eq!(members(&*registry, "demo", "hall").await, expected);
    // Another gateway counts for itself.
    done(registry.put_rooms(in_order(G2, 1, 4)).await);
    let expected = [("g1".to_owned(), 1, 5), ("g2".to_owned(), 2, 4)];
    assert_eq!(members(&*registry, "demo", "hall").await, expected);
    done(registry.put_rooms(in_order(G2, 2, 0)).await);
    done(registry.put_rooms(in_order(G2, 1, 4)).await);
    assert_eq!(members(&*registry, "demo", "hall").await, expected[..1]);
    done(registry.put_rooms(in_order(G1, 3, 6)).await);
    assert_eq!(
        members(&*registry, "demo", "hall").await,
        [("g1".to_owned(), 1, 6)]
    );
}

async fn counts_of_rooms_end_with_their_gateways_lease(harness: &mut dyn Harness) {
    let registry = harness.empty().await;
    done(registry.put_node(lease("g1", Role::Gateway, 1, LEASE_MS)).await);
    done(registry.put_node(lease("g2", Role::Gateway, 2, 60_000)).await);
    for gateway in [G1, G2] {
        done(registry.put_rooms(room_counts(gateway, &[("hall", 3)])).await);
    }
    harness.pass(MORE_THAN_LEASE).await;
    assert_eq!(
        members(&*registry, "demo", "hall").await,
        [("g2".to_owned(), 2, 3)]
    );
    // A gateway that starts again has nobody; its former life cannot speak any more.
    done(registry.put_node(lease("g2", Role::Gateway, 22, 60_000)).await);
    assert!(members(&*registry, "demo", "hall").await.is_empty());
    assert_eq!(
        registry.put_rooms(room_counts(G2, &[("hall", 3)])).await,
        Err(RegistryError::Superseded {
            node: "g2".to_owned()
        })
    );
    // One whose lease is still to come is believed for a grace.
    done(registry.put_rooms(room_counts(("g3", 3), &[("hall", 1)])).await);
    assert_eq!(members(&*registry, "demo", "hall").await.len(), 1);
    harness.pass(LEASELESS_GRACE).await;
    assert!(members(&*registry, "demo", "hall").await.is_empty());
}

async fn rooms_of_apps_and_of_other_names_are_kept_apart(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let mut counts = room_counts(G1, &[("hall", 3), ("Hall", 4)]);
    counts.counts.push(RoomCount {
        room: Some(room_key("other", "hall")),
        members: 5,
    });
    done(registry.put_rooms(counts).await);
    for (app, room, count) in [("demo", "hall", 3), ("demo", "Hall", 4), ("other", "hall", 5)] {
        let expected = [("g1".to_owned(), 1, count)];
        assert_eq!(members(&*registry, app, room).await, expected, "{app} {room}");
    }
}

async fn nonsense_about_rooms_is_refused(harness: &mut dyn Harness) {
    let registry = with_gateways(harness).await;
    let too_many = vec![("hall", 1); ROOM_COUNTS_LEN_MAX + 1];
    let bad = [
        room_counts(("", 1), &[("hall", 1)]),
        room_counts(G1, &[("hall", 1), ("", 1)]),
        room_counts(G1, &too_many),
        RoomCounts {
            counts: vec![RoomCount::default()],
            ..room_counts(G1, &[])
        },
    ];
    for counts in bad {
        let answer = registry.put_rooms(counts).await;
        assert!(matches!(answer, Err(RegistryError::Invalid(_))), "{answer:?}");
    }
    assert!(
        members(&*registry, "demo", "hall").await.is_empty(),
        "half of a bad one"
    );
    for (app, room) in [("", "hall"), ("demo", ""), ("demo", "a\nb")] {
        let answer = registry.look_up_room(room_key(app, room)).await;
        assert!(matches!(answer, Err(RegistryError::Invalid(_))), "{answer:?}");
    }
}
