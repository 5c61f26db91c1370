//! The core against the rules of a server, under a virtual clock: whatever is lost, repeated, overtaken or restarted.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../tests/support/world.rs"]
mod world;

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use whimbrel_protocol::client::{Content, Response, Text, content};
use whimbrel_protocol::client_session::Refusal;
use whimbrel_protocol::code::Code;

use self::world::World;
use super::*;
use crate::events::SendState;
use crate::store::NewMessage;
use crate::types::{Entry, EntryBody};

const T0: u64 = 1_800_000_000_000;
const ME: &str = "alice";

fn settings() -> Settings {
    Settings {
        initial_history: 50,
        sync_interval: Duration::from_secs(300),
        uid: ME.into(),
    }
}

fn message(conversation: ConversationId, text: &str) -> NewMessage {
    let content = Content {
        content: Some(content::Content::Text(Text { text: text.into() })),
    };
    NewMessage {
        conversation,
        content,
        options: None,
    }
}

/// A client, its server, and the network between them.
struct Sim {
    world: World,
    core: Core,
    now_ms: u64,
    /// Requests the server has not seen.
    asked: Vec<Request>,
    /// Answers on their way.
    answers: Vec<(u64, Response)>,
    pushes: Vec<world::Push>,
    shown: BTreeMap<ConversationId, Vec<Entry>>,
    sent: Vec<LocalMessageId>,
    failed: Vec<LocalMessageId>,
    lives: u8,
}

impl Sim {
    fn new() -> Self {
        let mut sim = Self {
            world: World::at(T0),
            core: Core::open(Store::open(None).unwrap(), settings(), [1; 32]).unwrap(),
            now_ms: 0,
            asked: Vec::new(),
            answers: Vec::new(),
            pushes: Vec::new(),
            shown: BTreeMap::new(),
            sent: Vec::new(),
            failed: Vec::new(),
            lives: 1,
        };
        sim.connect();
        sim
    }

    fn now(&self) -> Now {
        Now {
            monotonic: Duration::from_millis(self.now_ms),
            server_ms: T0 + self.now_ms,
        }
    }

    /// Does something in a transaction of its own, and takes what comes out.
    fn step<T>(&mut self, act: impl FnOnce(&mut Core, Now) -> T) -> T {
        let now = self.now();
        self.core.begin(false).unwrap();
        let value = act(&mut self.core, now);
        self.publish();
        value
    }

    fn publish(&mut self) {
        for event in self.core.commit().unwrap() {
            match event {
                Event::MessageReceived { conversation, entry } => {
                    let shown = self.shown.entry(conversation).or_default();
                    let last = shown.last().map_or(0, |entry| entry.seq);
                    assert_eq!(entry.seq, last + 1, "each once, in order, without holes");
                    shown.push(entry);
                }
                Event::MessageChanged { conversation, entry } => {
                    let shown = self.shown.get_mut(&conversation).unwrap();
                    let before = shown.iter_mut().find(|shown| shown.seq == entry.seq).unwrap();
                    assert!(before.rev < entry.rev, "a change goes forward");
                    *before = entry;
                }
                Event::SendStateChanged {
                    local_id,
                    state: SendState::Sent { .. },
                    ..
                } => self.sent.push(local_id),
                Event::SendStateChanged {
                    local_id,
                    state: SendState::Failed { .. },
                    ..
                } => {
                    self.failed.push(local_id);
                }
                _ => {}
            }
        }
    }

    fn poll(&mut self) {
        let requests = self.step(|core, now| core.poll_requests(now).unwrap());
        self.asked.extend(requests);
    }

    fn serve(&mut self, index: usize) {
        let request = self.asked.swap_remove(index);
        self.world.now_ms = T0 + self.now_ms;
        let response = self.world.handle(ME, request.method.number(), &request.payload);
        self.answers.push((request.tag, response));
        self.collect_pushes();
    }

    fn collect_pushes(&mut self) {
        self.pushes
            .extend(self.world.take_pushes().into_iter().filter(|push| push.uid == ME));
    }

    fn answer(&mut self, index: usize) {
        let (tag, response) = self.answers.swap_remove(index);
        let result = match response.code {
            0 => Ok(response.body),
            code => Err(Failure::Refused(Refusal {
                code,
                message: response.message,
                retry_after_ms: 0,
            })),
        };
        self.step(|core, now| core.handle_response(tag, result, now).unwrap());
    }

    fn push(&mut self, index: usize) {
        let push = self.pushes[index].clone();
        self.step(|core, now| core.handle_push(push.method.number(), push.payload, now).unwrap());
    }

    fn connect(&mut self) {
        let early = self.step(Core::early_sync);
        self.asked.extend(early);
        self.step(Core::handle_online);
    }

