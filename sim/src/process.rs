//! One simulated process: a role as production runs it, shell included, on a runtime of its own with paused time.
//!
//! A process runs when the world lets it, up to the moment the world names; its timers fire in order on the way. While it is
//! frozen it does not run and the world goes on; when it wakes its clock jumps, and all its timers are late. A crash drops
//! the runtime: every task ends at the await it was at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use whimbrel_app_service::auth::Apps;
use whimbrel_app_service::{AppService, AppServiceConfig, AppServiceHandle};
use whimbrel_gateway::simulation::Network;
use whimbrel_gateway::{Gateway, GatewayConfig, GatewayHandle, GatewayKeys};
use whimbrel_host::{Drain, HostParts};
use whimbrel_link::{ClusterSecret, Endpoint, Identity, LinkEvent};
use whimbrel_protocol::cluster::NodeLease;
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{MemoryRegistry, Registry as _, RegistryAt, Role, RoomKey};
use whimbrel_router::{Router, RouterConfig, RouterHandle};

use crate::clock::ProcessClock;
use crate::dice::{Dice, SharedDice};
use crate::store::{NodeStore, SharedStore};

/// The router that is the registry's home.
pub(crate) const REGISTRY_HOME: &str = "router-1";

/// Reactors of a gateway: two, so that connections move between them.
const REACTORS: usize = 2;

/// Connections of one gateway, far more than there are devices.
const CONNECTIONS_MAX: usize = 512;

/// The heartbeat of clients, ms: a connection that went dead is noticed well within a run.
const HEARTBEAT_MS: u32 = 10_000;

/// What a process is made of, apart from its life.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: NodeId,
    pub(crate) role: Role,
    /// The machine's clock is so much ahead, ms.
    pub(crate) skew_ms: u64,
}

/// What every process is given.
pub(crate) struct Surroundings {
    pub(crate) store: Arc<SharedStore>,
    pub(crate) apps: Apps,
    pub(crate) secret: ClusterSecret,
}

/// A running process. See the module.
pub(crate) struct Process {
    pub(crate) identity: Identity,
    pub(crate) endpoint: Endpoint,
    pub(crate) frozen_until_ms: Option<u64>,
    body: Body,
    drain: Drain,
    /// Set once it has left of itself.
    left: Arc<AtomicBool>,
    clock: Arc<ProcessClock>,
    ran_to_ms: u64,
    runtime: Runtime,
}

type ServiceOutcome = Arc<Mutex<Option<Result<AppServiceHandle, String>>>>;

enum Body {
    Gateway {
        network: Network,
        /// Until it is told to leave.
        handle: Option<GatewayHandle>,
    },
    Router {
        registry: Option<Arc<MemoryRegistry>>,
        handle: Option<RouterHandle>,
    },
    Service(ServiceOutcome),
}

