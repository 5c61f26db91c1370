//! Target `session`: a gateway's login session from a stranger's first byte to the last that is written, and the client's
//! half of it.
//!
//! The input is a script: bytes of any kind in pieces of any size, the cluster's answers, pushes, orders, time, and a
//! socket that takes as much as it likes. The target holds the handshake's keys, so that frames get through, and reads
//! whatever the gateway writes: it opens, is frames that a gateway may send, READY before all else, each request answered
//! once. What must hold inside is asserted by [`Harness`].

mod client;
mod client_half;
mod cluster;
mod desk;
mod seeds;

use std::collections::VecDeque;

use bytes::Bytes;
use whimbrel_gateway::fuzzing::{Bounds, End, Harness, READ_MAX};
use whimbrel_protocol::cluster::{AuthenticateResponse, OpenSessionResponse};
use whimbrel_protocol::frame::{Frame, Push, Request, RequestId};

use self::client::{Client, login};
use self::client_half::both_ends;
pub(crate) use self::seeds::seeds;
use crate::frames;
use crate::source::Source;

/// Steps of one run.
const STEPS_MAX: usize = 400;
/// The first bytes of a step that is a message to a room; below are numbers of the older steps.
const ROOM_PUSH: u8 = 240;
/// First bytes of what the gateway's room desk does: those of them that no input of the corpus used before.
const DESK_ORDER: u8 = 244;
const BROADCAST: u8 = 245;
const SERVE_ROOMS: u8 = 252;
/// Bytes on their way to the gateway: what a socket's buffers would hold.
const ON_THE_WAY_MAX: usize = 512 * 1024;
/// The user that logins are judged as.
const ALICE: u64 = 7;
/// What the token's end is counted from.
const NOW_UNIX_MS: u64 = 1_800_000_000_000;

/// One run.
struct Run<'a> {
    source: Source<'a>,
    gateway: Harness,
    client: Client,
    /// From the client, not yet read.
    upward: VecDeque<u8>,
    /// From the gateway, not yet whole.
    downward: Vec<u8>,
    login_waits: bool,
    opening_waits: bool,
    token_waits: bool,
    requests: Vec<RequestId>,
}

/// A script for one connection.
pub(crate) fn session(data: &[u8]) {
    let mut source = Source::new(data);
    if source.below(4) == 3 {
        return both_ends(source);
    }
    let small = source.flag();
    let bounds = Bounds {
        held_max: if small { 40_000 } else { 1 << 20 },
        owed_max: if small { 30_000 } else { 8 << 20 },
        outbound_collapse_bytes: if small { 10_000 } else { 256 * 1024 },
        outbound_close_bytes: if small { 20_000 } else { 4 << 20 },
        requests_max: 1 + u16::from(source.below(32)),
    };
    let opening = source.below(4);
    let mut run = Run {
        source,
        gateway: Harness::new(bounds),
        client: Client::Stranger,
        upward: VecDeque::new(),
        downward: Vec::new(),
        login_waits: false,
        opening_waits: false,
        token_waits: false,
        requests: Vec::new(),
    };
    run.come_in(opening);
    for _ in 0..STEPS_MAX {
        if run.source.is_empty() || run.gateway.is_over() {
            break;
        }
        run.step();
        run.note_wishes();
    }
    run.gateway.finish();
}

