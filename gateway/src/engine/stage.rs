//! One reactor on a test's own thread, turn by turn, over real sockets, with a cluster that says yes to everything.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use bytes::Bytes;
use mio::Events;
use whimbrel_host::ManualClock;
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::cluster::{AuthenticateResponse, OpenSessionResponse};
use whimbrel_protocol::frame::Frame;
use whimbrel_protocol::keys::StaticKey;

use super::reading::WORK_PER_TURN;
use super::rooms::{RoomWork, SLICE_MEMBERS};
use super::*;
use crate::client::{Client, Greeted, Greeting, login};

/// Its answers come in the turn after the question.
struct Yes;

impl Upstream for Yes {
    fn flush(&self) {}

    fn authenticate(&self, question: Authenticate, asked: Asked) {
        let judged = Ok(AuthenticateResponse {
            user_id: 7,
            ..AuthenticateResponse::default()
        });
        asked.reply(if question.again {
            Reply::Reauthenticated(judged)
        } else {
            Reply::Authenticated(judged)
        });
    }
    fn open(&self, record: SessionRecord, _uid: &str, asked: Asked) {
        let opened = OpenSessionResponse {
            user_id: 7,
            ..OpenSessionResponse::default()
        };
        asked.reply(Reply::Opened(Ok((opened, Box::new(record)))));
    }
    fn request(
        &self,
        _from: &Identity,
        _session: SessionHandle,
        request: crate::session::UpRequest,
        _deadline_ms: u32,
        asked: Asked,
    ) {
        let answer = crate::session::Answer::Passed(request.payload);
        asked.reply(Reply::Answered(request.id, answer));
    }
    fn ended(&self, _record: SessionRecord) {}
    fn announce(&self, sessions: Vec<(Place, SessionRecord)>, asked: Asked) {
        let places = sessions.into_iter().map(|(place, _)| place).collect();
        asked.reply(Reply::Announced { places, done: true });
    }
    fn room_counts(
        &self,
        _reactor: u16,
        _counts: Vec<(Arc<crate::rooms::RoomName>, u32)>,
    ) -> Result<(), Vec<(Arc<crate::rooms::RoomName>, u32)>> {
        Ok(())
    }
}

/// Panics when it is asked about a token.
struct Trap;

impl Upstream for Trap {
    fn flush(&self) {}

    fn authenticate(&self, _question: Authenticate, _asked: Asked) {
        panic!("a planted panic on a reactor's thread");
    }
    fn open(&self, _record: SessionRecord, _uid: &str, _asked: Asked) {}
    fn request(
        &self,
        _from: &Identity,
        _session: SessionHandle,
        _request: crate::session::UpRequest,
        _deadline_ms: u32,
        _asked: Asked,
    ) {
    }
    fn ended(&self, _record: SessionRecord) {}
    fn announce(&self, _sessions: Vec<(Place, SessionRecord)>, _asked: Asked) {}
    fn room_counts(
        &self,
        _reactor: u16,
        _counts: Vec<(Arc<crate::rooms::RoomName>, u32)>,
    ) -> Result<(), Vec<(Arc<crate::rooms::RoomName>, u32)>> {
        Ok(())
    }
}

fn limits() -> EngineLimits {
    EngineLimits {
        session: SessionLimits::default(),
        handshakes: HandshakeLimits {
            unfinished_per_address: 1_000,
            failed_per_address: 1_000,
            unfinished: 1_000,
        },
        connections_max: 1_000,
        held_bytes_max: 8 << 20,
        owed_bytes_max: 8 << 20,
    }
}

fn parts(keys: &Arc<KeyRing>) -> EngineParts {
    EngineParts {
        node: NodeId::new("gateway-1").unwrap(),
        incarnation: Incarnation(1),
        limits: limits(),
        clock: Arc::new(ManualClock::new(1_800_000_000_000)),
        keys: Arc::clone(keys),
    }
}

