//! Answers to requests: how many may be open, how large they may be, and what becomes of them when room is short.

use super::*;

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
