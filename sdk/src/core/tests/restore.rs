//! The server is restored from a backup: the client follows its log, whatever was lost and written anew.

use super::*;

fn recall(sim: &mut Sim, conversation: ConversationId, seq: u64) {
    let request = whimbrel_protocol::client::RecallRequest {
        conversation: Bytes::copy_from_slice(conversation.as_bytes()),
        seq,
        ..Default::default()
    };
    let response = sim
        .world
        .handle("bob", Method::Recall.number(), &request.encode_to_vec());
    assert_eq!(response.code, 0);
    sim.collect_pushes();
}

/// A client that has seen `count` messages of bob's.
fn chat(count: usize) -> (Sim, ConversationId) {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    for n in 1..=count {
        sim.now_ms += 10;
        sim.world.now_ms = T0 + sim.now_ms;
        sim.world.say(conversation, "bob", &n.to_string());
    }
    sim.quiesce();
    assert_eq!(sim.shown_texts(conversation).len(), count);
    (sim, conversation)
}

fn say(sim: &mut Sim, conversation: ConversationId, text: &str) {
    sim.now_ms += 10;
    sim.world.now_ms = T0 + sim.now_ms;
    sim.world.say(conversation, "bob", text);
}

/// A new connection, whose sync brings everything there is.
fn come_back(sim: &mut Sim) {
    sim.disconnect();
    sim.connect();
    sim.quiesce();
}

#[test]
fn a_message_written_in_the_place_of_a_lost_one_is_shown_in_its_place() {
    let (mut sim, conversation) = chat(5);
    let backup = sim.world.clone();
    say(&mut sim, conversation, "6");
    come_back(&mut sim);
    sim.restore(&backup);
    say(&mut sim, conversation, "6b");
    come_back(&mut sim);
    assert_eq!(sim.shown_texts(conversation), ["1", "2", "3", "4", "5", "6b"]);
    assert_eq!(sim.losses, [5]);
}

#[test]
fn a_shorter_log_is_followed_at_once_and_goes_on() {
    let (mut sim, conversation) = chat(3);
    let backup = sim.world.clone();
    for text in ["4", "5"] {
        say(&mut sim, conversation, text);
    }
    come_back(&mut sim);
    sim.restore(&backup);
    come_back(&mut sim);
    assert_eq!(sim.shown_texts(conversation), ["1", "2", "3"]);
    say(&mut sim, conversation, "4 again");
    come_back(&mut sim);
    assert_eq!(sim.shown_texts(conversation), ["1", "2", "3", "4 again"]);
    assert_eq!(sim.losses, [3]);
}

#[test]
fn more_lost_entries_than_a_page_holds_are_all_found() {
    let (mut sim, conversation) = chat(4);
    let backup = sim.world.clone();
    for n in 0..30 {
        say(&mut sim, conversation, &format!("lost {n}"));
    }
    come_back(&mut sim);
    sim.restore(&backup);
    for n in 0..40 {
        say(&mut sim, conversation, &format!("new {n}"));
    }
    come_back(&mut sim);
    assert_eq!(sim.shown_texts(conversation), sim.world.texts(conversation));
    assert_eq!(sim.losses, [4]);
}

#[test]
fn nothing_lost_costs_one_question_a_conversation_and_tells_nothing() {
    let (mut sim, conversation) = chat(9);
    let backup = sim.world.clone();
    sim.restore(&backup);
    let shown = sim.shown.clone();
    sim.connect();
    let mut asked = Vec::new();
    for _ in 0..10 {
        sim.poll();
        asked.extend(sim.asked.iter().map(|request| request.method));
        while !sim.asked.is_empty() {
            sim.serve(0);
        }
        while !sim.answers.is_empty() {
            sim.answer(0);
        }
    }
    assert_eq!(asked, [Method::Sync, Method::Pull]);
    assert_eq!(sim.shown, shown);
    assert!(sim.losses.is_empty() && !sim.shown_texts(conversation).is_empty());
}

#[test]
fn a_lost_change_is_taken_back_and_one_made_anew_under_its_rev_is_seen() {
    let (mut sim, conversation) = chat(4);
    let backup = sim.world.clone();
    recall(&mut sim, conversation, 2);
    come_back(&mut sim);
    assert_eq!(sim.shown_texts(conversation), ["1", "3", "4"]);
    sim.restore(&backup);
    recall(&mut sim, conversation, 3);
    come_back(&mut sim);
    assert_eq!(sim.shown_texts(conversation), ["1", "2", "4"]);
    assert!(sim.losses.is_empty());
}

