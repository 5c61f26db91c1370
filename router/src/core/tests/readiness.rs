//! What the router says of itself, and to whom: nobody serves, somebody serves again, it is about to leave.

use super::*;
use crate::core::refusal::UNAVAILABLE_RETRY_AFTER_MS;

#[test]
fn nobody_ready_is_said_at_once_with_a_time_to_try_again() {
    let mut world = World::with_apps(1);
    world.frame(11, unasked(false));
    world.sent();
    world.frame(1, request(42));
    let told = world.assert_told(1, 42, Status::Unavailable);
    assert_eq!(told.retry_after_ms, UNAVAILABLE_RETRY_AFTER_MS);
    world.frame(11, unasked(true));
    world.sent();
    world.frame(1, request(43));
    assert_eq!(world.sent_one().0, 11);
}

#[test]
fn everybody_is_told_when_the_last_fit_service_node_goes_and_when_one_is_there_again() {
    let mut world = World::with_apps(2);
    let told = |world: &mut World| -> Vec<(u64, bool)> {
        let sent = world.sent().into_iter();
        sent.map(|(link, envelope)| {
            assert_eq!((envelope.id, envelope.kind()), (0, Kind::Probe));
            (link, ProbeResponse::decode(envelope.body).unwrap().ready)
        })
        .collect()
    };
    world.down(11);
    assert_eq!(told(&mut world), [], "one is left");
    world.frame(12, unasked(false));
    assert_eq!(told(&mut world), [(1, false), (12, false)]);
    world.frame(12, unasked(false));
    assert_eq!(told(&mut world), [], "that is no news");
    world.frame(12, unasked(true));
    assert_eq!(told(&mut world), [(1, true), (12, true)]);
}

#[test]
fn who_could_not_be_told_is_told_with_the_next_probe() {
    let mut world = World::with_apps(1);
    world.frame(11, unasked(false));
    let (link, lost) = world.sent().remove(0);
    assert_eq!(link, 1);
    let World { core, now, out } = &mut world;
    core.handle_send_failed(*now, LinkId(1), &lost, SendFailure::Full, out);
    assert!(world.sent().is_empty());
    world.pass(Duration::from_secs(2), &[1]);
    let told = world.sent();
    let to_gateway: Vec<_> = told.iter().filter(|(link, _)| *link == 1).collect();
    assert_eq!(to_gateway.len(), 1, "once: {told:?}");
    assert_eq!((to_gateway[0].1.id, to_gateway[0].1.kind()), (0, Kind::Probe));
    let ready = ProbeResponse::decode(to_gateway[0].1.body.clone()).unwrap().ready;
    assert!(!ready);
}

#[test]
fn probes_are_answered_and_a_drain_is_told_to_everybody() {
    let mut world = World::with_apps(1);
    let probe = Envelope {
        id: 9,
        kind: Kind::Probe.into(),
        ..Envelope::default()
    };
    world.frame(1, probe.clone());
    let (_, reply) = world.sent_one();
    let ready = |reply: Envelope| ProbeResponse::decode(reply.body).unwrap();
    assert!(reply.id == 9 && ready(reply).ready);
    world.core.handle_drain(&mut world.out);
    let told = world.sent();
    assert_eq!(told.iter().map(|(link, _)| *link).collect::<Vec<_>>(), [1, 11]);
    assert!(told.into_iter().all(|(_, told)| ready(told).draining));
    world.frame(1, probe);
    assert!(!ready(world.sent_one().1).ready);
    // It still switches: askers need a moment to move.
    world.frame(1, request(42));
    assert_eq!(world.sent_one().0, 11);
}
