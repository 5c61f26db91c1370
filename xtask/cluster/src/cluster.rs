//! All of it together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use whimbrel_tikv_cluster::{Binaries, Cluster as Tikv, Options};

use crate::config::Around;
use crate::folder::Folder;
use crate::pages::{self, Pages};
use crate::ports::Ports;
use crate::process::{Files, Processes};
use crate::ready::{self, Ready};
use crate::{Drained, Member, Redis, Role, Routes, Shape, Standing, held};

/// Between two looks whether all are ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Each step of the end: who is told together; the next step waits for them.
const STEPS: [&[Role]; 3] = [&[Role::Lbs, Role::Gateway], &[Role::AppService], &[Role::Router]];

/// What to start.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The `whimbrel` binary.
    pub binary: PathBuf,
    /// What speaks TiKV's protocol.
    pub tikv: Binaries,
    /// The cluster's folder; see [`Cluster::start`].
    pub folder: PathBuf,
    /// The ready file, beside the one in the folder.
    pub ready_file: Option<PathBuf>,
    /// How many nodes.
    pub shape: Shape,
    /// Those of them that are not started until they are added ([`Cluster::add`]).
    pub held_back: Vec<Member>,
    /// The first of its ports; 0: free ones.
    pub port_base: u16,
    /// Whether proxies stand between all processes.
    pub proxies: bool,
    /// Whether a node that ends is started again.
    pub restart: bool,
    /// What nodes log.
    pub log: String,
}

/// What a cluster goes on from that lost everything else.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The folder of the cluster before, which has its keys; it does not run any more.
    pub keys_of: PathBuf,
    /// What `whimbrel backup` made of it.
    pub backup: PathBuf,
}

/// What every router that answers shows on its topology page.
pub type Views = BTreeMap<Member, Value>;

/// A cluster that runs. Dropped, it is killed; see [`Cluster::stop`].
#[derive(Debug)]
pub struct Cluster {
    shape: Shape,
    held_back: BTreeSet<Member>,
    ports: Ports,
    ready: Ready,
    ready_files: Vec<PathBuf>,
    /// Whether the ready files are there.
    told: Arc<AtomicBool>,
    pages: Pages,
    routes: Option<Routes>,
    // In the order in which they end.
    processes: Processes,
    tikv: Tikv,
    redis: Redis,
    folder: Folder,
}

