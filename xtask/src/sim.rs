//! `cargo xtask sim`: builds the simulator with optimisation and hands it its arguments.

use std::process::{Command, ExitCode};

use anyhow::Context as _;

/// Runs it; its exit status is ours.
pub(crate) fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--profile", "sim", "-p", "whimbrel-sim", "--"])
        .args(args)
        .current_dir(crate::root()?)
        .status()
        .context("starting cargo to build and run the simulator")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
