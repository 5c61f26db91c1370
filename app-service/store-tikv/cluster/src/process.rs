//! The two processes.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::FaultProxy;

/// Ways to the store, in the cluster's folder.
const WAYS_FILE: &str = "ways";
/// How long a program may take to end when it is told to: what it is asked meanwhile, and what it holds open.
const END_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `xtask/tikv/pd`.
    pub pd: PathBuf,
    /// `xtask/tikv/store`.
    pub store: PathBuf,
}

impl Binaries {
    /// Where they are built, in cargo's target folder.
    #[must_use]
    pub fn of_target(target: &Path) -> Self {
        let folder = target.join("tikv");
        Self {
            pd: folder.join("pd"),
            store: folder.join("store"),
        }
    }

    /// The same for a program that cargo built: its target folder is the one above its profile's.
    #[must_use]
    pub fn beside_this_program() -> Option<Self> {
        let program = std::env::current_exe().ok()?;
        // target/debug/deps/program, or target/debug/program.
        program
            .ancestors()
            .skip(1)
            .take(4)
            .map(Self::of_target)
            .find(Self::exist)
    }

    /// Whether both are built.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.pd.is_file() && self.store.is_file()
    }
}

/// How a cluster is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// A proxy stands before the placement driver and the store, and everybody goes through it.
    pub proxies: bool,
    /// Regions split at about one and a half times this.
    pub region_bytes: u64,
    /// Words that stand before each program and its arguments: one that becomes it, so that it ends with whoever started it.
    /// Empty: it is started by itself.
    pub launcher: Vec<OsString>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            proxies: false,
            region_bytes: 256 * 1024,
            launcher: Vec::new(),
        }
    }
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The placement driver.
    Pd,
    /// The store.
    Store,
}

/// A placement driver and a store in a temporary folder. Both end with it.
///
/// They speak TiKV's protocol and keep versions, locks and regions as TiKV does. There is one of each: no Raft, no
/// election, no second replica, and the store is not crash-safe.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    options: Options,
    folder: TempDir,
    pd: Running,
    store: Running,
    pd_proxy: Option<FaultProxy>,
    store_proxy: Option<FaultProxy>,
}

impl Cluster {
    /// Starts both and returns when they serve.
    ///
    /// # Errors
    /// What kept a process from starting.
    pub fn start(binaries: Binaries, options: Options) -> io::Result<Self> {
        let folder = TempDir::with_prefix("whimbrel-tikv-")?;
        let proxy = || options.proxies.then(FaultProxy::listen).transpose();
        let (pd_proxy, store_proxy) = (proxy()?, proxy()?);
        let pd = start_pd(&binaries, &folder, &options, pd_proxy.as_ref(), "127.0.0.1:0")?;
        let known = pd_proxy.as_ref().map_or(pd.address, FaultProxy::address);
        let store = start_store(
            &binaries,
            &folder,
            &options,
            store_proxy.as_ref(),
            known,
            "127.0.0.1:0",
        )?;
        Ok(Self {
            binaries,
            options,
            folder,
            pd,
            store,
            pd_proxy,
            store_proxy,
        })
    }

    /// Where clients find the placement driver: the proxy's address, when there is one.
    #[must_use]
    pub fn pd_address(&self) -> SocketAddr {
        self.pd_proxy
            .as_ref()
            .map_or(self.pd.address, FaultProxy::address)
    }

    /// Where the store listens; the proxy's address, when there is one.
    #[must_use]
    pub fn store_address(&self) -> SocketAddr {
        self.store_proxy
            .as_ref()
            .map_or(self.store.address, FaultProxy::address)
    }

    /// Whoever reaches the placement driver at these addresses is told, from now on, to reach the store at the other of each
    /// pair. So single clients can have proxies of their own.
    ///
    /// # Errors
    /// The file's.
    pub fn ways(&self, ways: &[(SocketAddr, SocketAddr)]) -> io::Result<()> {
        let lines: String = ways.iter().map(|(pd, store)| format!("{pd} {store}\n")).collect();
        std::fs::write(self.folder.path().join(WAYS_FILE), lines)
    }

    /// Where a part serves `/metrics`.
    #[must_use]
    pub fn status_address(&self, part: Part) -> SocketAddr {
        match part {
            Part::Pd => self.pd.status,
            Part::Store => self.store.status,
        }
    }

    /// The process ids: the placement driver's, the store's.
    #[must_use]
    pub fn process_ids(&self) -> [u32; 2] {
        [self.pd.child.id(), self.store.child.id()]
    }

    /// The proxy before a part.
    ///
    /// # Panics
    /// When the cluster was started without proxies.
    #[must_use]
    pub fn proxy(&self, part: Part) -> &FaultProxy {
        let proxy = match part {
            Part::Pd => &self.pd_proxy,
            Part::Store => &self.store_proxy,
        };
        proxy.as_ref().expect("the cluster was started with proxies")
    }

