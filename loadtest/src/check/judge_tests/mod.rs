//! The judge finds what is planted, and nothing in a history that is sound.

mod absence;
mod cut_off;
mod planted;
mod sound;

use std::collections::BTreeSet;
use std::time::Duration;

use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::ids::{ConversationId, ConversationKind};

use super::{
    Answer, Body, ChangeAsked, ChangeDone, Conversation, Device, Entry, Event, History, Invariant,
    LiveSessions, Preview, Row, Sent, Showing, Shown, Shows, Talk, Text, User, check,
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
