//! Nodes far away, and nodes that answer no more.

use super::*;

/// A minute of a service node that is `one_way` from the router, with a request each second; what was answered well.
fn served_over(one_way: Duration) -> (World, usize) {
    let mut world = World::new();
    world.up(1, "gateway-1", Role::Gateway);
    world.up(11, "app-0", Role::AppService);
    world.frame(11, unasked(true));
    // What is on its way: when it comes, where from or to, and whether the router gets it.
    let mut under_way: Vec<(Duration, Envelope, bool)> = Vec::new();
    let mut served = 0;
    for tick in 0..600 {
        world.now += Duration::from_millis(100);
        let now = world.now;
        let (come, still): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|(at, ..)| *at <= now);
        under_way = still;
        for (_, envelope, to_router) in come {
            if to_router {
                world.frame(11, envelope);
            } else {
                let body = match envelope.kind() {
                    Kind::Probe => told(true),
                    _ => envelope.body,
                };
                let answer = Envelope {
                    body,
                    ..answer(envelope.id, Status::Ok)
                };
                under_way.push((now + one_way, answer, true));
            }
        }
        if tick % 10 == 5 {
            world.frame(1, request(tick));
        }
        world.core.handle_timeout(now, &mut world.out);
        for action in std::mem::take(&mut world.out) {
            match action {
                Action::Send(LinkId(11), envelope) if !envelope.response => {
                    under_way.push((now + one_way, envelope, false));
                }
                // The gateway is near.
                Action::Send(LinkId(1), probe) if !probe.response => {
                    let answer = Envelope {
                        body: told(true),
                        ..answer(probe.id, Status::Ok)
                    };
                    world.frame(1, answer);
                }
                Action::Send(LinkId(1), answer) if answer.id != 0 && answer.status() == Status::Ok => {
                    served += 1;
                }
                _ => {}
            }
        }
    }
    (world, served)
}

#[test]
fn a_node_behind_a_slow_link_serves_as_long_as_it_answers_in_time() {
    for one_way_ms in [10, 450, 600, 900] {
        let (world, served) = served_over(Duration::from_millis(one_way_ms));
        assert_eq!(world.core.counts().silences, 0, "{one_way_ms} ms each way");
        // Those of the last two seconds are still on their way.
        assert!(served >= 57, "{one_way_ms} ms each way: {served} of 60");
    }
}

#[test]
fn a_node_that_answers_later_than_a_probe_may_take_gets_nothing() {
    let (world, served) = served_over(Duration::from_millis(1_100));
    assert_eq!(world.core.counts().silences, 1, "once, and for as long");
    assert!(served <= 3, "{served} of 60");
}
