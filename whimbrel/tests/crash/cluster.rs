//! A deployment that is killed, wholly or in part, and comes back in its place.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use whimbrel_disk::{Loss, PowerCut};

use crate::support::{Mode, Standalone};

/// A role is started again after a fraction of a second, unless it was killed before it was stable; then after seconds.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at the ready file.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The process that was started; everything ends with it.
    Whole,
    /// The same, and what it had not synced is lost or torn, as when the power is cut. Of one process only: the recorder knows
    /// the order of one process's writes.
    Power,
    /// The process of one role.
    Role(&'static str),
}

/// The deployment. See the module.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    mode: Mode,
    /// A fault for the server to have, by its name.
    plant: Option<&'static str>,
    /// Where the power is to be cut, what is written since the start.
    recorded: Option<PowerCut>,
    pub(crate) running: Standalone,
}

impl Cluster {
    /// Starts it; with `records` the power can be cut.
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

    /// Kills `target` and waits until it is back, on the same ports.
    pub(crate) async fn kill(&mut self, target: Target, rng: &mut StdRng) {
        match target {
            Target::Whole | Target::Power => {
                let port_base = self.port_base();
                let ended = self.running.kill();
                assert_eq!(
                    ended, None,
                    "it ended by itself; see {:?}/server.log",
                    self.folder
                );
                let recorded = self.recorded.take();
                let records = recorded.is_some();
                if target == Target::Power {
                    let recorded = recorded.expect("started to have its power cut");
                    let (loss, rng) = (cut_loss(rng), StdRng::seed_from_u64(rng.random()));
                    let cut = tokio::task::spawn_blocking(move || {
                        let mut rng = rng;
                        recorded.cut(loss, &mut rng)
                    });
                    cut.await
                        .expect("cutting the power does not panic")
                        .expect("the disk is as recorded");
                }
                (self.running, self.recorded) =
                    start(&self.folder, self.mode, port_base, self.plant, records).await;
            }
            Target::Role(role) => {
                let killed = self.pid(role);
                kill_process(killed, Signal::KILL).expect("a role's process can be killed");
                let started = Instant::now();
                while self.pid(role) == killed {
                    assert!(
                        started.elapsed() < BACK_WITHIN,
                        "the {role} process is not back after {BACK_WITHIN:?}; see {:?}/server.log",
                        self.folder
                    );
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    fn pid(&self, role: &str) -> Pid {
        let ready = self.running.ready();
        let pid = ready["pids"][role]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw)
            .unwrap_or_else(|| panic!("no process of the {role} in {ready}"))
    }

    /// The LBS listens on the first port.
    fn port_base(&self) -> u16 {
        let lbs = self.running.said("lbs");
        let port = lbs.rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("no port in {lbs}"))
    }
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
