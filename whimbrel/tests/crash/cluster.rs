//! A deployment that is killed or stopped, wholly or in part, and comes back in its place.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use whimbrel_disk::{Loss, PowerCut};
use whimbrel_sdk::{ClientConfig, FixedToken};

use crate::run::{self, Deployment, SETTLED_WITHIN, Terms, Verdict};
use crate::support::{Mode, Standalone};

/// A role is started again after a fraction of a second, unless it was killed before it was stable; then after seconds.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// All roles, as the ready file calls them.
const ROLES: [&str; 4] = ["gateway", "router", "app-service", "lbs"];
/// Between two looks at the ready file.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What happens to a [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL; what is killed is started again.
    Kill(Target),
    /// SIGSTOP, and SIGCONT after so long: connections stay open, and nobody behind them answers.
    Stop(Target, Duration),
    /// SIGKILL to all of it, at once after everything that was begun is answered; only as the last, when nothing more is begun.
    KillAnswered,
    /// SIGKILL to the one process, and what it had not synced is lost or torn, as when the power is cut.
    CutPower,
}

/// What a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The process that was started, and everything with it.
    Whole,
    /// The process of one role; of its first node, if it has several.
    Role(&'static str),
    /// The process of the second gateway.
    SecondGateway,
}

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) mode: Mode,
    /// What happens, each under load.
    pub(crate) faults: &'a [Fault],
    /// A plant for the server to have, by its name.
    pub(crate) plant: Option<&'static str>,
    /// How long what is wrong may take to come right.
    pub(crate) settled_within: Duration,
}

/// Lets `faults` happen one after the other, each under load; panics when a promise was broken.
pub(crate) async fn run(mode: Mode, faults: &[Fault]) {
    let plan = Plan {
        mode,
        faults,
        plant: None,
        settled_within: SETTLED_WITHIN,
    };
    judge(plan).await.expect_unbroken();
}

/// A run, and what it showed.
pub(crate) async fn judge(plan: Plan<'_>) -> Verdict {
    let Plan { mode, faults, .. } = plan;
    let records = faults.contains(&Fault::CutPower);
    let start = async |folder: &Path| Cluster::start(folder, mode, plan.plant, records).await;
    let terms = Terms {
        planted: plan.plant.is_some(),
        settled_within: plan.settled_within,
    };
    run::judge(start, faults, terms).await
}

/// The deployment. See the module.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    mode: Mode,
    /// A plant for the server to have, by its name.
    plant: Option<&'static str>,
    /// Where the power is to be cut, what is written since the start.
    recorded: Option<PowerCut>,
    pub(crate) running: Standalone,
}

impl Cluster {
    /// Starts it; with `records` the power of its one process can be cut.
    pub(crate) async fn start(folder: &Path, mode: Mode, plant: Option<&'static str>, records: bool) -> Self {
        let (running, recorded) = start(folder, mode, 0, plant, records).await;
        Self {
            folder: folder.to_owned(),
            mode,
            plant,
            recorded,
            running,
        }
    }

    /// Stops the processes of `target`, and lets them go on after `length`.
    async fn stop(&self, target: Target, length: Duration) {
        let pids = match target {
            Target::Role(role) => vec![self.pid(role, 0)],
            Target::SecondGateway => vec![self.pid("gateway", 1)],
            Target::Whole => self.everybody(),
        };
        for pid in &pids {
            kill_process(*pid, Signal::STOP).expect("a process can be stopped");
        }
        tokio::time::sleep(length).await;
        for pid in &pids {
            kill_process(*pid, Signal::CONT).expect("a stopped process can go on");
        }
    }

    /// Kills `target` and waits until it is back, on the same ports.
    async fn kill_target(&mut self, target: Target) {
        match target {
            Target::Whole => self.restart(None).await,
            Target::Role(role) => self.kill_one(role, 0).await,
            Target::SecondGateway => self.kill_one("gateway", 1).await,
        }
    }

    /// Kills all of it and starts it again; with `power` in between its files lose what was not synced.
    async fn restart(&mut self, power: Option<&mut StdRng>) {
        let port_base = self.port_base();
        let ended = self.running.kill();
        assert_eq!(
            ended, None,
            "it ended by itself; see {:?}/server.log",
            self.folder
        );
        let recorded = self.recorded.take();
        let records = recorded.is_some();
        if let Some(rng) = power {
            let recorded = recorded.expect("started to have its power cut");
            let (loss, mut rng) = (cut_loss(rng), StdRng::seed_from_u64(rng.random()));
            let cut = tokio::task::spawn_blocking(move || recorded.cut(loss, &mut rng)).await;
            cut.expect("cutting the power does not panic")
                .expect("the disk is as recorded");
        }
        (self.running, self.recorded) = start(&self.folder, self.mode, port_base, self.plant, records).await;
    }

