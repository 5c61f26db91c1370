//! `whimbrel standalone`: every role on this machine, in one process over in-memory links, or with `--processes` in one
//! process each.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use whimbrel_app_service::{
    AppService,
    config::{AppConfig, AppServiceConfig, HttpConfig},
};
use whimbrel_gateway::{DrainConfig, Gateway, GatewayConfig};
use whimbrel_host::{Drain, HostParts, TelemetryConfig, bind_tcp, fold_metrics, init_telemetry, serve_pages};
use whimbrel_lbs::{Lbs, LbsConfig};
use whimbrel_link::{ClusterSecret, Endpoint};
use whimbrel_protocol::{cluster::Role, ids::NodeId};
use whimbrel_registry::{MemoryRegistry, RegistryAt};
use whimbrel_router::{Router, RouterConfig};

use crate::{
    cli::{DATA_DIR_DEFAULT, StandaloneArgs},
    config::{NodeSection, StoreSection},
    data_dir::{self, DataDir},
    ephemeral::Folder,
    gateway_identity,
    ports::{Ports, Spread},
    posted::Posted,
    processes,
    ready_file::{OneOrMore, ReadyFile},
    roles, secret_file, store, terminal,
    token::now_ms,
    topology_page::TopologyPage,
};

/// What standalone logs unless RUST_LOG says otherwise: its terminal belongs to the person who tries it out.
const LOG: &str = "warn";
/// There is no other gateway to go to: clients are told to come back soon.
pub(crate) const GOAWAY_WINDOW_MS: u32 = 200;
/// Descriptors of a process that is all roles: the store keeps up to 900 files open and writes some more, the HTTP API and
/// the LBS serve a few hundred connections.
const RESERVED_DESCRIPTORS: u64 = 1_536;
/// How long sessions get to leave after that.
pub(crate) const DRAIN_GRACE_MS: u32 = 2_000;

/// The LBS lists a gateway about a second after it listens; a disk that is slow to replay its journal takes longer.
const READY_WAIT: Duration = Duration::from_secs(15);
const READY_POLL: Duration = Duration::from_millis(20);

/// Runs until drained.
pub(crate) async fn run(args: StandaloneArgs) -> anyhow::Result<()> {
    init_telemetry(&TelemetryConfig { log: LOG.to_owned() })?;
    let folder = Folder::of(&args)?;
    let data = DataDir::open(folder.path(), args.gateways, now_ms())?;
    // Whoever waits for a ready file must not find that of a life before, nor be left with this one's after its end.
    let places: BTreeSet<_> = args
        .ready_file
        .iter()
        .cloned()
        .chain([data.ready_file()])
        .collect();
    let posted = Posted::claim(places)?;
    let (ports, _claim) = Ports::new(args.port_base, args.gateways, args.routers)?;
    let (spread, patience) = if args.processes {
        let (gateways, routers) = (args.gateways, args.routers);
        (
            Spread::Processes { gateways, routers },
            processes::PREDECESSORS_END_WITHIN,
        )
    } else {
        (Spread::OneProcess, Duration::ZERO)
    };
    let result = match ports.are_free(spread, patience).await {
        Err(taken) => Err(taken.into()),
        Ok(()) if args.processes => processes::run(&args, &data, ports, &posted).await,
        Ok(()) => run_in_one_process(&args, &data, ports, &posted).await,
    };
    posted.remove();
    result
}

