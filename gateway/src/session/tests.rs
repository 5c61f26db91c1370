//! A session and a client with a pipe between them, under a virtual clock.

use std::num::NonZeroU32;

use bytes::Bytes;
use proptest::prelude::*;
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

#[test]
fn a_hello_and_a_confirmation_may_come_byte_by_byte() {
    let mut pair = Pair::new();
    let greeting = Greeting::new(&pair.keys.statics[0].public(), &login("alice", "good", 1));
    for byte in &greeting.hello {
        assert!(pair.events().is_empty());
        pair.arrive(&[*byte]);
    }
    assert_eq!(pair.events(), [Event::Claimed { bucket: 0 }]);
    assert_eq!(pair.held.used(), 0, "a hello that is read is not held");
    pair.with(|session, cx| session.handle_authenticated(cx, Ok(AuthenticateResponse::default())));
    let mut answer = pair.transmit();
    let Ok(Greeted::Answered(mut client, _)) = greeting.answered(&mut answer) else {
        panic!("it is answered")
    };
    for byte in client.seal(&[Frame::Confirm]) {
        assert!(pair.events().is_empty());
        pair.arrive(&[byte]);
    }
    assert_eq!(pair.events(), [Event::Confirmed]);
    pair.assert_nothing_is_kept();
}

#[test]
fn an_unconfirmed_session_ends_after_ten_seconds() {
    let mut pair = Pair::new();
    let (mut client, _) = pair.greet(&login("alice", "good", 1));
    pair.advance(9_999);
    assert_eq!(pair.fault(), None);
    pair.advance(1);
    assert_eq!(pair.fault(), Some(Fault::NotConfirmed));
    client.take_in(&pair.transmit());
    assert!(matches!(client.next(), Some(Frame::Close { .. })));
    assert!(pair.session.is_over());
    pair.assert_nothing_is_kept();
}

#[test]
fn requests_behind_confirm_wait_for_ready_and_keep_their_order() {
    let mut pair = Pair::new();
    let (mut client, _) = pair.greet(&login("alice", "good", 1));
    let frames = [
        Frame::Confirm,
        client.request(1, b"sync"),
        client.request(2, b"send"),
    ];
    let record = client.seal(&frames);
    pair.arrive(&record);
    assert_eq!(
        pair.events(),
        [Event::Confirmed],
        "nothing goes up before the session is registered"
    );
    let more = client.request(3, b"more");
    let record = client.seal(&[more]);
    pair.arrive(&record);
    assert!(pair.events().is_empty());
    pair.opened();
    let passed: Vec<_> = requests(pair.events())
        .into_iter()
        .map(|request| request.payload)
        .collect();
    assert_eq!(passed, [&b"sync"[..], b"send", b"more"]);
    client.take_in(&pair.transmit());
    assert_eq!(client.next(), Some(Frame::Ready));
    pair.assert_nothing_is_kept();
}

#[test]
fn an_opening_that_is_refused_closes_with_what_to_do_about_it() {
    for (code, reason, retry) in [
        (Code::SupersededLogin, CloseReason::Superseded, Retry::Never),
        (Code::TokenExpired, CloseReason::TokenExpired, Retry::NewToken),
        (
            Code::Unavailable,
            CloseReason::NotRegistered,
            Retry::After { ms: 9_000 },
        ),
    ] {
        let mut pair = Pair::new();
        let mut client = pair.opening();
        let held = client.request(1, b"held");
        let record = client.seal(&[held]);
        pair.arrive(&record);
        let refused = Unanswered {
            code: code.number(),
            message: String::new(),
            retry_after_ms: 9_000,
        };
        pair.with(|session, cx| session.handle_opened(cx, Err(refused)));
        client.take_in(&pair.transmit());
        assert_eq!(
            client.next(),
            Some(Frame::Close {
                reason: reason.number(),
                retry
            }),
            "{code:?}"
        );
        pair.assert_nothing_is_kept();
    }
}

#[test]
fn a_push_between_registration_and_ready_becomes_a_hint_behind_ready() {
    let mut pair = Pair::new();
    let mut client = pair.opening();
    assert_eq!(pair.push(ALICE, b"too early"), PushOutcome::Accepted);
    assert_eq!(pair.push(ALICE + 1, b"not hers"), PushOutcome::Gone);
    pair.opened();
    client.take_in(&pair.transmit());
    assert_eq!(client.next(), Some(Frame::Ready));
    assert_eq!(client.next(), Some(Frame::SyncHint { spread_ms: 0 }));
    assert_eq!(client.next(), None);
}

