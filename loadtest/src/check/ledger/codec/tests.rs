//! One event of each kind, written and read, whole and cut.

use whimbrel_protocol::ids::ConversationKind;

use super::*;

/// One of each.
fn events() -> Vec<Event> {
    let id = ConversationId::from_parts(ConversationKind::Group, [3; 15]);
    let (device, user, text) = (Device::named("ann", "0"), User::named("ann"), Text::of("hello"));
    let at = Duration::from_nanos(1_234_567_890);
    let entry = |body| Entry {
        seq: 300,
        time_ms: 1_795_219_200_001,
        sender: user,
        rest: 99,
        body,
    };
    let shown = |body| Event::Shown {
        id,
        device,
        entry: entry(body),
    };
    vec![
        Event::Device {
            uid: "ann".to_owned(),
            name: "0".to_owned(),
            showing: Showing::AsItComes,
        },
        Event::Talk {
            id,
            talk: Talk::Direct([user, User::named("bob")]),
            base_seq: 12,
        },
        Event::Talk {
            id,
            talk: Talk::Group { open_history: true },
            base_seq: 0,
        },
        Event::Begun {
            id,
            device,
            user,
            text,
            at,
        },
        Event::Answered {
            id,
            text,
            answer: Answer {
                seq: 9,
                time_ms: 8,
                at,
            },
        },
        Event::Refused {
            id,
            text,
            code: 302,
            at,
        },
        Event::ChangeAsked {
            id,
            kind: ChangeKind::Invited,
            user,
            at,
        },
        Event::ChangeDone {
            id,
            done: ChangeDone { seq: Some(17), at },
        },
        Event::ChangeDone {
            id,
            done: ChangeDone { seq: None, at },
        },
        Event::Named { id, name: text },
        Event::Synced {
            device,
            from: 0,
            to: 8,
            full_resync: true,
        },
        Event::Row {
            id,
            device,
            row: Row {
                head_seq: 3,
                read_seq: 2,
                unread: 1,
                member: false,
                first_visible_seq: 1,
                shows: Some(Shows {
                    peer: Some(user),
                    name: Some(text),
                    preview: Some(Preview {
                        seq: 3,
                        time_ms: 4,
                        sender: user,
                        rest: 5,
                        meant_for: Some(id),
                    }),
                }),
            },
        },
        Event::LeftOut {
            id,
            device,
            row: Row {
                head_seq: 300,
                read_seq: 2,
                unread: 298,
                member: true,
                first_visible_seq: 1,
                shows: None,
            },
        },
        Event::Marked {
            id,
            user,
            read_seq: 70,
        },
        shown(Body::Text {
            text,
            meant_for: None,
        }),
        shown(Body::Text {
            text,
            meant_for: Some(id),
        }),
        shown(Body::Change {
            kind: ChangeKind::Removed,
            users: vec![user, user],
        }),
        shown(Body::Other("a picture".to_owned())),
        Event::Changed { id, device, seq: 5 },
        Event::Row {
            id,
            device,
            row: Row {
                head_seq: 300,
                read_seq: 2,
                unread: 298,
                member: true,
                first_visible_seq: 1,
                shows: None,
            },
        },
        Event::Unread { device },
        Event::Sessions {
            device,
            sessions: LiveSessions {
                newest_epoch: 77,
                live_epoch: 76,
                count: 1,
            },
        },
    ]
}

#[test]
fn every_event_is_read_as_it_was_written() {
    for event in events() {
        let mut bytes = Vec::new();
        encode(&event, &mut bytes);
        assert_eq!(decode(&bytes).unwrap(), Record::Event(event));
    }
}

#[test]
fn an_end_is_read_as_it_was_written() {
    let end = End {
        events: 1 << 40,
        processes: 3,
    };
    let mut bytes = Vec::new();
    encode_end(end, &mut bytes);
    assert_eq!(decode(&bytes).unwrap(), Record::End(end));
}

#[test]
fn what_is_cut_or_longer_is_refused() {
    for event in events() {
        let mut bytes = Vec::new();
        encode(&event, &mut bytes);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{event:?} at {len}");
        }
        bytes.push(0);
        assert!(decode(&bytes).is_err(), "{event:?}");
    }
}
