//! Handles: what was meant for an earlier owner of a slot reaches nobody.

use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::cluster::{PushResponse, PushTarget};
use whimbrel_protocol::frame::Frame;

use crate::support::world::{ECHO, IGNORE, World, config, target_of, user_id};

const LIFE: u64 = 11;

/// One reactor, so that the slot left last is taken next.
fn world() -> World {
    let mut config = config();
    config.reactors = 1;
    // What is answered is answered before that on a busy machine too, and what is not is waited for that long.
    config.session.request_deadline_ms = 3_000;
    World::with(config)
}

/// Logs `uid` in and out again; where it was.
fn passing(world: &World, uid: &str) -> PushTarget {
    let socket = world.log_in(uid, 1);
    let target = target_of(&world.sessions_of(uid)[0]);
    drop(socket);
    world.until("it is gone", |world| world.gateway().connections() == 0);
    target
}

#[test]
fn a_push_to_an_earlier_owner_of_a_slot_is_gone_however_it_is_misdirected() {
    let world = world();
    for round in 0..20 {
        let earlier = passing(&world, "alice");
        let mut bob = world.log_in("bob", 1);
        let bobs = target_of(&world.sessions_of("bob")[0]);
        assert_eq!(bobs.slot, earlier.slot, "the slot was used again");
        let misdirected = [
            earlier,
            PushTarget {
                generation: bobs.generation,
                ..earlier
            },
            PushTarget {
                user_id: bobs.user_id,
                ..earlier
            },
            PushTarget {
                generation: bobs.generation + 1,
                ..bobs
            },
            PushTarget {
                slot: bobs.slot + 1,
                ..bobs
            },
            PushTarget { reactor: 9, ..bobs },
            PushTarget {
                slot: u32::MAX,
                generation: u32::MAX,
                ..bobs
            },
        ];
        let response = world.push(misdirected.to_vec(), b"for alice only", LIFE);
        assert_eq!((response.accepted, response.gone.len()), (0, misdirected.len()));
        let response = world.push(vec![bobs], b"of another life", LIFE + 1);
        assert_eq!((response.accepted, response.gone), (0, vec![bobs]));
        let response = world.push(vec![earlier, bobs], b"for bob", LIFE);
        assert_eq!((response.accepted, response.gone), (1, vec![earlier]));
        assert_eq!(bob.next_push(), b"for bob", "round {round}");
        drop(bob);
        world.until("bob is gone", |world| world.gateway().connections() == 0);
    }
}

#[test]
fn pushes_that_come_together_are_told_apart_and_keep_their_order() {
    let world = world();
    let earlier = passing(&world, "alice");
    let mut bob = world.log_in("bob", 1);
    let bobs = target_of(&world.sessions_of("bob")[0]);
    let response = world.push_together(vec![
        (vec![bobs], b"first", LIFE),
        (vec![earlier], b"for alice only", LIFE),
        (vec![bobs], b"of another life", LIFE + 1),
        (vec![bobs], b"second", LIFE),
    ]);
    assert_eq!((response.accepted, response.gone), (2, vec![earlier, bobs]));
    assert_eq!(
        (bob.next_push(), bob.next_push()),
        (b"first".into(), b"second".into())
    );
    assert_eq!(world.push_together(Vec::new()), PushResponse::default());
}

#[test]
fn an_answer_to_an_earlier_owner_of_a_slot_reaches_nobody() {
    let world = world();
    let mut alice = world.log_in("alice", 1);
    let alices = target_of(&world.sessions_of("alice")[0]);
    let ask = alice.client.request(IGNORE, b"secret of alice");
    alice.send(&[ask]);
    world.until("it is on its way", |world| {
        world.asked.requests.load(std::sync::atomic::Ordering::SeqCst) == 1
    });
    drop(alice);
    world.until("alice is gone", |world| world.gateway().connections() == 0);
    let mut bob = world.log_in("bob", 1);
    assert_eq!(target_of(&world.sessions_of("bob")[0]).slot, alices.slot);
    // Asked with the same deadline after alice's, so answered after hers.
    let ask = bob.client.request(IGNORE, b"");
    bob.send(&[ask]);
    let Some(Frame::Response(own)) = bob.next() else {
        panic!("the deadline answers")
    };
    assert_eq!(own.id.0, 1);
    assert_eq!(bob.ask(ECHO, b"own").body, &b"own"[..]);
}

#[test]
fn an_order_to_close_an_earlier_owner_closes_nobody() {
    let world = world();
    let earlier = passing(&world, "alice");
    let mut bob = world.log_in("bob", 1);
    let bobs = target_of(&world.sessions_of("bob")[0]);
    let reason = CloseReason::LoginRevoked.number();
    world.close(
        vec![
            earlier,
            PushTarget {
                user_id: user_id("alice"),
                ..bobs
            },
        ],
        reason,
    );
    assert_eq!(bob.ask(ECHO, b"here").body, &b"here"[..]);
    world.close(vec![bobs], reason);
    assert_eq!(bob.close_reason(), Some(reason));
}
