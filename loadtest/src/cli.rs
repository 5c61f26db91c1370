//! The command line: what may be said, and its defaults.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
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
    after_help = "Exit status: 0; 1 on any violation, unresolved send, send refused for no reason that the run knows, or client that could not log in or was lost, or when the run could not be made; 2 when the command line is wrong."
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
    #[arg(long, value_name = "FILE", global = true)]
    pub json: Option<PathBuf>,
    /// Write a page with plots to this file.
    #[arg(long, value_name = "FILE.html", global = true)]
    pub report: Option<PathBuf>,
    /// Say in the JSON what became of the messages that were due in each tenth of a second.
    #[arg(long, global = true, requires = "json")]
    pub slices: bool,
    /// Write a line of JSON to this file for each phase that is reached, and for each second of the run.
    #[arg(long, value_name = "FILE", global = true)]
    pub live: Option<PathBuf>,
    /// Generator processes, each with a share of the clients and of the rate; for more connections than one process may
    /// have descriptors.
    #[arg(long, value_name = "N", default_value_t = 1, global = true, value_parser = clap::value_parser!(u32).range(1..=250))]
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
    #[arg(long, value_name = "TIME", default_value = "60s", global = true)]
    pub connect_within: humantime::Duration,
    /// How long to wait for open sends and deliveries when the load is over.
    #[arg(long, value_name = "TIME", default_value = "30s", global = true)]
    pub grace: humantime::Duration,
    /// How long the LBS may take to give the first list.
    #[arg(long, value_name = "TIME", default_value = "10s", global = true)]
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
    #[arg(long, value_name = "TIME", default_value = "20s")]
    pub hold: humantime::Duration,
}

/// `chat`.
#[derive(Args, Debug, Clone)]
pub struct ChatArgs {
    /// People, each with one device and one conversation.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub users: u32,
    /// Messages a second, of all of them.
    #[arg(long, value_name = "PER_S", value_parser = rate)]
    pub rate: f64,
    /// For how long.
    #[arg(long, value_name = "TIME", default_value = "20s")]
    pub duration: humantime::Duration,
    /// Bytes of a message's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = payload)]
    pub payload: usize,
    /// People per group; 0 or 2: pairs that chat directly.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2_000))]
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
    #[arg(long, value_name = "TIME", default_value = "20s")]
    pub duration: humantime::Duration,
    /// Bytes of a message's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = room_payload)]
    pub payload: usize,
    /// How many of the members send.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub senders: u32,
    /// The room; without it one of its own.
    #[arg(long, value_name = "ID")]
    pub room: Option<String>,
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
    #[arg(long, value_name = "TIME", default_value = "1s")]
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
        let cli = Self::try_parse_from(&typed)?;
        Ok(Self { typed, ..cli })
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
        Cli::try_parse_from(line.split_ascii_whitespace())
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
        let error = changes(&format!("{line} --membership-changes 7")).unwrap_err();
        assert!(error.to_string().contains("--group-size 0"), "{error}");
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
