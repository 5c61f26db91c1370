//! The checker finds what is planted, and nothing in a history that is sound.

use std::collections::BTreeSet;
use std::time::Duration;

use whimbrel_protocol::ids::ConversationKind;
use whimbrel_sdk::{ConversationId, GroupChangeKind};

use crate::checker::{Invariant, check};
use crate::history::{Answer, Body, ChangeAsked, DeviceName, Entry, History, Row, Sent, Talk, User, View};

fn direct() -> ConversationId {
    ConversationId::from_parts(ConversationKind::Direct, [1; 15])
}

fn group() -> ConversationId {
    ConversationId::from_parts(ConversationKind::Group, [2; 15])
}

fn entry(seq: u64, sender: &str, body: Body) -> Entry {
    Entry {
        seq,
        time_ms: 1_000 + seq,
        sender: User::new(sender),
        body,
    }
}

fn text(seq: u64, sender: &str, text: &str) -> Entry {
    entry(seq, sender, Body::Text(text.into()))
}

fn change(seq: u64, kind: GroupChangeKind, users: &[&str]) -> Entry {
    let users = users.iter().map(|uid| User::new(uid)).collect();
    entry(seq, "ann", Body::Change { kind, users })
}

/// Sent by ann at `seq` seconds, acknowledged half a second later.
fn sent(id: ConversationId, seq: u64, text: &str) -> Sent {
    let begun_at = Duration::from_secs(seq);
    Sent {
        device: DeviceName("ann's".into()),
        user: User::new("ann"),
        conversation: id,
        text: text.into(),
        begun_at,
        answers: vec![Answer {
            seq,
            time_ms: 1_000 + seq,
            at: begun_at + Duration::from_millis(500),
        }],
        refused: None,
    }
}

fn asked(kind: GroupChangeKind) -> ChangeAsked {
    ChangeAsked {
        conversation: group(),
        kind,
        user: User::new("bob"),
        acknowledged: true,
    }
}

fn row(head_seq: u64, read_seq: u64, unread: u64) -> Row {
    Row {
        head_seq,
        read_seq,
        unread,
        member: true,
        first_visible_seq: 1,
    }
}

/// Ann and bob chat. In her group bob misses seq 4, which was said while he was away; he has read "d2".
fn sound() -> History {
    let talk: Vec<_> = (1..=4).map(|seq| text(seq, "ann", &format!("d{seq}"))).collect();
    let log = vec![
        change(1, GroupChangeKind::Created, &["bob"]),
        text(2, "ann", "g2"),
        change(3, GroupChangeKind::Removed, &["bob"]),
        text(4, "ann", "g4"),
        change(5, GroupChangeKind::Invited, &["bob"]),
        text(6, "ann", "g6"),
    ];
    let view = |uid: &str, talk: Vec<Entry>, log: Vec<Entry>, rows: [Vec<Row>; 2]| View {
        entries: [(direct(), talk), (group(), log)].into(),
        rows: [direct(), group()].into_iter().zip(rows).collect(),
        ..View::new(DeviceName(format!("{uid}'s").into()), User::new(uid))
    };
    let bobs: Vec<_> = log.iter().filter(|entry| entry.seq != 4).cloned().collect();
    History {
        conversations: [
            (direct(), Talk::Direct(["ann", "bob"].map(User::new))),
            (group(), Talk::Group { open_history: false }),
        ]
        .into(),
        sent: (1..=4)
            .map(|seq| sent(direct(), seq, &format!("d{seq}")))
            .chain([2, 4, 6].map(|seq| sent(group(), seq, &format!("g{seq}"))))
            .collect(),
        changes: vec![asked(GroupChangeKind::Removed), asked(GroupChangeKind::Invited)],
        marks: [((User::new("bob"), direct()), 2)].into(),
        views: vec![
            view(
                "ann",
                talk.clone(),
                log,
                [vec![row(2, 0, 0), row(4, 0, 0)], vec![row(6, 1, 0)]],
            ),
            view(
                "bob",
                talk,
                bobs,
                [vec![row(3, 0, 3), row(4, 2, 2)], vec![row(6, 5, 1)]],
            ),
        ],
    }
}

fn bobs(history: &mut History) -> &mut View {
    &mut history.views[1]
}

/// What bob was shown of a conversation.
fn shown(history: &mut History, id: ConversationId) -> &mut Vec<Entry> {
    bobs(history).entries.entry(id).or_default()
}

fn last_row(history: &mut History, id: ConversationId) -> &mut Row {
    let rows = bobs(history).rows.get_mut(&id);
    rows.and_then(|rows| rows.last_mut()).expect("bob has a row")
}

/// Something nobody has, as if it had never been written.
fn lose(history: &mut History, id: ConversationId, seq: u64) {
    for view in &mut history.views {
        view.entries
            .entry(id)
            .or_default()
            .retain(|entry| entry.seq != seq);
    }
}

/// What everybody is shown.
fn show_all(history: &mut History, id: ConversationId, entry: &Entry) {
    for view in &mut history.views {
        view.entries.entry(id).or_default().push(entry.clone());
        if let Some(row) = view.rows.get_mut(&id).and_then(|rows| rows.last_mut()) {
            row.head_seq = entry.seq;
            row.unread += u64::from(*view.user.0 == *"bob");
        }
    }
}