#[test]
fn a_push_is_delivered_to_its_user_only() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    assert_eq!(pair.push(ALICE + 1, b"of another user"), PushOutcome::Gone);
    assert_eq!(pair.push(ALICE, b"hers"), PushOutcome::Accepted);
    client.take_in(&pair.transmit());
    assert!(matches!(client.next(), Some(Frame::Push(push)) if push.payload == b"hers"[..]));
    assert_eq!(client.next(), None);
}

#[test]
fn the_clock_over_acknowledgements_stands_while_the_socket_takes_nothing() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    pair.push(ALICE, b"waiting in our queue");
    pair.advance(50_000);
    assert_eq!(pair.fault(), None, "we owe it the bytes");
    client.take_in(&pair.transmit());
    pair.advance(9_999);
    assert_eq!(pair.fault(), None);
    pair.advance(1);
    assert_eq!(pair.fault(), Some(Fault::AckOverdue));
}

#[test]
fn an_acknowledgement_in_time_stops_the_clock() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    (0..3).for_each(|_| assert_eq!(pair.push(ALICE, b"x"), PushOutcome::Accepted));
    client.take_in(&pair.transmit());
    pair.advance(9_000);
    let ack = client.seal(&[Frame::PushAck { through: 3 }]);
    pair.arrive(&ack);
    pair.advance(100_000);
    assert_eq!(pair.fault(), None);
}

#[test]
fn a_client_that_takes_nothing_is_closed_and_bytes_it_takes_give_it_time() {
    let mut pair = Pair::new();
    let _client = pair.ready();
    pair.push(ALICE, &[0; 30_000]);
    pair.push(ALICE, &[0; 30_000]);
    for _ in 0..5 {
        pair.advance(59_000);
        assert_eq!(pair.fault(), None);
        pair.with(|session, cx| {
            let mut burst = Vec::new();
            session.poll_transmit(cx, &mut burst);
            session.handle_written(cx, &burst, 100);
        });
    }
    pair.advance(60_000);
    assert!(matches!(pair.fault(), Some(Fault::SlowConsumer { .. })));
    pair.assert_nothing_is_kept();
}

#[test]
fn only_records_that_open_count_as_life() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    pair.advance(599_000);
    let ping = client.seal(&[Frame::Ping { token: 9 }]);
    pair.arrive(&ping);
    client.take_in(&pair.transmit());
    assert_eq!(client.next(), Some(Frame::Pong { token: 9 }));
    pair.advance(599_000);
    assert_eq!(pair.fault(), None);
    let ping = client.seal(&[Frame::Ping { token: 10 }]);
    pair.arrive(&ping[..ping.len() - 1]);
    pair.advance(1_000);
    assert_eq!(
        pair.fault(),
        Some(Fault::Silent),
        "a record that has not ended shows nothing"
    );
    assert!(pair.session.is_over());
}

#[test]
fn what_has_begun_must_end_within_twenty_seconds() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let ping = client.seal(&[Frame::Ping { token: 1 }]);
    pair.arrive(&ping[..5]);
    pair.advance(19_999);
    assert_eq!(pair.fault(), None);
    pair.advance(1);
    assert_eq!(pair.fault(), Some(Fault::Unfinished));
    pair.assert_nothing_is_kept();
}

#[test]
fn an_answer_makes_room_for_the_next_request() {
    let mut pair = Pair::limited(SessionLimits {
        requests_max: 1,
        ..SessionLimits::default()
    });
    let mut client = pair.ready();
    let ask = |pair: &mut Pair, client: &mut Client| {
        let request = client.request(1, b"");
        let record = client.seal(&[request]);
        pair.arrive(&record);
        requests(pair.events()).len()
    };
    assert_eq!(ask(&mut pair, &mut client), 1);
    assert_eq!(ask(&mut pair, &mut client), 0, "one is unanswered");
    pair.with(|session, cx| session.handle_response(cx, RequestId(1), Answer::Passed(Bytes::new())));
    assert_eq!(ask(&mut pair, &mut client), 1);
    client.take_in(&pair.transmit());
    let Some(Frame::Response(refused)) = client.next() else {
        panic!("the second is refused")
    };
    assert_eq!(
        ClientResponse::decode(refused.payload).unwrap().code,
        Code::TooManyRequests.number()
    );
}

