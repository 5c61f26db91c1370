//! Secrets' files that others than their owner may read: said to the operator, who alone knows whom they trust.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Files that were warned of in this process: a secret is read by whoever needs it, and said once. As many as an operator has secrets.
static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Logs a warning with the cure when everybody on this machine may read or change the secret in `file`, once in a process. A group
/// is taken to be there on purpose.
pub fn warn_if_exposed(file: &Path) {
    if let Some(mode) = exposing_mode(file)
        && is_news(file)
    {
        tracing::warn!(
            "everybody on this machine may read or change the secret in {file} (mode {mode:04o}): chmod 600 {file}",
            file = file.display()
        );
    }
}

/// Whether it was not warned of yet.
fn is_news(file: &Path) -> bool {
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    warned.insert(file.to_owned())
}

/// The permissions of a file that everybody may use.
fn exposing_mode(file: &Path) -> Option<u32> {
    #[cfg(unix)]
    {
        let metadata = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
        Some(mode).filter(|mode| mode & 0o007 != 0)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_exposed_when_everybody_may_use_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "x").unwrap();
        for (mode, exposed) in [(0o600, false), (0o640, false), (0o644, true), (0o662, true)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposing_mode(&file).is_some(), exposed, "{mode:o}");
        }
    }

    #[test]
    fn a_file_is_news_once() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        assert!(is_news(&one) && is_news(&other));
        assert!(!is_news(&one));
    }
}
