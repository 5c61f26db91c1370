//! One role as a process of its own: its configuration read, its parts made, served until it is told to drain.
//!
//! Each `run_*` reads as the story of its role: configuration, links, role, ready file, drain.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;
use whimbrel_app_service::AppService;
use whimbrel_gateway::Gateway;
use whimbrel_host::{
    HostParts, TelemetryConfig, config, fold_metrics, init_telemetry, loopback_of, serve_pages,
};
use whimbrel_lbs::Lbs;
use whimbrel_link::{
    APP_KEYS_MAX, Caller, Capacity, ClusterSecret, Endpoint, Identity, LABEL_LEN_MAX, LinkEvent,
};
use whimbrel_protocol::{
    SystemEntropy,
    cluster::Role,
    descriptor::RootPublicKey,
    entropy::Entropy as _,
    ids::{AppKey, Incarnation, NodeId},
};
use whimbrel_registry::{MemoryRegistry, Registry, RegistryAt, follow_routers};
use whimbrel_registry_redis::{RedisConfig, RedisRegistry};
use whimbrel_router::{Router, announce};

use crate::{
    cli::RoleArgs,
    config::{
        AppServiceFile, Checked, GatewayFile, HealthSection, Kept, LbsFile, LinksSection, NodeSection,
        RegistrySection, RouterFile,
    },
    gateway_identity, lbs_links,
    posted::Posted,
    secret_file, store, supervisor,
    token::now_ms,
    topology_page::TopologyPage,
    whose_config,
};

/// How long an LBS may take to finish the answers it is at.
const LBS_GRACE: Duration = Duration::from_secs(5);
/// A role that is started again at once may find its predecessor's port or lock still held for a moment.
pub(crate) const PREDECESSOR_WAIT: Duration = Duration::from_secs(5);
pub(crate) const PREDECESSOR_POLL: Duration = Duration::from_millis(50);
/// Told to peers and shown to operators.
const VERSION_TAG: &str = env!("CARGO_PKG_VERSION");
const _: () = assert!(VERSION_TAG.len() <= LABEL_LEN_MAX, "peers refuse longer ones");

/// `whimbrel gateway`.
pub(crate) async fn run_gateway(args: RoleArgs) -> anyhow::Result<()> {
    let file: GatewayFile = read(&args, |file: &GatewayFile| &file.telemetry)?;
    let process = Process::begin(&file.health, &args).await?;
    let registry = registry_at(&file.registry, &file.node, &file.links.secret, &process.host).await?;
    let links = leaf_links(&file.node, Role::Gateway, &file.links, &registry)?;
    process.leave_when_taken_over(&links.0, Some(&registry));
    let certificate = beside_config(&args, &file.identity.certificate);
    let root = match &file.identity.root {
        none if none == Path::new("") => None,
        path => Some(read_root_key(&beside_config(&args, path))?),
    };
    let keys = gateway_identity::read(
        (file.identity.key.expose_secret(), &"`identity.key`"),
        &certificate,
        &links.0.identity().node,
        root.as_ref(),
        now_ms(),
    )?;
    let gateway = Gateway::start(file.gateway, keys, links, registry, process.host.clone())?;
    process.ready("gateway", json!({ "gateway_tcp": gateway.address() }))?;
    let report = gateway.join().await;
    tracing::info!(?report, "the gateway has left");
    process.end().await;
    Ok(())
}

