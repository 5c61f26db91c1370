//! `cargo xtask chaos`: a cluster of processes under load, in which one thing after the other fails, by a plan that a seed gives; the
//! checker's word at the end that no promise was broken; and how long it took each time until all was well again.
//!
//! The load and the checker are `whimbrel-loadtest`, which stands outside and knows nothing of faults. Everything is kept in one
//! folder: the cluster's logs, the ledgers, figures, and a page.

mod ends;
mod faults;
mod load;
mod plan;
mod recovery;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::time::{ClockId, clock_gettime};
use whimbrel_cluster::{Cluster, Setup};

use crate::built::{BuildArgs, Built};
use crate::checks::shell::Shell;
use crate::cluster::{READY_WITHIN, ShapeArgs};
use crate::interrupt::Interrupt;
use crate::{root, tikv};
use ends::Ends;
use load::{Job, Load};
use plan::Fault;
use recovery::Happened;
use report::Outcome;

/// Between two looks at loads and nodes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long loads may take to log everybody in and open conversations.
const BEGUN_WITHIN: Duration = Duration::from_secs(120);
/// The longest that anything may take to be well again; what takes longer has not recovered.
const WELL_WITHIN: Duration = Duration::from_secs(60);
/// How long a fault takes to recover from, for how many fit into a load: the slowest part of it is two usual seconds.
const RECOVERY_GUESS: Duration = Duration::from_secs(6);
/// How long the generators may take after the load: open sends, reading everything back, judging.
const ENDING: Duration = Duration::from_secs(15 * 60);
/// When nothing was looked at for this long, this program stood still: the machine slept, or somebody stopped all of it. Nothing
/// that it does takes as long.
const STOOD_STILL: Duration = Duration::from_secs(3);
/// Members of the room, messages a second to it, and members that send.
const ROOM: (u64, u32, u32) = (40, 4, 4);
/// Clients that drop and come back all the time, and how often in one run.
const RECONNECTING: (u64, u32) = (20, 5);
/// How often a second somebody is removed from a group or invited back: the faults fall together with it, and hardly anybody is out.
const MEMBERSHIP_CHANGES: f64 = 0.5;
/// People of a group.
const GROUP: u64 = 8;

/// What is to happen.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct ChaosArgs {
    /// Which faults: the same number is the same faults of the same nodes, for as long, in the same order.
    #[arg(long)]
    seed: u64,
    /// How long the load lasts.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// How many faults. Default: as many as fit into the time.
    #[arg(long, value_name = "N")]
    faults: Option<usize>,
    /// People who chat, half of them in pairs and half in groups.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(32..))]
    users: u64,
    /// Messages a second, of all of them.
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// What nodes log, into a file each.
    #[arg(long, value_name = "DIRECTIVES", default_value = "info")]
    log: String,
    /// Where everything goes; it must not exist. Default: `target/chaos/<seed>-<time>`.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    build: BuildArgs,
}

/// This machine's monotonic clock, milliseconds: the one that generators count by.
fn now_ms() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec) * 1_000 + part(time.tv_nsec) / 1_000_000
}

/// Runs it. Succeeds when no promise was broken and everything recovered.
pub(crate) fn run(args: &ChaosArgs) -> anyhow::Result<ExitCode> {
    let root = root()?;
    let shape = args.shape.shape();
    let faults = faults_of(args)?;
    let shell = Shell::new(root.clone())?;
    let tikv = tikv::binaries(&shell)?;
    let [server, generator] = Built::with_generator(&root, &args.build)?;
    let out = out_folder(shell.target_folder(), args)?;
    let interrupt = Interrupt::listen()?;
    let say = sayer();
    say(&format!(
        "seed {}, {} faults; everything goes to {}",
        args.seed,
        faults.len(),
        out.display()
    ));
    let mut cluster = Cluster::start(Setup {
        binary: server,
        tikv,
        folder: out.join("cluster"),
        ready_file: None,
        shape,
        held_back: Vec::new(),
        port_base: 0,
        proxies: true,
        restart: true,
        log: args.log.clone(),
    })?;
    cluster.wait_until_ready(READY_WITHIN, &|| interrupt.is_heard())?;
    say("the cluster is ready");
    let ready_file = cluster.ready_file();
    let loads = jobs(args).into_iter();
    let loads = loads.map(|job| Load::start(job, &generator, &ready_file, &out));
    let mut run = Run {
        loads: loads.collect::<anyhow::Result<_>>()?,
        interrupt,
        say: &say,
        happened: Vec::new(),
        looked_ms: now_ms(),
        stalls: Vec::new(),
    };
    run.wait_until_begun()?;
    say("everybody chats");
    let began_ms = now_ms();
    let ran = run.suffer(&faults, &mut cluster);
    run.finish(ran.is_ok())?;
    ran?;
    let ends = Ends {
        panics: panics(&cluster),
        drained: cluster.drained(),
        killed: cluster.stop()?,
    };
    let outcome = Outcome::new(args, &faults, began_ms, &run, ends);
    outcome.write(&out)?;
    print!("{outcome}");
    println!("{}", out.join("chaos.html").display());
    Ok(outcome.exit_code())
}

