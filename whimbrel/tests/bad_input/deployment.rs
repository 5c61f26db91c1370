//! A deployment of the real binary, and what can be seen of it from outside: its memory, its gauges, its log.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tokio::runtime::Handle;

/// A debug build on a busy machine starts within this, or not at all.
const START_WITHIN: Duration = Duration::from_secs(60);
/// A drain with nobody to wait for.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at something that has no event to wait for: a file of another process, its gauges.
const POLL: Duration = Duration::from_millis(20);

/// The ready file.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ready {
    pub(crate) pids: BTreeMap<String, u32>,
    pub(crate) lbs: String,
    pub(crate) api: String,
    pub(crate) metrics: String,
    pub(crate) gateway_tcp: SocketAddr,
    pub(crate) app_key: String,
    pub(crate) app_secret_file: PathBuf,
    pub(crate) root_key: String,
}

/// A running `whimbrel standalone`. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Deployment {
    child: Child,
    log: PathBuf,
    pub(crate) ready: Ready,
    /// Keeps its log, ready file and temporary files; goes last.
    _scratch: tempfile::TempDir,
}

/// `whimbrel` with these arguments, its own temporary folder, and nothing of this process's environment that would
/// change what it does.
pub(crate) fn whimbrel(scratch: &Path, args: &[&OsStr]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel"));
    command
        .args(args)
        .env("TMPDIR", scratch)
        .env_remove("RUST_LOG")
        .env("RUST_BACKTRACE", "0")
        // What is freed goes back at once: resident memory is what is in use.
        .env("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")
        .current_dir(scratch)
        .stdin(Stdio::null());
    command
}

impl Deployment {
    /// Starts it on free ports, keeping nothing.
    pub(crate) fn ephemeral() -> anyhow::Result<Self> {
        Self::start(&["--ephemeral"], &[])
    }

    /// Starts it on free ports with these flags, and with `environment` over its configuration.
    pub(crate) fn start(flags: &[impl AsRef<OsStr>], environment: &[(&str, String)]) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir().context("a folder for logs")?;
        let (log, ready_file) = (scratch.path().join("log"), scratch.path().join("ready.json"));
        let mut args = vec![
            OsStr::new("standalone"),
            OsStr::new("--port-base"),
            OsStr::new("0"),
            OsStr::new("--ready-file"),
            ready_file.as_os_str(),
        ];
        args.extend(flags.iter().map(AsRef::as_ref));
        let mut child = whimbrel(scratch.path(), &args)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("starting whimbrel")?;
        let deadline = Instant::now() + START_WITHIN;
        while !ready_file.exists() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "standalone ended before it was ready ({status}): {}",
                    fs::read_to_string(&log)?
                );
            }
            if Instant::now() > deadline {
                child.kill()?;
                bail!(
                    "standalone was not ready within {START_WITHIN:?}: {}",
                    fs::read_to_string(&log)?
                );
            }
            thread::sleep(POLL);
        }
        let ready = serde_json::from_str(&fs::read_to_string(&ready_file)?).context("the ready file")?;
        Ok(Self {
            child,
            log,
            ready,
            _scratch: scratch,
        })
    }

    /// The folder of its keys.
    pub(crate) fn keys(&self) -> anyhow::Result<PathBuf> {
        let apps = self.ready.app_secret_file.parent();
        let data = apps.and_then(Path::parent).context("secrets lie in DATA/apps")?;
        Ok(data.join("keys"))
    }

    /// Resident memory of the process of a role, or of all, in bytes.
    pub(crate) fn resident_bytes(&self, role: Option<&str>) -> anyhow::Result<i64> {
        let of_role = self
            .ready
            .pids
            .iter()
            .filter(|(name, _)| role.is_none_or(|role| role == *name));
        let pids: std::collections::BTreeSet<u32> = of_role.map(|(_, pid)| *pid).collect();
        let page_bytes = i64::try_from(rustix::param::page_size())?;
        let mut bytes = 0;
        for pid in pids {
            let statm = fs::read_to_string(format!("/proc/{pid}/statm"))
                .with_context(|| format!("process {pid} is gone; {}", self.said()))?;
            let pages = statm
                .split_whitespace()
                .nth(1)
                .context("statm has a second field")?;
            bytes += pages.parse::<i64>()? * page_bytes;
        }
        Ok(bytes)
    }

    /// The sum of a gauge over its labels.
    pub(crate) fn gauge(&self, runtime: &Handle, name: &str) -> anyhow::Result<f64> {
        let url = format!("{}/metrics", self.ready.metrics);
        let page = runtime.block_on(async { reqwest::get(url).await?.error_for_status()?.text().await })?;
        let of_name = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let values: Vec<f64> = page
            .lines()
            .filter(of_name)
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        ensure!(!values.is_empty(), "{name} is not among the metrics");
        Ok(values.iter().sum())
    }

    /// Waits until a gauge has fallen to `most`.
    pub(crate) fn await_gauge(
        &self,
        runtime: &Handle,
        name: &str,
        most: f64,
        within: Duration,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let value = self.gauge(runtime, name)?;
            if value <= most {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{name} stays at {value}, expected at most {most} after {within:?}"
            );
            thread::sleep(POLL);
        }
    }

    /// That it lives, and that nothing in it has panicked.
    pub(crate) fn check_sane(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server has ended ({status}); {}", self.said());
        }
        let log = self.log()?;
        ensure!(
            !log.contains("panicked"),
            "something in the server panicked; {}",
            self.said()
        );
        Ok(())
    }

    /// All of its log so far.
    pub(crate) fn log(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.log).context("its log")
    }

    /// The end of its log, for a message.
    pub(crate) fn said(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("its log ends:\n{}", lines.join("\n"))
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if ended(&mut self.child, END_WITHIN).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits for a process to end.
pub(crate) fn ended(child: &mut Child, within: Duration) -> anyhow::Result<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(
            Instant::now() < deadline,
            "process {} still runs after {within:?}",
            child.id()
        );
        thread::sleep(POLL);
    }
}
