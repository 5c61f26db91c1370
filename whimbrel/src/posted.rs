//! The ready files of one process: places that were found fit at its start, what it wrote there, and that this goes with it.
//!
//! A ready file belongs to the process whose pid it names. One whose process is gone is taken away before anything starts,
//! so that nobody is sent to what is not there any more; one of a living deployment is never touched.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::ready_file;

/// A ready file is short, also with sixteen gateways; anything longer is some other file.
const READY_FILE_LEN_MAX: u64 = 64 * 1024;
/// Between two tries to write one after a failure; whoever cured its cause should not wait long.
const RETRY: Duration = Duration::from_secs(1);
/// The commands that write ready files.
const SERVERS: [&str; 5] = ["standalone", "gateway", "router", "app-service", "lbs"];

/// Where this process says that it is ready. What it wrote goes when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Posted(Arc<Places>);

#[derive(Debug)]
struct Places {
    paths: Vec<PathBuf>,
    /// Whether something of ours may lie there.
    written: Mutex<bool>,
}

impl Posted {
    /// Takes these places: finds out that they can be written to, and removes what processes that are gone left there.
    ///
    /// Fails when a place holds something else, or what a living deployment wrote.
    pub(crate) fn claim(paths: impl IntoIterator<Item = PathBuf>) -> anyhow::Result<Self> {
        let paths: Vec<_> = paths.into_iter().collect();
        for path in &paths {
            clear(path)?;
            ready_file::try_place(path)?;
        }
        Ok(Self::trust(paths))
    }

    /// Takes these places as they are.
    pub(crate) fn trust(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(Arc::new(Places {
            paths: paths.into_iter().collect(),
            written: Mutex::new(false),
        }))
    }

    /// Puts this text at every place; what can be written is, though another place fails.
    pub(crate) fn write(&self, text: &[u8]) -> anyhow::Result<()> {
        let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        *written = true;
        let outcomes: Vec<_> = self
            .0
            .paths
            .iter()
            .map(|path| ready_file::write_whole(path, text))
            .collect();
        outcomes.into_iter().collect()
    }

    /// After [`Posted::write`] failed: tries until it succeeds. Says so first, when it is `news` why it failed.
    pub(crate) async fn write_at_last(&self, news: Option<anyhow::Error>, text: &[u8]) {
        if let Some(error) = news {
            tracing::error!(
                error = format!("{error:#}"),
                "the ready file is not up to date; everything runs on, and it is tried again"
            );
        }
        loop {
            tokio::time::sleep(RETRY).await;
            if self.write(text).is_ok() {
                tracing::warn!("the ready file is up to date again");
                return;
            }
        }
    }

    /// Takes away what this process wrote.
    pub(crate) fn remove(&self) {
        self.0.remove();
    }
}

impl Places {
    fn remove(&self) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut *written) {
            return;
        }
        for path in &self.paths {
            // Somebody else may have put theirs over it.
            if matches!(Found::at(path), Ok(Found::Of(pid)) if pid == std::process::id()) {
                // Nobody is left to be told; the next start takes it away.
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.remove();
    }
}

/// What lies at a ready file's place.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing, or a file with nothing in it, such as `mktemp` makes.
    Nothing,
    /// The ready file of this process.
    Of(u32),
    /// Something else.
    Other,
}

/// What every ready file says.
#[derive(Deserialize)]
struct Said {
    pid: u32,
}

impl Found {
    fn at(path: &Path) -> std::io::Result<Self> {
        let file = match fs::metadata(path) {
            Ok(found) if !found.is_file() => return Ok(Self::Other),
            Ok(_) => fs::File::open(path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(READY_FILE_LEN_MAX).read_to_end(&mut text)?;
        if text.is_empty() {
            return Ok(Self::Nothing);
        }
        Ok(match serde_json::from_slice::<Said>(&text) {
            Ok(said) => Self::Of(said.pid),
            Err(_) => Self::Other,
        })
    }
}

/// Makes sure that nobody reads anything at `path` until this process writes there.
fn clear(path: &Path) -> anyhow::Result<()> {
    let found = Found::at(path).with_context(|| {
        format!(
            "the ready file {} cannot be looked at: give --ready-file a path in a folder you may write to",
            path.display()
        )
    })?;
    match found {
        Found::Nothing => return Ok(()),
        Found::Of(pid) if serves(pid) => bail!(
            "{} is the ready file of process {pid}, which runs: stop that one, or give --ready-file another path",
            path.display()
        ),
        Found::Of(_) => {}
        Found::Other => bail!(
            "{} is there already and no ready file: remove it, or give --ready-file another path",
            path.display()
        ),
    }
    fs::remove_file(path).with_context(|| {
        format!(
            "the ready file {} of a process that is gone cannot be removed: give --ready-file a path in a folder you may \
             write to",
            path.display()
        )
    })
}

/// Whether a process of this number runs and is another server of Whimbrel. Numbers are given again: in a container every
/// life of a deployment may have the same, and elsewhere anything may have it.
fn serves(pid: u32) -> bool {
    let Some(number) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    if pid == std::process::id() {
        return false;
    }
    if rustix::process::test_kill_process(number) == Err(rustix::io::Errno::SRCH) {
        return false;
    }
    match command_of(pid) {
        // One that has ended and is still listed has no command line.
        Some(words) => words.get(1).is_some_and(|word| SERVERS.contains(&word.as_str())),
        None => true,
    }
}

/// The words of a process's command line, where this system tells them.
fn command_of(pid: u32) -> Option<Vec<String>> {
    if cfg!(not(target_os = "linux")) {
        return None;
    }
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0);
    Some(
        words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect(),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// No process has it: numbers end at 2^22.
    const NOBODY: u32 = 0x7fff_fff0;

    fn said(pid: u32) -> Vec<u8> {
        format!("{{\"pid\": {pid}}}").into_bytes()
    }

    #[test]
    fn what_a_process_wrote_goes_with_it_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        fs::write(&path, said(NOBODY)).unwrap();
        let posted = Posted::claim([path.clone()]).unwrap();
        assert!(!path.exists(), "one whose process is gone is taken away");
        posted.write(&said(std::process::id())).unwrap();
        assert!(path.exists());
        drop(posted);
        assert!(!path.exists());

        let posted = Posted::claim([path.clone()]).unwrap();
        fs::write(&path, said(1)).unwrap();
        drop(posted);
        assert!(path.exists(), "another one wrote it");
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thesis.tex");
        fs::write(&path, "x").unwrap();
        let refused = Posted::claim([path.clone()]).unwrap_err().to_string();
        assert!(refused.contains("thesis.tex"), "{refused}");
        assert!(path.exists());
        fs::write(&path, "").unwrap();
        Posted::claim([path]).unwrap();
    }

    #[test]
    fn this_process_in_an_earlier_life_does_not_stand_in_its_own_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        fs::write(&path, said(std::process::id())).unwrap();
        Posted::claim([path]).unwrap();
    }
}
