//! What comes in: pushes, notices and answers to syncs, in whatever order they arrive.

use whimbrel_protocol::client::{ConversationRow, NoticePush, PullResponse};

use super::*;
use crate::record::Synced;

#[test]
fn a_hint_while_a_sync_is_on_its_way_syncs_once_more_and_does_not_keep_the_clock_busy() {
    let mut scene = Scene::new();
    scene.happen(0, 1, What::SyncHint { spread_ms: 0 });
    scene.chat.tick(ms(1), &mut scene.wire);
    let (_, first, _) = scene.asked(Method::Sync);
    scene.happen(0, 2, What::SyncHint { spread_ms: 0 });
    scene.chat.tick(ms(2), &mut scene.wire);
    assert!(scene.wire.asked.is_empty(), "one at a time");
    let result = Ok(SyncResponse::default().encode_to_vec().into());
    scene.happen(0, 3, What::Response { id: first, result });
    scene.chat.tick(ms(3), &mut scene.wire);
    assert_eq!(scene.asked(Method::Sync).0, SeatId(0));
    assert!(scene.wire.asked.is_empty());
}

#[test]
fn what_was_pushed_while_a_device_was_away_is_pulled_after_its_sync() {
    let mut scene = Scene::new();
    scene.chat.send(ms(0), ms(0), &mut scene.wire);
    let (sender, id, payload) = scene.asked(Method::Send);
    let other = 1 - sender.0;
    let result = Ok(accepted(HEAD + 1).into());
    scene.happen(sender.0, 5, What::Response { id, result });
    assert!(!scene.chat.is_settled(), "the other has not got it");
    scene.happen(other, 6, What::SyncHint { spread_ms: 0 });
    scene.chat.tick(ms(7), &mut scene.wire);
    let row = ConversationRow {
        conversation: Bytes::copy_from_slice(conversation_id().as_bytes()),
        head_seq: HEAD + 1,
        ..ConversationRow::default()
    };
    let synced = SyncResponse {
        rows: vec![row],
        ..SyncResponse::default()
    };
    scene.answer(Method::Sync, 8, Ok(synced.encode_to_vec()));
    let page = PullResponse {
        entries: vec![entry_of(payload, HEAD + 1)],
        head_seq: HEAD + 1,
        ..PullResponse::default()
    };
    scene.answer(Method::Pull, 9, Ok(page.encode_to_vec()));
    assert!(scene.chat.is_settled());
    assert_eq!(scene.wire.counter.tally.deliveries, 1);
}

#[test]
fn what_is_pushed_and_is_not_theirs_is_told() {
    let stray = ConversationId::from_parts(ConversationKind::Direct, [9; 15]);
    let of = |conversation: &[u8]| {
        let push = MessagesPush {
            conversation: Bytes::copy_from_slice(conversation),
            entries: vec![Entry::default()],
        };
        push.encode_to_vec()
    };
    let row = ConversationRow {
        conversation: Bytes::from_static(b"nothing"),
        ..ConversationRow::default()
    };
    let notice = NoticePush {
        to_cursor: Bytes::from_static(b"1"),
        rows: vec![row],
        ..NoticePush::default()
    };
    for (what, method, payload) in [
        ("garbage", PushMethod::Messages, b"\xff\xffSECRET".to_vec()),
        ("a garbled notice", PushMethod::Notice, b"\xff\xffSECRET".to_vec()),
        ("entries of strangers", PushMethod::Messages, of(stray.as_bytes())),
        ("entries of nothing", PushMethod::Messages, of(b"nothing")),
        ("a row of nothing", PushMethod::Notice, notice.encode_to_vec()),
        ("a room's message", PushMethod::Room, Vec::new()),
    ] {
        let mut scene = Scene::new();
        let method = method.number();
        let payload = payload.into();
        scene.happen(0, 1, What::Push { method, payload });
        let told: Vec<u8> = scene
            .wire
            .counter
            .tally
            .told()
            .iter()
            .map(|told| told.invariant)
            .collect();
        assert_eq!(told, [10], "{what}");
    }
}

#[test]
fn a_notice_that_overtakes_the_answer_to_a_sync_is_not_taken_back() {
    let mut scene = Scene::new();
    scene.happen(0, 1, What::SyncHint { spread_ms: 0 });
    scene.chat.tick(ms(2), &mut scene.wire);
    let (seat, id, _) = scene.asked(Method::Sync);
    let notice = NoticePush {
        to_cursor: Bytes::from_static(b"1"),
        rows: vec![ConversationRow {
            conversation: Bytes::copy_from_slice(conversation_id().as_bytes()),
            ..ConversationRow::default()
        }],
        ..NoticePush::default()
    };
    let payload = notice.encode_to_vec().into();
    let method = PushMethod::Notice.number();
    scene.happen(seat.0, 3, What::Push { method, payload });
    let answer = SyncResponse::default().encode_to_vec();
    let result = Ok(answer.into());
    scene.happen(seat.0, 4, What::Response { id, result });
    scene.happen(seat.0, 5, What::SyncHint { spread_ms: 0 });
    scene.chat.tick(ms(6), &mut scene.wire);
    let (_, _, payload) = scene.asked(Method::Sync);
    assert_eq!(SyncRequest::decode(payload).unwrap().cursor, "1");
}

