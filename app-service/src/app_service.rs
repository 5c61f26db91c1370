//! The shell: puts the parts of this role together over real time, links and sockets, and takes them apart again.
//!
//! The order of taking apart is that of a request's way: nothing new comes in, what is in progress is answered, what
//! was committed is written to rows, rows are told, and only then do the links end. What the grace period cuts off is
//! found by its markers.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use whimbrel_host::http::HttpLimits;
use whimbrel_host::{BindError, HostParts, ShutDownReport, Tasks, bind_tcp};
use whimbrel_link::{Caller, Endpoint, Handler, LinkEvent, Readiness, Reply, Uplink};
use whimbrel_protocol::cluster::{Envelope, Status};
use whimbrel_registry::{Registry, RegistryAt};
use whimbrel_store::Store;

use crate::auth::{AppError, Apps};
use crate::config::AppServiceConfig;
use crate::env::{self, BoxFuture, Entropy, Env, ThreadEntropy};
use crate::failure::Failure;
use crate::http::{Api, ApiError, ApiParts};
use crate::lease::Lease;
use crate::node::{Node, NodeParts};
use crate::one_store::hex;
use crate::placement::Peer;
use crate::service::Service;

/// How long a request that came before this node was ready is asked to wait.
const STARTING_RETRY_AFTER_MS: u32 = 300;
/// How long [`AppServiceHandle::join`] lets what is in progress finish.
const DRAIN_GRACE: Duration = Duration::from_secs(20);
/// How long removing the lease may take; it ends by itself soon after.
const LEASE_REMOVAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A body much larger than allowed is refused before it is read; a little larger one gets an answer that explains.
const REFUSED_UNREAD_FACTOR: usize = 16;

/// Why the role could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configured apps cannot be served.
    #[error(transparent)]
    Apps(#[from] AppError),
    /// The HTTP API cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The store cannot be read, or does not take the record of this process's life.
    #[error("the store cannot be used: {0}")]
    Store(#[from] Failure),
}

/// The app-service role.
pub struct AppService;

impl AppService {
    /// Starts the role. It serves once a router is linked to `links`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        config: AppServiceConfig,
        store: Arc<dyn Store>,
        links: (Endpoint, mpsc::Receiver<LinkEvent>),
        registry: RegistryAt,
        host: HostParts,
    ) -> Result<AppServiceHandle, StartError> {
        let apps = Apps::from_config(&config.apps)?;
        Self::start_with(
            (config, apps),
            store,
            links,
            registry,
            host,
            Arc::new(ThreadEntropy),
        )
        .await
    }

    /// Starts the role with apps that are known already, and with `entropy` for all its choices: for simulations that
    /// must replay.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_with(
        (config, apps): (AppServiceConfig, Apps),
        store: Arc<dyn Store>,
        links: (Endpoint, mpsc::Receiver<LinkEvent>),
        registry: RegistryAt,
        host: HostParts,
        entropy: Arc<dyn Entropy>,
    ) -> Result<AppServiceHandle, StartError> {
        #[cfg(feature = "planted-faults")]
        crate::planted::say_so();
        let listener = match config.http.listen {
            Some(address) => Some(bind_tcp("the HTTP API", "app-service.http.listen", address).await?),
            None => None,
        };
        let tasks = Tasks::new();
        let seed = entropy.random_u64();
        let env = env_of(&host, &tasks, entropy);

        let (endpoint, events) = links;
        let identity = endpoint.identity().clone();
        let handler = Arc::new(LateHandler::default());
        let serving = Arc::clone(&handler) as Arc<dyn Handler>;
        let uplink = Uplink::start_seeded(endpoint.clone(), events, serving, seed);
        let caller: Arc<dyn Caller> = Arc::new(uplink.clone());
        let registry = registry.reached_through(&caller);
        let parts = NodeParts {
            me: Peer {
                node: identity.node.clone(),
                incarnation: identity.incarnation,
                draining: false,
                app_keys: identity.app_keys.clone(),
                capacity: identity.capacity,
            },
            apps: apps.clone(),
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
            caller,
            env: env.clone(),
        };
        let epoch = store.epoch().await.map_err(Failure::from)?;
        let node = Node::start(&config, parts).await?;
        handler.serve(node.service().clone());

        let lease = Lease {
            identity: identity.clone(),
            registry: Arc::clone(&registry),
            placement: node.placement().clone(),
            rooms: node.rooms().clone(),
            service: node.service().clone(),
            uplink: uplink.clone(),
            health: host.health.clone(),
            drain: host.drain.clone(),
            renewal: Duration::from_secs(config.service.lease_renewal_s.max(1)),
            env: env.clone(),
            store: epoch,
        };
        let lease_stop = CancellationToken::new();
        tasks.spawn("lease", lease.run(lease_stop.clone()));

        let http_stop = CancellationToken::new();
        let mut http_address = None;
        if let Some(listener) = listener {
            http_address = listener.local_addr().ok();
            let routes = Api::routes(ApiParts {
                log: node.log().clone(),
                service: node.service().clone(),
                store,
                registry: Arc::clone(&registry),
                apps,
                env,
                body_len_max: config.http.body_len_max,
                timeout: Duration::from_millis(config.http.timeout_ms),
            });
            let limits = HttpLimits {
                body_len_max: config.http.body_len_max.saturating_mul(REFUSED_UNREAD_FACTOR),
                request_timeout: Duration::from_millis(config.http.timeout_ms),
                refuse: ApiError::over_bound,
                ..HttpLimits::default()
            };
            let until = http_stop.clone().cancelled_owned();
            tasks.spawn(
                "http",
                whimbrel_host::http::serve(listener, routes, limits, until),
            );
        }
        tracing::info!(
            node = %identity.node,
            life = ?identity.incarnation,
            store = hex(&epoch.0),
            "app-service started"
        );
        Ok(AppServiceHandle {
            http_address,
            host,
            tasks,
            endpoint,
            uplink,
            registry,
            node,
            http_stop,
            lease_stop,
        })
    }
}

