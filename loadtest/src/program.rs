//! The program: a command line in, figures out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use rand::RngExt as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use whimbrel_protocol::ids::{RoomId, Uid};

use crate::chat::ChatOptions;
use crate::check::{Judged, LedgerRecorder, ledger};
use crate::cli::{Cli, Command, CommonArgs, RawArgs, WORKERS_MAX};
use crate::clock;
use crate::deployment::Deployment;
use crate::engine::{Engine, Sources};
use crate::interrupt::{self, Interrupt};
use crate::lead::{Conductor, Lead, Solo};
use crate::listing;
use crate::procfs;
use crate::progress;
use crate::raw;
use crate::record::{NoRecord, Recorder};
use crate::report::{self, Facts, Report};
use crate::run::{Scenario, run};
use crate::scenario::{
    ChatRates, ChatScenario, Common, ConnectScenario, Drop, ReconnectScenario, RoomOptions, RoomScenario,
};
use crate::schedule::Share;
use crate::tally::Tally;
use crate::verdict::Verdict;
use crate::workers::{self, ByPipe};

/// Descriptors beside clients': epoll, timer, files, the LBS.
const OTHER_DESCRIPTORS: u64 = 64;

/// Descriptors of a checked run beside those: devices that log in again and again, and those that read at the end.
const CHECK_DESCRIPTORS: u32 = 256;

