//! People who chat over an imitation of a server, under a virtual clock.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::VecDeque;

use whimbrel_protocol::client::{
    Accepted, ChangeKind, Conversation as Opened, ConversationRow, Entry, GroupChange, GroupChangeResponse,
    InviteRequest, MessagesPush, NoticePush, PullResponse, RemoveMembersRequest, SyncResponse, entry,
};
use whimbrel_protocol::client_session::{Refusal, RequestError};
use whimbrel_protocol::ids::ConversationKind;
use whimbrel_protocol::method::PushMethod;

use super::*;
use crate::record::{Again, NoRecord, Synced};
use crate::tally::{Counter, Tally};

/// Takes requests, and has the answers that a test gives.
#[derive(Default)]
struct Imitation {
    asked: VecDeque<(SeatId, RequestId, OutgoingRequest)>,
    next_id: u32,
    counter: Counter,
}

impl Wire for Imitation {
    fn ask(
        &mut self,
        seat: SeatId,
        request: OutgoingRequest,
        _: Duration,
    ) -> Result<RequestId, RequestError> {
        self.next_id += 2;
        let id = RequestId(self.next_id + 1);
        self.asked.push_back((seat, id, request));
        Ok(id)
    }

    fn server_ms(&self, now: Duration) -> u64 {
        1_795_219_200_000 + u64::try_from(now.as_millis()).unwrap()
    }

    fn counter(&mut self) -> &mut Counter {
        &mut self.counter
    }
}

const HEAD: u64 = 40;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn conversation_id() -> ConversationId {
    ConversationId::from_parts(ConversationKind::Direct, [7; 15])
}

struct Scene {
    chat: Chat,
    wire: Imitation,
}

impl Scene {
    /// Two people in a conversation with 40 entries of earlier runs.
    fn new() -> Self {
        let options = ChatOptions {
            run: 1,
            payload: 40,
            group_size: 0,
            governed: false,
            user_prefix: "load-".into(),
            seed: 1,
        };
        let mut scene = Self {
            chat: Chat::new(options, 1, 2, Box::new(NoRecord)),
            wire: Imitation::default(),
        };
        for seat in 0..2 {
            scene.happen(seat, 0, What::Hello);
            scene.happen(seat, 0, What::Ready { epoch: 1 });
            scene.answer(Method::Sync, 0, Ok(SyncResponse::default().encode_to_vec()));
        }
        assert!(!scene.chat.prepare(ms(0), &mut scene.wire));
        let opened = Opened {
            conversation: Bytes::copy_from_slice(conversation_id().as_bytes()),
            head_seq: HEAD,
            ..Opened::default()
        };
        scene.answer(Method::OpenDirect, 0, Ok(opened.encode_to_vec()));
        assert!(scene.chat.prepare(ms(0), &mut scene.wire));
        scene
    }

    /// Three people in a group whose members come and go.
    fn group() -> Self {
        let options = ChatOptions {
            run: 1,
            payload: 60,
            group_size: 3,
            governed: true,
            user_prefix: "load-".into(),
            seed: 1,
        };
        let mut scene = Self {
            chat: Chat::new(options, 1, 3, Box::new(NoRecord)),
            wire: Imitation::default(),
        };
        for seat in 0..3 {
            scene.happen(seat, 0, What::Hello);
            scene.happen(seat, 0, What::Ready { epoch: 1 });
            scene.answer(Method::Sync, 0, Ok(SyncResponse::default().encode_to_vec()));
        }
        assert!(!scene.chat.prepare(ms(0), &mut scene.wire));
        scene.answer(Method::CreateGroup, 0, Ok(changed(1)));
        assert!(scene.chat.prepare(ms(0), &mut scene.wire));
        scene
    }

    fn happen(&mut self, seat: u32, at_ms: u64, what: What) {
        let happening = Happening {
            seat: SeatId(seat),
            at: ms(at_ms),
            what,
        };
        self.chat.handle(happening, &mut self.wire);
    }

