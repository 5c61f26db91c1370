//! A session and a client with a pipe between them, under a virtual clock.

mod answers;
mod ending;
mod opening;
mod pushes;
mod streams;
mod tokens;

use std::num::NonZeroU32;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::client::{Login, LoginAnswer, Response as ClientResponse};
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::cluster::{AuthenticateResponse, OpenSessionResponse};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{Frame, Push, RequestId, Retry};
use whimbrel_protocol::keys::StaticKey;

use super::*;
use crate::client::{Client, Greeted, Greeting, login};

const ALICE: u64 = 7;

struct Pair {
    session: Session,
    now_ms: u64,
    limits: SessionLimits,
    keys: KeyRing,
    held: Budget,
    owed: Budget,
    spares: SpareQueues,
    plaintext: Vec<u8>,
    work: u32,
    events: Vec<Event>,
    /// The user id that the login is judged with: 0 for a user who was never here.
    judged_as: u64,
}

impl Pair {
    fn new() -> Self {
        Self::limited(SessionLimits {
            buckets: NonZeroU32::MIN,
            ..SessionLimits::default()
        })
    }

    fn limited(limits: SessionLimits) -> Self {
        let keys = KeyRing {
            statics: vec![StaticKey::generate(&mut SystemEntropy)],
            descriptor: Bytes::from_static(b"descriptor"),
        };
        let now = Now {
            monotonic_ms: 0,
            unix_ms: 0,
        };
        Self {
            session: Session::new(now, &limits),
            now_ms: 0,
            limits,
            keys,
            held: Budget::new(1 << 20),
            owed: Budget::new(1 << 20),
            spares: SpareQueues::default(),
            plaintext: Vec::new(),
            work: 0,
            events: Vec::new(),
            judged_as: ALICE,
        }
    }

    fn with<R>(&mut self, input: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> R {
        let mut cx = Context {
            now: Now {
                monotonic_ms: self.now_ms,
                unix_ms: 1_000_000 + self.now_ms,
            },
            limits: &self.limits,
            keys: &self.keys,
            held: &self.held,
            owed: &self.owed,
            spares: &mut self.spares,
            plaintext: &mut self.plaintext,
            entropy: &mut SystemEntropy,
            work: &mut self.work,
            events: &mut self.events,
        };
        input(&mut self.session, &mut cx)
    }

    /// The client's bytes arrive.
    fn arrive(&mut self, bytes: &[u8]) {
        self.with(|session, cx| {
            let mut all = session.take_partial();
            all.extend_from_slice(bytes);
            session.handle_bytes(cx, &mut all);
        });
    }

    /// The socket takes everything there is.
    fn transmit(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.session.has_output() {
            self.with(|session, cx| {
                let mut burst = Vec::new();
                session.poll_transmit(cx, &mut burst);
                session.handle_written(cx, &burst, burst.len());
                all.extend_from_slice(&burst);
            });
        }
        all
    }

    /// Time passes, and timers fire when they are due.
    fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        if self
            .session
            .deadline_ms(&self.limits)
            .is_some_and(|at_ms| at_ms <= self.now_ms)
        {
            self.with(Session::handle_timer);
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn fault(&mut self) -> Option<Fault> {
        self.events().into_iter().find_map(|event| match event {
            Event::Faulted(fault) => Some(fault),
            _ => None,
        })
    }

    /// Up to the answer of a good login.
    fn greet(&mut self, login: &Login) -> (Client, LoginAnswer) {
        let greeting = Greeting::new(&self.keys.statics[0].public(), login);
        self.arrive(&greeting.hello);
        assert!(matches!(self.events()[..], [Event::Claimed { .. }]));
        let judged = AuthenticateResponse {
            user_id: self.judged_as,
            ..AuthenticateResponse::default()
        };
        self.with(|session, cx| session.handle_authenticated(cx, Ok(judged)));
        let mut answer = self.transmit();
        match greeting.answered(&mut answer) {
            Ok(Greeted::Answered(client, answer)) => (*client, answer),
            Ok(Greeted::Refused(kind)) => panic!("the hello was answered with type {kind}"),
            Err(_) => panic!("the answer is not whole"),
        }
    }

    fn opening(&mut self) -> Client {
        let (mut client, _) = self.greet(&login("alice", "good", 1));
        let confirm = client.seal(&[Frame::Confirm]);
        self.arrive(&confirm);
        assert_eq!(self.events(), [Event::Confirmed]);
        client
    }

    fn opened(&mut self) {
        let opened = OpenSessionResponse {
            user_id: ALICE,
            ..OpenSessionResponse::default()
        };
        self.with(|session, cx| session.handle_opened(cx, Ok(opened)));
    }

    fn ready(&mut self) -> Client {
        let mut client = self.opening();
        self.opened();
        client.take_in(&self.transmit());
        assert_eq!(client.next(), Some(Frame::Ready));
        client
    }

    fn push(&mut self, user_id: u64, payload: &[u8]) -> PushOutcome {
        let payload = Bytes::copy_from_slice(payload);
        let push = Frame::Push(Push {
            method: 1,
            tracked: true,
            compressed: false,
            payload,
        });
        self.with(|session, cx| session.handle_push(cx, user_id, push))
    }

    /// Everything is given back.
    fn assert_nothing_is_kept(mut self) {
        self.with(|session, cx| session.release(cx));
        assert_eq!((self.held.used(), self.owed.used()), (0, 0));
    }
}

fn requests(events: Vec<Event>) -> Vec<UpRequest> {
    let request = |event| match event {
        Event::Request(request) => Some(request),
        _ => None,
    };
    events.into_iter().filter_map(request).collect()
}

#[test]
fn an_idle_session_fits_its_budget() {
    // 768 bytes of a process per idle connection, of which the socket's slot, the texts of the identity, the user's
    // entry and the place on the wheel take about 250.
    assert!(size_of::<live::Live>() <= 384, "{}", size_of::<live::Live>());
    assert!(size_of::<Session>() <= 24, "{}", size_of::<Session>());
}
