//! The shell: puts reactors, links and registry together, and takes them apart again.
//!
//! Leaving, in order: no new connections, out of the LBS's answer, a GOAWAY with a window in which clients
//! connect elsewhere, a grace period, and a report.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use whimbrel_host::config::OutOfBounds;
use whimbrel_host::{Drain, HostParts, Sparing, Tasks, loopback_of};
use whimbrel_link::{Caller, Endpoint, Handler, LinkEvent, Uplink};
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::descriptor::DescribeError;
use whimbrel_registry::{Registry, RegistryAt};

use crate::certificate::{CertificateError, Expiry};
use crate::config::GatewayConfig;
use crate::downward::Downward;
use crate::engine::{Engine, EngineError, EngineParts, Listeners, Order, Reach, Upstream};
use crate::keys::{GatewayKeys, KeyMaker};
use crate::lease::{COMPONENT, Lease};
use crate::rooms::Desk;
use crate::upward::{Cluster, Upward};

/// How often a leaving gateway looks whether everybody has left.
const LEFT_POLL: Duration = Duration::from_millis(20);

/// How long tasks that tell the registry of the last sessions may take at the end.
const TASKS_GRACE: Duration = Duration::from_secs(3);

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] OutOfBounds),
    /// Reactors or their port.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The certificate is of no use to this gateway.
    #[error("the gateway's certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The descriptor cannot be made.
    #[error("the gateway's descriptor cannot be made: {0}; check `gateway.advertise` and the certificate")]
    Descriptor(#[from] DescribeError),
}

/// How a gateway left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections when leaving began.
    pub connections_before: usize,
    /// Connections that were closed because they were still there at the end of the grace period.
    pub closed: usize,
}

/// The gateway role.
pub struct Gateway;

/// Where the shell's choices come from: chance, or a seed that replays.
pub(crate) struct Choices {
    /// Which router gets a request.
    pub(crate) uplink_seed: u64,
    /// Trace ids, and where requests without an affinity go.
    pub(crate) random: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Gateway {
    /// Starts a gateway. It is ready once a router is linked and the registry has its lease; `/readyz` says so.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        config: GatewayConfig,
        keys: GatewayKeys,
        (endpoint, events): (Endpoint, mpsc::Receiver<LinkEvent>),
        registry: RegistryAt,
        host: HostParts,
    ) -> Result<GatewayHandle, StartError> {
        config.check()?;
        let listeners = Engine::listen(config.listen, config.reactor_count())?;
        let choices = Choices {
            uplink_seed: rand::random(),
            random: Arc::new(rand::random),
        };
        Self::assemble(
            (config, listeners),
            keys,
            (endpoint, events),
            registry,
            host,
            choices,
        )
    }

    /// Puts the parts together around an engine on `listeners`.
    pub(crate) fn assemble(
        (config, listeners): (GatewayConfig, Listeners),
        keys: GatewayKeys,
        (endpoint, events): (Endpoint, mpsc::Receiver<LinkEvent>),
        registry: RegistryAt,
        host: HostParts,
        choices: Choices,
    ) -> Result<GatewayHandle, StartError> {
        #[cfg(feature = "planted-faults")]
        crate::planted::say_so();
        let identity = endpoint.identity().clone();
        keys.check(&identity.node, None, host.clock.now_ms())?;
        let expiry = Expiry::of(&keys.certificate)?;
        let downward = Arc::new(Downward::default());
        let handler: Arc<dyn Handler> = Arc::<Downward>::clone(&downward);
        let uplink = Uplink::start_seeded(endpoint.clone(), events, handler, choices.uplink_seed);
        let caller: Arc<dyn Caller> = Arc::new(uplink.clone());
        let registry = registry.reached_through(&caller);
        let tasks = Tasks::new();
        let (desk, desk_task) = Desk::new(identity.node.clone(), identity.incarnation, Arc::clone(&registry));
        let cluster = Arc::new(Cluster {
            uplink: uplink.clone(),
            registry: Arc::clone(&registry),
            tasks: tasks.spawner(),
            runtime: tokio::runtime::Handle::current(),
            reach: OnceLock::new(),
            random: choices.random,
            node: identity.node.as_str().to_owned(),
            desk: desk.clone(),
            clock: Arc::clone(&host.clock),
            unanswered_lines: Sparing::default(),
            slow_lines: Sparing::default(),
        });
        let now_ms = host.clock.now_ms();
        let endpoints = endpoints(&config, listeners.address());
        let mut maker = KeyMaker::new(keys, identity.node.clone(), endpoints);
        let keys = maker.rotate(now_ms, &mut SystemEntropy)?;
        let parts = EngineParts {
            node: identity.node.clone(),
            incarnation: identity.incarnation,
            limits: config.engine_limits(),
            clock: Arc::clone(&host.clock),
            keys: Arc::clone(&keys),
        };
        let upstream: Arc<dyn Upstream> = Arc::new(Upward(Arc::clone(&cluster)));
        let engine = Engine::start(listeners, parts, &upstream)?;
        let (address, reach) = (engine.address(), engine.reach());
        downward.serve(reach.clone(), desk.clone());
        // Set once, here.
        let _first = cluster.reach.set(reach.clone());

        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        host.health.set_ready(
            COMPONENT,
            whimbrel_host::Readiness::NotReady("starting".to_owned()),
        );
        tasks.spawn("gateway-rooms", desk_task.run(reach.clone(), stop.clone()));
        let lease = Lease {
            config: config.clone(),
            identity: identity.clone(),
            registry: Arc::clone(&registry),
            uplink,
            reach: reach.clone(),
            desk,
            health: host.health.clone(),
            clock: Arc::clone(&host.clock),
            maker,
            keys,
            expiry,
            rotated_at_ms: now_ms,
            renewed_at: None,
            term: None,
            missed: false,
            unlinked_since: None,
            drain: host.drain.clone(),
            draining: draining.clone(),
            stop: stop.clone(),
        };
        tasks.spawn("gateway-lease", lease.run());
        tracing::info!(node = %identity.node, life = ?identity.incarnation, %address, "gateway started");

        let drain = host.drain.clone();
        let leaving = Leaving {
            config,
            endpoint,
            registry,
            host,
            reach: reach.clone(),
            engine,
            tasks,
            draining,
            stop,
        };
        Ok(GatewayHandle {
            address,
            reach,
            drain,
            left: tokio::spawn(leaving.run()),
        })
    }
}

