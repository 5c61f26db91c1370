//! The ready file: where a running deployment listens, for scripts, tests and `chat`.
//!
//! Written whole and renamed into place, so that a reader sees all of it or nothing; readable by its owner only, for it names
//! the place of a secret.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// One of something, as most deployments have it, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T: Clone> OneOrMore<T> {
    /// The only one by itself.
    pub(crate) fn of(all: &[T]) -> Self {
        match all {
            [one] => Self::One(one.clone()),
            more => Self::More(more.to_vec()),
        }
    }
}

impl<T: std::fmt::Display> std::fmt::Display for OneOrMore<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(one) => write!(f, "{one}"),
            Self::More(more) => {
                for (nth, one) in more.iter().enumerate() {
                    let comma = if nth == 0 { "" } else { ", " };
                    write!(f, "{comma}{one}")?;
                }
                Ok(())
            }
        }
    }
}

/// What standalone says about itself once everything listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadyFile {
    /// The process that was started, the one to signal.
    pub(crate) pid: u32,
    /// The process of each role, a list where a role has several; without `--processes` all are `pid`.
    pub(crate) pids: BTreeMap<String, OneOrMore<u32>>,
    /// Base URL of the LBS; of several, the first.
    pub(crate) lbs: String,
    /// Base URLs of all of them, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lbs_urls: Vec<String>,
    /// Base URL of the HTTP API.
    pub(crate) api: String,
    /// Base URL of metrics and health.
    pub(crate) metrics: String,
    /// Address of the gateway's TCP listener; a list with several gateways.
    pub(crate) gateway_tcp: OneOrMore<String>,
    /// The app that standalone makes on its first start.
    pub(crate) app_key: String,
    /// Where that app's token secret lies.
    pub(crate) app_secret_file: PathBuf,
    /// The root public key that clients pin.
    pub(crate) root_key: String,
    /// Base URLs of each router's own pages, where `metrics` does not show all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) routers: Vec<String>,
}

impl ReadyFile {
    /// The file's content.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| {
            let path = path.display();
            let said = match error.kind() {
                std::io::ErrorKind::NotFound => format!(
                    "no ready file at {path}: start `whimbrel standalone` first, or give --ready-file the path it was told"
                ),
                _ => format!("the ready file {path} cannot be read"),
            };
            anyhow::Error::new(error).context(said)
        })?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not a ready file: expected the JSON that standalone writes",
                path.display()
            )
        })
    }

    /// The file's text.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        serde_json::to_string_pretty(self).context("a ready file is plain data")
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner: it holds secrets, or names their places.
    Owner,
    Everybody,
}

impl Readers {
    #[cfg(unix)]
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o644,
        }
    }
}

/// Writes a line of text to a file beside `path` and renames it there, readable by its owner only.
pub(crate) fn write_whole(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    replace(path, &[text, b"\n"].concat(), Readers::Owner)
}

/// Writes exactly these bytes to a file beside `path` and renames it there.
pub(crate) fn replace(path: &Path, bytes: &[u8], readers: Readers) -> anyhow::Result<()> {
    let beside = beside(path);
    let in_place = || -> std::io::Result<()> {
        let mut file = create(&beside, readers)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&beside, path)
    };
    in_place().with_context(|| {
        // On a full disk it would take what room there is.
        let _ = fs::remove_file(&beside);
        cannot_write(path)
    })
}

/// Finds out whether [`write_whole`] could write `path`, and leaves it as it is.
pub(crate) fn try_place(path: &Path) -> anyhow::Result<()> {
    let beside = beside(path);
    create(&beside, Readers::Owner)
        .and_then(|_| fs::remove_file(&beside))
        .with_context(|| cannot_write(path))
}

fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    PathBuf::from(beside)
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}: give a path in a folder that is there and that you may write to, on a disk with room",
        path.display()
    )
}

fn create(path: &Path, readers: Readers) -> std::io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, readers.mode());
    let file = options.open(path)?;
    // One that was left behind there keeps the mode it had.
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(readers.mode()))?;
    Ok(file)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_ready_file_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        let ready = ReadyFile {
            pid: 7,
            pids: BTreeMap::from([("gateway".to_owned(), OneOrMore::of(&[7, 8]))]),
            lbs: "http://127.0.0.1:7000".to_owned(),
            lbs_urls: Vec::new(),
            api: "http://127.0.0.1:7001".to_owned(),
            metrics: "http://127.0.0.1:7002".to_owned(),
            gateway_tcp: OneOrMore::of(&["127.0.0.1:7100".to_owned()]),
            app_key: "demo".to_owned(),
            app_secret_file: PathBuf::from("demo.secret"),
            root_key: "abc".to_owned(),
            routers: Vec::new(),
        };
        write_whole(&path, ready.text().unwrap().as_bytes()).unwrap();
        assert_eq!(ReadyFile::read(&path).unwrap(), ready);
    }

    #[cfg(unix)]
    #[test]
    fn a_ready_file_is_its_owners_alone_whatever_was_left_beside_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        let beside = beside(&path);
        fs::write(&beside, "half").unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).unwrap();
        write_whole(&path, b"{}").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_missing_ready_file_says_what_to_do() {
        let error = format!(
            "{:#}",
            ReadyFile::read(Path::new("/nonexistent/ready.json")).unwrap_err()
        );
        assert!(error.contains("whimbrel standalone"), "{error}");
    }

    #[test]
    fn a_ready_file_that_cannot_be_read_is_not_called_missing() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", ReadyFile::read(folder.path()).unwrap_err());
        let named = format!("the ready file {} cannot be read: ", folder.path().display());
        assert!(error.starts_with(&named), "{error}");
    }
}
