//! The command line: what may be said, and its defaults.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use humantime_serde::re::humantime;

use crate::deployment::DeploymentArgs;
use crate::engine::{Leave, SOURCES_MAX};
use crate::schedule::Share;
use crate::stamp::{STAMP_IN_LEN, STAMP_LEN};
use crate::typed;

/// The longest text: what of a message's 24 KiB is left beside its envelope.
const PAYLOAD_MAX: usize = 24_000;

/// The longest text to a room: what of its 8 KiB is left.
const ROOM_PAYLOAD_MAX: usize = 8_000;

/// Processes of one run: each takes a block 127.X of loopback addresses.
pub const WORKERS_MAX: u32 = 250;

/// The longest of all times: nobody waits longer for a run, and moments that far from now can be counted with.
const TIME_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Members of a room that send, unless it is said otherwise.
const SENDERS: u32 = 10;

/// Changes of groups' members a second in a checked run, unless it says otherwise: an absence begins or ends often enough to
/// fall together with every kind of fault, and hardly anybody is out at any moment.
const MEMBERSHIP_CHANGES_PER_S: f64 = 2.0;

/// People of the smallest group that stays one without a member.
const GOVERNED_SIZE_MIN: u32 = 3;

/// `whimbrel-loadtest`.
#[derive(Parser, Debug, Clone)]
#[command(
    name = "whimbrel-loadtest",
    version,
    about = "Load, open loop, from outside: thousands of clients against a running deployment",
    after_help = "Exit status: 0; 1 on any violation, unresolved send, send refused for no reason that the run knows, or client that could not log in or was lost, or when the run could not be made; 2 when the command line is wrong; 130 or 143 when SIGINT or SIGTERM ended the run: figures are of what was until then. Times are at most 30days."
)]
pub struct Cli {
    /// What clients do.
    #[command(subcommand)]
    pub command: Command,
    /// The deployment.
    #[command(flatten)]
    pub deployment: DeploymentArgs,
    /// What all scenarios share.
    #[command(flatten)]
    pub common: CommonArgs,
    /// All of it as it was typed, the program's name first.
    #[arg(skip)]
    pub typed: Vec<String>,
}

/// What all scenarios share.
#[derive(Args, Debug, Clone)]
pub struct CommonArgs {
    /// Write all figures to this file, as JSON.
    #[arg(long, value_name = "FILE", global = true, value_parser = file)]
    pub json: Option<PathBuf>,
    /// Write a page with plots to this file.
    #[arg(long, value_name = "FILE.html", global = true, value_parser = file)]
    pub report: Option<PathBuf>,
    /// Say in the JSON what became of the messages that were due in each tenth of a second.
    #[arg(long, global = true, requires = "json")]
    pub slices: bool,
    /// Write a line of JSON to this file for each phase that is reached, and for each second of the run.
    #[arg(long, value_name = "FILE", global = true, value_parser = file)]
    pub live: Option<PathBuf>,
    /// Generator processes, each with a share of the clients and of the rate; for more connections than one process may
    /// have descriptors.
    #[arg(long, value_name = "N", default_value_t = 1, global = true, value_parser = clap::value_parser!(u32).range(1..=i64::from(WORKERS_MAX)))]
    pub workers: u32,
    /// Loopback source addresses of each process; 0 derives them from the number of clients.
    #[arg(long, value_name = "N", default_value_t = 0, global = true, value_parser = clap::value_parser!(u32).range(0..=i64::from(SOURCES_MAX)))]
    pub sources: u32,
    /// What users are called, before their six digits; without it `load-`, or with `--check` a name of the run's own, so that
    /// nothing of earlier runs is among their messages.
    #[arg(long, value_name = "TEXT", global = true)]
    pub user_prefix: Option<String>,
    /// Logins a second while clients come in; 0: all at once. (`connect` takes its own --rate.)
    #[arg(long, value_name = "PER_S", default_value_t = 1_000.0, global = true, value_parser = rate)]
    pub connect_rate: f64,
    /// How long clients may take to come in, beyond what their rate takes.
    #[arg(long, value_name = "TIME", default_value = "60s", global = true, value_parser = time)]
    pub connect_within: humantime::Duration,
    /// How long to wait for open sends and deliveries when the load is over.
    #[arg(long, value_name = "TIME", default_value = "30s", global = true, value_parser = time)]
    pub grace: humantime::Duration,
    /// How long the LBS may take to give the first list.
    #[arg(long, value_name = "TIME", default_value = "10s", global = true, value_parser = time)]
    pub lbs_within: humantime::Duration,
    /// Measure what a bare write of the same size costs on this machine, after the run.
    #[arg(long, global = true)]
    pub raw: bool,
    /// Show nothing while it goes on.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// The share of a worker, as INDEX/OF; it is led through its standard input.
    #[arg(long, hide = true, global = true, value_parser = share)]
    pub share: Option<Share>,
    /// The number that tells this run's messages from others'.
    #[arg(long, hide = true, global = true)]
    pub run: Option<u32>,
}

