//! Developer commands: `cargo xtask <command>`.

mod proto;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Whimbrel's developer commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate the Rust types of protocol/proto/*.proto into protocol/src/generated.
    Proto {
        /// Change nothing; fail if what is checked in differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Proto { check } => proto::run(check),
    }
}
