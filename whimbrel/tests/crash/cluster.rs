//! A deployment that is killed, wholly or in part, and comes back in its place.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

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
    /// The process of one role.
    Role(&'static str),
}

/// The deployment. See the module.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    mode: Mode,
    pub(crate) running: Standalone,
}

impl Cluster {
    pub(crate) async fn start(folder: &Path, mode: Mode) -> Self {
        Self {
            folder: folder.to_owned(),
            mode,
            running: Standalone::start(folder, mode, 0).await,
        }
    }

    /// Kills `target` and waits until it is back, on the same ports.
    pub(crate) async fn kill(&mut self, target: Target) {
        match target {
            Target::Whole => {
                let port_base = self.port_base();
                let ended = self.running.kill();
                assert_eq!(
                    ended, None,
                    "it ended by itself; see {:?}/server.log",
                    self.folder
                );
                self.running = Standalone::start(&self.folder, self.mode, port_base).await;
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