/// `whimbrel router`.
pub(crate) async fn run_router(args: RoleArgs) -> anyhow::Result<()> {
    let file: RouterFile = read(&args, |file: &RouterFile| &file.telemetry)?;
    let topology = TopologyPage::default();
    let process = Process::begin_with(&file.health, &args, topology.routes()).await?;
    let identity = identity(&file.node, Role::Router)?;
    let registry = match in_redis(&file.registry, &file.node, &file.links.secret, &process.host).await? {
        // It answers for it, too, so that nodes that are not let near Redis reach it through any router.
        Some(redis) => Some(redis),
        None if file.registry.is_at(&identity.node)? => {
            Some(Arc::new(MemoryRegistry::new(identity.incarnation)) as Arc<dyn Registry>)
        }
        None => None,
    };
    let (endpoint, events) = Endpoint::new(identity, cluster_secret(&file.links.secret)?);
    let address = listen_for_links(&endpoint, file.links.listen, args.end_with_stdin).await?;
    tracing::info!(%address, "the router takes links");
    let router = Router::start(
        file.router,
        (endpoint.clone(), events),
        registry.clone(),
        process.host.clone(),
    );
    topology.show(router.view());
    if let Some(registry) = registry {
        let link_address = match &*file.links.advertise {
            "" => reached_at(address).to_string(),
            advertised if config::is_host_and_port(advertised) => advertised.to_owned(),
            other => {
                bail!("`links.advertise` is {other:?}: expected \"host:port\", such as \"10.0.0.7:7200\"")
            }
        };
        let (view, drain) = (router.view(), process.host.drain.clone());
        tokio::spawn(announce(registry, endpoint, link_address, view, drain));
    }
    process.ready("router", json!({ "links": address }))?;
    let report = router.join().await;
    tracing::info!(?report, "the router has left");
    process.end().await;
    Ok(())
}

/// How nodes of this machine, at least, reach what listens here.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let loopback = loopback_of(address);
    if let Some(loopback) = loopback {
        tracing::warn!(
            %loopback,
            "`links.advertise` is not set and every address is listened on: only this machine's nodes will find it"
        );
    }
    loopback.unwrap_or(address)
}

/// `whimbrel app-service`.
pub(crate) async fn run_app_service(args: RoleArgs) -> anyhow::Result<()> {
    let mut file: AppServiceFile = read(&args, |file: &AppServiceFile| &file.telemetry)?;
    file.store
        .based_at(args.config.parent().unwrap_or(Path::new(".")));
    for secret_file in file
        .app_service
        .apps
        .iter_mut()
        .flat_map(|app| &mut app.secret_files)
    {
        *secret_file = beside_config(&args, secret_file);
    }
    let process = Process::begin(&file.health, &args).await?;
    let registry = registry_at(&file.registry, &file.node, &file.links.secret, &process.host).await?;
    let secret = cluster_secret(&file.links.secret)?;
    let opener = store::Opener {
        secret: Some(&secret),
        supervised: args.end_with_stdin,
        ..store::Opener::default()
    };
    let opening = store::open(&file.store, &file.node.cluster, opener);
    let store = unless_told_to_end("the store was opened", opening, &process.host).await?;
    if let Some(kept) = file.store.kept() {
        let owner = matches!(kept, Kept::Tikv(_)).then(|| secret.fingerprint());
        tracing::info!(store = %kept, owner, "the store is open");
    }
    let links = leaf_links(&file.node, Role::AppService, &file.links, &registry)?;
    process.leave_when_taken_over(&links.0, Some(&registry));
    let app_service = AppService::start(
        file.app_service,
        Arc::clone(&store),
        links,
        registry,
        process.host.clone(),
    )
    .await?;
    store::offer_backups(&file.store, &file.node.cluster, &store, &process.host);
    process.ready("app-service", json!({ "api": app_service.http_address() }))?;
    let report = app_service.join().await;
    tracing::info!(?report, "the service node has left");
    store.close().await;
    process.end().await;
    Ok(())
}

/// `whimbrel lbs`.
pub(crate) async fn run_lbs(args: RoleArgs) -> anyhow::Result<()> {
    let file: LbsFile = read(&args, |file: &LbsFile| &file.telemetry)?;
    let process = Process::begin(&file.health, &args).await?;
    let registry = registry_at(&file.registry, &file.node, &file.links.secret, &process.host).await?;
    let (endpoint, events) = leaf_links(&file.node, Role::Lbs, &file.links, &registry)?;
    process.leave_when_taken_over(&endpoint, None);
    let uplink: Arc<dyn Caller> = Arc::new(lbs_links::start(endpoint.clone(), events, &process.host));
    let lbs = Lbs::start(file.lbs, registry.reached_through(&uplink), process.host.clone()).await?;
    process.ready("lbs", json!({ "lbs": lbs.address() }))?;
    process.host.drain.started().await;
    let report = lbs.join(LBS_GRACE).await;
    tracing::info!(?report, "the LBS has left");
    endpoint.shut_down().await;
    process.end().await;
    Ok(())
}

