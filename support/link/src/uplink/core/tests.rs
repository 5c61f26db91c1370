//! The table under one router, several, and none.

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use whimbrel_protocol::cluster::Status;

use super::*;

const WAIT: Duration = Duration::from_secs(3);
const NOW: Duration = Duration::from_secs(100);

/// A core, routers that are links only, and what was sent to them.
struct World {
    core: Core<&'static str>,
    rng: SmallRng,
    sent: Vec<(u64, Envelope)>,
    full: Vec<u64>,
}

impl World {
    fn new(routers: u64) -> Self {
        let mut core = Core::new();
        for router in 1..=routers {
            let node = NodeId::new(&format!("router-{router}")).unwrap();
            core.handle_router_up(LinkId(router), node, false);
        }
        Self {
            core,
            rng: SmallRng::seed_from_u64(7),
            sent: Vec::new(),
            full: Vec::new(),
        }
    }

    fn with<T>(
        &mut self,
        run: impl FnOnce(&mut Core<&'static str>, &mut SmallRng, &mut Outlet<'_>) -> T,
    ) -> T {
        let (sent, full) = (&mut self.sent, &self.full);
        run(&mut self.core, &mut self.rng, &mut |link, envelope| {
            if full.contains(&link.0) {
                return Err(SendError::Full(Box::new(envelope)));
            }
            sent.push((link.0, envelope));
            Ok(())
        })
    }

    fn submit(&mut self, to_node: &str, done: &'static str) -> Option<Settled<&'static str>> {
        let request = Envelope {
            to_node: to_node.to_owned(),
            ..Envelope::default()
        };
        self.with(|core, rng, outlet| core.submit(NOW, request, WAIT, done, rng, outlet))
    }

    fn respond(&mut self, now: Duration, link: u64, response: Envelope) -> Option<Settled<&'static str>> {
        let response = Envelope {
            response: true,
            ..response
        };
        self.with(|core, rng, outlet| core.handle_response(now, LinkId(link), response, rng, outlet))
    }

    fn down(&mut self, now: Duration, link: u64) -> Vec<Settled<&'static str>> {
        self.with(|core, rng, outlet| core.handle_router_down(now, LinkId(link), rng, outlet))
    }
}

fn of(id: u64, status: Status) -> Envelope {
    Envelope {
        id,
        status: status.into(),
        ..Envelope::default()
    }
}

#[test]
fn an_answer_settles_its_request_once_and_only_from_its_router() {
    let mut world = World::new(2);
    assert!(world.submit("", "a").is_none());
    let (router, sent) = world.sent.pop().unwrap();
    assert_eq!((sent.deadline_ms, sent.hops), (3_000, 0));
    assert!(world.respond(NOW, 3 - router, of(sent.id, Status::Ok)).is_none());
    let (done, outcome) = world.respond(NOW, router, of(sent.id, Status::Ok)).unwrap();
    assert!(done == "a" && outcome.is_ok());
    assert!(world.respond(NOW, router, of(sent.id, Status::Ok)).is_none());
    assert_eq!(world.core.next_deadline(), None);
}

#[test]
fn load_evens_out_between_routers() {
    let mut world = World::new(3);
    for _ in 0..300 {
        world.submit("", "a");
    }
    for router in 1..=3 {
        let share = world.sent.iter().filter(|(link, _)| *link == router).count();
        assert!((90..=110).contains(&share), "router {router}: {share}");
    }
}

#[test]
fn what_a_lost_router_had_is_sent_once_more() {
    let mut world = World::new(2);
    world.submit("", "a");
    let (first, sent) = world.sent.pop().unwrap();
    let later = NOW + Duration::from_secs(1);
    assert!(world.down(later, first).is_empty());
    let (second, again) = world.sent.pop().unwrap();
    assert_eq!((second, again.hops, again.deadline_ms), (3 - first, 1, 2_000));
    assert_ne!(again.id, sent.id);
    assert_eq!(world.down(later, second), [("a", Err(CallError::Lost))]);
}

#[test]
fn with_one_router_a_loss_is_a_loss() {
    let mut world = World::new(1);
    world.submit("", "a");
    assert_eq!(world.down(NOW, 1), [("a", Err(CallError::Lost))]);
    let refused = world.submit("", "b").unwrap();
    assert_eq!(
        refused,
        (
            "b",
            Err(CallError::Unavailable {
                retry_after_ms: RETRY_AFTER_MS
            })
        )
    );
}

#[test]
fn a_router_that_finds_nobody_is_doubted_once() {
    let mut world = World::new(2);
    world.submit("", "a");
    let (first, sent) = world.sent.pop().unwrap();
    assert!(
        world
            .respond(NOW, first, of(sent.id, Status::Unavailable))
            .is_none()
    );
    let (second, again) = world.sent.pop().unwrap();
    assert_ne!(second, first);
    let answer = Envelope {
        retry_after_ms: 9,
        ..of(again.id, Status::Unavailable)
    };
    let settled = world.respond(NOW, second, answer).unwrap();
    assert_eq!(settled, ("a", Err(CallError::Unavailable { retry_after_ms: 9 })));
}

