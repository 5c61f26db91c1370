//! Whatever may happen, in any order.

use super::*;

/// One thing that may happen.
#[derive(Debug, Clone)]
enum Happening {
    Say(u8),
    Enqueue(u8),
    Recall,
    Poll,
    Serve(prop::sample::Index),
    Answer(prop::sample::Index),
    Push(prop::sample::Index),
    PushAgain(prop::sample::Index),
    LosePush(prop::sample::Index),
    Pass(u64),
    Disconnect,
    Connect,
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0_u8..2).prop_map(Happening::Say),
        4 => (0_u8..2).prop_map(Happening::Enqueue),
        1 => Just(Happening::Recall),
        6 => Just(Happening::Poll),
        5 => index().prop_map(Happening::Serve),
        5 => index().prop_map(Happening::Answer),
        4 => index().prop_map(Happening::Push),
        1 => index().prop_map(Happening::PushAgain),
        2 => index().prop_map(Happening::LosePush),
        3 => (1_u64..900).prop_map(Happening::Pass),
        1 => Just(Happening::Disconnect),
        2 => Just(Happening::Connect),
        1 => Just(Happening::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Two conversations, a network that loses, repeats and reorders, a client that is cut off and killed: everything
    /// queued is in the log exactly once and in the order it was queued, everything in the log is shown exactly once and
    /// in order, as it is now, and the list says so.
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order_whatever_happens(
        happenings in prop::collection::vec(happening(), 1..150),
    ) {
        let mut sim = Sim::new();
        let conversations = [sim.open_direct("bob"), sim.open_direct("carol")];
        let mut queued: [Vec<String>; 2] = Default::default();
        let mut said = 0;
        let mut connected = true;
        for happening in happenings {
            match happening {
                Happening::Say(which) => {
                    said += 1;
                    let which = usize::from(which);
                    sim.world.say(conversations[which], ["bob", "carol"][which], &format!("said {said}"));
                    sim.collect_pushes();
                }
                Happening::Enqueue(which) => {
                    said += 1;
                    let text = format!("queued {said}");
                    sim.enqueue(conversations[usize::from(which)], &text);
                    queued[usize::from(which)].push(text);
                }
                Happening::Recall => {
                    let head = sim.world.texts(conversations[0]).len();
                    if head > 0 {
                        let request = whimbrel_protocol::client::RecallRequest {
                            conversation: Bytes::copy_from_slice(conversations[0].as_bytes()),
                            seq: 1,
                            ..Default::default()
                        };
                        sim.world.handle("bob", Method::Recall.number(), &request.encode_to_vec());
                        sim.collect_pushes();
                    }
                }
                Happening::Poll => sim.poll(),
                Happening::Serve(index) if !sim.asked.is_empty() => sim.serve(index.index(sim.asked.len())),
                Happening::Answer(index) if !sim.answers.is_empty() => sim.answer(index.index(sim.answers.len())),
                Happening::Push(index) if !sim.pushes.is_empty() => {
                    let index = index.index(sim.pushes.len());
                    sim.push(index);
                    sim.pushes.remove(index);
                }
                Happening::PushAgain(index) if !sim.pushes.is_empty() => sim.push(index.index(sim.pushes.len())),
                Happening::LosePush(index) if !sim.pushes.is_empty() => {
                    sim.pushes.remove(index.index(sim.pushes.len()));
                }
                Happening::Serve(_) | Happening::Answer(_) | Happening::Push(_)
                | Happening::PushAgain(_) | Happening::LosePush(_) => {}
                Happening::Pass(ms) => sim.now_ms += ms,
                Happening::Disconnect => {
                    sim.disconnect();
                    connected = false;
                }
                Happening::Connect if !connected => {
                    sim.connect();
                    connected = true;
                }
                Happening::Connect => {}
                Happening::Restart => {
                    sim.restart();
                    connected = false;
                }
            }
        }
        // No push comes any more; the sync after each connection has to do.
        for _ in 0..2 {
            sim.disconnect();
            sim.connect();
            sim.quiesce();
        }
        for (conversation, queued) in conversations.into_iter().zip(&queued) {
            let log = sim.world.texts(conversation);
            prop_assert_eq!(&sim.shown_texts(conversation), &log);
            // Recalled messages say nothing any more; a queued first one may be among them.
            let mine: Vec<_> = log.iter().filter(|text| text.starts_with("queued")).cloned().collect();
            prop_assert!(queued.ends_with(&mine), "{queued:?} {mine:?}");
            prop_assert!(queued.len() - mine.len() <= 1);
        }
        prop_assert!(sim.core.unsent().unwrap().is_empty());
        prop_assert!(sim.failed.is_empty());
        for row in sim.core.conversations().unwrap() {
            let shown = sim.shown.get(&row.id).map_or(0, |shown| shown.last().unwrap().seq);
            prop_assert_eq!(row.head_seq, shown);
        }
    }
}