fn keys() -> Arc<KeyRing> {
    Arc::new(KeyRing {
        statics: vec![StaticKey::generate(&mut SystemEntropy)],
        descriptor: Bytes::from_static(b"descriptor"),
    })
}

struct Stage {
    reactor: Reactor,
    clock: Arc<ManualClock>,
    events: Events,
    address: SocketAddr,
    keys: Arc<KeyRing>,
}

/// A client of the stage: a socket that does not block for long, and what speaks over it.
struct Guest {
    stream: TcpStream,
    client: Client,
}

impl Stage {
    fn new() -> Self {
        let keys = keys();
        let Listeners {
            mut listeners,
            address,
        } = Engine::listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let EngineParts {
            node,
            incarnation,
            limits,
            ..
        } = parts(&keys);
        let clock = Arc::new(ManualClock::new(1_800_000_000_000));
        let listener = listeners.pop().unwrap();
        let poll = listener.poller().unwrap();
        let inbox = Inbox::new(&poll, reactor::WAKER, limits.connections_max).unwrap();
        let ports: Arc<[Arc<Port>]> = Arc::new([Arc::clone(&inbox.port)]);
        let shared = Arc::new(Shared {
            node,
            incarnation,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            addresses: Addresses::new(limits.handshakes),
            limits,
            connections: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            accept_errors: AtomicUsize::new(0),
            holdings: Box::new([Holdings::default()]),
        });
        let upstream: Arc<dyn Upstream> = Arc::new(Yes);
        let reactor = Reactor::new(
            0,
            shared,
            upstream,
            (poll, inbox),
            ports,
            listener,
            Arc::clone(&keys),
        )
        .unwrap();
        Self {
            reactor,
            clock,
            events: Events::with_capacity(1_024),
            address,
            keys,
        }
    }

    /// One turn, a millisecond after the last; how much work its inputs were.
    fn turn(&mut self) -> u32 {
        self.clock.advance(Duration::from_millis(1));
        self.turn_at_once()
    }

    /// The same while time stands still.
    fn turn_at_once(&mut self) -> u32 {
        let patience = Some(Duration::from_millis(1));
        self.reactor.wait_and_turn(&mut self.events, patience).unwrap();
        self.reactor.tools.work
    }

    /// Turns until the guest has the next frame; how many it took.
    fn turns_until_frame(&mut self, guest: &mut Guest) -> (Frame, u32) {
        for turns in 1..10_000 {
            self.turn();
            if let Some(frame) = guest.next() {
                return (frame, turns);
            }
        }
        panic!("no frame came");
    }

    fn log_in(&mut self, uid: &str) -> Guest {
        let mut greeting = Greeting::new(&self.keys.statics[0].public(), &login(uid, "good", 1));
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&greeting.hello).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 4_096]);
        let client = loop {
            self.turn();
            if let Ok(read) = stream.read(&mut buffer) {
                assert!(read > 0, "the gateway hung up");
                answer.extend_from_slice(&buffer[..read]);
            }
            match greeting.answered(&mut answer) {
                Ok(Greeted::Answered(client, _)) => break *client,
                Ok(Greeted::Refused(kind)) => panic!("the hello was answered with type {kind}"),
                Err(again) => greeting = again,
            }
        };
        let mut guest = Guest { stream, client };
        let confirm = guest.client.seal(&[Frame::Confirm]);
        guest.stream.write_all(&confirm).unwrap();
        assert_eq!(self.turns_until_frame(&mut guest).0, Frame::Ready);
        guest
    }
}

impl Guest {
    fn next(&mut self) -> Option<Frame> {
        let mut buffer = [0; 16 * 1024];
        if let Ok(read) = self.stream.read(&mut buffer) {
            self.client.take_in(&buffer[..read]);
        }
        self.client.next()
    }