impl ChatArgs {
    /// Refuses what does not go together, where some process has no more than `least` of the users.
    fn judge_together(&self, least: u32) -> Result<(), String> {
        let (size, users) = (self.group_size, self.users);
        if size > least {
            return Err(format!(
                "--group-size {size} with --users {users}: expected groups of at most {least}, which is what one process has of the users"
            ));
        }
        let changes = self.membership_changes().map_err(|error| error.to_string())?;
        if self.rate <= 0.0 && changes <= 0.0 {
            return Err(
                "--rate 0 without --membership-changes: nobody would do anything; `connect` and `room --rate 0` have clients that are idle"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Changes of groups' members a second.
    ///
    /// # Errors
    /// When some are asked for and there are no groups to change.
    pub fn membership_changes(&self) -> anyhow::Result<f64> {
        let has_groups = self.group_size >= GOVERNED_SIZE_MIN;
        match self.membership_changes {
            None if has_groups && self.check => Ok(MEMBERSHIP_CHANGES_PER_S),
            None => Ok(0.0),
            Some(per_s) if per_s > 0.0 && !has_groups => bail!(
                "--membership-changes {per_s} with --group-size {}: expected groups of {GOVERNED_SIZE_MIN} or more, whose owner removes others and invites them back",
                self.group_size
            ),
            Some(per_s) => Ok(per_s),
        }
    }
}

/// What clients do.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Log in at a rate, and stay.
    Connect(ConnectArgs),
    /// Chat in pairs or groups at a rate.
    Chat(ChatArgs),
    /// Fill a room, and send to it.
    Room(RoomArgs),
    /// Drop all at once, come back and sync, again and again.
    Reconnect(ReconnectArgs),
    /// No server: what one write to a loopback socket costs on this machine.
    Raw(RawArgs),
    /// No server: judge the ledger that a checked run has kept, once more.
    Judge(JudgeArgs),
    /// Reads what `raw` writes.
    #[command(hide = true)]
    RawReader(RawReaderArgs),
}

/// `connect`.
#[derive(Args, Debug, Clone)]
pub struct ConnectArgs {
    /// Clients.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Logins a second; 0: all at once.
    #[arg(long, value_name = "PER_S", default_value_t = 1_000.0, value_parser = rate)]
    pub rate: f64,
    /// How long they stay once all are in.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = time)]
    pub hold: humantime::Duration,
}

/// `chat`.
#[derive(Args, Debug, Clone)]
pub struct ChatArgs {
    /// People, each with one device and one conversation.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub users: u32,
    /// Messages a second, of all of them; 0 only where members come and go.
    #[arg(long, value_name = "PER_S", value_parser = rate)]
    pub rate: f64,
    /// For how long.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = span)]
    pub duration: humantime::Duration,
    /// Bytes of a message's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = payload)]
    pub payload: usize,
    /// People per group; 0 or 2: pairs that chat directly.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = group_size)]
    pub group_size: u32,
    /// How often a second the owner of some group removes a member or invites one back, over all groups; 0: never. Without it
    /// 2 in a checked run with groups, else 0.
    #[arg(long, value_name = "PER_S", value_parser = rate)]
    pub membership_changes: Option<f64>,
    /// Keep a ledger of everything, read everything back at the end, and verify the invariants.
    #[arg(long)]
    pub check: bool,
    /// The folder for the ledger, which must not hold one; without it a temporary one, which is kept if there are violations.
    #[arg(long, value_name = "DIR", requires = "check")]
    pub ledger: Option<PathBuf>,
}

/// `room`.
#[derive(Args, Debug, Clone)]
pub struct RoomArgs {
    /// Members.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Messages a second to the room; 0: members are idle.
    #[arg(long, value_name = "PER_S", value_parser = rate)]
    pub rate: f64,
    /// For how long.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = span)]
    pub duration: humantime::Duration,
    /// Bytes of a message's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = room_payload)]
    pub payload: usize,
    /// How many of the members send, at least one in each process; without it 10, or all if there are fewer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub senders: Option<u32>,
    /// The room; without it one of its own.
    #[arg(long, value_name = "ID")]
    pub room: Option<String>,
}

impl RoomArgs {
    /// How many of the members send.
    #[must_use]
    pub fn senders(&self) -> u32 {
        self.senders.unwrap_or(SENDERS).min(self.members)
    }
}

/// `reconnect`.
#[derive(Args, Debug, Clone)]
pub struct ReconnectArgs {
    /// Clients.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// How many times all drop and come back.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// How they drop.
    #[arg(long, value_enum, default_value_t = DropKind::Rst)]
    pub drop: DropKind,
    /// They come back at a random moment within this, as clients do.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time)]
    pub spread: humantime::Duration,
}

/// How a connection drops.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropKind {
    /// Reset.
    Rst,
    /// Closed without a word.
    Fin,
}

impl DropKind {
    /// For the engine.
    #[must_use]
    pub const fn leave(self) -> Leave {
        match self {
            Self::Rst => Leave::Reset,
            Self::Fin => Leave::Fin,
        }
    }
}

/// `judge`.
#[derive(Args, Debug, Clone)]
pub struct JudgeArgs {
    /// The folder that `chat --check --ledger` named, or that a failed run says it has kept.
    #[arg(long, value_name = "DIR")]
    pub ledger: PathBuf,
}

/// `raw`.
#[derive(Args, Debug, Clone, Copy)]
pub struct RawArgs {
    /// Sockets.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub connections: u32,
    /// Bytes of a write.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub payload: u32,
}

/// `raw-reader`.
#[derive(Args, Debug, Clone, Copy)]
pub struct RawReaderArgs {
    /// Where to connect.
    #[arg(long)]
    pub address: std::net::SocketAddr,
    /// How often.
    #[arg(long)]
    pub connections: u32,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.0..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number of events per second from 0 to 10000000".to_owned()),
    }
}

