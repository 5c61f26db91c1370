//! Target `requests`: everything a client or a gateway may ask of a service node, one thing after another.
//!
//! The node is production's, whole: decoding, checks, lanes, decisions, group commit, reads, rows, rooms; its one gateway
//! answers as the script says, and its store is as well as the script has it. What must hold: every request is answered, never by a fault of ours; a good answer is the method's own; the same request again, with the same
//! operation id, gets the same answer; what was refused for good is so at the end, whatever has happened since; the seqs of a
//! conversation only rise.

mod asking;
mod fields;
mod gateway;
mod seeds;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use whimbrel_app_service::service::Answer;
use whimbrel_protocol::client;
use whimbrel_protocol::cluster::{self, Envelope, Status};
use whimbrel_protocol::method::Method;

pub(crate) use self::seeds::seeds;
use crate::ailing::Health;
use crate::node::World;
use crate::source::Source;

/// The first bytes of steps about rooms, and of many requests at once; others are numbers of the older steps.
const ROOMS_FROM: u8 = 240;
const ROOMS_TO: u8 = 249;
const GATEWAY_TELLS: u8 = 250;
const AT_ONCE: u8 = 251;
/// The first byte of a step that changes the store's health, and of one in which the node stands aside.
const STORE_IS: u8 = 252;
const STANDS_ASIDE: u8 = 253;

/// What clients ask about rooms.
const ROOM_METHODS: [Method; 4] = [
    Method::JoinRoom,
    Method::LeaveRoom,
    Method::SendRoom,
    Method::CountRoom,
];

/// Requests of one run: enough for a group's life, few enough that a run takes a millisecond.
const REQUESTS_MAX: usize = 40;

/// Those who ask; the last never logs in first.
const UIDS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Rooms by number.
const ROOMS: [&str; 3] = ["lobby", "hall", "attic"];

/// One run.
struct Run<'a> {
    source: Source<'a>,
    world: World,
    /// User ids by the place in [`UIDS`]; 0 until opened.
    users: [u64; UIDS.len()],
    conversations: Vec<Bytes>,
    operations: Vec<Bytes>,
    cursors: Vec<Bytes>,
    heads: BTreeMap<Bytes, u64>,
    tokens: Vec<String>,
    refused: Vec<Refused>,
    /// Requests come from a session of the gateway.
    has_session: bool,
    /// What the gateway says means nothing, and so may what the node says of it.
    gateway_raves: bool,
    members: BTreeMap<&'static str, u32>,
}

/// A request that was refused for good.
struct Refused {
    who: usize,
    user_id: u64,
    method: u32,
    payload: Bytes,
    answer: client::Response,
}

/// A script of requests.
pub(crate) fn requests(data: &[u8]) {
    let mut run = Run {
        source: Source::new(data),
        world: World::new(),
        users: [0; UIDS.len()],
        conversations: Vec::new(),
        operations: Vec::new(),
        cursors: Vec::new(),
        heads: BTreeMap::new(),
        tokens: Vec::new(),
        refused: Vec::new(),
        has_session: false,
        gateway_raves: false,
        members: BTreeMap::new(),
    };
    for who in 0..3 {
        run.open(who, "phone".to_owned());
    }
    for _ in 0..REQUESTS_MAX {
        if run.source.is_empty() {
            break;
        }
        run.step();
    }
    run.world.store_is(Health::Well);
    run.ask_refused_again();
    let last = run.envelope(0, Method::Sync.number(), Bytes::new());
    run.world.drain(last);
}

impl Run<'_> {
    fn step(&mut self) {
        // What came later has numbers that no choice had, so that what the corpus keeps goes on meaning what it meant.
        match self.source.u8() {
            choice @ ROOMS_FROM..ROOMS_TO => {
                let method = ROOM_METHODS[usize::from(choice - ROOMS_FROM) % ROOM_METHODS.len()];
                self.has_session = choice < ROOMS_TO - 1;
                let who = self.who();
                let request = self.request(method);
                self.call(who, method.number(), request);
                self.has_session = false;
            }
            ROOMS_TO => self.gateway_answers(),
            GATEWAY_TELLS => self.gateway_tells(),
            AT_ONCE => self.at_once(),
            STORE_IS => self.store_is(),
            STANDS_ASIDE => {
                if self.world.health() != Health::Gone {
                    let request = self.envelope(0, Method::Sync.number(), Bytes::new());
                    self.world.stands_aside(request);
                }
            }
            choice => self.step_of(choice % 24),
        }
    }

    fn step_of(&mut self, choice: u8) {
        match choice {
            choice @ 0..16 => {
                let method = Method::ALL[usize::from(choice)];
                let who = self.who();
                let request = self.request(method);
                self.call(who, method.number(), request);
            }
            16 => {
                let who = self.who();
                let method = self.source.number_u32();
                let payload = Bytes::copy_from_slice(self.source.long());
                self.call(who, method, payload);
            }
            17 => {
                // A good request that was changed on its way.
                let method = Method::ALL[usize::from(self.source.u8()) % Method::ALL.len()];
                let who = self.who();
                let mut request = self.request(method).to_vec();
                self.source.edit(&mut request);
                self.call(who, method.number(), request.into());
            }
            18 => {
                let kind = i32::from(self.source.below(24));
                let body = Bytes::copy_from_slice(self.source.long());
                let deadline_ms = u32::from(self.source.u16());
                self.ask(kind, body, deadline_ms);
            }
            19 => {
                let (who, device) = (self.who(), self.source.text());
                self.open(who, device);
            }
            20 => self.authenticate(),
            21 => self
                .world
                .advance(Duration::from_millis(u64::from(self.source.u32()) % 900_000_000)),
            22 => self.user_work(),
            _ => {
                // Somebody the gateway names, in another app or with another id.
                let request = cluster::ClientRequest {
                    app_key: self.source.text(),
                    uid: self.source.text(),
                    user_id: self.source.number(),
                    method: u32::from(self.source.u8()),
                    payload: Bytes::copy_from_slice(self.source.short()),
                    ..Default::default()
                };
                self.ask(
                    cluster::Kind::ClientRequest.into(),
                    request.encode_to_vec().into(),
                    0,
                );
            }
        }
    }

    /// More at once than the node takes, of any priority: each is answered, and the node comes to rest.
    fn at_once(&mut self) {
        let count = self.source.below(24);
        let mut requests = Vec::new();
        for _ in 0..count {
            let method = Method::ALL[usize::from(self.source.u8()) % Method::ALL.len()];
            let (who, priority) = (self.who(), i32::from(self.source.below(7)));
            requests.push(Envelope {
                priority,
                ..self.envelope(who, method.number(), Bytes::new())
            });
        }
        for answer in self.world.ask_at_once(requests) {
            if let Answer::Refused { status, detail, .. } = answer {
                let gone = self.world.health() == Health::Gone && status == Status::Unavailable;
                assert!(gone || status == Status::Overloaded, "{status:?}: {detail}");
            }
        }
    }

    fn store_is(&mut self) {
        let health = match self.source.below(6) {
            0 => Health::Well,
            1 => Health::Full,
            2 => Health::Gone,
            3 => Health::LosesCommits,
            4 => Health::LosesAnswers,
            _ => Health::Silent,
        };
        self.world.store_is(health);
    }
}
