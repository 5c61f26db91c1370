//! The ready file: where a running deployment listens, for scripts, tests and `chat`.
//!
//! Written whole and renamed into place, so that a reader sees all of it or nothing.

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
    /// Base URL of the LBS.
    pub(crate) lbs: String,
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
}

impl ReadyFile {
    /// The file's content.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "no ready file at {}: start `whimbrel standalone` first, or give --ready-file the path it was told",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not a ready file: expected the JSON that standalone writes",
                path.display()
            )
        })
    }

    /// Puts the file in place, readable by its owner only: it names secrets' places.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("a ready file is plain data")?;
        write_whole(path, text.as_bytes())
    }
}

/// Writes a file beside `path` and renames it there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let in_place = || -> std::io::Result<()> {
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        fs::rename(&beside, path)
    };
    in_place().with_context(|| {
        format!(
            "cannot write {}: give a path in a folder you may write to",
            path.display()
        )
    })
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
            api: "http://127.0.0.1:7001".to_owned(),
            metrics: "http://127.0.0.1:7002".to_owned(),
            gateway_tcp: OneOrMore::of(&["127.0.0.1:7100".to_owned()]),
            app_key: "demo".to_owned(),
            app_secret_file: PathBuf::from("demo.secret"),
            root_key: "abc".to_owned(),
        };
        ready.write(&path).unwrap();
        assert_eq!(ReadyFile::read(&path).unwrap(), ready);
    }

    #[test]
    fn a_missing_ready_file_says_what_to_do() {
        let error = format!(
            "{:#}",
            ReadyFile::read(Path::new("/nonexistent/ready.json")).unwrap_err()
        );
        assert!(error.contains("whimbrel standalone"), "{error}");
    }
}
