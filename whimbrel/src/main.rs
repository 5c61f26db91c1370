//! The server binary of Whimbrel: every role, `standalone`, and the command-line tools.
//!
//! Nothing is decided here: a command is read, and the module of its name runs it.

#![forbid(unsafe_code)]

mod backup;
mod chat;
mod cli;
mod config;
mod data_dir;
mod deployment;
mod ephemeral;
mod gateway_identity;
mod keygen;
mod lbs_links;
mod metrics_merge;
#[cfg(feature = "planted-faults")]
mod planted;
mod ports;
mod posted;
mod processes;
mod ready_file;
mod roles;
mod secret_file;
mod standalone;
mod store;
mod supervisor;
mod terminal;
mod token;
mod top;
mod topology_page;
mod whose_config;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

// Many small, long-lived allocations from many threads: what jemalloc is for.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<roles::ToldToEnd>() => {
            tracing::info!("{error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            terminal::complain(&format!("whimbrel: {}", whole_story(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    #[cfg(feature = "planted-faults")]
    planted::plant()?;
    match command {
        Command::Standalone(args) => on_all_cores(standalone::run(args)),
        Command::Gateway(args) => on_one_thread(roles::run_gateway(args)),
        Command::Router(args) => on_one_thread(roles::run_router(args)),
        Command::AppService(args) => on_all_cores(roles::run_app_service(args)),
        Command::Lbs(args) => on_one_thread(roles::run_lbs(args)),
        Command::Chat(args) => on_all_cores(chat::run(args)),
        Command::Keygen(command) => keygen::run(&command, token::now_ms()),
        Command::Token(args) => token::run(&args),
        Command::Top(args) => on_one_thread(top::run(args)),
        Command::Backup(args) => on_all_cores(backup::backup(args)),
        Command::Restore(args) => on_all_cores(backup::restore(args)),
    }
}

/// For what computes beside its links: a service node, a client, and all roles in one process.
fn on_all_cores(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// For what only carries envelopes between links: a thread that hands work to another pays more for the wake than the work
/// costs. A gateway's connections are on its reactors' own threads; a router switches in one task anyway.
fn on_one_thread(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// The error and its causes, but for those whose words an error above them has already quoted.
fn whole_story(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |story, cause| {
        let words = cause.to_string();
        if story.contains(&words) {
            story
        } else {
            format!("{story}: {words}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = anyhow::anyhow!("no such file");
        let quoted = cause.context("a.toml cannot be read (no such file); give another");
        let error = quoted.context("the gateway does not start");
        assert_eq!(
            whole_story(&error),
            "the gateway does not start: a.toml cannot be read (no such file); give another"
        );
    }
}
