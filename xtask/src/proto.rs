//! Generates the message types from the `.proto` files, without protoc, and compares them with what is checked in.

use std::{fs, path::Path};

use anyhow::{Context, bail};

const PROTOS: [&str; 2] = ["client.proto", "cluster.proto"];
const GENERATED: [&str; 2] = ["whimbrel.client.v1.rs", "whimbrel.cluster.v1.rs"];

/// Generates, or with `check` compares.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies inside the workspace")?;
    let protos = root.join("protocol/proto");
    let checked_in = root.join("protocol/src/generated");
    let fresh = tempfile::tempdir().context("a temporary folder for generated code")?;

    let descriptors = protox::compile(PROTOS, [&protos]).context("protocol/proto does not compile")?;
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .context("generating Rust from protocol/proto")?;

    for name in GENERATED {
        let new = fs::read_to_string(fresh.path().join(name)).with_context(|| format!("generated {name}"))?;
        let target = checked_in.join(name);
        if check {
            let old = fs::read_to_string(&target).with_context(|| format!("{}", target.display()))?;
            if old != new {
                bail!(
                    "{} is not what protocol/proto generates: run `cargo xtask proto`",
                    target.display()
                );
            }
        } else {
            fs::create_dir_all(&checked_in)?;
            fs::write(&target, new).with_context(|| format!("{}", target.display()))?;
        }
    }
    Ok(())
}
