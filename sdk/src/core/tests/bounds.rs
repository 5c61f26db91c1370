//! Bounds, and what costs nothing: hostile input, full queues, a client at rest.

use super::*;

#[test]
fn hostile_pushes_and_answers_are_left_lying() {
    let mut sim = Sim::new();
    sim.quiesce();
    for method in [1, 2, 99] {
        for payload in [&b"\xff\xff\xff"[..], b"", b"\x0a\x01x"] {
            sim.step(|core, now| {
                core.handle_push(method, Bytes::from_static(payload), now)
                    .unwrap()
            });
        }
    }
    sim.step(|core, now| core.handle_response(4_711, Ok(Bytes::new()), now).unwrap());
    sim.step(Core::handle_online);
    sim.poll();
    let tag = sim.asked.pop().unwrap().tag;
    sim.step(|core, now| {
        core.handle_response(tag, Ok(Bytes::from_static(b"\xff")), now)
            .unwrap()
    });
    assert!(
        sim.core.due().is_some_and(|due| due > sim.now().monotonic),
        "it is asked again after a pause"
    );
}

#[test]
fn the_queue_is_bounded_in_length_and_messages_in_size() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    let long = message(conversation, &"x".repeat(24 * 1024));
    let refused = sim
        .step(|core, _| core.enqueue(&long, None).unwrap())
        .unwrap_err();
    assert_eq!(refused.code, crate::error::ErrorCode::InvalidArgument as u32);
}

#[test]
fn one_connection_costs_one_sync() {
    let mut sim = Sim::new();
    sim.poll();
    assert_eq!(
        sim.asked
            .iter()
            .filter(|request| request.method == Method::Sync)
            .count(),
        1
    );
    sim.serve(0);
    sim.answer(0);
    sim.poll();
    assert_eq!(sim.asked, []);
}

#[test]
fn a_client_that_waits_for_answers_sleeps() {
    let mut sim = Sim::new();
    for uid in ["a", "b", "c", "d", "e", "f", "g"] {
        let conversation = sim.open_direct(uid);
        sim.world.say(conversation, uid, "hello");
        sim.enqueue(conversation, "hello");
    }
    for _ in 0..200 {
        sim.poll();
        let syncs = sim
            .asked
            .iter()
            .position(|request| request.method == Method::Sync);
        match syncs {
            Some(index) => sim.serve(index),
            None if sim.answers.is_empty() => break,
            None => sim.answer(0),
        }
    }
    assert_eq!(
        sim.asked
            .iter()
            .filter(|request| request.method == Method::Pull)
            .count(),
        4
    );
    let due = sim.core.due();
    assert!(due.is_none_or(|due| due > sim.now().monotonic), "{due:?}");
}

#[test]
fn calls_wait_their_turn() {
    let mut sim = Sim::new();
    sim.quiesce();
    let now = sim.now();
    for _ in 0..100 {
        sim.core.call(
            NewCall {
                method: Method::Leave,
                affinity: None,
                payload: Payload::Ready(Bytes::new()),
                within: Duration::from_secs(30),
                reply: Box::new(|_| {}),
            },
            now,
        );
    }
    sim.poll();
    assert_eq!(sim.asked.len(), 32);
    let tag = sim.asked[0].tag;
    sim.step(|core, now| core.handle_response(tag, Ok(Bytes::new()), now).unwrap());
    sim.poll();
    assert_eq!(sim.asked.len(), 33);
}
