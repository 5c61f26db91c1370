//! What a gateway does by itself while it runs: new keys, and saying whether it can serve.

use std::time::Duration;

use prost::Message as _;
use whimbrel_protocol::Suite;
use whimbrel_protocol::cluster::{Kind, Probe, Role};
use whimbrel_protocol::descriptor::{KnownTime, verify_chain};
use whimbrel_registry::conformance::lease;

use crate::support::client::{Greeting, login};
use crate::support::socket::{Socket, connect, read_to_end};
use crate::support::world::{ECHO, World, config};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The type of the answer to a hello under a key that is no longer held.
const STALE_KEY: u8 = 3;

/// Lets a day pass and waits for the descriptor of the next.
fn next_day(world: &World, clock: &whimbrel_host::ManualClock) {
    let before = world.descriptor();
    clock.advance(DAY);
    world.until("the descriptor is signed again", |world| {
        world.descriptor() != before
    });
}

#[test]
fn keys_change_daily_under_running_sessions_and_each_is_held_until_its_descriptor_ends() {
    let mut config = config();
    // Longer than the test's days: whoever is logged in stays.
    config.session.heartbeat_ms = 4 * 24 * 3600 * 1000;
    let (world, clock) = World::on_manual_clock(config);
    let mut alice = world.log_in("alice", 1);
    let first = world.key;
    next_day(&world, &clock);
    let described = verify_chain(
        &world.descriptor(),
        &[world.root],
        KnownTime::Exactly(world.host.clock.now_ms()),
    )
    .unwrap();
    let (_, second) = described.choose(&Suite::ALL).unwrap();
    assert_ne!(first.id(), second.id());
    // Reactors take the new keys in their own time; a session under the second key proves that this one has.
    let takes_second = |_: &World| {
        let mut stream = connect(world.address);
        let greeting = Greeting::new(&second, &login("probe", "good", 1));
        std::io::Write::write_all(&mut stream, &greeting.hello).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        read_to_end(&mut stream).first() != Some(&STALE_KEY)
    };
    world.until("the second key is taken", takes_second);
    Socket::log_in(world.address, &first, &login("bob", "good", 1));
    assert_eq!(
        alice.ask(ECHO, b"still here").body,
        &b"still here"[..],
        "a running session does not notice"
    );
    next_day(&world, &clock);
    next_day(&world, &clock);
    world.until("the first key is gone", |world| {
        let mut stream = connect(world.address);
        let greeting = Greeting::new(&first, &login("late", "good", 1));
        std::io::Write::write_all(&mut stream, &greeting.hello).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        read_to_end(&mut stream).first() == Some(&STALE_KEY)
    });
    assert_eq!(alice.ask(ECHO, b"and still").body, &b"and still"[..]);
}

#[test]
fn a_gateway_whose_routers_have_no_service_node_says_that_it_is_not_ready_and_full() {
    let world = World::new();
    world.until("it has room", |world| world.load_permille() == 0);
    world.router_says(false);
    world.until("it is not ready", |world| !world.host.health.is_ready());
    let told = format!("{:?}", world.host.health.snapshot());
    assert!(told.contains("service node"), "{told}");
    assert_eq!(
        world.load_permille(),
        1_000,
        "whoever came would be refused, so that others are named first"
    );
    world.router_says(true);
    world.until("it is ready again", |world| world.host.health.is_ready());
    assert_eq!(world.load_permille(), 0);
}

#[test]
fn a_gateway_whose_certificate_ends_says_that_it_is_not_ready() {
    let (world, clock) = World::on_manual_clock(config());
    world.until("it is ready", |world| world.host.health.is_ready());
    // The certificate holds for thirty days.
    clock.advance(31 * DAY);
    world.until("it is not ready", |world| !world.host.health.is_ready());
    let told = format!("{:?}", world.host.health.snapshot());
    assert!(told.contains("certificate"), "{told}");
}

#[test]
fn a_gateway_whose_name_a_later_process_has_in_the_registry_is_not_ready_and_leaves() {
    let world = World::new();
    let later = lease("gateway-1", Role::Gateway, 12, 60_000);
    world.block_on(world.registry.put_node(later)).unwrap();
    world.until("it leaves", |world| world.host.drain.is_started());
    world.until("it is not ready", |world| !world.host.health.is_ready());
}

#[test]
fn a_gateway_whose_clock_is_far_off_says_by_how_much_and_in_which_direction() {
    let world = World::new();
    let says = |clock_ahead_ms| {
        let answer = world.send_raw(Kind::Probe, &Probe { clock_ahead_ms }.encode_to_vec());
        assert_eq!(answer.status, 0, "{}", answer.detail);
    };
    for (ahead_ms, said) in [
        (-90_000, "clock is 90 s behind that of most nodes"),
        (61_500, "clock is 61 s ahead of that of most nodes"),
    ] {
        says(ahead_ms);
        world.until(said, |world| {
            format!("{:?}", world.host.health.snapshot()).contains(said)
        });
        assert!(!world.host.health.is_ready());
    }
    says(0);
    world.until("it is ready again", |world| world.host.health.is_ready());
}