/// A running app-service.
pub struct AppServiceHandle {
    http_address: Option<SocketAddr>,
    host: HostParts,
    tasks: Tasks,
    endpoint: Endpoint,
    uplink: Uplink,
    registry: Arc<dyn Registry>,
    node: Node,
    http_stop: CancellationToken,
    lease_stop: CancellationToken,
}

impl AppServiceHandle {
    /// Where the HTTP API listens.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Waits for the process's drain, then leaves.
    pub async fn join(self) -> ShutDownReport {
        self.host.drain.started().await;
        self.shut_down(DRAIN_GRACE).await
    }

    /// Leaves: refuses what is new, finishes what is in progress for at most `grace`, and ends the links.
    pub async fn shut_down(self, grace: Duration) -> ShutDownReport {
        let started = tokio::time::Instant::now();
        self.node.service().drain();
        self.uplink.set_readiness(Readiness {
            ready: false,
            reason: "this node is draining".to_owned(),
            draining: true,
            ..Readiness::default()
        });
        self.http_stop.cancel();
        let finished = tokio::time::timeout(grace, self.node.finish()).await;
        if finished.is_err() {
            tracing::warn!("not all that was in progress was finished; markers keep it for another node");
        }
        self.node.stop();
        self.lease_stop.cancel();
        let identity = self.endpoint.identity();
        let removal = self.registry.remove_node(&identity.node, identity.incarnation);
        if !matches!(
            tokio::time::timeout(LEASE_REMOVAL_TIMEOUT, removal).await,
            Ok(Ok(()))
        ) {
            tracing::debug!("the lease was not removed; it ends by itself");
        }
        let report = self
            .tasks
            .shut_down(grace.saturating_sub(started.elapsed()))
            .await;
        self.endpoint.shut_down().await;
        self.host.health.remove("app-service");
        report
    }
}

fn env_of(host: &HostParts, tasks: &Tasks, entropy: Arc<dyn Entropy>) -> Env {
    let clock = Arc::new(HostClock(Arc::clone(&host.clock)));
    let spawner = Arc::new(TaskSpawner(tasks.spawner()));
    Env {
        entropy,
        ..Env::of_tokio(clock, spawner)
    }
}

struct HostClock(Arc<dyn whimbrel_host::Clock>);

impl env::Clock for HostClock {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

struct TaskSpawner(whimbrel_host::Spawner);

impl env::Spawner for TaskSpawner {
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) {
        self.0.spawn(name, task);
    }
}

/// Stands in for the service until it is there: the service calls over the very links whose requests it handles.
#[derive(Default)]
struct LateHandler(OnceLock<Service>);

impl LateHandler {
    fn serve(&self, service: Service) {
        // Set once, by the one start of this handler.
        drop(self.0.set(service));
    }
}

impl Handler for LateHandler {
    fn handle(&self, request: Envelope, reply: Reply) {
        match self.0.get() {
            Some(service) => service.handle(request, reply),
            None => reply.fail(
                Status::Unavailable,
                "this node is starting",
                STARTING_RETRY_AFTER_MS,
            ),
        }
    }
}
