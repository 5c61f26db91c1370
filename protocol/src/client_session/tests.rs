//! The session against the crate's own gateway side, over a pipe, under a virtual clock.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::answer::{Reject, RejectReason};
use crate::client::{Login, LoginAnswer, Response};
use crate::frame::{self, Frame, FrameReader, Push, Retry};
use crate::handshake::Responder;
use crate::hello::{Hello, HelloStep};
use crate::keys::StaticKey;
use crate::record::{self, RecordStep};
use crate::session_keys::SessionKeys;
use crate::side::Side;

fn entropy(seed: u8) -> impl FnMut(&mut [u8]) {
    let mut next = seed;
    move |out: &mut [u8]| {
        for byte in out {
            next = next.wrapping_mul(73).wrapping_add(41);
            *byte = next;
        }
    }
}

fn key() -> StaticKey {
    StaticKey::from_secret(&[7; 32])
}

fn login() -> Login {
    Login {
        app_key: "demo".into(),
        uid: "alice".into(),
        token: "t".into(),
        ..Login::default()
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn sync() -> OutgoingRequest {
    OutgoingRequest {
        method: 1,
        affinity: None,
        within: ms(10_000),
        payload: Bytes::from_static(b"sync"),
    }
}

fn good_answer() -> LoginAnswer {
    LoginAnswer {
        server_time_ms: 5,
        heartbeat_ms: 60_000,
        requests_max: 2,
        ..LoginAnswer::default()
    }
}

fn events(session: &mut ClientSession) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

fn started() -> (ClientSession, Vec<u8>) {
    let mut session = ClientSession::start(
        Suite::ChaChaPoly,
        &key().public(),
        &login(),
        ms(0),
        &mut entropy(1),
    )
    .unwrap();
    let mut hello = Vec::new();
    assert!(session.poll_output(&mut hello));
    (session, hello)
}

/// The gateway's end, as far as a test needs one.
struct Peer {
    keys: SessionKeys,
    reader: FrameReader,
    incoming: Vec<u8>,
}

impl Peer {
    fn answer(hello: &[u8], answer: &LoginAnswer) -> (Self, Vec<u8>) {
        let HelloStep::Complete { hello, .. } = Hello::parse(hello).unwrap() else {
            panic!("a whole hello")
        };
        let (responder, opened) = Responder::read(&hello, &[key()], &mut entropy(9)).unwrap();
        assert_eq!(Login::decode(&*opened).unwrap(), login());
        let mut out = Vec::new();
        let keys = responder.answer(&answer.encode_to_vec(), &mut out).unwrap();
        (
            Self {
                keys,
                reader: FrameReader::new(),
                incoming: Vec::new(),
            },
            out,
        )
    }

    fn say(&mut self, frames: &[Frame<&[u8]>]) -> Vec<u8> {
        let mut plain = Vec::new();
        for frame in frames {
            frame.encode(&mut plain).unwrap();
        }
        let mut out = Vec::new();
        self.keys
            .sealer()
            .seal(&plain, record::SERVER_PLAINTEXT_MAX, &mut out)
            .unwrap();
        out
    }

    /// The frames the session has written since the last call.
    fn hear(&mut self, session: &mut ClientSession) -> Vec<Frame> {
        session.poll_output(&mut self.incoming);
        let mut frames = Vec::new();
        let mut opener = self.keys.receive.opener(self.keys.suite);
        while let RecordStep::Complete { len } = record::next_record(&self.incoming, Side::Client).unwrap() {
            let mut record: Vec<u8> = self.incoming.drain(..len).collect();
            let range = opener.open_in_place(&mut record).unwrap();
            let mut plaintext = &record[range];
            while let Some(frame) = self.reader.next(&mut plaintext).unwrap() {
                frames.push(frame.to_owned());
            }
        }
        frames
    }
}

fn connected() -> (ClientSession, Peer) {
    let (mut session, hello) = started();
    let (peer, answer) = Peer::answer(&hello, &good_answer());
    session.handle_bytes(&answer, ms(100));
    assert!(matches!(
        events(&mut session)[..],
        [Event::Connected {
            server_time_ms: 5,
            ..
        }]
    ));
    (session, peer)
}

fn ready() -> (ClientSession, Peer) {
    let (mut session, mut peer) = connected();
    let bytes = peer.say(&[Frame::Ready]);
    session.handle_bytes(&bytes, ms(200));
    assert_eq!(events(&mut session), [Event::Ready]);
    assert_eq!(peer.hear(&mut session), [Frame::Confirm]);
    (session, peer)
}

fn response(id: RequestId, payload: &[u8]) -> Frame<&[u8]> {
    Frame::Response(frame::Response {
        id,
        compressed: false,
        payload,
    })
}

fn push(payload: &[u8]) -> Frame<&[u8]> {
    Frame::Push(Push {
        method: 1,
        tracked: true,
        compressed: false,
        payload,
    })
}

fn answered(body: &'static [u8]) -> Vec<u8> {
    Response {
        body: body.into(),
        ..Response::default()
    }
    .encode_to_vec()
}

#[test]
fn a_request_made_before_the_login_is_in_goes_out_right_behind_confirm_and_others_wait_for_ready() {
    let (mut session, hello) = started();
    let first = session.request(sync(), ms(1)).unwrap();
    let second = session.request(sync(), ms(1)).unwrap();
    let (mut peer, answer) = Peer::answer(&hello, &good_answer());
    for byte in &answer {
        session.handle_bytes(std::slice::from_ref(byte), ms(50));
    }
    let mut record = Vec::new();
    assert!(session.poll_output(&mut record));
    assert_eq!(
        record::next_record(&record, Side::Client).unwrap(),
        RecordStep::Complete { len: record.len() },
        "Confirm and Sync share one record"
    );
    peer.incoming = record;
    let heard = peer.hear(&mut session);
    assert!(matches!(&heard[..], [Frame::Confirm, Frame::Request(sync)] if sync.id == first));
    let bytes = peer.say(&[Frame::Ready]);
    session.handle_bytes(&bytes, ms(60));
    assert!(matches!(&peer.hear(&mut session)[..], [Frame::Request(request)] if request.id == second));
    assert_eq!((first.0, second.0), (1, 3), "client ids are odd");
}

#[test]
fn responses_reach_their_requests_and_refusals_keep_their_words() {
    let (mut session, mut peer) = ready();
    let a = session.request(sync(), ms(300)).unwrap();
    let b = session.request(sync(), ms(300)).unwrap();
    let refused = Response {
        code: 401,
        message: "full".into(),
        retry_after_ms: 9,
        body: Bytes::new(),
    }
    .encode_to_vec();
    let bytes = peer.say(&[response(b, &refused), response(a, &answered(b"rows"))]);
    session.handle_bytes(&bytes, ms(310));
    let refusal = Refusal {
        code: 401,
        message: "full".into(),
        retry_after_ms: 9,
    };
    assert_eq!(
        events(&mut session),
        [
            Event::Response {
                id: b,
                result: Err(Failure::Refused(refusal))
            },
            Event::Response {
                id: a,
                result: Ok(Bytes::from_static(b"rows"))
            },
        ]
    );
}

#[test]
fn no_more_requests_are_in_flight_than_the_login_allows() {
    let (mut session, mut peer) = ready();
    let ids: Vec<_> = (0..3)
        .map(|_| session.request(sync(), ms(300)).unwrap())
        .collect();
    assert_eq!(peer.hear(&mut session).len(), 2);
    let bytes = peer.say(&[response(ids[0], &answered(b"x"))]);
    session.handle_bytes(&bytes, ms(301));
    assert_eq!(peer.hear(&mut session).len(), 1);
}

#[test]
fn a_request_whose_time_is_over_fails_once_and_its_late_answer_is_no_fault() {
    let (mut session, mut peer) = ready();
    let id = session.request(sync(), ms(300)).unwrap();
    peer.hear(&mut session);
    assert_eq!(session.poll_timeout(), Some(ms(10_300)));
    session.handle_timeout(ms(10_300));
    assert_eq!(
        events(&mut session),
        [Event::Response {
            id,
            result: Err(Failure::Deadline)
        }]
    );
    assert!(
        matches!(peer.hear(&mut session)[..], [Frame::Ping { .. }]),
        "the connection is probed"
    );
    let bytes = peer.say(&[response(id, &answered(b"late"))]);
    session.handle_bytes(&bytes, ms(10_400));
    assert_eq!(events(&mut session), []);
    let bytes = peer.say(&[response(id, &answered(b"twice"))]);
    session.handle_bytes(&bytes, ms(10_500));
    assert_eq!(
        events(&mut session),
        [Event::Ended(End::Faulty(Fault::UnaskedResponse { id }))]
    );
}

#[test]
fn tracked_pushes_are_acknowledged_together_within_a_tenth_of_a_second() {
    let (mut session, mut peer) = ready();
    let bytes = peer.say(&[push(b"a"), push(b"b")]);
    session.handle_bytes(&bytes, ms(1_000));
    let bytes = peer.say(&[push(b"c")]);
    session.handle_bytes(&bytes, ms(1_050));
    assert_eq!(events(&mut session).len(), 3);
    assert_eq!(peer.hear(&mut session), [], "nothing is said before it is due");
    assert_eq!(session.poll_timeout(), Some(ms(1_100)));
    session.handle_timeout(ms(1_100));
    assert_eq!(peer.hear(&mut session), [Frame::PushAck { through: 3 }]);
    let bytes = peer.say(&[push(b"d")]);
    session.handle_bytes(&bytes, ms(2_000));
    session.request(sync(), ms(2_010)).unwrap();
    let heard = peer.hear(&mut session);
    assert!(
        matches!(&heard[..], [Frame::Request(_), Frame::PushAck { through: 4 }]),
        "an acknowledgement rides along with what is said anyway: {heard:?}"
    );
}

#[test]
fn an_idle_session_pings_at_its_heartbeat_and_a_peer_that_does_not_answer_ends_it() {
    let (mut session, mut peer) = ready();
    session.poll_output(&mut Vec::new());
    assert_eq!(session.poll_timeout(), Some(ms(60_100)));
    session.handle_timeout(ms(60_100));
    assert!(matches!(peer.hear(&mut session)[..], [Frame::Ping { token: 1 }]));
    let bytes = peer.say(&[Frame::Pong { token: 1 }]);
    session.handle_bytes(&bytes, ms(60_200));
    assert_eq!(session.poll_timeout(), Some(ms(120_100)));
    session.handle_timeout(ms(120_100));
    assert!(matches!(peer.hear(&mut session)[..], [Frame::Ping { token: 2 }]));
    session.handle_timeout(ms(130_099));
    assert_eq!(events(&mut session), []);
    session.handle_timeout(ms(130_100));
    assert_eq!(events(&mut session), [Event::Ended(End::Silent)]);
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn a_probe_finds_a_dead_connection_long_before_its_heartbeat() {
    let (mut session, mut peer) = ready();
    session.probe(ms(1_000));
    assert!(matches!(peer.hear(&mut session)[..], [Frame::Ping { .. }]));
    assert_eq!(session.poll_timeout(), Some(ms(11_000)));
    session.handle_timeout(ms(11_000));
    assert_eq!(events(&mut session), [Event::Ended(End::Silent)]);
}

#[test]
fn pings_are_answered() {
    let (mut session, mut peer) = ready();
    let bytes = peer.say(&[Frame::Ping { token: 77 }]);
    session.handle_bytes(&bytes, ms(1_000));
    assert_eq!(peer.hear(&mut session), [Frame::Pong { token: 77 }]);
}

#[test]
fn goaway_fails_what_was_not_begun_and_takes_no_more() {
    let (mut session, mut peer) = ready();
    let a = session.request(sync(), ms(300)).unwrap();
    let b = session.request(sync(), ms(300)).unwrap();
    let c = session.request(sync(), ms(300)).unwrap();
    let goaway = Frame::GoAway {
        last_request: a,
        delay_window_ms: 5_000,
        refresh_directory: true,
    };
    let bytes = peer.say(&[goaway]);
    session.handle_bytes(&bytes, ms(400));
    assert_eq!(
        events(&mut session),
        [
            Event::Response {
                id: b,
                result: Err(Failure::NotBegun)
            },
            Event::Response {
                id: c,
                result: Err(Failure::NotBegun)
            },
            Event::GoAway {
                delay_window_ms: 5_000,
                refresh_directory: true
            },
        ]
    );
    assert_eq!(session.request(sync(), ms(401)), Err(RequestError::GoingAway));
    let bytes = peer.say(&[response(a, &answered(b"x"))]);
    session.handle_bytes(&bytes, ms(500));
    assert_eq!(events(&mut session).len(), 1, "begun requests are still answered");
}

#[test]
fn up_to_the_last_request_that_goaway_names_things_go_on() {
    let (mut session, mut peer) = ready();
    let last = session.request(sync(), ms(300)).unwrap();
    let goaway = Frame::GoAway {
        last_request: RequestId(last.0 + 2),
        delay_window_ms: 5_000,
        refresh_directory: false,
    };
    peer.hear(&mut session);
    let bytes = peer.say(&[goaway]);
    session.handle_bytes(&bytes, ms(400));
    assert!(matches!(events(&mut session)[..], [Event::GoAway { .. }]));
    let one_more = session.request(sync(), ms(401)).unwrap();
    assert!(
        matches!(&peer.hear(&mut session)[..], [Frame::Request(request)] if request.id == one_more),
        "it is sent at once"
    );
    assert_eq!(session.request(sync(), ms(402)), Err(RequestError::GoingAway));
}

#[test]
fn close_ends_the_session_with_its_advice() {
    let (mut session, mut peer) = ready();
    let bytes = peer.say(&[
        Frame::Close {
            reason: 8,
            retry: Retry::Never,
        },
        push(b"unheard"),
    ]);
    session.handle_bytes(&bytes, ms(400));
    assert_eq!(
        events(&mut session),
        [Event::Ended(End::Closed {
            reason: 8,
            retry: Retry::Never
        })]
    );
    assert!(session.is_ended());
}

#[test]
fn closing_says_goodbye() {
    let (mut session, mut peer) = ready();
    session.close();
    assert!(matches!(peer.hear(&mut session)[..], [Frame::Close { .. }]));
    assert_eq!(events(&mut session), [Event::Ended(End::Asked)]);
}

#[test]
fn a_refused_login_ends_with_code_and_server_time() {
    let (mut session, hello) = started();
    let refused = LoginAnswer {
        code: 201,
        message: "old".into(),
        server_time_ms: 88,
        ..LoginAnswer::default()
    };
    let (_, answer) = Peer::answer(&hello, &refused);
    session.handle_bytes(&answer, ms(10));
    let refusal = Refusal {
        code: 201,
        message: "old".into(),
        retry_after_ms: 0,
    };
    assert_eq!(
        events(&mut session),
        [Event::Ended(End::LoginRefused {
            refusal,
            server_time_ms: 88
        })]
    );
}

#[test]
fn clear_text_answers_end_the_session_as_hints() {
    let reject = Reject {
        reason: RejectReason::Overloaded,
        retry_after_ms: 700,
    };
    let table = [
        (Answer::Reject(reject), End::Rejected(reject)),
        (
            Answer::StaleKey(b"d"),
            End::StaleKey {
                descriptor: Bytes::from_static(b"d"),
            },
        ),
        (Answer::Cookie(b"c"), End::UnknownAnswer),
        (Answer::Unknown { kind: 99 }, End::UnknownAnswer),
    ];
    for (answer, end) in table {
        let (mut session, _) = started();
        let mut bytes = Vec::new();
        answer.encode(&mut bytes).unwrap();
        session.handle_bytes(&bytes, ms(10));
        assert_eq!(events(&mut session), [Event::Ended(end)]);
    }
}

#[test]
fn a_false_gateway_is_found_out() {
    let (mut session, hello) = started();
    let (_, mut answer) = Peer::answer(&hello, &good_answer());
    let last = answer.len() - 1;
    answer[last] ^= 1;
    session.handle_bytes(&answer, ms(10));
    assert!(matches!(
        events(&mut session)[..],
        [Event::Ended(End::Faulty(Fault::Handshake(_)))]
    ));
}

#[test]
fn stalled_handshakes_and_stalled_readiness_end() {
    let (mut session, _) = started();
    session.handle_timeout(ms(9_999));
    assert!(!session.is_ended());
    session.handle_timeout(ms(10_000));
    assert_eq!(events(&mut session), [Event::Ended(End::HandshakeStalled)]);
    let (mut session, _) = connected();
    session.handle_timeout(ms(100 + READY_WITHIN_MS));
    assert_eq!(events(&mut session), [Event::Ended(End::ReadyStalled)]);
}

#[test]
fn a_gateway_that_answers_nothing_any_more_is_left() {
    let (mut session, mut peer) = ready();
    session.request(sync(), ms(300)).unwrap();
    session.request(sync(), ms(300)).unwrap();
    let bytes = peer.say(&[Frame::Pong { token: 0 }]);
    session.handle_bytes(&bytes, ms(10_299));
    session.handle_timeout(ms(10_300));
    assert_eq!(
        events(&mut session).last(),
        Some(&Event::Ended(End::RequestsStalled))
    );
}

#[test]
fn tampered_and_illegal_input_ends_the_session_and_nothing_follows() {
    let (mut session, mut peer) = ready();
    let mut bytes = peer.say(&[push(b"a")]);
    bytes[5] ^= 1;
    session.handle_bytes(&bytes, ms(300));
    assert!(matches!(
        events(&mut session)[..],
        [Event::Ended(End::Faulty(Fault::Record(_)))]
    ));
    session.handle_bytes(&bytes, ms(301));
    session.handle_timeout(ms(900_000));
    assert_eq!(events(&mut session), []);
    assert_eq!(session.request(sync(), ms(302)), Err(RequestError::Ended));

    let illegal: [Frame<&[u8]>; 4] = [
        Frame::Confirm,
        Frame::Ready,
        Frame::PushAck { through: 1 },
        Frame::Login { payload: b"" },
    ];
    for frame in illegal {
        let (mut session, mut peer) = ready();
        let bytes = peer.say(&[frame]);
        session.handle_bytes(&bytes, ms(300));
        let kind = frame.kind();
        assert_eq!(
            events(&mut session),
            [Event::Ended(End::Faulty(Fault::Illegal { kind }))]
        );
    }
}

#[test]
fn what_waits_inside_is_bounded() {
    let (mut session, _) = started();
    for _ in 0..QUEUED_MAX {
        session.request(sync(), ms(1)).unwrap();
    }
    assert_eq!(session.request(sync(), ms(1)), Err(RequestError::TooMany));
    let (mut session, _) = started();
    let large = OutgoingRequest {
        payload: Bytes::from(vec![0; frame::PAYLOAD_LEN_MAX + 1]),
        ..sync()
    };
    assert_eq!(
        session.request(large, ms(1)),
        Err(RequestError::TooLarge {
            len: frame::PAYLOAD_LEN_MAX + 1
        })
    );
}

#[test]
fn a_large_request_crosses_records_and_comes_out_whole() {
    let (mut session, mut peer) = ready();
    let payload = Bytes::from(vec![5; frame::PAYLOAD_LEN_MAX]);
    session
        .request(
            OutgoingRequest {
                payload: payload.clone(),
                ..sync()
            },
            ms(300),
        )
        .unwrap();
    let heard = peer.hear(&mut session);
    assert!(matches!(&heard[..], [Frame::Request(request)] if request.payload == payload));
}
