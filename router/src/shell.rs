//! The router in a process: one task between an endpoint's events and the core.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use whimbrel_host::{HostParts, Readiness};
use whimbrel_link::{Endpoint, Link, LinkEvent, LinkId, Reply, SendError, Thaw};
use whimbrel_protocol::cluster::{Envelope, RegistryRequest, Status};
use whimbrel_registry::{Registry, serve};

use crate::config::RouterConfig;
use crate::core::{Action, Core, NOBODY_SERVES, SendFailure};
use crate::meter::Meter;
use crate::topology::Topology;

/// Events handled before their actions go out.
const BATCH_LEN: usize = 256;
/// How often counts are published.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// Looks at the topology that wait; who finds no room waits, too.
const LOOKS_MAX: usize = 16;
/// Requests that may wait for a registry elsewhere: each waits two seconds at most.
const ASKED_MAX: usize = 4_096;
/// What is told beyond.
const ASKED_RETRY_AFTER_MS: u32 = 500;
/// The name under which health pages know the router.
const COMPONENT: &str = "router";

/// The router role.
#[derive(Debug)]
pub struct Router;

/// A running router.
#[derive(Debug)]
pub struct RouterHandle {
    task: JoinHandle<RouterReport>,
    view: RouterView,
}

/// A way to look at what a router sees. Clones are the same.
#[derive(Debug, Clone)]
pub struct RouterView {
    looks: mpsc::Sender<oneshot::Sender<Topology>>,
}

impl RouterView {
    /// The cluster as the router sees it now; `None` once it has left.
    pub async fn look(&self) -> Option<Topology> {
        let (tell, told) = oneshot::channel();
        self.looks.send(tell).await.ok()?;
        told.await.ok()
    }
}

/// How a router ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterReport {
    /// Requests that were still unanswered when it left.
    pub abandoned: usize,
}

impl Router {
    /// Starts switching between the nodes `endpoint` is linked with; listening and dialling are the caller's. With
    /// `registry_served` this router answers for the registry: its home, or one of the routers that reach it.
    ///
    /// It leaves when the host's drain has started: it tells its peers, goes on switching for the drain window, waits
    /// for what is out, and shuts the endpoint down. Where several roles share a process, give the router a drain of
    /// its own and start it last: the others need it to finish. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(
        config: RouterConfig,
        (endpoint, events): (Endpoint, mpsc::Receiver<LinkEvent>),
        registry_served: Option<Arc<dyn Registry>>,
        host: HostParts,
    ) -> RouterHandle {
        let own = endpoint.identity().clone();
        let (looks, looked) = mpsc::channel(LOOKS_MAX);
        let shell = Shell {
            core: Core::new(config.clone(), own, registry_served.is_some()),
            looked,
            said_unready: Some(NOBODY_SERVES),
            links: BTreeMap::new(),
            registry: registry_served,
            asked: JoinSet::new(),
            actions: Vec::new(),
            start: Instant::now(),
        };
        host.health
            .set_ready(COMPONENT, Readiness::NotReady(NOBODY_SERVES.to_owned()));
        RouterHandle {
            task: tokio::spawn(shell.run(config, endpoint, events, host)),
            view: RouterView { looks },
        }
    }
}

impl RouterHandle {
    /// A way to look at what it sees.
    #[must_use]
    pub fn view(&self) -> RouterView {
        self.view.clone()
    }

