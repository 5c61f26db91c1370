//! Where requests and pushes go, how their answers come back, and what is refused at once.

use super::*;

#[test]
fn a_request_goes_to_a_node_and_its_answer_comes_back_under_the_askers_id() {
    let mut world = World::with_apps(2);
    world.frame(
        1,
        Envelope {
            deadline_ms: 3_000,
            trace_id: 5,
            ..request(42)
        },
    );
    let (app, passed) = world.sent_one();
    assert!([11, 12].contains(&app));
    assert_eq!((passed.hops, passed.deadline_ms, passed.trace_id), (1, 3_000, 5));
    assert_eq!(passed.from_node, "gateway-1");
    assert_eq!(passed.body, request(42).body);
    world.frame(app, answer(passed.id, Status::Ok));
    assert_eq!(
        world.assert_told(1, 42, Status::Ok).body,
        answer(0, Status::Ok).body
    );
    assert_eq!(world.core.pending(), 0);
}

#[test]
fn an_answer_is_as_urgent_as_its_request_though_its_node_does_not_say_so() {
    let urgency = |envelope: &Envelope| (envelope.kind(), envelope.priority());
    for apps in [1, 0] {
        let mut world = World::with_apps(apps);
        let page = Envelope {
            priority: Priority::History.into(),
            ..request(42)
        };
        world.frame(1, page.clone());
        if apps > 0 {
            let (app, passed) = world.sent_one();
            assert_eq!(urgency(&passed), urgency(&page));
            world.frame(app, answer(passed.id, Status::Ok));
        }
        let (to, told) = world.sent_one();
        assert_eq!((to, told.id, urgency(&told)), (1, 42, urgency(&page)));
    }
}

#[test]
fn one_affinity_stays_on_one_node_and_none_spreads() {
    let mut world = World::with_apps(4);
    let mut homes: Vec<u64> = Vec::new();
    for id in 1..20 {
        world.frame(1, request(id));
        homes.push(world.sent_one().0);
    }
    homes.dedup();
    assert_eq!(homes.len(), 1);
    let mut seen = std::collections::BTreeSet::new();
    for id in 20..60 {
        world.frame(
            1,
            Envelope {
                affinity: 0,
                ..request(id)
            },
        );
        seen.insert(world.sent_one().0);
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_request_expires_and_says_so() {
    let mut world = World::with_apps(1);
    world.frame(
        1,
        Envelope {
            deadline_ms: 700,
            ..request(42)
        },
    );
    let (_, passed) = world.sent_one();
    world.pass(Duration::from_millis(699), &[1, 11]);
    assert!(world.sent().is_empty());
    world.pass(Duration::from_millis(1), &[1, 11]);
    world.assert_told(1, 42, Status::Deadline);
    world.frame(11, answer(passed.id, Status::Ok));
    assert!(world.sent().is_empty());
}

#[test]
fn a_push_goes_to_the_named_gateway_and_its_answer_comes_back() {
    let mut world = World::with_apps(1);
    world.up(2, "gateway-2", Role::Gateway);
    world.sent();
    let push = |to_node: &str| Envelope {
        kind: Kind::Push.into(),
        to_node: to_node.to_owned(),
        ..request(7)
    };
    world.frame(11, push("gateway-2"));
    let (gateway, passed) = world.sent_one();
    assert_eq!(gateway, 2);
    world.frame(2, answer(passed.id, Status::Ok));
    world.assert_told(11, 7, Status::Ok);

    world.frame(11, push("gateway-9"));
    world.assert_told(11, 7, Status::UnknownNode);

    // A push is for one gateway: when that dies, nobody else can take it.
    world.frame(11, push("gateway-2"));
    world.sent_one();
    world.down(2);
    world.assert_told(11, 7, Status::Lost);
}

#[test]
fn one_way_frames_leave_nothing_behind() {
    let mut world = World::with_apps(1);
    world.frame(1, request(0));
    let (_, passed) = world.sent_one();
    assert_eq!((passed.id, world.core.pending()), (0, 0));
    world.frame(
        1,
        Envelope {
            to_node: "nobody".to_owned(),
            ..request(0)
        },
    );
    assert!(world.sent().is_empty());
}

#[test]
fn overload_refuses_history_first_and_control_last() {
    let config = RouterConfig {
        pending_max: 10,
        ..RouterConfig::default()
    };
    let mut world = World::with(config, false);
    world.up(1, "gateway-1", Role::Gateway);
    world.up(11, "app-0", Role::AppService);
    world.frame(11, unasked(true));
    world.sent();
    let mut accepted = [0; 2];
    for (slot, priority) in [(0, Priority::History), (1, Priority::Control)] {
        for id in 1..=10 {
            world.frame(
                1,
                Envelope {
                    priority: priority.into(),
                    ..request(id)
                },
            );
            accepted[slot] += usize::from(world.sent_one().0 == 11);
        }
    }
    assert_eq!(accepted, [5, 5]);
    assert_eq!(world.core.counts().refused_overloaded, 10);
}

#[test]
fn circles_end() {
    let mut world = World::with_apps(1);
    world.frame(
        1,
        Envelope {
            hops: HOPS_MAX,
            ..request(42)
        },
    );
    world.assert_told(1, 42, Status::BadRequest);
}

#[test]
fn an_asker_that_left_is_not_answered_and_frees_its_requests() {
    let mut world = World::with_apps(1);
    world.frame(1, request(42));
    let (_, passed) = world.sent_one();
    world.down(1);
    assert_eq!(world.core.pending(), 0);
    world.frame(11, answer(passed.id, Status::Ok));
    assert!(world.sent().is_empty());
}

#[test]
fn the_registry_is_answered_at_its_home_and_passed_on_elsewhere() {
    let registry = |to_node: &str| Envelope {
        kind: Kind::Registry.into(),
        to_role: Role::Router.into(),
        to_node: to_node.to_owned(),
        ..request(42)
    };
    let mut home = World::with(RouterConfig::default(), true);
    home.up(1, "gateway-1", Role::Gateway);
    for to_node in ["", ROUTER] {
        home.out.clear();
        home.frame(1, registry(to_node));
        let asked = Action::Registry {
            asker: LinkId(1),
            request: registry(to_node),
        };
        assert_eq!(home.out, [asked]);
    }

    let mut other = World::with_apps(0);
    other.frame(1, registry(""));
    other.assert_told(1, 42, Status::Unavailable);
    other.up(2, "router-2", Role::Router);
    other.frame(2, unasked(true));
    other.sent();
    other.frame(1, registry(""));
    assert_eq!(other.sent_one().0, 2);
    other.frame(1, registry("router-2"));
    assert_eq!(other.sent_one().0, 2);
    // It is not handed back to the router it came from.
    other.frame(2, registry(""));
    other.assert_told(2, 42, Status::Unavailable);
}