    /// Many records of the smallest frames, if the kernel takes them; how many frames.
    fn flood(&mut self) -> usize {
        let padding = Frame::Padding { len: 0 };
        let mut frames = 0;
        while frames < 64 * 4_000 {
            let record = self.client.seal(&vec![padding.clone(); 4_000]);
            match self.stream.write(&record) {
                Ok(written) if written == record.len() => frames += 4_000,
                _ => return frames,
            }
        }
        frames
    }
}

#[test]
fn a_turn_is_bounded_by_the_work_in_what_is_read_and_who_chats_is_read_before_who_floods() {
    let mut stage = Stage::new();
    let mut flooders: Vec<Guest> = (0..8)
        .map(|index| stage.log_in(&format!("flooder-{index}")))
        .collect();
    let mut bob = stage.log_in("bob");
    let sent: usize = flooders.iter_mut().map(Guest::flood).sum();
    assert!(sent > 10 * WORK_PER_TURN as usize, "{sent} frames are no flood");
    // What one connection may do in the turn in which it turns out to be greedy.
    let one_turn = 12 * 1024;
    assert!(stage.turn() <= WORK_PER_TURN + one_turn);
    let ping = bob.client.seal(&[Frame::Ping { token: 9 }]);
    bob.stream.write_all(&ping).unwrap();
    let (pong, turns) = stage.turns_until_frame(&mut bob);
    assert_eq!(pong, Frame::Pong { token: 9 });
    assert!(turns <= 4, "he waited for {turns} turns");
    let mut most = 0;
    for _ in 0..50 {
        most = most.max(stage.turn());
    }
    assert!(
        most <= WORK_PER_TURN / 2 + one_turn,
        "those who flood were read again all at once: {most} frames in a turn"
    );
}

#[test]
fn when_their_allowance_is_used_up_strangers_wait_for_the_next_round_and_sessions_do_not() {
    let mut stage = Stage::new();
    let mut bob = stage.log_in("bob");
    let mut strangers = Vec::new();
    while stage.reactor.rounds.is_open(stage.reactor.tools.now.monotonic_ms) {
        assert!(strangers.len() < 100, "the allowance has no end");
        strangers.push(TcpStream::connect(stage.address).unwrap());
        stage.turn_at_once();
    }
    let inside = stage.reactor.slots.len();
    strangers.push(TcpStream::connect(stage.address).unwrap());
    let ping = bob.client.seal(&[Frame::Ping { token: 9 }]);
    bob.stream.write_all(&ping).unwrap();
    let pong = (0..10).find_map(|_| {
        stage.turn_at_once();
        bob.next()
    });
    assert_eq!(pong, Some(Frame::Pong { token: 9 }));
    assert_eq!(
        stage.reactor.slots.len(),
        inside,
        "a stranger was let in between two rounds"
    );
    let patience = stage.reactor.patience().unwrap();
    assert!(!patience.is_zero() && patience <= Duration::from_millis(rounds::ROUND_MS));
    stage.clock.advance(patience);
    stage.turn_at_once();
    assert_eq!(stage.reactor.slots.len(), inside + 1);
}

#[test]
fn a_token_that_comes_when_too_much_is_unanswered_ends_no_session_and_is_asked_for_again() {
    let mut stage = Stage::new();
    let mut bob = stage.log_in("bob");
    let token = Frame::Reauth {
        within_ms: 0,
        payload: Bytes::from_static(b"good"),
    };
    stage.reactor.questions += serve::REQUESTS_MAX;
    let record = bob.client.seal(&[token.clone(), Frame::Ping { token: 1 }]);
    bob.stream.write_all(&record).unwrap();
    assert_eq!(stage.turns_until_frame(&mut bob).0, Frame::Pong { token: 1 });
    // The rest is for logins.
    stage.log_in("carol");
    stage.clock.advance(Duration::from_secs(30));
    let (asked_again, _) = stage.turns_until_frame(&mut bob);
    assert!(matches!(asked_again, Frame::Reauth { .. }), "{asked_again:?}");
    // Room at last.
    stage.reactor.questions -= serve::REQUESTS_MAX;
    let record = bob.client.seal(&[token]);
    bob.stream.write_all(&record).unwrap();
    stage.turn();
    stage.clock.advance(Duration::from_secs(31));
    let record = bob.client.seal(&[Frame::Ping { token: 2 }]);
    bob.stream.write_all(&record).unwrap();
    assert_eq!(
        stage.turns_until_frame(&mut bob).0,
        Frame::Pong { token: 2 },
        "it was judged: the session has not run out"
    );
}