#[test]
fn an_error_however_long_its_text_is_told_in_a_frame() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let request = client.request(1, b"");
    let record = client.seal(&[request]);
    pair.arrive(&record);
    let message = "é".repeat(100_000);
    let refused = Answer::Refused(Unanswered {
        code: Code::Internal.number(),
        message,
        retry_after_ms: 0,
    });
    pair.with(|session, cx| session.handle_response(cx, RequestId(1), refused));
    client.take_in(&pair.transmit());
    let Some(Frame::Response(told)) = client.next() else {
        panic!("it is answered")
    };
    assert_eq!(
        ClientResponse::decode(told.payload).unwrap().message,
        "é".repeat(150)
    );
}

#[test]
fn a_client_with_little_room_gets_no_payload_over_it() {
    let mut pair = Pair::new();
    let small = Login {
        frame_payload_max: 1_000, // too little for pages: counts as 60 KiB
        ..login("alice", "good", 1)
    };
    let (mut client, _) = pair.greet(&small);
    let asked = client.request(1, b"");
    let record = client.seal(&[Frame::Confirm, asked]);
    pair.arrive(&record);
    pair.opened();
    let large = Answer::Passed(Bytes::from(vec![0; 60 * 1024 + 1]));
    pair.with(|session, cx| session.handle_response(cx, RequestId(1), large));
    assert_eq!(pair.push(ALICE, &[0; 60 * 1024 + 1]), PushOutcome::Accepted);
    client.take_in(&pair.transmit());
    assert_eq!(client.next(), Some(Frame::Ready));
    let Some(Frame::Response(refused)) = client.next() else {
        panic!("it is answered")
    };
    assert_eq!(
        ClientResponse::decode(refused.payload).unwrap().code,
        Code::TooLarge.number()
    );
    assert_eq!(client.next(), Some(Frame::SyncHint { spread_ms: 0 }));
}

#[test]
fn the_word_that_something_was_missed_comes_to_its_user_alone() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let missed = || Frame::SyncHint { spread_ms: 500 };
    let outcome = pair.with(|session, cx| session.handle_push(cx, ALICE + 1, missed()));
    assert_eq!(outcome, PushOutcome::Gone);
    client.take_in(&pair.transmit());
    assert_eq!(client.next(), None);
    let outcome = pair.with(|session, cx| session.handle_push(cx, ALICE, missed()));
    assert_eq!(outcome, PushOutcome::Accepted);
    client.take_in(&pair.transmit());
    assert_eq!(client.next(), Some(missed()));
}

#[test]
fn a_gateway_without_memory_for_unfinished_records_says_so() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    pair.held = Budget::new(10);
    let record = client.seal(&[Frame::Padding { len: 500 }]);
    pair.arrive(&record[..100]);
    assert_eq!(pair.fault(), Some(Fault::OutOfMemoryBudget));
    client.take_in(&pair.transmit());
    assert!(
        matches!(client.next(), Some(Frame::Close { reason, .. }) if reason == CloseReason::Overloaded.number())
    );
    pair.assert_nothing_is_kept();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn strangers_bytes_never_panic_and_hold_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
        let mut pair = Pair::new();
        let mut bytes = bytes;
        if magic {
            bytes.splice(0..0, whimbrel_protocol::hello::MAGIC);
        }
        for chunk in bytes.chunks(7) {
            pair.arrive(chunk);
        }
        pair.transmit();
        pair.assert_nothing_is_kept();
    }

    #[test]
    fn plaintexts_that_are_no_frames_never_panic_and_hold_nothing(
        plaintexts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..400), 1..6),
        cut in 1_usize..50,
    ) {
        let mut pair = Pair::new();
        let mut client = pair.ready();
        for plaintext in plaintexts {
            for chunk in client.seal_raw(&plaintext).chunks(cut) {
                pair.arrive(chunk);
            }
            pair.advance(5_000);
        }
        pair.transmit();
        pair.assert_nothing_is_kept();
    }

    #[test]
    fn a_stream_means_the_same_however_it_is_cut(cuts in proptest::collection::vec(1_usize..900, 1..40)) {
        let mut pair = Pair::new();
        let mut client = pair.ready();
        let mut stream = Vec::new();
        for index in 0..10_u8 {
            let request = client.request(1, &vec![index; 200 * usize::from(index)]);
            stream.extend(client.seal(&[Frame::Ping { token: 1 }, request]));
        }
        let (mut rest, mut cuts) = (&stream[..], cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            pair.arrive(chunk);
            rest = behind;
        }
        let passed = requests(pair.events());
        prop_assert_eq!(passed.len(), 10);
        for (index, request) in (0_u8..).zip(passed) {
            prop_assert_eq!(request.payload, vec![index; 200 * usize::from(index)]);
        }
        client.take_in(&pair.transmit());
        prop_assert_eq!(std::iter::from_fn(|| client.next()).count(), 10);
        pair.assert_nothing_is_kept();
    }
}

