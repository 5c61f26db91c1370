//! The file that a backup is written to: under another name until it is known to be good, its owner's alone, never over another.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;

use crate::secret_file;

/// A file that is not there yet. Gone when dropped before [`keep`](Self::keep).
pub(super) struct New {
    file: NamedTempFile,
    path: PathBuf,
}

impl New {
    /// For a backup that will be at `path`.
    pub(super) fn beside(path: &Path) -> anyhow::Result<Self> {
        if path.exists() {
            bail!(
                "{} is there already: a backup is never written over",
                path.display()
            );
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // Readable by its owner alone: it holds everybody's messages.
        let file = NamedTempFile::with_prefix_in(".whimbrel-backup-", folder)
            .with_context(|| format!("no file can be made in {}", folder.display()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// To write it.
    pub(super) fn writer(&self) -> anyhow::Result<File> {
        self.file
            .as_file()
            .try_clone()
            .context("the backup cannot be written")
    }

    /// To read what was written, from its beginning.
    pub(super) fn reader(&self) -> anyhow::Result<File> {
        self.file.reopen().context("what was written cannot be read")
    }

    /// Makes it durable and gives it its name.
    pub(super) fn keep(self) -> anyhow::Result<()> {
        let failed = || format!("cannot make {} durable", self.path.display());
        self.file.as_file().sync_all().with_context(failed)?;
        self.file
            .persist_noclobber(&self.path)
            .with_context(|| format!("cannot name the backup {}", self.path.display()))?;
        secret_file::sync_names(&self.path).context("cannot make the backup's name durable")
    }
}