/// Where a role that dials routers finds the registry.
async fn registry_at(
    section: &RegistrySection,
    node: &NodeSection,
    secret: &SecretString,
    host: &HostParts,
) -> anyhow::Result<RegistryAt> {
    Ok(match in_redis(section, node, secret, host).await? {
        Some(redis) => RegistryAt::Here(redis),
        None => RegistryAt::Linked {
            home: section.home()?,
        },
    })
}

/// The registry in the Redis that the section names, if it names one.
async fn in_redis(
    section: &RegistrySection,
    node: &NodeSection,
    secret: &SecretString,
    host: &HostParts,
) -> anyhow::Result<Option<Arc<dyn Registry>>> {
    let Some(url) = section.redis() else {
        return Ok(None);
    };
    if !section.home.is_empty() {
        tracing::warn!("`registry.home` is of no meaning with `registry.redis`: the registry is in Redis");
    }
    let started = RedisRegistry::start(RedisConfig {
        url: url.to_owned(),
        cluster: node.cluster.clone(),
        owner: cluster_secret(secret)?.fingerprint(),
        start_within: whimbrel_registry_redis::START_WITHIN,
    });
    let started = async { started.await.context("`registry.redis`") };
    let redis = unless_told_to_end("Redis was waited for", started, host).await?;
    Ok(Some(redis as Arc<dyn Registry>))
}

/// The process was told to end before it served. That is no failure: nothing is to start it again for that.
#[derive(Debug, thiserror::Error)]
#[error("told to end while {meanwhile}")]
pub(crate) struct ToldToEnd {
    meanwhile: &'static str,
}

/// What `waiting` comes to, for as long as nobody tells the process to end. What is opened on a thread of its own (an embedded
/// store) is opened to its end all the same: the runtime waits for it.
async fn unless_told_to_end<T>(
    meanwhile: &'static str,
    waiting: impl Future<Output = anyhow::Result<T>>,
    host: &HostParts,
) -> anyhow::Result<T> {
    tokio::select! {
        came = waiting => came,
        () = host.drain.started() => Err(ToldToEnd { meanwhile }.into()),
    }
}

/// What every role's process has: health pages, a ready file, a drain on signals, a supervisor to end with.
struct Process {
    host: HostParts,
    health: Option<tokio::task::JoinHandle<()>>,
    posted: Posted,
    supervised: bool,
}

impl Process {
    async fn begin(health: &HealthSection, args: &RoleArgs) -> anyhow::Result<Self> {
        Self::begin_with(health, args, axum::Router::new()).await
    }

    /// The same with pages of the role's own beside those of health.
    async fn begin_with(
        health: &HealthSection,
        args: &RoleArgs,
        pages: axum::Router,
    ) -> anyhow::Result<Self> {
        if args.end_with_stdin {
            supervisor::end_with_supervisor()?;
        }
        let posted = if args.end_with_stdin {
            // Its supervisor has seen to the place; what is wrong with it now does not keep a role from serving.
            Posted::trust(args.ready_file.clone())
        } else {
            Posted::claim(args.ready_file.clone())?
        };
        let host = HostParts::on_system_clock();
        drain_on_signals(&host, posted.clone());
        tokio::spawn(fold_metrics(host.drain.clone()));
        let health = match health.listen {
            Some(address) => {
                let listener = whimbrel_host::bind_tcp("the health page", "health.listen", address).await?;
                Some(tokio::spawn(serve_pages(
                    listener,
                    host.health.clone(),
                    host.drain.clone(),
                    pages,
                )))
            }
            None => None,
        };
        Ok(Self {
            host,
            health,
            posted,
            supervised: args.end_with_stdin,
        })
    }

