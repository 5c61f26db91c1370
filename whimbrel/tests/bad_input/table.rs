//! The table: what each row expects, and how it is held to it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::runtime::Handle;
use whimbrel_protocol::answer::RejectReason;
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::code::Code;

use crate::bystanders::{Bystanders, Chat};
use crate::deployment::Deployment;

/// What the server may grow by over a row's repeats, after a warm-up, in bytes. Seen are 100 to 300 KiB: the bystanders'
/// messages ([`MESSAGE_BYTES`]), and the kernel's accounting in batches of pages; a machine several times slower sees more
/// messages. A leak too small for this shows in [`TABLE_GROWTH_MAX_BYTES`].
const ROW_GROWTH_MAX_BYTES: i64 = 2 * 1024 * 1024;
/// What the server may grow by over all rows of a table, in bytes, besides [`MESSAGE_BYTES`]: over the 20,000 attempts of
/// the largest a leak of half a kilobyte each would pass both, less than what any connection or handshake holds. Seen are
/// 1 to 3 MiB, messages mostly.
const TABLE_GROWTH_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// What a message of the bystanders may hold in the server for a while, in bytes: its rows in the tables that the store
/// keeps in memory until they are written out. Seen are 4 to 5 KiB with a data folder, 1 to 2 in the ephemeral store.
const MESSAGE_BYTES: u64 = 5 * 1024;
/// Connections that ended are gone from the gauges by then: a closing session may take 5 s to write its last bytes.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// A quarter of a row's repeats go before its memory is first looked at.
const WARM_UP_PART: u32 = 4;

/// What a bad input gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gets {
    /// The connection's end, and not a byte.
    Silence,
    /// A reject in clear text.
    Reject(RejectReason),
    /// The gateway's current descriptor.
    StaleKey,
    /// An accept that only the hello's maker could use, then the end.
    UselessAccept,
    /// A login answer with a code.
    Refused(Code),
    /// CLOSE, with its usual retry.
    Close(CloseReason),
    /// A response with a code; the session goes on.
    Code(Code),
    /// An HTTP status.
    Status(u16),
    /// Nothing special: it is no harm.
    Served,
    /// The command ends with a failure that names the thing and the cure.
    NoStart,
    /// A warning that names the thing and the cure.
    Warning,
    /// The client connects to nobody.
    NoGateway,
}

impl fmt::Display for Gets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str("closed without a word"),
            Self::Reject(reason) => write!(f, "reject {} {reason:?}", reason.code()),
            Self::StaleKey => f.write_str("stale key"),
            Self::UselessAccept => f.write_str("an accept of no use"),
            Self::Refused(code) => write!(f, "login refused {} {code:?}", code.number()),
            Self::Close(reason) => write!(f, "CLOSE {} {reason:?}", reason.number()),
            Self::Code(code) => write!(f, "code {} {code:?}", code.number()),
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::Served => f.write_str("served"),
            Self::NoStart => f.write_str("no start, said why"),
            Self::Warning => f.write_str("warned"),
            Self::NoGateway => f.write_str("no gateway trusted"),
        }
    }
}

/// One kind of bad input.
pub(crate) struct Row<S> {
    /// What it is.
    pub(crate) name: &'static str,
    /// Does it once and says what came of it.
    pub(crate) attack: fn(&S) -> anyhow::Result<Gets>,
    /// What must come of it.
    pub(crate) gets: Gets,
    /// How often it is done: hundreds where an attempt takes milliseconds.
    pub(crate) repeats: u32,
    /// Where `docs/protocol.md` says so, word for word; nothing where the protocol is not concerned.
    pub(crate) says: &'static [&'static str],
}

/// A row that was played.
#[derive(Debug)]
struct Played {
    name: &'static str,
    gets: String,
    repeats: u32,
    chat: Chat,
    grown_bytes: i64,
}

/// Rows against one deployment, beside one chat.
pub(crate) struct Table<'a> {
    pub(crate) runtime: Handle,
    pub(crate) deployment: &'a mut Deployment,
    pub(crate) bystanders: Bystanders,
    /// Connections that stay: the bystanders', and sessions that attacks share.
    connections: f64,
    /// The least it was before any row: what is freed late, of before the rows, hides nothing.
    least_bytes: Option<i64>,
    attempts: u64,
    played: Vec<Played>,
    failed: Vec<String>,
}