impl Run<'_> {
    /// Up to where the script begins: nothing, a hello, a good login, a session that is ready.
    fn come_in(&mut self, opening: u8) {
        if opening == 0 {
            return;
        }
        self.greet(&login());
        self.read_all();
        if opening == 1 {
            return;
        }
        self.authenticate(Ok(AuthenticateResponse {
            user_id: ALICE,
            ..AuthenticateResponse::default()
        }));
        self.write(usize::MAX);
        if opening == 2 {
            return;
        }
        self.say(&[Frame::Confirm]);
        self.read_all();
        self.open(Ok(OpenSessionResponse {
            user_id: ALICE,
            ..OpenSessionResponse::default()
        }));
        self.write(usize::MAX);
        assert!(self.gateway.is_ready(), "an honest client comes in");
    }

    fn step(&mut self) {
        // What came later has numbers that no choice had, so that what the corpus keeps goes on meaning what it meant.
        match self.source.u8() {
            DESK_ORDER => self.desk_order(),
            BROADCAST => self.broadcast(),
            SERVE_ROOMS => self.serve_rooms(),
            ROOM_PUSH.. => self.room_push(),
            choice => self.step_of(choice % 20),
        }
    }

    fn step_of(&mut self, choice: u8) {
        match choice {
            0 | 1 => {
                let frame = frames::frame(&mut self.source);
                self.say(&[frame]);
            }
            2 => {
                let plaintext = match self.source.flag() {
                    true => self.source.filler(),
                    false => self.source.short().to_vec(),
                };
                self.seal(&plaintext);
            }
            3 => {
                let mut raw = self.source.short().to_vec();
                self.upward.extend(raw.drain(..));
            }
            4 => {
                let len = usize::from(self.source.u16());
                self.read(len);
            }
            5 => self.read_all(),
            6 => {
                let room = usize::from(self.source.u16());
                self.write(room);
            }
            7 => self.write(usize::MAX),
            8 => {
                let ms = u64::from(self.source.u32() % 1_000_000);
                self.gateway.advance(ms);
            }
            9 => self.gateway.advance_to_deadline(),
            10 => {
                let judged = self.judged();
                match self.login_waits {
                    true => self.authenticate(judged),
                    false if self.token_waits => {
                        self.token_waits = false;
                        self.gateway.reauthenticated(judged);
                    }
                    false => {}
                }
            }
            11 => {
                let opened = match self.source.below(3) {
                    0 => Ok(OpenSessionResponse {
                        user_id: ALICE,
                        ..OpenSessionResponse::default()
                    }),
                    1 => Ok(OpenSessionResponse {
                        code: self.source.number_u32(),
                        message: self.source.text(),
                        user_id: 0,
                    }),
                    _ => Err(self.no_answer()),
                };
                self.open(opened);
            }
            12 => self.respond(),
            13 => {
                let user_id = if self.source.u8() == 255 { 8 } else { ALICE };
                let push = Frame::Push(Push {
                    method: self.source.number_u32(),
                    tracked: self.source.flag(),
                    compressed: false,
                    payload: Bytes::from(self.source.filler()),
                });
                let taken = self.gateway.push(user_id, push);
                assert!(
                    !taken || user_id == ALICE || !self.gateway.is_ready(),
                    "another user's push was taken"
                );
            }
            14 => self.gateway.missed(u32::from(self.source.u16())),
            15 => self.gateway.drain(u32::from(self.source.u16())),
            16 => {
                let end = match self.source.below(6) {
                    0 => End::Draining,
                    1 => End::OutOfMemoryBudget,
                    2 => End::Ordered(self.source.number_u32()),
                    _ => End::IfBehind,
                };
                self.gateway.end(end);
            }
            17 => {
                let mut login = login();
                if self.source.flag() {
                    login.uid = self.source.text();
                }
                login.platform = self.source.text();
                login.frame_payload_max = self.source.number_u32();
                self.greet(&login);
            }
            18 => {
                // An honest request with the next number.
                if let Client::In(talking) = &mut self.client {
                    let id = RequestId(talking.next_request);
                    talking.next_request = talking.next_request.saturating_add(2);
                    let request = Request {
                        method: self.source.number_u32(),
                        id,
                        affinity: None,
                        deadline_ms: None,
                        compressed: false,
                        payload: Bytes::copy_from_slice(self.source.short()),
                    };
                    self.say(&[Frame::Request(request)]);
                }
            }
            _ => {
                // An honest acknowledgement.
                if let Client::In(talking) = &self.client {
                    let through = talking.tracked;
                    self.say(&[Frame::PushAck { through }]);
                }
            }
        }
    }

    fn read(&mut self, len: usize) {
        if !self.gateway.wants_bytes() {
            return;
        }
        let len = len.min(self.upward.len()).min(READ_MAX);
        let piece: Vec<u8> = self.upward.drain(..len).collect();
        if !piece.is_empty() {
            self.gateway.read(&piece);
        }
        self.note_wishes();
    }

    fn read_all(&mut self) {
        while !self.upward.is_empty() && self.gateway.wants_bytes() {
            self.read(READ_MAX);
        }
    }

    fn write(&mut self, room: usize) {
        let mut bursts = 0;
        loop {
            let burst = self.gateway.write(room);
            self.downward.extend_from_slice(&burst);
            self.hear();
            bursts += 1;
            if burst.is_empty() || room < usize::MAX {
                return;
            }
            assert!(bursts < 4_000, "a socket that takes everything is never done");
        }
    }
}