async fn run_in_one_process(
    args: &StandaloneArgs,
    data: &DataDir,
    ports: Ports,
    posted: &Posted,
) -> anyhow::Result<()> {
    let host = HostParts::on_system_clock();
    roles::drain_on_signals(&host, posted.clone());
    // Each role drains in its turn: a gateway needs its router to the end.
    let of_role = || HostParts {
        drain: Drain::new(),
        ..host.clone()
    };
    let (gateway_host, router_host, app_host, lbs_host) = (of_role(), of_role(), of_role(), of_role());

    // What can be wrong in the data folder is found before anything in it is written.
    let key = secret_file::read(&data.identity_key(0), "identity key")?;
    let root = data.root_key()?.parse().with_context(|| {
        format!(
            "{} is damaged: restore the file from your copy, it is the root key that clients pin",
            data.root_public().display()
        )
    })?;
    let name = NodeId::new(&data_dir::gateway(0)).context("the gateway's name")?;
    let certificate = data.identity_certificate(0);
    let identity = gateway_identity::read(
        (&key, &data.identity_key(0).display()),
        &certificate,
        &name,
        Some(&root),
        now_ms(),
    )?;
    let health = bind_tcp("the health page", "--port-base", ports.metrics(0)).await?;
    tokio::spawn(fold_metrics(host.drain.clone()));
    let topology = TopologyPage::default();
    let health = tokio::spawn(serve_pages(
        health,
        host.health.clone(),
        host.drain.clone(),
        topology.routes(),
    ));
    let (section, cluster) = (store_section(args, data), NodeSection::default().cluster);
    let store = store::open(&section, &cluster, store::Opener::default()).await?;

    let secret = || -> anyhow::Result<ClusterSecret> {
        Ok(ClusterSecret::from_text(&secret_file::read(
            &data.cluster_secret(),
            "cluster secret",
        )?)?)
    };
    let router_links = Endpoint::new(roles::identity(&node("router-1"), Role::Router)?, secret()?);
    let gateway_links = Endpoint::new(
        roles::identity(&node(&data_dir::gateway(0)), Role::Gateway)?,
        secret()?,
    );
    let app_links = Endpoint::new(
        roles::identity(&node("app-service-1"), Role::AppService)?,
        secret()?,
    );
    Endpoint::connect_in_memory(&gateway_links.0, &router_links.0);
    Endpoint::connect_in_memory(&app_links.0, &router_links.0);

    let registry = Arc::new(MemoryRegistry::new(router_links.0.identity().incarnation));
    let router = Router::start(
        router_config(),
        router_links,
        Some(Arc::clone(&registry) as _),
        router_host.clone(),
    );
    topology.show(router.view());
    let app_service = AppService::start(
        app_service_config(data, ports),
        Arc::clone(&store),
        app_links,
        RegistryAt::Here(Arc::clone(&registry) as _),
        app_host.clone(),
    )
    .await?;
    let gateway = Gateway::start(
        gateway_config(ports),
        identity,
        gateway_links,
        RegistryAt::Here(Arc::clone(&registry) as _),
        gateway_host.clone(),
    )?;
    let lbs = Lbs::start(lbs_config(ports), registry, lbs_host.clone()).await?;
    store::offer_backups(&section, &cluster, &store, &host);

    let pid = std::process::id();
    let pids = processes::ROLES
        .iter()
        .map(|role| ((*role).to_owned(), OneOrMore::One(pid)))
        .collect();
    let told = ready(args, data, ports, pid, pids)?;
    let said = tokio::select! {
        () = wait_until(|| async { host.health.is_ready() }) => say_ready(args, data, &told, posted),
        () = host.drain.started() => Ok(()),
    };
    if said.is_ok() {
        host.drain.started().await;
        terminal::say("draining; once more Ctrl-C ends it at once");
    }
    lbs_host.drain.start();
    gateway_host.drain.start();
    let gateway = gateway.join().await;
    tracing::info!(?gateway, "the gateway has left");
    lbs.join(Duration::from_secs(1)).await;
    app_host.drain.start();
    app_service.join().await;
    router_host.drain.start();
    router.join().await;
    store.close().await;
    host.drain.finish();
    // It ends with the drain; a panic in it has been reported already.
    let _ = health.await;
    said
}

/// Waits until everything is ready to serve, so that whoever reads the ready file can log in at once. What takes longer
/// than [`READY_WAIT`] is said all the same: `/readyz` tells what is missing.
pub(crate) async fn wait_until<F: Future<Output = bool>>(ready: impl Fn() -> F) {
    let poll = async {
        while !ready().await {
            tokio::time::sleep(READY_POLL).await;
        }
    };
    if tokio::time::timeout(READY_WAIT, poll).await.is_err() {
        tracing::warn!("not everything is ready after {READY_WAIT:?}: see /readyz");
    }
}

fn node(name: &str) -> NodeSection {
    NodeSection {
        name: name.to_owned(),
        ..NodeSection::default()
    }
}

