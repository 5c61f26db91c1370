//! What honest clients see.

use std::sync::atomic::Ordering::SeqCst;

use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{Frame, Retry};

use crate::support::client::login;
use crate::support::socket::Socket;
use crate::support::world::{ECHO, TELL, World};

#[test]
fn two_users_chat_through_the_gateway() {
    let world = World::new();
    let (mut alice, mut bob) = (world.log_in("alice", 1), world.log_in("bob", 1));
    for round in 0..20 {
        assert_eq!(alice.ask(TELL, format!("bob\0hello {round}").as_bytes()).code, 0);
        assert_eq!(bob.next_push(), format!("hello {round}").into_bytes());
        assert_eq!(bob.ask(TELL, format!("alice\0hi {round}").as_bytes()).code, 0);
        assert_eq!(alice.next_push(), format!("hi {round}").into_bytes());
    }
    assert_eq!(world.gateway().sessions(), 2);
    assert_eq!(world.gateway().unfinished_handshakes(), 0);
    drop((alice, bob));
    world.until("both sessions are gone", |world| {
        world.gateway().connections() == 0
    });
    world.until("they are unregistered", |world| {
        world.sessions_of("alice").is_empty()
    });
}

#[test]
fn a_request_behind_confirm_is_answered_after_ready() {
    let world = World::new();
    let (mut socket, answer) = Socket::greet(world.address, &world.key, &login("alice", "new", 1));
    assert_eq!(
        (answer.code, answer.requests_max, answer.heartbeat_ms),
        (0, 32, 240_000)
    );
    let sync = socket.client.request(ECHO, b"cursor");
    socket.send(&[Frame::Confirm, sync]);
    assert_eq!(socket.next(), Some(Frame::Ready));
    assert!(matches!(socket.next(), Some(Frame::Response(_))));
}

#[test]
fn a_refused_login_is_told_inside_the_handshake() {
    let world = World::new();
    let (mut socket, answer) = Socket::greet(world.address, &world.key, &login("alice", "expired", 1));
    assert_eq!(answer.code, Code::TokenExpired.number());
    assert!(
        answer.server_time_ms > 1_700_000_000_000,
        "a client with a wrong clock learns the time"
    );
    assert_eq!(socket.next(), None);
}

#[test]
fn a_newer_login_of_a_device_takes_the_place_of_the_older_one() {
    let world = World::new();
    let mut first = world.log_in("alice", 1);
    let mut second = world.log_in("alice", 2);
    assert_eq!(
        first.next(),
        Some(Frame::Close {
            reason: CloseReason::Superseded.number(),
            retry: Retry::Never
        })
    );
    assert_eq!(first.next(), None);
    assert_eq!(second.ask(ECHO, b"here").body, &b"here"[..]);
    let (mut stale, answer) = Socket::greet(world.address, &world.key, &login("alice", "good", 1));
    assert_eq!(answer.code, 0);
    stale.send(&[Frame::Confirm]);
    assert_eq!(stale.close_reason(), Some(CloseReason::Superseded.number()));
    assert_eq!(second.ask(ECHO, b"still here").body, &b"still here"[..]);
    assert_eq!(world.sessions_of("alice").len(), 1);
}

#[test]
fn nothing_is_opened_before_the_client_confirms() {
    let world = World::new();
    let (mut socket, _) = Socket::greet(world.address, &world.key, &login("alice", "good", 1));
    assert_eq!(world.asked.authenticate.load(SeqCst), 1);
    assert_eq!(world.asked.open_session.load(SeqCst), 0);
    assert!(world.sessions_of("alice").is_empty());
    socket.send(&[Frame::Confirm]);
    assert_eq!(socket.next(), Some(Frame::Ready));
    assert_eq!(world.asked.open_session.load(SeqCst), 1);
    assert_eq!(world.sessions_of("alice").len(), 1);
}
