//! `cargo xtask prove`: the release binary under load, killed and its power cut again and again, and the checker's word at the
//! end that nothing acknowledged was lost.
//!
//! The load and the checker are `whimbrel-loadtest chat --check`, which stands outside and knows nothing of what happens to
//! the server. Everything is kept in one folder: the server's data and log, the ledger, figures and a table.

mod report;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use report::{Outcome, Suffered};
use server::Server;

use crate::built::{Built, PLANTED_BUILD};

/// Between two looks at the generator.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Users that log in before the first message, a second.
const LOGINS_PER_S: u64 = 1_000;
/// How long the rest of a beginning takes: conversations are opened, the first messages sent. If it takes longer the first
/// fault comes early; if shorter, the half interval behind the last one is there for that.
const BEGINNING: Duration = Duration::from_secs(2);
/// A fault comes within this part of its interval.
const JITTER: f64 = 0.5;
/// How long the generator may take after the load: open sends, reading everything back, judging.
const ENDING: Duration = Duration::from_secs(15 * 60);

/// What to prove.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct ProveArgs {
    /// How long the load lasts.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Seconds instead of minutes, for a try.
    #[arg(long, conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(5..))]
    seconds: Option<u64>,
    /// Each role in a process of its own, which are killed in turn; else the one process is killed and its power cut.
    #[arg(long)]
    processes: bool,
    /// People who chat.
    #[arg(long, default_value_t = 2_000)]
    users: u64,
    /// Messages a second, of all of them.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// People per group; 0: pairs.
    #[arg(long, default_value_t = 0)]
    group_size: u64,
    /// How often a second somebody is removed from a group or invited back; 0: never. Default: the generator's.
    #[arg(long)]
    membership_changes: Option<f64>,
    /// How often something is killed or cut.
    #[arg(long, default_value_t = 10)]
    faults: u32,
    /// Build the server with planted faults, plant this one, and expect the checker to find it.
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// Build for development: quicker to build, slower to run.
    #[arg(long)]
    dev: bool,
    /// Where everything goes; it must not exist. Default: `target/prove/<time>`.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Repeats a run's choices, though not its timing.
    #[arg(long)]
    seed: Option<u64>,
}

impl ProveArgs {
    fn lasting(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(self.minutes * 60))
    }
}

/// What happens to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL to the one process, and a new start.
    Kill,
    /// The same, and what was not synced is lost or torn.
    CutPower,
    /// SIGKILL to a role's process, which its supervisor starts again.
    KillRole(&'static str),
}

impl Fault {
    const OF_ONE_PROCESS: [Self; 2] = [Self::CutPower, Self::Kill];
    const OF_PROCESSES: [Self; 4] = [
        Self::KillRole("app-service"),
        Self::KillRole("gateway"),
        Self::KillRole("router"),
        Self::KillRole("lbs"),
    ];

    /// What happens at which moment of the load, in order.
    fn schedule(args: &ProveArgs, rng: &mut StdRng) -> Vec<(Duration, Self)> {
        let kinds: &[Self] = if args.processes {
            &Self::OF_PROCESSES
        } else {
            &Self::OF_ONE_PROCESS
        };
        let interval = args.lasting() / args.faults.max(1);
        let kinds = kinds.iter().cycle();
        let turns = (0..args.faults).zip(kinds);
        turns
            .map(|(turn, kind)| {
                (
                    interval * turn + interval.mul_f64(rng.random_range(0.0..JITTER)),
                    *kind,
                )
            })
            .collect()
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kill => f.write_str("kill"),
            Self::CutPower => f.write_str("power cut"),
            Self::KillRole(role) => write!(f, "kill {role}"),
        }
    }
}

