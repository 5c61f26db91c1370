//! Target `session`: a gateway's login session from a stranger's first byte to the last that is written, and the client's
//! half of it.
//!
//! The input is a script: bytes of any kind in pieces of any size, the cluster's answers, pushes, orders, time, and a
//! socket that takes as much as it likes. The target holds the handshake's keys, so that frames get through, and reads
//! whatever the gateway writes: it opens, is frames that a gateway may send, READY before all else, each request answered
//! once. What must hold inside is asserted by [`Harness`].

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_gateway::fuzzing::{Bounds, End, Harness, NoAnswer, READ_MAX, Wish};
use whimbrel_protocol::answer::{Answer, AnswerStep};
use whimbrel_protocol::client::{
    Content, Login, LoginAnswer, MessagesPush, NoticePush, RoomPush, Text, content::Content as Kind,
};
use whimbrel_protocol::client_session::{ClientSession, End as SessionEnd, Event, OutgoingRequest};
use whimbrel_protocol::cluster::{AuthenticateResponse, OpenSessionResponse};
use whimbrel_protocol::frame::{Affinity, Frame, FrameReader, Push, Request, RequestId};
use whimbrel_protocol::handshake::Initiator;
use whimbrel_protocol::ids::RoomId;
use whimbrel_protocol::method::PushMethod;
use whimbrel_protocol::record::{RecordStep, next_record};
use whimbrel_protocol::{SessionKeys, Side, Suite};

use crate::source::{Fixed, Source};
use crate::{frames, planted, records};

/// Steps of one run.
const STEPS_MAX: usize = 400;
/// The first bytes of a step that is a message to a room; below are numbers of the older steps.
const ROOM_PUSH: u8 = 240;
/// Bytes on their way to the gateway: what a socket's buffers would hold.
const ON_THE_WAY_MAX: usize = 512 * 1024;
/// The user that logins are judged as.
const ALICE: u64 = 7;
/// What the token's end is counted from.
const NOW_UNIX_MS: u64 = 1_800_000_000_000;

/// The client's end, as far as it has come.
enum Client {
    /// Nobody who speaks Whimbrel.
    Stranger,
    /// The hello is out.
    Greeting(Box<Initiator>),
    /// The login was answered.
    In(Box<Talking>),
    /// What came was no accept.
    Turned,
}