    /// Ends a part in order and starts it again on its data and its port.
    ///
    /// # Errors
    /// What kept it from ending or starting.
    pub fn restart(&mut self, part: Part) -> io::Result<()> {
        match part {
            Part::Pd => {
                self.pd.end()?;
                let at = self.pd.address.to_string();
                self.pd = start_pd(
                    &self.binaries,
                    &self.folder,
                    &self.options,
                    self.pd_proxy.as_ref(),
                    &at,
                )?;
            }
            Part::Store => {
                self.store.end()?;
                let at = self.store.address.to_string();
                self.store = start_store(
                    &self.binaries,
                    &self.folder,
                    &self.options,
                    self.store_proxy.as_ref(),
                    self.pd_address(),
                    &at,
                )?;
            }
        }
        Ok(())
    }

    /// Ends both in order.
    ///
    /// # Errors
    /// What kept one from ending.
    pub fn stop(mut self) -> io::Result<()> {
        self.store.end()?;
        self.pd.end()
    }
}

fn start_pd(
    binaries: &Binaries,
    folder: &TempDir,
    options: &Options,
    proxy: Option<&FaultProxy>,
    listen: &str,
) -> io::Result<Running> {
    let mut command = launched(options, &binaries.pd);
    command
        .arg("--ways")
        .arg(folder.path().join(WAYS_FILE))
        .args(["--listen", listen, "--data"])
        .arg(folder.path().join("pd"));
    start(command, proxy)
}

fn start_store(
    binaries: &Binaries,
    folder: &TempDir,
    options: &Options,
    proxy: Option<&FaultProxy>,
    pd: SocketAddr,
    listen: &str,
) -> io::Result<Running> {
    let mut command = launched(options, &binaries.store);
    command
        .args(["--listen", listen, "--pd", &pd.to_string()])
        .args(["--region-bytes", &options.region_bytes.to_string(), "--data"])
        .arg(folder.path().join("store"));
    start(command, proxy)
}

fn launched(options: &Options, program: &Path) -> Command {
    match options.launcher.split_first() {
        Some((launcher, words)) => {
            let mut command = Command::new(launcher);
            command.args(words).arg(program);
            command
        }
        None => Command::new(program),
    }
}

fn start(mut command: Command, proxy: Option<&FaultProxy>) -> io::Result<Running> {
    command.args(["--status", "127.0.0.1:0"]);
    if let Some(proxy) = proxy {
        command.args(["--advertise", &proxy.address().to_string()]);
    }
    let running = Running::start(&mut command)?;
    if let Some(proxy) = proxy {
        proxy.forward_to(running.address);
    }
    Ok(running)
}

/// A process that has said where it listens.
#[derive(Debug)]
struct Running {
    child: Child,
    address: SocketAddr,
    /// Where its metrics are.
    status: SocketAddr,
}

impl Running {
    fn start(command: &mut Command) -> io::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let Some((address, status)) = addresses(&line) else {
            let _ = child.kill();
            let status = child.wait()?;
            return Err(io::Error::other(format!(
                "{program} did not say where it listens but {line:?}, and ended with {status}: if it is of an older build, \
                 `cargo xtask tikv` builds it anew"
            )));
        };
        read_on(stdout)?;
        Ok(Self {
            child,
            address,
            status,
        })
    }

    /// Has it end in order; one that takes too long is killed.
    fn end(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process has an id"), Signal::TERM)?;
        let told = Instant::now();
        while self.child.try_wait()?.is_none() {
            if told.elapsed() > END_WITHIN {
                self.child.kill()?;
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Reads on until the program ends: a pipe that nobody reads is full some day, and whoever writes into it stands still.
fn read_on(mut stdout: BufReader<ChildStdout>) -> io::Result<()> {
    let read = move || io::copy(&mut stdout, &mut io::sink());
    thread::Builder::new()
        .name("store's words".to_owned())
        .spawn(read)?;
    Ok(())
}

/// Where a program listens, and where its metrics are, by its one line: "store listening on 127.0.0.1:1234 status
/// 127.0.0.1:1235", "pd listening on 127.0.0.1:1236 cluster 5 status 127.0.0.1:1237".
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let behind = |what: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| *word == what)?;
        words.next()?.parse().ok()
    };
    Some((behind("on")?, behind("status")?))
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_where_they_listen_and_where_their_metrics_are() {
        let store = "store listening on 127.0.0.1:1234 status 127.0.0.1:1235\n";
        let pd = "pd listening on 127.0.0.1:1234 cluster 5 status 127.0.0.1:1235\n";
        let expected = Some(([127, 0, 0, 1], 1234).into()).zip(Some(([127, 0, 0, 1], 1235).into()));
        assert_eq!(addresses(store), expected);
        assert_eq!(addresses(pd), expected);
        for line in [
            "",
            "store listening on 127.0.0.1:1234\n",
            "panic: on fire status unknown",
        ] {
            assert_eq!(addresses(line), None, "{line}");
        }
    }
}
