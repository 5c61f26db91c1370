//! Requests whose node dies, falls silent, is full or cannot serve: what goes elsewhere, and what is lost.

use super::*;

#[test]
fn a_request_on_a_node_that_died_is_retried_once_then_lost() {
    let mut world = World::with_apps(3);
    world.frame(1, request(42));
    let (first, passed) = world.sent_one();
    world.down(first);
    let (second, retried) = world.sent_one();
    assert_ne!(second, first);
    assert_ne!(retried.id, passed.id);
    assert_eq!(retried.body, passed.body);
    // The first node's answer, were it to come by a new link, finds nothing.
    world.frame(second, answer(passed.id, Status::Ok));
    assert!(world.sent().is_empty());
    world.down(second);
    world.assert_told(1, 42, Status::Lost);
    assert_eq!(world.core.counts().retried, 1);
}

#[test]
fn what_another_router_or_an_uplink_has_sent_again_is_not_retried() {
    let mut world = World::with_apps(2);
    world.frame(
        1,
        Envelope {
            hops: 1,
            ..request(42)
        },
    );
    let (first, _) = world.sent_one();
    world.down(first);
    world.assert_told(1, 42, Status::Lost);
}

#[test]
fn a_silent_node_loses_its_work_and_its_late_answer_is_ignored() {
    let mut world = World::with_apps(2);
    world.frame(1, request(42));
    let (frozen, passed) = world.sent_one();
    let alive = [1, 23 - frozen];
    world.pass(Duration::from_secs(4), &alive);
    let (other, retried) = world.sent_one();
    assert_eq!(other, 23 - frozen);
    world.frame(other, answer(retried.id, Status::Ok));
    world.assert_told(1, 42, Status::Ok);
    world.frame(frozen, answer(passed.id, Status::Ok));
    assert!(world.sent().is_empty());
    // Nothing new goes there either, until it answers again.
    for id in 1..20 {
        world.frame(
            1,
            Envelope {
                affinity: 0,
                ..request(id)
            },
        );
        assert_eq!(world.sent_one().0, other);
    }
    world.pass(Duration::from_secs(20), &[1, 11, 12]);
    world.sent();
    let mut seen = std::collections::BTreeSet::new();
    for id in 20..80 {
        world.frame(
            1,
            Envelope {
                affinity: 0,
                ..request(id)
            },
        );
        seen.insert(world.sent().remove(0).0);
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_node_that_says_it_cannot_serve_is_passed_over_once() {
    let mut world = World::with_apps(2);
    world.frame(1, request(42));
    let (first, passed) = world.sent_one();
    world.frame(first, answer(passed.id, Status::Unavailable));
    let (second, retried) = world.sent_one();
    assert_ne!(first, second);
    world.frame(second, answer(retried.id, Status::Unavailable));
    world.assert_told(1, 42, Status::Unavailable);
}

#[test]
fn a_full_link_sends_the_request_elsewhere_and_then_refuses_it() {
    let mut world = World::with_apps(2);
    world.frame(1, request(42));
    let (first, passed) = world.sent_one();
    world.core.handle_send_failed(
        world.now,
        LinkId(first),
        &passed,
        SendFailure::Full,
        &mut world.out,
    );
    let (second, retried) = world.sent_one();
    assert_ne!(first, second);
    world.core.handle_send_failed(
        world.now,
        LinkId(second),
        &retried,
        SendFailure::Full,
        &mut world.out,
    );
    let told = world.assert_told(1, 42, Status::Overloaded);
    assert!(told.retry_after_ms > 0);
}

#[test]
fn what_no_link_carries_is_refused_for_good_and_tried_nowhere_else() {
    let mut world = World::with_apps(2);
    world.frame(1, request(42));
    let (first, passed) = world.sent_one();
    let (now, link) = (world.now, LinkId(first));
    world
        .core
        .handle_send_failed(now, link, &passed, SendFailure::TooLarge, &mut world.out);
    world.assert_told(1, 42, Status::BadRequest);
    assert_eq!(world.core.pending(), 0);
}