/// Runs what the command line says. Figures go to standard output, and to the files that it names.
///
/// # Errors
/// When the run could not be made; what it found wrong is in the exit code.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the answer to whoever started the program"
)]
pub fn main(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Raw(args) => {
            writable(&cli.common)?;
            raw_reference(cli, *args)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::RawReader(args) => {
            raw::read_until_end(args.address, args.connections)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Judge(args) => {
            writable(&cli.common)?;
            let report = ledger::judge(&args.ledger)
                .with_context(|| format!("the ledger in {} cannot be judged", args.ledger.display()))?;
            let verdict = Verdict::of(&args.ledger, &report);
            print!("{}", verdict.summary());
            write_json(cli.common.json.as_deref(), &verdict)?;
            return Ok(exit_code(verdict.is_failure()));
        }
        _ => {}
    }
    let interrupt = Interrupt::listen()?;
    if let Some(share) = cli.common.share {
        let mut lead = ByPipe::start(interrupt.clone())?;
        let outcome = Deployment::read(&cli.deployment)
            .and_then(|deployment| do_share(cli, &deployment, share, &mut lead, &interrupt));
        ByPipe::finish(outcome);
        return Ok(ExitCode::SUCCESS);
    }
    let (report, mut wrong) = match (figures(cli, &interrupt), interrupt.heard()) {
        (Ok(figures), _) => figures,
        (Err(error), None) => return Err(error),
        (Err(error), Some(signal)) => {
            eprintln!("whimbrel-loadtest: {error:#}");
            return Ok(interrupt::status(signal).into());
        }
    };
    print!("{}", report::summary(&report));
    wrong.extend(write_files(&cli.common, &report));
    for error in &wrong {
        eprintln!("whimbrel-loadtest: {error:#}");
    }
    Ok(match report.cut_by {
        Some(signal) => interrupt::status(signal).into(),
        None => exit_code(report.is_failure() || !wrong.is_empty()),
    })
}

const fn exit_code(is_failure: bool) -> ExitCode {
    if is_failure {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Measures a bare write, and says what it costs.
#[expect(clippy::print_stdout, reason = "the answer to whoever started the program")]
fn raw_reference(cli: &Cli, args: RawArgs) -> anyhow::Result<()> {
    let limit = |most: u64| {
        format!(
            "give --connections {} or fewer",
            most.saturating_sub(OTHER_DESCRIPTORS)
        )
    };
    allow_descriptors(args.connections, limit)?;
    let raw = raw::measure(args.connections, args.payload)?;
    let json = serde_json::json!({
        "scenario": "raw",
        "connections": args.connections,
        "payload": args.payload,
        "raw_write_us": raw.write_us,
        "writes": raw.writes,
    });
    let (us, writes) = (raw.write_us, raw.writes);
    println!("raw write             {us:.2} us over {writes} writes");
    write_json(cli.common.json.as_deref(), &json)
}

/// Makes the run that the command line asks for, and writes the files that it names.
///
/// # Errors
/// When the run could not be made, or a file could not be written.
pub fn measure(cli: &Cli) -> anyhow::Result<Report> {
    let (report, wrong) = figures(cli, &Interrupt::default())?;
    let wrong = wrong.into_iter().chain(write_files(&cli.common, &report));
    wrong.map(Err).next().unwrap_or(Ok(report))
}

/// Makes the run: its figures, and what went wrong around it that does not take them back.
fn figures(cli: &Cli, interrupt: &Interrupt) -> anyhow::Result<(Report, Vec<anyhow::Error>)> {
    let deployment = Deployment::read(&cli.deployment)?;
    writable(&cli.common)?;
    let mut cli = cli.clone();
    cli.common.run.get_or_insert_with(|| rand::rng().random());
    if cli.common.raw {
        // What is short then would cost the run.
        allow_descriptors(raw_sockets(cli.command.clients()), |_| {
            "leave --raw out".to_owned()
        })?;
    }
    let started_unix_ms = clock::unix_ms();
    let ledger = Ledger::of(&cli);
    // Goes with this value, however the run ends, unless there is something to be seen in it.
    let mut temporary = ledger.as_ref().and_then(Ledger::temporary);
    let (mut tally, conductor) = conduct(&cli, &deployment, interrupt)?;
    let mut wrong = Vec::new();
    if let Some(ledger) = ledger.as_ref().filter(|_| tally.cut_by.is_none()) {
        let judged = ledger.judge(&mut tally, interrupt);
        tally.cut_by = interrupt.heard();
        let failed = judged.err().filter(|_| tally.cut_by.is_none());
        let is_of_use = tally.cut_by.is_none() && (failed.is_some() || tally.is_failure());
        wrong.extend(failed);
        if is_of_use {
            temporary.iter_mut().for_each(Temporary::keep);
        }
    }
    let mut raw_write_us = None;
    if cli.common.raw && tally.cut_by.is_none() {
        match raw_like(&tally, cli.command.clients()) {
            Ok(us) => raw_write_us = Some(us),
            Err(error) => wrong.push(error.context("the bare write (--raw) was not measured")),
        }
    }
    let facts = Facts {
        scenario: cli.command.name(),
        command: cli.shown(),
        started_unix_ms,
        processes: cli.common.workers,
        rounds: cli.command.rounds(),
        lasting: cli.command.lasting(),
        payload: cli.command.payload(),
        raw_write_us,
        ledger: ledger
            .filter(|_| temporary.as_ref().is_none_or(|temporary| temporary.is_kept))
            .map(|ledger| ledger.folder),
        slices: cli.common.slices,
    };
    let report = Report::new(facts, &tally, &conductor.samples, &conductor.seconds);
    Ok((report, wrong))
}

/// Writes the files that the command line names, each whatever became of the others: what could not be.
fn write_files(common: &CommonArgs, report: &Report) -> Vec<anyhow::Error> {
    let json = write_json(common.json.as_deref(), report);
    let page = common.report.as_deref().map_or(Ok(()), |path| {
        let page = report::page(report)?;
        fs::write(path, page).map_err(|error| cannot_write(path, "--report", error))
    });
    [json, page].into_iter().filter_map(Result::err).collect()
}

fn conduct(cli: &Cli, deployment: &Deployment, interrupt: &Interrupt) -> anyhow::Result<(Tally, Conductor)> {
    let count = cli.common.workers;
    let args = cli.deployment.clone();
    let known = deployment.pids.clone();
    let roles = move || {
        let current = Deployment::read(&args).map(|deployment| deployment.pids);
        procfs::role_processes(current.as_ref().unwrap_or(&known))
    };
    let show = progress::show(cli.common.quiet);
    let show = match &cli.common.live {
        Some(path) => progress::live(path, show).map_err(|error| cannot_write(path, "--live", error))?,
        None => show,
    };
    let mut conductor = Conductor::new(count as usize, Box::new(roles), show);
    if count > 1 {
        // Whether the LBS answers, and what it lists is believed, is told once and not by every worker.
        first_listing(cli, deployment, interrupt)?;
        let arguments = |share| worker_arguments(cli, share);
        let tally = workers::conduct(count, arguments, &mut conductor, interrupt)?;
        return Ok((tally, conductor));
    }
    let mut solo = Solo {
        conductor,
        interrupt: interrupt.clone(),
    };
    let tally = do_share(cli, deployment, Share::WHOLE, &mut solo, interrupt)?;
    Ok((tally, solo.conductor))
}

/// This process's command line, with a share.
fn worker_arguments(cli: &Cli, share: Share) -> Vec<String> {
    let mut arguments = cli.typed.get(1..).unwrap_or_default().to_vec();
    arguments.push(format!("--share={}/{}", share.index, share.of));
    arguments.push(format!("--run={}", cli.common.run.unwrap_or_default()));
    arguments
}

fn first_listing(
    cli: &Cli,
    deployment: &Deployment,
    interrupt: &Interrupt,
) -> anyhow::Result<listing::Listing> {
    listing::first(deployment, cli.common.lbs_within.into(), interrupt)
}

/// Does one process's share.
fn do_share(
    cli: &Cli,
    deployment: &Deployment,
    share: Share,
    lead: &mut dyn Lead,
    interrupt: &Interrupt,
) -> anyhow::Result<Tally> {
    let common = Common {
        share,
        clients: cli.command.clients(),
        connect_per_s: match &cli.command {
            Command::Connect(args) => args.rate,
            _ => cli.common.connect_rate,
        },
        connect_within: cli.common.connect_within.into(),
        grace: cli.common.grace.into(),
        run: cli.common.run.unwrap_or_default(),
    };
    let user_prefix = cli.user_prefix();
    Uid::new(&format!("{user_prefix}000000")).with_context(|| format!("--user-prefix {user_prefix:?}"))?;
    let others = if cli.command.is_checked() {
        CHECK_DESCRIPTORS
    } else {
        0
    };
    allow_descriptors(common.count().saturating_add(others), |most| {
        more_workers(common.clients, others, most)
    })?;
    let listing = first_listing(cli, deployment, interrupt)?;
    let sources = Sources::new(share.index, cli.common.sources, common.count());
    let mut engine = Engine::new(
        &cli.deployment,
        deployment,
        &listing,
        &user_prefix,
        sources,
        common.seed(),
    )?;
    let mut simple: Box<dyn Scenario> = match &cli.command {
        Command::Connect(args) => Box::new(ConnectScenario::new(common, args.hold.into())),
        Command::Reconnect(args) => {
            let drop = Drop {
                how: args.drop.leave(),
                spread: args.spread.into(),
            };
            Box::new(ReconnectScenario::new(common, args.rounds, drop))
        }
        Command::Room(args) => {
            let own = format!("load-{:08x}", common.run);
            let room = args.room.as_deref().unwrap_or(&own);
            let options = RoomOptions {
                room: RoomId::new(room).with_context(|| format!("--room {room:?}"))?,
                senders: args.senders(),
                per_s: args.rate,
                lasting: args.duration.into(),
                payload: args.payload,
            };
            Box::new(RoomScenario::new(common, options))
        }
        Command::Chat(args) => {
            let rates = ChatRates {
                sends: args.rate,
                changes: args.membership_changes()?,
            };
            let options = ChatOptions {
                run: common.run,
                payload: args.payload,
                group_size: args.group_size as usize,
                governed: rates.changes > 0.0,
                user_prefix: user_prefix.clone(),
                seed: common.seed(),
            };
            let recorder: Box<dyn Recorder> = match Ledger::of(cli) {
                Some(ledger) => Box::new(ledger.recorder(share)?),
                None => Box::new(NoRecord),
            };
            let mut chat = ChatScenario::new(common, options, rates, args.duration.into(), recorder);
            let mut tally = run(&mut engine, &mut chat, lead)?;
            if tally.cut_by.is_some() {
                // A ledger without its end is one that nobody judges.
                return Ok(tally);
            }
            for violation in chat.into_recorder().finish()? {
                tally.violate(violation.invariant, || violation.what);
            }
            return Ok(tally);
        }
        Command::Raw(_) | Command::RawReader(_) | Command::Judge(_) => {
            bail!("`{}` has no clients", cli.command.name())
        }
    };
    run(&mut engine, simple.as_mut(), lead)
}

/// The ledger of a checked run. Every process writes into it; the first one judges it when all have finished.
struct Ledger {
    folder: PathBuf,
    temporary: bool,
}

impl Ledger {
    fn of(cli: &Cli) -> Option<Self> {
        let Command::Chat(args) = &cli.command else {
            return None;
        };
        if !args.check {
            return None;
        }
        let run = cli.common.run.unwrap_or_default();
        let own = || std::env::temp_dir().join(format!("whimbrel-ledger-{run:08x}"));
        Some(Self {
            folder: args.ledger.clone().unwrap_or_else(own),
            temporary: args.ledger.is_none(),
        })
    }

    fn recorder(&self, share: Share) -> anyhow::Result<LedgerRecorder> {
        let recorder = LedgerRecorder::create(&self.folder, share, Judged::Elsewhere);
        recorder.with_context(|| format!("no ledger can be kept in {} (--ledger)", self.folder.display()))
    }

    /// `None` of one that was asked for, and of one that was there before.
    fn temporary(&self) -> Option<Temporary> {
        let is_own = self.temporary && !self.folder.exists();
        is_own.then(|| Temporary {
            folder: self.folder.clone(),
            is_kept: false,
        })
    }

    fn judge(&self, tally: &mut Tally, interrupt: &Interrupt) -> anyhow::Result<()> {
        let report = ledger::judge_unless(&self.folder, &|| interrupt.heard().is_some())
            .with_context(|| format!("the ledger in {} cannot be judged", self.folder.display()))?;
        let verdict = Verdict::of(&self.folder, &report);
        tally.take_violations(&verdict.violations_of, verdict.violations_told);
        // The same conversations, seen from both sides.
        tally.unread = tally.unread.max(verdict.unread);
        Ok(())
    }
}

/// A ledger that nobody asked to keep: it is gone with this value, unless it is kept.
struct Temporary {
    folder: PathBuf,
    is_kept: bool,
}

impl Temporary {
    fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl std::ops::Drop for Temporary {
    #[expect(clippy::print_stderr, reason = "whoever started the program has to remove it")]
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = self.folder.display();
                eprintln!(
                    "whimbrel-loadtest: the ledger in {path} is of no use and cannot be removed: {error}"
                );
            }
            _ => {}
        }
    }
}

/// Raises the bound on descriptors as far as it may be. `cure` says what helps, given how many a process may have.
fn allow_descriptors(connections: u32, cure: impl FnOnce(u64) -> String) -> anyhow::Result<()> {
    let needed = u64::from(connections) + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let most = limit.maximum.unwrap_or(u64::MAX);
    if most < needed {
        bail!(
            "{connections} connections need {needed} descriptors in one process, which may have {most}: {}",
            cure(most)
        );
    }
    let raised = Rlimit {
        current: Some(needed.max(most.min(65_536))),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("the bound on descriptors cannot be raised")
}

/// What helps a run of so many clients where a process may have `most` descriptors, and needs `others` of them for other devices.
fn more_workers(clients: u32, others: u32, most: u64) -> String {
    let each = most.saturating_sub(OTHER_DESCRIPTORS + u64::from(others)).max(1);
    let workers = u64::from(clients).div_ceil(each);
    if workers <= u64::from(WORKERS_MAX) {
        return format!("give --workers {workers} or more");
    }
    let all = each.saturating_mul(WORKERS_MAX.into());
    format!(
        "{WORKERS_MAX} workers, which are the most, hold {all}: have no more clients, or raise the bound (ulimit -n)"
    )
}

/// Sockets of the reference, of a run of so many clients: as one process may have.
fn raw_sockets(clients: u32) -> u32 {
    clients.clamp(1, 15_000)
}

/// A bare write of the size that this run's deliveries had, or of an idle connection's heartbeat.
fn raw_like(tally: &Tally, clients: u32) -> anyhow::Result<f64> {
    let average = tally.bytes_in.checked_div(tally.deliveries).unwrap_or(64);
    let bytes = u32::try_from(average.clamp(1, 65_535)).unwrap_or(65_535);
    Ok(raw::measure(raw_sockets(clients), bytes)?.write_us)
}

/// Whether what is to be written at the end can be: to learn it then would cost the run.
fn writable(common: &CommonArgs) -> anyhow::Result<()> {
    for (path, flag) in [(&common.json, "--json"), (&common.report, "--report")] {
        let Some(path) = path else { continue };
        let is_new = !path.exists();
        fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| cannot_write(path, flag, error))?;
        if is_new {
            fs::remove_file(path).map_err(|error| cannot_write(path, flag, error))?;
        }
    }
    Ok(())
}

fn write_json(path: Option<&Path>, value: &impl serde::Serialize) -> anyhow::Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let mut text = serde_json::to_string_pretty(value).context("figures are plain data")?;
    text.push('\n');
    fs::write(path, text).map_err(|error| cannot_write(path, "--json", error))
}

fn cannot_write(path: &Path, flag: &str, error: io::Error) -> anyhow::Error {
    let cure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room there, or give a path on another disk"
        }
        io::ErrorKind::IsADirectory => "give the path of a file",
        _ => "give a path in a folder you may write to",
    };
    let path = path.display();
    anyhow::Error::new(error).context(format!("cannot write {path} ({flag}): {cure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_as_many_workers_are_advised_as_there_may_be() {
        assert!(more_workers(60_000, 0, 20_000).contains("--workers 4 "));
        assert!(more_workers(60_000, 256, 1_024).contains("--workers 86 "));
        let cure = more_workers(u32::MAX, 0, 20_000);
        assert!(!cure.contains("--workers") && cure.contains("4984000"), "{cure}");
    }
}