fn time(text: &str) -> Result<humantime::Duration, String> {
    match text.parse::<humantime::Duration>() {
        Ok(time) if *time <= TIME_MAX => Ok(time),
        Ok(_) => Err("expected at most 30days".to_owned()),
        Err(error) => Err(format!(
            "{error}: expected a time such as 90s or 2h, at most 30days"
        )),
    }
}

/// A time in which something is to happen.
fn span(text: &str) -> Result<humantime::Duration, String> {
    time(text).and_then(|time| match time.is_zero() {
        true => Err("expected more than 0s: nothing would be sent".to_owned()),
        false => Ok(time),
    })
}

fn group_size(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(people @ (0 | 2..=2_000)) => Ok(people),
        _ => Err("expected 2 to 2000 people, or 0".to_owned()),
    }
}

fn file(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => Err("expected a file; standard output has the summary".to_owned()),
        path => Ok(path.into()),
    }
}

fn payload(text: &str) -> Result<usize, String> {
    let what = "for which conversation it is, which message, and when it was due";
    payload_within(text, STAMP_IN_LEN, PAYLOAD_MAX, what)
}

fn room_payload(text: &str) -> Result<usize, String> {
    let what = "which message it is and when it was due";
    payload_within(text, STAMP_LEN, ROOM_PAYLOAD_MAX, what)
}

