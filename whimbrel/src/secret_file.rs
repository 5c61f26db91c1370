//! Files that hold a key or a secret: text, one line, readable by their owner only.

use std::{fs, io::Write as _, path::Path};

use anyhow::{Context as _, bail};

use crate::ready_file;

/// A secret file is one short line; anything longer is some other file.
const SECRET_FILE_LEN_MAX: u64 = 4096;

/// Makes `path` with `text` in it, mode 0600, durable. Never overwrites: a key that is gone cannot be had back.
pub(crate) fn create(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).with_context(|| {
        format!(
            "cannot make {}: keys are never overwritten, so remove it first if it is no longer wanted",
            path.display()
        )
    })?;
    writeln!(file, "{text}")
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_names(path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a folder, and those above it that are missing, for its owner only.
pub(crate) fn create_folder(path: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes the names on the way to `path` durable, its folder's and that folder's own: a synced file whose name is lost is
/// lost.
pub(crate) fn sync_names(path: &Path) -> std::io::Result<()> {
    for folder in path.ancestors().skip(1).take(2) {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Makes a file that is not secret, such as a public key, durable.
pub(crate) fn create_public(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    ready_file::replace(path, bytes, ready_file::Readers::Everybody)?;
    sync_names(path).with_context(|| format!("cannot make {} durable", path.display()))
}

/// The secret in `path`, as [`read_public`]; warns when everybody may read it.
pub(crate) fn read(path: &Path, what: &str) -> anyhow::Result<zeroize::Zeroizing<String>> {
    let text = read_public(path, what)?;
    whimbrel_host::warn_if_exposed(path);
    Ok(text)
}

/// The text of `path` without white space around it. `what` says in an error what should have been there.
pub(crate) fn read_public(path: &Path, what: &str) -> anyhow::Result<zeroize::Zeroizing<String>> {
    let length = fs::metadata(path)
        .map_err(|error| {
            let path = path.display();
            let said = match error.kind() {
                std::io::ErrorKind::NotFound => format!("no {what} at {path}"),
                _ => format!("cannot read the {what} {path}"),
            };
            anyhow::Error::new(error).context(said)
        })?
        .len();
    if length > SECRET_FILE_LEN_MAX {
        bail!(
            "{} has {length} bytes, which is no {what}: expected one line of text",
            path.display()
        );
    }
    let text = zeroize::Zeroizing::new(
        fs::read_to_string(path).with_context(|| format!("cannot read the {what} {}", path.display()))?,
    );
    let text = zeroize::Zeroizing::new(text.trim().to_owned());
    if text.is_empty() {
        bail!(
            "{} is empty: expected one line of text, the {what}; restore it from your copy",
            path.display()
        );
    }
    Ok(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_its_owners_alone_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/a.key");
        create(&path, "first").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let own = folder.path().join("own/deep");
        create_folder(&own).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert!(create(&path, "second").is_err());
        assert_eq!(read(&path, "key").unwrap().as_str(), "first");
    }

    #[test]
    fn an_empty_or_huge_file_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "  \n").unwrap();
        assert!(read(&path, "key").unwrap_err().to_string().contains("empty"));
        fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(read(&path, "key").unwrap_err().to_string().contains("5000 bytes"));
    }
}
