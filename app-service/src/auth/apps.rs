//! The customers' apps, side by side, each with its own secrets and options.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret as _, SecretSlice};
use whimbrel_protocol::ids::{AppKey, IdError};

use crate::config::AppConfig;

/// Bytes an app secret has at least: what HMAC-SHA-256 needs to be as strong as its hash (RFC 7518, 3.2).
pub const SECRET_LEN_MIN: usize = 32;
/// Secrets of an app that are good at the same time: the old and the new one while a customer changes over.
pub const SECRETS_MAX: usize = 2;

/// One secret that an app's server signs tokens with. Never printed.
#[derive(Clone)]
pub struct AppSecret(SecretSlice<u8>);

impl AppSecret {
    /// A secret from its bytes.
    ///
    /// # Errors
    /// When it is shorter than [`SECRET_LEN_MIN`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AppError> {
        if bytes.len() < SECRET_LEN_MIN {
            return Err(AppError::SecretShort { len: bytes.len() });
        }
        Ok(Self(SecretSlice::from(bytes.to_vec())))
    }

    /// The secret in a file; whitespace around it is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read or holds too short a secret.
    pub fn from_file(path: &Path) -> Result<Self, AppError> {
        let content = std::fs::read(path).map_err(|source| AppError::SecretFile {
            path: path.to_owned(),
            source,
        })?;
        whimbrel_host::warn_if_exposed(path);
        Self::from_bytes(content.trim_ascii()).map_err(|_| AppError::SecretFileShort {
            path: path.to_owned(),
            len: content.trim_ascii().len(),
        })
    }

    pub(super) fn decoding_key(&self) -> DecodingKey {
        DecodingKey::from_secret(self.0.expose_secret())
    }

    pub(super) fn encoding_key(&self) -> EncodingKey {
        EncodingKey::from_secret(self.0.expose_secret())
    }
}

impl fmt::Debug for AppSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppSecret(..)")
    }
}

/// Why the apps of a configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The app's key is no app key.
    #[error("[[app-service.apps]] key: {0}")]
    Key(#[from] IdError),
    /// Two entries name the same app.
    #[error("[[app-service.apps]] {0} is there twice: keep one entry per app")]
    Twice(AppKey),
    /// No secret, or more than are good at a time.
    #[error(
        "[[app-service.apps]] {app} has {count} secret_files: give 1, or {SECRETS_MAX} while changing over"
    )]
    SecretCount {
        /// The app.
        app: AppKey,
        /// Files given.
        count: usize,
    },
    /// The secret is guessable.
    #[error(
        "an app secret has {len} bytes: at least {SECRET_LEN_MIN} are needed, e.g. `openssl rand -hex 32`"
    )]
    SecretShort {
        /// Its bytes.
        len: usize,
    },
    /// The secret in a file is guessable.
    #[error(
        "the app secret in {} has {len} bytes: at least {SECRET_LEN_MIN} are needed; make one with \
        `whimbrel keygen app-secret --out FILE`",
        path.display()
    )]
    SecretFileShort {
        /// The file.
        path: PathBuf,
        /// The secret's bytes.
        len: usize,
    },
    /// The secret's file cannot be read.
    #[error("cannot read the app secret in {}: {source}", path.display())]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// One customer's tenant.
#[derive(Clone, Debug)]
pub struct App {
    key: AppKey,
    secrets: Vec<AppSecret>,
    create_users_on_reference: bool,
}

impl App {
    /// An app with one or two live secrets.
    ///
    /// # Errors
    /// When there is no secret or more than [`SECRETS_MAX`].
    pub fn new(
        key: AppKey,
        secrets: Vec<AppSecret>,
        create_users_on_reference: bool,
    ) -> Result<Self, AppError> {
        if secrets.is_empty() || secrets.len() > SECRETS_MAX {
            return Err(AppError::SecretCount {
                app: key,
                count: secrets.len(),
            });
        }
        Ok(Self {
            key,
            secrets,
            create_users_on_reference,
        })
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &AppKey {
        &self.key
    }

    /// Whether naming an unknown uid (to chat with, to invite) makes that user; else only a login or the HTTP API does.
    #[must_use]
    pub fn create_users_on_reference(&self) -> bool {
        self.create_users_on_reference
    }

    pub(super) fn secrets(&self) -> &[AppSecret] {
        &self.secrets
    }
}

/// All apps served here.
#[derive(Clone, Debug, Default)]
pub struct Apps(Arc<BTreeMap<AppKey, App>>);

impl Apps {
    /// These apps.
    ///
    /// # Errors
    /// When two have the same key.
    pub fn new(apps: impl IntoIterator<Item = App>) -> Result<Self, AppError> {
        let mut by_key = BTreeMap::new();
        for app in apps {
            if let Some(earlier) = by_key.insert(app.key.clone(), app) {
                return Err(AppError::Twice(earlier.key));
            }
        }
        Ok(Self(Arc::new(by_key)))
    }

    /// The apps of a configuration, their secrets read from their files.
    ///
    /// # Errors
    /// When a key or secret is not one.
    pub fn from_config(apps: &[AppConfig]) -> Result<Self, AppError> {
        let apps: Result<Vec<App>, AppError> = apps
            .iter()
            .map(|app| {
                let secrets: Result<Vec<_>, _> = app
                    .secret_files
                    .iter()
                    .map(|file| AppSecret::from_file(file))
                    .collect();
                App::new(AppKey::new(&app.key)?, secrets?, app.create_users_on_reference)
            })
            .collect();
        Self::new(apps?)
    }

    /// The app of this key, if it is served here.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<&App> {
        // App keys order as their text does.
        AppKey::new(key).ok().and_then(|key| self.0.get(&key))
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = &App> {
        self.0.values()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_short_secret_is_refused_with_its_length_and_never_printed() {
        let error = AppSecret::from_bytes(b"hunter2").unwrap_err().to_string();
        assert!(error.contains("7 bytes") && error.contains("32"), "{error}");
        let secret = AppSecret::from_bytes(&[b's'; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "AppSecret(..)");
    }

    #[test]
    fn a_secret_file_is_read_without_the_newline_an_editor_left() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, format!("{}\n", "k".repeat(32))).unwrap();
        let secret = AppSecret::from_file(&file).unwrap();
        assert_eq!(secret.0.expose_secret(), "k".repeat(32).as_bytes());
        let missing = AppSecret::from_file(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
        std::fs::write(&file, "short\n").unwrap();
        let short = AppSecret::from_file(&file).unwrap_err().to_string();
        assert!(short.contains("secret has 5 bytes"), "{short}");
    }

    #[test]
    fn apps_need_distinct_keys_and_one_or_two_secrets() {
        let key = AppKey::new("demo").unwrap();
        let secret = AppSecret::from_bytes(&[b's'; 32]).unwrap();
        let app = App::new(key.clone(), vec![secret.clone()], true).unwrap();
        assert!(matches!(Apps::new([app.clone(), app]), Err(AppError::Twice(_))));
        assert!(matches!(
            App::new(key.clone(), vec![], true),
            Err(AppError::SecretCount { count: 0, .. })
        ));
        assert!(matches!(
            App::new(key, vec![secret; 3], true),
            Err(AppError::SecretCount { count: 3, .. })
        ));
    }
}