impl Process {
    /// Starts a life of a process.
    pub(crate) fn start(
        plan: &Plan,
        surroundings: &Surroundings,
        keys: Option<GatewayKeys>,
        now_ms: u64,
        mut dice: Dice,
    ) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without input and output needs nothing of the system");
        let identity = Identity {
            node: plan.name.clone(),
            role: plan.role,
            incarnation: Incarnation(dice.next() | 1),
            cluster: "simulation".to_owned(),
            zone: String::new(),
            version_tag: String::new(),
            app_keys: Vec::new(),
            capacity: whimbrel_link::Capacity::ORDINARY,
        };
        let (endpoint, clock, drain, body) = {
            let _entered = runtime.enter();
            let clock = Arc::new(ProcessClock::start(now_ms, plan.skew_ms));
            let (endpoint, events) = Endpoint::new(identity.clone(), surroundings.secret.clone());
            let host = HostParts::on_clock(Arc::<ProcessClock>::clone(&clock));
            let drain = host.drain.clone();
            let links = (endpoint.clone(), events);
            let body = match plan.role {
                Role::Gateway => gateway(keys.expect("a gateway has keys"), links, host, &mut dice),
                Role::Router => router(&identity, links, host, &clock),
                _ => service(surroundings, links, host, (&clock, &runtime), dice),
            };
            (endpoint, clock, drain, body)
        };
        Self {
            identity,
            endpoint,
            frozen_until_ms: None,
            body,
            drain,
            left: Arc::default(),
            clock,
            ran_to_ms: now_ms,
            runtime,
        }
    }

    /// Runs up to `to_ms`, unless it is frozen.
    pub(crate) fn run(&mut self, to_ms: u64) {
        if self.frozen_until_ms.is_none() {
            let until = self.clock.instant(to_ms);
            self.runtime
                .block_on(async move { tokio::time::sleep_until(until).await });
            self.ran_to_ms = to_ms;
        }
    }

    /// Wakes from being frozen: its time jumps to now.
    pub(crate) fn wake(&mut self, now_ms: u64) {
        if self.frozen_until_ms.take().is_some() {
            let gap = Duration::from_millis(now_ms.saturating_sub(self.ran_to_ms));
            self.runtime.block_on(tokio::time::advance(gap));
            self.ran_to_ms = now_ms;
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen_until_ms.is_some()
    }

    /// What clients of this gateway connect to.
    pub(crate) fn network(&self) -> Option<&Network> {
        match &self.body {
            Body::Gateway { network, .. } => Some(network),
            _ => None,
        }
    }

    /// Registered sessions of this gateway.
    pub(crate) fn sessions(&self) -> usize {
        match &self.body {
            Body::Gateway { handle, .. } => handle.as_ref().map_or(0, GatewayHandle::sessions),
            _ => 0,
        }
    }

    /// Orders it to leave, as SIGTERM does: it finishes what it has begun, sees to it that nobody is lost, and is gone.
    pub(crate) fn leave(&mut self) {
        self.drain.start();
        let left = Arc::clone(&self.left);
        match &mut self.body {
            Body::Gateway { handle, .. } => {
                if let Some(handle) = handle.take() {
                    self.runtime.spawn(async move {
                        handle.join().await;
                        left.store(true, Ordering::Relaxed);
                    });
                }
            }
            Body::Router { handle, .. } => {
                if let Some(handle) = handle.take() {
                    self.runtime.spawn(async move {
                        handle.join().await;
                        left.store(true, Ordering::Relaxed);
                    });
                }
            }
            Body::Service(outcome) => {
                let started = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
                // One that is still starting is just ended.
                let Some(Ok(handle)) = started else {
                    return left.store(true, Ordering::Relaxed);
                };
                self.runtime.spawn(async move {
                    handle.join().await;
                    left.store(true, Ordering::Relaxed);
                });
            }
        }
    }

    /// Whether it has left of itself.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// How many sessions are in a room, as the registry at home here says; `None` when it is elsewhere.
    pub(crate) fn room_members(&self, app_key: &str, room: &str) -> Option<u64> {
        let Body::Router {
            registry: Some(registry),
            ..
        } = &self.body
        else {
            return None;
        };
        let key = RoomKey {
            app_key: app_key.to_owned(),
            room: room.to_owned(),
        };
        let gateways = self.runtime.block_on(registry.look_up_room(key)).ok()?;
        Some(gateways.iter().map(|on| u64::from(on.members)).sum())
    }

    /// Why the role could not start, if it could not: then the process has ended.
    pub(crate) fn failure(&self) -> Option<String> {
        let Body::Service(outcome) = &self.body else {
            return None;
        };
        let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match &*outcome {
            Some(Err(error)) => Some(error.clone()),
            _ => None,
        }
    }

    /// The gateways that the registry at home here knows; `None` when it is elsewhere.
    pub(crate) fn gateways(&mut self) -> Option<Vec<NodeLease>> {
        let Body::Router {
            registry: Some(registry),
            ..
        } = &self.body
        else {
            return None;
        };
        self.runtime.block_on(registry.nodes(Some(Role::Gateway))).ok()
    }
}

type Links = (Endpoint, mpsc::Receiver<LinkEvent>);

fn gateway(keys: GatewayKeys, links: Links, host: HostParts, dice: &mut Dice) -> Body {
    let network = Network::new();
    let mut config = GatewayConfig {
        advertise: vec!["10.0.0.1:7100".to_owned()],
        reactors: REACTORS,
        connections_max: CONNECTIONS_MAX,
        ..GatewayConfig::default()
    };
    config.session.heartbeat_ms = HEARTBEAT_MS;
    let handle = Gateway::start_simulated(config, keys, links, home(), host, (&network, dice.next()));
    Body::Gateway {
        network,
        handle: Some(handle.expect("a simulated gateway has all it needs")),
    }
}

fn router(identity: &Identity, links: Links, host: HostParts, clock: &Arc<ProcessClock>) -> Body {
    let registry = (identity.node.as_str() == REGISTRY_HOME).then(|| {
        let clock = Arc::clone(clock);
        let monotonic = move || whimbrel_host::Clock::monotonic(&*clock);
        Arc::new(MemoryRegistry::with_clock(
            identity.incarnation,
            Arc::new(monotonic),
        ))
    });
    Body::Router {
        registry: registry.clone(),
        handle: Some(Router::start(
            RouterConfig::default(),
            links,
            registry.map(|registry| registry as _),
            host,
        )),
    }
}

fn service(
    surroundings: &Surroundings,
    links: Links,
    host: HostParts,
    (clock, runtime): (&Arc<ProcessClock>, &Runtime),
    dice: Dice,
) -> Body {
    let mut config = AppServiceConfig::default();
    // What is looked for now and then is looked for often, so that runs stay short.
    config.sweep.interval_s = 2;
    config.sweep.own_age_s = 10;
    config.service.lease_renewal_s = 1;
    let store = Arc::new(NodeStore {
        shared: Arc::clone(&surroundings.store),
        clock: Arc::clone(clock),
        process: Arc::new(()),
    });
    let apps = surroundings.apps.clone();
    let outcome = ServiceOutcome::default();
    let told = Arc::clone(&outcome);
    runtime.spawn(async move {
        let entropy = Arc::new(SharedDice::new(dice));
        let started = AppService::start_with((config, apps), store, links, home(), host, entropy).await;
        let started = started.map_err(|error| error.to_string());
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
    });
    Body::Service(outcome)
}

fn home() -> RegistryAt {
    RegistryAt::Linked {
        home: Some(NodeId::new(REGISTRY_HOME).expect("the name of a node")),
    }
}
