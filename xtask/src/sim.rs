//! `cargo xtask sim`: builds the simulator with optimisation and hands it its arguments.

use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::built::PLANTED_BUILD;

/// Runs it; its exit status is ours.
pub(crate) fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--profile", "sim", "-p", "whimbrel-sim"]);
    if plants(args) {
        command.args(PLANTED_BUILD);
    }
    let status = command
        .arg("--")
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

/// Whether a fault is to be planted: then the simulator is built with the code of those faults, apart from all else.
fn plants(args: &[String]) -> bool {
    args.iter()
        .any(|arg| arg == "--plant" || arg.starts_with("--plant="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_with_a_plant_is_built_with_plants() {
        let of = |line: &str| plants(&line.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>());
        assert!(of("--seeds 20 --plant seq-gap") && of("--plant=seq-gap --seeds 20"));
        assert!(!of("--seeds 10000 --from 1"));
    }
}
