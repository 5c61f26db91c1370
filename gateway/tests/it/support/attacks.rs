//! What hostile and broken clients do. Each does it once and checks what it gets.

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::descriptor::{KnownTime, verify_chain};
use whimbrel_protocol::frame::{FRAME_LEN_MAX, Frame, Push, Request, RequestId};
use whimbrel_protocol::hello::{HELLO_LEN_MAX, MAGIC};
use whimbrel_protocol::varint;

use super::client::{Greeted, Greeting, login};
use super::socket::{Socket, connect, read_to_end};
use super::world::{ECHO, World};

const REJECT: u8 = 2;
const STALE_KEY: u8 = 3;

/// Says `bytes` to the gateway, and gives what it answers before it hangs up.
fn say(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(world.address);
    stream.write_all(bytes).unwrap();
    read_to_end(&mut stream)
}

fn hello(world: &World) -> Vec<u8> {
    Greeting::new(&world.key, &login("mallory", "good", 1)).hello
}

fn assert_rejected(answer: &[u8], reason: u8) {
    assert_eq!(
        answer.get(..5),
        Some(&[REJECT, 0, 6, 0, reason][..]),
        "{answer:?}"
    );
}

pub(crate) fn random_bytes(world: &World) {
    let mut bytes = [0; 300];
    rand::fill(&mut bytes);
    bytes[0] = 0x51;
    assert!(say(world, &bytes).is_empty());
}

pub(crate) fn wrong_magic(world: &World) {
    assert!(say(world, b"GET / HTTP/1.1\r\n\r\n").is_empty());
    let mut almost = hello(world);
    almost[3] ^= 1;
    assert!(say(world, &almost).is_empty());
}

pub(crate) fn unknown_version(world: &World) {
    let mut hello = hello(world);
    hello[4] = 99;
    assert_rejected(&say(world, &hello), 1);
}

pub(crate) fn unknown_suite(world: &World) {
    let mut hello = hello(world);
    hello[7] = 77;
    assert_rejected(&say(world, &hello), 2);
}

pub(crate) fn unknown_key_id(world: &World) {
    let mut hello = hello(world);
    hello[8] ^= 0xff;
    let answer = say(world, &hello);
    assert_eq!(answer[0], STALE_KEY);
    let now_ms = world.host.clock.now_ms();
    let described = verify_chain(&answer[3..], &[world.root], KnownTime::Exactly(now_ms)).unwrap();
    assert_eq!(described.statement.node.as_str(), "gateway-1");
}

pub(crate) fn hello_over_its_bound(world: &World) {
    let mut hello = MAGIC.to_vec();
    hello.extend_from_slice(&[1, 0xff, 0xff]);
    hello.resize(HELLO_LEN_MAX, 0);
    assert_rejected(&say(world, &hello[..7]), 3);
}

pub(crate) fn bytes_behind_the_hello(world: &World) {
    let mut hello = hello(world);
    hello.push(0);
    assert_rejected(&say(world, &hello), 3);
}

pub(crate) fn tampered_hello(world: &World) {
    let mut hello = hello(world);
    *hello.last_mut().unwrap() ^= 1;
    assert_rejected(&say(world, &hello), 4);
}

pub(crate) fn hello_cut_short(world: &World) {
    let hello = hello(world);
    let mut stream = connect(world.address);
    stream.write_all(&hello[..hello.len() / 2]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&mut stream).is_empty());
}

pub(crate) fn claims_that_are_no_ids(world: &World) {
    for (uid, code) in [
        ("", Code::InvalidArgument),
        (&*"x".repeat(65), Code::InvalidArgument),
        ("a\nb", Code::InvalidArgument),
    ] {
        let (mut socket, answer) = Socket::greet(world.address, &world.key, &login(uid, "good", 1));
        assert_eq!(answer.code, code.number(), "{uid:?}");
        assert_eq!(socket.next(), None);
    }
}

pub(crate) fn expired_token(world: &World) {
    let (mut socket, answer) = Socket::greet(world.address, &world.key, &login("mallory", "expired", 1));
    assert_eq!(answer.code, Code::TokenExpired.number());
    assert_eq!(socket.next(), None);
}

