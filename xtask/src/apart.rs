//! Commands that are built only when somebody asks for them: this program again, with all that it can have.

use std::process::{Command, ExitCode};

use anyhow::Context as _;

/// What such a command is told. It judges that itself.
#[derive(clap::Args, Debug, Clone)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// As the command's own `--help` says.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Builds it, and runs it in the place of this process.
pub(crate) fn run(command: &str, args: &Args) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    let error = Command::new(env!("CARGO"))
        .args(["run", "--package", "xtask", "--", command])
        .args(&args.args)
        .exec();
    Err(error).context("starting cargo to build what a cluster needs")
}
