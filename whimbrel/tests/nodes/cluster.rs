//! A small cluster that suffers.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::process::Signal;
use whimbrel_cluster::{Cluster, Line, Member, Role, Setup, Shape};
use whimbrel_sdk::{ClientConfig, FixedToken};
use whimbrel_tikv_cluster::Binaries;

use crate::redis::Loss;
use crate::run::Deployment;
use crate::{added, redis};

/// A start takes some seconds, and on a machine that is busy with other tests ten times that.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(60);
/// A node is started again after a fraction of a second; one that drains may take its role's time before.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// It asks PD for the time every second, and says so after four of silence.
const UNREADY_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What happens to one node of a role, any of them, or to Redis.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// SIGKILL; it is started again.
    Kill(Role),
    /// SIGTERM; it must end by itself, with success, and is started again.
    Drain(Role),
    /// SIGSTOP, and SIGCONT after so long.
    Stop(Role, Duration),
    /// One service node cannot reach the store until it says that it is not ready.
    CutFromStore,
    /// See [`redis::suffer`].
    Redis(Loss),
    /// No fault: a node of the role that was held back is started; see [`added`].
    Add(Role),
}

/// What is started.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    pub(crate) shape: Shape,
    pub(crate) held_back: Vec<Member>,
    pub(crate) proxies: bool,
}

/// See the module.
pub(crate) struct Deployed {
    cluster: Cluster,
}

impl Deployed {
    pub(crate) fn start(folder: &Path, tikv: Binaries, nodes: Nodes) -> Self {
        let cluster = Cluster::start(Setup {
            binary: env!("CARGO_BIN_EXE_whimbrel").into(),
            tikv,
            folder: folder.to_owned(),
            ready_file: None,
            shape: nodes.shape,
            held_back: nodes.held_back,
            port_base: 0,
            proxies: nodes.proxies,
            restart: true,
            log: "warn".to_owned(),
        });
        let cluster = cluster.expect("a cluster starts");
        let ready = cluster.wait_until_ready(READY_WITHIN, &|| false);
        ready.expect("every node becomes ready");
        Self { cluster }
    }

    pub(crate) fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    fn said(&self, name: &str) -> String {
        let ready = self.cluster.ready();
        let text = ready[name].as_str();
        text.unwrap_or_else(|| panic!("no text {name:?} in the ready file {ready}"))
            .to_owned()
    }

    fn token(&self, uid: &str, flags: &[&str]) -> String {
        crate::token::token(&self.cluster.ready_file(), uid, flags)
    }

    fn any(&self, role: Role, rng: &mut StdRng) -> Member {
        let members = self.cluster.members_of(role);
        *members.choose(rng).expect("a node of each role")
    }

    /// Waits until another process of the node listens than the one that did `before`.
    pub(crate) async fn until_back(&self, member: Member, before: Option<u32>) {
        let started = Instant::now();
        while self.cluster.standings()[&member].last_up == before {
            assert!(
                started.elapsed() < BACK_WITHIN,
                "{member} is not back after {BACK_WITHIN:?}; see {}",
                self.cluster.log_of(member).display()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn drain(&self, member: Member) {
        let before = self.cluster.standings()[&member].last_up;
        let drained = self.cluster.drained().len();
        assert!(self.cluster.drain(member), "{member} runs");
        self.until_back(member, before).await;
        let drained = self.cluster.drained().split_off(drained);
        let [drained] = drained[..] else {
            panic!("{member} alone was told to end: {drained:?}");
        };
        assert_eq!(drained.member, member);
        assert!(
            drained.is_in_order(),
            "{drained:?}; see {}",
            self.cluster.log_of(member).display()
        );
    }
}

impl Deployment for Deployed {
    type Fault = Fault;

    const ACKNOWLEDGED_BETWEEN: u64 = 200;

    fn client(&self, uid: &str) -> (ClientConfig, Arc<FixedToken>) {
        let [lbs, root, app] = ["lbs", "root_key", "app_key"].map(|name| self.said(name));
        let ready = self.cluster.ready();
        let lbs_urls = ready["lbs_urls"].as_array().into_iter().flatten();
        let config = ClientConfig {
            lbs_urls: lbs_urls
                .filter_map(|url| Some(url.as_str()?.to_owned()))
                .collect(),
            ..ClientConfig::new(&lbs, &root, &app, uid)
        };
        (config, Arc::new(FixedToken(self.token(uid, &[]))))
    }

    fn server_token(&self) -> String {
        self.token("customer", &["--server"])
    }

    fn api(&self) -> String {
        self.said("api")
    }

    async fn suffer(&mut self, fault: Fault, rng: &mut StdRng) {
        match fault {
            Fault::Kill(role) => {
                let member = self.any(role, rng);
                let before = self.cluster.standings()[&member].last_up;
                assert!(self.cluster.signal(member, Signal::KILL), "{member} runs");
                self.until_back(member, before).await;
            }
            Fault::Drain(role) => self.drain(self.any(role, rng)).await,
            Fault::Stop(role, length) => {
                let member = self.any(role, rng);
                assert!(self.cluster.signal(member, Signal::STOP), "{member} runs");
                tokio::time::sleep(length).await;
                assert!(self.cluster.signal(member, Signal::CONT), "{member} stood still");
            }
            Fault::CutFromStore => {
                let member = self.any(Role::AppService, rng);
                let lines = self.cluster.routes().expect("it has proxies");
                lines.store(member, Line::Cut);
                let started = Instant::now();
                let name = format!("{member}:");
                while !self.cluster.unready().iter().any(|who| who.starts_with(&name)) {
                    assert!(
                        started.elapsed() < UNREADY_WITHIN,
                        "{member} says that it is ready {UNREADY_WITHIN:?} after it was cut off from the store"
                    );
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                lines.store(member, Line::Whole);
                self.cluster
                    .wait_until_ready(READY_WITHIN, &|| false)
                    .expect("it is ready again");
            }
            Fault::Redis(loss) => redis::suffer(self, loss).await,
            Fault::Add(Role::AppService) => added::service_node(self).await,
            Fault::Add(Role::Gateway) => added::gateway(self).await,
            Fault::Add(role) => panic!("nothing is said of a {role} that is added"),
        }
    }

    fn printed(&self) -> String {
        let members = self.cluster.members().into_iter();
        let logs = members.map(|member| self.cluster.log_of(member));
        logs.map(|log| std::fs::read_to_string(log).expect("a node's log"))
            .collect()
    }

    fn kill(&mut self) -> Option<ExitStatus> {
        for member in self.cluster.members() {
            // Gone already is as good.
            let _ = self.cluster.signal(member, Signal::KILL);
        }
        None
    }
}