    /// The next request, which is of this kind.
    fn asked(&mut self, method: Method) -> (SeatId, RequestId, Bytes) {
        let (seat, id, request) = self
            .wire
            .asked
            .pop_front()
            .unwrap_or_else(|| panic!("no {method:?}"));
        assert_eq!(request.method, method.number());
        (seat, id, request.payload)
    }

    fn answer(&mut self, method: Method, at_ms: u64, result: Result<Vec<u8>, Failure>) -> Bytes {
        let (seat, id, payload) = self.asked(method);
        let result = result.map(Bytes::from);
        self.happen(seat.0, at_ms, What::Response { id, result });
        payload
    }

    fn push(&mut self, seat: u32, at_ms: u64, entries: Vec<Entry>) {
        let push = MessagesPush {
            conversation: Bytes::copy_from_slice(conversation_id().as_bytes()),
            entries,
        };
        let payload = push.encode_to_vec().into();
        self.happen(
            seat,
            at_ms,
            What::Push {
                method: PushMethod::Messages.number(),
                payload,
            },
        );
    }
}

fn accepted(seq: u64) -> Vec<u8> {
    let accepted = vec![Accepted { seq, time_ms: 1 }];
    SendResponse { accepted }.encode_to_vec()
}

fn changed(seq: u64) -> Vec<u8> {
    let conversation = Bytes::copy_from_slice(conversation_id().as_bytes());
    GroupChangeResponse { conversation, seq }.encode_to_vec()
}

/// The entry that tells of a change.
fn change_entry(seq: u64, kind: ChangeKind, uid: &str) -> Entry {
    let change = GroupChange {
        kind: kind.into(),
        uids: vec![uid.to_owned()],
        ..GroupChange::default()
    };
    Entry {
        seq,
        body: Some(entry::Body::Change(change)),
        ..Entry::default()
    }
}

/// The entry that a send of one message becomes.
fn entry_of(payload: Bytes, seq: u64) -> Entry {
    let message = SendRequest::decode(payload).unwrap().messages.remove(0);
    Entry {
        seq,
        client_msg_id: message.client_msg_id,
        body: message.content.map(entry::Body::Message),
        ..Entry::default()
    }
}

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
fn an_acknowledged_message_that_nobody_gets_is_a_violation_and_an_open_one_is_unresolved() {
    let mut scene = Scene::new();
    scene.chat.send(ms(0), ms(0), &mut scene.wire);
    scene.answer(Method::Send, 1, Ok(accepted(HEAD + 1)));
    scene.chat.send(ms(2), ms(2), &mut scene.wire);
    let mut tally = Tally::default();
    scene.chat.close(&mut tally);
    assert_eq!((tally.undelivered, tally.unresolved), (1, 1));
    assert_eq!(tally.told()[0].invariant, 6);
}