    /// Says where it listens. A supervised role serves though it cannot say so, and says it when it can: to end would not
    /// make room on a disk.
    fn ready(&self, role: &str, addresses: serde_json::Value) -> anyhow::Result<()> {
        let mut said = addresses;
        said["role"] = role.into();
        said["pid"] = std::process::id().into();
        let text = said.to_string();
        match self.posted.write(text.as_bytes()) {
            Err(error) if self.supervised => {
                let posted = self.posted.clone();
                tokio::spawn(async move { posted.write_at_last(Some(error), text.as_bytes()).await });
                Ok(())
            }
            written => written,
        }
    }

    /// A process whose name a later one has gets no links any more. It leaves, in order and with success: whoever watches
    /// over it and starts it again after failures would have the two take the name from one another without end.
    ///
    /// One with a lease in a registry that is reached without links hears from that whether it holds its name, and leaves by that alone:
    /// what routers remember is corrected by the same registry.
    ///
    /// A router dials nobody, and is not told so.
    fn leave_when_taken_over(&self, endpoint: &Endpoint, lease: Option<&RegistryAt>) {
        if matches!(lease, Some(RegistryAt::Here(_))) {
            return;
        }
        let (endpoint, drain) = (endpoint.clone(), self.host.drain.clone());
        tokio::spawn(async move {
            endpoint.taken_over().await;
            // While it drains it must not drive out the one that has its name.
            endpoint.dial_no_more();
            tracing::error!(
                node = %endpoint.identity().node,
                "another process has taken this node's name: this one leaves"
            );
            drain.start();
        });
    }

    async fn end(self) {
        self.host.drain.finish();
        if let Some(health) = self.health {
            // It ends with the drain; a panic in it has been reported already.
            let _ = health.await;
        }
        self.posted.remove();
    }
}

/// The first signal drains, the second ends the process at once, its ready file with it.
pub(crate) fn drain_on_signals(host: &HostParts, posted: Posted) {
    let drain = host.drain.clone();
    tokio::spawn(async move {
        match drain.on_signals().await {
            Ok(()) => {
                tracing::warn!("second signal: ending without draining");
                posted.remove();
                std::process::abort();
            }
            Err(error) => {
                tracing::error!(%error, "signals cannot be listened to: end this process by SIGKILL")
            }
        }
    });
}

fn read<T: DeserializeOwned + Checked>(
    args: &RoleArgs,
    telemetry: fn(&T) -> &TelemetryConfig,
) -> anyhow::Result<T> {
    let mut loaded = config::load::<T>(&args.config)?;
    if args.end_with_stdin {
        // Its supervisor has warned of them.
        loaded.secret_files.clear();
    }
    whose_config::check(T::COMMAND, &loaded.sections, &args.config)?;
    init_telemetry(telemetry(&loaded.value))?;
    let checked =
        crate::config::check(&loaded).with_context(|| format!("configuration {}", args.config.display()));
    let value = loaded.warned();
    checked.map(|()| value)
}

fn read_root_key(path: &Path) -> anyhow::Result<RootPublicKey> {
    secret_file::read_public(path, "root public key")?
        .parse()
        .with_context(|| {
            format!(
                "`identity.root`: {} holds no root public key: put the right file there",
                path.display()
            )
        })
}

/// Relative paths in a configuration start at its folder, as those of its secrets do.
fn beside_config(args: &RoleArgs, path: &Path) -> PathBuf {
    args.config.parent().unwrap_or(Path::new(".")).join(path)
}

