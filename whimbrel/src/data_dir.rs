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
use whimbrel_protocol::{
    SystemEntropy,
    descriptor::{RootKey, inspect_certificate},
    ids::NodeId,
};

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
/// Local state of `whimbrel chat`, each user's in a folder of its own.
pub(crate) const CLIENTS: &str = "clients";
/// Standalone's certificate outlives every try-out; a cluster's is made with `keygen identity` and renewed.
const IDENTITY_LIFE_MS: u64 = 360 * DAY_MS;
/// A start renews a certificate that has less left than this, so that a deployment started anew now and then never ends.
const RENEW_BEFORE_MS: u64 = 60 * DAY_MS;
const DAY_MS: u64 = 24 * 3600 * 1000;

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
        secret_file::create_folder(path).with_context(|| {
            format!(
                "cannot make the data folder {}: give --data a place you may write to",
                path.display()
            )
        })?;
        let path = path
            .canonicalize()
            .with_context(|| format!("the data folder {}", path.display()))?;
        // Looked at before anything is written: a folder of something else stays as it was.
        let is_new = check_format(&path)?;
        let lock = take_lock(&path)?;
        if is_new {
            let format_path = path.join(FORMAT_FILE);
            ready_file::write_whole(&format_path, FORMAT.as_bytes())?;
            secret_file::sync_names(&format_path)
                .with_context(|| format!("cannot make {} durable", format_path.display()))?;
        }
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

    /// The file of the root's public key.
    pub(crate) fn root_public(&self) -> PathBuf {
        self.keys().join(keygen::ROOT_PUB)
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
        Ok(secret_file::read_public(&self.root_public(), "root public key")?.to_string())
    }

    /// Each key and secret is made by itself, so that a first start that was cut short is finished by the next.
    fn make_missing(&self, gateways: u16, now_ms: u64) -> anyhow::Result<()> {
        let entropy = &mut SystemEntropy;
        let keys = self.keys();
        fs::create_dir_all(&keys).with_context(|| format!("cannot make {}", keys.display()))?;
        let root = self.root()?;
        for nth in 0..gateways {
            self.certify(nth, root.as_ref(), now_ms)?;
        }
        if !self.cluster_secret().exists() {
            keygen::make_cluster_secret(&self.cluster_secret())?;
        }
        if !self.app_secret().exists() {
            keygen::make_app_secret(&self.app_secret(), entropy)?;
        }
        Ok(())
    }

    /// The root's secret key: made at the first start, and later read, where it still lies here. `None` when it was taken
    /// away, as one does with a root. Another one is never made: clients have pinned it.
    fn root(&self) -> anyhow::Result<Option<RootKey>> {
        let keys = self.keys();
        let (secret, public) = (keys.join(keygen::ROOT_KEY), self.root_public());
        if !secret.exists() {
            if public.exists() || self.has_certificates()? {
                return Ok(None);
            }
            return keygen::make_root(&keys, &mut SystemEntropy).map(Some);
        }
        let root = keygen::read_root(&secret)?;
        if !public.exists() {
            // Made just before a first start was cut short, or removed: it follows from the secret.
            secret_file::create_public(&public, format!("{}\n", root.public()).as_bytes())?;
        }
        if self.root_key()? != root.public().to_string() {
            bail!(
                "{} is not the public key of {}: clients have pinned one of them, so put the right pair back",
                public.display(),
                secret.display(),
            );
        }
        Ok(Some(root))
    }

    /// Whether any gateway was certified here.
    fn has_certificates(&self) -> anyhow::Result<bool> {
        let keys = self.keys();
        let listed = fs::read_dir(&keys).with_context(|| format!("cannot list {}", keys.display()))?;
        let folders = listed.filter_map(Result::ok).map(|entry| entry.path());
        Ok(std::iter::once(keys)
            .chain(folders)
            .any(|folder| folder.join(keygen::IDENTITY_CERT).exists()))
    }

    /// Makes the `nth` gateway's identity when it is missing, and a new certificate when the one there is ends soon.
    fn certify(&self, nth: u16, root: Option<&RootKey>, now_ms: u64) -> anyhow::Result<()> {
        let (key, certificate) = (self.identity_key(nth), self.identity_certificate(nth));
        let standing = Standing::of(&certificate, now_ms)?;
        let node = NodeId::new(&gateway(nth)).expect("the name is well-formed");
        match (standing, root) {
            (Standing::Good, _) => Ok(()),
            (Standing::Missing, None) => bail!(
                "{} is missing, and so is {}, which would certify it: put the root's key back, or give --data another \
                 folder (clients pin a deployment's root, so no other one is made here)",
                certificate.display(),
                self.keys().join(keygen::ROOT_KEY).display(),
            ),
            (Standing::Missing, Some(root)) => {
                if key.exists() {
                    // Made just before a first start was cut short; nobody has seen it.
                    fs::remove_file(&key).context("removing an identity key without certificate")?;
                }
                let folder = self.identity(nth);
                keygen::make_identity(&folder, root, node, IDENTITY_LIFE_MS, now_ms, &mut SystemEntropy)
            }
            (Standing::EndsSoon(days), None) => {
                tracing::warn!(
                    certificate = %certificate.display(),
                    days,
                    "the certificate ends soon and is not renewed: keys/root.key is not here"
                );
                Ok(())
            }
            (Standing::NotYet(from_ms), None) => bail!(
                "{} will hold in {} days only, so it was made under a clock that was ahead or this one is behind: set the clock \
                 right, or put {} back, and a new one is made",
                certificate.display(),
                from_ms.saturating_sub(now_ms).div_ceil(DAY_MS),
                self.keys().join(keygen::ROOT_KEY).display(),
            ),
            (Standing::EndsSoon(_) | Standing::NotYet(_), Some(root)) => {
                let identity = keygen::read_identity(&key)?;
                let certified = keygen::certify(root, node, &identity, IDENTITY_LIFE_MS, now_ms)?;
                secret_file::create_public(&certificate, &certified)
            }
        }
    }
}