    /// Waits until the router has left.
    ///
    /// # Panics
    /// When the router's task panicked: the process must not live on without it.
    pub async fn join(self) -> RouterReport {
        match self.task.await {
            Ok(report) => report,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

struct Shell {
    core: Core,
    looked: mpsc::Receiver<oneshot::Sender<Topology>>,
    /// Why health pages say that it is not ready, if they do.
    said_unready: Option<&'static str>,
    links: BTreeMap<LinkId, Link>,
    registry: Option<Arc<dyn Registry>>,
    /// What a registry elsewhere has been asked for others.
    asked: JoinSet<()>,
    actions: Vec<Action>,
    start: Instant,
}

impl Shell {
    async fn run(
        mut self,
        config: RouterConfig,
        endpoint: Endpoint,
        mut events: mpsc::Receiver<LinkEvent>,
        host: HostParts,
    ) -> RouterReport {
        let meter = Meter::new();
        let mut batch = Vec::with_capacity(BATCH_LEN);
        let mut publish = tokio::time::interval(PUBLISH_INTERVAL);
        let mut drain_ends: Option<DrainTimes> = None;
        let mut thaw = Thaw::default();
        loop {
            let due = self.core.next_timeout();
            thaw.means_to_judge_at(due);
            let due = due.map(|at| self.start + at.max(thaw.not_before()));
            tokio::select! {
                // What is rare first, so that a flood of events cannot starve it; a fixed order lets a simulation replay.
                biased;
                () = host.drain.started(), if drain_ends.is_none() => {
                    tracing::info!(pending = self.core.pending(), "router draining");
                    drain_ends = Some(DrainTimes::new(Instant::now(), &config));
                    self.core.handle_drain(&mut self.actions);
                }
                _ = publish.tick() => {
                    meter.publish(self.now(), &self.core);
                    let now = self.now();
                    self.core.handle_clock(now, host.clock.now_ms(), &mut self.actions);
                }
                Some(look) = self.looked.recv() => {
                    let (now, up) = (self.now(), self.start.elapsed());
                    // Whoever looked may have gone.
                    drop(look.send(self.core.topology(now, up)));
                }
                received = events.recv_many(&mut batch, BATCH_LEN) => if received == 0 { break },
                () = sleep_until(due) => {}
                () = sleep_until(drain_ends.as_ref().map(|ends| ends.next(Instant::now()))) => {}
            }
            for event in batch.drain(..) {
                self.apply(event);
                // Actions go out event by event, so that a failed send is judged on the state that caused it.
                self.act();
            }
            let now = self.now();
            if thaw.judges(now, !events.is_empty()) {
                self.core.handle_timeout(now, &mut self.actions);
                self.act();
            }
            self.say_readiness(&host);
            if drain_ends
                .as_ref()
                .is_some_and(|ends| ends.are_over(Instant::now(), self.core.pending()))
            {
                break;
            }
        }
        let abandoned = self.core.pending();
        meter.publish(self.now(), &self.core);
        // The events of the end must flow, or the links' tasks would wait for room to tell them.
        let ((), ()) = tokio::join!(endpoint.shut_down(), async {
            events.close();
            while events.recv().await.is_some() {}
        });
        tracing::info!(abandoned, "router left");
        RouterReport { abandoned }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Keeps what health pages say true: a router without a service node refuses everything.
    fn say_readiness(&mut self, host: &HostParts) {
        let unready = self.core.unready();
        if std::mem::replace(&mut self.said_unready, unready) != unready {
            let readiness = match unready {
                Some(reason) => Readiness::NotReady(reason.to_owned()),
                None => Readiness::Ready,
            };
            host.health.set_ready(COMPONENT, readiness);
        }
    }

    fn apply(&mut self, event: LinkEvent) {
        let now = self.now();
        match event {
            LinkEvent::Up(link) => {
                let (id, peer) = (link.id(), link.peer().clone());
                self.links.insert(id, link);
                self.core.handle_link_up(now, id, peer, &mut self.actions);
            }
            LinkEvent::Frame(link, envelope) => {
                self.core.handle_frame(now, link, envelope, &mut self.actions)
            }
            LinkEvent::Down(link, _) => {
                self.links.remove(&link);
                self.core.handle_link_down(now, link, &mut self.actions);
            }
        }
    }

    /// Does what the core says. Failed sends add actions; each request fails over at most once, so this ends.
    fn act(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        while !actions.is_empty() {
            for action in actions.drain(..) {
                match action {
                    Action::Send(link, envelope) => self.send(link, envelope),
                    Action::Registry { asker, request } => self.serve_registry(asker, request),
                }
            }
            std::mem::swap(&mut actions, &mut self.actions);
        }
        // Keep the allocation.
        self.actions = actions;
    }

    fn send(&mut self, link: LinkId, envelope: Envelope) {
        let error = match self.links.get(&link) {
            Some(link) => match link.try_send(envelope) {
                Ok(()) => return,
                Err(error) => error,
            },
            None => SendError::Closed(Box::new(envelope)),
        };
        let failure = match &error {
            SendError::Full(_) => SendFailure::Full,
            SendError::Closed(_) => SendFailure::Closed,
            SendError::TooLarge(_) => SendFailure::TooLarge,
        };
        let now = self.now();
        self.core
            .handle_send_failed(now, link, &error.into_envelope(), failure, &mut self.actions);
    }

    /// A registry in memory answers at once; for one elsewhere the router does not wait.
    fn serve_registry(&mut self, asker: LinkId, request: Envelope) {
        let (Some(registry), Some(link)) = (&self.registry, self.links.get(&asker)) else {
            return;
        };
        while self.asked.try_join_next().is_some() {}
        let reply = Reply::new(link.clone(), &request);
        if self.asked.len() >= ASKED_MAX {
            let detail = "too many requests wait for the registry";
            return reply.fail(Status::Overloaded, detail, ASKED_RETRY_AFTER_MS);
        }
        let registry = Arc::clone(registry);
        let mut answer = Box::pin(async move {
            match RegistryRequest::decode(request.body) {
                Ok(request) => reply.ok(serve(&*registry, request).await.encode_to_vec().into()),
                Err(error) => reply.fail(
                    Status::BadRequest,
                    format!("a registry request does not parse: {error}"),
                    0,
                ),
            }
        });
        let answered = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if answered.is_pending() {
            self.asked.spawn(answer);
        }
    }
}

/// When a drain is over: after the window as soon as nothing is out, at the latest after the grace.
#[derive(Debug)]
struct DrainTimes {
    window: Instant,
    grace: Instant,
}

impl DrainTimes {
    fn new(now: Instant, config: &RouterConfig) -> Self {
        Self {
            window: now + config.drain_window,
            grace: now + config.drain_grace.max(config.drain_window),
        }
    }

    /// When to look again.
    fn next(&self, now: Instant) -> Instant {
        if now < self.window {
            self.window
        } else {
            self.grace
        }
    }

    fn are_over(&self, now: Instant, pending: usize) -> bool {
        now >= self.grace || (now >= self.window && pending == 0)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
