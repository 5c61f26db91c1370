//! From the first byte to READY: a hello, its confirmation, and what waits while the session is registered.

use super::*;

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