impl<'a> Table<'a> {
    /// An empty table. `kept_sessions` is how many sessions the attacks share.
    pub(crate) fn new(
        runtime: &Handle,
        deployment: &'a mut Deployment,
        bystanders: Bystanders,
        kept_sessions: u32,
    ) -> Self {
        Self {
            runtime: runtime.clone(),
            deployment,
            bystanders,
            connections: f64::from(2 + kept_sessions),
            least_bytes: None,
            attempts: 0,
            played: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Plays rows, one after the other.
    pub(crate) fn play<S: Sync>(&mut self, scene: &S, rows: &[Row<S>]) {
        for row in rows {
            let warm_up = row.repeats.div_ceil(WARM_UP_PART);
            let attack = |repeats: u32| {
                for nth in 1..=repeats {
                    let got = (row.attack)(scene).with_context(|| format!("attempt {nth}"))?;
                    ensure!(
                        got == row.gets,
                        "attempt {nth} got \"{got}\", expected \"{}\"",
                        row.gets
                    );
                }
                Ok(())
            };
            self.measure(
                row.name,
                &row.gets.to_string(),
                row.repeats,
                || attack(warm_up),
                || attack(row.repeats),
            );
        }
    }

    /// Does `first`, then `again` while the two chat, and holds the server to its bounds between and after.
    pub(crate) fn measure(
        &mut self,
        name: &'static str,
        gets: &str,
        repeats: u32,
        first: impl FnOnce() -> anyhow::Result<()> + Send,
        again: impl FnOnce() -> anyhow::Result<()> + Send,
    ) {
        let measure = || -> anyhow::Result<(Chat, i64)> {
            self.bystanders.beside(first).context("while warming up")?;
            let before = self.deployment.resident_bytes(None)?;
            self.least_bytes = Some(self.least_bytes.map_or(before, |least| least.min(before)));
            let ((), chat) = self.bystanders.beside(again)?;
            self.settled()?;
            let grown = self.deployment.resident_bytes(None)? - before;
            ensure!(
                grown < ROW_GROWTH_MAX_BYTES,
                "the server grew by {grown} bytes over {repeats} repeats, at most {ROW_GROWTH_MAX_BYTES} are allowed"
            );
            Ok((chat, grown))
        };
        match measure() {
            Ok((chat, grown_bytes)) => self.played.push(Played {
                name,
                gets: gets.to_owned(),
                repeats,
                chat,
                grown_bytes,
            }),
            Err(error) => self.failed.push(format!("{name}: {error:#}")),
        }
        self.attempts += u64::from(repeats);
    }

    /// Every attacker's connection and half-read byte is gone, and the server has not panicked.
    fn settled(&mut self) -> anyhow::Result<()> {
        self.deployment.check_sane()?;
        for (name, most) in [
            ("whimbrel_gateway_connections", self.connections),
            ("whimbrel_gateway_held_bytes", 0.0),
        ] {
            self.deployment
                .await_gauge(&self.runtime, name, most, GONE_WITHIN)?;
        }
        Ok(())
    }

    /// Prints the table; fails when a row did, or when the server has grown over all of them.
    #[expect(clippy::print_stdout, reason = "the table is for people")]
    pub(crate) fn finish(mut self, title: &str) -> anyhow::Result<()> {
        let grown = self.least_bytes.map_or(Ok(0), |least| {
            self.deployment.resident_bytes(None).map(|now| now - least)
        });
        let messages = self.bystanders.said();
        let most = TABLE_GROWTH_MAX_BYTES + messages * MESSAGE_BYTES;
        match grown {
            Ok(grown) if grown >= most.cast_signed() => self.failed.push(format!(
                "all rows: the server grew by {grown} bytes over {} repeats and {messages} messages, at most {most} are allowed",
                self.attempts
            )),
            Ok(_) => {}
            Err(ref error) => self.failed.push(format!("all rows: {error:#}")),
        }
        println!("\n{title}\n");
        println!(
            "{:<58} {:<34} {:>7} {:>6} {:>8} {:>9}",
            "bad input", "gets", "repeats", "chat", "slowest", "memory"
        );
        for row in &self.played {
            println!(
                "{:<58} {:<34} {:>7} {:>6} {:>5} ms {:>6} KiB",
                row.name,
                row.gets,
                row.repeats,
                row.chat.messages,
                row.chat.slowest.as_millis(),
                row.grown_bytes / 1024,
            );
        }
        if let Ok(grown) = grown {
            println!(
                "{} repeats and {messages} messages in all, memory {} KiB",
                self.attempts,
                grown / 1024
            );
        }
        for failure in &self.failed {
            println!("FAILED {failure}");
        }
        ensure!(
            self.failed.is_empty(),
            "{} failed:\n{}\n{}",
            self.failed.len(),
            self.failed.join("\n"),
            self.deployment.said()
        );
        Ok(())
    }
}
