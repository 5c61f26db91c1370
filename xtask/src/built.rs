//! The programs of the workspace: built here, or found where they were built before.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Where whatever has planted faults is built, so that none is ever found where others look for a server.
const PLANTED_TARGET: &str = "target/planted";
/// Builds it, there.
pub(crate) const PLANTED_BUILD: [&str; 4] = ["--features", "planted-faults", "--target-dir", PLANTED_TARGET];

/// Which of them, and how.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct BuildArgs {
    /// Build for development: quicker to build, slower to run.
    #[arg(long)]
    pub(crate) dev: bool,
    /// Build nothing: the programs are in this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "dev")]
    pub(crate) built: Option<PathBuf>,
}

/// What is run.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) server: PathBuf,
    pub(crate) generator: PathBuf,
    /// Preloaded where the power is to be cut.
    pub(crate) recorder: PathBuf,
}

impl Built {
    #[cfg(feature = "cluster")]
    /// Builds the server alone, as [`BuildArgs`] say.
    pub(crate) fn server(root: &Path, args: &BuildArgs) -> anyhow::Result<PathBuf> {
        let folder = match &args.built {
            Some(folder) => folder.clone(),
            None => {
                cargo(root, args.dev, &["--package", "whimbrel"])?;
                folder(root, args.dev)
            }
        };
        found(&folder.join("whimbrel"))
    }

    #[cfg(feature = "cluster")]
    /// Builds the server and the load generator, as [`BuildArgs`] say.
    pub(crate) fn with_generator(root: &Path, args: &BuildArgs) -> anyhow::Result<[PathBuf; 2]> {
        let folder = match &args.built {
            Some(folder) => folder.clone(),
            None => {
                let both = ["--package", "whimbrel", "--package", "whimbrel-loadtest"];
                cargo(root, args.dev, &both)?;
                folder(root, args.dev)
            }
        };
        Ok([
            found(&folder.join("whimbrel"))?,
            found(&folder.join("whimbrel-loadtest"))?,
        ])
    }

    /// Builds all of them for release, or for development; the server with planted faults in a folder apart.
    pub(crate) fn all(root: &Path, dev: bool, planted: bool) -> anyhow::Result<Self> {
        let built = folder(root, dev);
        // With a library that is preloaded among them, the crates they share would be built otherwise than for programs alone,
        // and all that is above those once more.
        cargo(root, dev, &["--package", "whimbrel-powercut"])?;
        let of_the_load = ["--package", "whimbrel-loadtest"];
        let of_the_server = ["--package", "whimbrel"];
        let server = if planted {
            cargo(root, dev, &of_the_load)?;
            cargo(root, dev, &[&of_the_server[..], &PLANTED_BUILD[..]].concat())?;
            root.join(PLANTED_TARGET).join(profile(dev).1)
        } else {
            // One build for both: apart, the crates they share would be built for each.
            cargo(root, dev, &[&of_the_server[..], &of_the_load].concat())?;
            built.clone()
        };
        Ok(Self {
            server: server.join("whimbrel"),
            generator: built.join("whimbrel-loadtest"),
            recorder: built.join("libwhimbrel_powercut.so"),
        })
    }
}

/// A profile, and its folder.
const fn profile(dev: bool) -> (&'static str, &'static str) {
    if dev {
        ("dev", "debug")
    } else {
        ("release", "release")
    }
}

fn folder(root: &Path, dev: bool) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    root.join(target).join(profile(dev).1)
}

fn cargo(root: &Path, dev: bool, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(["build", "--profile", profile(dev).0])
        .args(arguments)
        .current_dir(root)
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "cargo build {} failed", arguments.join(" "));
    Ok(())
}

#[cfg(feature = "cluster")]
fn found(program: &Path) -> anyhow::Result<PathBuf> {
    let whole = program.canonicalize();
    whole.with_context(|| format!("{} was not built", program.display()))
}