/// Hears of rows that are left out: whose, and how far they say that conversations go.
#[derive(Default)]
struct LeftOut(std::rc::Rc<std::cell::RefCell<Vec<(Device, u64)>>>);

impl Recorder for LeftOut {
    fn left_out(&mut self, device: Device, rows: &[ConversationRow], _: Duration) {
        let heads = rows.iter().map(|row| (device, row.head_seq));
        self.0.borrow_mut().extend(heads);
    }
}

#[test]
fn a_notice_that_goes_on_from_elsewhere_is_left_out_and_told_of() {
    let told = std::rc::Rc::default();
    let mut scene = Scene::new();
    scene.chat.recorder = Box::new(LeftOut(std::rc::Rc::clone(&told)));
    let device = scene.chat.people[0].device;
    let method = PushMethod::Notice.number();
    // For somebody else; and one that is known, whatever it brings.
    for (from, to, head_seq) in [("x", "y", 77), ("x", "", 78)] {
        let notice = NoticePush {
            from_cursor: Bytes::from_static(from.as_bytes()),
            to_cursor: Bytes::from_static(to.as_bytes()),
            rows: vec![ConversationRow {
                conversation: Bytes::copy_from_slice(conversation_id().as_bytes()),
                head_seq,
                ..ConversationRow::default()
            }],
        };
        let payload = notice.encode_to_vec().into();
        scene.happen(0, 1, What::Push { method, payload });
    }
    assert_eq!(*told.borrow(), [(device, 77), (device, 78)]);
    scene.asked(Method::Sync);
    assert!(scene.wire.asked.is_empty(), "what is known needs no sync");
}

/// Hears how far rows say that conversations go.
#[derive(Default)]
struct Rows(std::rc::Rc<std::cell::RefCell<Vec<u64>>>);

impl Recorder for Rows {
    fn synced(&mut self, _: Device, synced: &Synced<'_>, _: Duration) {
        let heads = synced.rows.iter().map(|row| row.head_seq);
        self.0.borrow_mut().extend(heads);
    }
}

#[test]
fn rows_of_an_answer_that_notices_have_overtaken_are_asked_for_again() {
    let heads = std::rc::Rc::default();
    let mut scene = Scene::new();
    scene.chat.recorder = Box::new(Rows(std::rc::Rc::clone(&heads)));
    let row = |head_seq| ConversationRow {
        conversation: Bytes::copy_from_slice(conversation_id().as_bytes()),
        head_seq,
        ..ConversationRow::default()
    };
    scene.happen(0, 1, What::SyncHint { spread_ms: 0 });
    scene.chat.tick(ms(2), &mut scene.wire);
    let (seat, id, _) = scene.asked(Method::Sync);
    let method = PushMethod::Notice.number();
    for (from, to, head_seq) in [("", "1", 41), ("1", "2", 42)] {
        let notice = NoticePush {
            from_cursor: Bytes::from_static(from.as_bytes()),
            to_cursor: Bytes::from_static(to.as_bytes()),
            rows: vec![row(head_seq)],
        };
        let payload = notice.encode_to_vec().into();
        scene.happen(seat.0, 3, What::Push { method, payload });
    }
    // Held up on its way, and made when the first of them was all there was.
    let answer = SyncResponse {
        cursor: Bytes::from_static(b"1"),
        rows: vec![row(41)],
        ..SyncResponse::default()
    };
    let result = Ok(answer.encode_to_vec().into());
    scene.happen(seat.0, 4, What::Response { id, result });
    assert_eq!(*heads.borrow(), [41, 42], "nothing goes back");
    let (_, id, payload) = scene.asked(Method::Sync);
    assert_eq!(SyncRequest::decode(payload).unwrap().cursor, "2");
    let answer = SyncResponse {
        cursor: Bytes::from_static(b"3"),
        rows: vec![row(43)],
        ..SyncResponse::default()
    };
    let result = Ok(answer.encode_to_vec().into());
    scene.happen(seat.0, 5, What::Response { id, result });
    assert_eq!(*heads.borrow(), [41, 42, 43]);
}
