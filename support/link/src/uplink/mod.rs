//! A leaf role's way into the cluster: a link to every router, behind one object that asks and serves.

mod call;
mod core;
mod routers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use whimbrel_protocol::cluster::{Envelope, Kind, Priority, Probe, ProbeResponse, Role};

pub use self::call::{CallError, Caller, Handler, Reply};
use self::core::{Core, Settled};
use crate::endpoint::Endpoint;
use crate::identity::LinkId;
use crate::link::{Link, LinkEvent, SendError};
use crate::task;
use crate::thaw::Thaw;

/// Events handled under one lock.
const BATCH_LEN: usize = 128;
/// How far the task sleeps when nothing is due; any long time does.
const LONG_SLEEP: Duration = Duration::from_secs(3_600);

/// What probes are told about this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it wants work.
    pub ready: bool,
    /// Why not.
    pub reason: String,
    /// 0 idle to 1000 full.
    pub load_permille: u32,
    /// Whether it is on its way out.
    pub draining: bool,
    /// What its wall clock says as this is said, unix ms; 0: nothing.
    pub utc_ms: u64,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            ready: false,
            reason: "starting".to_owned(),
            load_permille: 0,
            draining: false,
            utc_ms: 0,
        }
    }
}

impl Readiness {
    /// The answer to a probe that comes `later`.
    #[must_use]
    pub fn to_probe_response(&self, later: Duration) -> ProbeResponse {
        let later_ms = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        ProbeResponse {
            utc_ms: match self.utc_ms {
                0 => 0,
                utc_ms => utc_ms.saturating_add(later_ms),
            },
            ready: self.ready,
            reason: self.reason.clone(),
            load_permille: self.load_permille,
            draining: self.draining,
        }
    }
}

/// Asks the cluster and serves it. Clones are the same uplink.
#[derive(Clone)]
pub struct Uplink {
    shared: Arc<Shared>,
}

type Done = Box<dyn FnOnce(Result<Envelope, CallError>) + Send>;

struct Shared {
    state: Mutex<State>,
    /// Wakes the task for completions and for an earlier deadline.
    wake: Notify,
    routers: watch::Sender<usize>,
    ready_routers: watch::Sender<usize>,
    start: Instant,
}

struct State {
    core: Core<Done>,
    links: BTreeMap<LinkId, Link>,
    rng: SmallRng,
    /// Requests settled outside the task, whose completions it still has to run.
    settled: Vec<Settled<Done>>,
    readiness: Readiness,
    /// When that was said, since the start.
    said_at: Duration,
    /// What each router says of this node's clock: how far it is ahead of most, ms, if that is too much.
    clock_ahead_ms: BTreeMap<LinkId, i64>,
    /// This node's zone; empty: none.
    zone: String,
    closed: bool,
    /// When the task looks for deadlines by itself, since the start.
    alarm: Duration,
}

/// How an envelope is given to a link.
type Give = fn(&Link, Envelope) -> Result<(), SendError>;