impl Cluster {
    /// Starts everything; nodes are not ready yet. What an earlier cluster has left in the folder is removed.
    ///
    /// Redis, the placement driver and the store end with the *thread* that calls this.
    ///
    /// # Errors
    /// What is missing, or what kept something from starting.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        Self::begin(setup, None)
    }

    /// The same with the keys of a cluster before, whose backup is restored into the store, by `whimbrel restore` as an operator does
    /// it, before any node starts.
    ///
    /// # Errors
    /// As of [`start`](Self::start), and what `whimbrel restore` says.
    pub fn start_from(saved: &Saved, setup: Setup) -> anyhow::Result<Self> {
        Self::begin(setup, Some(saved))
    }

    fn begin(setup: Setup, saved: Option<&Saved>) -> anyhow::Result<Self> {
        ensure!(
            setup.tikv.exist(),
            "{} and {} are not both there: run `cargo xtask tikv` once, where Go is",
            setup.tikv.pd.display(),
            setup.tikv.store.display()
        );
        let (shape, launcher) = (setup.shape, held::launcher()?);
        let ports = Ports::new(setup.port_base, shape)?;
        let keys_of = saved.map(|saved| &*saved.keys_of);
        let folder = Folder::make(&setup.folder, &setup.binary, shape, keys_of)?;
        let redis = Redis::start(ports.redis(), &folder.redis(), &launcher)?;
        let options = Options {
            proxies: setup.proxies,
            launcher,
            ..Options::default()
        };
        let tikv = Tikv::start(setup.tikv, options).context("the placement driver and the store")?;
        let beneath = [tikv.pd_address(), tikv.store_address()];
        let routes = setup.proxies.then(|| Routes::new(shape, ports, beneath));
        let routes = routes.transpose()?;
        if let Some(routes) = &routes {
            tikv.ways(&routes.ways()).context("the ways to the store")?;
        }
        let around = Around {
            folder: &folder,
            ports,
            routes: routes.as_ref(),
            pd: tikv.pd_address(),
            log: &setup.log,
        };
        let mut nodes = BTreeMap::new();
        for member in shape.members() {
            let files = Files {
                config: folder.of(member, "toml"),
                ready: folder.of(member, "ready.json"),
                log: folder.of(member, "log"),
            };
            std::fs::write(&files.config, around.text(member)?)?;
            nodes.insert(member, files);
        }
        if let Some(saved) = saved {
            let service_node = shape.members_of(Role::AppService).next();
            let service_node = service_node.context("a cluster without service nodes has no store")?;
            restore(&setup.binary, &folder.of(service_node, "toml"), &saved.backup)?;
        }
        let ready = Ready::new(&folder, ports, shape, routes.as_ref())?;
        let ready_files: Vec<_> = setup
            .ready_file
            .into_iter()
            .chain([folder.ready_file()])
            .collect();
        for file in &ready_files {
            // Left behind by one that was killed.
            let _ = std::fs::remove_file(file);
        }
        let told = Arc::new(AtomicBool::new(false));
        let heard = {
            let (told, ready, files) = (Arc::clone(&told), ready.clone(), ready_files.clone());
            move |standings: &BTreeMap<Member, Standing>| {
                if told.load(Ordering::Acquire) {
                    for file in &files {
                        // The next change writes it again; until then it says what was.
                        let _ = ready::write(file, &ready.value(standings));
                    }
                }
            }
        };
        let held_back = BTreeSet::from_iter(setup.held_back);
        let processes = Processes::start(setup.binary, nodes, &held_back, setup.restart, Box::new(heard))?;
        Ok(Self {
            shape,
            held_back,
            ports,
            ready,
            ready_files,
            told,
            pages: Pages::new()?,
            routes,
            processes,
            tikv,
            redis,
            folder,
        })
    }

    /// Waits until every node says that it is ready, and writes the ready files.
    ///
    /// # Errors
    /// When they are not within that time, or `interrupted` says so before.
    pub fn wait_until_ready(&self, within: Duration, interrupted: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let unready = self.unready();
            if unready.is_empty() {
                break;
            }
            if interrupted() {
                bail!("interrupted");
            }
            ensure!(
                began.elapsed() < within,
                "not ready after {within:?}:\n{}\nsee {}",
                unready.join("\n"),
                self.folder.path().join("nodes").display()
            );
            thread::sleep(LOOK_EVERY);
        }
        self.told.store(true, Ordering::Release);
        for file in &self.ready_files {
            ready::write(file, &self.ready())?;
        }
        Ok(())
    }

    /// Who is not ready or was told to drain, each in a line with why; and when all are, links of routers that are missing.
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        let draining = self.processes.draining();
        if !draining.is_empty() {
            let drains = draining.iter().map(|member| format!("{member}: it drains"));
            return drains.collect();
        }
        let pages = self.pages.ask(self.members_and_pages(), "readyz");
        let why = |member: &Member| match pages.get(member) {
            Some((200, _)) => None,
            Some((_, text)) => Some(format!("{member}: {}", text.trim())),
            None => Some(format!("{member}: no answer")),
        };
        let unready: Vec<_> = self.members().iter().filter_map(why).collect();
        if unready.is_empty() {
            self.unlisted()
        } else {
            unready
        }
    }

    /// Links of routers that are missing: a gateway that no router sees cannot be pushed to.
    fn unlisted(&self) -> Vec<String> {
        let views = self.views();
        let mut missing = Vec::new();
        for router in self.members_of(Role::Router) {
            let nodes = views.get(&router).and_then(|view| view["nodes"].as_array());
            for member in self.members() {
                let is_linked = nodes.into_iter().flatten().any(|node| {
                    let name = node["node"].as_str();
                    name.is_some_and(|name| name == member.to_string()) && node["link"] == "up"
                });
                if member.role != Role::Router && !is_linked {
                    missing.push(format!("{router}: {member} is not linked"));
                }
            }
        }
        missing
    }

    fn members_and_pages(&self) -> Vec<(Member, SocketAddr)> {
        let members = self.members().into_iter();
        members.map(|member| (member, self.ports.page(member))).collect()
    }

    /// What each router sees.
    #[must_use]
    pub fn views(&self) -> Views {
        let routers = self.members_of(Role::Router).into_iter();
        let pages = self.pages.ask(
            routers.map(|router| (router, self.ports.page(router))),
            "topology",
        );
        let views = pages
            .iter()
            .filter_map(|(router, page)| Some((*router, pages::json(page)?)));
        views.collect()
    }

    /// What the ready file says now.
    #[must_use]
    pub fn ready(&self) -> Value {
        self.ready.value(&self.processes.standings())
    }

    /// Where the ready file is.
    #[must_use]
    pub fn ready_file(&self) -> PathBuf {
        self.folder.ready_file()
    }

    /// Where a node serves `/metrics`.
    #[must_use]
    pub fn page(&self, member: Member) -> SocketAddr {
        self.ports.page(member)
    }

    /// A node's configuration.
    #[must_use]
    pub fn config_of(&self, member: Member) -> PathBuf {
        self.folder.of(member, "toml")
    }

    /// What a node has logged.
    #[must_use]
    pub fn log_of(&self, member: Member) -> PathBuf {
        self.folder.of(member, "log")
    }

    /// How many nodes there are, those held back among them.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The nodes that were started.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let mut members = self.shape.members();
        members.retain(|member| !self.held_back.contains(member));
        members
    }

    /// Those of a role.
    #[must_use]
    pub fn members_of(&self, role: Role) -> Vec<Member> {
        let mut members = self.members();
        members.retain(|member| member.role == role);
        members
    }

    /// Starts one that was held back.
    ///
    /// # Errors
    /// When it was not.
    pub fn add(&mut self, member: Member) -> anyhow::Result<()> {
        ensure!(self.processes.add(member), "{member} was not held back");
        self.held_back.remove(&member);
        Ok(())
    }

    /// How each node's process is.
    #[must_use]
    pub fn standings(&self) -> BTreeMap<Member, Standing> {
        self.processes.standings()
    }

    /// Signals a node's process; false when there is none.
    pub fn signal(&self, member: Member, signal: Signal) -> bool {
        self.processes.signal(member, signal)
    }

    /// Tells a node's process to end in order, as SIGTERM does; false when there is none. It is killed if that takes it longer
    /// than its role may.
    pub fn drain(&self, member: Member) -> bool {
        self.processes.drain(member)
    }

    /// Processes that were told to end and have, in the order in which they did.
    #[must_use]
    pub fn drained(&self) -> Vec<Drained> {
        self.processes.drained()
    }

    /// The Redis.
    #[must_use]
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// The Redis, to be started again.
    pub fn redis_mut(&mut self) -> &mut Redis {
        &mut self.redis
    }

    /// The placement driver and the store.
    #[must_use]
    pub fn tikv(&self) -> &Tikv {
        &self.tikv
    }

    /// The proxies between the nodes, of a cluster that has some.
    #[must_use]
    pub fn routes(&self) -> Option<&Routes> {
        self.routes.as_ref()
    }

    /// Ends everything in order; gives who had to be killed.
    ///
    /// # Errors
    /// When the placement driver or the store did not end as they should.
    pub fn stop(self) -> anyhow::Result<Vec<Member>> {
        self.told.store(false, Ordering::Release);
        for file in &self.ready_files {
            // Gone already is as good.
            let _ = std::fs::remove_file(file);
        }
        let mut killed = Vec::new();
        for step in STEPS {
            killed.extend(self.processes.end(|member| step.contains(&member.role)));
        }
        drop(self.processes);
        self.tikv
            .stop()
            .context("ending the placement driver and the store")?;
        Ok(killed)
    }
}

fn restore(binary: &Path, config: &Path, backup: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(binary);
    command.arg("restore").arg("--config").arg(config);
    command.arg("--from").arg(backup);
    let restored = command
        .output()
        .with_context(|| format!("{} does not start", binary.display()))?;
    ensure!(
        restored.status.success(),
        "`whimbrel restore` failed: {}",
        String::from_utf8_lossy(&restored.stderr)
    );
    Ok(())
}