/// The standing of a gateway's certificate.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Missing,
    /// It ends in so many days.
    EndsSoon(u64),
    /// It holds from this moment on, unix milliseconds: it was made under a clock that was ahead.
    NotYet(u64),
    /// It holds long enough, or it is for the gateway to say what is wrong with it.
    Good,
}

impl Standing {
    fn of(certificate: &Path, now_ms: u64) -> anyhow::Result<Self> {
        let bytes = match fs::read(certificate) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::Missing),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", certificate.display()));
            }
        };
        let Ok(certificate) = inspect_certificate(&bytes) else {
            return Ok(Self::Good);
        };
        let left_ms = certificate.not_after_ms.saturating_sub(now_ms);
        Ok(if certificate.not_before_ms > now_ms {
            Self::NotYet(certificate.not_before_ms)
        } else if left_ms < RENEW_BEFORE_MS {
            Self::EndsSoon(left_ms / DAY_MS)
        } else {
            Self::Good
        })
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

/// Removes a data folder whose process is gone. False when one has it, or none has ever locked it.
pub(crate) fn remove_abandoned(path: &Path) -> std::io::Result<bool> {
    let lock = fs::File::open(path.join(LOCK_FILE))?;
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    fs::remove_dir_all(path)?;
    Ok(true)
}