    async fn kill_one(&self, role: &str, nth: usize) {
        let killed = self.pid(role, nth);
        kill_process(killed, Signal::KILL).expect("a role's process can be killed");
        let started = Instant::now();
        while self.pid(role, nth) == killed {
            assert!(
                started.elapsed() < BACK_WITHIN,
                "the {role} process is not back after {BACK_WITHIN:?}; see {:?}/server.log",
                self.folder
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn pid(&self, role: &str, nth: usize) -> Pid {
        let pids = self.pids(role);
        *pids
            .get(nth)
            .unwrap_or_else(|| panic!("{role} {nth} is not among {pids:?}"))
    }

    /// All processes of a role: one, or a list.
    fn pids(&self, role: &str) -> Vec<Pid> {
        let ready = self.running.ready();
        let said = &ready["pids"][role];
        let listed = said
            .as_array()
            .map_or_else(|| vec![said], |list| list.iter().collect());
        let pids = listed.into_iter().map(as_pid).collect::<Option<_>>();
        pids.unwrap_or_else(|| panic!("no process of the {role} in {ready}"))
    }

    /// The roles before the process that looks after them, or it would start again those that stand still.
    fn everybody(&self) -> Vec<Pid> {
        let mut all: Vec<_> = ROLES.iter().flat_map(|role| self.pids(role)).collect();
        let ready = self.running.ready();
        all.push(as_pid(&ready["pid"]).unwrap_or_else(|| panic!("no process in {ready}")));
        all
    }

    /// The LBS listens on the first port.
    fn port_base(&self) -> u16 {
        let lbs = self.running.said("lbs");
        let port = lbs.rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("no port in {lbs}"))
    }
}

impl Deployment for Cluster {
    type Fault = Fault;

    const ACKNOWLEDGED_BETWEEN: u64 = 2_000;

    fn client(&self, uid: &str) -> (ClientConfig, Arc<FixedToken>) {
        self.running.client(uid)
    }

    fn server_token(&self) -> String {
        self.running.token("customer", &["--server"])
    }

    fn api(&self) -> String {
        self.running.said("api")
    }

    fn spares_what_is_begun(fault: Fault) -> bool {
        fault == Fault::KillAnswered
    }

    async fn suffer(&mut self, fault: Fault, rng: &mut StdRng) {
        match fault {
            Fault::KillAnswered => self.kill_target(Target::Whole).await,
            Fault::CutPower => self.restart(Some(rng)).await,
            Fault::Kill(target) => self.kill_target(target).await,
            Fault::Stop(target, length) => self.stop(target, length).await,
        }
    }

    fn printed(&self) -> String {
        self.running.printed()
    }

    fn kill(&mut self) -> Option<ExitStatus> {
        self.running.kill()
    }
}

fn as_pid(value: &Value) -> Option<Pid> {
    let pid = value.as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.and_then(Pid::from_raw)
}

/// Mostly everything that was not synced goes, sometimes a part of it.
fn cut_loss(rng: &mut StdRng) -> Loss {
    match rng.random_ratio(1, 3) {
        true => Loss::Random,
        false => Loss::All,
    }
}

async fn start(
    folder: &Path,
    mode: Mode,
    port_base: u16,
    plant: Option<&str>,
    records: bool,
) -> (Standalone, Option<PowerCut>) {
    let mut environment: Vec<(&str, PathBuf)> = Vec::new();
    environment.extend(plant.map(|plant| ("WHIMBREL_PLANT", plant.into())));
    let recorded = records.then(|| {
        let recorded = PowerCut::begin(&folder.join("data"), &folder.join("writes.log"));
        recorded.expect("the data folder can be read")
    });
    if let Some(recorded) = &recorded {
        environment.extend(recorded.environment(&recorder()));
    }
    let running = Standalone::start(folder, mode, port_base, &environment).await;
    (running, recorded)
}

/// The preloaded library, which cargo builds beside this test.
fn recorder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let path = test.with_file_name("libwhimbrel_powercut.so");
    assert!(path.exists(), "{} was not built", path.display());
    path
}