#[test]
fn a_session_that_ends_without_a_word_still_says_whose_it_was() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let goodbye = client.seal(&[Frame::Close {
        reason: CloseReason::Leaving.number(),
        retry: Retry::Never,
    }]);
    pair.arrive(&goodbye);
    assert_eq!(pair.fault(), Some(Fault::ClosedByClient));
    assert!(pair.session.is_over(), "nothing is left to write");
    assert_eq!(pair.session.identity().map(Identity::uid), Some("alice"));
    pair.assert_nothing_is_kept();
}

#[test]
fn a_client_whose_session_is_being_opened_is_not_read_while_it_takes_nothing() {
    let mut pair = Pair::limited(SessionLimits {
        buckets: NonZeroU32::MIN,
        outbound_collapse_bytes: 1_000,
        ..SessionLimits::default()
    });
    let mut client = pair.opening();
    let pings = client.seal(&vec![Frame::Ping { token: 1 }; 20]);
    pair.arrive(&pings);
    assert!(!pair.session.wants_bytes(&pair.limits));
    pair.transmit();
    assert!(pair.session.wants_bytes(&pair.limits));
}

#[test]
fn an_order_may_concern_a_user_whose_first_login_is_being_opened() {
    let mut pair = Pair::new();
    pair.judged_as = 0;
    pair.opening();
    assert!(pair.session.identity().unwrap().may_be(ALICE));
    pair.opened();
    assert!(pair.session.identity().unwrap().may_be(ALICE));
    assert!(!pair.session.identity().unwrap().may_be(ALICE + 1));
}

#[test]
fn when_room_is_short_who_has_read_everything_is_answered_and_who_has_not_comes_again() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let half = (1 << 20) / 2;
    pair.owed.take(half);
    let requests: Vec<_> = (0..2).map(|_| client.request(1, b"")).collect();
    let record = client.seal(&requests);
    pair.arrive(&record);
    let mut codes = |ids: [u32; 2]| {
        for id in ids {
            let answer = ClientResponse::default().encode_to_vec().into();
            pair.with(|session, cx| session.handle_response(cx, RequestId(id), Answer::Passed(answer)));
        }
        client.take_in(&pair.transmit());
        [client.next(), client.next()].map(|frame| match frame {
            Some(Frame::Response(response)) => ClientResponse::decode(response.payload).unwrap().code,
            other => panic!("an answer was expected, {other:?} came"),
        })
    };
    assert_eq!(codes([1, 3]), [0, Code::Overloaded.number()]);
    pair.owed.give(half);
}

#[test]
fn answers_to_a_client_that_asks_and_does_not_read_stay_within_what_may_wait_for_all() {
    let total = 64 * 1024;
    let ping: fn(&mut Client) -> Frame = |_| Frame::Ping { token: 1 };
    let request: fn(&mut Client) -> Frame = |client| client.request(1, b"");
    for flood in [ping, request] {
        let mut pair = Pair::new();
        pair.owed = Budget::new(total);
        let mut client = pair.ready();
        let frames: Vec<_> = (0..2_000).map(|_| flood(&mut client)).collect();
        let record = client.seal(&frames);
        pair.arrive(&record);
        match pair.fault() {
            Some(Fault::SlowConsumer { owed }) => assert!(owed <= total, "{owed} bytes"),
            other => panic!("it goes on asking: {other:?}"),
        }
        pair.assert_nothing_is_kept();
    }
}

#[test]
fn while_room_is_short_who_reads_is_answered_as_ever() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    pair.owed.take((1 << 20) / 2);
    for _ in 0..100 {
        let pings = client.seal(&vec![Frame::Ping { token: 1 }; 10]);
        pair.arrive(&pings);
        client.take_in(&pair.transmit());
        assert_eq!(std::iter::from_fn(|| client.next()).count(), 10);
    }
}

