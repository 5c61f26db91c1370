//! Developer commands: `cargo xtask <command>`.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks there"
)]

#[cfg(not(feature = "cluster"))]
mod apart;
mod built;
#[cfg(feature = "cluster")]
mod chaos;
mod chaos_sum;
mod checks;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "cluster")]
mod cost;
mod fuzz;
#[cfg(feature = "cluster")]
mod interrupt;
mod proto;
mod prove;
mod sim;
mod tikv;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

#[cfg(not(feature = "cluster"))]
use apart::{Args as ChaosArgs, Args as ClusterArgs, Args as CostArgs};
#[cfg(feature = "cluster")]
use {chaos::ChaosArgs, cluster::ClusterArgs, cost::CostArgs};

#[derive(Parser)]
#[command(name = "xtask", about = "Whimbrel's developer commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check there is; the last line says how many passed and failed.
    Test {
        /// Only the check of this name; may be given more than once.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Say which checks there are, and run none.
        #[arg(long)]
        list: bool,
    },
    /// Check licences, advisories and sources of the dependencies with cargo-deny.
    Deny,
    /// Run the fuzz targets, keep their corpora small, and measure what they reach.
    Fuzz(fuzz::Arguments),
    /// Run the simulated cluster through seeds: --seeds N [--from S] [--jobs N], or --seed S to replay one.
    Sim {
        /// What the simulator is told; `cargo xtask sim -- --help` lists it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Generate the Rust types of the `.proto` files into the crates that hold them.
    Proto {
        /// Change nothing; fail if what is checked in differs.
        #[arg(long)]
        check: bool,
    },
    /// Start a placement driver and a store that speak TiKV's protocol on free ports, and run until Ctrl-C.
    Tikv {
        /// Run the conformance suite and the store's other tests of one cluster on them instead, and end.
        #[arg(long)]
        check: bool,
    },
    /// Start a cluster of processes of their own (Redis, placement driver, store, and every role several times), show it, and run
    /// until Ctrl-C.
    Cluster(ClusterArgs),
    /// Start a cluster, load it, and have one after the other of its processes and lines fail by a plan that a number gives; check
    /// that nothing acknowledged is lost, and measure how long it takes to recover.
    Chaos(ChaosArgs),
    /// Add up what several runs of `chaos` showed: how often each kind of fault happened, and recovery over all of them.
    ChaosSum(chaos_sum::SumArgs),
    /// Measure what a message costs over a standalone and over clusters of several shapes: sends a second and how soon they are
    /// acknowledged, processor time by role, calls to the store.
    Cost(CostArgs),
    /// Load the release binary, kill it and cut its power on the way, and check that nothing acknowledged is lost.
    Prove(prove::ProveArgs),
    /// Build the server with planted faults, apart from everything else, and have the checker find each of them.
    Planted,
}

fn main() -> ExitCode {
    // Programs of a cluster are started through this one.
    #[cfg(feature = "cluster")]
    if let Err(error) = whimbrel_cluster::hold() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Test { list: true, .. } => {
            checks::list();
            Ok(ExitCode::SUCCESS)
        }
        Command::Test { only, list: false } => checks::run(&only),
        Command::Deny => checks::deny(),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Sim { args } => sim::run(&args),
        Command::Tikv { check } => tikv::run(check),
        #[cfg(feature = "cluster")]
        Command::Cluster(args) => cluster::run(&args),
        #[cfg(feature = "cluster")]
        Command::Chaos(args) => chaos::run(&args),
        #[cfg(feature = "cluster")]
        Command::Cost(args) => cost::run(&args),
        #[cfg(not(feature = "cluster"))]
        Command::Cluster(args) => apart::run("cluster", &args),
        #[cfg(not(feature = "cluster"))]
        Command::Chaos(args) => apart::run("chaos", &args),
        #[cfg(not(feature = "cluster"))]
        Command::Cost(args) => apart::run("cost", &args),
        Command::ChaosSum(args) => chaos_sum::run(&args),
        Command::Prove(args) => prove::run(&root()?, &args),
        Command::Planted => prove::planted(&root()?),
        Command::Proto { check } => proto::run(check).map(|()| ExitCode::SUCCESS),
    }
}

/// The workspace's folder.
fn root() -> anyhow::Result<PathBuf> {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask
        .parent()
        .map(Into::into)
        .context("xtask lies inside the workspace")
}