/// Runs it. Succeeds when no promise was broken; with a plant, when some were.
pub(crate) fn run(root: &Path, args: &ProveArgs) -> anyhow::Result<ExitCode> {
    let built = Built::all(root, args.dev, args.plant.is_some())?;
    let out = out_folder(root, args)?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let mut rng = StdRng::seed_from_u64(seed);
    let started = Instant::now();
    let say = |what: &str| println!("[{:7.1} s] {what}", started.elapsed().as_secs_f64());
    say(&format!("seed {seed}; everything goes to {}", out.display()));

    let mut server = Server::start(&built, &out, args.processes, args.plant.as_deref())?;
    say("the server is up");
    let mut generator = Generator(generate(&built, &out, server.ready_file(), args)?);
    let beginning = BEGINNING + Duration::from_secs(args.users / LOGINS_PER_S);
    let begun = Instant::now() + beginning;
    let mut suffered = Vec::new();
    for (turn, (at, fault)) in Fault::schedule(args, &mut rng).into_iter().enumerate() {
        if let Some(status) = generator.ended_before(begun + at)? {
            say(&format!("the generator ended early: {status}"));
            break;
        }
        let hit = Instant::now();
        let unsynced = server.suffer(fault, &mut rng)?;
        let what = Suffered {
            at_s: hit.saturating_duration_since(begun).as_secs_f64(),
            what: fault.to_string(),
            back_after_s: hit.elapsed().as_secs_f64(),
            unsynced_bytes: unsynced,
        };
        say(&format!("{} of {}, {what}", turn + 1, args.faults));
        suffered.push(what);
    }
    let status = generator.ended_before(begun + args.lasting() + ENDING)?;
    let status = status.context("the generator takes longer than it may; its ledger is kept")?;
    let printed_panic = server.end()?;
    let outcome = Outcome::read(&out, seed, args, status.success(), printed_panic, suffered)?;
    outcome.write(&out)?;
    print!("{outcome}");
    Ok(outcome.exit_code())
}

fn out_folder(root: &Path, args: &ProveArgs) -> anyhow::Result<PathBuf> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let own = || root.join("target/prove").join(now.as_secs().to_string());
    let out = args.out.clone().unwrap_or_else(own);
    ensure!(
        !out.exists(),
        "{} exists: give --out a folder that does not, so that nothing of another run is judged",
        out.display()
    );
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(out.canonicalize()?)
}

/// The generator's process. Killed when dropped.
struct Generator(Child);

impl Generator {
    /// Waits until then, or until it ends; gives its status if it did.
    fn ended_before(&mut self, moment: Instant) -> anyhow::Result<Option<std::process::ExitStatus>> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= moment {
                return Ok(None);
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn generate(built: &Built, out: &Path, ready_file: &Path, args: &ProveArgs) -> anyhow::Result<Child> {
    let mut command = Command::new(&built.generator);
    command.arg("chat").arg("--check");
    command.arg("--ledger").arg(out.join("ledger"));
    command.arg("--ready-file").arg(ready_file);
    command.arg("--json").arg(out.join("load.json"));
    command.arg("--report").arg(out.join("load.html"));
    command.arg("--users").arg(args.users.to_string());
    command.arg("--rate").arg(args.rate.to_string());
    command.arg("--group-size").arg(args.group_size.to_string());
    if let Some(per_s) = args.membership_changes {
        command.arg("--membership-changes").arg(per_s.to_string());
    }
    command
        .arg("--duration")
        .arg(format!("{}s", args.lasting().as_secs()));
    // An outage near the end, and everything that waits behind it.
    command.arg("--grace").arg("120s");
    let child = command.stdin(Stdio::null()).spawn();
    child.with_context(|| format!("{} does not start", built.generator.display()))
}

/// `cargo xtask planted`: builds the simulator and the server with planted faults, apart from everything else, and has the
/// checker find each.
pub(crate) fn planted(root: &Path) -> anyhow::Result<ExitCode> {
    let simulated = [
        "--package",
        "whimbrel-sim",
        "--test",
        "planted_code",
        "--profile",
        "sim",
    ];
    let real = ["--package", "whimbrel", "--test", "planted"];
    for tests in [&simulated[..], &real[..]] {
        let status = Command::new("cargo")
            .arg("test")
            .args(tests)
            .args(PLANTED_BUILD)
            .args(["--", "--nocapture"])
            .current_dir(root)
            .status()
            .context("cargo does not start")?;
        if !status.success() {
            bail!("a planted fault was not found, or the runs could not be made: see above");
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ProveArgs,
    }

    fn schedule(line: &str) -> Vec<(Duration, Fault)> {
        let args = Line::parse_from(line.split(' ')).args;
        Fault::schedule(&args, &mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn faults_are_spread_over_the_whole_load() {
        let faults = schedule("prove --seconds 100");
        assert_eq!(faults.len(), 10);
        for (turn, (at, _)) in (0..).zip(&faults) {
            let from = Duration::from_secs(10 * turn);
            assert!((from..from + Duration::from_secs(5)).contains(at), "{faults:?}");
        }
    }

    #[test]
    fn the_power_is_cut_as_often_as_the_process_is_killed_and_roles_take_turns() {
        let cuts = schedule("prove")
            .into_iter()
            .filter(|(_, fault)| *fault == Fault::CutPower);
        assert_eq!(cuts.count(), 5);
        let roles = schedule("prove --processes --faults 8").into_iter();
        let gateways = roles.filter(|(_, fault)| *fault == Fault::KillRole("gateway"));
        assert_eq!(gateways.count(), 2);
    }
}
