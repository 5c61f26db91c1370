//! Generates the message types from the `.proto` files, without protoc, and compares them with what is checked in.

use std::{fs, path::Path};

use anyhow::{Context, bail};

/// A folder of `.proto` files and what comes of them.
struct Source {
    protos_dir: &'static str,
    generated_dir: &'static str,
    protos: &'static [&'static str],
    generated: &'static [&'static str],
}

const SOURCES: [Source; 2] = [
    Source {
        protos_dir: "protocol/proto",
        generated_dir: "protocol/src/generated",
        protos: &["client.proto", "cluster.proto"],
        generated: &["whimbrel.client.v1.rs", "whimbrel.cluster.v1.rs"],
    },
    Source {
        protos_dir: "app-service/proto",
        generated_dir: "app-service/src/generated",
        protos: &["storage.proto"],
        generated: &["whimbrel.storage.v1.rs"],
    },
];

/// Generates, or with `check` compares.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies inside the workspace")?;
    SOURCES
        .iter()
        .try_for_each(|source| run_source(root, source, check))
}

fn run_source(root: &Path, source: &Source, check: bool) -> anyhow::Result<()> {
    let protos = root.join(source.protos_dir);
    let checked_in = root.join(source.generated_dir);
    let fresh = tempfile::tempdir().context("a temporary folder for generated code")?;

    let descriptors = protox::compile(source.protos, [&protos])
        .with_context(|| format!("{} does not compile", source.protos_dir))?;
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .with_context(|| format!("generating Rust from {}", source.protos_dir))?;

    for name in source.generated {
        let new = fs::read_to_string(fresh.path().join(name)).with_context(|| format!("generated {name}"))?;
        let target = checked_in.join(name);
        if check {
            let old = fs::read_to_string(&target).with_context(|| format!("{}", target.display()))?;
            if old != new {
                bail!(
                    "{} is not what {} generates: run `cargo xtask proto`",
                    target.display(),
                    source.protos_dir
                );
            }
        } else {
            fs::create_dir_all(&checked_in)?;
            fs::write(&target, new).with_context(|| format!("{}", target.display()))?;
        }
    }
    Ok(())
}
