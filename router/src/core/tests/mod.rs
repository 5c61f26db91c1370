//! The core under a virtual clock: nodes, links and answers are all made up here.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod model;
mod pools;

use super::refusal::UNAVAILABLE_RETRY_AFTER_MS;
use super::*;
use whimbrel_protocol::ids::{Incarnation, NodeId};

const ROUTER: &str = "router-1";

struct World {
    core: Core,
    now: Duration,
    out: Vec<Action>,
}

fn identity(name: &str, role: Role) -> Identity {
    Identity {
        node: NodeId::new(name).unwrap(),
        role,
        incarnation: Incarnation(1),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: whimbrel_link::Capacity::ORDINARY,
    }
}

fn told(ready: bool) -> Bytes {
    ProbeResponse {
        ready,
        ..ProbeResponse::default()
    }
    .encode_to_vec()
    .into()
}

fn unasked(ready: bool) -> Envelope {
    Envelope {
        response: true,
        kind: Kind::Probe.into(),
        body: told(ready),
        ..Envelope::default()
    }
}

fn request(id: u64) -> Envelope {
    Envelope {
        id,
        kind: Kind::ClientRequest.into(),
        priority: Priority::Direct.into(),
        to_role: Role::AppService.into(),
        affinity: 77,
        body: Bytes::from_static(b"hello"),
        ..Envelope::default()
    }
}

fn answer(id: u64, status: Status) -> Envelope {
    let body = Bytes::from_static(b"world");
    Envelope {
        id,
        response: true,
        status: status.into(),
        body,
        ..Envelope::default()
    }
}

impl World {
    fn new() -> Self {
        Self::with(RouterConfig::default(), false)
    }

    fn with(config: RouterConfig, serves_registry: bool) -> Self {
        Self::of(Core::new(config, identity(ROUTER, Role::Router), serves_registry))
    }

    fn of(core: Core) -> Self {
        Self {
            core,
            now: Duration::from_secs(1_000),
            out: Vec::new(),
        }
    }

    /// One gateway (link 1) and `apps` ready service nodes (links 11 and up).
    fn with_apps(apps: u64) -> Self {
        let mut world = Self::new();
        world.up(1, "gateway-1", Role::Gateway);
        for app in 0..apps {
            world.up(11 + app, &format!("app-{app}"), Role::AppService);
            world.frame(11 + app, unasked(true));
        }
        world.out.clear();
        world
    }

    fn up(&mut self, link: u64, name: &str, role: Role) {
        self.up_as(link, identity(name, role));
    }

    fn up_as(&mut self, link: u64, identity: Identity) {
        self.core
            .handle_link_up(self.now, LinkId(link), identity, &mut self.out);
    }

    fn down(&mut self, link: u64) {
        self.core.handle_link_down(self.now, LinkId(link), &mut self.out);
    }

    fn frame(&mut self, link: u64, envelope: Envelope) {
        self.core
            .handle_frame(self.now, LinkId(link), envelope, &mut self.out);
    }

    /// Lets time pass, stopping at each timeout; probes of `alive` links are answered at once.
    fn pass(&mut self, time: Duration, alive: &[u64]) {
        let end = self.now + time;
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.core.handle_timeout(self.now, &mut self.out);
            let probes: Vec<_> = self
                .take_probes()
                .into_iter()
                .filter(|(link, _)| alive.contains(link))
                .collect();
            for (link, id) in probes {
                self.frame(
                    link,
                    Envelope {
                        id,
                        response: true,
                        body: told(true),
                        ..Envelope::default()
                    },
                );
            }
        }
        self.now = end;
        self.core.handle_timeout(end, &mut self.out);
    }

    fn take_probes(&mut self) -> Vec<(u64, u64)> {
        let mut probes = Vec::new();
        self.out.retain(|action| match action {
            Action::Send(link, envelope) if envelope.kind == i32::from(Kind::Probe) && !envelope.response => {
                probes.push((link.0, envelope.id));
                false
            }
            _ => true,
        });
        probes
    }

    /// What went out, without probes: link and envelope.
    fn sent(&mut self) -> Vec<(u64, Envelope)> {
        self.take_probes();
        self.out
            .drain(..)
            .map(|action| match action {
                Action::Send(link, envelope) => (link.0, envelope),
                Action::Registry { .. } => panic!("nothing was asked of the registry"),
            })
            .collect()
    }

    fn sent_one(&mut self) -> (u64, Envelope) {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn assert_told(&mut self, link: u64, id: u64, status: Status) -> Envelope {
        let (to, envelope) = self.sent_one();
        assert_eq!((to, envelope.id, envelope.response), (link, id, true));
        assert_eq!(
            Status::try_from(envelope.status),
            Ok(status),
            "{}",
            envelope.detail
        );
        envelope
    }
}

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
            id: 42,
            body: request(0).body,
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