fn payload_within(text: &str, least: usize, most: usize, what: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (least..=most).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "expected {least} to {most} bytes; the first {least} say {what}"
        )),
    }
}

fn share(text: &str) -> Result<Share, String> {
    let parsed = text
        .split_once('/')
        .and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
    match parsed {
        Some((index, of)) if index < of => Ok(Share { index, of }),
        _ => Err("expected INDEX/OF".to_owned()),
    }
}

impl Cli {
    /// Reads a command line, which begins with the program's name.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn read(typed: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        let typed: Vec<String> = typed.into_iter().collect();
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(&typed)?;
        let cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        cli.judge_unused(&matches)
            .and_then(|()| cli.judge_together())
            .map_err(|what| command.error(ErrorKind::ArgumentConflict, what))?;
        Ok(Self { typed, ..cli })
    }

    /// Refuses what was said and would mean nothing.
    fn judge_unused(&self, matches: &ArgMatches) -> Result<(), String> {
        let said = matches.subcommand().map(|(_, own)| own);
        for id in self.command.unused() {
            let source = said.and_then(|said| said.value_source(id));
            if source == Some(ValueSource::CommandLine) {
                let (flag, name) = (id.replace('_', "-"), self.command.name());
                return Err(format!("--{flag} means nothing to `{name}`: leave it out"));
            }
        }
        Ok(())
    }

    /// Refuses what is right by itself and does not go together.
    fn judge_together(&self) -> Result<(), String> {
        let CommonArgs {
            json, report, live, ..
        } = &self.common;
        let files = [("--json", json), ("--report", report), ("--live", live)];
        let mut files = files
            .iter()
            .filter_map(|(flag, path)| Some((*flag, path.as_ref()?)));
        while let Some((flag, path)) = files.next() {
            if let Some((other, _)) = files.clone().find(|(_, other)| *other == path) {
                let path = path.display();
                return Err(format!(
                    "{flag} {path} and {other} {path}: expected a file for each"
                ));
            }
        }
        let (workers, clients) = (self.common.workers, self.command.clients());
        let each = self.command.clients_min();
        // What falls to the last is what falls to the least.
        let least = Share {
            index: workers.saturating_sub(1),
            of: workers,
        }
        .count(clients);
        if least < each {
            return Err(format!(
                "--workers {workers}: each process needs at least {each} of the {clients} clients; give fewer workers"
            ));
        }
        match &self.command {
            Command::Chat(args) => args.judge_together(least),
            Command::Room(args) => match args.senders {
                Some(senders) if senders > args.members => Err(format!(
                    "--senders {senders} with --members {}: expected no more senders than members",
                    args.members
                )),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// It again, for a report: of paths their last names.
    #[must_use]
    pub fn shown(&self) -> String {
        typed::without_folders(&self.typed, &Self::command())
    }

    /// What users are called, before their six digits.
    #[must_use]
    pub fn user_prefix(&self) -> String {
        let run = self.common.run.unwrap_or_default();
        match (&self.common.user_prefix, self.command.is_checked()) {
            (Some(prefix), _) => prefix.clone(),
            (None, true) => format!("check-{run:08x}-"),
            (None, false) => "load-".to_owned(),
        }
    }
}

impl Command {
    /// Whether a ledger is kept.
    #[must_use]
    pub const fn is_checked(&self) -> bool {
        matches!(self, Self::Chat(args) if args.check)
    }

    /// The scenario's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Chat(_) => "chat",
            Self::Room(_) => "room",
            Self::Reconnect(_) => "reconnect",
            Self::Raw(_) | Self::RawReader(_) => "raw",
            Self::Judge(_) => "judge",
        }
    }

    /// Clients of the whole run.
    #[must_use]
    pub const fn clients(&self) -> u32 {
        match self {
            Self::Connect(args) => args.connections,
            Self::Chat(args) => args.users,
            Self::Room(args) => args.members,
            Self::Reconnect(args) => args.connections,
            Self::Raw(args) => args.connections,
            Self::RawReader(args) => args.connections,
            Self::Judge(_) => 0,
        }
    }

    /// Clients that each process must have for there to be anything to do.
    const fn clients_min(&self) -> u32 {
        match self {
            Self::Chat(_) => 2,
            Self::Connect(_) | Self::Room(_) | Self::Reconnect(_) => 1,
            Self::Raw(_) | Self::RawReader(_) | Self::Judge(_) => 0,
        }
    }

    /// What of the flags for all scenarios means nothing in this one, and would promise something if it were taken in silence.
    const fn unused(&self) -> &'static [&'static str] {
        match self {
            Self::Chat(_) | Self::Room(_) | Self::Reconnect(_) => &[],
            Self::Connect(_) => &["connect_rate"],
            Self::Raw(_) | Self::RawReader(_) | Self::Judge(_) => &[
                "report",
                "slices",
                "live",
                "workers",
                "sources",
                "user_prefix",
                "connect_rate",
                "connect_within",
                "grace",
                "lbs_within",
                "raw",
                "ready_file",
                "lbs",
                "app_key",
                "app_secret_file",
                "root_key",
            ],
        }
    }

    /// How long messages are sent for.
    #[must_use]
    pub fn lasting(&self) -> Duration {
        match self {
            Self::Chat(args) => args.duration.into(),
            Self::Room(args) => args.duration.into(),
            Self::Connect(_) | Self::Reconnect(_) | Self::Raw(_) | Self::RawReader(_) | Self::Judge(_) => {
                Duration::ZERO
            }
        }
    }

    /// Bytes of a message's text.
    #[must_use]
    pub const fn payload(&self) -> usize {
        match self {
            Self::Chat(args) => args.payload,
            Self::Room(args) => args.payload,
            Self::Raw(args) => args.payload as usize,
            Self::Connect(_) | Self::Reconnect(_) | Self::RawReader(_) | Self::Judge(_) => 0,
        }
    }

    /// Rounds of reconnecting.
    #[must_use]
    pub const fn rounds(&self) -> u32 {
        match self {
            Self::Reconnect(args) => args.rounds,
            _ => 0,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::read(line.split_ascii_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_of_the_deployment_may_stand_behind_the_scenario() {
        let line =
            "whimbrel-loadtest connect --connections 10 --rate 5 --hold 2s --ready-file r.json --json o.json";
        let cli = parse(line).unwrap();
        assert_eq!(cli.deployment.ready_file, Some("r.json".into()));
        let Command::Connect(args) = cli.command else {
            panic!("connect")
        };
        assert_eq!(Duration::from(args.hold), Duration::from_secs(2));
    }

    #[test]
    fn members_come_and_go_in_checked_groups_unless_it_is_said_otherwise() {
        let changes = |line: &str| match parse(line).unwrap().command {
            Command::Chat(args) => args.membership_changes(),
            _ => panic!("chat"),
        };
        let line = "whimbrel-loadtest chat --users 40 --rate 5";
        for (more, expected) in [
            ("", 0.0),
            ("--check", 0.0),
            ("--group-size 5", 0.0),
            ("--group-size 5 --check", MEMBERSHIP_CHANGES_PER_S),
            ("--group-size 5 --check --membership-changes 0", 0.0),
            ("--group-size 5 --membership-changes 7", 7.0),
            ("--check --membership-changes 0", 0.0),
        ] {
            assert_eq!(changes(&format!("{line} {more}")).unwrap(), expected, "{more}");
        }
        let error = parse(&format!("{line} --membership-changes 7")).unwrap_err();
        assert!(error.to_string().contains("--group-size 0"), "{error}");
    }

    #[test]
    fn one_client_is_enough_where_nobody_talks_to_another() {
        for line in [
            "room --members 1 --rate 5",
            "connect --connections 1",
            "reconnect --connections 1",
            "reconnect --connections 3 --workers 3",
            "chat --users 4 --rate 5 --workers 2",
            "raw --connections 1",
        ] {
            parse(&format!("whimbrel-loadtest {line}")).unwrap();
        }
        for (line, expected) in [
            ("chat --users 5 --rate 5 --workers 3", "at least 2 of the 5"),
            ("connect --connections 2 --workers 3", "at least 1 of the 2"),
        ] {
            let error = parse(&format!("whimbrel-loadtest {line}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn times_that_no_run_lasts_are_refused_by_their_flags() {
        let forever = "500000000000years";
        for line in [
            "connect --connections 1 --hold",
            "chat --users 2 --rate 1 --duration",
            "room --members 2 --rate 1 --duration",
            "reconnect --connections 1 --spread",
            "connect --connections 1 --lbs-within",
            "connect --connections 1 --connect-within",
            "room --members 2 --rate 1 --grace",
        ] {
            let flag = line.rsplit(' ').next().unwrap();
            for (time, is_right) in [("30days", true), ("30days1ns", false), (forever, false)] {
                let parsed = parse(&format!("whimbrel-loadtest {line} {time}"));
                assert_eq!(parsed.is_ok(), is_right, "{line} {time}");
                if let Err(error) = parsed {
                    let error = error.to_string();
                    assert!(error.contains(flag) && error.contains("30days"), "{error}");
                }
            }
        }
    }

    #[test]
    fn what_would_be_taken_in_silence_is_refused() {
        for (line, expected) in [
            ("raw --report r.html", "--report means nothing to `raw`"),
            ("raw --workers 2", "--workers means nothing"),
            ("raw --live l.json", "--live means nothing"),
            (
                "--report r.html judge --ledger x",
                "--report means nothing to `judge`",
            ),
            (
                "connect --connections 5 --connect-rate 7",
                "--connect-rate means nothing",
            ),
            (
                "room --members 5 --rate 1 --json x --report x",
                "--json x and --report x",
            ),
            (
                "room --members 5 --rate 1 --report x --live x",
                "--report x and --live x",
            ),
            ("room --members 5 --rate 1 --json -", "--json"),
            (
                "room --members 5 --rate 1 --senders 6",
                "--senders 6 with --members 5",
            ),
            ("room --members 5 --rate 1 --duration 0s", "more than 0s"),
            ("chat --users 5 --rate 1 --duration 0s", "more than 0s"),
            ("chat --users 5 --rate 1 --group-size 1", "--group-size"),
            (
                "chat --users 5 --rate 1 --group-size 6",
                "--group-size 6 with --users 5",
            ),
            ("chat --users 9 --rate 1 --group-size 5 --workers 2", "at most 4"),
            ("chat --users 5 --rate 0", "--rate 0"),
        ] {
            let error = parse(&format!("whimbrel-loadtest {line}")).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let error = error.to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
        for line in [
            "room --members 4 --rate 1",
            "raw --json x --quiet",
            "chat --users 6 --rate 0 --group-size 3 --membership-changes 1",
            "chat --users 5 --rate 1 --group-size 5",
            "connect --connections 5 --hold 0s",
        ] {
            parse(&format!("whimbrel-loadtest {line}")).unwrap();
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named_with_what_was_expected() {
        for (line, expected) in [
            ("whimbrel-loadtest chat --users 10 --rate=-1", "per second"),
            (
                "whimbrel-loadtest chat --users 10 --rate 5 --payload 3",
                "expected 58",
            ),
            (
                "whimbrel-loadtest room --members 10 --rate 5 --payload 9000",
                "8000",
            ),
            ("whimbrel-loadtest chat --users 1 --rate 5", "2.."),
            ("whimbrel-loadtest connect --connections 0", "1.."),
            ("whimbrel-loadtest chat --users 4 --rate 5 --ledger x", "--check"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
