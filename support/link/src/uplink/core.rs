//! The uplink's table: which routers are there, which requests are out on which of them. Pure; `now`, randomness and
//! the way out are handed in.
//!
//! A request goes to the less busy of two routers drawn at random, of the own zone while it has any that can serve. When
//! that router goes away, or has nobody to serve the request, it is sent once more through another. What is sent again carries `hops` 1: a router may have passed it
//! on already, so the next one does not retry it on its own account.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, RngExt as _};
use whimbrel_protocol::cluster::Envelope;
use whimbrel_protocol::ids::NodeId;

use super::call::CallError;
use crate::identity::LinkId;
use crate::link::SendError;

/// Requests that may be out at once: a gateway's whole burst of a second or two. Each holds its envelope.
pub(crate) const PENDING_MAX: usize = 65_536;
/// What is told to whoever finds no router: about the time a dialler needs to find one again.
const RETRY_AFTER_MS: u32 = 500;
/// What is told to whoever finds every queue full: queues drain in tens of milliseconds.
const OVERLOADED_RETRY_AFTER_MS: u32 = 200;

/// The way out: hands an envelope to a router's link.
pub(crate) type Outlet<'a> = dyn FnMut(LinkId, Envelope) -> Result<(), SendError> + 'a;

/// `D` is what waits for an answer.
#[derive(Debug)]
pub(crate) struct Core<D> {
    routers: BTreeMap<LinkId, RouterState>,
    /// The routers to use: those of the own zone that can serve, else all that can, else all.
    usable: Vec<LinkId>,
    pending: BTreeMap<u64, Pending<D>>,
    deadlines: BTreeSet<(Duration, u64)>,
    next_id: u64,
}

#[derive(Debug)]
struct RouterState {
    node: NodeId,
    own_zone: bool,
    outstanding: usize,
    ready: bool,
}

#[derive(Debug)]
struct Pending<D> {
    request: Envelope,
    router: LinkId,
    sent_again: bool,
    deadline_at: Duration,
    done: D,
}

/// An answer, or why there is none, for whoever waits.
pub(crate) type Settled<D> = (D, Result<Envelope, CallError>);

impl<D> Core<D> {
    pub(crate) fn new() -> Self {
        Self {
            routers: BTreeMap::new(),
            usable: Vec::new(),
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 1,
        }
    }

    pub(crate) fn routers(&self) -> usize {
        self.routers.len()
    }