/// This node, in a life that begins now.
///
/// # Errors
/// When peers would not take it for one.
pub(crate) fn identity(node: &NodeSection, role: Role) -> anyhow::Result<Identity> {
    let name = NodeId::new(&node.name).context("`node.name` must name this node")?;
    let labels = [
        ("node.cluster", &node.cluster, ", the same on every node"),
        ("node.zone", &node.zone, ", the same on every node of the zone"),
    ];
    for (key, label, on) in labels {
        if label.len() > LABEL_LEN_MAX {
            bail!(
                "`{key}` is {} bytes long, and peers take at most {LABEL_LEN_MAX}: give it a shorter name{on}",
                label.len()
            );
        }
    }
    if node.app_keys.len() > APP_KEYS_MAX {
        bail!(
            "`node.app_keys` names {} apps: a node can be kept for at most {APP_KEYS_MAX}",
            node.app_keys.len()
        );
    }
    let app_keys = node.app_keys.iter().map(|key| AppKey::new(key));
    let app_keys = app_keys
        .collect::<Result<_, _>>()
        .context("`node.app_keys` must name apps by their keys")?;
    Ok(Identity {
        node: name,
        role,
        incarnation: new_incarnation(),
        cluster: node.cluster.clone(),
        zone: node.zone.clone(),
        version_tag: VERSION_TAG.to_owned(),
        app_keys,
        capacity: Capacity::from_percent(node.capacity_percent).context("`node.capacity_percent`")?,
    })
}

fn new_incarnation() -> Incarnation {
    let mut bytes = [0; 8];
    SystemEntropy.fill(&mut bytes);
    Incarnation(u64::from_be_bytes(bytes))
}

pub(crate) fn cluster_secret(secret: &SecretString) -> anyhow::Result<ClusterSecret> {
    let text = secret.expose_secret().trim();
    if text.is_empty() {
        bail!(
            "`links.secret_file` is missing: make one with `whimbrel keygen cluster-secret` and give it to every node"
        );
    }
    ClusterSecret::from_text(text).context("`links.secret`")
}

type Links = (Endpoint, mpsc::Receiver<LinkEvent>);

/// A node that dials routers: those that are listed, and where the registry can be asked without them, those it knows.
fn leaf_links(
    node: &NodeSection,
    role: Role,
    section: &LinksSection,
    registry: &RegistryAt,
) -> anyhow::Result<Links> {
    let routers = &section.routers;
    let discovered = match registry {
        RegistryAt::Here(registry) => Some(Arc::clone(registry)),
        RegistryAt::Linked { .. } => None,
    };
    if routers.is_empty() && discovered.is_none() {
        bail!("`links.routers` is empty: name every router as \"host:port\"");
    }
    if let Some(router) = routers.iter().find(|router| !config::is_host_and_port(router)) {
        bail!("`links.routers` names {router:?}: expected \"host:port\", such as \"127.0.0.1:7200\"");
    }
    let (endpoint, events) = Endpoint::new(identity(node, role)?, cluster_secret(&section.secret)?);
    if let RegistryAt::Linked { home: Some(home) } = registry {
        endpoint.heed(home.clone());
    }
    for router in routers {
        endpoint.dial(router.clone());
    }
    if let Some(registry) = discovered {
        tokio::spawn(follow_routers(registry, endpoint.clone()));
    }
    Ok((endpoint, events))
}

async fn listen_for_links(
    endpoint: &Endpoint,
    address: SocketAddr,
    supervised: bool,
) -> anyhow::Result<SocketAddr> {
    let deadline = tokio::time::Instant::now() + PREDECESSOR_WAIT;
    loop {
        match endpoint.listen(address).await {
            Ok(address) => return Ok(address),
            Err(_) if supervised && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PREDECESSOR_POLL).await;
            }
            Err(error) => return Err(error).context("`links.listen`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_on_every_address_is_reached_on_one() {
        for (listened, reached) in [
            ("0.0.0.0:7200", "127.0.0.1:7200"),
            ("[::]:7200", "[::1]:7200"),
            ("10.0.0.7:7200", "10.0.0.7:7200"),
        ] {
            let listened: SocketAddr = listened.parse().expect("an address");
            assert_eq!(reached_at(listened).to_string(), reached);
        }
    }

    #[test]
    fn a_router_is_named_by_host_and_port() {
        for good in ["127.0.0.1:7200", "[::1]:7200", "router-1.example.com:7200"] {
            assert!(config::is_host_and_port(good), "{good}");
        }
        for bad in [
            "nonsense",
            ":7200",
            "host:",
            "host:0",
            "host:70000",
            "http://host",
        ] {
            assert!(!config::is_host_and_port(bad), "{bad}");
        }
    }
}