pub(crate) fn store_section(args: &StandaloneArgs, data: &DataDir) -> StoreSection {
    let folder = if args.ephemeral {
        PathBuf::new()
    } else {
        data.store()
    };
    StoreSection {
        folder: Some(folder),
        ..StoreSection::default()
    }
}

fn router_config() -> RouterConfig {
    // Nobody has another router to move to.
    RouterConfig {
        drain_window: Duration::ZERO,
        ..RouterConfig::default()
    }
}

fn gateway_config(ports: Ports) -> GatewayConfig {
    GatewayConfig {
        listen: ports.gateway_tcp(0),
        reserved_descriptors: RESERVED_DESCRIPTORS,
        drain: DrainConfig {
            window_ms: GOAWAY_WINDOW_MS,
            grace_ms: DRAIN_GRACE_MS,
        },
        ..GatewayConfig::default()
    }
}

fn app_service_config(data: &DataDir, ports: Ports) -> AppServiceConfig {
    AppServiceConfig {
        apps: vec![AppConfig {
            key: data_dir::APP_KEY.to_owned(),
            secret_files: vec![data.app_secret()],
            create_users_on_reference: true,
        }],
        http: HttpConfig {
            listen: Some(ports.http()),
            ..HttpConfig::default()
        },
        ..AppServiceConfig::default()
    }
}

fn lbs_config(ports: Ports) -> LbsConfig {
    LbsConfig {
        listen: ports.lbs(),
        ..LbsConfig::default()
    }
}

/// What the ready file says.
pub(crate) fn ready(
    args: &StandaloneArgs,
    data: &DataDir,
    ports: Ports,
    pid: u32,
    pids: BTreeMap<String, OneOrMore<u32>>,
) -> anyhow::Result<ReadyFile> {
    let gateways: Vec<_> = (0..args.gateways)
        .map(|nth| ports.gateway_tcp(nth).to_string())
        .collect();
    Ok(ReadyFile {
        pid,
        pids,
        lbs: format!("http://{}", ports.lbs()),
        lbs_urls: Vec::new(),
        api: format!("http://{}", ports.http()),
        metrics: format!("http://{}", ports.metrics(0)),
        gateway_tcp: OneOrMore::of(&gateways),
        app_key: data_dir::APP_KEY.to_owned(),
        app_secret_file: data.app_secret(),
        root_key: data.root_key()?,
        routers: Vec::new(),
    })
}

/// Writes the ready file, and says to the person at the terminal what runs where and what to do next.
pub(crate) fn say_ready(
    args: &StandaloneArgs,
    data: &DataDir,
    ready: &ReadyFile,
    posted: &Posted,
) -> anyhow::Result<()> {
    posted.write(ready.text()?.as_bytes())?;
    let usual = !args.ephemeral && args.data == Path::new(DATA_DIR_DEFAULT);
    let ready_flag = if usual {
        String::new()
    } else {
        format!(" --ready-file {}", data.ready_file().display())
    };
    let kept = if args.ephemeral {
        "nothing is kept".to_owned()
    } else {
        format!("data in {}", args.data.display())
    };
    let how = if args.processes {
        "a process for each role"
    } else {
        "all roles in one process"
    };
    terminal::say(&format!(
        "\
Whimbrel {version} runs: {how}, {kept}, pid {pid}

  clients ask       {lbs}   (LBS: which gateways may I use?)
  gateway           {gateway}          (Noise over TCP)
  HTTP API          {api}   (app {app}, tokens signed with {secret})
  metrics, health   {metrics}/metrics, /healthz, /readyz

Start a chat, in two more terminals:

  cargo run --release -- chat --uid alice --to bob{ready_flag}
  cargo run --release -- chat --uid bob --to alice{ready_flag}

Ctrl-C drains and ends it.",
        version = env!("CARGO_PKG_VERSION"),
        pid = ready.pid,
        lbs = ready.lbs,
        gateway = ready.gateway_tcp,
        api = ready.api,
        app = ready.app_key,
        secret = relative(&ready.app_secret_file).display(),
        metrics = ready.metrics,
    ));
    Ok(())
}

/// A path as a person in this folder would write it.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned))
        .unwrap_or_else(|| path.to_owned())
}
