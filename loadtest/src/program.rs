//! The program: a command line in, figures out.

use std::fs;
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
#[expect(clippy::print_stdout, reason = "the answer to whoever started the program")]
pub fn main(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Raw(args) => {
            writable(&cli.common)?;
            println!("{}", raw_reference(cli, *args)?);
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
            write_json(cli.common.json.as_deref(), &verdict)?;
            print!("{}", verdict.summary());
            return Ok(exit_code(verdict.is_failure()));
        }
        _ => {}
    }
    if let Some(share) = cli.common.share {
        let mut lead = ByPipe::start()?;
        let outcome = Deployment::read(&cli.deployment)
            .and_then(|deployment| do_share(cli, &deployment, share, &mut lead));
        ByPipe::finish(outcome);
        return Ok(ExitCode::SUCCESS);
    }
    let report = measure(cli)?;
    print!("{}", report::summary(&report));
    Ok(exit_code(report.is_failure()))
}

const fn exit_code(is_failure: bool) -> ExitCode {
    if is_failure {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Measures a bare write: the line that says what it costs.
fn raw_reference(cli: &Cli, args: RawArgs) -> anyhow::Result<String> {
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
    write_json(cli.common.json.as_deref(), &json)?;
    let (us, writes) = (raw.write_us, raw.writes);
    Ok(format!("raw write             {us:.2} us over {writes} writes"))
}

/// Makes the run that the command line asks for, and writes the files that it names.
///
/// # Errors
/// When the run could not be made.
pub fn measure(cli: &Cli) -> anyhow::Result<Report> {
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
    let (mut tally, conductor) = conduct(&cli, &deployment)?;
    if let Some(ledger) = &ledger {
        ledger.judge(&mut tally)?;
    }
    let raw_write_us = cli
        .common
        .raw
        .then(|| raw_like(&tally, cli.command.clients()))
        .transpose()?;
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
            .filter(|ledger| !ledger.remove_if_temporary(&tally))
            .map(|ledger| ledger.folder),
        slices: cli.common.slices,
    };
    let report = Report::new(facts, &tally, &conductor.samples, &conductor.seconds);
    write_json(cli.common.json.as_deref(), &report)?;
    if let Some(path) = &cli.common.report {
        let page = report::page(&report)?;
        fs::write(path, page).with_context(|| cannot_write(path, "--report"))?;
    }
    Ok(report)
}

fn conduct(cli: &Cli, deployment: &Deployment) -> anyhow::Result<(Tally, Conductor)> {
    let count = cli.common.workers;
    let args = cli.deployment.clone();
    let known = deployment.pids.clone();
    let roles = move || {
        let current = Deployment::read(&args).map(|deployment| deployment.pids);
        procfs::role_processes(current.as_ref().unwrap_or(&known))
    };
    let show = progress::show(cli.common.quiet);
    let show = match &cli.common.live {
        Some(path) => progress::live(path, show).with_context(|| cannot_write(path, "--live"))?,
        None => show,
    };
    let mut conductor = Conductor::new(count as usize, Box::new(roles), show);
    if count > 1 {
        // Whether the LBS answers, and what it lists is believed, is told once and not by every worker.
        first_listing(cli, deployment)?;
        let tally = workers::conduct(count, |share| worker_arguments(cli, share), &mut conductor)?;
        return Ok((tally, conductor));
    }
    let mut solo = Solo(conductor);
    let tally = do_share(cli, deployment, Share::WHOLE, &mut solo)?;
    Ok((tally, solo.0))
}

/// This process's command line, with a share.
fn worker_arguments(cli: &Cli, share: Share) -> Vec<String> {
    let mut arguments = cli.typed.get(1..).unwrap_or_default().to_vec();
    arguments.push(format!("--share={}/{}", share.index, share.of));
    arguments.push(format!("--run={}", cli.common.run.unwrap_or_default()));
    arguments
}

fn first_listing(cli: &Cli, deployment: &Deployment) -> anyhow::Result<listing::Listing> {
    listing::first(deployment, cli.common.lbs_within.into())
}

/// Does one process's share.
fn do_share(cli: &Cli, deployment: &Deployment, share: Share, lead: &mut dyn Lead) -> anyhow::Result<Tally> {
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
    let listing = first_listing(cli, deployment)?;
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

    fn judge(&self, tally: &mut Tally) -> anyhow::Result<()> {
        let report = ledger::judge(&self.folder)
            .with_context(|| format!("the ledger in {} cannot be judged", self.folder.display()))?;
        let verdict = Verdict::of(&self.folder, &report);
        tally.take_violations(&verdict.violations_of, verdict.violations_told);
        Ok(())
    }

    /// Nobody needs the ledger of a run in which nothing was wrong. Says whether it is gone.
    fn remove_if_temporary(&self, tally: &Tally) -> bool {
        self.temporary && !tally.is_failure() && fs::remove_dir_all(&self.folder).is_ok()
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
            .with_context(|| cannot_write(path, flag))?;
        if is_new {
            fs::remove_file(path).with_context(|| cannot_write(path, flag))?;
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
    fs::write(path, text).with_context(|| cannot_write(path, "--json"))
}

fn cannot_write(path: &Path, flag: &str) -> String {
    format!(
        "cannot write {}: give {flag} a path in a folder you may write to",
        path.display()
    )
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