    /// The connection goes: what was asked may or may not have been carried out, and nobody will say.
    fn disconnect(&mut self) {
        self.core.handle_offline();
        let tags: Vec<u64> = self
            .asked
            .drain(..)
            .map(|request| request.tag)
            .chain(self.answers.drain(..).map(|(tag, _)| tag))
            .collect();
        for tag in tags {
            self.step(|core, now| core.handle_lost(tag, now).unwrap());
        }
        self.pushes.clear();
    }

    /// The process dies and comes back with what is on disk.
    fn restart(&mut self) {
        self.disconnect();
        let core = std::mem::replace(
            &mut self.core,
            Core::open(Store::open(None).unwrap(), settings(), [2; 32]).unwrap(),
        );
        // Each life draws other random numbers, or two messages would get one operation id.
        self.lives += 1;
        self.core = Core::open(core.into_store(), settings(), [self.lives; 32]).unwrap();
    }

    /// Everything is delivered, until nothing happens any more.
    fn quiesce(&mut self) {
        for _ in 0..4_000 {
            self.poll();
            if !self.asked.is_empty() {
                self.serve(0);
            } else if !self.answers.is_empty() {
                self.answer(0);
            } else {
                let due = self
                    .core
                    .due()
                    .map(|due| u64::try_from(due.as_millis()).unwrap() + 1);
                match due {
                    // A sync without cause is minutes away; all else is done by then.
                    Some(due) if due < self.now_ms + 120_000 => self.now_ms = self.now_ms.max(due),
                    _ => return,
                }
            }
        }
        panic!("the client never comes to rest: {:?}", self.core);
    }

    fn shown_texts(&self, conversation: ConversationId) -> Vec<String> {
        let text = |entry: &Entry| match &entry.body {
            EntryBody::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.shown
            .get(&conversation)
            .map(|shown| shown.iter().filter_map(text).collect())
            .unwrap_or_default()
    }

    fn open_direct(&mut self, uid: &str) -> ConversationId {
        let request = whimbrel_protocol::client::OpenDirectRequest { uid: uid.into() };
        self.world
            .handle(ME, Method::OpenDirect.number(), &request.encode_to_vec());
        World::direct(ME, uid)
    }

    fn enqueue(&mut self, conversation: ConversationId, text: &str) -> LocalMessageId {
        self.step(|core, _| core.enqueue(&message(conversation, text), None).unwrap().unwrap())
    }
}

#[test]
fn messages_that_wait_share_a_batch_and_the_next_batch_waits_for_its_answer() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.quiesce();
    for n in 0..40 {
        sim.enqueue(conversation, &n.to_string());
    }
    sim.poll();
    assert_eq!(sim.asked.len(), 1);
    sim.poll();
    assert_eq!(sim.asked.len(), 1, "one batch per conversation in flight");
    sim.serve(0);
    assert_eq!(sim.world.texts(conversation).len(), 32);
    sim.quiesce();
    let expected: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    assert_eq!(sim.world.texts(conversation), expected);
    assert_eq!(sim.shown_texts(conversation), expected);
    assert_eq!(sim.sent.len(), 40);
}

#[test]
fn a_batch_stays_the_same_over_lost_answers_and_restarts() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.quiesce();
    sim.enqueue(conversation, "a");
    sim.poll();
    let first = sim.asked[0].payload.clone();
    sim.serve(0);
    sim.enqueue(conversation, "b");
    sim.restart();
    sim.connect();
    sim.poll();
    let send = sim
        .asked
        .iter()
        .find(|request| request.method == Method::Send)
        .unwrap();
    assert_eq!(
        send.payload, first,
        "byte for byte, and without what was queued later"
    );
    sim.quiesce();
    assert_eq!(sim.world.texts(conversation), ["a", "b"]);
    assert_eq!(sim.shown_texts(conversation), ["a", "b"]);
}

#[test]
fn a_message_refused_for_good_fails_alone() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.quiesce();
    sim.enqueue(conversation, "before");
    let bad = sim.enqueue(conversation, world::FORBIDDEN);
    sim.enqueue(conversation, "after");
    sim.quiesce();
    assert_eq!(sim.failed, [bad]);
    assert_eq!(sim.world.texts(conversation), ["before", "after"]);
    let unsent = sim.core.unsent().unwrap();
    assert_eq!(unsent.len(), 1);
    assert_eq!(
        unsent[0].failed.as_ref().unwrap().0,
        Code::InvalidArgument.number()
    );
}