/// A running gateway.
pub struct GatewayHandle {
    address: SocketAddr,
    reach: Reach,
    drain: Drain,
    left: JoinHandle<DrainReport>,
}

impl GatewayHandle {
    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections in all states.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.reach.connections()
    }

    /// Login sessions that are registered.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.reach.sessions()
    }

    /// How often accepting has failed since the start, for want of descriptors as a rule.
    #[must_use]
    pub fn accept_errors(&self) -> usize {
        self.reach.accept_errors()
    }

    /// Handshakes that are not finished.
    #[must_use]
    pub fn unfinished_handshakes(&self) -> usize {
        self.reach.unfinished_handshakes()
    }

    /// Bytes of unfinished hellos, records, frames and held requests.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.reach.held_bytes()
    }

    /// Bytes that wait for clients.
    #[must_use]
    pub fn owed_bytes(&self) -> usize {
        self.reach.owed_bytes()
    }

    /// Orders the process to leave, this gateway with it.
    pub fn drain(&self) {
        self.drain.start();
    }

    /// Waits until the gateway has left.
    ///
    /// # Panics
    /// When the task that takes the gateway apart has panicked.
    pub async fn join(self) -> DrainReport {
        self.left
            .await
            .expect("taking a gateway apart does not panic and is not aborted")
    }
}

/// Waits for the order to leave, and leaves.
struct Leaving {
    config: GatewayConfig,
    endpoint: Endpoint,
    registry: Arc<dyn Registry>,
    host: HostParts,
    reach: Reach,
    engine: Engine,
    tasks: Tasks,
    draining: CancellationToken,
    stop: CancellationToken,
}

impl Leaving {
    async fn run(self) -> DrainReport {
        self.host.drain.started().await;
        let connections_before = self.reach.connections();
        tracing::info!(connections = connections_before, "gateway is leaving");
        self.draining.cancel();
        let window_ms = self.config.drain.window_ms;
        self.reach.order_all(&Order::Drain { window_ms }).await;
        let grace = Duration::from_millis(u64::from(self.config.drain.grace_ms));
        let everybody_left = async {
            while self.reach.connections() > 0 {
                tokio::time::sleep(LEFT_POLL).await;
            }
        };
        let in_time = tokio::time::timeout(grace, everybody_left).await.is_ok();
        let engine = self.engine;
        let stopped = if engine.has_threads() {
            let stopped = tokio::task::spawn_blocking(move || engine.stop()).await;
            stopped.expect("stopping reactors does not panic")
        } else {
            engine.stop()
        };
        let closed = stopped.closed_at_stop;
        self.stop.cancel();
        let identity = self.endpoint.identity();
        if let Err(error) = self
            .registry
            .remove_node(&identity.node, identity.incarnation)
            .await
        {
            tracing::debug!(%error, "the lease could not be given back; it ends by itself");
        }
        let tasks = self.tasks.shut_down(TASKS_GRACE).await;
        self.endpoint.shut_down().await;
        self.host.health.remove(COMPONENT);
        tracing::info!(
            connections_before,
            closed,
            in_time,
            tasks = tasks.is_clean(),
            "gateway has left"
        );
        DrainReport {
            connections_before,
            closed,
        }
    }
}

/// What clients are told to connect to.
fn endpoints(config: &GatewayConfig, address: SocketAddr) -> Vec<String> {
    if !config.advertise.is_empty() {
        return config.advertise.clone();
    }
    let loopback = loopback_of(address);
    if let Some(loopback) = loopback {
        tracing::warn!(%loopback, "`advertise` is not set and every address is listened on: only this machine's clients will find it");
    }
    vec![loopback.unwrap_or(address).to_string()]
}
