//! Nodes that rest because they failed, nodes that may not, and how work comes back to one.

use super::*;

#[test]
fn askers_who_are_in_a_hurry_take_no_node_out_of_service() {
    for (deadline_ms, ejects) in [(1_900, false), (2_000, true)] {
        for late_by_itself in [false, true] {
            let mut world = World::with_apps(2);
            let mut targets = Vec::new();
            for n in 0..6 {
                let hurried = Envelope {
                    deadline_ms,
                    ..request(42 + n)
                };
                world.frame(1, hurried);
                let (target, passed) = world.sent_one();
                targets.push(target);
                if late_by_itself {
                    world.frame(target, answer(passed.id, Status::Deadline));
                } else {
                    world.pass(Duration::from_millis(deadline_ms.into()), &[1, 11, 12]);
                }
                world.sent();
            }
            let moved = targets.iter().any(|target| *target != targets[0]);
            assert_eq!(
                moved, ejects,
                "{deadline_ms} ms, said by the node: {late_by_itself}"
            );
        }
    }
}

#[test]
fn failing_nodes_rest_but_never_more_than_half_of_a_pool() {
    let mut world = World::with_apps(4);
    for id in 0..400 {
        world.frame(
            1,
            Envelope {
                affinity: 0,
                ..request(id + 1)
            },
        );
        let (app, passed) = world.sent_one();
        world.frame(app, answer(passed.id, Status::Internal));
        world.sent();
    }
    assert_eq!(world.core.counts().ejections, 2);
    assert_eq!(world.core.nodes(world.now, Role::AppService), (4, 2));
    world.pass(Duration::from_secs(6), &[1, 11, 12, 13, 14]);
    assert_eq!(world.core.nodes(world.now, Role::AppService), (4, 4));
}

#[test]
fn an_only_node_is_never_ejected() {
    let mut world = World::with_apps(1);
    for id in 1..50 {
        world.frame(1, request(id));
        let (app, passed) = world.sent_one();
        world.frame(app, answer(passed.id, Status::Internal));
        world.assert_told(1, id, Status::Internal);
    }
}

#[test]
fn a_node_that_came_back_starts_slowly() {
    let mut world = World::with_apps(2);
    world.pass(Duration::from_secs(15), &[1, 11, 12]);
    world.down(12);
    world.up(12, "app-1", Role::AppService);
    world.frame(12, unasked(true));
    world.sent();
    let mut counts = [0_u32; 2];
    for id in 1..=400 {
        world.frame(
            1,
            Envelope {
                affinity: 0,
                ..request(id)
            },
        );
        let (app, passed) = world.sent_one();
        counts[usize::from(app == 12)] += 1;
        world.frame(app, answer(passed.id, Status::Ok));
        world.sent();
    }
    assert!(counts[1] > 10 && counts[1] < 80, "{counts:?}");
}

/// Asks `count` times, each anywhere, and has whoever is asked answer `status`; passed over nodes included.
fn all_answer(world: &mut World, count: u64, status: Status) {
    for id in 0..count {
        let spread = Envelope {
            affinity: 0,
            ..request(1_000 + id)
        };
        world.frame(1, spread);
        loop {
            let asked = world.sent().into_iter().find(|(link, _)| *link > 10);
            let Some((link, passed)) = asked else { break };
            world.frame(link, answer(passed.id, status));
        }
    }
}

#[test]
fn a_store_that_is_away_again_and_again_takes_no_node_out_that_says_so() {
    let mut world = World::with_apps(4);
    let apps = [11, 12, 13, 14];
    for outage in 0..6 {
        // The store goes; requests are turned away before the nodes' word of it has come.
        all_answer(&mut world, 100, Status::Unavailable);
        apps.iter().for_each(|link| world.frame(*link, unasked(false)));
        all_answer(&mut world, 10, Status::Unavailable);
        world.now += Duration::from_secs(3);
        apps.iter().for_each(|link| world.frame(*link, unasked(true)));
        world.sent();
        let fit = world.core.nodes(world.now, Role::AppService);
        assert_eq!((world.core.counts().ejections, fit), (0, (4, 4)), "{outage}");
        world.pass(Duration::from_secs(20), &[1, 11, 12, 13, 14]);
        all_answer(&mut world, 100, Status::Ok);
    }
}

#[test]
fn a_node_that_turns_all_away_and_says_that_it_is_ready_rests() {
    let mut world = World::with_apps(2);
    for second in 0..6 {
        for id in 0..20 {
            let spread = Envelope {
                affinity: 0,
                ..request(1 + id)
            };
            world.frame(1, spread);
            while let Some((link, passed)) = world.sent().into_iter().find(|(link, _)| *link > 10) {
                let status = if link == 11 {
                    Status::Unavailable
                } else {
                    Status::Ok
                };
                world.frame(link, answer(passed.id, status));
            }
        }
        let ejected = world.core.counts().ejections;
        assert_eq!(ejected, u64::from(second >= 4), "second {second}");
        world.pass(Duration::from_secs(1), &[1, 11, 12]);
    }
}

#[test]
fn what_ails_all_of_a_pool_makes_nobody_rest_for_longer() {
    let mut world = World::with_apps(4);
    let end = world.now + Duration::from_secs(120);
    while world.now < end {
        all_answer(&mut world, 40, Status::Internal);
        world.pass(Duration::from_secs(1), &[1, 11, 12, 13, 14]);
        let (_, fit) = world.core.nodes(world.now, Role::AppService);
        assert!(fit >= 2, "half of them stay");
    }
    // It is over: who rests does so for a few seconds more, and a few good answers later all serve.
    for _ in 0..10 {
        all_answer(&mut world, 100, Status::Ok);
        world.pass(Duration::from_secs(1), &[1, 11, 12, 13, 14]);
    }
    let topology = world.core.topology(world.now, Duration::ZERO);
    let resting = topology.nodes.iter().filter(|node| node.ejected_for_ms.is_some());
    assert_eq!(resting.count(), 0, "{topology:?}");
}
