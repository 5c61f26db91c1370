//! The command line: what may be said, and its defaults.

mod scenarios;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests;
mod values;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser};
use humantime_serde::re::humantime;

pub use self::scenarios::{
    ChatArgs, Command, ConnectArgs, DropKind, JudgeArgs, RawArgs, RawReaderArgs, ReconnectArgs, RoomArgs,
};
use self::values::{file, rate, share, time};
use crate::deployment::DeploymentArgs;
use crate::engine::SOURCES_MAX;
use crate::schedule::Share;
use crate::typed;

/// Processes of one run: each takes a block 127.X of loopback addresses.
pub const WORKERS_MAX: u32 = 250;

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
