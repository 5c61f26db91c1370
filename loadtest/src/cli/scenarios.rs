//! What clients do: the scenarios, each with its arguments.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use humantime_serde::re::humantime;

use super::values::{group_size, payload, rate, room_payload, span, time};
use crate::engine::Leave;

/// Members of a room that send, unless it is said otherwise.
const SENDERS: u32 = 10;

/// Changes of groups' members a second in a checked run, unless it says otherwise: an absence begins or ends often enough to
/// fall together with every kind of fault, and hardly anybody is out at any moment.
pub(super) const MEMBERSHIP_CHANGES_PER_S: f64 = 2.0;

/// People of the smallest group that stays one without a member.
const GOVERNED_SIZE_MIN: u32 = 3;

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

impl ChatArgs {
    /// Refuses what does not go together, where some process has no more than `least` of the users.
    pub(super) fn judge_together(&self, least: u32) -> Result<(), String> {
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
    pub(super) const fn clients_min(&self) -> u32 {
        match self {
            Self::Chat(_) => 2,
            Self::Connect(_) | Self::Room(_) | Self::Reconnect(_) => 1,
            Self::Raw(_) | Self::RawReader(_) | Self::Judge(_) => 0,
        }
    }

    /// What of the flags for all scenarios means nothing in this one, and would promise something if it were taken in silence.
    pub(super) const fn unused(&self) -> &'static [&'static str] {
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
