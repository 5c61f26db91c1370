//! Pushes: whom they reach, and by when they must be acknowledged.

use super::*;

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