/// A client with keys, which checks what it hears.
struct Talking {
    keys: SessionKeys,
    frames: FrameReader,
    /// Over what was said, as the gateway reads it.
    said: FrameReader,
    ready: bool,
    closed: bool,
    next_request: u32,
    asked: BTreeSet<u32>,
    tracked: u32,
}

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
            ROOM_PUSH.. => self.room_push(),
            choice => self.step_of(choice % 20),
        }
    }

    /// A message to a room, good or of anything, on a socket that takes it, a part of it, or nothing.
    fn room_push(&mut self) {
        let room = match self.source.below(4) {
            0 => None,
            1 => Some(usize::from(self.source.u16())),
            _ => Some(usize::MAX),
        };
        let payload = match self.source.below(3) {
            0 => Bytes::from(self.source.filler()),
            _ => Bytes::from(
                RoomPush {
                    room: self.source.text(),
                    sender_uid: "bob".to_owned(),
                    client_msg_id: Bytes::from_static(&[7; 16]),
                    time_ms: NOW_UNIX_MS,
                    content: Some(Content {
                        content: Some(Kind::Text(Text {
                            text: self.source.text(),
                        })),
                    }),
                }
                .encode_to_vec(),
            ),
        };
        let burst = self.gateway.room_push(PushMethod::Room.number(), payload, room);
        self.downward.extend_from_slice(&burst);
        self.hear();
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

    fn no_answer(&mut self) -> NoAnswer {
        NoAnswer {
            code: self.source.number_u32(),
            message: match self.source.flag() {
                true => "é".repeat(usize::from(self.source.u8()) * 4),
                false => self.source.text(),
            },
            retry_after_ms: self.source.number_u32(),
        }
    }

    fn judged(&mut self) -> Result<AuthenticateResponse, NoAnswer> {
        match self.source.below(4) {
            0 => Err(self.no_answer()),
            1 => Ok(AuthenticateResponse {
                code: self.source.number_u32(),
                message: self.source.text(),
                retry_after_ms: self.source.number_u32(),
                ..AuthenticateResponse::default()
            }),
            2 => Ok(AuthenticateResponse {
                user_id: ALICE,
                token_expires_ms: NOW_UNIX_MS + u64::from(self.source.u32()),
                ..AuthenticateResponse::default()
            }),
            _ => Ok(AuthenticateResponse {
                user_id: self.source.number(),
                token_expires_ms: self.source.number(),
                ..AuthenticateResponse::default()
            }),
        }
    }

    fn greet(&mut self, login: &Login) {
        if !matches!(self.client, Client::Stranger) {
            return;
        }
        let suite = Suite::ALL[usize::from(self.source.flag())];
        let (key, mut hello) = (self.gateway.gateway_key(), Vec::new());
        let login = login.encode_to_vec();
        if let Ok(initiator) = Initiator::start(suite, &key, &login, &mut Fixed(4), &mut hello) {
            self.client = Client::Greeting(Box::new(initiator));
            self.upward.extend(hello);
        }
    }

    fn say(&mut self, said: &[Frame]) {
        let mut plaintext = Vec::new();
        for frame in said {
            // What cannot be written is not said.
            _ = frame.encode(&mut plaintext);
        }
        self.seal(&plaintext);
    }

    fn seal(&mut self, plaintext: &[u8]) {
        if let Client::In(talking) = &mut self.client
            && self.upward.len() + plaintext.len() < ON_THE_WAY_MAX
        {
            self.upward.extend(records::sealed(&mut talking.keys, plaintext));
            talking.note_said(plaintext);
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

    fn authenticate(&mut self, judged: Result<AuthenticateResponse, NoAnswer>) {
        if std::mem::take(&mut self.login_waits) {
            self.gateway.authenticated(judged);
        }
    }

    fn open(&mut self, opened: Result<OpenSessionResponse, NoAnswer>) {
        if std::mem::take(&mut self.opening_waits) {
            self.gateway.opened(opened);
            self.note_wishes();
        }
    }

    fn respond(&mut self) {
        let Some(at) = self.source.index(self.requests.len()) else {
            return;
        };
        let id = self.requests.swap_remove(at);
        let answer = match self.source.below(4) {
            0 => Err(self.no_answer()),
            // A service node's answers are within a frame's bound, or the gateway says so.
            1 => Ok(Bytes::from(vec![1; 70_000])),
            _ => Ok(Bytes::from(self.source.filler())),
        };
        self.gateway.respond(id, answer);
    }

    fn note_wishes(&mut self) {
        for wish in self.gateway.wishes() {
            match wish {
                Wish::Claimed { login } => {
                    assert!(Login::decode(login).is_ok());
                    self.login_waits = true;
                }
                Wish::Confirmed => self.opening_waits = true,
                Wish::Request { id, payload } => {
                    planted(
                        "session",
                        &[
                            id.0 >= 5,
                            payload.first().is_some_and(u8::is_ascii_punctuation),
                            payload.get(1).is_some_and(u8::is_ascii_uppercase),
                        ],
                    );
                    assert!(!self.requests.contains(&id), "{id:?} is passed on twice");
                    self.requests.push(id);
                }
                Wish::Reauthenticate => self.token_waits = true,
                Wish::HandshakeFailed | Wish::Faulted => {}
            }
        }
    }

    /// The client takes in what was written.
    fn hear(&mut self) {
        if let Client::Greeting(_) = &self.client {
            let consumed = match Answer::parse(&self.downward).expect("a gateway's answer parses") {
                AnswerStep::Incomplete { .. } => return,
                AnswerStep::Complete {
                    answer: Answer::Accept(message),
                    consumed,
                } => {
                    let Client::Greeting(initiator) = std::mem::replace(&mut self.client, Client::Turned)
                    else {
                        return;
                    };
                    let (keys, answer) = initiator.finish(message).expect("the gateway's accept opens");
                    let answer = LoginAnswer::decode(&*answer).expect("a login's answer parses");
                    if answer.code == 0 {
                        self.client = Client::In(Box::new(Talking {
                            keys,
                            frames: FrameReader::new(),
                            said: FrameReader::new(),
                            ready: false,
                            closed: false,
                            next_request: 1,
                            asked: BTreeSet::new(),
                            tracked: 0,
                        }));
                    }
                    consumed
                }
                AnswerStep::Complete { consumed, .. } => {
                    self.client = Client::Turned;
                    consumed
                }
            };
            self.downward.drain(..consumed);
        }
        if let Client::In(talking) = &mut self.client {
            talking.hear(&mut self.downward);
        }
    }
}

impl Talking {
    /// Keeps the numbers of requests in a stream that may cease to be one of frames; the gateway answers none behind that.
    fn note_said(&mut self, plaintext: &[u8]) {
        let mut rest = plaintext;
        while let Ok(Some(frame)) = self.said.next(&mut rest) {
            if let Frame::Request(request) = frame {
                self.asked.insert(request.id.0);
            }
        }
    }

    fn hear(&mut self, downward: &mut Vec<u8>) {
        while let RecordStep::Complete { len } =
            next_record(downward, Side::Server).expect("a gateway's records are within their bounds")
        {
            let mut record: Vec<u8> = downward.drain(..len).collect();
            let range = self
                .keys
                .opener()
                .open_in_place(&mut record)
                .expect("what a gateway writes opens, in its order");
            let mut plaintext = &record[range];
            while let Some(frame) = self.frames.next(&mut plaintext).expect("a gateway writes frames") {
                assert!(!self.closed, "nothing follows a CLOSE");
                assert!(
                    frame.kind().legal_from(Side::Server),
                    "{} from a gateway",
                    frame.kind()
                );
                match &frame {
                    Frame::Ready => {
                        assert!(!self.ready, "a session is ready once");
                        self.ready = true;
                    }
                    Frame::Response(response) => {
                        assert!(
                            self.asked.remove(&response.id.0),
                            "{:?} was not asked, or is answered twice",
                            response.id
                        );
                    }
                    Frame::Push(push) => {
                        assert!(self.ready, "a push before READY");
                        client_reads(push.method, Bytes::copy_from_slice(push.payload));
                        self.tracked += u32::from(push.tracked);
                    }
                    Frame::SyncHint { .. } | Frame::GoAway { .. } | Frame::Reauth { .. } => {
                        assert!(self.ready, "{} before READY", frame.kind());
                    }
                    Frame::Close { .. } => self.closed = true,
                    _ => {}
                }
            }
        }
    }
}

/// A client takes a push for what its method says, or leaves it.
fn client_reads(method: u32, payload: Bytes) {
    let read = match PushMethod::from_number(method) {
        Some(PushMethod::Messages) => MessagesPush::decode(payload).map(drop),
        Some(PushMethod::Notice) => NoticePush::decode(payload).map(drop),
        Some(PushMethod::Room) => RoomPush::decode(payload).map(|push| {
            if let Ok(room) = RoomId::new(&push.room) {
                assert_eq!(room.as_str(), push.room);
            }
        }),
        None => Ok(()),
    };
    if let Err(error) = read {
        assert!(!error.to_string().is_empty());
    }
}

fn login() -> Login {
    Login {
        app_key: "demo".to_owned(),
        uid: "alice".to_owned(),
        token: "token".to_owned(),
        device_id: "phone".to_owned(),
        login_epoch: 1,
        platform: "fuzz".to_owned(),
        ..Login::default()
    }
}

/// The client's production half against a gateway that says what the input says.
fn both_ends(mut source: Source<'_>) {
    let gateway_key = whimbrel_protocol::keys::StaticKey::from_secret(&[7; 32]);
    let suite = Suite::ALL[usize::from(source.flag())];
    let mut now = Duration::ZERO;
    let mut client = ClientSession::start(suite, &gateway_key.public(), &login(), now, &mut Fixed(5))
        .expect("a short login fits a hello");
    let mut hello = Vec::new();
    client.poll_output(&mut hello);
    let mut keys = None;
    let mut ended = false;
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        match source.below(12) {
            0 => client.handle_bytes(source.short(), now),
            1 if keys.is_none() => {
                let login_answer = LoginAnswer {
                    code: if source.flag() { source.number_u32() } else { 0 },
                    heartbeat_ms: source.number_u32(),
                    requests_max: source.number_u32(),
                    token_expires_ms: source.number(),
                    ..LoginAnswer::default()
                };
                keys = accept(&hello, &gateway_key, &login_answer.encode_to_vec(), |answer| {
                    source.edit(answer);
                    let (first, second) = answer.split_at(usize::from(source.u16()) % (answer.len() + 1));
                    client.handle_bytes(first, now);
                    client.handle_bytes(second, now);
                });
            }
            2..=4 => {
                if let Some(keys) = &mut keys {
                    let mut plaintext = Vec::new();
                    // What cannot be written is not said.
                    _ = frames::frame(&mut source).encode(&mut plaintext);
                    client.handle_bytes(&server_record(keys, &plaintext), now);
                }
            }
            5 => {
                if let Some(keys) = &mut keys {
                    client.handle_bytes(&server_record(keys, source.short()), now);
                }
            }
            6 => {
                now += Duration::from_millis(u64::from(source.u32() % 1_000_000));
                client.handle_timeout(now);
            }
            7 => {
                if let Some(due) = client.poll_timeout() {
                    now = now.max(due);
                    client.handle_timeout(now);
                    assert!(
                        client.poll_timeout().is_none_or(|next| next > now),
                        "a timer that was served is due again at once"
                    );
                }
            }
            8 | 9 => {
                let request = OutgoingRequest {
                    method: source.number_u32(),
                    affinity: source.flag().then_some(Affinity(9)),
                    within: Duration::from_millis(u64::from(source.u16())),
                    payload: Bytes::from(source.filler()),
                };
                if let Err(error) = client.request(request, now) {
                    assert!(!error.to_string().is_empty());
                }
            }
            10 => {
                let token = source.text();
                // A session that is not in takes no token.
                _ = client.reauthenticate(&token, now);
                client.probe(now);
            }
            _ => {
                if source.below(4) == 0 {
                    client.close();
                }
            }
        }
        let mut out = Vec::new();
        client.poll_output(&mut out);
        while let Some(event) = client.poll_event() {
            assert!(!ended, "{event:?} after the end");
            if let Event::Push { method, payload } = &event {
                client_reads(*method, payload.clone());
            }
            if let Event::Ended(end) = event {
                ended = true;
                assert!(!format!("{end:?}").is_empty());
                if let SessionEnd::LoginRefused { refusal, .. } = end {
                    assert!(
                        refusal
                            .known_code()
                            .is_none_or(|code| code.number() == refusal.code)
                    );
                }
            }
        }
        assert_eq!(ended, client.is_ended());
        assert_eq!(
            client.poll_timeout().is_none(),
            ended,
            "a session that lives has a timer"
        );
    }
}

/// The gateway's answer to `hello`, and its keys.
fn accept(
    hello: &[u8],
    key: &whimbrel_protocol::keys::StaticKey,
    login_answer: &[u8],
    give: impl FnOnce(&mut Vec<u8>),
) -> Option<SessionKeys> {
    use whimbrel_protocol::handshake::Responder;
    use whimbrel_protocol::hello::{Hello, HelloStep};
    let Ok(HelloStep::Complete { hello, .. }) = Hello::parse(hello) else {
        return None;
    };
    let (responder, _) = Responder::read(&hello, std::slice::from_ref(key), &mut Fixed(6)).ok()?;
    let mut answer = Vec::new();
    let keys = responder.answer(login_answer, &mut answer).ok()?;
    give(&mut answer);
    Some(keys)
}

fn server_record(keys: &mut SessionKeys, plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    keys.sealer()
        .seal(plaintext, 16 * 1024, &mut out)
        .expect("a run is far shorter than a session's counter");
    out
}

/// Inputs to begin with.
#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let head = |small: u8, requests: u8, opening: u8| {
        let suite: &[u8] = if opening == 0 { &[] } else { &[0] };
        [&[0, small, requests, opening][..], suite].concat()
    };
    let ask = |text: &[u8]| [&[18, 2, u8::try_from(text.len()).unwrap_or(0)][..], text].concat();
    let push = |len: u16| [&[13, 0, 1, 1, 7][..], &len.to_be_bytes()].concat();
    let mut seeds = vec![
        // A whole life: login, confirm, ready, requests, answers, pushes, acknowledgement, drain, close.
        [
            head(0, 31, 3),
            ask(b"sync"),
            ask(b"send"),
            vec![5, 12, 0, 2, 7, 0, 40, 12, 0, 0, 104, 0, 0, 0],
            push(90),
            vec![7, 19, 5, 7, 15, 0, 9, 7, 0, 11, 3, 0, 5, 7, 7],
        ]
        .concat(),
        // The same, step by step from the hello, in pieces.
        [
            head(0, 31, 0),
            vec![
                17, 0, 3, b'i', b'o', b's', 0, 4, 0, 20, 4, 0, 200, 5, 10, 2, 0, 0, 0, 9, 7, 0, 12, 18, 2, 4,
                b's', b'y', b'n', b'c', 4, 0, 9, 5, 13, 0, 1, 1, 7, 0, 9, 14, 0, 3, 11, 0, 7, 7,
            ],
        ]
        .concat(),
        // A slow reader: collapse, hint, close.
        [
            head(1, 3, 3),
            push(4_000),
            push(4_000),
            push(4_000),
            push(50),
            vec![6, 0, 100, 6, 0, 0, 16, 3, 9, 9, 9, 7],
        ]
        .concat(),
        [
            head(1, 31, 3),
            ask(b"a"),
            ask(b"b"),
            ask(b"c"),
            vec![5, 12, 0, 2, 9, 0x2e, 0, 12, 0, 2, 9, 0x2e, 0, 12, 0, 1, 7],
        ]
        .concat(),
        // More requests than allowed, a compressed one, one twice, an even one.
        [head(0, 0, 3), ask(b"a"), ask(b"b"), vec![5, 7]].concat(),
        [
            head(0, 9, 3),
            vec![
                0, 1, 2, 1, 0, 0, 1, 0, 1, b'x', 5, 7, 0, 1, 2, 1, 0, 0, 0, 0, 1, b'x', 5, 7,
            ],
        ]
        .concat(),
        [head(0, 9, 3), vec![0, 1, 2, 2, 0, 0, 0, 0, 0, 5, 7]].concat(),
        // A token that runs out, is renewed, is refused, is nobody's to judge.
        [
            head(0, 9, 1),
            vec![
                10, 2, 0, 0, 9, 9, 7, 0, 12, 5, 11, 0, 7, 9, 7, 0, 9, 0, 0, 3, b't', b'o', b'k', 5, 10, 2, 0,
                1, 0, 0, 9, 7, 0, 9, 0, 0, 1, b't', 5, 10, 1, 201, 0, 0, 7,
            ],
        ]
        .concat(),
        [
            head(0, 9, 1),
            vec![
                10, 2, 0, 0, 9, 9, 7, 0, 12, 5, 11, 0, 7, 9, 0, 9, 0, 0, 1, b't', 5, 10, 0, 9, 0, 0, 0, 9, 9,
                9, 7,
            ],
        ]
        .concat(),
        [
            head(0, 9, 1),
            vec![10, 2, 0, 0, 9, 9, 7, 0, 12, 5, 11, 0, 7, 9, 7, 9, 7],
        ]
        .concat(),
        [head(0, 9, 3), vec![0, 9, 0, 0, 2, 0xff, 0xfe, 5, 7]].concat(),
        [
            head(0, 9, 3),
            vec![0, 9, 0, 0, 1, b'a', 0, 9, 0, 0, 1, b'b', 5, 7],
        ]
        .concat(),
        // Tracked pushes never acknowledged, wrongly acknowledged.
        [head(0, 9, 3), push(9), vec![7, 9, 9, 7]].concat(),
        [head(0, 9, 3), push(9), vec![7, 0, 4, 9, 5, 7]].concat(),
        // Silence, an unfinished record, an unfinished frame.
        [head(0, 9, 3), vec![9, 7]].concat(),
        [head(0, 9, 3), vec![3, 2, 0, 40, 5, 9, 7]].concat(),
        [head(0, 9, 3), vec![2, 0, 3, 0x40, 90, 3, 5, 9, 7]].concat(),
        [head(0, 9, 3), vec![3, 3, 0xff, 0xff, 0, 5, 7]].concat(),
        [head(0, 9, 3), vec![2, 0, 3, 2, 99, 2, 5, 7, 9]].concat(),
        // Memory: many bytes of one frame with small budgets.
        [
            head(1, 9, 3),
            vec![
                2, 1, 0x80, 0x3f, 0xff, 2, 1, 0x80, 0x3f, 0xff, 2, 1, 0x80, 0x3f, 0xff, 5, 7,
            ],
        ]
        .concat(),
        // Nothing confirmed, something else confirmed, padding first.
        [head(0, 9, 2), vec![9, 7, 9]].concat(),
        [head(0, 9, 2), vec![0, 0, 0, 9, 5, 0, 12, 5, 11, 2, 9, 0, 0, 0, 7]].concat(),
        [head(0, 9, 2), vec![0, 5, 1, 5, 7, 9]].concat(),
        [
            head(0, 9, 2),
            vec![0, 12, 5, 13, 255, 0, 1, 0, 0, 13, 0, 0, 1, 0, 0, 14, 0, 1, 9, 7],
        ]
        .concat(),
        [head(0, 9, 2), vec![0, 12, 5, 11, 1, 205, 0, 7]].concat(),
        [
            head(1, 9, 2),
            vec![
                0, 12, 5, 0, 1, 1, 1, 0, 0, 0, 1, 7, 0x3f, 0, 0, 1, 1, 3, 0, 0, 0, 1, 7, 0x3f, 0, 0, 1, 1, 5,
                0, 0, 0, 1, 7, 0x3f, 0, 5, 7,
            ],
        ]
        .concat(),
        // Logins refused, not answered, too late, not ids.
        [head(0, 9, 1), vec![10, 1, 200, 2, b'n', b'o', 0, 7]].concat(),
        [
            head(0, 9, 1),
            vec![10, 0, 254, 0, 0, 1, 0x90, 1, 200, 9, 6, 0, 5, 9],
        ]
        .concat(),
        [head(0, 9, 1), vec![9, 7]].concat(),
        [head(0, 9, 0), vec![17, 1, 0, 0, 0, 5, 7]].concat(),
        [head(0, 9, 0), vec![9]].concat(),
        [head(0, 9, 0), vec![3, 4, 1, 2, 3, 4, 5]].concat(),
        [
            head(0, 9, 0),
            vec![
                3, 12, 0xf7, b'W', b'B', b'L', 2, 0, 5, 1, 2, 3, 4, 5, 5, 6, 0, 1, 7,
            ],
        ]
        .concat(),
        [head(0, 9, 0), vec![17, 0, 0, 0, 3, 1, 9, 5, 7]].concat(),
        // What a small client takes.
        [
            head(0, 9, 0),
            vec![
                17, 0, 0, 50, 5, 10, 2, 0, 0, 0, 0, 7, 0, 12, 5, 11, 0, 18, 1, 1, b'x', 5, 12, 0, 2, 7, 0,
                90, 13, 0, 1, 1, 1, 0, 90, 7,
            ],
        ]
        .concat(),
    ];
    // Messages to rooms: to who reads, who reads a part, who reads nothing, before READY, too long.
    let to_room = |room: &[u8]| [&[240][..], room, &[1, 5], b"lobby", &[2], b"hi"].concat();
    for opening in [1, 2, 3] {
        seeds.push(
            [
                head(1, 9, opening),
                to_room(&[2]),
                to_room(&[1, 0, 9]),
                to_room(&[0]),
                to_room(&[2]),
                vec![7, 9, 7],
                to_room(&[2]),
            ]
            .concat(),
        );
    }
    let long = [240, 0, 0, 7, 0x0f, 0];
    seeds.push(
        [
            head(1, 9, 3),
            long.repeat(4),
            vec![240, 2, 0, 7, 0xff, 0xff, 7, 9],
        ]
        .concat(),
    );
    seeds.push(
        [
            head(0, 9, 0),
            vec![17, 0, 0, 50, 5, 10, 2, 0, 0, 0, 0, 7, 0, 12, 5, 11, 0, 7],
            vec![240, 2, 0, 7, 0, 90, 7],
        ]
        .concat(),
    );
    for end in 0..4 {
        for opening in 0..4 {
            seeds.push([head(0, 9, opening), vec![16, end, 9, 6, 0, 3, 7, 9]].concat());
        }
    }
    for kind in 0..14 {
        for opening in [2, 3] {
            seeds.push([head(0, 9, opening), vec![0, kind, 1, 1, 1, 1, 1, 1, 1, 1, 5, 7]].concat());
        }
    }
    // The client's half.
    let greet = vec![3, 0, 1, 0, 90, 5, 0, 0, 0, 9];
    for suite in 0..2 {
        seeds.push(
            [
                vec![
                    3, suite, 1, 0, 90, 5, 0, 0, 0, 9, 2, 7, 8, 1, 1, 0, 90, 7, 0, 9, 11, 1,
                ],
                vec![2, 2, 1, 0, 0, 2, b'o', b'k', 7, 7],
            ]
            .concat(),
        );
    }
    for kind in 0..14 {
        seeds.push([greet.clone(), vec![2, 7, 2, kind, 1, 1, 1, 1, 1, 1, 1, 1, 7]].concat());
        seeds.push([greet.clone(), vec![2, kind, 1, 1, 1, 1, 1, 1, 1, 1, 7]].concat());
    }
    seeds.push(
        [
            vec![3, 0],
            vec![8, 1, 1, 9, 9, 7, 0, 9, 8, 1, 1, 9, 9, 7, 0, 9],
            greet[2..].to_vec(),
            vec![7, 7],
        ]
        .concat(),
    );
    seeds.push(vec![3, 0, 1, 1, 200, 0, 0, 0, 0, 0, 0]);
    seeds.push(vec![3, 0, 1, 0, 0, 0, 0, 1, 0, 9, 0, 1, 0, 0]);
    // Requests: too many, too long, expired before and after they went out, not begun before the gateway goes.
    let request = |within: u8| vec![8, 1, 0, 0, within, 7, 0, 9];
    let accepted = vec![1, 0, 90, 5, 0, 0, 0, 9];
    for goaway in [vec![2, 10, 1, 9, 0], vec![6, 0, 0, 9, 0], vec![2, 2, 3, 0, 0, 0]] {
        seeds.push(
            [
                vec![3, 0],
                request(3),
                request(1),
                accepted.clone(),
                vec![2, 7],
                request(1),
                request(9),
                goaway.clone(),
                vec![7, 7, 7],
            ]
            .concat(),
        );
        seeds.push(
            [
                vec![3, 0],
                request(3),
                accepted.clone(),
                vec![2, 7],
                request(1).repeat(4),
                goaway,
                vec![7, 7, 7],
            ]
            .concat(),
        );
    }
    seeds.push(
        [
            vec![3, 0],
            vec![8, 1, 0, 0, 9, 7, 0xff, 0xff],
            [8, 1, 0, 0, 9, 7, 0xf0, 0].repeat(90),
        ]
        .concat(),
    );
    seeds.push(vec![3, 0, 7]);
    for answer in [
        &[2, 0, 6, 0, 5, 0, 0, 1, 0][..],
        &[3, 0, 3, 1, 2, 3],
        &[4, 0, 1, 1],
        &[9, 0, 0],
        &[1, 0xff, 0],
    ] {
        let len = u8::try_from(answer.len()).unwrap_or(0);
        seeds.push([&[3, 0, 0, len][..], answer].concat());
    }
    seeds.push([greet.clone(), vec![10, 3, b't', b'o', b'k', 7, 7, 7, 11, 0]].concat());
    seeds.push(
        [
            greet.clone(),
            vec![2, 7, 10, 1, b't', 2, 6, 0, 7, 2, 5, 9, 5, 2, 1, 1, 7, 7],
        ]
        .concat(),
    );
    seeds.push(
        [
            greet,
            vec![
                2, 7, 2, 9, 9, 0, 0, 10, 1, b't', 2, 10, 1, 5, 1, 8, 1, 0, 0, 9, 1, 0, 9, 6, 0, 0, 0x20, 0,
                2, 11, 3, 1, 9,
            ],
        ]
        .concat(),
    );
    for method in 1..5 {
        seeds.push(
            [
                &[3, 0, 1, 0, 90, 5, 0, 0, 0, 9, 2, 7, 2, 3, method, 0, 0][..],
                &[2, 8, 1, 7],
            ]
            .concat(),
        );
    }
    seeds
}
