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
