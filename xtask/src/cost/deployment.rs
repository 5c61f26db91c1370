//! What is measured: a standalone or a cluster, started and ended, with a ready file that names all of its processes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use whimbrel_cluster::{Cluster, Role, Setup, Shape, launcher};
use whimbrel_tikv_cluster::{Binaries, Part};

use super::counters::Counters;
use super::plan::Nodes;
use super::{LOOK_EVERY, sleep};
use crate::cluster::READY_WITHIN;
use crate::interrupt::Interrupt;

/// How long standalone may take to drain and end.
const END_WITHIN: Duration = Duration::from_secs(30);

/// What is run.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) server: PathBuf,
    pub(super) tikv: Binaries,
}

/// What runs. Killed when dropped.
enum Running {
    Standalone(Standalone),
    Cluster(Box<Cluster>),
}

/// See the module.
pub(super) struct Deployment {
    running: Running,
    ready_file: PathBuf,
    counters: Counters,
}

impl Deployment {
    /// Starts it, empty, and returns when all of it is ready.
    pub(super) fn start(
        nodes: Nodes,
        programs: &Programs,
        folder: &Path,
        log: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        match nodes {
            Nodes::Standalone => Self::standalone(programs, folder, log, interrupt),
            Nodes::Cluster(shape) => Self::cluster(shape, programs, folder, log, interrupt),
        }
    }

    fn standalone(
        programs: &Programs,
        folder: &Path,
        log: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let ready_file = folder.join("ready.json");
        let running = Standalone::start(&programs.server, folder, &ready_file, log, interrupt)?;
        let ready: Value = serde_json::from_str(&fs::read_to_string(&ready_file)?)?;
        let page = ready["metrics"]
            .as_str()
            .and_then(|url| url.strip_prefix("http://"));
        let page = page.and_then(|address| address.trim_end_matches('/').parse().ok());
        Ok(Self {
            running: Running::Standalone(running),
            ready_file,
            counters: Counters {
                nodes: page.into_iter().collect(),
                ..Counters::default()
            },
        })
    }

    fn cluster(
        shape: Shape,
        programs: &Programs,
        folder: &Path,
        log: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let cluster = Cluster::start(Setup {
            binary: programs.server.clone(),
            tikv: programs.tikv.clone(),
            folder: folder.join("cluster"),
            ready_file: None,
            shape,
            held_back: Vec::new(),
            port_base: 0,
            proxies: false,
            // A node that ends is to be seen, not made up for.
            restart: false,
            log: log.to_owned(),
        })?;
        cluster.wait_until_ready(READY_WITHIN, &|| interrupt.is_heard())?;
        let ready_file = folder.join("ready.json");
        let [pd, store] = cluster.tikv().process_ids();
        let ready = with_pids(
            cluster.ready(),
            &[
                ("redis", cluster.redis().pid()),
                ("placement-driver", pd),
                ("store", store),
            ],
        );
        write_secretly(&ready_file, &ready)?;
        let status = |part| cluster.tikv().status_address(part);
        let service_nodes = shape.members_of(Role::AppService);
        let counters = Counters {
            store: Some(status(Part::Store)),
            pd: Some(status(Part::Pd)),
            nodes: service_nodes.map(|node| cluster.page(node)).collect(),
        };
        Ok(Self {
            running: Running::Cluster(Box::new(cluster)),
            ready_file,
            counters,
        })
    }

    /// What the generator is to read. Of a cluster it names Redis, the placement driver and the store among the roles, so that
    /// their processor time is read at the same moments as that of all others.
    pub(super) fn ready_file(&self) -> &Path {
        &self.ready_file
    }

    /// Where calls and commits are counted.
    pub(super) fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Ends it in order.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        match self.running {
            Running::Standalone(standalone) => standalone.stop(),
            Running::Cluster(cluster) => {
                let killed = cluster.stop()?;
                let killed: Vec<_> = killed.iter().map(ToString::to_string).collect();
                ensure!(
                    killed.is_empty(),
                    "{} did not drain in time and had to be killed",
                    killed.join(", ")
                );
                Ok(())
            }
        }
    }
}

/// A ready file's text with more processes.
fn with_pids(mut ready: Value, more: &[(&str, u32)]) -> Value {
    for (role, pid) in more {
        ready["pids"][*role] = json!(pid);
    }
    ready
}

/// Readable by its owner only: it names the place of a secret.
fn write_secretly(path: &Path, value: &Value) -> anyhow::Result<()> {
    let file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let written = file.and_then(|mut file| writeln!(file, "{value:#}"));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// `whimbrel standalone --processes`. Killed when dropped.
struct Standalone {
    child: Child,
}

impl Standalone {
    fn start(
        server: &Path,
        folder: &Path,
        ready_file: &Path,
        log: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let log_path = folder.join("standalone.log");
        let written = fs::File::create(&log_path)?;
        // Through this program, so that it ends with it.
        let launcher = launcher()?;
        let [program, words @ ..] = launcher.as_slice() else {
            bail!("nothing to start {} through", server.display());
        };
        let mut command = Command::new(program);
        command
            .args(words)
            .arg(server)
            .args(["standalone", "--processes"]);
        command.arg("--data").arg(folder.join("data"));
        command.arg("--ready-file").arg(ready_file);
        command.args(["--port-base", "0"]).env("RUST_LOG", log);
        command
            .stdin(Stdio::null())
            .stdout(written.try_clone()?)
            .stderr(written);
        let child = command.spawn();
        let mut standalone = Self {
            child: child.with_context(|| format!("{} does not start", server.display()))?,
        };
        let started = Instant::now();
        while !ready_file.exists() {
            if let Some(status) = standalone.child.try_wait()? {
                bail!("it ended at its start, {status}: see {}", log_path.display());
            }
            ensure!(
                started.elapsed() < READY_WITHIN,
                "not ready after {READY_WITHIN:?}: see {}",
                log_path.display()
            );
            sleep(LOOK_EVERY, interrupt)?;
        }
        Ok(standalone)
    }

    fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it had ended by itself: {status}");
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let told = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                told.elapsed() < END_WITHIN,
                "not ended after {END_WITHIN:?}, and killed"
            );
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_processes_stand_beside_those_of_the_roles() {
        let ready = json!({ "lbs": "x", "pids": { "gateway": [7, 8] } });
        let all = with_pids(ready, &[("redis", 9), ("store", 10)]);
        assert_eq!(all["pids"], json!({ "gateway": [7, 8], "redis": 9, "store": 10 }));
        assert_eq!(all["lbs"], "x");
    }
}