#[test]
fn what_waits_after_failures_goes_on_soon_after_anything_is_answered() {
    let mut sim = Sim::new();
    let (late, heard) = (sim.open_direct("bob"), sim.open_direct("carol"));
    sim.quiesce();
    sim.enqueue(late, "late");
    for _ in 0..8 {
        sim.now_ms += 60_000;
        sim.poll();
        let is_send = |request: &Request| request.method == Method::Send;
        let send = sim
            .asked
            .extract_if(.., |request| is_send(request))
            .next()
            .unwrap();
        let failed = Err(Failure::Deadline);
        sim.step(|core, now| core.handle_response(send.tag, failed, now).unwrap());
    }
    sim.asked.clear();
    sim.now_ms += 10_000;
    sim.poll();
    assert!(sim.asked.is_empty(), "a long pause runs");

    sim.enqueue(heard, "heard");
    sim.poll();
    sim.serve(0);
    sim.answer(0);
    sim.now_ms += 500;
    sim.poll();
    assert_eq!(sim.asked.len(), 1, "the pause was shortened");
    sim.quiesce();
    assert_eq!(sim.world.texts(late), ["late"]);
}

#[test]
fn operation_ids_are_made_when_the_servers_clock_is_known() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.disconnect();
    sim.enqueue(conversation, "written with a wrong clock");
    sim.now_ms += 3_600_000;
    sim.connect();
    sim.poll();
    let send = sim
        .asked
        .iter()
        .find(|request| request.method == Method::Send)
        .unwrap();
    let request = whimbrel_protocol::client::SendRequest::decode(send.payload.clone()).unwrap();
    let id = OperationId::from_wire(&request.messages[0].client_msg_id).unwrap();
    assert_eq!(id.time_ms(), T0 + 3_600_000);
}

#[test]
fn calls_are_repeated_over_connections_with_the_same_operation_id_until_their_time_is_over() {
    let mut sim = Sim::new();
    sim.quiesce();
    let outcome = Arc::new(Mutex::new(None));
    let call = || NewCall {
        method: Method::Leave,
        affinity: None,
        payload: Payload::WithOperationId(Box::new(|id| Bytes::copy_from_slice(id.as_bytes()))),
        within: Duration::from_secs(30),
        reply: {
            let outcome = Arc::clone(&outcome);
            Box::new(move |result| *outcome.lock().unwrap() = Some(result))
        },
    };
    let now = sim.now();
    sim.core.call(call(), now);
    sim.poll();
    let first = sim.asked[0].payload.clone();
    sim.disconnect();
    sim.connect();
    sim.poll();
    let again = sim
        .asked
        .iter()
        .find(|request| request.method == Method::Leave)
        .unwrap();
    assert_eq!(again.payload, first);
    let tag = again.tag;
    let busy = Refusal {
        code: Code::Overloaded.number(),
        message: "full".into(),
        retry_after_ms: 1_000,
    };
    sim.step(|core, now| {
        core.handle_response(tag, Err(Failure::Refused(busy)), now)
            .unwrap()
    });
    assert!(outcome.lock().unwrap().is_none(), "it is tried again");
    sim.disconnect();
    sim.now_ms += 30_000;
    sim.poll();
    let error = outcome.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!(error.code, crate::error::ErrorCode::Offline as u32);
}

#[test]
fn read_marks_survive_a_restart_never_go_back_and_show_at_once() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    for text in ["1", "2", "3"] {
        sim.world.say(conversation, "bob", text);
    }
    sim.quiesce();
    assert_eq!(sim.core.conversations().unwrap()[0].unread, 3);
    sim.disconnect();
    sim.step(|core, _| core.mark_read(conversation, 2).unwrap());
    sim.step(|core, _| core.mark_read(conversation, 1).unwrap());
    let row = sim.core.conversations().unwrap().remove(0);
    assert_eq!((row.read_seq, row.unread), (2, 1));
    sim.restart();
    assert_eq!(sim.core.conversations().unwrap()[0].read_seq, 2);
    sim.connect();
    sim.quiesce();
    assert_eq!(sim.world.read_seq(conversation, ME), 2);
    assert_eq!(sim.core.conversations().unwrap()[0].unread, 1);
}

#[test]
fn a_row_from_before_a_read_mark_does_not_take_it_back() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.world.say(conversation, "bob", "1");
    sim.collect_pushes();
    sim.pushes.clear();
    sim.quiesce();
    sim.world.say(conversation, "bob", "2");
    // The message is read as it comes, and the mark is answered before the notice of the message arrives.
    sim.collect_pushes();
    sim.push(0);
    sim.step(|core, _| core.mark_read(conversation, 2).unwrap());
    sim.quiesce();
    assert_eq!(sim.world.read_seq(conversation, ME), 2);
    sim.push(1);
    let row = sim.core.conversations().unwrap().remove(0);
    assert_eq!((row.read_seq, row.unread), (2, 0));
}

