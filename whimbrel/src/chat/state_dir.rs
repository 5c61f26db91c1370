//! The folder of a chat's local state: one device of one user.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{cli::ChatArgs, deployment::Deployment};

/// Several chats of one user on one machine are several devices; nobody reads in more windows than this.
const DEVICES_PER_USER_MAX: u32 = 16;

/// The folder of this device's state, ours until dropped.
pub(super) struct StateDir {
    pub(super) path: PathBuf,
    _lock: fs::File,
}

impl StateDir {
    pub(super) fn take(args: &ChatArgs, deployment: &Deployment) -> anyhow::Result<Self> {
        if let Some(path) = &args.state {
            return Self::lock(path)?.with_context(|| {
                format!(
                    "{} is in use by another chat: give --state another folder",
                    path.display()
                )
            });
        }
        let uid = data_encoding::BASE32_NOPAD
            .encode(args.uid.as_bytes())
            .to_lowercase();
        let name = if args.uid.chars().all(|c| c.is_ascii_alphanumeric()) {
            args.uid.clone()
        } else {
            format!("_{uid}")
        };
        let user = deployment.clients_dir().join(deployment.app_key()).join(name);
        for device in 1..=DEVICES_PER_USER_MAX {
            if let Some(taken) = Self::lock(&user.join(device.to_string()))? {
                return Ok(taken);
            }
        }
        bail!(
            "{} chats of {} run already on this machine",
            DEVICES_PER_USER_MAX,
            args.uid
        )
    }

    fn lock(path: &Path) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(path).with_context(|| {
            format!(
                "cannot make {}: give --state a folder you may write to",
                path.display()
            )
        })?;
        let lock = fs::File::create(path.join("lock"))
            .with_context(|| format!("cannot write in {}: give --state another folder", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self {
                path: path.to_owned(),
                _lock: lock,
            })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}
