//! What goes out: when its latency begins, what is sent again, what is given up.

use super::*;

#[test]
fn latency_counts_from_when_a_send_was_due_and_not_from_when_it_went_out() {
    let mut scene = Scene::new();
    scene.chat.send(ms(1_000), ms(1_400), &mut scene.wire);
    let (sender, id, payload) = scene.asked(Method::Send);
    let other = 1 - sender.0;
    scene.push(other, 1_450, vec![entry_of(payload, HEAD + 1)]);
    let result = Ok(accepted(HEAD + 1).into());
    scene.happen(sender.0, 1_500, What::Response { id, result });
    let tally = &scene.wire.counter.tally;
    assert_eq!((tally.sends, tally.acked, tally.deliveries), (1, 1, 1));
    assert!((tally.ack.max_ms().unwrap() - 500.0).abs() < 1.0);
    assert!((tally.delivery.max_ms().unwrap() - 450.0).abs() < 1.0);
    assert!(scene.chat.is_settled());
}

#[test]
fn a_send_without_an_answer_goes_out_again_with_the_same_ids_on_a_new_connection_after_a_sync() {
    let mut scene = Scene::new();
    scene.chat.send(ms(0), ms(0), &mut scene.wire);
    let (sender, _, first) = scene.asked(Method::Send);
    let lost = What::Lost {
        epoch: 1,
        was_ready: true,
        why: "cut".into(),
        closed_for: None,
    };
    scene.happen(sender.0, 10, lost);
    scene.happen(sender.0, 20, What::Hello);
    scene.asked(Method::Sync);
    scene.happen(sender.0, 30, What::Ready { epoch: 2 });
    let (again, _, second) = scene.asked(Method::Send);
    assert_eq!((again, second), (sender, first));
    assert_eq!(scene.chat.backlog(), 1);
}

#[test]
fn an_overloaded_server_is_left_alone_for_as_long_as_it_says() {
    let mut scene = Scene::new();
    scene.chat.send(ms(0), ms(0), &mut scene.wire);
    let refusal = Refusal {
        code: 401,
        message: String::new(),
        retry_after_ms: 5_000,
    };
    scene.answer(Method::Send, 10, Err(Failure::Refused(refusal)));
    scene.chat.tick(ms(5_009), &mut scene.wire);
    assert!(scene.wire.asked.is_empty());
    scene.chat.tick(ms(5_010), &mut scene.wire);
    scene.answer(Method::Send, 5_020, Ok(accepted(HEAD + 1)));
    assert_eq!((scene.chat.backlog(), scene.wire.counter.tally.retries), (0, 1));
}

#[test]
fn a_send_refused_for_good_is_resolved_and_counted() {
    let mut scene = Scene::new();
    scene.chat.send(ms(0), ms(0), &mut scene.wire);
    let refusal = Refusal {
        code: 302,
        message: String::new(),
        retry_after_ms: 0,
    };
    scene.answer(Method::Send, 10, Err(Failure::Refused(refusal)));
    assert_eq!((scene.chat.backlog(), scene.wire.counter.tally.refused), (0, 1));
    assert_eq!(
        scene.wire.counter.tally.refused_wrongly, 1,
        "nobody ever leaves a direct chat"
    );
    assert!(scene.wire.counter.tally.is_failure());
    let mut tally = Tally::default();
    scene.chat.close(&mut tally);
    assert_eq!(tally.unresolved, 0);
}

#[test]
fn a_seq_that_goes_back_is_a_violation() {
    let mut scene = Scene::new();
    let mut seq = HEAD + 50;
    // Both send, so that after three sends one has sent twice.
    for at in 0..3 {
        scene.chat.send(ms(at), ms(at), &mut scene.wire);
        scene.answer(Method::Send, at, Ok(accepted(seq)));
        seq -= 1;
    }
    assert!(
        scene
            .wire
            .counter
            .tally
            .told()
            .iter()
            .any(|told| told.invariant == 5)
    );
}