fn faults_of(args: &ChaosArgs) -> anyhow::Result<Vec<Fault>> {
    let lasting = Duration::from_secs(args.minutes * 60);
    let shape = args.shape.shape();
    let fit = |count: usize| plan::takes(&plan::plan(args.seed, count, shape), RECOVERY_GUESS) <= lasting;
    let most = (1..).take_while(|count| fit(*count)).last().unwrap_or(0);
    let count = args.faults.unwrap_or(most);
    ensure!(
        count <= most,
        "{count} faults do not fit into {} minutes: give --faults {most} or fewer, or more --minutes",
        args.minutes
    );
    Ok(plan::plan(args.seed, count, shape))
}

fn out_folder(target: &Path, args: &ChaosArgs) -> anyhow::Result<PathBuf> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let own = || target.join(format!("chaos/{}-{}", args.seed, now.as_secs()));
    let out = args.out.clone().unwrap_or_else(own);
    ensure!(
        !out.exists(),
        "{} exists: give --out a folder that does not, so that nothing of another run is judged",
        out.display()
    );
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(out)
}

/// Says something with the time since now.
fn sayer() -> impl Fn(&str) {
    let started = Instant::now();
    move |what: &str| println!("[{:7.1} s] {what}", started.elapsed().as_secs_f64())
}

/// Who loads the cluster, and how.
#[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
fn jobs(args: &ChaosArgs) -> Vec<Job> {
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    let seconds = args.minutes * 60;
    // An outage near the end, and everything that waits behind it; and whoever comes in while something is amiss.
    let patience = "--grace 120s --connect-within 120s --lbs-within 60s";
    let (users, rate) = (args.users / 2, args.rate as f64 / 2.0);
    let (members, room_rate, senders) = ROOM;
    let (reconnecting, rounds) = RECONNECTING;
    let chat =
        format!("chat --check --users {users} --rate {rate} --duration {seconds}s {patience} --group-size");
    vec![
        Job {
            name: "direct",
            words: words(format!("{chat} 0")),
            clients: users,
            rate,
            again: false,
        },
        Job {
            name: "groups",
            words: words(format!(
                "{chat} {GROUP} --membership-changes {MEMBERSHIP_CHANGES}"
            )),
            clients: users,
            rate,
            again: false,
        },
        Job {
            name: "room",
            words: words(format!(
                "room --members {members} --senders {senders} --rate {room_rate} --duration {seconds}s \
                 --user-prefix room- {patience}"
            )),
            clients: members,
            rate: f64::from(room_rate),
            again: false,
        },
        Job {
            name: "reconnect",
            words: words(format!(
                "reconnect --connections {reconnecting} --rounds {rounds} --spread 2s --user-prefix again- {patience}"
            )),
            clients: 0,
            rate: 0.0,
            again: true,
        },
    ]
}

/// Lines of the nodes' logs that say that something panicked.
fn panics(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    for member in cluster.shape().members() {
        let log = fs::read_to_string(cluster.log_of(member)).unwrap_or_default();
        let panicked = log.lines().filter(|line| line.contains("panicked"));
        lines.extend(panicked.map(|line| format!("{member}: {line}")));
    }
    lines
}

/// A run, as far as it has come.
struct Run<'a> {
    loads: Vec<Load>,
    interrupt: Interrupt,
    say: &'a dyn Fn(&str),
    happened: Vec<Happened>,
    /// When it was last looked whether to go on.
    looked_ms: u64,
    /// From when to when this program stood still, and everything with it.
    stalls: Vec<(u64, u64)>,
}

