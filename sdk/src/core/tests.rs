//! The core against the rules of a server, under a virtual clock: whatever is lost, repeated, overtaken or restarted.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod anything;
mod asking;
mod bounds;
mod restore;
mod sending;
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
        initial_unread: false,
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
    restored: bool,
    losses: Vec<u64>,
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
            restored: false,
            losses: Vec::new(),
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
                    let forward = before.rev < entry.rev;
                    assert!(
                        forward || (self.restored && *before != entry),
                        "a change goes forward"
                    );
                    *before = entry;
                }
                Event::MessagesLost {
                    conversation,
                    after_seq,
                } => {
                    let shown = self.shown.entry(conversation).or_default();
                    let before = shown.len();
                    shown.retain(|entry| entry.seq <= after_seq);
                    assert!(shown.len() < before, "told once, and only what was shown");
                    self.losses.push(after_seq);
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

    /// The server begins anew from a backup. Its answers and pushes on their way are of another life, and never arrive.
    fn restore(&mut self, backup: &World) {
        self.world.restore(backup);
        self.restored = true;
        self.disconnect();
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
        self.step(|core, now| {
            core.enqueue(&message(conversation, text), None, now)
                .unwrap()
                .unwrap()
        })
    }
}