#[test]
fn a_row_that_was_written_before_a_mark_was_taken_does_not_take_it_back() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    sim.world.say(conversation, "bob", "1");
    sim.quiesce();
    sim.pushes.clear();
    sim.world.say(conversation, "bob", "2");
    sim.collect_pushes();
    sim.step(|core, _| core.mark_read(conversation, 1).unwrap());
    sim.poll();
    sim.serve(0);
    // The answer to the mark overtakes the notice of the message before it.
    sim.answer(0);
    for index in 0..sim.pushes.len() {
        sim.push(index);
        let row = sim.core.conversations().unwrap().remove(0);
        assert_eq!(row.read_seq, 1, "after {index}");
    }
    sim.quiesce();
    let row = sim.core.conversations().unwrap().remove(0);
    assert_eq!((row.head_seq, row.read_seq, row.unread), (2, 1, 1));
}

#[test]
fn after_a_restore_from_backup_the_client_follows_the_servers_log() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    for n in 1..=5 {
        sim.world.say(conversation, "bob", &n.to_string());
    }
    sim.quiesce();
    assert_eq!(sim.shown_texts(conversation).len(), 5);
    sim.world.restore(conversation, 3);
    sim.disconnect();
    sim.connect();
    sim.quiesce();
    sim.world.say(conversation, "bob", "4 again");
    sim.shown.get_mut(&conversation).unwrap().truncate(3);
    sim.connect();
    sim.quiesce();
    assert_eq!(sim.shown_texts(conversation), ["1", "2", "3", "4 again"]);
}

#[test]
fn hostile_pushes_and_answers_are_left_lying() {
    let mut sim = Sim::new();
    sim.quiesce();
    for method in [1, 2, 99] {
        for payload in [&b"\xff\xff\xff"[..], b"", b"\x0a\x01x"] {
            sim.step(|core, now| {
                core.handle_push(method, Bytes::from_static(payload), now)
                    .unwrap()
            });
        }
    }
    sim.step(|core, now| core.handle_response(4_711, Ok(Bytes::new()), now).unwrap());
    sim.step(Core::handle_online);
    sim.poll();
    let tag = sim.asked.pop().unwrap().tag;
    sim.step(|core, now| {
        core.handle_response(tag, Ok(Bytes::from_static(b"\xff")), now)
            .unwrap()
    });
    assert!(
        sim.core.due().is_some_and(|due| due > sim.now().monotonic),
        "it is asked again after a pause"
    );
}

#[test]
fn the_queue_is_bounded_in_length_and_messages_in_size() {
    let mut sim = Sim::new();
    let conversation = sim.open_direct("bob");
    let long = message(conversation, &"x".repeat(24 * 1024));
    let refused = sim
        .step(|core, _| core.enqueue(&long, None).unwrap())
        .unwrap_err();
    assert_eq!(refused.code, crate::error::ErrorCode::InvalidArgument as u32);
}

#[test]
fn one_connection_costs_one_sync() {
    let mut sim = Sim::new();
    sim.poll();
    assert_eq!(
        sim.asked
            .iter()
            .filter(|request| request.method == Method::Sync)
            .count(),
        1
    );
    sim.serve(0);
    sim.answer(0);
    sim.poll();
    assert_eq!(sim.asked, []);
}

#[test]
fn a_client_that_waits_for_answers_sleeps() {
    let mut sim = Sim::new();
    for uid in ["a", "b", "c", "d", "e", "f", "g"] {
        let conversation = sim.open_direct(uid);
        sim.world.say(conversation, uid, "hello");
        sim.enqueue(conversation, "hello");
    }
    for _ in 0..200 {
        sim.poll();
        let syncs = sim
            .asked
            .iter()
            .position(|request| request.method == Method::Sync);
        match syncs {
            Some(index) => sim.serve(index),
            None if sim.answers.is_empty() => break,
            None => sim.answer(0),
        }
    }
    assert_eq!(
        sim.asked
            .iter()
            .filter(|request| request.method == Method::Pull)
            .count(),
        4
    );
    let due = sim.core.due();
    assert!(due.is_none_or(|due| due > sim.now().monotonic), "{due:?}");
}

#[test]
fn calls_wait_their_turn() {
    let mut sim = Sim::new();
    sim.quiesce();
    let now = sim.now();
    for _ in 0..100 {
        sim.core.call(
            NewCall {
                method: Method::Leave,
                affinity: None,
                payload: Payload::Ready(Bytes::new()),
                within: Duration::from_secs(30),
                reply: Box::new(|_| {}),
            },
            now,
        );
    }
    sim.poll();
    assert_eq!(sim.asked.len(), 32);
    let tag = sim.asked[0].tag;
    sim.step(|core, now| core.handle_response(tag, Ok(Bytes::new()), now).unwrap());
    sim.poll();
    assert_eq!(sim.asked.len(), 33);
}

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
