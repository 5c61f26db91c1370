//! Keeps the roles of `standalone --processes` running: starts each as a process of this same binary, starts it again
//! when it ends, and ends all of them together.
//!
//! A child ends with its supervisor even when that is killed: it holds the other end of the child's standard input, and
//! on Linux the child asks for the parent's death signal as well, which reaches a frozen child too.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// A role whose process lived shorter than this is started again with growing pauses.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// The first pause; long enough for the kernel to let go of ports and locks.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: an operator who cured the cause should not wait longer.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a running child is looked at; bounds how late its end is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Which process of which role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    /// The subcommand, which is also the name in the ready file.
    pub(crate) role: &'static str,
    /// Counted from 0.
    pub(crate) nth: u16,
}

/// Its node's name: `gateway-1` is the first gateway.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.role, self.nth + 1)
    }
}

/// One role's process.
#[derive(Debug, Clone)]
pub(crate) struct RoleProcess {
    /// Which.
    pub(crate) member: Member,
    /// Its configuration.
    pub(crate) config: PathBuf,
    /// Where it says that it listens.
    pub(crate) ready_file: PathBuf,
}

/// What the supervisor tells its owner.
#[derive(Debug)]
pub(crate) enum Event {
    /// A role's process listens.
    Up { member: Member, pid: u32 },
    /// A role's process ended; it will be started again unless it never listened.
    Ended {
        member: Member,
        status: ExitStatus,
        was_up: bool,
    },
    /// A role's process could not be started, or not be looked after; it is tried again.
    NotStarted {
        member: Member,
        error: String,
        /// Whether the try before failed too.
        again: bool,
    },
}

/// Asks all supervised roles to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<std::sync::atomic::AtomicBool>);

impl Stop {
    /// From now on nothing is started again, and what runs is asked to drain.
    pub(crate) fn stop(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Release);
    }

    fn is_stopped(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// Runs `process` again and again on a thread of its own until `stop`, then lets it drain for at most `grace`.
pub(crate) fn supervise(
    process: RoleProcess,
    stop: Stop,
    grace: Duration,
    events: mpsc::Sender<Event>,
) -> std::io::Result<thread::JoinHandle<()>> {
    let binary = this_binary()?;
    thread::Builder::new()
        .name(format!("supervise-{}", process.member))
        .spawn(move || {
            let mut pause = PAUSE_MIN;
            let mut has_failed = false;
            while !stop.is_stopped() {
                let started = Instant::now();
                let member = process.member;
                let event = match run_once(&process, &binary, &stop, grace, &events) {
                    Ok((status, was_up)) => Event::Ended {
                        member,
                        status,
                        was_up,
                    },
                    Err(error) => Event::NotStarted {
                        member,
                        error: format!("{error:#}"),
                        again: has_failed,
                    },
                };
                has_failed = matches!(event, Event::NotStarted { .. });
                // The owner may be gone already; then nobody needs the news.
                let _ = events.send(event);
                pause = if started.elapsed() >= STABLE_AFTER {
                    PAUSE_MIN
                } else {
                    (pause * 2).min(PAUSE_MAX)
                };
                let again = Instant::now() + pause;
                while !stop.is_stopped() && Instant::now() < again {
                    thread::sleep(LOOK_EVERY);
                }
            }
        })
}

/// This very binary, as it was when this process started: the roles of a deployment are of one version, also after
/// another was put in its place.
fn this_binary() -> std::io::Result<PathBuf> {
    // The kernel keeps the file of a running program, though its name may lead to another one, or nowhere.
    let kept = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && kept.exists() {
        return Ok(kept.to_owned());
    }
    std::env::current_exe()
}

/// Starts the process and stays until it ended.
fn run_once(
    process: &RoleProcess,
    binary: &Path,
    stop: &Stop,
    grace: Duration,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<(ExitStatus, bool)> {
    match std::fs::remove_file(&process.ready_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("cannot remove the old {}", process.ready_file.display()));
        }
        _ => {}
    }
    let mut command = Command::new(binary);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::arg0(&mut command, "whimbrel");
    command
        .arg(process.member.role)
        .arg("--config")
        .arg(&process.config)
        .arg("--ready-file")
        .arg(&process.ready_file)
        .arg("--end-with-stdin")
        .stdin(Stdio::piped());
    // Ctrl-C goes to the terminal's whole foreground group: in a group of its own a child hears of it from us alone, when
    // it is its turn to drain.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start the {} process", process.member))?;

    let mut up = false;
    let mut asked_at: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a role's process")? {
            return Ok((status, up));
        }
        if !up && process.ready_file.exists() {
            up = true;
            let _ = events.send(Event::Up {
                member: process.member,
                pid: child.id(),
            });
        }
        match asked_at {
            None if stop.is_stopped() => {
                ask_to_drain(&child);
                asked_at = Some(Instant::now());
            }
            Some(at) if at.elapsed() > grace => {
                tracing::warn!(process = %process.member, "did not drain within its grace: killed");
                child.kill().context("killing a role's process")?;
            }
            _ => {}
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn ask_to_drain(child: &Child) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // Gone already is as good as asked.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// In the child: end when the supervisor does.
pub(crate) fn end_with_supervisor() -> anyhow::Result<()> {
    // It was started by another name of its file; those who list processes look for this one.
    #[cfg(target_os = "linux")]
    let _only_a_name = std::fs::write("/proc/self/comm", "whimbrel");
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("asking for the supervisor's death signal")?;
    thread::Builder::new()
        .name("supervisor-watch".to_owned())
        .spawn(|| {
            // Nobody writes to it: this returns when the supervisor is gone.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            // As abrupt as the supervisor's own end: a supervisor that ends in order drains its children first.
            std::process::abort();
        })
        .context("a thread that watches the supervisor")?;
    Ok(())
}