fn token(text: &str) -> Frame {
    Frame::Reauth {
        within_ms: 0,
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

/// The token that is to be judged, of which there must be at most one.
fn to_judge(events: Vec<Event>) -> Option<String> {
    let mut logins = events.into_iter().filter_map(|event| match event {
        Event::Reauthenticate(login) => Some(Login::decode(login.into_bytes()).unwrap().token),
        _ => None,
    });
    let first = logins.next();
    assert_eq!(logins.next(), None, "one is judged at a time");
    first
}

fn verdict(pair: &mut Pair, code: u32) {
    let judged = AuthenticateResponse {
        code,
        user_id: ALICE,
        ..AuthenticateResponse::default()
    };
    pair.with(|session, cx| session.handle_reauthenticated(cx, Ok(judged)));
}

#[test]
fn of_tokens_that_come_while_one_is_judged_the_newest_decides_once() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let record = client.seal(&[token("first"), token("second"), token("third")]);
    pair.arrive(&record);
    assert_eq!(to_judge(pair.events()).as_deref(), Some("first"));
    verdict(&mut pair, Code::TokenExpired.number());
    assert_eq!(to_judge(pair.events()).as_deref(), Some("third"));
    let record = client.seal(&[token("while the last chance is judged")]);
    pair.arrive(&record);
    verdict(&mut pair, 0);
    assert_eq!(to_judge(pair.events()), None);
    assert!(pair.session.is_ready());

    let record = client.seal(&[token("bad"), token("worse")]);
    pair.arrive(&record);
    verdict(&mut pair, Code::TokenInvalid.number());
    let record = client.seal(&[token("and so on")]);
    pair.arrive(&record);
    verdict(&mut pair, Code::TokenInvalid.number());
    assert!(
        matches!(pair.fault(), Some(Fault::Refused { .. })),
        "a row of bad tokens keeps no session alive"
    );
    pair.assert_nothing_is_kept();
}

#[test]
fn a_token_that_no_hello_could_carry_is_refused_unjudged() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let record = client.seal(&[token(&"x".repeat(limits::TOKEN_LEN_MAX + 1))]);
    pair.arrive(&record);
    assert!(matches!(pair.fault(), Some(Fault::Refused { .. })));
}

#[test]
fn what_waits_for_ready_is_bounded_by_not_reading() {
    let mut pair = Pair::new();
    let mut client = pair.opening();
    let mut arrived = 0;
    while pair.session.wants_bytes(&pair.limits) {
        let request = client.request(1, &[0; 8_000]);
        let record = client.seal(&[request]);
        pair.arrive(&record);
        arrived += 1;
        assert!(arrived < 20, "it is read without end");
    }
    assert!(pair.session.held() <= limits::HELD_FOR_READY_MAX + 8_000);
    pair.opened();
    assert_eq!(requests(pair.events()).len(), arrived, "and nothing is lost");
    assert!(pair.session.wants_bytes(&pair.limits));
    pair.assert_nothing_is_kept();
}

#[test]
fn no_debug_output_shows_a_token_or_a_key() {
    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9-secret";
    let secrets = [TOKEN.to_owned(), format!("{:?}", TOKEN.as_bytes())];
    let mut shown = Vec::new();
    let mut pair = Pair::new();
    let greeting = Greeting::new(&pair.keys.statics[0].public(), &login("alice", TOKEN, 1));
    pair.arrive(&greeting.hello);
    shown.push(format!("{:?}", pair.session));
    shown.push(format!("{:?}", pair.session.login()));
    shown.push(format!("{:?}", pair.keys));

    let mut pair = Pair::new();
    let mut client = pair.ready();
    let record = client.seal(&[token(TOKEN), token(TOKEN)]);
    pair.arrive(&record);
    shown.push(format!("{:?}", pair.session));
    shown.push(format!("{:?}", pair.events()));
    let mut unfinished = Vec::new();
    token(&TOKEN.repeat(2)).encode(&mut unfinished).unwrap();
    let record = client.seal_raw(&unfinished[..unfinished.len() - 3]);
    pair.arrive(&record);
    assert!(pair.session.held() > 0);
    shown.push(format!("{:?}", pair.session));
    for shown in &shown {
        for secret in &secrets {
            // As text, as bytes, and as the text within longer bytes.
            let within = secret.trim_matches(['[', ']']);
            assert!(!shown.contains(within), "{shown}");
        }
    }
}
