//! `cargo xtask tikv`: a placement driver and a store that speak TiKV's protocol, built from `xtask/tikv` with Go.

use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use whimbrel_tikv_cluster::{Binaries, Cluster, Options};

use crate::{
    checks::{GO, missing, shell::Shell},
    root,
};

/// The programs, each a folder of the Go module `xtask/tikv`.
const PROGRAMS: [&str; 2] = ["pd", "store"];

/// Lines of a failed build that are shown.
const FAILURE_LINES_SHOWN: usize = 40;

/// Builds both into `target/tikv`. Go knows by itself what is up to date. The first time it fetches and compiles some seven
/// hundred packages, which takes minutes.
pub(crate) fn build(shell: &Shell) -> anyhow::Result<()> {
    let folder = shell.target_folder().join("tikv");
    for program in PROGRAMS {
        println!("    building xtask/tikv/{program} with go");
        let to = folder.join(program).display().to_string();
        let package = format!("./{program}");
        let arguments = [
            "build",
            "-v",
            "-trimpath",
            "-ldflags",
            "-s -w",
            "-o",
            &to,
            &package,
        ];
        let mut command = shell.command("go", &arguments, &[("CGO_ENABLED", "0")]);
        command.current_dir(shell.root().join("xtask/tikv"));
        let run = shell.run("tikv", command, |_| {})?;
        if !run.success {
            bail!(
                "xtask/tikv/{program} could not be built:\n{}",
                run.last_lines(FAILURE_LINES_SHOWN)
            );
        }
    }
    Ok(())
}

/// Builds what is missing or old of both; without Go they are used as they are.
pub(crate) fn binaries(shell: &Shell) -> anyhow::Result<Binaries> {
    let binaries = Binaries::of_target(shell.target_folder());
    match missing(&GO, shell) {
        None => build(shell)?,
        Some(why) if binaries.exist() => {
            println!("{why}; what is in {} is used as it is", binaries.pd.display());
        }
        Some(why) => bail!(why),
    }
    Ok(binaries)
}

/// Those of the store's tests that start clusters of their own, with proxies, to break them.
const ON_CLUSTERS_OF_THEIR_OWN: [&str; 6] = [
    "slow_network::",
    "lost::",
    "faults::",
    "outages::",
    "woken::",
    "committer::",
];

/// Builds what is missing or old, starts both, and runs until a signal, or runs the store's tests on them.
pub(crate) fn run(check: bool) -> anyhow::Result<ExitCode> {
    let shell = Shell::new(root()?)?;
    let binaries = binaries(&shell)?;
    let cluster = Cluster::start(binaries, Options::default()).context("starting the cluster")?;
    let [pd, store] = cluster.process_ids();
    println!("PD: {} (process {pd})", cluster.pd_address());
    println!("store: {} (process {store})", cluster.store_address());
    let code = if check { suite(&shell, &cluster)? } else { wait()? };
    cluster.stop().context("ending the cluster")?;
    Ok(code)
}

/// The conformance suite and all else that the store's tests do on a cluster they are given.
fn suite(shell: &Shell, cluster: &Cluster) -> anyhow::Result<ExitCode> {
    let status = Command::new("cargo")
        .args(["test", "-p", "whimbrel-store-tikv", "--test", "tikv", "--"])
        .args(ON_CLUSTERS_OF_THEIR_OWN.into_iter().flat_map(|of| ["--skip", of]))
        .current_dir(shell.root())
        .env("WHIMBREL_TEST_PD", cluster.pd_address().to_string())
        .status()
        .context("running cargo test")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn wait() -> anyhow::Result<ExitCode> {
    println!("Ctrl-C ends both; their data goes with them");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        anyhow::Ok(ExitCode::SUCCESS)
    })
}
