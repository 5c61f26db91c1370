//! The server: built, started, killed, its power cut, started again on the same ports.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use whimbrel_disk::{Loss, PowerCut};

use super::Fault;
use crate::built::Built;

/// A start over the store of a long run takes some seconds.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at the ready file.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// In so many cuts a random part of what was not synced is left; in the others nothing.
const TORN_ONE_IN: u32 = 3;

/// How the server is started, each time alike.
#[derive(Debug)]
struct Setup {
    command: PathBuf,
    recorder: PathBuf,
    folder: PathBuf,
    processes: bool,
    plant: Option<String>,
    ready_file: PathBuf,
}

/// `whimbrel standalone`, running. Killed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    setup: Setup,
    child: Child,
    /// What was written since the start, of one process.
    recorded: Option<PowerCut>,
}

impl Server {
    pub(super) fn start(
        built: &Built,
        folder: &Path,
        processes: bool,
        plant: Option<&str>,
    ) -> anyhow::Result<Self> {
        let setup = Setup {
            command: built.server.clone(),
            recorder: built.recorder.clone(),
            folder: folder.to_owned(),
            processes,
            plant: plant.map(ToOwned::to_owned),
            ready_file: folder.join("ready.json"),
        };
        let (child, recorded) = setup.start_on(0)?;
        Ok(Self {
            setup,
            child,
            recorded,
        })
    }

    pub(super) fn ready_file(&self) -> &Path {
        &self.setup.ready_file
    }

    /// Lets `fault` happen and waits until the server is back; gives what a power cut put at risk, bytes.
    pub(super) fn suffer(&mut self, fault: Fault, rng: &mut StdRng) -> anyhow::Result<Option<u64>> {
        match fault {
            Fault::Kill => {
                let port_base = self.kill()?;
                (self.child, self.recorded) = self.setup.start_on(port_base)?;
                Ok(None)
            }
            Fault::CutPower => {
                let port_base = self.kill()?;
                let recorded = self.recorded.take().context("nothing was recorded")?;
                let loss = if rng.random_ratio(1, TORN_ONE_IN) {
                    Loss::Random
                } else {
                    Loss::All
                };
                let lost = recorded.cut(loss, &mut StdRng::seed_from_u64(rng.random()))?;
                (self.child, self.recorded) = self.setup.start_on(port_base)?;
                Ok(Some(lost.unsynced_bytes))
            }
            Fault::KillRole(role) => {
                self.kill_role(role)?;
                Ok(None)
            }
        }
    }

    /// Ends it; whether it had printed that something panicked.
    pub(super) fn end(mut self) -> anyhow::Result<bool> {
        self.kill()?;
        let printed = fs::read_to_string(self.setup.log_path())?;
        Ok(printed.contains("panicked"))
    }

    /// SIGKILL; gives the first of its ports.
    fn kill(&mut self) -> anyhow::Result<u16> {
        let port_base = self.port_base()?;
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "the server ended by itself, {status}: see {}",
                self.setup.log_path().display()
            );
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(port_base)
    }

    fn kill_role(&self, role: &str) -> anyhow::Result<()> {
        let killed = self.pid(role)?;
        kill_process(killed, Signal::KILL)?;
        let started = Instant::now();
        while self.pid(role)? == killed {
            ensure!(
                started.elapsed() < START_WITHIN,
                "the {role} process is not back after {START_WITHIN:?}: see {}",
                self.setup.log_path().display()
            );
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn ready(&self) -> anyhow::Result<Value> {
        let text = fs::read_to_string(&self.setup.ready_file)
            .with_context(|| format!("cannot read {}", self.setup.ready_file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", self.setup.ready_file.display()))
    }

    /// The process of a role; the first, if it has several.
    fn pid(&self, role: &str) -> anyhow::Result<Pid> {
        let ready = self.ready()?;
        let said = &ready["pids"][role];
        let first = said.as_array().and_then(|list| list.first()).unwrap_or(said);
        let pid = first.as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw)
            .with_context(|| format!("no process of the {role} in {ready}"))
    }

    /// The LBS listens on the first port.
    fn port_base(&self) -> anyhow::Result<u16> {
        let ready = self.ready()?;
        let port = ready["lbs"].as_str().and_then(|lbs| lbs.rsplit(':').next());
        port.and_then(|port| port.parse().ok())
            .with_context(|| format!("no port of the LBS in {ready}"))
    }
}

impl Setup {
    fn log_path(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Starts it and waits until it listens; port base 0 takes free ports.
    fn start_on(&self, port_base: u16) -> anyhow::Result<(Child, Option<PowerCut>)> {
        if self.ready_file.exists() {
            // Left behind by one that was killed.
            fs::remove_file(&self.ready_file)?;
        }
        let log_path = self.log_path();
        let log = || OpenOptions::new().create(true).append(true).open(&log_path);
        let data = self.folder.join("data");
        let mut command = Command::new(&self.command);
        command.arg("standalone").arg("--data").arg(&data);
        command.arg("--ready-file").arg(&self.ready_file);
        command.arg("--port-base").arg(port_base.to_string());
        // Of several processes nobody knows the order of their writes.
        let recorded = if self.processes {
            command.arg("--processes");
            None
        } else {
            let recorded = PowerCut::begin(&data, &self.folder.join("writes.log"))?;
            command.envs(recorded.environment(&self.recorder));
            Some(recorded)
        };
        if let Some(plant) = &self.plant {
            command.env("WHIMBREL_PLANT", plant);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .spawn()
            .with_context(|| format!("{} does not start", self.command.display()))?;
        if let Err(error) = self.wait_until_ready(&mut child) {
            // Nobody else knows of it.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok((child, recorded))
    }

    fn wait_until_ready(&self, child: &mut Child) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self.ready_file.exists() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the server ended at its start, {status}: see {}",
                    self.log_path().display()
                );
            }
            ensure!(
                started.elapsed() < START_WITHIN,
                "the server is not ready after {START_WITHIN:?}: see {}",
                self.log_path().display()
            );
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
