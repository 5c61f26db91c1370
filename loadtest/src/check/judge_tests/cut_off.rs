//! Devices that the server was out of reach of: what they have not read is unread, what they were shown is judged.

use super::*;
use crate::check::{check_conversation, devices_by_user};

/// As when the server goes away for good before anybody has seen the last message of the chat.
fn unreachable(cut_off: &[&str]) -> History {
    let mut history = sound();
    lose(&mut history, direct(), 4);
    for uid in cut_off {
        history.apply(Event::Unread { device: phone(uid) });
    }
    history
}

fn judge(history: &History, id: ConversationId) -> (BTreeSet<Invariant>, bool) {
    let judged = check_conversation(
        history,
        &devices_by_user(history),
        id,
        &history.conversations[&id],
    );
    let found = judged.found.iter().map(|found| found.invariant);
    (found.collect(), judged.is_unread)
}

#[test]
fn what_nobody_could_read_is_unread_and_no_violation() {
    let history = unreachable(&["ann", "bob"]);
    assert_eq!(judge(&history, direct()), (BTreeSet::new(), true));
    assert_eq!(
        judge(&history, group()),
        (BTreeSet::new(), false),
        "all of it was read"
    );
}

#[test]
fn what_somebody_could_read_and_is_not_there_is_lost() {
    for cut_off in [&["bob"][..], &[]] {
        let (found, _) = judge(&unreachable(cut_off), direct());
        assert!(found.contains(&Invariant::PresentOnce), "{cut_off:?}: {found:?}");
    }
}

#[test]
fn a_device_that_was_cut_off_need_not_have_reached_the_head() {
    let behind = |is_cut_off: bool| {
        let mut history = sound();
        bobs(&mut history, direct()).entries.pop();
        bobs(&mut history, direct()).rows.pop();
        if is_cut_off {
            history.apply(Event::Unread { device: phone("bob") });
        }
        judge(&history, direct())
    };
    assert_eq!(behind(true), (BTreeSet::new(), true));
    let (found, is_unread) = behind(false);
    assert!(found.contains(&Invariant::ReachesHead) && !is_unread, "{found:?}");
}

#[test]
fn what_a_device_that_was_cut_off_was_shown_is_judged() {
    let mut history = unreachable(&["ann", "bob"]);
    let stranger = text(9, "ann", "nobody sent this");
    show_all(&mut history, direct(), &stranger);
    let (found, _) = judge(&history, direct());
    assert!(found.contains(&Invariant::OneLog), "{found:?}");
}
