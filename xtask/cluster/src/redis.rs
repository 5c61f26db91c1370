//! A Redis of the cluster's own, that keeps nothing on disk.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use redis::{Client, Connection};
use rustix::process::{Pid, Signal, kill_process};

/// How long a Redis takes to start, on a machine that is busy with other things.
const START_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long it may take to answer a word.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The program.
const PROGRAM: &str = "redis-server";

/// Whether this machine has one.
#[must_use]
pub fn is_there() -> bool {
    let mut command = Command::new(PROGRAM);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// See the module. Killed when dropped.
#[derive(Debug)]
pub struct Redis {
    address: SocketAddr,
    folder: PathBuf,
    launcher: Vec<OsString>,
    child: Child,
}

impl Redis {
    pub(crate) fn start(address: SocketAddr, folder: &Path, launcher: &[OsString]) -> anyhow::Result<Self> {
        ensure!(
            is_there(),
            "redis-server is missing: run `sudo apt-get install redis-server`"
        );
        Ok(Self {
            address,
            folder: folder.to_owned(),
            launcher: launcher.to_vec(),
            child: run(address, folder, launcher)?,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it and starts it again, empty.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.child = run(self.address, &self.folder, &self.launcher)?;
        Ok(())
    }

    /// Has it forget everything.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn wipe(&self) -> anyhow::Result<()> {
        let mut connection = connect(self.address)?;
        Ok(redis::cmd("FLUSHALL").exec(&mut connection)?)
    }

    /// Has it stand still.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("redis-server is gone")
    }

    fn kill(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(address: SocketAddr, folder: &Path, launcher: &[OsString]) -> anyhow::Result<Child> {
    let (port, bind) = (address.port().to_string(), address.ip().to_string());
    let program = OsString::from(PROGRAM);
    let mut words = launcher.iter().chain([&program]);
    let mut command = Command::new(words.next().unwrap_or(&program));
    command.args(words);
    command.args([
        "--port",
        &port,
        "--bind",
        &bind,
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    command.arg("--dir").arg(folder);
    let log = folder.join("redis.log");
    let file = File::options().create(true).append(true).open(&log)?;
    command
        .stdin(Stdio::null())
        .stderr(file.try_clone()?)
        .stdout(file);
    let mut child = command.spawn().context("redis-server does not start")?;
    let began = Instant::now();
    while connect(address).is_err() {
        let late = began.elapsed() > START_WITHIN;
        if let Some(status) = child.try_wait()? {
            bail!("redis-server ended with {status}: see {}", log.display());
        }
        if late {
            let _ = child.kill();
            let _ = child.wait();
            bail!(
                "redis-server does not answer within {START_WITHIN:?}: see {}",
                log.display()
            );
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(child)
}

/// A connection that was answered on.
fn connect(address: SocketAddr) -> anyhow::Result<Connection> {
    let client = Client::open(format!("redis://{address}"))?;
    let mut connection = client.get_connection_with_timeout(ANSWER_WITHIN)?;
    connection.set_read_timeout(Some(ANSWER_WITHIN))?;
    redis::cmd("PING").exec(&mut connection)?;
    Ok(connection)
}
