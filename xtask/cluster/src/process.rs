//! The nodes' processes: started, started again when they end, signalled, and ended in order.
//!
//! One thread starts them all and looks after them. On Linux a child's death signal comes when the *thread* that started it
//! ends, so that thread lives as long as they do.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::Member;

/// A node whose process lived shorter than this is started again with growing pauses.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// The first pause; long enough for the kernel to let go of ports.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Between two looks at all of them; bounds how late an end is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a node may drain before it is killed.
const DRAIN_GRACE: Duration = Duration::from_secs(15);

/// How a node's process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// It listens.
    pub up: bool,
    /// The last process that did.
    pub last_up: Option<u32>,
    /// How often it was started.
    pub starts: u32,
    /// How the one before ended.
    pub ended: Option<ExitStatus>,
}

/// What is to become of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Runs,
    Ends,
}

/// A node's files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) config: PathBuf,
    pub(crate) ready: PathBuf,
    pub(crate) log: PathBuf,
}

/// Hears how all are, whenever that has changed.
pub(crate) type Heard = Box<dyn FnMut(&BTreeMap<Member, Standing>) + Send>;

#[derive(Debug)]
struct Node {
    files: Files,
    wanted: Wanted,
    child: Option<Child>,
    standing: Standing,
    started: Instant,
    /// When it may be started.
    due: Instant,
    pause: Duration,
    /// When it was told to drain.
    told: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    nodes: BTreeMap<Member, Node>,
    /// Nothing is started any more.
    closed: bool,
}

