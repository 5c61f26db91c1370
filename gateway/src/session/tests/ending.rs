//! How a session ends: silence, records that never end, a client that takes nothing, no memory, a goodbye.

use super::*;

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
