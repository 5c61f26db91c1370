//! The judge finds what is planted, and nothing in a history that is sound.

use std::collections::BTreeSet;
use std::time::Duration;

use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::ids::{ConversationId, ConversationKind};

use super::{
    Answer, Body, ChangeAsked, ChangeDone, Conversation, Device, Entry, Event, History, Invariant,
    LiveSessions, Preview, Row, Sent, Showing, Shown, Shows, Talk, Text, User, check, check_conversation,
    devices_by_user,
};

fn direct() -> ConversationId {
    ConversationId::from_parts(ConversationKind::Direct, [1; 15])
}

fn group() -> ConversationId {
    ConversationId::from_parts(ConversationKind::Group, [2; 15])
}

fn phone(uid: &str) -> Device {
    Device::named(uid, "phone")
}

fn entry(seq: u64, sender: &str, body: Body) -> Entry {
    Entry {
        seq,
        time_ms: 1_000 + seq,
        sender: User::named(sender),
        rest: seq,
        body,
    }
}

fn text(seq: u64, sender: &str, text: &str) -> Entry {
    entry(seq, sender, Body::text(text))
}

fn change(seq: u64, kind: ChangeKind, uids: &[&str]) -> Entry {
    let users = uids.iter().map(|uid| User::named(uid)).collect();
    entry(seq, "ann", Body::Change { kind, users })
}

/// Sent by ann at `seq` seconds, acknowledged half a second later.
fn sent(seq: u64, text: &str) -> Sent {
    let begun_at = Duration::from_secs(seq);
    Sent {
        device: phone("ann"),
        user: User::named("ann"),
        text: Text::of(text),
        begun_at,
        answers: vec![Answer {
            seq,
            time_ms: 1_000 + seq,
            at: begun_at + Duration::from_millis(500),
        }],
        refused: None,
        refused_at: None,
    }
}

/// What a user sent while bob was away, and was no member for.
fn refused(uid: &str) -> Sent {
    Sent {
        device: phone(uid),
        user: User::named(uid),
        answers: Vec::new(),
        refused: Some(302),
        refused_at: Some(Duration::from_millis(4_500)),
        ..sent(4, "too late")
    }
}

/// Asked for at `seq` seconds, done at once by that entry.
fn asked(kind: ChangeKind, seq: u64) -> ChangeAsked {
    let at = Duration::from_secs(seq);
    ChangeAsked {
        kind,
        user: User::named("bob"),
        asked_at: at,
        done: Some(ChangeDone { seq: Some(seq), at }),
    }
}

fn row(head_seq: u64, read_seq: u64, unread: u64) -> Row {
    Row {
        head_seq,
        read_seq,
        unread,
        member: true,
        first_visible_seq: 1,
        shows: None,
    }
}

/// Ann and bob chat. In her group bob misses seq 4, which was said while he was away; he has read "d2".
fn sound() -> History {
    let talk: Vec<_> = (1..=4).map(|seq| text(seq, "ann", &format!("d{seq}"))).collect();
    let log = vec![
        change(1, ChangeKind::Created, &["bob"]),
        text(2, "ann", "g2"),
        change(3, ChangeKind::Removed, &["bob"]),
        text(4, "ann", "g4"),
        change(5, ChangeKind::Invited, &["bob"]),
        text(6, "ann", "g6"),
    ];
    let bobs: Vec<_> = log.iter().filter(|entry| entry.seq != 4).cloned().collect();
    let mut history = History::default();
    for uid in ["ann", "bob"] {
        history.apply(Event::Device {
            uid: uid.to_owned(),
            name: "phone".to_owned(),
            showing: Showing::InOrder,
        });
        history.apply(Event::Sessions {
            device: phone(uid),
            sessions: LiveSessions {
                newest_epoch: 7,
                live_epoch: 7,
                count: 1,
            },
        });
    }
    let shown = |entries: &[Entry], rows: &[Row]| Shown {
        entries: entries.to_vec(),
        // As if all came at the end.
        asked: vec![(0, 2)],
        rows: rows.to_vec(),
        left_out: Vec::new(),
        changed: Vec::new(),
    };
    let mut chat = Conversation {
        talk: Some(Talk::Direct(["ann", "bob"].map(User::named))),
        marks: [(User::named("bob"), 2)].into(),
        shown: [
            (phone("ann"), shown(&talk, &[row(2, 0, 0), row(4, 0, 0)])),
            (phone("bob"), shown(&talk, &[row(3, 0, 3), row(4, 2, 2)])),
        ]
        .into(),
        ..Conversation::default()
    };
    let mut club = Conversation {
        talk: Some(Talk::Group { open_history: false }),
        changes: vec![asked(ChangeKind::Removed, 3), asked(ChangeKind::Invited, 5)],
        name: Some(Text::of("club")),
        shown: [
            (phone("ann"), shown(&log, &[row(6, 1, 0)])),
            (phone("bob"), shown(&bobs, &[row(6, 5, 1)])),
        ]
        .into(),
        ..Conversation::default()
    };
    (1..=4).for_each(|seq| chat.push_sent(sent(seq, &format!("d{seq}"))));
    [2, 4, 6]
        .into_iter()
        .for_each(|seq| club.push_sent(sent(seq, &format!("g{seq}"))));
    history.conversations = [(direct(), chat), (group(), club)].into();
    history
}

