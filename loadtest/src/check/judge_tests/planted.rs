//! Every invariant, broken in every way that was thought of: one fault at a time, planted in a sound history.

use super::*;

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