#[test]
fn a_conversation_that_the_backup_does_not_have_is_verified_when_it_begins_again() {
    let mut sim = Sim::new();
    let backup = sim.world.clone();
    let conversation = sim.open_direct("bob");
    for text in ["1", "2", "3"] {
        say(&mut sim, conversation, text);
    }
    come_back(&mut sim);
    sim.restore(&backup);
    come_back(&mut sim);
    assert!(sim.core.conversations().unwrap().is_empty());
    sim.open_direct("bob");
    say(&mut sim, conversation, "1b");
    come_back(&mut sim);
    assert_eq!(sim.shown_texts(conversation), ["1b"]);
}

#[test]
fn what_was_not_acknowledged_is_sent_to_the_restored_server_once() {
    let (mut sim, conversation) = chat(2);
    let backup = sim.world.clone();
    sim.enqueue(conversation, "mine");
    sim.poll();
    // The server has it, and its answer is lost with the server.
    sim.serve(0);
    sim.restore(&backup);
    come_back(&mut sim);
    assert_eq!(sim.world.texts(conversation), ["1", "2", "mine"]);
    assert_eq!(sim.shown_texts(conversation), ["1", "2", "mine"]);
}

/// One thing that may happen around a restore.
#[derive(Debug, Clone)]
enum Happening {
    Say,
    Enqueue,
    Recall(prop::sample::Index),
    Backup,
    Restore,
    Poll,
    Serve(prop::sample::Index),
    Answer(prop::sample::Index),
    Push(prop::sample::Index),
    Pass(u64),
    Reconnect,
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        5 => Just(Happening::Say),
        2 => Just(Happening::Enqueue),
        2 => index().prop_map(Happening::Recall),
        1 => Just(Happening::Backup),
        1 => Just(Happening::Restore),
        6 => Just(Happening::Poll),
        6 => index().prop_map(Happening::Serve),
        6 => index().prop_map(Happening::Answer),
        4 => index().prop_map(Happening::Push),
        3 => (1_u64..900).prop_map(Happening::Pass),
        1 => Just(Happening::Reconnect),
        1 => Just(Happening::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// However often the server is restored, and whatever was said, changed, pushed and cut off on the way: in the end the
    /// client shows the server's log, each entry once and as it is now.
    #[test]
    fn after_any_restores_the_client_shows_the_servers_log(happenings in prop::collection::vec(happening(), 1..160)) {
        let mut sim = Sim::new();
        let conversation = sim.open_direct("bob");
        // A conversation that the backup does not have at all leaves the list, and keeps its messages.
        sim.world.say(conversation, "bob", "hello");
        let mut backup = sim.world.clone();
        for (n, happening) in happenings.into_iter().enumerate() {
            sim.now_ms += 1;
            sim.world.now_ms = T0 + sim.now_ms;
            match happening {
                Happening::Say => {
                    sim.world.say(conversation, "bob", &format!("said {n}"));
                    sim.collect_pushes();
                }
                Happening::Enqueue => drop(sim.enqueue(conversation, &format!("queued {n}"))),
                Happening::Recall(index) => {
                    let head = sim.world.head(conversation);
                    if head > 0 {
                        let seq = index.index(head) as u64 + 1;
                        recall(&mut sim, conversation, seq);
                    }
                }
                Happening::Backup => backup = sim.world.clone(),
                Happening::Restore => {
                    sim.restore(&backup);
                    sim.connect();
                }
                Happening::Poll => sim.poll(),
                Happening::Serve(index) if !sim.asked.is_empty() => sim.serve(index.index(sim.asked.len())),
                Happening::Answer(index) if !sim.answers.is_empty() => sim.answer(index.index(sim.answers.len())),
                Happening::Push(index) if !sim.pushes.is_empty() => {
                    let index = index.index(sim.pushes.len());
                    sim.push(index);
                    sim.pushes.remove(index);
                }
                Happening::Serve(_) | Happening::Answer(_) | Happening::Push(_) => {}
                Happening::Pass(ms) => sim.now_ms += ms,
                Happening::Reconnect => {
                    sim.disconnect();
                    sim.connect();
                }
                Happening::Restart => {
                    sim.restart();
                    sim.connect();
                }
            }
        }
        for _ in 0..2 {
            sim.disconnect();
            sim.connect();
            sim.quiesce();
        }
        prop_assert_eq!(sim.shown_texts(conversation), sim.world.texts(conversation));
        prop_assert_eq!(sim.shown.get(&conversation).map_or(0, Vec::len), sim.world.head(conversation));
        prop_assert!(sim.core.unsent().unwrap().is_empty() && sim.failed.is_empty());
    }
}
