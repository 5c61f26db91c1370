//! The send queue: batches, failures, operation ids.

use super::*;

#[test]
fn messages_that_wait_share_a_batch_and_the_next_batch_waits_for_its_answer() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.quiesce();
    for n in 0..40 {
        sim.enqueue(conversation, &n.to_string());
    }
    sim.poll();
    assert_eq!(sim.asked.len(), 1);
    sim.poll();
    assert_eq!(sim.asked.len(), 1, "one batch per conversation in flight");
    sim.serve(0);
    assert_eq!(sim.world.texts(conversation).len(), 32);
    sim.quiesce();
    let expected: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    assert_eq!(sim.world.texts(conversation), expected);
    assert_eq!(sim.shown_texts(conversation), expected);
    assert_eq!(sim.sent.len(), 40);
}

#[test]
fn a_batch_stays_the_same_over_lost_answers_and_restarts() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.quiesce();
    sim.enqueue(conversation, "a");
    sim.poll();
    let first = sim.asked[0].payload.clone();
    sim.serve(0);
    sim.enqueue(conversation, "b");
    sim.restart();
    sim.connect();
    sim.poll();
    let send = sim
        .asked
        .iter()
        .find(|request| request.method == Method::Send)
        .unwrap();
    assert_eq!(
        send.payload, first,
        "byte for byte, and without what was queued later"
    );
    sim.quiesce();
    assert_eq!(sim.world.texts(conversation), ["a", "b"]);
    assert_eq!(sim.shown_texts(conversation), ["a", "b"]);
}

#[test]
fn a_message_refused_for_good_fails_alone() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.quiesce();
    sim.enqueue(conversation, "before");
    let bad = sim.enqueue(conversation, world::FORBIDDEN);
    sim.enqueue(conversation, "after");
    sim.quiesce();
    assert_eq!(sim.failed, [bad]);
    assert_eq!(sim.world.texts(conversation), ["before", "after"]);
    let unsent = sim.core.unsent().unwrap();
    assert_eq!(unsent.len(), 1);
    assert_eq!(
        unsent[0].failed.as_ref().unwrap().0,
        Code::InvalidArgument.number()
    );
}

#[test]
fn what_waits_after_failures_goes_on_soon_after_anything_is_answered() {
    let mut sim = Sim::new();
    let (late, heard) = (sim.open_direct("bob"), sim.open_direct("carol"));
    sim.quiesce();
    sim.enqueue(late, "late");
    for _ in 0..8 {
        sim.now_ms += 60_000;
        sim.poll();
        let is_send = |request: &Request| request.method == Method::Send;
        let send = sim
            .asked
            .extract_if(.., |request| is_send(request))
            .next()
            .unwrap();
        let failed = Err(Failure::Deadline);
        sim.step(|core, now| core.handle_response(send.tag, failed, now).unwrap());
    }
    sim.asked.clear();
    sim.now_ms += 10_000;
    sim.poll();
    assert!(sim.asked.is_empty(), "a long pause runs");

    sim.enqueue(heard, "heard");
    sim.poll();
    sim.serve(0);
    sim.answer(0);
    sim.now_ms += 500;
    sim.poll();
    assert_eq!(sim.asked.len(), 1, "the pause was shortened");
    sim.quiesce();
    assert_eq!(sim.world.texts(late), ["late"]);
}

#[test]
fn operation_ids_are_made_when_the_servers_clock_is_known() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.disconnect();
    sim.enqueue(conversation, "written with a wrong clock");
    sim.now_ms += 3_600_000;
    sim.connect();
    sim.poll();
    let send = sim
        .asked
        .iter()
        .find(|request| request.method == Method::Send)
        .unwrap();
    let request = whimbrel_protocol::client::SendRequest::decode(send.payload.clone()).unwrap();
    let id = OperationId::from_wire(&request.messages[0].client_msg_id).unwrap();
    assert_eq!(id.time_ms(), T0 + 3_600_000);
}