impl Uplink {
    /// Takes over an endpoint's events. The task ends when the endpoint does. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(endpoint: Endpoint, events: mpsc::Receiver<LinkEvent>, handler: Arc<dyn Handler>) -> Self {
        Self::start_seeded(endpoint, events, handler, rand::random())
    }

    /// The same with the seed of its choices given, for simulations that must replay.
    #[must_use]
    pub fn start_seeded(
        endpoint: Endpoint,
        events: mpsc::Receiver<LinkEvent>,
        handler: Arc<dyn Handler>,
        seed: u64,
    ) -> Self {
        let state = State {
            core: Core::new(),
            links: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            settled: Vec::new(),
            readiness: Readiness::default(),
            said_at: Duration::ZERO,
            clock_ahead_ms: BTreeMap::new(),
            zone: endpoint.identity().zone.clone(),
            closed: false,
            alarm: Duration::ZERO,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            routers: watch::channel(0).0,
            ready_routers: watch::channel(0).0,
            start: Instant::now(),
        });
        tokio::spawn(task::guarded(
            "uplink",
            run(Arc::clone(&shared), endpoint, events, handler),
        ));
        Self { shared }
    }

    /// Sends `request` and hands the outcome to `done`, on the uplink's task: `done` must not block. Id and deadline of
    /// the request are filled in.
    pub fn submit(
        &self,
        request: Envelope,
        deadline: Duration,
        done: impl FnOnce(Result<Envelope, CallError>) + Send + 'static,
    ) {
        self.ask(request, deadline, Box::new(done), Link::try_send);
    }

    /// The same for a thread that is no task: the request waits for [`flush`](Self::flush), which must follow soon.
    pub fn queue(
        &self,
        request: Envelope,
        deadline: Duration,
        done: impl FnOnce(Result<Envelope, CallError>) + Send + 'static,
    ) {
        self.ask(request, deadline, Box::new(done), Link::queue);
    }

    /// Writes what was queued, from the caller's thread if that is possible at once.
    pub fn flush(&self) {
        let links: Vec<Link> = self.shared.state().links.values().cloned().collect();
        links.iter().for_each(Link::flush);
    }

    fn ask(&self, request: Envelope, deadline: Duration, done: Done, give: Give) {
        let shared = &self.shared;
        let now = shared.start.elapsed();
        let mut guard = shared.state();
        let state = &mut *guard;
        let wake = if state.closed {
            state
                .settled
                .push((done, Err(CallError::Unavailable { retry_after_ms: 0 })));
            true
        } else {
            let links = &state.links;
            let settled = state.core.submit(
                now,
                request,
                deadline,
                done,
                &mut state.rng,
                &mut |link, envelope| send(links, link, envelope, give),
            );
            let is_settled = settled.is_some();
            state.settled.extend(settled);
            is_settled || state.core.next_deadline().is_some_and(|at| at < state.alarm)
        };
        let orphaned = if state.closed {
            std::mem::take(&mut state.settled)
        } else {
            Vec::new()
        };
        drop(guard);
        if wake {
            shared.wake.notify_one();
        }
        // The task is gone: nobody else can run these.
        settle(orphaned);
    }

    /// What probes are told from now on. A change of `ready` or `draining` is told to every router at once.
    pub fn set_readiness(&self, readiness: Readiness) {
        let now = self.shared.start.elapsed();
        let mut state = self.shared.state();
        let old = std::mem::replace(&mut state.readiness, readiness);
        state.said_at = now;
        if (old.ready, old.draining) != (state.readiness.ready, state.readiness.draining) {
            let told = unasked(state.said(now));
            for link in state.links.values() {
                tell(link, told.clone());
            }
        }
    }

    /// What is wrong with this node's clock and what to do, when all routers that judge it say that it is too far from most
    /// nodes'.
    #[must_use]
    pub fn clock_fault(&self) -> Option<String> {
        let ahead_ms = self.clock_ahead_ms();
        let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
        let seconds = ahead_ms.unsigned_abs() / 1_000;
        (ahead_ms != 0).then(|| {
            format!("this machine's clock is {seconds} s {way} that of most nodes: set it right, and keep it so by NTP")
        })
    }

    /// How far it is ahead, ms (behind: negative), by the router that finds it least; 0: right.
    fn clock_ahead_ms(&self) -> i64 {
        let state = self.shared.state();
        let said = state.clock_ahead_ms.values().copied();
        said.min_by_key(|ahead_ms| ahead_ms.unsigned_abs()).unwrap_or(0)
    }

    /// How many routers are linked now.
    #[must_use]
    pub fn routers(&self) -> watch::Receiver<usize> {
        self.shared.routers.subscribe()
    }

    /// How many of them can serve now: they are not draining, and a service node is fit.
    #[must_use]
    pub fn ready_routers(&self) -> watch::Receiver<usize> {
        self.shared.ready_routers.subscribe()
    }
}

#[async_trait]
impl Caller for Uplink {
    async fn call(&self, request: Envelope, deadline: Duration) -> Result<Envelope, CallError> {
        let (done, answer) = oneshot::channel();
        // Whoever stopped waiting does not want the answer.
        self.submit(request, deadline, move |outcome| drop(done.send(outcome)));
        answer.await.unwrap_or(Err(CallError::Lost))
    }
}

impl State {
    /// What this node says of itself now.
    fn said(&self, now: Duration) -> Bytes {
        let later = now.saturating_sub(self.said_at);
        Bytes::from(self.readiness.to_probe_response(later).encode_to_vec())
    }

