//! Members who are out for a while: which refusals that excuses, and what must not reach them meanwhile.

use super::*;
use crate::check::absence::Absences;

#[test]
fn a_refused_send_of_a_removed_member_is_no_fault() {
    let mut history = sound();
    of(&mut history, group()).push_sent(refused("bob"));
    assert_eq!(check(&history), []);
}

#[test]
fn a_refusal_is_no_fault_as_long_as_an_absence_may_have_met_it() {
    for (begun_s, refused_s, excused) in [
        // Removed at 3, back at 5.
        (1, 2, false),
        (1, 3, true),
        (4, 4, true),
        (4, 60, true),
        (5, 60, true),
        (6, 60, false),
    ] {
        let mut history = sound();
        of(&mut history, group()).push_sent(Sent {
            begun_at: Duration::from_secs(begun_s),
            refused_at: Some(Duration::from_secs(refused_s)),
            ..refused("bob")
        });
        let expected = if excused {
            vec![]
        } else {
            vec![Invariant::Answered]
        };
        let found: Vec<_> = broken(&history).into_iter().collect();
        assert_eq!(found, expected, "begun at {begun_s} s, refused at {refused_s} s");
    }
}

/// As the ledger is written: what was shown when is known by what had been asked for by then.
#[test]
fn what_reaches_the_removed_is_found_though_they_may_read_it_once_they_are_back() {
    for (early, expected) in [(false, vec![]), (true, vec![Invariant::Removal])] {
        let mut history = sound();
        let club = of(&mut history, group());
        let log = club.shown[&phone("ann")].entries.clone();
        let changes = std::mem::take(&mut club.changes);
        club.talk = Some(Talk::Group { open_history: true });
        *bobs(&mut history, group()) = Shown {
            rows: vec![row(6, 5, 1)],
            ..Shown::default()
        };
        let ask = |history: &mut History, change: &ChangeAsked| {
            let (id, kind, user, at) = (group(), change.kind, change.user, change.asked_at);
            history.apply(Event::ChangeAsked { id, kind, user, at });
            if let Some(done) = change.done {
                history.apply(Event::ChangeDone { id, done });
            }
        };
        let shown = |history: &mut History, entries: &[Entry]| {
            for entry in entries.iter().cloned() {
                let (id, device) = (group(), phone("bob"));
                history.apply(Event::Shown { id, device, entry });
            }
        };
        shown(&mut history, &log[..2]);
        ask(&mut history, &changes[0]);
        let (there, absent) = log.split_at(if early { 4 } else { 3 });
        shown(&mut history, &there[2..]);
        ask(&mut history, &changes[1]);
        shown(&mut history, absent);
        let found: Vec<_> = broken(&history).into_iter().collect();
        assert_eq!(found, expected, "pushed while they were out: {early}");
    }
}

#[test]
fn refusals_are_judged_in_time_linear_in_them_and_in_the_changes() {
    // 40,000 of each: a walk through all changes for every refusal would take 1.6 billion steps, minutes in a test build.
    const EACH: u64 = 40_000;
    let mut history = sound();
    let club = of(&mut history, group());
    let at = |seq: u64| Duration::from_secs(seq);
    for seq in 7..7 + EACH {
        let kind = if seq % 2 == 1 {
            ChangeKind::Removed
        } else {
            ChangeKind::Invited
        };
        club.changes.push(asked(kind, seq));
    }
    let absences = Absences::of(&club.changes);
    let bob = User::named("bob");
    for seq in (7..7 + EACH).step_by(2) {
        assert!(absences.meet(bob, at(seq), at(seq)));
        assert!(!absences.meet(bob, at(seq + 1) + at(1) / 3, at(seq + 2) - at(1) / 3));
    }
}