impl Run<'_> {
    /// Waits until every load says that it has begun.
    fn wait_until_begun(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self.loads.iter().all(Load::has_begun) {
            self.must_go_on()?;
            ensure!(
                started.elapsed() < BEGUN_WITHIN,
                "not all loads have begun within {BEGUN_WITHIN:?}: see their logs"
            );
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// One fault after the other.
    fn suffer(&mut self, faults: &[Fault], cluster: &mut Cluster) -> anyhow::Result<()> {
        for (nth, fault) in (1..).zip(faults) {
            let stalls = self.stalls.len();
            self.sleep(fault.calm)?;
            let hit_ms = now_ms();
            faults::strike(fault, cluster)?;
            let slept = self.sleep(fault.lasting);
            faults::heal(fault, cluster)?;
            let returned_ms = now_ms();
            slept?;
            let waited = self.wait_until_well(returned_ms, cluster)?;
            let well = waited.is_ok();
            let took = match waited {
                Ok(took) => format!("seen to be well {:.1} s after it was over", took.as_secs_f64()),
                Err(why) => format!("NOT WELL: {why}"),
            };
            (self.say)(&format!("{nth} of {}, {fault}: {took}", faults.len()));
            self.happened.push(Happened {
                fault: fault.clone(),
                hit_ms,
                returned_ms,
                well,
                disturbed: self.stalls.len() > stalls,
            });
        }
        Ok(())
    }

    /// Waits until everything is there and every load is as usual; else says what is not.
    fn wait_until_well(
        &mut self,
        since_ms: u64,
        cluster: &Cluster,
    ) -> anyhow::Result<Result<Duration, String>> {
        let started = Instant::now();
        loop {
            self.must_go_on()?;
            let ill = self.loads.iter().filter(|load| load.job.rate > 0.0);
            let ill: Vec<_> = ill
                .filter(|load| !load.is_well(since_ms))
                .map(|load| load.job.name.to_owned())
                .collect();
            // Pages cost the nodes something: they are asked when all else is well.
            let unready = if ill.is_empty() {
                cluster.unready()
            } else {
                Vec::new()
            };
            if ill.is_empty() && unready.is_empty() {
                return Ok(Ok(started.elapsed()));
            }
            if started.elapsed() > WELL_WITHIN {
                return Ok(Err([ill, unready].concat().join(", ")));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn sleep(&mut self, length: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + length;
        while Instant::now() < until {
            self.must_go_on()?;
            thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Notes when this program stood still.
    fn look_at_clock(&mut self) {
        let now = now_ms();
        let stood = now.saturating_sub(self.looked_ms);
        if u128::from(stood) > STOOD_STILL.as_millis() {
            (self.say)(&format!("this program stood still for {stood} ms"));
            self.stalls.push((self.looked_ms, now));
        }
        self.looked_ms = now;
    }

    /// Fails when the load is over, or it was told to end.
    fn must_go_on(&mut self) -> anyhow::Result<()> {
        self.look_at_clock();
        ensure!(!self.interrupt.is_heard(), "interrupted");
        for load in &mut self.loads {
            ensure!(
                load.runs(true)?,
                "the load \"{}\" ended before all faults had happened: {}",
                load.job.name,
                load.failures.join(", ")
            );
        }
        Ok(())
    }

    /// Waits until the loads have ended, if there is something to wait for.
    fn finish(&mut self, wait: bool) -> anyhow::Result<()> {
        let started = Instant::now();
        if wait {
            (self.say)(
                "all faults have happened; the load goes on to its end, then everything is read back and judged",
            );
        }
        loop {
            self.look_at_clock();
            let mut running = Vec::new();
            // Those that are begun anew stop with the others.
            let lasts = |load: &Load| !load.job.again;
            let mut more = false;
            for load in self.loads.iter_mut().filter(|load| lasts(load)) {
                if load.runs(false)? {
                    more = true;
                    running.push(load.job.name);
                }
            }
            for load in self.loads.iter_mut().filter(|load| !lasts(load)) {
                if load.runs(more)? {
                    running.push(load.job.name);
                }
            }
            if running.is_empty() || !wait {
                return Ok(());
            }
            ensure!(!self.interrupt.is_heard(), "interrupted");
            ensure!(
                started.elapsed() < ENDING,
                "{} take longer than they may; their ledgers are kept",
                running.join(", ")
            );
            thread::sleep(LOOK_EVERY);
        }
    }
}
