//! The nodes' processes: started, started again when they end, signalled, and ended in order.
//!
//! One thread starts them all and looks after them. On Linux a child's death signal comes when the *thread* that started it
//! ends, so that thread lives as long as they do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::{Member, Role, config};

/// A node whose process lived shorter than this is started again with growing pauses.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// The first pause; long enough for the kernel to let go of ports.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Between two looks at all of them; bounds how late an end is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

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

/// A process that was told to end, and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Whose.
    pub member: Member,
    /// How it ended.
    pub status: ExitStatus,
    /// How long it took.
    pub took: Duration,
    /// It took longer than its role may, and was killed.
    pub killed: bool,
}

impl Drained {
    /// Whether it ended by itself, in time and with success.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        !self.killed && self.status.success()
    }
}

/// What is to become of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// It is not started yet.
    Waits,
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
    /// When its process was told to drain.
    told: Option<Instant>,
    /// That took too long.
    killed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    nodes: BTreeMap<Member, Node>,
    /// Those that were told to, in the order in which they ended.
    drained: Vec<Drained>,
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
    /// Starts them, but for those held back; with `restart` each is started again when it ends by itself.
    pub(crate) fn start(
        binary: PathBuf,
        nodes: BTreeMap<Member, Files>,
        held_back: &BTreeSet<Member>,
        restart: bool,
        heard: Heard,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        let nodes = nodes.into_iter().map(|(member, files)| {
            let node = Node {
                files,
                wanted: if held_back.contains(&member) {
                    Wanted::Waits
                } else {
                    Wanted::Runs
                },
                child: None,
                standing: Standing::default(),
                started: now,
                due: now,
                pause: PAUSE_MIN,
                told: None,
                killed: false,
            };
            (member, node)
        });
        let shared = Arc::new(Mutex::new(Shared {
            nodes: nodes.collect(),
            drained: Vec::new(),
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

    /// Starts one that was held back; false when it was not.
    pub(crate) fn add(&self, member: Member) -> bool {
        let mut shared = lock(&self.shared);
        let node = shared.nodes.get_mut(&member);
        let waits = node.filter(|node| node.wanted == Wanted::Waits);
        waits.map(|node| node.wanted = Wanted::Runs).is_some()
    }

    /// Tells a node's process to drain; false when there is none, or it was told already. Who does not go in time is killed.
    pub(crate) fn drain(&self, member: Member) -> bool {
        let mut shared = lock(&self.shared);
        let node = shared.nodes.get_mut(&member);
        node.is_some_and(Node::tell)
    }

    /// Who was told to drain and has not ended.
    pub(crate) fn draining(&self) -> Vec<Member> {
        let shared = lock(&self.shared);
        let told = shared.nodes.iter().filter(|(_, node)| node.told.is_some());
        told.map(|(member, _)| *member).collect()
    }

    /// Who was told to drain and has ended.
    pub(crate) fn drained(&self) -> Vec<Drained> {
        lock(&self.shared).drained.clone()
    }

    /// Tells these to drain, and waits until they are gone. Who does not go in time is killed; gives who was.
    pub(crate) fn end(&self, which: impl Fn(Member) -> bool) -> Vec<Member> {
        let before = {
            let mut shared = lock(&self.shared);
            for (_, node) in shared.nodes.iter_mut().filter(|(member, _)| which(**member)) {
                node.wanted = Wanted::Ends;
            }
            shared.drained.len()
        };
        loop {
            thread::sleep(LOOK_EVERY);
            let shared = lock(&self.shared);
            let mut those = shared.nodes.iter().filter(|(member, _)| which(**member));
            if those.all(|(_, node)| node.child.is_none()) {
                let ended = shared.drained[before..].iter();
                return ended.filter(|one| one.killed).map(|one| one.member).collect();
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
            let Shared { nodes, drained, .. } = &mut *shared;
            for (member, node) in nodes {
                drained.extend(node.look(*member, binary, restart && !closed, closed));
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
    /// Starts it when it is due, and hears of its end; gives that, if it was told to.
    fn look(&mut self, member: Member, binary: &Path, restart: bool, closed: bool) -> Option<Drained> {
        match self.child.as_mut().map(Child::try_wait) {
            None => {
                let is_due = self.wanted == Wanted::Runs && Instant::now() >= self.due;
                if is_due && !closed && (restart || self.standing.starts == 0) {
                    self.start(member, binary);
                }
                None
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
                let killed = std::mem::take(&mut self.killed);
                self.told.take().map(|told| Drained {
                    member,
                    status,
                    took: told.elapsed(),
                    killed,
                })
            }
            Some(_) => {
                self.tend(member.role);
                None
            }
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
    fn tend(&mut self, role: Role) {
        if !self.standing.up && self.files.ready.exists() {
            self.standing.up = true;
            self.standing.last_up = self.standing.pid;
        }
        if self.wanted == Wanted::Ends {
            self.tell();
        }
        let late = self
            .told
            .is_some_and(|told| told.elapsed() > config::drain_within(role));
        if let Some(child) = self.child.as_mut().filter(|_| late && !self.killed) {
            // Gone already is as good.
            let _ = child.kill();
            self.killed = true;
        }
    }

    /// Tells its process to drain, once.
    fn tell(&mut self) -> bool {
        let Some(child) = self.child.as_ref().filter(|_| self.told.is_none()) else {
            return false;
        };
        let pid = Pid::from_child(child);
        // One that stands still would not hear of it. Gone already is as good.
        let _ = kill_process(pid, Signal::TERM);
        let _ = kill_process(pid, Signal::CONT);
        self.told = Some(Instant::now());
        true
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// What takes longer hangs.
    const WITHIN: Duration = Duration::from_secs(60);
    const MEMBER: Member = Member {
        role: Role::Lbs,
        nth: 0,
    };

    fn until(what: &str, happened: impl Fn() -> bool) {
        let began = Instant::now();
        while !happened() {
            assert!(began.elapsed() < WITHIN, "not {what} after {WITHIN:?}");
            thread::sleep(LOOK_EVERY);
        }
    }

    /// A node that listens at once, and does this when it is told to end.
    fn node(folder: &Path, told: &str, held_back: &[Member]) -> Processes {
        let binary = folder.join("node");
        let script = format!("#!/bin/sh\ntrap '{told}' TERM\n: > \"$5\"\nwhile :; do sleep 0.01; done\n");
        std::fs::write(&binary, script).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o700)).unwrap();
        let files = Files {
            config: folder.join("config"),
            ready: folder.join("ready"),
            log: folder.join("log"),
        };
        let nodes = BTreeMap::from([(MEMBER, files)]);
        let held_back = held_back.iter().copied().collect();
        Processes::start(binary, nodes, &held_back, true, Box::new(|_| {})).unwrap()
    }

    #[test]
    fn who_is_told_to_drain_ends_by_itself_and_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        for (told, in_order) in [("exit 0", true), ("exit 3", false)] {
            let processes = node(folder.path(), told, &[]);
            until("up", || processes.standings()[&MEMBER].up);
            assert!(processes.drain(MEMBER));
            until("ended", || !processes.drained().is_empty());
            let drained = processes.drained()[0];
            assert_eq!((drained.member, drained.is_in_order()), (MEMBER, in_order));
            assert!(!drained.killed && processes.draining().is_empty());
            until("up again", || {
                let standing = processes.standings()[&MEMBER];
                standing.up && standing.starts == 2
            });
        }
    }

    #[test]
    fn who_does_not_drain_in_time_is_killed_and_that_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let processes = node(folder.path(), ":", &[]);
        until("up", || processes.standings()[&MEMBER].up);
        assert_eq!(processes.end(|_| true), [MEMBER]);
        let drained = processes.drained()[0];
        assert!(drained.killed && !drained.is_in_order());
        assert!(drained.took >= config::drain_within(Role::Lbs));
    }

    #[test]
    fn who_is_held_back_is_started_when_it_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let processes = node(folder.path(), "exit 0", &[MEMBER]);
        assert!(!processes.drain(MEMBER), "nobody is there to be told");
        assert!(processes.add(MEMBER));
        until("up", || processes.standings()[&MEMBER].up);
        assert!(!processes.add(MEMBER), "it is there");
        assert!(processes.end(|_| true).is_empty());
    }
}
