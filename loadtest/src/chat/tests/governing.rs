//! Members who are removed and invited back, and what is said and refused in their absence.

use whimbrel_protocol::client::{InviteRequest, RemoveMembersRequest};

use super::*;

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
