//! A cluster's folder: keys, secrets, configurations and logs. The messages are not in it: the test store keeps them elsewhere,
//! and they end with it, so that each start begins anew.
//!
//! ```text
//! format       says that the folder is a cluster's
//! lock         held by whoever runs it
//! keys/        root.key root.pub cluster.secret, and each gateway's identity
//! apps/        the token secret of the app
//! nodes/       configuration, ready file and log of each node
//! redis/       Redis's log
//! clients/     local state of `whimbrel chat`
//! ready.json   the ready file, while it runs
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::{Member, Role, Shape};

/// The app that is made.
pub(crate) const APP_KEY: &str = "demo";

const FORMAT_FILE: &str = "format";
const FORMAT: &str = "whimbrel-cluster 1\n";
const LOCK_FILE: &str = "lock";
/// What an operator keeps beside a backup: what clients have pinned, and what signs their tokens.
const KEYS: [&str; 2] = ["keys", "apps"];

/// A folder that is ours until dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes the folder, empties it of what a cluster before has left, and has `binary` make keys for so many gateways, or copies
    /// those of the cluster in the folder `keys_of`.
    pub(crate) fn make(
        path: &Path,
        binary: &Path,
        shape: Shape,
        keys_of: Option<&Path>,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make {}: give a place you may write to", path.display()))?;
        let path = path.canonicalize()?;
        let format = path.join(FORMAT_FILE);
        let is_empty = fs::read_dir(&path)?.next().is_none();
        let is_ours = fs::read_to_string(&format).is_ok_and(|text| text == FORMAT);
        ensure!(
            is_empty || is_ours,
            "{} holds something that is no cluster's: give a folder that is empty or does not exist",
            path.display()
        );
        fs::write(&format, FORMAT)?;
        let lock = File::create(path.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "{} is in use by a cluster that runs: end it first, or give another folder",
                path.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).context("the folder's lock"),
        }
        let folder = Self { path, _lock: lock };
        folder.empty()?;
        for part in ["nodes", "redis", "clients"] {
            fs::create_dir(folder.path.join(part))?;
        }
        match keys_of {
            Some(other) => folder.copy_keys(other)?,
            None => {
                for part in KEYS {
                    fs::create_dir(folder.path.join(part))?;
                }
                folder.make_keys(binary, shape)?;
            }
        }
        Ok(folder)
    }

    fn empty(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if [FORMAT_FILE, LOCK_FILE]
                .iter()
                .any(|kept| entry.file_name() == *kept)
            {
                continue;
            }
            let removed = if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            removed.with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
        Ok(())
    }

    fn copy_keys(&self, other: &Path) -> anyhow::Result<()> {
        for part in KEYS {
            let mut command = Command::new("cp");
            command.arg("-a").arg(other.join(part)).arg(&self.path);
            let copied = command.status().context("cp does not start")?;
            ensure!(
                copied.success(),
                "{} could not be copied",
                other.join(part).display()
            );
        }
        Ok(())
    }

    fn make_keys(&self, binary: &Path, shape: Shape) -> anyhow::Result<()> {
        let keygen = |words: &[&str], out: &Path| {
            let mut command = Command::new(binary);
            command.arg("keygen").args(words).arg("--out").arg(out);
            let made = command
                .output()
                .with_context(|| format!("{} does not start", binary.display()))?;
            let said = String::from_utf8_lossy(&made.stderr);
            ensure!(
                made.status.success(),
                "`whimbrel keygen {}` failed: {said}",
                words.join(" ")
            );
            Ok(())
        };
        let keys = self.path.join("keys");
        keygen(&["root"], &keys)?;
        keygen(&["cluster-secret"], &self.cluster_secret())?;
        keygen(&["app-secret"], &self.app_secret())?;
        let root = keys.join("root.key").display().to_string();
        for gateway in shape.members_of(Role::Gateway) {
            let name = gateway.to_string();
            keygen(
                &["identity", "--root", &root, "--node", &name],
                &self.identity(gateway),
            )?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn cluster_secret(&self) -> PathBuf {
        self.path.join("keys/cluster.secret")
    }

    pub(crate) fn root_public(&self) -> PathBuf {
        self.path.join("keys/root.pub")
    }

    /// The root key, as clients pin it.
    pub(crate) fn root_key(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.root_public())?.trim().to_owned())
    }

    pub(crate) fn app_secret(&self) -> PathBuf {
        self.path.join("apps").join(format!("{APP_KEY}.secret"))
    }

    /// Where a gateway's identity lies.
    pub(crate) fn identity(&self, gateway: Member) -> PathBuf {
        self.path.join("keys").join(gateway.to_string())
    }

    pub(crate) fn redis(&self) -> PathBuf {
        self.path.join("redis")
    }

    /// A node's file of this kind.
    pub(crate) fn of(&self, member: Member, kind: &str) -> PathBuf {
        self.path.join("nodes").join(format!("{member}.{kind}"))
    }

    pub(crate) fn ready_file(&self) -> PathBuf {
        self.path.join("ready.json")
    }
}
