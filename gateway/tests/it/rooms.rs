//! Rooms, over sockets: who gets what, and who does not.

use std::sync::Arc;

use prost::Message as _;
use whimbrel_protocol::cluster::room_order_response::Outcome;
use whimbrel_protocol::cluster::{
    Kind, PushTarget, RoomBroadcast, RoomBroadcastResponse, RoomKey, RoomOrder, RoomOrderResponse, Status,
};
use whimbrel_protocol::frame::Frame;

use crate::flow::Forgetful;
use crate::support::socket::Socket;
use crate::support::world::{World, config, target_of};

/// The push method of rooms.
const ROOM: u32 = 3;
/// The gateway's life in these tests.
const LIFE: u64 = 11;

impl World {
    fn target(&self, uid: &str) -> PushTarget {
        target_of(&self.sessions_of(uid)[0])
    }

    fn order(&self, room: &str, session: PushTarget, leave: bool, life: u64) -> Outcome {
        self.give(&RoomOrder {
            app_key: "demo".to_owned(),
            room: room.to_owned(),
            session: Some(session),
            gateway_incarnation: life,
            leave,
            request_id: 0,
        })
    }

    fn give(&self, order: &RoomOrder) -> Outcome {
        let answer = self.send_raw(Kind::RoomOrder, &order.encode_to_vec());
        assert_eq!(answer.status, 0, "{}", answer.detail);
        RoomOrderResponse::decode(answer.body).unwrap().outcome()
    }

    fn join(&self, room: &str, uid: &str) {
        assert_eq!(self.order(room, self.target(uid), false, LIFE), Outcome::Done);
    }

    fn broadcast(&self, room: &str, payload: &[u8]) -> RoomBroadcastResponse {
        let answer = self.send_raw(Kind::RoomBroadcast, &to_room(room, payload));
        assert_eq!(answer.status, 0, "{}", answer.detail);
        RoomBroadcastResponse::decode(answer.body).unwrap()
    }

    fn counted(&self, room: &str) -> u32 {
        let key = RoomKey {
            app_key: "demo".to_owned(),
            room: room.to_owned(),
        };
        let on = self.block_on(self.registry.look_up_room(key)).unwrap();
        on.iter().map(|on| on.members).sum()
    }
}

/// A broadcast's bytes.
fn to_room(room: &str, payload: &[u8]) -> Vec<u8> {
    let broadcast = RoomBroadcast {
        app_key: "demo".to_owned(),
        room: room.to_owned(),
        method: ROOM,
        payload: payload.to_vec().into(),
        gateway_incarnation: LIFE,
    };
    broadcast.encode_to_vec()
}

fn next_of_room(socket: &mut Socket) -> Vec<u8> {
    loop {
        if let Frame::Push(push) = socket.next().expect("a message to the room comes")
            && push.method == ROOM
        {
            assert!(!push.tracked, "rooms want no acknowledgement");
            return push.payload.to_vec();
        }
    }
}

#[test]
fn everybody_in_a_room_gets_each_message_once_and_nobody_else_does() {
    let world = World::new();
    let uid = |index: usize| format!("user-{index}");
    let mut sockets: Vec<_> = (0..20).map(|index| world.log_in(&uid(index), 1)).collect();
    (0..10).for_each(|index| world.join("hall", &uid(index)));
    world.join("hall", &uid(0));
    assert_eq!(world.broadcast("hall", b"first").taken, 10);
    assert_eq!(
        world.order("hall", world.target(&uid(3)), true, LIFE),
        Outcome::Done
    );
    assert_eq!(
        world.order("hall", world.target(&uid(3)), true, LIFE),
        Outcome::Done,
        "leaving twice is leaving"
    );
    assert_eq!(world.broadcast("hall", b"second").taken, 9);
    assert_eq!(
        world.broadcast("bar", b"to nobody"),
        RoomBroadcastResponse::default()
    );
    for (index, socket) in sockets.iter_mut().enumerate() {
        let expected: &[&[u8]] = match index {
            3 => &[b"first"],
            0..10 => &[b"first", b"second"],
            _ => &[],
        };
        for message in expected {
            assert_eq!(next_of_room(socket), *message, "user {index}");
        }
    }
    // The next thing each of them hears is the answer to its own question.
    for socket in &mut sockets {
        let ping = [Frame::Ping { token: 5 }];
        socket.send(&ping);
        assert_eq!(socket.next(), Some(Frame::Pong { token: 5 }));
    }
}

#[test]
fn an_order_touches_only_the_session_it_names() {
    let world = World::new();
    let mut alice = world.log_in("alice", 1);
    let target = world.target("alice");
    let stale = [
        PushTarget {
            generation: target.generation + 1,
            ..target
        },
        PushTarget {
            user_id: target.user_id + 1,
            ..target
        },
        PushTarget { slot: 999, ..target },
        PushTarget { reactor: 9, ..target },
    ];
    for session in stale {
        assert_eq!(
            world.order("hall", session, false, LIFE),
            Outcome::Gone,
            "{session:?}"
        );
    }
    assert_eq!(world.order("hall", target, false, LIFE + 1), Outcome::Gone);
    assert_eq!(world.broadcast("hall", b"to nobody").taken, 0);
    world.join("hall", "alice");
    for session in stale {
        world.order("hall", session, true, LIFE);
    }
    assert_eq!(world.broadcast("hall", b"still here").taken, 1);
    assert_eq!(next_of_room(&mut alice), b"still here");
}