    /// When the task is to look for deadlines. An alarm that is set for something settled meanwhile stays: to ring once in
    /// vain costs less than being woken for each first request of many.
    fn set_alarm(&mut self, now: Duration) -> Duration {
        let next = self.core.next_deadline();
        if self.alarm <= now || next.is_some_and(|next| next < self.alarm) {
            self.alarm = next.unwrap_or(now + LONG_SLEEP);
        }
        self.alarm
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock calls foreign code, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    mut events: mpsc::Receiver<LinkEvent>,
    handler: Arc<dyn Handler>,
) {
    let mut batch = Vec::with_capacity(BATCH_LEN);
    let mut work = Work::default();
    let mut thaw = Thaw::default();
    let mut alarm = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        let (at, due) = {
            let mut state = shared.state();
            (
                state.set_alarm(shared.start.elapsed()),
                state.core.next_deadline(),
            )
        };
        thaw.means_to_judge_at(due);
        let at = shared.start + at.max(thaw.not_before());
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        tokio::select! {
            // Answers first: after a standstill they are there, and every deadline is over. And in a fixed order, so that a
            // simulation replays.
            biased;
            received = events.recv_many(&mut batch, BATCH_LEN) => if received == 0 { break },
            () = shared.wake.notified() => {}
            () = &mut alarm => {}
            () = endpoint.stopped(), if batch.is_empty() => break,
        }
        {
            let mut guard = shared.state();
            let state = &mut *guard;
            let now = shared.start.elapsed();
            for event in batch.drain(..) {
                apply(state, now, event, &mut work);
            }
            work.settled.append(&mut state.settled);
            if thaw.judges(now, !events.is_empty()) {
                work.settled.extend(state.core.handle_timeout(now));
            }
            publish(&shared.routers, state.core.routers());
            publish(&shared.ready_routers, state.core.ready_routers());
        }
        settle(work.settled.drain(..));
        for (request, reply) in work.requests.drain(..) {
            handler.handle(request, reply);
        }
    }
    let left = {
        let mut state = shared.state();
        state.closed = true;
        state.links.clear();
        let mut left = std::mem::take(&mut state.settled);
        left.extend(state.core.handle_closed());
        left
    };
    shared.routers.send_replace(0);
    shared.ready_routers.send_replace(0);
    settle(left);
}

fn publish(watched: &watch::Sender<usize>, count: usize) {
    watched.send_if_modified(|known| std::mem::replace(known, count) != count);
}

/// What is left to do once the lock is released.
#[derive(Default)]
struct Work {
    settled: Vec<Settled<Done>>,
    requests: Vec<(Envelope, Reply)>,
}

fn apply(state: &mut State, now: Duration, event: LinkEvent, work: &mut Work) {
    match event {
        LinkEvent::Up(link) if link.peer().role == Role::Router => {
            tell(&link, unasked(state.said(now)));
            let own_zone = !state.zone.is_empty() && link.peer().zone == state.zone;
            state
                .core
                .handle_router_up(link.id(), link.peer().node.clone(), own_zone);
            state.links.insert(link.id(), link);
        }
        LinkEvent::Up(link) => {
            tracing::warn!(peer = %link.peer(), "linked with a node that is no router: its requests are ignored");
        }
        LinkEvent::Down(id, _) => {
            state.clock_ahead_ms.remove(&id);
            if state.links.remove(&id).is_some() {
                let links = &state.links;
                work.settled.extend(state.core.handle_router_down(
                    now,
                    id,
                    &mut state.rng,
                    &mut |link, envelope| send(links, link, envelope, Link::try_send),
                ));
            }
        }
        LinkEvent::Frame(id, envelope) => {
            let Some(link) = state.links.get(&id) else { return };
            let is_probe = envelope.kind == i32::from(Kind::Probe);
            if envelope.response && is_probe && envelope.id == 0 {
                let ready =
                    ProbeResponse::decode(envelope.body).is_ok_and(|told| told.ready && !told.draining);
                state.core.handle_readiness(id, ready);
            } else if envelope.response {
                let links = &state.links;
                work.settled.extend(state.core.handle_response(
                    now,
                    id,
                    envelope,
                    &mut state.rng,
                    &mut |link, envelope| send(links, link, envelope, Link::try_send),
                ));
            } else if is_probe {
                Reply::new(link.clone(), &envelope).ok(state.said(now));
                let asked = Probe::decode(envelope.body).unwrap_or_default();
                state.clock_ahead_ms.insert(id, asked.clock_ahead_ms);
            } else {
                let reply = Reply::new(link.clone(), &envelope);
                work.requests.push((envelope, reply));
            }
        }
    }
}

fn settle(settled: impl IntoIterator<Item = Settled<Done>>) {
    for (done, outcome) in settled {
        done(outcome);
    }
}

fn send(
    links: &BTreeMap<LinkId, Link>,
    link: LinkId,
    envelope: Envelope,
    give: Give,
) -> Result<(), SendError> {
    match links.get(&link) {
        Some(link) => give(link, envelope),
        None => Err(SendError::Closed(Box::new(envelope))),
    }
}

/// A probe's answer that nobody asked for.
fn unasked(body: Bytes) -> Envelope {
    Envelope {
        response: true,
        kind: Kind::Probe.into(),
        priority: Priority::Control.into(),
        body,
        ..Envelope::default()
    }
}

fn tell(link: &Link, told: Envelope) {
    // A full or closed link learns it from its next probe, or not at all.
    if let Err(error) = link.try_send(told) {
        tracing::debug!(%error, peer = %link.peer(), "readiness was not told");
    }
}