fn of(history: &mut History, id: ConversationId) -> &mut Conversation {
    history.conversations.entry(id).or_default()
}

/// What bob was shown of a conversation.
fn bobs(history: &mut History, id: ConversationId) -> &mut Shown {
    of(history, id).shown.entry(phone("bob")).or_default()
}

fn last_row(history: &mut History, id: ConversationId) -> &mut Row {
    bobs(history, id).rows.last_mut().expect("bob has a row")
}

/// Something nobody has, as if it had never been written.
fn lose(history: &mut History, id: ConversationId, seq: u64) {
    for shown in of(history, id).shown.values_mut() {
        shown.entries.retain(|entry| entry.seq != seq);
    }
}

/// What everybody is shown.
fn show_all(history: &mut History, id: ConversationId, entry: &Entry) {
    for (device, shown) in &mut of(history, id).shown {
        shown.entries.push(entry.clone());
        if let Some(row) = shown.rows.last_mut() {
            row.head_seq = entry.seq;
            row.unread += u64::from(*device == phone("bob"));
        }
    }
}

fn broken(history: &History) -> BTreeSet<Invariant> {
    let found = check(history);
    found.into_iter().map(|violation| violation.invariant).collect()
}

#[test]
fn a_sound_history_breaks_nothing() {
    assert_eq!(check(&sound()), []);
}

#[test]
fn open_history_shows_newcomers_what_was_before() {
    let mut history = sound();
    let club = of(&mut history, group());
    club.talk = Some(Talk::Group { open_history: true });
    let all = club.shown[&phone("ann")].entries.clone();
    bobs(&mut history, group()).entries = all;
    assert_eq!(check(&history), []);
}

#[test]
fn a_refused_send_of_a_removed_member_is_no_fault() {
    let mut history = sound();
    of(&mut history, group()).push_sent(refused("bob"));
    assert_eq!(check(&history), []);
}

#[test]
fn a_device_that_shows_entries_as_they_come_may_show_them_out_of_order() {
    let mut history = sound();
    bobs(&mut history, direct()).entries.swap(1, 2);
    assert_eq!(broken(&history), BTreeSet::from([Invariant::OneLog]));
    for facts in history.devices.values_mut() {
        facts.showing = Showing::AsItComes;
    }
    assert_eq!(check(&history), []);
}

#[test]
fn a_users_device_may_guess_what_is_unread_after_its_own_mark_until_the_server_has_it() {
    let mut history = sound();
    bobs(&mut history, direct()).rows.insert(1, row(4, 1, 2));
    assert_eq!(check(&history), []);
}

#[test]
fn rows_that_are_left_out_come_in_any_order() {
    let mut history = sound();
    let late = [row(4, 2, 2), row(3, 0, 3), row(1, 0, 1)];
    bobs(&mut history, direct()).left_out.extend(late);
    assert_eq!(check(&history), []);
}

/// What bob's last row shows beside numbers, of a group or a direct conversation.
fn show(history: &mut History, id: ConversationId, shows: Shows) {
    last_row(history, id).shows = Some(shows);
}

fn club_shows() -> Shows {
    let entry = text(6, "ann", "g6");
    Shows {
        peer: None,
        name: Some(Text::of("club")),
        preview: Some(Preview {
            seq: entry.seq,
            time_ms: entry.time_ms,
            sender: entry.sender,
            rest: entry.rest,
            meant_for: None,
        }),
    }
}

fn chat_shows() -> Shows {
    Shows {
        peer: Some(User::named("ann")),
        name: None,
        preview: None,
    }
}