/// See the module. What still runs is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Processes {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Processes {
    /// Starts them; with `restart` each is started again when it ends by itself.
    pub(crate) fn start(
        binary: PathBuf,
        nodes: BTreeMap<Member, Files>,
        restart: bool,
        heard: Heard,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        let nodes = nodes.into_iter().map(|(member, files)| {
            let node = Node {
                files,
                wanted: Wanted::Runs,
                child: None,
                standing: Standing::default(),
                started: now,
                due: now,
                pause: PAUSE_MIN,
                told: None,
            };
            (member, node)
        });
        let shared = Arc::new(Mutex::new(Shared {
            nodes: nodes.collect(),
            closed: false,
        }));
        let looked_after = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("nodes".to_owned())
            .spawn(move || look_after(&looked_after, &binary, restart, heard))
            .context("a thread that looks after the nodes")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// How all are.
    pub(crate) fn standings(&self) -> BTreeMap<Member, Standing> {
        lock(&self.shared).standings()
    }

    /// Signals a node's process; false when there is none.
    pub(crate) fn signal(&self, member: Member, signal: Signal) -> bool {
        // Under the lock nobody reaps the child, so its number is no other process's.
        let shared = lock(&self.shared);
        let child = shared.nodes.get(&member).and_then(|node| node.child.as_ref());
        child.is_some_and(|child| kill_process(Pid::from_child(child), signal).is_ok())
    }

    /// Tells these to drain, and waits until they are gone. Who does not go in time is killed; gives who was.
    pub(crate) fn end(&self, which: impl Fn(Member) -> bool) -> Vec<Member> {
        let ending: Vec<Member> = {
            let mut shared = lock(&self.shared);
            let those = shared.nodes.iter_mut().filter(|(member, _)| which(**member));
            those
                .map(|(member, node)| {
                    node.wanted = Wanted::Ends;
                    *member
                })
                .collect()
        };
        let mut killed = Vec::new();
        loop {
            thread::sleep(LOOK_EVERY);
            let mut shared = lock(&self.shared);
            let mut left = 0;
            for member in &ending {
                let Some(node) = shared.nodes.get_mut(member) else {
                    continue;
                };
                let late = node.told.is_some_and(|told| told.elapsed() > DRAIN_GRACE);
                if let Some(child) = &mut node.child {
                    left += 1;
                    if late && !killed.contains(member) {
                        killed.push(*member);
                        // Gone already is as good.
                        let _ = child.kill();
                    }
                }
            }
            if left == 0 {
                return killed;
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        {
            let mut shared = lock(&self.shared);
            shared.closed = true;
            for child in shared.nodes.values_mut().filter_map(|node| node.child.as_mut()) {
                // Gone already is as good.
                let _ = child.kill();
            }
        }
        if let Some(thread) = self.thread.take() {
            // It ends with the last of them; a panic in it has been reported already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn standings(&self) -> BTreeMap<Member, Standing> {
        let nodes = self.nodes.iter();
        nodes.map(|(member, node)| (*member, node.standing)).collect()
    }
}

fn look_after(shared: &Mutex<Shared>, binary: &Path, restart: bool, mut heard: Heard) {
    let mut before = BTreeMap::new();
    loop {
        let now = {
            let mut shared = lock(shared);
            let closed = shared.closed;
            for (member, node) in &mut shared.nodes {
                node.look(*member, binary, restart && !closed, closed);
            }
            if closed && shared.nodes.values().all(|node| node.child.is_none()) {
                return;
            }
            shared.standings()
        };
        if now != before {
            heard(&now);
            before = now;
        }
        thread::sleep(LOOK_EVERY);
    }
}

impl Node {
    fn look(&mut self, member: Member, binary: &Path, restart: bool, closed: bool) {
        match self.child.as_mut().map(Child::try_wait) {
            None => {
                let is_due = self.wanted == Wanted::Runs && Instant::now() >= self.due;
                if is_due && !closed && (restart || self.standing.starts == 0) {
                    self.start(member, binary);
                }
            }
            Some(Ok(Some(status))) => {
                self.child = None;
                self.standing = Standing {
                    pid: None,
                    up: false,
                    ended: Some(status),
                    ..self.standing
                };
                self.put_off();
            }
            Some(_) => self.tend(),
        }
    }

    fn start(&mut self, member: Member, binary: &Path) {
        // A start that fails is tried again, and shows in `starts` and in the log.
        let _ = std::fs::remove_file(&self.files.ready);
        self.started = Instant::now();
        self.standing.starts += 1;
        match spawn(member, binary, &self.files) {
            Ok(child) => {
                self.standing.pid = Some(child.id());
                self.child = Some(child);
            }
            Err(_) => self.put_off(),
        }
    }

    fn put_off(&mut self) {
        let lived = self.started.elapsed();
        self.pause = if lived >= STABLE_AFTER {
            PAUSE_MIN
        } else {
            (self.pause * 2).min(PAUSE_MAX)
        };
        self.due = Instant::now() + self.pause;
    }

    /// Of a process that runs.
    fn tend(&mut self) {
        if !self.standing.up && self.files.ready.exists() {
            self.standing.up = true;
            self.standing.last_up = self.standing.pid;
        }
        if self.wanted == Wanted::Ends
            && self.told.is_none()
            && let Some(child) = &self.child
        {
            let pid = Pid::from_child(child);
            // One that stands still would not hear of it. Gone already is as good.
            let _ = kill_process(pid, Signal::TERM);
            let _ = kill_process(pid, Signal::CONT);
            self.told = Some(Instant::now());
        }
    }
}

fn spawn(member: Member, binary: &Path, files: &Files) -> std::io::Result<Child> {
    let log = File::options().create(true).append(true).open(&files.log)?;
    let mut command = Command::new(binary);
    command.arg(member.role.name()).arg("--config").arg(&files.config);
    command.arg("--ready-file").arg(&files.ready);
    // It ends with us, whatever becomes of us: by its standard input, and by its parent's death signal.
    command.arg("--end-with-stdin").stdin(Stdio::piped());
    command.stdout(log.try_clone()?).stderr(log);
    // Ctrl-C goes to the terminal's whole foreground group: in a group of its own it hears of it from us alone, in its turn.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()
}
