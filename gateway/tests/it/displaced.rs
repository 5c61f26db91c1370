//! Sessions on other gateways that lose their place to one that opens here: they are closed, whatever the links do.

use std::sync::atomic::Ordering::SeqCst;

use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::support::world::{World, elsewhere, lease_elsewhere};

/// The reasons of the orders so far.
fn reasons(world: &World) -> Vec<u32> {
    let closes = world.asked.closes.borrow();
    closes.iter().map(|order| order.reason).collect()
}

#[test]
fn a_gateway_whose_link_is_just_dialled_again_is_told_until_it_has_heard() {
    let world = World::new();
    world
        .block_on(world.registry.put_node(lease_elsewhere()))
        .unwrap();
    let phone = elsewhere("alice", "phone", 1);
    world.block_on(world.registry.register(phone)).unwrap();
    world.asked.closes_to_nobody.store(2, SeqCst);
    world.log_in("alice", 2);
    world.until("the order is given a third time", |world| {
        reasons(world) == [CloseReason::Superseded.number(); 3]
    });
}

#[test]
fn a_gateway_that_no_router_knows_and_that_has_no_lease_is_gone() {
    let world = World::new();
    world
        .block_on(world.registry.put_node(lease_elsewhere()))
        .unwrap();
    let phone = elsewhere("alice", "phone", 1);
    world.block_on(world.registry.register(phone)).unwrap();
    world.asked.closes_to_nobody.store(usize::MAX, SeqCst);
    let mut alice = world.log_in("alice", 2);
    world.until("it was told twice", |world| reasons(world).len() >= 2);
    let (node, life) = (NodeId::new("gateway-2").unwrap(), Incarnation(5));
    world.block_on(world.registry.remove_node(&node, life)).unwrap();
    // Leaving waits for what is under way; it would be cut off after three seconds if the order went on.
    alice.send(&[whimbrel_protocol::frame::Frame::Close {
        reason: CloseReason::Leaving.number(),
        retry: whimbrel_protocol::frame::Retry::Never,
    }]);
    world.until("she has left", |world| world.gateway().connections() == 0);
    let began = std::time::Instant::now();
    world.leave();
    assert!(began.elapsed() < std::time::Duration::from_millis(2_900));
}

#[test]
fn all_on_a_gateway_that_lost_their_place_for_one_reason_are_closed_with_one_order() {
    let world = World::new();
    world
        .block_on(world.registry.put_node(lease_elsewhere()))
        .unwrap();
    // Nobody heard that the first two lost their place.
    for slot in 1..=3 {
        let mut phone = elsewhere("alice", "phone", slot.into());
        phone.session.as_mut().unwrap().slot = slot;
        world.block_on(world.registry.register(phone)).unwrap();
    }
    world.log_in("alice", 9);
    world.until("the order is given", |world| !reasons(world).is_empty());
    let mut closes = world.asked.closes.borrow().clone();
    assert_eq!(closes.len(), 1, "{closes:?}");
    let mut slots: Vec<_> = closes
        .remove(0)
        .targets
        .iter()
        .map(|target| target.slot)
        .collect();
    slots.sort_unstable();
    assert_eq!(slots, [1, 2, 3]);
}

#[test]
fn one_session_too_many_of_a_user_is_displaced_not_superseded() {
    let world = World::new();
    for device in 0..32 {
        let record = elsewhere("alice", &format!("device-{device}"), 1 + device);
        world.block_on(world.registry.register(record)).unwrap();
    }
    world.log_in("alice", 100);
    world.until("the oldest is told", |world| {
        reasons(world) == [CloseReason::Displaced.number()]
    });
}
