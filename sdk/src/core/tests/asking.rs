//! What the app asks, and read marks.

use super::*;

#[test]
fn calls_are_repeated_over_connections_with_the_same_operation_id_until_their_time_is_over() {
    let mut sim = Sim::new();
    sim.quiesce();
    let outcome = Arc::new(Mutex::new(None));
    let call = || NewCall {
        method: Method::Leave,
        affinity: None,
        payload: Payload::WithOperationId(Box::new(|id| Bytes::copy_from_slice(id.as_bytes()))),
        within: Duration::from_secs(30),
        reply: {
            let outcome = Arc::clone(&outcome);
            Box::new(move |result| *outcome.lock().unwrap() = Some(result))
        },
    };
    let now = sim.now();
    sim.core.call(call(), now);
    sim.poll();
    let first = sim.asked[0].payload.clone();
    sim.disconnect();
    sim.connect();
    sim.poll();
    let again = sim
        .asked
        .iter()
        .find(|request| request.method == Method::Leave)
        .unwrap();
    assert_eq!(again.payload, first);
    let tag = again.tag;
    let busy = Refusal {
        code: Code::Overloaded.number(),
        message: "full".into(),
        retry_after_ms: 1_000,
    };
    sim.step(|core, now| {
        core.handle_response(tag, Err(Failure::Refused(busy)), now)
            .unwrap()
    });
    assert!(outcome.lock().unwrap().is_none(), "it is tried again");
    sim.disconnect();
    sim.now_ms += 30_000;
    sim.poll();
    let error = outcome.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!(error.code, crate::error::ErrorCode::Offline as u32);
}

#[test]
fn read_marks_survive_a_restart_never_go_back_and_show_at_once() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    for text in ["1", "2", "3"] {
        sim.world.say(conversation, "bob", text);
    }
    sim.quiesce();
    assert_eq!(sim.core.conversations().unwrap()[0].unread, 3);
    sim.disconnect();
    sim.step(|core, _| core.mark_read(conversation, 2).unwrap());
    sim.step(|core, _| core.mark_read(conversation, 1).unwrap());
    let row = sim.core.conversations().unwrap().remove(0);
    assert_eq!((row.read_seq, row.unread), (2, 1));
    sim.restart();
    assert_eq!(sim.core.conversations().unwrap()[0].read_seq, 2);
    sim.connect();
    sim.quiesce();
    assert_eq!(sim.world.read_seq(conversation, ME), 2);
    assert_eq!(sim.core.conversations().unwrap()[0].unread, 1);
}

#[test]
fn a_row_from_before_a_read_mark_does_not_take_it_back() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.world.say(conversation, "bob", "1");
    sim.collect_pushes();
    sim.pushes.clear();
    sim.quiesce();
    sim.world.say(conversation, "bob", "2");
    // The message is read as it comes, and the mark is answered before the notice of the message arrives.
    sim.collect_pushes();
    sim.push(0);
    sim.step(|core, _| core.mark_read(conversation, 2).unwrap());
    sim.quiesce();
    assert_eq!(sim.world.read_seq(conversation, ME), 2);
    sim.push(1);
    let row = sim.core.conversations().unwrap().remove(0);
    assert_eq!((row.read_seq, row.unread), (2, 0));
}

#[test]
fn a_row_that_was_written_before_a_mark_was_taken_does_not_take_it_back() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.world.say(conversation, "bob", "1");
    sim.quiesce();
    sim.pushes.clear();
    sim.world.say(conversation, "bob", "2");
    sim.collect_pushes();
    sim.step(|core, _| core.mark_read(conversation, 1).unwrap());
    sim.poll();
    sim.serve(0);
    // The answer to the mark overtakes the notice of the message before it.
    sim.answer(0);
    for index in 0..sim.pushes.len() {
        sim.push(index);
        let row = sim.core.conversations().unwrap().remove(0);
        assert_eq!(row.read_seq, 1, "after {index}");
    }
    sim.quiesce();
    let row = sim.core.conversations().unwrap().remove(0);
    assert_eq!((row.head_seq, row.read_seq, row.unread), (2, 1, 1));
}

#[test]
fn history_from_before_a_recall_that_was_taken_in_meanwhile_is_asked_for_again() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    for n in 1..=60 {
        sim.world.say(conversation, "bob", &n.to_string());
    }
    // A new device shows the last fifty.
    let unseen = Entry {
        seq: 10,
        rev: 0,
        time_ms: 0,
        sender_uid: String::new(),
        local_id: None,
        body: EntryBody::Unknown,
    };
    sim.shown.insert(conversation, vec![unseen]);
    sim.quiesce();
    let request = HistoryRequest {
        conversation,
        before_seq: 11,
        limit: 7,
    };
    let asked = sim.core.local_history(request).unwrap().rest.unwrap();
    let before = sim
        .world
        .handle(ME, Method::Pull.number(), &asked.encode_to_vec())
        .body;
    let recall = whimbrel_protocol::client::RecallRequest {
        conversation: Bytes::copy_from_slice(conversation.as_bytes()),
        seq: 10,
        ..Default::default()
    };
    sim.world
        .handle("bob", Method::Recall.number(), &recall.encode_to_vec());
    sim.disconnect();
    sim.connect();
    sim.quiesce();
    let stale = sim.step(|core, _| core.handle_history(&asked, conversation, before).unwrap());
    assert!(stale.is_none());
    let now = sim
        .world
        .handle(ME, Method::Pull.number(), &asked.encode_to_vec())
        .body;
    let page = sim.step(|core, _| core.handle_history(&asked, conversation, now).unwrap());
    let page = page.unwrap().unwrap();
    assert!(
        matches!(page[0].body, EntryBody::Recalled { .. }),
        "{:?}",
        page[0]
    );
    let kept = sim.core.local_history(request).unwrap();
    assert_eq!(kept.entries, page);
}
