//! Zones, capacities, apps with nodes of their own, and circuits, as requests meet them.

use std::collections::BTreeMap;

use whimbrel_link::Capacity;
use whimbrel_protocol::ids::AppKey;

use super::*;
use crate::topology::{LinkState, NodeHealth, NodeView};

fn app(name: &str, zone: &str) -> Identity {
    Identity {
        zone: zone.to_owned(),
        ..identity(name, Role::AppService)
    }
}

/// A router in zone `east`, a gateway (link 1), and these ready service nodes (links 11 and up), past their slow start.
fn with_pool(apps: impl IntoIterator<Item = Identity>) -> World {
    let own = Identity {
        zone: "east".to_owned(),
        ..identity(ROUTER, Role::Router)
    };
    let mut world = World::of(Core::new(RouterConfig::default(), own, false));
    world.up(1, "gateway-1", Role::Gateway);
    let mut links = vec![1];
    for (link, app) in (11..).zip(apps) {
        world.up_as(link, app);
        world.frame(link, unasked(true));
        links.push(link);
    }
    world.pass(Duration::from_secs(15), &links);
    world.out.clear();
    world
}

/// Sends that many requests without affinity, each answered with `status`; how many each link had.
fn load(world: &mut World, count: u64, status: Status) -> BTreeMap<u64, u64> {
    let mut had = BTreeMap::new();
    for id in 1..=count {
        let spread = Envelope {
            affinity: 0,
            ..request(id)
        };
        world.frame(1, spread);
        let (link, passed) = world.sent().remove(0);
        if !passed.response {
            *had.entry(link).or_default() += 1;
            world.frame(link, answer(passed.id, status));
            world.sent();
        }
    }
    had
}

fn links(had: &BTreeMap<u64, u64>) -> Vec<u64> {
    had.keys().copied().collect()
}

fn seen(world: &World, node: &str) -> NodeView {
    let topology = world.core.topology(world.now, Duration::ZERO);
    let mut nodes = topology.nodes.into_iter();
    nodes.find(|seen| seen.node == node).unwrap()
}

#[test]
fn the_own_zone_serves_and_the_other_takes_over_within_a_probe_and_gives_back() {
    let mut world = with_pool([
        app("e1", "east"),
        app("e2", "east"),
        app("w1", "west"),
        app("w2", "west"),
    ]);
    assert_eq!(links(&load(&mut world, 200, Status::Ok)), [11, 12]);
    // The zone is cut off without a word.
    world.pass(Duration::from_secs(4), &[1, 13, 14]);
    world.sent();
    assert_eq!(links(&load(&mut world, 200, Status::Ok)), [13, 14]);
    // It comes back: slowly, beside the others, then alone.
    world.pass(Duration::from_secs(2), &[1, 11, 12, 13, 14]);
    world.sent();
    assert_eq!(links(&load(&mut world, 400, Status::Ok)), [11, 12, 13, 14]);
    world.pass(Duration::from_secs(12), &[1, 11, 12, 13, 14]);
    world.sent();
    assert_eq!(links(&load(&mut world, 200, Status::Ok)), [11, 12]);
}

#[test]
fn a_zone_that_says_it_is_full_has_help() {
    let mut world = with_pool([app("e1", "east"), app("w1", "west")]);
    assert_eq!(links(&load(&mut world, 50, Status::Ok)), [11]);
    let full = ProbeResponse {
        ready: true,
        load_permille: 990,
        ..ProbeResponse::default()
    };
    world.frame(
        11,
        Envelope {
            body: full.encode_to_vec().into(),
            ..unasked(true)
        },
    );
    assert_eq!(links(&load(&mut world, 50, Status::Ok)), [12]);
}

