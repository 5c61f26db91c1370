//! Where a deployment keeps its files: a data folder, or with `--ephemeral` a folder that ends with it.
//!
//! One that was killed leaves its folder, with keys and secrets in it: the next ephemeral start removes it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{cli::StandaloneArgs, data_dir};

/// What the names of ephemeral folders begin with.
const PREFIX: &str = "whimbrel-ephemeral-";

/// A deployment's folder.
pub(crate) enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    /// The folder that was asked for.
    pub(crate) fn of(args: &StandaloneArgs) -> anyhow::Result<Self> {
        if !args.ephemeral {
            return Ok(Self::Kept(args.data.clone()));
        }
        let temporary = std::env::temp_dir();
        remove_left_behind(&temporary);
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        // Secrets will lie in it.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = builder.tempdir_in(&temporary).with_context(|| {
            format!(
                "cannot make a folder in {}: set TMPDIR to one you may write to",
                temporary.display()
            )
        })?;
        Ok(Self::Temporary(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// Removes the folders in `temporary` of deployments that are gone, as far as they are ours to remove: each deployment locks
/// its folder, and the lock goes with the process.
fn remove_left_behind(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // A link of that name would lead elsewhere.
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _kept_when_in_use = data_dir::remove_abandoned(&entry.path());
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;

    #[test]
    fn folders_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let temporary = tempfile::tempdir().unwrap();
        let [dead, living, unlocked] =
            ["dead", "living", "unlocked"].map(|name| temporary.path().join(format!("{PREFIX}{name}")));
        drop(DataDir::open(&dead, 1, 1).unwrap());
        let _held = DataDir::open(&living, 1, 1).unwrap();
        // Begun this moment: its lock is not there yet.
        fs::create_dir(&unlocked).unwrap();
        let other = temporary.path().join("whimbrel-notes");
        fs::create_dir(&other).unwrap();
        remove_left_behind(temporary.path());
        assert!(!dead.exists());
        assert!(living.exists() && unlocked.exists() && other.exists());
    }
}
