//! Leaving.

use std::net::TcpStream;
use std::time::Duration;

use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::cluster::Role;
use whimbrel_protocol::frame::{Frame, Retry};

use crate::support::world::{ECHO, World, config};

fn world(grace: Duration) -> World {
    let mut config = config();
    let grace_ms = u32::try_from(grace.as_millis()).unwrap();
    config.drain.window_ms = grace_ms.min(1_000);
    config.drain.grace_ms = grace_ms;
    World::with(config)
}

#[test]
fn a_gateway_that_leaves_asks_its_clients_to_go_and_serves_them_until_they_have() {
    let world = world(Duration::from_secs(20));
    let mut alice = world.log_in("alice", 1);
    world.host.drain.start();
    let Some(Frame::GoAway {
        delay_window_ms,
        refresh_directory,
        ..
    }) = alice.next()
    else {
        panic!("a GOAWAY comes")
    };
    assert_eq!((delay_window_ms, refresh_directory), (1_000, true));
    assert_eq!(alice.ask(ECHO, b"still served").body, &b"still served"[..]);
    world.until("the LBS leaves it out", |world| {
        world
            .block_on(world.registry.nodes(Some(Role::Gateway)))
            .unwrap()
            .iter()
            .all(|lease| lease.draining)
    });
    world.until("nobody can connect", |world| {
        TcpStream::connect(world.address).is_err()
    });
    assert!(!world.host.health.is_ready());
    drop(alice);
    let registry = std::sync::Arc::clone(&world.registry);
    let report = world.leave();
    assert_eq!((report.connections_before, report.closed), (1, 0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(
        runtime
            .block_on(registry.nodes(Some(Role::Gateway)))
            .unwrap()
            .is_empty(),
        "the lease is given back"
    );
}

#[test]
fn who_stays_past_the_grace_period_is_closed_and_counted() {
    let world = world(Duration::from_millis(100));
    let mut alice = world.log_in("alice", 1);
    let report = world.leave();
    assert_eq!((report.connections_before, report.closed), (1, 1));
    assert!(matches!(alice.next(), Some(Frame::GoAway { .. })));
    let draining = CloseReason::Draining.number();
    assert_eq!(
        alice.next(),
        Some(Frame::Close {
            reason: draining,
            retry: Retry::NewDirectory
        })
    );
    assert_eq!(alice.next(), None);
}