#[test]
fn a_device_that_asks_for_nothing_need_not_have_anything_and_must_not_have_what_is_not_its_users() {
    let mut history = sound();
    let device = phone("bob");
    if let Some(facts) = history.devices.get_mut(&device) {
        facts.showing = Showing::Nothing;
    }
    let all = of(&mut history, group()).shown[&phone("ann")].entries.clone();
    *bobs(&mut history, group()) = Shown::default();
    *bobs(&mut history, direct()) = Shown::default();
    assert_eq!(check(&history), []);
    bobs(&mut history, group()).entries.push(all[3].clone());
    assert_eq!(broken(&history), BTreeSet::from([Invariant::Removal]));
}

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

#[test]
fn rows_that_show_what_is_there_are_sound() {
    let mut history = sound();
    show(&mut history, group(), club_shows());
    show(&mut history, direct(), chat_shows());
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
    let absences = super::absence::Absences::of(&club.changes);
    let bob = User::named("bob");
    for seq in (7..7 + EACH).step_by(2) {
        assert!(absences.meet(bob, at(seq), at(seq)));
        assert!(!absences.meet(bob, at(seq + 1) + at(1) / 3, at(seq + 2) - at(1) / 3));
    }
}

/// What is planted, what it breaks, and how it is planted.
type Fault = (&'static str, Invariant, fn(&mut History));

const FAULTS: &[Fault] = &[
    ("a send without an answer", Invariant::Answered, |history| {
        of(history, direct()).sent[0].answers.clear()
    }),
    ("a send refused without reason", Invariant::Answered, |history| {
        of(history, direct()).push_sent(Sent {
            answers: Vec::new(),
            refused: Some(500),
            ..sent(5, "d5")
        });
    }),
    (
        "a send refused to who has long been back",
        Invariant::Answered,
        |history| {
            of(history, group()).push_sent(Sent {
                begun_at: Duration::from_secs(100),
                refused_at: Some(Duration::from_secs(101)),
                ..refused("bob")
            });
        },
    ),
    (
        "a send refused to who always was a member",
        Invariant::Answered,
        |history| of(history, group()).push_sent(refused("ann")),
    ),
    ("a change without an answer", Invariant::Answered, |history| {
        of(history, group()).changes[0].done = None
    }),
    (
        "an acknowledged message lost from the end",
        Invariant::PresentOnce,
        |history| {
            lose(history, direct(), 4);
            let shown = &mut of(history, direct()).shown;
            shown.entry(phone("ann")).or_default().rows = vec![row(3, 0, 0)];
            shown.entry(phone("bob")).or_default().rows = vec![row(3, 2, 1)];
        },
    ),
    ("a message written twice", Invariant::PresentOnce, |history| {
        show_all(history, direct(), &text(5, "ann", "d4"))
    }),
    ("an entry shown twice", Invariant::PresentOnce, |history| {
        let shown = bobs(history, direct());
        shown.entries.push(shown.entries[3].clone());
    }),
    ("a change done twice", Invariant::PresentOnce, |history| {
        of(history, group()).changes.pop();
    }),
    ("a change lost", Invariant::PresentOnce, |history| {
        of(history, group()).changes.push(asked(ChangeKind::Removed, 7))
    }),
    ("a hole on one device", Invariant::OneLog, |history| {
        bobs(history, direct()).entries.remove(1);
    }),
    ("a seq that nobody has", Invariant::OneLog, |history| {
        for shown in of(history, direct()).shown.values_mut() {
            shown.entries[3].seq = 5;
            shown.rows.last_mut().expect("both have rows").head_seq = 5;
        }
        of(history, direct()).sent[3].answers[0].seq = 5;
    }),
    ("entries out of order", Invariant::OneLog, |history| {
        bobs(history, direct()).entries.swap(1, 2)
    }),
    ("devices that disagree", Invariant::OneLog, |history| {
        bobs(history, group()).entries[2].time_ms += 1
    }),
    ("a time that goes back", Invariant::OneLog, |history| {
        for shown in of(history, group()).shown.values_mut() {
            let entry = &mut shown.entries[2];
            entry.time_ms = if entry.seq == 3 { 1 } else { entry.time_ms };
        }
    }),
    ("a message nobody sent", Invariant::OneLog, |history| {
        show_all(history, direct(), &text(5, "ann", "boo"))
    }),
    (
        "a change of an entry nobody asked for",
        Invariant::OneLog,
        |history| {
            bobs(history, direct()).changed.push(1);
        },
    ),
    (
        "another answer to the same operation",
        Invariant::OneAnswer,
        |history| {
            let answers = &mut of(history, direct()).sent[0].answers;
            answers.push(Answer { seq: 9, ..answers[0] });
        },
    ),
    ("an answer the log contradicts", Invariant::OneAnswer, |history| {
        of(history, direct()).sent[0].answers[0].time_ms += 1
    }),
    ("a refused message in the log", Invariant::OneAnswer, |history| {
        let sent = &mut of(history, group()).sent[1];
        let text = sent.text;
        *sent = Sent {
            text,
            ..refused("bob")
        };
    }),
    (
        "a change told another place than the log's",
        Invariant::OneAnswer,
        |history| {
            let change = &mut of(history, group()).changes[0];
            let at = change.asked_at;
            change.done = Some(ChangeDone { seq: Some(777), at });
        },
    ),
    (
        "devices told different ids of one message",
        Invariant::OneLog,
        |history| bobs(history, group()).entries[1].rest += 1,
    ),
    ("a preview of strangers", Invariant::Foreign, |history| {
        let mut shows = club_shows();
        shows.preview.as_mut().expect("there is one").meant_for = Some(direct());
        show(history, group(), shows);
    }),
    (
        "a preview that nobody wrote there",
        Invariant::Foreign,
        |history| {
            let mut shows = club_shows();
            shows.preview.as_mut().expect("there is one").sender = User::named("eve");
            show(history, group(), shows);
        },
    ),
    (
        "a preview of a seq that is not there",
        Invariant::Foreign,
        |history| {
            let mut shows = club_shows();
            shows.preview.as_mut().expect("there is one").seq = 99;
            show(history, group(), shows);
        },
    ),
    (
        "a preview of what was said in absence",
        Invariant::Removal,
        |history| {
            let (entry, mut shows) = (text(4, "ann", "g4"), club_shows());
            let preview = shows.preview.as_mut().expect("there is one");
            (preview.seq, preview.time_ms, preview.rest) = (4, entry.time_ms, entry.rest);
            show(history, group(), shows);
        },
    ),
    ("a row with a strangers name", Invariant::Foreign, |history| {
        let name = Some(Text::of("another group"));
        show(history, group(), Shows { name, ..club_shows() });
    }),
    ("a row with a stranger", Invariant::Foreign, |history| {
        let peer = Some(User::named("mallory"));
        show(history, direct(), Shows { peer, ..chat_shows() });
    }),
    ("a cursor that goes back", Invariant::Cursors, |history| {
        for (from, to) in [(0, 1), (1, 2), (2, 1)] {
            history.apply(Event::Synced {
                device: phone("bob"),
                from,
                to,
                full_resync: false,
            });
        }
    }),
    ("a full resync without a cause", Invariant::Cursors, |history| {
        for (from, to, full_resync) in [(0, 9, false), (9, 3, true)] {
            history.apply(Event::Synced {
                device: phone("bob"),
                from,
                to,
                full_resync,
            });
        }
    }),
    (
        "an acknowledged message after a later one",
        Invariant::AckOrder,
        |history| {
            let sent = &mut of(history, direct()).sent[1];
            sent.begun_at = Duration::from_secs(60);
            sent.device = Device::named("ann", "other");
        },
    ),
    ("a senders messages swapped", Invariant::SenderOrder, |history| {
        let sent = &mut of(history, direct()).sent;
        for sent in &mut *sent {
            sent.begun_at = Duration::ZERO;
        }
        sent.swap(0, 1);
    }),
    ("a device behind the head", Invariant::ReachesHead, |history| {
        bobs(history, direct()).entries.pop();
    }),
    ("a row behind the head", Invariant::ReachesHead, |history| {
        *last_row(history, group()) = row(5, 5, 0);
    }),
    (
        "a row that does not know of the return",
        Invariant::ReachesHead,
        |history| {
            last_row(history, group()).member = false;
        },
    ),
    ("a missing row", Invariant::ReachesHead, |history| {
        bobs(history, group()).rows.clear();
    }),
    (
        "a device that was shown nothing",
        Invariant::ReachesHead,
        |history| {
            of(history, direct()).shown.remove(&phone("bob"));
        },
    ),
    ("a wrong unread", Invariant::Cursors, |history| {
        last_row(history, direct()).unread = 3
    }),
    ("a mark that is lost", Invariant::Cursors, |history| {
        *last_row(history, direct()) = row(4, 0, 4);
    }),
    (
        "a mark that goes back for a while",
        Invariant::Cursors,
        |history| {
            bobs(history, direct()).rows.insert(1, row(4, 3, 1));
        },
    ),
    (
        "a wrong unread that was put right",
        Invariant::Cursors,
        |history| {
            for facts in history.devices.values_mut() {
                facts.showing = Showing::AsItComes;
            }
            bobs(history, direct()).rows[0].unread = 2;
        },
    ),
    (
        "a row of what is said in absence",
        Invariant::Removal,
        |history| {
            let away = row(4, 1, 2);
            bobs(history, group()).rows.insert(0, away);
        },
    ),
    ("an entry served after removal", Invariant::Removal, |history| {
        let all = of(history, group()).shown[&phone("ann")].entries.clone();
        bobs(history, group()).entries = all;
    }),
    (
        "an older session beside the newest",
        Invariant::DevicePolicy,
        |history| {
            let live = history
                .devices
                .get_mut(&phone("bob"))
                .and_then(|facts| facts.live.as_mut());
            live.expect("bob is there").count = 2;
        },
    ),
    (
        "an older session instead of the newest",
        Invariant::DevicePolicy,
        |history| {
            let live = history
                .devices
                .get_mut(&phone("bob"))
                .and_then(|facts| facts.live.as_mut());
            live.expect("bob is there").live_epoch = 6;
        },
    ),
    ("a stranger served", Invariant::Foreign, |history| {
        of(history, direct()).talk = Some(Talk::Direct(["ann", "cleo"].map(User::named)));
    }),
    ("a stranger's row", Invariant::Foreign, |history| {
        history.apply(Event::Device {
            uid: "eve".to_owned(),
            name: "phone".to_owned(),
            showing: Showing::InOrder,
        });
        history.apply(Event::Row {
            id: direct(),
            device: phone("eve"),
            row: row(4, 0, 4),
        });
    }),
    ("a stranger's row, left out", Invariant::Foreign, |history| {
        history.apply(Event::Device {
            uid: "eve".to_owned(),
            name: "phone".to_owned(),
            showing: Showing::Nothing,
        });
        history.apply(Event::LeftOut {
            id: direct(),
            device: phone("eve"),
            row: row(4, 0, 4),
        });
    }),
    (
        "the other one's row, left out by a device that keeps no list",
        Invariant::Foreign,
        |history| {
            let facts = history.devices.get_mut(&phone("bob"));
            facts.expect("bob is there").showing = Showing::Nothing;
            let shows = Some(Shows {
                peer: Some(User::named("bob")),
                ..chat_shows()
            });
            let row = Row {
                shows,
                ..row(4, 0, 0)
            };
            bobs(history, direct()).left_out.push(row);
        },
    ),
    (
        "a row of what is said in absence, left out",
        Invariant::Removal,
        |history| bobs(history, group()).left_out.push(row(4, 1, 2)),
    ),
    (
        "a conversation that nobody opened",
        Invariant::Foreign,
        |history| {
            history.apply(Event::Shown {
                id: ConversationId::from_parts(ConversationKind::Group, [9; 15]),
                device: phone("bob"),
                entry: change(1, ChangeKind::Renamed, &[]),
            });
            let stray = ConversationId::from_parts(ConversationKind::Group, [9; 15]);
            bobs(history, stray).entries[0].body = Body::Text {
                text: Text::of("for others"),
                meant_for: Some(direct()),
            };
        },
    ),
    (
        "a message of another conversation",
        Invariant::Foreign,
        |history| {
            let stray = Text::begin(group()) + "stray";
            show_all(history, direct(), &text(5, "ann", &stray));
        },
    ),
];

#[test]
fn what_is_planted_is_found() {
    for (name, expected, plant) in FAULTS {
        let mut history = sound();
        plant(&mut history);
        let found = check(&history);
        assert_eq!(
            broken(&history),
            BTreeSet::from([*expected]),
            "{name}: {found:#?}"
        );
    }
}

#[test]
fn every_invariant_is_broken_by_some_plant() {
    let planted: BTreeSet<_> = FAULTS.iter().map(|(_, invariant, _)| *invariant).collect();
    assert_eq!(planted, BTreeSet::from(Invariant::ALL));
}
