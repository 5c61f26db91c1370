//! Secrets' files that others than their owner may read: said to the operator, who alone knows whom they trust.

use std::path::Path;

/// Logs a warning with the cure when everybody on this machine may read or change the secret in `file`. A group is taken to
/// be there on purpose.
pub fn warn_if_exposed(file: &Path) {
    if let Some(mode) = exposing_mode(file) {
        tracing::warn!(
            "everybody on this machine may read or change the secret in {file} (mode {mode:04o}): chmod 600 {file}",
            file = file.display()
        );
    }
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
}
