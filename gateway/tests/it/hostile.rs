//! What strangers and greedy users may not do to others: use up what is shared, or get innocents turned away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use prost::Message as _;
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::client::Response;
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{Frame, Retry};
use whimbrel_protocol::keys::StaticKey;

use crate::support::client::{Greeting, login};
use crate::support::socket::{PATIENCE, Socket, connect, read_to_end};
use crate::support::world::{ECHO, IGNORE, LARGE, World, config};

/// The types of the answers to a hello.
const ACCEPT: u8 = 1;
const REJECT: u8 = 2;
const STALE_KEY: u8 = 3;

#[test]
fn a_client_that_says_goodbye_leaves_nothing_in_the_registry() {
    let world = World::new();
    let mut alice = world.log_in("alice", 1);
    assert_eq!(world.sessions_of("alice").len(), 1);
    alice.send(&[Frame::Close {
        reason: CloseReason::Leaving.number(),
        retry: Retry::Never,
    }]);
    world.until("nobody is there", |world| world.gateway().connections() == 0);
    world.until("the registry knows", |world| {
        world.sessions_of("alice").is_empty()
    });
}

#[test]
fn strangers_whose_hellos_never_end_take_no_memory_from_those_who_are_logged_in() {
    let mut config = config();
    config.reactors = 1;
    config.memory.held_bytes_max = 64 * 1024;
    config.handshake.failed_per_address_max = 1;
    let world = World::with(config);
    let mut bob = world.log_in("bob", 1);
    let strangers: Vec<TcpStream> = (0..16)
        .map(|_| {
            let mut stream = connect(world.address);
            let mut hello = vec![0; 4_000];
            hello[..7].copy_from_slice(&[0xf7, b'W', b'B', b'L', 1, 0x0f, 0xf9]);
            stream.write_all(&hello).unwrap();
            stream
        })
        .collect();
    world.until("half of the memory is taken", |world| {
        let gateway = world.gateway();
        (gateway.held_bytes(), gateway.unfinished_handshakes()) == (32_000, 8)
    });
    let request = bob.client.request(ECHO, &[7; 12_000]);
    let record = bob.client.seal(&[request]);
    let (head, tail) = record.split_at(10_000);
    bob.send_bytes(head);
    world.until("his half record is held", |world| {
        world.gateway().held_bytes() >= 42_000
    });
    bob.send_bytes(tail);
    let Some(Frame::Response(answer)) = bob.next() else {
        panic!("he is served")
    };
    assert_eq!(Response::decode(answer.payload).unwrap().body.len(), 12_000);
    // Those turned away for want of memory are not held against their address.
    world.log_in("carol", 1);
    drop(strangers);
}

#[test]
fn a_city_that_knows_only_the_key_of_before_a_restart_is_not_turned_away() {
    let mut config = config();
    config.handshake.failed_per_address_max = 1;
    let world = World::with(config);
    let earlier = StaticKey::generate(&mut SystemEntropy).public();
    for _ in 0..5 {
        let mut stream = connect(world.address);
        let greeting = Greeting::new(&earlier, &login("alice", "good", 1));
        stream.write_all(&greeting.hello).unwrap();
        assert_eq!(read_to_end(&mut stream).first(), Some(&STALE_KEY));
    }
    world.log_in("alice", 1);
}

#[test]
fn who_hangs_up_at_the_answer_counts_like_one_who_never_confirms() {
    let mut config = config();
    config.handshake.failed_per_address_max = 2;
    let world = World::with(config);
    for _ in 0..3 {
        let (replayed, _) = Socket::greet(world.address, &world.key, &login("alice", "good", 1));
        drop(replayed);
        world.until("it is gone", |world| world.gateway().connections() == 0);
    }
    // Far more than may begin in a second or two of an address with too many failures. Those who may are waited for.
    let mut strangers: Vec<_> = (0..64).map(|_| connect(world.address)).collect();
    let is_refused = |stream: &mut TcpStream| {
        let mut answer = [0; 5];
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // Reject 6: too many handshakes of this address failed.
        stream.read_exact(&mut answer).is_ok() && (answer[0], answer[4]) == (REJECT, 6)
    };
    assert!(strangers.iter_mut().rev().any(is_refused));
    // Not shut out for that: whoever tries again gets in.
    drop(strangers);
    world.until("one who tries again is in", |world| {
        let mut stream = connect(world.address);
        let greeting = Greeting::new(&world.key, &login("alice", "good", 2));
        let mut kind = [0];
        stream.write_all(&greeting.hello).is_ok() && stream.read_exact(&mut kind).is_ok() && kind == [ACCEPT]
    });
}

#[test]
fn requests_that_nobody_answers_leave_room_for_logins() {
    let mut config = config();
    config.reactors = 1;
    config.session.requests_max = 9_000;
    config.session.request_deadline_ms = 30_000;
    let world = World::with(config);
    let mut alice = world.log_in("alice", 1);
    // More than a reactor asks at once.
    for _ in 0..83 {
        let requests: Vec<_> = (0..100).map(|_| alice.client.request(IGNORE, b"")).collect();
        alice.send(&requests);
    }
    let Some(Frame::Response(refused)) = alice.next() else {
        panic!("one too many is refused")
    };
    let refused = Response::decode(refused.payload).unwrap();
    let told = "the gateway has too many unanswered requests";
    assert_eq!(
        (refused.code, &refused.message[..]),
        (Code::Overloaded.number(), told)
    );
    assert_eq!(world.log_in("bob", 1).client.tracked, 0);
}