#[test]
fn nodes_are_ejected_up_to_half_of_all_zones_together_and_never_of_what_silence_has_left() {
    let pool = || {
        [
            app("e1", "east"),
            app("e2", "east"),
            app("w1", "west"),
            app("w2", "west"),
        ]
    };
    let mut world = with_pool(pool());
    load(&mut world, 400, Status::Internal);
    assert_eq!(world.core.counts().ejections, 2, "both of a zone, if they fail");
    let mut world = with_pool(pool());
    world.pass(Duration::from_secs(4), &[1, 12, 14]);
    world.sent();
    load(&mut world, 400, Status::Internal);
    assert_eq!(world.core.counts().ejections, 0, "half is silent already");
}

#[test]
fn work_follows_capacity() {
    let big = Identity {
        capacity: Capacity::from_percent(300).unwrap(),
        ..app("big", "east")
    };
    let had = load(&mut with_pool([app("small", "east"), big]), 2_000, Status::Ok);
    assert!((350..650).contains(&had[&11]), "{had:?}");
}

#[test]
fn an_app_with_nodes_of_its_own_is_served_by_those_and_nobody_else_is() {
    let kept = Identity {
        app_keys: vec![AppKey::new("acme").unwrap()],
        ..app("own", "east")
    };
    let mut world = with_pool([app("all", "east"), kept]);
    let ask = |world: &mut World, app_key: &str| {
        let of_app = Envelope {
            app_key: app_key.to_owned(),
            ..request(7)
        };
        world.frame(1, of_app);
        let (link, passed) = world.sent_one();
        world.frame(link, answer(passed.id, Status::Ok));
        world.sent();
        link
    };
    assert_eq!([ask(&mut world, "acme"), ask(&mut world, "demo")], [12, 11]);
    world.down(12);
    assert_eq!(ask(&mut world, "acme"), 11, "better than nothing");
}

#[test]
fn an_ejected_node_is_tried_with_one_request_at_a_time_and_then_has_its_share_again() {
    let mut world = with_pool([app("a", ""), app("b", "")]);
    // One of the two fails.
    for id in 1..=100 {
        let spread = Envelope {
            affinity: 0,
            ..request(id)
        };
        world.frame(1, spread);
        let (link, passed) = world.sent_one();
        let status = if link == 11 { Status::Internal } else { Status::Ok };
        world.frame(link, answer(passed.id, status));
        world.sent();
    }
    assert_eq!(seen(&world, "a").health, NodeHealth::Ejected);
    assert_eq!(seen(&world, "a").ejected_for_ms, Some(5_000));
    assert_eq!(links(&load(&mut world, 100, Status::Ok)), [12]);
    world.pass(Duration::from_secs(5), &[1, 11, 12]);
    world.sent();
    assert_eq!(seen(&world, "a").health, NodeHealth::Tried);
    // While it owes an answer, it is asked nothing more.
    let mut trials = Vec::new();
    for id in 1..=200 {
        let spread = Envelope {
            affinity: 0,
            ..request(id)
        };
        world.frame(1, spread);
        let (link, passed) = world.sent_one();
        if link == 11 {
            trials.push(passed.id);
        } else {
            world.frame(link, answer(passed.id, Status::Ok));
            world.sent();
        }
    }
    assert_eq!(trials.len(), 1);
    world.frame(11, answer(trials[0], Status::Ok));
    world.sent();
    let had = load(&mut world, 400, Status::Ok);
    assert!(had[&11] > 3, "{had:?}");
    assert_eq!(seen(&world, "a").health, NodeHealth::Starting);
    world.pass(Duration::from_secs(11), &[1, 11, 12]);
    world.sent();
    let had = load(&mut world, 400, Status::Ok);
    assert!((140..260).contains(&had[&11]), "{had:?}");
    assert_eq!(seen(&world, "a").health, NodeHealth::Ready);
}

