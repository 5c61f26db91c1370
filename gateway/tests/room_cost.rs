//! What a delivery to a member of a room costs the gateway, against writing the same bytes to as many sockets.
//!
//! A process of its own, so that nothing else moves its numbers. Ignored unless asked for: it wants an idle machine and a
//! build with optimisations:
//!
//! ```text
//! cargo test --release -p whimbrel-gateway --test room_cost -- --ignored --nocapture
//! ```
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use prost::Message as _;
use whimbrel_protocol::cluster::{Kind, RoomBroadcast, RoomBroadcastResponse, RoomOrder, RoomOrderResponse};

#[expect(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "it/support/mod.rs"]
mod support;

use support::world::{World, config, target_of};

/// Enough that a slice is a small part of a broadcast; four descriptors each, with the raw reference.
const MEMBERS: usize = 2_000;
/// Broadcasts measured.
const ROUNDS: usize = 50;
/// A line of chat with its envelope.
const PAYLOAD: [u8; 150] = [7; 150];
/// What the payload becomes: with its frame's head, and a record's length and tag.
const RECORD_LEN: usize = PAYLOAD.len() + 5 + 18;
/// The design's bound over the raw write, nanoseconds.
const OVER_RAW_MAX_NS: u64 = 3_000;

fn cpu_ns(task: &std::path::Path) -> u64 {
    let text = std::fs::read_to_string(task.join("schedstat")).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Nanoseconds on a core that this process's reactors have spent.
fn reactor_cpu_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let reactors = tasks.map(|task| task.unwrap().path()).filter(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("reactor-"))
    });
    reactors.map(|task| cpu_ns(&task)).sum()
}

/// Reads away what waits on a socket, so that its next message is written as the first was.
fn drain(streams: &[TcpStream]) {
    let mut buffer = [0; 64 * 1024];
    for mut stream in streams {
        stream.set_nonblocking(true).unwrap();
        while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
    }
}

/// CPU of writing a record's worth to each of as many sockets, per write.
fn raw_ns() -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..MEMBERS {
        theirs.push(TcpStream::connect(address).unwrap());
        let stream = listener.accept().unwrap().0;
        stream.set_nodelay(true).unwrap();
        ours.push(stream);
    }
    let bytes = [7; RECORD_LEN];
    let me = std::path::Path::new("/proc/thread-self");
    let mut spent = 0;
    for _ in 0..ROUNDS {
        let before = cpu_ns(me);
        for stream in &mut ours {
            stream.write_all(&bytes).unwrap();
        }
        spent += cpu_ns(me) - before;
        drain(&theirs);
    }
    spent / (MEMBERS * ROUNDS) as u64
}

#[test]
#[ignore = "a measurement: wants an idle machine and a build with optimisations"]
#[expect(clippy::print_stdout, reason = "the numbers are what it is for")]
fn a_delivery_to_a_room_costs_little_over_the_raw_write() {
    let _limit = whimbrel_host::RawFdLimit::raise_to_hard();
    let mut config = config();
    config.connections_max = 10_000;
    let world = World::with(config);
    let mut streams = Vec::new();
    for index in 0..MEMBERS {
        let uid = format!("user-{index}");
        streams.push(world.log_in(&uid, 1).stream);
        let order = RoomOrder {
            app_key: "demo".to_owned(),
            room: "hall".to_owned(),
            session: Some(target_of(&world.sessions_of(&uid)[0])),
            gateway_incarnation: 11,
            leave: false,
            request_id: 0,
        };
        let answer = world.send_raw(Kind::RoomOrder, &order.encode_to_vec());
        assert_eq!(RoomOrderResponse::decode(answer.body).unwrap().outcome, 1);
    }
    let broadcast = RoomBroadcast {
        app_key: "demo".to_owned(),
        room: "hall".to_owned(),
        method: 3,
        payload: PAYLOAD.to_vec().into(),
        gateway_incarnation: 11,
    }
    .encode_to_vec();
    let mut spent = 0;
    for _ in 0..ROUNDS {
        let before = reactor_cpu_ns();
        let answer = world.send_raw(Kind::RoomBroadcast, &broadcast);
        let answer = RoomBroadcastResponse::decode(answer.body).unwrap();
        assert_eq!((answer.taken as usize, answer.dropped), (MEMBERS, 0));
        // The last member on each reactor has it once a whole record waits everywhere.
        let mut buffer = [0; RECORD_LEN];
        for stream in &streams {
            stream.set_nonblocking(false).unwrap();
            while stream.peek(&mut buffer).unwrap() < RECORD_LEN {}
        }
        spent += reactor_cpu_ns() - before;
        drain(&streams);
    }
    let delivery_ns = spent / (MEMBERS * ROUNDS) as u64;
    let raw_ns = raw_ns();
    println!(
        "a delivery {delivery_ns} ns, a raw write {raw_ns} ns, {} ns over it",
        delivery_ns.saturating_sub(raw_ns)
    );
    if !cfg!(debug_assertions) {
        assert!(
            delivery_ns <= raw_ns + OVER_RAW_MAX_NS,
            "{delivery_ns} ns, raw {raw_ns} ns"
        );
    }
}