#[test]
fn who_does_not_read_is_closed_before_others_are_refused_for_it() {
    let mut config = config();
    config.reactors = 1;
    config.session.requests_max = 2_000;
    config.session.outbound_close_bytes = 64 << 20;
    config.session.outbound_collapse_bytes = 1 << 20;
    config.memory.owed_bytes_max = 2 << 20;
    let (world, clock) = World::on_manual_clock(config);
    let (mut bob, mut hog) = (world.log_in("bob", 1), world.log_in("hog", 1));
    // More than the kernel's buffers and half of the room together hold: until it is read from no more. Few at a time, for what
    // has no room when it comes is refused.
    let is_half_taken = |world: &World| world.gateway().owed_bytes() >= 1 << 20;
    let mut sent = 0;
    while !is_half_taken(&world) {
        assert!(sent < 1_000, "the kernel takes everything");
        sent += 4;
        let requests: Vec<_> = (0..4).map(|_| hog.client.request(LARGE, b"")).collect();
        hog.send(&requests);
        world.until("they are served, or half of the room is taken", |world| {
            world.asked.requests.load(SeqCst) >= sent || is_half_taken(world)
        });
    }
    assert_eq!(bob.ask(LARGE, b"").code, 0, "who reads is served");
    clock.advance(Duration::from_secs(6));
    world.until("the room is free again", |world| {
        world.gateway().owed_bytes() < 1 << 17
    });
    assert_eq!(hog.close_reason(), Some(CloseReason::SlowConsumer.number()));
    assert_eq!(bob.ask(LARGE, b"").code, 0);
}

/// A connection from another address of this machine than all the others.
fn connect_from(source: [u8; 4], to: std::net::SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let source = std::net::SocketAddr::from((source, 0));
    socket.bind(&source.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says hello and reads the first byte of the answer.
fn answer_type(world: &World, stream: &mut TcpStream, uid: &str) -> u8 {
    let greeting = Greeting::new(&world.key, &login(uid, "good", 1));
    stream.write_all(&greeting.hello).unwrap();
    let mut kind = [0];
    stream.read_exact(&mut kind).unwrap();
    kind[0]
}

#[test]
fn a_silent_address_that_holds_all_places_for_handshakes_makes_room_for_others() {
    let mut config = config();
    config.reactors = 1;
    config.handshake.unfinished_max = 16;
    let (world, clock) = World::on_manual_clock(config);
    let strangers: Vec<TcpStream> = (0..16).map(|_| connect(world.address)).collect();
    world.until("all places are taken", |world| {
        world.gateway().unfinished_handshakes() == 16
    });
    // Taken in one by one, on a slow machine, they have used up what strangers may cost at once; nobody was silent for long yet.
    clock.advance(Duration::from_millis(200));
    let mut bob = connect_from([127, 0, 0, 2], world.address);
    assert_eq!(answer_type(&world, &mut bob, "bob"), ACCEPT);
    // One of the same address has to wait until somebody was silent for long.
    let refused = read_to_end(&mut connect(world.address));
    assert_eq!(refused.first(), Some(&REJECT));
    clock.advance(Duration::from_secs(2));
    // The turn in which she comes first may have begun before.
    world.until("carol is let in", |world| {
        answer_type(world, &mut connect(world.address), "carol") == ACCEPT
    });
    let mut first = &strangers[0];
    let mut told = [0; 5];
    first.read_exact(&mut told).unwrap();
    assert_eq!(told[0], REJECT, "who has to go is told to come again");
}

#[test]
fn those_who_hold_half_records_make_room_for_those_who_finish_theirs() {
    let mut config = config();
    config.reactors = 1;
    config.memory.held_bytes_max = 256 * 1024;
    let world = World::with(config);
    let mut bob = world.log_in("bob", 1);
    // Far more than all that may be held.
    let mut hogs: Vec<Socket> = (0..40)
        .map(|index| {
            let mut hog = world.log_in(&format!("hog-{index}"), 1);
            let request = hog.client.request(ECHO, &[7; 15_000]);
            let record = hog.client.seal(&[request]);
            hog.send_bytes(&record[..14_000]);
            hog
        })
        .collect();
    for _ in 0..5 {
        let request = bob.client.request(ECHO, &[7; 12_000]);
        let record = bob.client.seal(&[request]);
        let (head, tail) = record.split_at(10_000);
        bob.send_bytes(head);
        bob.send_bytes(tail);
        let Some(Frame::Response(answer)) = bob.next() else {
            panic!("he is served")
        };
        assert_eq!(Response::decode(answer.payload).unwrap().code, 0);
    }
    world.until("what is held is within three quarters", |world| {
        world.gateway().held_bytes() < 192 * 1024
    });
    let overloaded = CloseReason::Overloaded.number();
    assert_eq!(
        hogs[0].close_reason(),
        Some(overloaded),
        "who held for longest went first"
    );
}

#[test]
fn the_last_word_arrives_though_more_was_on_its_way_behind_the_mistake() {
    let world = World::new();
    for epoch in 1..=20 {
        let mut alice = world.log_in("alice", epoch);
        alice.send(&[Frame::PushAck { through: 99 }]);
        // Lies unread at the gateway when it closes.
        for _ in 0..50 {
            alice.send_bytes(&[0xee; 2_000]);
        }
        let reason = CloseReason::ProtocolViolation.number();
        assert_eq!(alice.close_reason(), Some(reason));
    }
}

#[test]
fn who_never_ends_after_our_last_word_is_not_waited_for() {
    let (world, clock) = World::on_manual_clock(config());
    let mut alice = world.log_in("alice", 1);
    alice.send(&[Frame::PushAck { through: 99 }]);
    world.until("it is no session any more", |world| {
        world.gateway().sessions() == 0
    });
    assert_eq!(world.gateway().connections(), 1, "it is waited for a little");
    clock.advance(Duration::from_secs(2));
    world.until("it is no connection any more", |world| {
        world.gateway().connections() == 0
    });
    drop(alice);
}