#[test]
fn the_topology_tells_how_every_node_is_and_who_is_gone() {
    let mut world = with_pool([app("a", "east"), app("b", "west"), app("c", "west")]);
    world.frame(
        12,
        Envelope {
            body: ProbeResponse {
                reason: "the store is gone".to_owned(),
                ..ProbeResponse::default()
            }
            .encode_to_vec()
            .into(),
            ..unasked(false)
        },
    );
    world.down(13);
    world.pass(Duration::from_secs(4), &[1, 11, 12]);
    world.sent();
    world.frame(12, unasked(false));
    let topology = world.core.topology(world.now, Duration::from_secs(19));
    assert_eq!(topology.router.node, ROUTER);
    assert_eq!((&*topology.router.zone, topology.router.up_ms), ("east", 19_000));
    let names: Vec<_> = topology.nodes.iter().map(|node| &*node.node).collect();
    assert_eq!(names, ["a", "b", "c", "gateway-1"], "by role, then by name");
    let (a, b, c) = (seen(&world, "a"), seen(&world, "b"), seen(&world, "c"));
    assert_eq!((a.health, a.weight, &*a.zone), (NodeHealth::Ready, 1_000, "east"));
    assert_eq!((b.health, b.weight), (NodeHealth::NotReady, 0));
    assert_eq!(
        (c.health, c.link, c.link_for_ms),
        (NodeHealth::Gone, LinkState::Down, 4_000)
    );
    // Whoever is back is there once, and who is gone for long is shown no more.
    world.up_as(13, app("c", "west"));
    assert_eq!(seen(&world, "c").health, NodeHealth::Unknown);
    world.down(13);
    world.pass(Duration::from_secs(601), &[1, 11, 12]);
    let topology = world.core.topology(world.now, Duration::ZERO);
    assert_eq!(topology.nodes.len(), 3);
}

#[test]
fn a_node_whose_clock_is_far_from_that_of_most_gets_no_work_and_is_told() {
    const DAY_MS: i64 = 86_400_000;
    let mut world = with_pool([app("a", ""), app("b", ""), app("c", "")]);
    let says = |world: &mut World, link: u64, utc_ms: u64| {
        let told = ProbeResponse {
            ready: true,
            utc_ms,
            ..ProbeResponse::default()
        };
        world.frame(
            link,
            Envelope {
                body: told.encode_to_vec().into(),
                ..unasked(true)
            },
        );
    };
    let utc_ms = 1_800_000_000_000;
    let wrong = utc_ms + DAY_MS.unsigned_abs();
    // One voice and the router's own: nobody can say who is wrong.
    says(&mut world, 11, wrong);
    let World { core, now, out } = &mut world;
    core.handle_clock(*now, utc_ms, out);
    assert!(links(&load(&mut world, 100, Status::Ok)).contains(&11));
    says(&mut world, 12, utc_ms + 900);
    says(&mut world, 13, utc_ms - 900);
    let World { core, now, out } = &mut world;
    core.handle_clock(*now, utc_ms, out);
    assert_eq!(links(&load(&mut world, 100, Status::Ok)), [12, 13]);
    let a = seen(&world, "a");
    // Of four voices the upper of the middle two counts, which is 900 ms ahead itself.
    assert_eq!((a.health, a.clock_ahead_ms), (NodeHealth::ClockOff, DAY_MS - 900));
    // Its next probe tells it.
    world.now += Duration::from_secs(1);
    let World { core, now, out } = &mut world;
    core.handle_timeout(*now, out);
    let told = world.out.iter().find_map(|action| match action {
        Action::Send(LinkId(11), envelope) if !envelope.response => {
            Some(Probe::decode(envelope.body.clone()).unwrap().clock_ahead_ms)
        }
        _ => None,
    });
    assert_eq!(told, Some(DAY_MS - 900));
    world.out.clear();
    // Once it is set right, it is back.
    says(&mut world, 11, utc_ms + 1_000);
    let World { core, now, out } = &mut world;
    core.handle_clock(*now, utc_ms + 1_000, out);
    assert_eq!(seen(&world, "a").health, NodeHealth::Starting);
}