fn broken(history: &History) -> BTreeSet<Invariant> {
    check(history)
        .into_iter()
        .map(|violation| violation.invariant)
        .collect()
}

#[test]
fn a_sound_history_breaks_nothing() {
    assert_eq!(check(&sound()), []);
}

#[test]
fn open_history_shows_newcomers_what_was_before() {
    let mut history = sound();
    history
        .conversations
        .insert(group(), Talk::Group { open_history: true });
    let all = history.views[0].entries[&group()].clone();
    *shown(&mut history, group()) = all;
    assert_eq!(check(&history), []);
}

#[test]
fn a_refused_send_of_a_removed_member_is_no_fault() {
    let mut history = sound();
    history.sent.push(Sent {
        answers: Vec::new(),
        refused: Some(302),
        ..sent(group(), 7, "too late")
    });
    assert_eq!(check(&history), []);
}

/// What is planted, what it breaks, and how it is planted.
type Fault = (&'static str, Invariant, fn(&mut History));

const FAULTS: &[Fault] = &[
    ("a send without an answer", Invariant::Answered, |history| {
        history.sent[0].answers.clear()
    }),
    ("a send refused without reason", Invariant::Answered, |history| {
        history.sent.push(Sent {
            answers: Vec::new(),
            refused: Some(500),
            ..sent(direct(), 5, "d5")
        });
    }),
    ("a change without an answer", Invariant::Answered, |history| {
        history.changes[0].acknowledged = false
    }),
    (
        "an acknowledged message lost from the end",
        Invariant::PresentOnce,
        |history| {
            lose(history, direct(), 4);
            for view in &mut history.views {
                let is_ann = view.user == User::new("ann");
                let left = if is_ann { row(3, 0, 0) } else { row(3, 2, 1) };
                view.rows.insert(direct(), vec![left]);
            }
        },
    ),
    ("a message written twice", Invariant::PresentOnce, |history| {
        show_all(history, direct(), &text(5, "ann", "d4"))
    }),
    ("an entry shown twice", Invariant::PresentOnce, |history| {
        let again = shown(history, direct())[3].clone();
        shown(history, direct()).push(again);
    }),
    ("a change done twice", Invariant::PresentOnce, |history| {
        history.changes.pop();
    }),
    ("a change lost", Invariant::PresentOnce, |history| {
        history.changes.push(asked(GroupChangeKind::Removed))
    }),
    ("a hole on one device", Invariant::OneLog, |history| {
        shown(history, direct()).remove(1);
    }),
    ("entries out of order", Invariant::OneLog, |history| {
        shown(history, direct()).swap(1, 2)
    }),
    ("devices that disagree", Invariant::OneLog, |history| {
        shown(history, direct())[1].time_ms += 1
    }),
    ("a time that goes back", Invariant::OneLog, |history| {
        for view in &mut history.views {
            let entry = &mut view.entries.entry(group()).or_default()[2];
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
            bobs(history).changed.push((direct(), 1));
        },
    ),
    (
        "another answer to the same operation",
        Invariant::OneAnswer,
        |history| {
            let other = Answer {
                seq: 9,
                ..history.sent[0].answers[0]
            };
            history.sent[0].answers.push(other);
        },
    ),
    ("an answer the log contradicts", Invariant::OneAnswer, |history| {
        history.sent[0].answers[0].time_ms += 1
    }),
    ("a refused message in the log", Invariant::OneAnswer, |history| {
        history.sent[5].answers.clear();
        history.sent[5].refused = Some(302);
    }),
    (
        "an acknowledged message after a later one",
        Invariant::AckOrder,
        |history| {
            history.sent[1].begun_at = Duration::from_secs(60);
            history.sent[1].device = DeviceName("ann's other".into());
        },
    ),
    ("a senders messages swapped", Invariant::SenderOrder, |history| {
        for sent in &mut history.sent {
            sent.begun_at = Duration::ZERO;
        }
        history.sent.swap(0, 1);
    }),
    ("a device behind the head", Invariant::ReachesHead, |history| {
        shown(history, direct()).pop();
    }),
    ("a row behind the head", Invariant::ReachesHead, |history| {
        last_row(history, group()).head_seq = 5
    }),
    (
        "a row that does not know of the return",
        Invariant::ReachesHead,
        |history| {
            last_row(history, group()).member = false;
        },
    ),
    ("a missing row", Invariant::ReachesHead, |history| {
        bobs(history).rows.remove(&group());
    }),
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
            let rows = bobs(history).rows.entry(direct()).or_default();
            rows.insert(1, row(4, 3, 1));
        },
    ),
    ("an entry served after removal", Invariant::Removal, |history| {
        let all = history.views[0].entries[&group()].clone();
        *shown(history, group()) = all;
    }),
    ("a stranger served", Invariant::Removal, |history| {
        history
            .conversations
            .insert(direct(), Talk::Direct(["ann", "cleo"].map(User::new)));
    }),
];

#[test]
fn what_is_planted_is_found() {
    for (name, expected, plant) in FAULTS {
        let mut history = sound();
        plant(&mut history);
        let broken = broken(&history);
        assert_eq!(
            broken,
            BTreeSet::from([*expected]),
            "{name}: {:#?}",
            check(&history)
        );
    }
}