#[test]
fn what_is_missing_where_the_server_was_out_of_reach_is_unread_and_no_violation() {
    let mut scene = Scene::new();
    scene.chat.send(ms(0), ms(0), &mut scene.wire);
    let (sender, id, _) = scene.asked(Method::Send);
    let result = Ok(accepted(HEAD + 1).into());
    scene.happen(sender.0, 1, What::Response { id, result });
    let lost = What::Lost {
        epoch: 1,
        was_ready: true,
        why: "the gateway closed the connection".to_owned(),
        closed_for: None,
    };
    scene.happen(1 - sender.0, 2, lost);
    let mut tally = Tally::default();
    scene.chat.close(&mut tally);
    assert_eq!((tally.undelivered, tally.unread, tally.violations), (1, 1, 0));
    assert!(tally.is_failure());
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

#[test]
fn a_member_is_removed_and_invited_back_by_one_operation_over_all_attempts() {
    let mut scene = Scene::group();
    scene.chat.change_members(ms(0), &mut scene.wire);
    let (owner, _, first) = scene.asked(Method::RemoveMembers);
    assert_eq!(owner, SeatId(0));
    scene.chat.change_members(ms(1), &mut scene.wire);
    assert!(scene.wire.asked.is_empty(), "one change of a group at a time");
    assert!(!scene.chat.is_settled());
    let lost = What::Lost {
        epoch: 1,
        was_ready: true,
        why: "cut".into(),
        closed_for: None,
    };
    scene.happen(0, 10, lost);
    scene.happen(0, 20, What::Hello);
    scene.asked(Method::Sync);
    scene.happen(0, 30, What::Ready { epoch: 2 });
    let again = scene.answer(Method::RemoveMembers, 40, Ok(changed(2)));
    assert_eq!(again, first, "it is the same operation");
    let removed = RemoveMembersRequest::decode(first).unwrap();
    let uid = &removed.uids[0];
    for seat in 0..3 {
        assert!(!scene.chat.is_settled());
        scene.push(seat, 50, vec![change_entry(2, ChangeKind::Removed, uid)]);
    }
    assert!(scene.chat.is_settled());

    // Half of the others are out: the next change has somebody come back.
    scene.chat.change_members(ms(60), &mut scene.wire);
    let payload = scene.answer(Method::Invite, 70, Ok(changed(3)));
    let invited = InviteRequest::decode(payload).unwrap();
    assert_eq!(invited.uids, removed.uids);
    assert_ne!(invited.operation_id, removed.operation_id);
    assert_eq!(scene.wire.counter.tally.membership_changes, 2);
}

#[test]
fn what_was_said_in_somebodys_absence_is_no_delivery_when_they_are_back() {
    let mut scene = Scene::group();
    scene.chat.change_members(ms(0), &mut scene.wire);
    let payload = scene.answer(Method::RemoveMembers, 1, Ok(changed(2)));
    let removed = RemoveMembersRequest::decode(payload).unwrap();
    let out = if removed.uids[0].ends_with('2') { 1 } else { 2 };
    let sent = loop {
        scene.chat.send(ms(10), ms(10), &mut scene.wire);
        let (sender, id, payload) = scene.asked(Method::Send);
        if sender.0 != out {
            let result = Ok(accepted(3).into());
            scene.happen(sender.0, 11, What::Response { id, result });
            break entry_of(payload, 3);
        }
    };
    scene.chat.change_members(ms(20), &mut scene.wire);
    scene.answer(Method::Invite, 21, Ok(changed(4)));
    let back = change_entry(4, ChangeKind::Invited, &removed.uids[0]);
    let gone = change_entry(2, ChangeKind::Removed, &removed.uids[0]);
    scene.push(out, 5_000, vec![gone, sent.clone(), back]);
    assert_eq!(scene.wire.counter.tally.deliveries, 0);
    let other = 3 - out;
    scene.push(other, 5_001, vec![sent.clone()]);
    scene.push(0, 5_002, vec![sent]);
    assert_eq!(scene.wire.counter.tally.deliveries, 1, "the sender's own is none");
}

#[test]
fn whoever_is_out_is_to_have_what_was_before_their_removal_and_nothing_after_it() {
    let mut scene = Scene::group();
    scene.chat.change_members(ms(0), &mut scene.wire);
    let payload = scene.answer(Method::RemoveMembers, 1, Ok(changed(2)));
    let removed = RemoveMembersRequest::decode(payload).unwrap();
    let out = if removed.uids[0].ends_with('2') { 1 } else { 2 };
    for seat in 0..3 {
        scene.push(
            seat,
            2,
            vec![change_entry(2, ChangeKind::Removed, &removed.uids[0])],
        );
    }
    // Somebody sends until it is a member who does.
    let mut at = 10;
    let (sender, entry) = loop {
        scene.chat.send(ms(at), ms(at), &mut scene.wire);
        let (sender, id, payload) = scene.asked(Method::Send);
        let result = if sender.0 == out {
            Err(Failure::Refused(Refusal {
                code: 302,
                message: String::new(),
                retry_after_ms: 0,
            }))
        } else {
            Ok(accepted(3).into())
        };
        let is_in = result.is_ok();
        scene.happen(sender.0, at + 1, What::Response { id, result });
        if is_in {
            break (sender, entry_of(payload, 3));
        }
        at += 10;
    };
    for seat in (0..3).filter(|seat| *seat != out) {
        assert!(!scene.chat.is_settled());
        scene.push(seat, at + 2, vec![entry.clone()]);
    }
    assert!(scene.chat.is_settled(), "the one who is out waits for nothing");
    assert_ne!(sender.0, out);
    let mut tally = Tally::default();
    scene.chat.close(&mut tally);
    assert_eq!((tally.unresolved, tally.violations), (0, 0));
}

#[test]
fn a_change_refused_for_good_is_told() {
    let mut scene = Scene::group();
    scene.chat.change_members(ms(0), &mut scene.wire);
    let refusal = Refusal {
        code: 303,
        message: "no".into(),
        retry_after_ms: 0,
    };
    scene.answer(Method::RemoveMembers, 10, Err(Failure::Refused(refusal)));
    let told = scene.wire.counter.tally.told();
    assert!(told[0].what.contains("Removed"), "{told:?}");
    assert!(scene.chat.is_settled());
}

#[test]
fn what_was_refused_in_absence_is_sent_once_more_after_the_return_with_the_same_ids() {
    let mut scene = Scene::group();
    scene.chat.change_members(ms(0), &mut scene.wire);
    let payload = scene.answer(Method::RemoveMembers, 1, Ok(changed(2)));
    let removed = RemoveMembersRequest::decode(payload).unwrap();
    let out = if removed.uids[0].ends_with('2') { 1 } else { 2 };
    let refused = loop {
        scene.chat.send(ms(10), ms(10), &mut scene.wire);
        let (sender, id, payload) = scene.asked(Method::Send);
        let refusal = Refusal {
            code: 302,
            message: String::new(),
            retry_after_ms: 0,
        };
        let result = Err(Failure::Refused(refusal));
        scene.happen(sender.0, 11, What::Response { id, result });
        if sender.0 == out {
            break SendRequest::decode(payload).unwrap();
        }
    };
    scene.push(
        out,
        20,
        vec![change_entry(3, ChangeKind::Invited, &removed.uids[0])],
    );
    let (sender, _, payload) = scene.asked(Method::Send);
    let again = SendRequest::decode(payload).unwrap();
    assert_eq!((sender.0, &again.messages), (out, &refused.messages));
    scene.push(
        out,
        30,
        vec![change_entry(5, ChangeKind::Invited, &removed.uids[0])],
    );
    assert!(scene.wire.asked.is_empty(), "once");
    assert_eq!(scene.wire.counter.tally.refused, 1);
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

/// Whoever checks a run, and hears of answers to repetitions only: which text, and its seq or code.
#[derive(Default)]
struct Checks(std::rc::Rc<std::cell::RefCell<Vec<(String, u64)>>>);

impl Recorder for Checks {
    fn answered_again(&mut self, again: &Again<'_>) {
        let told = again.answer.map_or_else(u64::from, |(seq, _)| seq);
        self.0.borrow_mut().push((again.text.to_owned(), told));
    }

    fn wants_everything_read(&self) -> bool {
        true
    }
}

#[test]
fn an_acknowledged_message_is_sent_again_with_its_id_also_after_a_fault() {
    let answers = std::rc::Rc::default();
    let mut scene = Scene::new();
    scene.chat.recorder = Box::new(Checks(std::rc::Rc::clone(&answers)));
    let mut at = 0;
    let mut sent = Vec::new();
    while sent.len() < 1_000 {
        at += 1;
        scene.chat.send(ms(at), ms(at), &mut scene.wire);
        let seq = HEAD + 1 + u64::try_from(sent.len()).unwrap();
        let payload = scene.answer(Method::Send, at, Ok(accepted(seq)));
        sent.push(SendRequest::decode(payload).unwrap().messages.remove(0));
    }
    let planned: usize = scene.chat.people.iter().map(Person::open_repeats).sum();
    assert!(
        (4..=16).contains(&planned),
        "one of fifty, as many as are kept: {planned}"
    );
    scene.chat.hasten_repeats(ms(at));
    scene.chat.tick(ms(at), &mut scene.wire);
    let mut repeated = Vec::new();
    for (seat, id, request) in std::mem::take(&mut scene.wire.asked) {
        let again = SendRequest::decode(request.payload).unwrap();
        assert!(sent.contains(&again.messages[0]), "the same id and content");
        let Some(content::Content::Text(said)) = again.messages[0].content.clone().unwrap().content else {
            panic!("{again:?}");
        };
        // Another answer than before, for whoever checks to see.
        repeated.push((said.text, 7));
        let result = Ok(accepted(7).into());
        scene.happen(seat.0, at, What::Response { id, result });
    }
    assert_eq!(repeated.len(), planned);
    assert_eq!(*answers.borrow(), repeated);
    let lost = What::Lost {
        epoch: 1,
        was_ready: true,
        why: "cut".into(),
        closed_for: None,
    };
    scene.happen(0, at, lost);
    scene.happen(0, at, What::Hello);
    scene.asked(Method::Sync);
    scene.happen(0, at, What::Ready { epoch: 2 });
    assert_eq!(scene.chat.people[0].open_repeats(), 1);
    scene.chat.tick(ms(at + 2_000), &mut scene.wire);
    scene.asked(Method::Send);
}

#[test]
fn a_repetition_that_is_not_acknowledged_once_is_told() {
    let accepted_twice = SendResponse {
        accepted: vec![Accepted::default(); 2],
    };
    for answer in [SendResponse::default(), accepted_twice] {
        let answers = std::rc::Rc::default();
        let mut scene = Scene::new();
        scene.chat.recorder = Box::new(Checks(std::rc::Rc::clone(&answers)));
        scene.chat.send(ms(1), ms(1), &mut scene.wire);
        let (seat, id, _) = scene.asked(Method::Send);
        let result = Ok(accepted(HEAD + 1).into());
        scene.happen(seat.0, 2, What::Response { id, result });
        scene.chat.plan_repeat_after_fault(seat, ms(3));
        scene.chat.hasten_repeats(ms(3));
        scene.chat.tick(ms(3), &mut scene.wire);
        scene.answer(Method::Send, 4, Ok(answer.encode_to_vec()));
        let tally = &scene.wire.counter.tally;
        let told: Vec<u8> = tally.told().iter().map(|told| told.invariant).collect();
        assert_eq!((told, tally.repeated, answers.borrow().len()), (vec![3], 0, 0));
    }
}

#[test]
fn only_a_refusal_that_an_absence_explains_is_excused() {
    let not_member = || {
        Err(Failure::Refused(Refusal {
            code: 302,
            message: String::new(),
            retry_after_ms: 0,
        }))
    };
    let mut scene = Scene::group();
    // Whoever sends, as long as it is this one.
    let send = |scene: &mut Scene, at, who: u32| loop {
        scene.chat.send(ms(at), ms(at), &mut scene.wire);
        let (sender, id, _) = scene.asked(Method::Send);
        if sender.0 == who {
            return id;
        }
        let result = Ok(accepted(HEAD + at).into());
        scene.happen(sender.0, at, What::Response { id, result });
    };
    let refuse = |scene: &mut Scene, at, who, id| {
        let result = not_member();
        scene.happen(who, at, What::Response { id, result });
        scene.wire.counter.tally.refused_wrongly
    };
    scene.chat.change_members(ms(100), &mut scene.wire);
    let payload = scene.answer(Method::RemoveMembers, 200, Ok(changed(2)));
    let removed = RemoveMembersRequest::decode(payload).unwrap();
    let out = if removed.uids[0].ends_with('2') { 1 } else { 2 };
    let id = send(&mut scene, 300, out);
    assert_eq!(refuse(&mut scene, 301, out, id), 0, "they are out");
    let id = send(&mut scene, 310, 0);
    assert_eq!(refuse(&mut scene, 311, 0, id), 1, "the owner never was");

    let held_up = send(&mut scene, 320, out);
    scene.chat.change_members(ms(400), &mut scene.wire);
    scene.answer(Method::Invite, 500, Ok(changed(3)));
    assert_eq!(
        refuse(&mut scene, 600, out, held_up),
        1,
        "it was begun in their absence"
    );
    let id = send(&mut scene, 700, out);
    assert_eq!(refuse(&mut scene, 701, out, id), 2, "they have long been back");
}