    /// Those of them that say that they can serve.
    pub(crate) fn ready_routers(&self) -> usize {
        self.routers.values().filter(|router| router.ready).count()
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(crate) fn handle_router_up(&mut self, link: LinkId, node: NodeId, own_zone: bool) {
        self.routers.insert(
            link,
            RouterState {
                node,
                own_zone,
                outstanding: 0,
                ready: true,
            },
        );
        self.refresh_usable();
    }

    /// A router says whether it wants new work.
    pub(crate) fn handle_readiness(&mut self, link: LinkId, ready: bool) {
        if let Some(router) = self.routers.get_mut(&link) {
            router.ready = ready;
            self.refresh_usable();
        }
    }

    /// Sends a request that waits at most `wait`; gives `done` back when it could not be sent.
    pub(crate) fn submit(
        &mut self,
        now: Duration,
        request: Envelope,
        wait: Duration,
        done: D,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Option<Settled<D>> {
        if self.pending.len() >= PENDING_MAX {
            return Some((done, Err(overloaded())));
        }
        let deadline_at = now.saturating_add(wait);
        match self.send(now, deadline_at, &request, 0, None, rng, outlet) {
            Ok((id, router)) => {
                let pending = Pending {
                    request,
                    router,
                    sent_again: false,
                    deadline_at,
                    done,
                };
                self.remember(id, pending);
                None
            }
            Err(error) => Some((done, Err(error))),
        }
    }

    /// An answer came. `None` for one that nobody waits for any more, or that came the wrong way.
    pub(crate) fn handle_response(
        &mut self,
        now: Duration,
        link: LinkId,
        response: Envelope,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Option<Settled<D>> {
        if self.pending.get(&response.id)?.router != link {
            return None;
        }
        let pending = self.forget(response.id)?;
        let outcome = match CallError::of(&response) {
            None => Ok(response),
            // A router that has just started knows nobody yet; another may know whom the request is for.
            Some(error @ (CallError::Unavailable { .. } | CallError::UnknownNode)) => {
                return self.send_again(now, pending, error, rng, outlet);
            }
            Some(error) => Err(error),
        };
        Some((pending.done, outcome))
    }

    /// A router is gone: what it had is sent again or settled.
    pub(crate) fn handle_router_down(
        &mut self,
        now: Duration,
        link: LinkId,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Vec<Settled<D>> {
        self.routers.remove(&link);
        self.refresh_usable();
        let orphans: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.router == link)
            .map(|(id, _)| *id)
            .collect();
        orphans
            .into_iter()
            .filter_map(|id| {
                let pending = self.forget(id)?;
                self.send_again(now, pending, CallError::Lost, rng, outlet)
            })
            .collect()
    }

    /// Settles what has waited long enough.
    pub(crate) fn handle_timeout(&mut self, now: Duration) -> Vec<Settled<D>> {
        let mut settled = Vec::new();
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
            && let Some(pending) = self.forget(id)
        {
            settled.push((pending.done, Err(CallError::Deadline)));
        }
        settled
    }

    /// Settles everything: the endpoint is gone.
    pub(crate) fn handle_closed(&mut self) -> Vec<Settled<D>> {
        self.routers.clear();
        self.usable.clear();
        self.deadlines.clear();
        std::mem::take(&mut self.pending)
            .into_values()
            .map(|pending| (pending.done, Err(CallError::Lost)))
            .collect()
    }

    /// Once more through another router, or `error` for whoever waits.
    fn send_again(
        &mut self,
        now: Duration,
        pending: Pending<D>,
        error: CallError,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Option<Settled<D>> {
        if pending.sent_again || pending.deadline_at <= now {
            return Some((pending.done, Err(error)));
        }
        let avoid = Some(pending.router);
        match self.send(now, pending.deadline_at, &pending.request, 1, avoid, rng, outlet) {
            Ok((id, router)) => {
                self.remember(
                    id,
                    Pending {
                        router,
                        sent_again: true,
                        ..pending
                    },
                );
                None
            }
            Err(_) => Some((pending.done, Err(error))),
        }
    }

    /// Hands a copy of the request to a router other than `avoid`; its id and that router.
    #[expect(
        clippy::too_many_arguments,
        reason = "the inputs of one decision; a struct would only rename them"
    )]
    fn send(
        &mut self,
        now: Duration,
        deadline_at: Duration,
        request: &Envelope,
        hops: u32,
        avoid: Option<LinkId>,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Result<(u64, LinkId), CallError> {
        let (first, second) = self.choose(&request.to_node, avoid, rng);
        let Some(first) = first else {
            return Err(CallError::Unavailable {
                retry_after_ms: RETRY_AFTER_MS,
            });
        };
        let id = self.next_id;
        self.next_id += 1;
        let left_ms = deadline_at.saturating_sub(now).as_millis();
        let mut copy = request.clone();
        copy.id = id;
        copy.hops = hops;
        copy.deadline_ms = u32::try_from(left_ms).unwrap_or(u32::MAX).max(1);
        let mut error = match outlet(first, copy) {
            Ok(()) => return Ok((id, first)),
            Err(error) => error,
        };
        if let Some(second) = second
            && !matches!(error, SendError::TooLarge(_))
        {
            error = match outlet(second, error.into_envelope()) {
                Ok(()) => return Ok((id, second)),
                Err(error) => error,
            };
        }
        Err(match error {
            SendError::Full(_) => overloaded(),
            SendError::Closed(_) => CallError::Unavailable {
                retry_after_ms: RETRY_AFTER_MS,
            },
            SendError::TooLarge(_) => CallError::BadRequest(error.to_string()),
        })
    }

    /// The router to try, and the one to try next.
    fn choose(
        &self,
        to_node: &str,
        avoid: Option<LinkId>,
        rng: &mut (impl Rng + ?Sized),
    ) -> (Option<LinkId>, Option<LinkId>) {
        if !to_node.is_empty()
            && let Some(addressed) = self
                .routers
                .iter()
                .find(|(_, router)| router.node.as_str() == to_node)
        {
            return (Some(*addressed.0).filter(|link| Some(*link) != avoid), None);
        }
        let mut pool = self.usable.as_slice();
        let all: Vec<LinkId>;
        if pool.iter().all(|link| Some(*link) == avoid) {
            // Sent again: the only router of the own zone has failed it, and another zone's may not.
            all = self.routers.keys().copied().collect();
            pool = &all;
        }
        let others = || pool.iter().copied().filter(|link| Some(*link) != avoid);
        let count = others().count();
        if count < 2 {
            return (others().next(), None);
        }
        let first = rng.random_range(0..count);
        let second = (first + rng.random_range(1..count)) % count;
        let (first, second) = (others().nth(first), others().nth(second));
        let load = |link: Option<LinkId>| {
            link.and_then(|link| self.routers.get(&link))
                .map_or(usize::MAX, |router| router.outstanding)
        };
        if load(second) < load(first) {
            (second, first)
        } else {
            (first, second)
        }
    }

    fn remember(&mut self, id: u64, pending: Pending<D>) {
        if let Some(router) = self.routers.get_mut(&pending.router) {
            router.outstanding += 1;
        }
        self.deadlines.insert((pending.deadline_at, id));
        self.pending.insert(id, pending);
    }

    fn forget(&mut self, id: u64) -> Option<Pending<D>> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline_at, id));
        if let Some(router) = self.routers.get_mut(&pending.router) {
            router.outstanding -= 1;
        }
        Some(pending)
    }

    fn refresh_usable(&mut self) {
        let levels: [fn(&RouterState) -> bool; 3] = [
            |router| router.ready && router.own_zone,
            |router| router.ready,
            |_| true,
        ];
        for level in levels {
            let of_level = |(link, router): (&LinkId, &RouterState)| level(router).then_some(*link);
            self.usable = self.routers.iter().filter_map(of_level).collect();
            if !self.usable.is_empty() {
                return;
            }
        }
    }
}

fn overloaded() -> CallError {
    CallError::Overloaded {
        retry_after_ms: OVERLOADED_RETRY_AFTER_MS,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use rand::rngs::SmallRng;

    use super::*;
    use rand::SeedableRng as _;
    use whimbrel_protocol::cluster::Status;

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
}