fn mallory(world: &World) -> Socket {
    world.log_in("mallory", 0)
}

fn assert_closed(socket: &mut Socket, reason: CloseReason) {
    assert_eq!(socket.close_reason(), Some(reason.number()));
}

fn gone(world: &World) {
    world.until("mallory is unregistered", |world| {
        world.sessions_of("mallory").is_empty()
    });
}

/// Sends `bytes` as records' worth of frames, and expects to be closed for it.
fn frames_that_close(world: &World, plaintext: &[u8]) {
    let mut socket = mallory(world);
    let record = socket.client.seal_raw(plaintext);
    socket.send_bytes(&record);
    assert_closed(&mut socket, CloseReason::ProtocolViolation);
    gone(world);
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

pub(crate) fn tampered_record(world: &World) {
    let mut socket = mallory(world);
    let mut record = socket.client.seal(&[Frame::Ping { token: 1 }]);
    record[3] ^= 1;
    socket.send_bytes(&record);
    assert_closed(&mut socket, CloseReason::ProtocolViolation);
    gone(world);
}

pub(crate) fn replayed_record(world: &World) {
    let mut socket = mallory(world);
    let record = socket.client.seal(&[Frame::Ping { token: 1 }]);
    socket.send_bytes(&record);
    assert_eq!(socket.next(), Some(Frame::Pong { token: 1 }));
    socket.send_bytes(&record);
    assert_closed(&mut socket, CloseReason::ProtocolViolation);
    gone(world);
}

pub(crate) fn reordered_records(world: &World) {
    let mut socket = mallory(world);
    let _lost = socket.client.seal(&[Frame::Ping { token: 1 }]);
    let second = socket.client.seal(&[Frame::Ping { token: 2 }]);
    socket.send_bytes(&second);
    assert_closed(&mut socket, CloseReason::ProtocolViolation);
    gone(world);
}

pub(crate) fn cut_record(world: &World) {
    let mut socket = mallory(world);
    let record = socket.client.seal(&[Frame::Ping { token: 1 }]);
    socket.send_bytes(&record[..record.len() - 1]);
    socket.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(socket.next(), None);
    gone(world);
}

pub(crate) fn record_over_its_bound(world: &World) {
    let mut socket = mallory(world);
    socket.send_bytes(&[0xff, 0xff]);
    assert_closed(&mut socket, CloseReason::ProtocolViolation);
    gone(world);
}

pub(crate) fn empty_record(world: &World) {
    let mut socket = mallory(world);
    socket.send_bytes(&[0, 16]);
    socket.send_bytes(&[0; 16]);
    assert_closed(&mut socket, CloseReason::ProtocolViolation);
    gone(world);
}

pub(crate) fn replayed_hello(world: &World) {
    let greeting = Greeting::new(&world.key, &login("victim", "good", 5));
    let recorded = greeting.hello.clone();
    let mut stream = connect(world.address);
    stream.write_all(&recorded).unwrap();
    let mut victim = finish(greeting, stream);
    let confirm = victim.client.seal(&[Frame::Confirm]);
    victim.send_bytes(&confirm);
    assert_eq!(victim.next(), Some(Frame::Ready));

    let opened = world.asked.open_session.load(SeqCst);
    let registered = world.sessions_of("victim");
    let mut replay = connect(world.address);
    replay.write_all(&recorded).unwrap();
    replay.write_all(&confirm).unwrap();
    assert!(
        !read_to_end(&mut replay).is_empty(),
        "it is answered, but the answer opens nothing"
    );
    assert_eq!(
        world.asked.open_session.load(SeqCst),
        opened,
        "a replay opens no session"
    );
    assert_eq!(
        world.sessions_of("victim"),
        registered,
        "a replay registers and displaces nobody"
    );
    assert_eq!(victim.ask(ECHO, b"untouched").body, &b"untouched"[..]);
    drop(victim);
    world.until("the victim is unregistered", |world| {
        world.sessions_of("victim").is_empty()
    });
}

fn finish(mut greeting: Greeting, mut stream: std::net::TcpStream) -> Socket {
    use std::io::Read as _;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the gateway hung up on a hello");
        bytes.extend_from_slice(&buffer[..read]);
        match greeting.answered(&mut bytes) {
            Err(again) => greeting = again,
            Ok(Greeted::Answered(client, _)) => {
                return Socket {
                    stream,
                    client: *client,
                };
            }
            Ok(Greeted::Refused(kind)) => panic!("the hello was answered with type {kind}"),
        }
    }
}