#[test]
fn a_router_that_does_not_know_the_addressed_node_is_doubted_once() {
    let mut world = World::new(2);
    world.submit("gateway-1", "a");
    let (first, sent) = world.sent.pop().unwrap();
    let unknown = world.respond(NOW, first, of(sent.id, Status::UnknownNode));
    assert!(unknown.is_none(), "it may have started a moment ago");
    let (second, again) = world.sent.pop().unwrap();
    assert_ne!(second, first);
    let settled = world
        .respond(NOW, second, of(again.id, Status::UnknownNode))
        .unwrap();
    assert_eq!(settled, ("a", Err(CallError::UnknownNode)));
}

#[test]
fn a_full_router_is_passed_over_and_two_refuse() {
    let mut world = World::new(2);
    world.full = vec![1];
    for _ in 0..20 {
        assert!(world.submit("", "a").is_none());
        assert_eq!(world.sent.pop().unwrap().0, 2);
    }
    world.full = vec![1, 2];
    assert!(matches!(
        world.submit("", "a"),
        Some((_, Err(CallError::Overloaded { .. })))
    ));
}

#[test]
fn a_draining_router_is_used_only_for_want_of_others() {
    let mut world = World::new(2);
    world.core.handle_readiness(LinkId(1), false);
    for _ in 0..20 {
        world.submit("", "a");
    }
    assert!(world.sent.iter().all(|(link, _)| *link == 2));
    world.core.handle_readiness(LinkId(2), false);
    world.sent.clear();
    for _ in 0..20 {
        world.submit("", "a");
    }
    assert!(world.sent.iter().any(|(link, _)| *link == 1));
}

#[test]
fn routers_of_the_own_zone_come_first_and_the_others_step_in() {
    let mut world = World::new(2);
    let near = NodeId::new("router-3").unwrap();
    world.core.handle_router_up(LinkId(3), near, true);
    for _ in 0..20 {
        world.submit("", "a");
    }
    assert!(world.sent.iter().all(|(link, _)| *link == 3));
    // One request that it has nobody for is sent again to another zone's.
    let (_, sent) = world.sent.pop().unwrap();
    assert!(world.respond(NOW, 3, of(sent.id, Status::Unavailable)).is_none());
    assert_ne!(world.sent.pop().unwrap().0, 3);
    // It says that it cannot serve, and later that it can.
    for (ready, nearby) in [(false, false), (true, true)] {
        world.core.handle_readiness(LinkId(3), ready);
        world.sent.clear();
        world.submit("", "a");
        assert_eq!(world.sent[0].0 == 3, nearby);
    }
    // It is gone, and what it had is sent again.
    world.sent.clear();
    assert!(world.down(NOW, 3).is_empty());
    assert!(!world.sent.is_empty() && world.sent.iter().all(|(link, _)| *link != 3));
}

#[test]
fn what_is_addressed_to_a_router_goes_to_that_router_alone() {
    let mut world = World::new(3);
    for _ in 0..10 {
        world.submit("router-2", "a");
    }
    assert!(world.sent.iter().all(|(link, _)| *link == 2));
    // Once it is gone, another may know the way to where it comes back.
    world.sent.clear();
    assert!(world.down(NOW, 2).is_empty());
    assert_eq!(world.sent.len(), 10);
    assert!(
        world
            .sent
            .iter()
            .all(|(link, again)| *link != 2 && again.hops == 1)
    );
}

#[test]
fn requests_expire_in_order_and_late_answers_find_nothing() {
    let mut world = World::new(1);
    world.submit("", "a");
    let (_, sent) = world.sent.pop().unwrap();
    assert_eq!(world.core.next_deadline(), Some(NOW + WAIT));
    assert!(
        world
            .core
            .handle_timeout(NOW + WAIT - Duration::from_millis(1))
            .is_empty()
    );
    assert_eq!(
        world.core.handle_timeout(NOW + WAIT),
        [("a", Err(CallError::Deadline))]
    );
    assert!(world.respond(NOW + WAIT, 1, of(sent.id, Status::Ok)).is_none());
}

#[test]
fn the_table_is_bounded() {
    let mut world = World::new(1);
    for _ in 0..PENDING_MAX {
        assert!(world.submit("", "a").is_none());
    }
    assert!(matches!(
        world.submit("", "a"),
        Some((_, Err(CallError::Overloaded { .. })))
    ));
    assert_eq!(world.core.handle_closed().len(), PENDING_MAX);
    assert!(world.submit("", "a").is_some());
}