#[test]
fn an_order_to_leave_that_was_asked_for_before_the_last_join_touches_nobody() {
    let world = World::new();
    let mut alice = world.log_in("alice", 1);
    let join = RoomOrder {
        app_key: "demo".to_owned(),
        room: "hall".to_owned(),
        session: Some(world.target("alice")),
        gateway_incarnation: LIFE,
        leave: false,
        request_id: 5,
    };
    let leave = |request_id| RoomOrder {
        leave: true,
        request_id,
        ..join.clone()
    };
    assert_eq!(world.give(&join), Outcome::Done);
    // By a node that stood still, while another carried it out before the join.
    assert_eq!(world.give(&leave(3)), Outcome::Done);
    assert_eq!(world.broadcast("hall", b"still here").taken, 1);
    assert_eq!(next_of_room(&mut alice), b"still here");
    assert_eq!(world.give(&leave(7)), Outcome::Done);
    assert_eq!(world.broadcast("hall", b"gone").taken, 0);
}

#[test]
fn whoever_takes_over_a_slot_is_not_in_the_rooms_of_its_former_owner() {
    let world = World::new();
    let alice = world.log_in("alice", 1);
    let former = world.target("alice");
    world.join("hall", "alice");
    drop(alice);
    world.until("alice is gone", |world| world.gateway().connections() == 0);
    // As many newcomers as it takes to use the slot again.
    let mut sockets = Vec::new();
    let reused = (0..64).any(|index| {
        let uid = format!("user-{index}");
        sockets.push(world.log_in(&uid, 1));
        let target = world.target(&uid);
        (target.reactor, target.slot) == (former.reactor, former.slot)
    });
    assert!(reused, "no slot is used again");
    assert_eq!(world.broadcast("hall", b"to nobody").taken, 0);
    assert_eq!(world.order("hall", former, false, LIFE), Outcome::Gone);
}

#[test]
fn the_registry_knows_of_a_room_before_its_first_join_is_answered_and_forgets_it_with_its_last_session() {
    let world = World::new();
    let (alice, bob) = (world.log_in("alice", 1), world.log_in("bob", 1));
    world.join("hall", "alice");
    assert_eq!(world.counted("hall"), 1);
    world.join("hall", "bob");
    world.until("both are counted", |world| world.counted("hall") == 2);
    drop(alice);
    world.until("one is counted", |world| world.counted("hall") == 1);
    drop(bob);
    world.until("nobody is counted", |world| world.counted("hall") == 0);
}

#[test]
fn a_registry_that_lost_everything_is_told_of_the_rooms_again() {
    let registry = Arc::new(Forgetful::new());
    let world = World::over(config(), Arc::<Forgetful>::clone(&registry));
    let _sessions = ["alice", "bob"].map(|uid| {
        let session = world.log_in(uid, 1);
        world.join("hall", uid);
        session
    });
    world.until("both are counted", |world| world.counted("hall") == 2);
    registry.forget();
    world.until("both are counted again", |world| world.counted("hall") == 2);
}

#[test]
fn a_member_who_does_not_read_delays_nobody_and_takes_no_memory_beyond_its_bound() {
    let world = World::new();
    let _deaf = world.log_in("deaf", 1);
    let mut readers: Vec<_> = (0..6)
        .map(|index| world.log_in(&format!("reader-{index}"), 1))
        .collect();
    world.join("hall", "deaf");
    (0..6).for_each(|index| world.join("hall", &format!("reader-{index}")));
    // Ten times what the kernel and the queue take for one who does not read.
    let payload = vec![7; 60 * 1024];
    for round in 0..150 {
        assert_eq!(world.broadcast("hall", &payload).taken, 7, "round {round}");
        for reader in &mut readers {
            assert_eq!(next_of_room(reader).len(), payload.len());
        }
    }
    // A quarter of a session's 256 KiB, and what was sealed when the socket took no more.
    assert!(
        world.gateway().owed_bytes() <= 160 * 1024,
        "{}",
        world.gateway().owed_bytes()
    );
}

#[test]
fn nonsense_about_rooms_is_refused_with_what_is_wrong() {
    let world = World::new();
    let _alice = world.log_in("alice", 1);
    let whole = RoomOrder {
        app_key: "demo".to_owned(),
        room: "hall".to_owned(),
        session: Some(world.target("alice")),
        gateway_incarnation: LIFE,
        leave: false,
        request_id: 0,
    };
    let orders = [
        RoomOrder {
            session: None,
            ..whole.clone()
        },
        RoomOrder {
            room: String::new(),
            ..whole.clone()
        },
        RoomOrder {
            room: "x".repeat(65),
            ..whole.clone()
        },
        RoomOrder {
            app_key: String::new(),
            ..whole
        },
    ];
    let large = RoomBroadcast {
        app_key: "demo".to_owned(),
        room: "hall".to_owned(),
        payload: vec![0; 64 * 1024 + 1].into(),
        gateway_incarnation: LIFE,
        ..RoomBroadcast::default()
    };
    let nameless = RoomBroadcast {
        gateway_incarnation: LIFE,
        ..RoomBroadcast::default()
    };
    let bad = orders
        .map(|order| (Kind::RoomOrder, order.encode_to_vec()))
        .into_iter()
        .chain([large, nameless].map(|broadcast| (Kind::RoomBroadcast, broadcast.encode_to_vec())))
        .chain([Kind::RoomOrder, Kind::RoomBroadcast].map(|kind| (kind, vec![0xff; 9])));
    for (kind, body) in bad {
        let answer = world.send_raw(kind, &body);
        assert_eq!(answer.status(), Status::BadRequest, "{kind:?} {body:?}");
        assert!(!answer.detail.is_empty());
    }
    assert_eq!(world.counted("hall"), 0);
}