pub(crate) fn request_before_confirm(world: &World) {
    let (mut socket, _) = Socket::greet(world.address, &world.key, &login("mallory", "good", 1));
    let opened = world.asked.open_session.load(SeqCst);
    let request = socket.client.request(ECHO, b"early");
    socket.send(&[request]);
    assert_closed(&mut socket, CloseReason::ProtocolViolation);
    assert_eq!(world.asked.open_session.load(SeqCst), opened);
}

pub(crate) fn second_confirm(world: &World) {
    frames_that_close(world, &encoded(&Frame::Confirm));
}

fn request(id: u32) -> Frame {
    let payload = Bytes::new();
    Frame::Request(Request {
        method: ECHO,
        id: RequestId(id),
        affinity: None,
        deadline_ms: None,
        compressed: false,
        payload,
    })
}

pub(crate) fn duplicate_request_id(world: &World) {
    frames_that_close(world, &[encoded(&request(1)), encoded(&request(1))].concat());
}

pub(crate) fn even_request_id(world: &World) {
    frames_that_close(world, &encoded(&request(2)));
}

pub(crate) fn unknown_critical_kind(world: &World) {
    frames_that_close(world, &[3, 200, 0x02, 0]);
}

pub(crate) fn unknown_kind(world: &World) {
    let mut socket = mallory(world);
    let record = socket.client.seal_raw(&[3, 200, 0, 0]);
    socket.send_bytes(&record);
    assert_eq!(socket.ask(ECHO, b"skipped").body, &b"skipped"[..]);
    drop(socket);
    gone(world);
}

pub(crate) fn frame_over_its_bound(world: &World) {
    let mut length = Vec::new();
    varint::encode(u32::try_from(FRAME_LEN_MAX).unwrap() + 1, &mut length);
    frames_that_close(world, &length);
}

pub(crate) fn frame_of_the_other_side(world: &World) {
    let push = Push {
        method: 1,
        tracked: false,
        compressed: false,
        payload: Bytes::new(),
    };
    frames_that_close(world, &encoded(&Frame::Push(push)));
    frames_that_close(world, &encoded(&Frame::Ready));
}

pub(crate) fn acknowledgement_of_nothing(world: &World) {
    frames_that_close(world, &encoded(&Frame::PushAck { through: 1 }));
}

pub(crate) fn token_that_is_no_text(world: &World) {
    let mut socket = mallory(world);
    socket.send(&[Frame::Reauth {
        within_ms: 0,
        payload: Bytes::from_static(&[0xff, 0xfe]),
    }]);
    assert_closed(&mut socket, CloseReason::TokenExpired);
    gone(world);
}

pub(crate) fn undecodable_cluster_frames(world: &World) {
    use whimbrel_protocol::cluster::{Kind, Status};
    for kind in [Kind::Push, Kind::Pushes, Kind::CloseSessions, Kind::UserWork] {
        assert_eq!(
            world.send_raw(kind, &[0xff; 7]).status,
            i32::from(Status::BadRequest)
        );
    }
}

pub(crate) fn too_many_requests(world: &World) {
    let mut socket = mallory(world);
    let frames: Vec<_> = (0..33)
        .map(|_| socket.client.request(super::world::IGNORE, b""))
        .collect();
    socket.send(&frames);
    let Some(Frame::Response(refused)) = socket.next() else {
        panic!("the 33rd request is refused")
    };
    assert_eq!(refused.id, RequestId(65));
    let refused = whimbrel_protocol::client::Response::decode(refused.payload).unwrap();
    assert_eq!(refused.code, Code::TooManyRequests.number());
    drop(socket);
    gone(world);
}