/// Whether the folder is new to us. `whimbrel chat` may have been here before, for want of a deployment.
fn check_format(path: &Path) -> anyhow::Result<bool> {
    let format_path = path.join(FORMAT_FILE);
    match fs::read_to_string(&format_path) {
        Ok(text) if text.trim() == FORMAT => Ok(false),
        Ok(text) => bail!(
            "the data folder {} has format {:?}, this version reads {FORMAT:?}: use the version of Whimbrel that made it, or another folder",
            path.display(),
            text.trim().chars().take(40).collect::<String>(),
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let stranger = fs::read_dir(path)
                .with_context(|| format!("cannot list {}", path.display()))?
                .filter_map(Result::ok)
                .find(|entry| ![LOCK_FILE, CLIENTS].contains(&entry.file_name().to_string_lossy().as_ref()));
            if let Some(stranger) = stranger {
                bail!(
                    "the folder {} holds {:?} and is no data folder of Whimbrel (it has no {FORMAT_FILE:?} file): give --data an empty or a new folder",
                    path.display(),
                    stranger.file_name(),
                );
            }
            Ok(true)
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
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing of ours is left in it");
    }

    fn certificate_end(data: &DataDir) -> u64 {
        let bytes = fs::read(data.identity_certificate(0)).unwrap();
        inspect_certificate(&bytes).unwrap().not_after_ms
    }

    #[test]
    fn a_root_that_was_taken_away_is_missed_only_where_something_is_to_be_certified() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path(), 1, NOW_MS).unwrap();
        let root = first.root_key().unwrap();
        drop(first);
        fs::remove_file(folder.path().join("keys/root.key")).unwrap();
        drop(DataDir::open(folder.path(), 1, NOW_MS).unwrap());
        let refused = DataDir::open(folder.path(), 2, NOW_MS).err().unwrap();
        assert!(format!("{refused:#}").contains("root.key"), "{refused:#}");
        assert!(!folder.path().join("keys/root.key").exists());
        fs::remove_file(folder.path().join("keys/root.pub")).unwrap();
        fs::write(folder.path().join("keys/root.pub"), &root).unwrap();
        fs::remove_file(folder.path().join("keys/identity.cert")).unwrap();
        let refusal = refusal(folder.path());
        assert!(
            refusal.contains("root.key") && refusal.contains("put the root's key back"),
            "{refusal}"
        );
        assert!(!refusal.contains("keygen root"), "{refusal}");
        assert_eq!(
            fs::read_to_string(folder.path().join("keys/root.pub")).unwrap(),
            root
        );
    }

    #[test]
    fn the_public_key_of_another_root_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), 1, NOW_MS).unwrap());
        let public = folder.path().join("keys/root.pub");
        let other = RootKey::generate(&mut SystemEntropy).public().to_string();
        fs::write(&public, &other).unwrap();
        assert!(refusal(folder.path()).contains("root.pub"));
        assert_eq!(fs::read_to_string(&public).unwrap(), other);
    }

    #[test]
    fn a_start_renews_a_certificate_that_ends_soon_for_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path(), 1, NOW_MS).unwrap();
        let (key, end) = (fs::read(first.identity_key(0)).unwrap(), certificate_end(&first));
        drop(first);
        let early = DataDir::open(folder.path(), 1, end - RENEW_BEFORE_MS).unwrap();
        assert_eq!(certificate_end(&early), end);
        drop(early);
        for now_ms in [end - RENEW_BEFORE_MS + 1, end + 2 * IDENTITY_LIFE_MS] {
            let later = DataDir::open(folder.path(), 1, now_ms).unwrap();
            assert_eq!(certificate_end(&later), now_ms + IDENTITY_LIFE_MS);
            assert_eq!(fs::read(later.identity_key(0)).unwrap(), key);
        }
    }

    #[test]
    fn a_certificate_made_under_a_clock_that_was_ahead_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), 1, NOW_MS + 400 * DAY_MS).unwrap());
        let right = DataDir::open(folder.path(), 1, NOW_MS).unwrap();
        assert_eq!(certificate_end(&right), NOW_MS + IDENTITY_LIFE_MS);
        drop(right);
        fs::remove_file(folder.path().join("keys/root.key")).unwrap();
        let refused = DataDir::open(folder.path(), 1, NOW_MS - 10 * DAY_MS)
            .err()
            .unwrap();
        assert!(format!("{refused:#}").contains("in 10 days"), "{refused:#}");
    }

    #[test]
    fn a_folder_in_which_only_chats_have_been_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("clients/demo/alice")).unwrap();
        DataDir::open(folder.path(), 1, NOW_MS).unwrap();
    }

    #[test]
    fn a_corrupt_root_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), 1, NOW_MS).unwrap());
        fs::write(folder.path().join("keys/root.key"), "nonsense").unwrap();
        let refusal = refusal(folder.path());
        assert!(
            refusal.contains("root.key") && refusal.contains("restore"),
            "{refusal}"
        );
        assert!(!refusal.contains("keygen root"), "{refusal}");
    }
}
