//! What a client is started with.

use std::path::PathBuf;

use whimbrel_protocol::descriptor::RootPublicKey;
use whimbrel_protocol::ids::{AppKey, DeviceId, Uid};

use crate::error::{Error, ErrorCode};

/// How many messages of each conversation a new device is shown as events, unless configured otherwise: a screenful or
/// two; older ones come by [`crate::Client::history`].
const INITIAL_HISTORY: u32 = 50;

/// How long a request is tried, over as many connections as it takes, in milliseconds.
const REQUEST_TIMEOUT_MS: u64 = 30_000;

/// How often a client that missed nothing, as far as it knows, syncs all the same, in milliseconds.
const SYNC_INTERVAL_MS: u64 = 5 * 60_000;

/// What a [`crate::Client`] is started with. Make one with [`ClientConfig::new`] and change what differs.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where to ask for gateways: base URLs like `https://lbs.example.com`, tried in turn.
    pub lbs_urls: Vec<String>,
    /// The deployment's root keys as text, one or two (`whimbrel keygen` and `standalone` print them): what gateways
    /// are trusted by.
    pub root_keys: Vec<String>,
    /// The customer's app.
    pub app_key: String,
    /// The user, as the customer names them.
    pub uid: String,
    /// Names this device among the user's; `None` makes one on the first start and keeps it with the data.
    pub device_id: Option<String>,
    /// Where messages, the send queue and the read marks are kept, one folder per user; `None` keeps them in memory.
    pub data_dir: Option<PathBuf>,
    /// How many messages of each conversation a new device is shown as events; older ones come by history.
    pub initial_history: u32,
    /// Whether a new device is also shown, as events, all that the user has not read on any other, however much that is.
    pub initial_unread: bool,
    /// How long a request is tried, in milliseconds. Sends are not bounded by it: they are tried until they succeed.
    pub request_timeout_ms: u64,
    /// How often the client syncs without cause, in milliseconds, plus jitter.
    pub sync_interval_ms: u64,
    /// What this runs on, for the operator's statistics.
    pub platform: String,
    /// For tests: how far the device's clock is to seem off, in milliseconds.
    #[doc(hidden)]
    pub device_clock_off_ms: i64,
}

impl ClientConfig {
    /// A configuration with everything else at its default, in memory.
    #[must_use]
    pub fn new(lbs_url: &str, root_key: &str, app_key: &str, uid: &str) -> Self {
        Self {
            lbs_urls: vec![lbs_url.to_owned()],
            root_keys: vec![root_key.to_owned()],
            app_key: app_key.to_owned(),
            uid: uid.to_owned(),
            device_id: None,
            data_dir: None,
            initial_history: INITIAL_HISTORY,
            initial_unread: false,
            request_timeout_ms: REQUEST_TIMEOUT_MS,
            sync_interval_ms: SYNC_INTERVAL_MS,
            platform: std::env::consts::OS.to_owned(),
            device_clock_off_ms: 0,
        }
    }

    pub(crate) fn check(&self) -> Result<Checked, Error> {
        let wrong = |message: String| Error::new(ErrorCode::Config, message);
        if self.lbs_urls.is_empty() {
            return Err(wrong(
                "lbs_urls is empty: give at least one, like http://127.0.0.1:7000".to_owned(),
            ));
        }
        for url in &self.lbs_urls {
            let is_http = |url: reqwest::Url| matches!(url.scheme(), "http" | "https");
            if !reqwest::Url::parse(url).is_ok_and(is_http) {
                return Err(wrong(format!(
                    "lbs_urls: {url:?} is no URL: expected one like http://127.0.0.1:7000"
                )));
            }
        }
        if self.root_keys.is_empty() {
            return Err(wrong(
                "root_keys is empty: give the deployment's root key".to_owned(),
            ));
        }
        let root_keys: Result<Vec<RootPublicKey>, _> =
            self.root_keys.iter().map(|text| text.trim().parse()).collect();
        Ok(Checked {
            root_keys: root_keys.map_err(|error| wrong(format!("root_keys: {error}")))?,
            app_key: AppKey::new(&self.app_key).map_err(|error| wrong(format!("app_key: {error}")))?,
            uid: Uid::new(&self.uid).map_err(|error| wrong(format!("uid: {error}")))?,
            device_id: self
                .device_id
                .as_deref()
                .map(DeviceId::new)
                .transpose()
                .map_err(|error| wrong(format!("device_id: {error}")))?,
        })
    }
}

/// The parts of a configuration that had to be parsed.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) root_keys: Vec<RootPublicKey>,
    pub(crate) app_key: AppKey,
    pub(crate) uid: Uid,
    pub(crate) device_id: Option<DeviceId>,
}
