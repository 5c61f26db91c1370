//! The folder of a standalone deployment: its keys, secrets and store, and who may use it now.
//!
//! ```text
//! format            the layout's version
//! lock              held by the process that uses the folder
//! keys/             root.key root.pub identity.key identity.cert cluster.secret
//! keys/gateway-2/   identity.key identity.cert of the second gateway, and so on
//! apps/demo.secret  the token secret of the app that is made at first
//! store/            messages
//! clients/          local state of `whimbrel chat`
//! processes/        configurations and ready files of --processes
//! ready.json        the ready file, while it runs
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use whimbrel_protocol::{SystemEntropy, ids::NodeId};

use crate::{keygen, ready_file, secret_file};

/// The app that is made at first.
pub(crate) const APP_KEY: &str = "demo";

/// The node name of the `nth` gateway, counted from 0.
pub(crate) fn gateway(nth: u16) -> String {
    format!("gateway-{}", nth + 1)
}

const FORMAT_FILE: &str = "format";
const FORMAT: &str = "whimbrel-data 1";
const LOCK_FILE: &str = "lock";
/// Standalone's certificate outlives every try-out; a cluster's is made with `keygen identity` and renewed.
const IDENTITY_LIFE_MS: u64 = 360 * 24 * 3600 * 1000;

/// A data folder that is ours until dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: fs::File,
}

impl DataDir {
    /// Takes the folder, making what is missing for so many gateways.
    ///
    /// Fails when another process has it, when a newer version made it, or when it holds something else.
    pub(crate) fn open(path: &Path, gateways: u16, now_ms: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| {
            format!(
                "cannot make the data folder {}: give --data a place you may write to",
                path.display()
            )
        })?;
        let path = path
            .canonicalize()
            .with_context(|| format!("the data folder {}", path.display()))?;
        let lock = take_lock(&path)?;
        check_format(&path)?;
        let data_dir = Self { path, _lock: lock };
        data_dir.make_missing(gateways, now_ms)?;
        Ok(data_dir)
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Where the identity of the `nth` gateway lies.
    fn identity(&self, nth: u16) -> PathBuf {
        match nth {
            0 => self.keys(),
            _ => self.keys().join(gateway(nth)),
        }
    }

    pub(crate) fn identity_key(&self, nth: u16) -> PathBuf {
        self.identity(nth).join(keygen::IDENTITY_KEY)
    }

    pub(crate) fn identity_certificate(&self, nth: u16) -> PathBuf {
        self.identity(nth).join(keygen::IDENTITY_CERT)
    }

    pub(crate) fn cluster_secret(&self) -> PathBuf {
        self.keys().join("cluster.secret")
    }

    pub(crate) fn app_secret(&self) -> PathBuf {
        self.path.join("apps").join(format!("{APP_KEY}.secret"))
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    pub(crate) fn processes(&self) -> PathBuf {
        self.path.join("processes")
    }

    pub(crate) fn ready_file(&self) -> PathBuf {
        self.path.join("ready.json")
    }

    /// The root public key, as clients pin it.
    pub(crate) fn root_key(&self) -> anyhow::Result<String> {
        Ok(secret_file::read(&self.keys().join(keygen::ROOT_PUB), "root public key")?.to_string())
    }

    /// Each key and secret is made by itself, so that a first start that was cut short is finished by the next.
    fn make_missing(&self, gateways: u16, now_ms: u64) -> anyhow::Result<()> {
        let entropy = &mut SystemEntropy;
        let keys = self.keys();
        fs::create_dir_all(&keys).with_context(|| format!("cannot make {}", keys.display()))?;
        let root_key = keys.join(keygen::ROOT_KEY);
        if !root_key.exists() {
            keygen::make_root(&keys, entropy)?;
        }
        let root = keygen::read_root(&root_key)?;
        let public = format!("{}\n", root.public());
        secret_file::create_public(&keys.join(keygen::ROOT_PUB), public.as_bytes())?;
        for nth in (0..gateways).filter(|nth| !self.identity_certificate(*nth).exists()) {
            let folder = self.identity(nth);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            if self.identity_key(nth).exists() {
                // Made just before a first start was cut short; nobody has seen it.
                fs::remove_file(self.identity_key(nth))
                    .context("removing an identity key without certificate")?;
            }
            let node = NodeId::new(&gateway(nth)).expect("the name is well-formed");
            keygen::make_identity(&folder, &root, node, IDENTITY_LIFE_MS, now_ms, entropy)?;
        }
        if !self.cluster_secret().exists() {
            keygen::make_cluster_secret(&self.cluster_secret())?;
        }
        if !self.app_secret().exists() {
            keygen::make_app_secret(&self.app_secret(), entropy)?;
        }
        Ok(())
    }
}

fn take_lock(path: &Path) -> anyhow::Result<fs::File> {
    let lock_path = path.join(LOCK_FILE);
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .with_context(|| {
            format!(
                "cannot make {}: the data folder must be writable",
                lock_path.display()
            )
        })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "the data folder {} is in use by another process: stop that one, or give --data another folder",
            path.display()
        ),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", lock_path.display()))
        }
    }
}

fn check_format(path: &Path) -> anyhow::Result<()> {
    let format_path = path.join(FORMAT_FILE);
    match fs::read_to_string(&format_path) {
        Ok(text) if text.trim() == FORMAT => Ok(()),
        Ok(text) => bail!(
            "the data folder {} has format {:?}, this version reads {FORMAT:?}: use the version of Whimbrel that made it, or another folder",
            path.display(),
            text.trim().chars().take(40).collect::<String>(),
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let stranger = fs::read_dir(path)
                .with_context(|| format!("cannot list {}", path.display()))?
                .filter_map(Result::ok)
                .find(|entry| entry.file_name() != LOCK_FILE);
            if let Some(stranger) = stranger {
                bail!(
                    "the folder {} holds {:?} and is no data folder of Whimbrel (it has no {FORMAT_FILE:?} file): give --data an empty or a new folder",
                    path.display(),
                    stranger.file_name(),
                );
            }
            ready_file::write_whole(&format_path, FORMAT.as_bytes())?;
            secret_file::sync_names(&format_path)
                .with_context(|| format!("cannot make {} durable", format_path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", format_path.display())),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;

    fn refusal(path: &Path) -> String {
        format!("{:#}", DataDir::open(path, 1, NOW_MS).err().unwrap())
    }

    #[test]
    fn a_second_start_finds_the_keys_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path(), 1, NOW_MS).unwrap();
        let root = first.root_key().unwrap();
        drop(first);
        assert_eq!(
            DataDir::open(folder.path(), 1, NOW_MS)
                .unwrap()
                .root_key()
                .unwrap(),
            root
        );
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _held = DataDir::open(folder.path(), 1, NOW_MS).unwrap();
        assert!(refusal(folder.path()).contains("in use by another process"));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FORMAT_FILE), "whimbrel-data 2\n").unwrap();
        assert!(refusal(folder.path()).contains("whimbrel-data 2"));
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        assert!(refusal(folder.path()).contains("thesis.tex"));
        assert!(!folder.path().join("keys").exists());
    }

    #[test]
    fn a_corrupt_root_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), 1, NOW_MS).unwrap());
        fs::write(folder.path().join("keys/root.key"), "nonsense").unwrap();
        assert!(refusal(folder.path()).contains("root.key"));
    }
}