/// Time stands still within a turn, so that a slice of a broadcast has all the members that it may have.
#[test]
fn a_message_to_one_overtakes_a_broadcast_under_way() {
    /// All of them are sessions of one user, who may have 32.
    const GUESTS: usize = 30;
    /// Some slices' worth.
    const BROADCASTS: usize = 10;
    const TO_ALL: u32 = 3;
    const TO_ONE: u32 = 1;
    let mut stage = Stage::new();
    let mut guests: Vec<Guest> = (0..GUESTS)
        .map(|index| stage.log_in(&format!("guest-{index}")))
        .collect();
    let targets: Vec<PushTarget> = (0..)
        .take(GUESTS)
        .map(|slot| PushTarget {
            reactor: 0,
            slot,
            generation: stage.reactor.slots.place_of(slot).unwrap().generation,
            user_id: 7,
        })
        .collect();
    let port = Arc::clone(&stage.reactor.inbox.port);
    let name = Arc::new(crate::rooms::RoomName {
        app: "demo".into(),
        room: "hall".into(),
    });
    let frame = Arc::new(RoomFrame::new(TO_ALL, Bytes::from_static(b"to all")).unwrap());
    for session in &targets {
        let order = RoomOrder {
            name: Arc::clone(&name),
            session: *session,
            leave: false,
            asked_by: None,
            done: Box::new(|ordered| assert!(matches!(ordered, Ordered::In(_)), "{ordered:?}")),
        };
        assert!(port.room(RoomWork::Order(order)).is_ok());
    }
    for _ in 0..BROADCASTS {
        let part = BroadcastPart::new(&name, &frame, |_, _| {});
        assert!(port.room(RoomWork::Broadcast(part)).is_ok());
    }
    stage.turn();
    let to_one = Brought::Push {
        method: TO_ONE,
        tracked: true,
        payload: Bytes::from_static(b"to one"),
    };
    PushPart::split(vec![vec![targets[0]]], &to_one, |_| {})
        .into_iter()
        .for_each(|part| port.push(part));
    let mut came = Vec::new();
    while came.len() <= BROADCASTS {
        if let (Frame::Push(push), _) = stage.turns_until_frame(&mut guests[0]) {
            came.push(push.method);
        }
    }
    let ahead = came.iter().position(|method| *method == TO_ONE).unwrap();
    let of_one_slice = 1..=SLICE_MEMBERS.div_ceil(GUESTS);
    assert!(of_one_slice.contains(&ahead), "{came:?}");
}

const CHILD: &str = "WHIMBREL_TEST_REACTOR_PANICS";

/// Does nothing unless it is the child process of the test below: in that it must not return.
#[test]
fn a_gateway_with_a_trap() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let keys = keys();
    let listeners = Engine::listen("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let upstream: Arc<dyn Upstream> = Arc::new(Trap);
    let engine = Engine::start(listeners, parts(&keys), &upstream).unwrap();
    let greeting = Greeting::new(&keys.statics[0].public(), &login("alice", "good", 1));
    let mut stream = TcpStream::connect(engine.address()).unwrap();
    stream.write_all(&greeting.hello).unwrap();
    std::thread::sleep(Duration::from_secs(20));
}

#[test]
fn a_panic_in_a_reactor_ends_the_process() {
    use std::os::unix::process::ExitStatusExt as _;
    const SIGABRT: i32 = 6;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine::stage::a_gateway_with_a_trap", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(SIGABRT), "{said}");
    assert!(said.contains("a planted panic"), "{said}");
}
