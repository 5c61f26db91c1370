//! The configuration file of each role: sections that all roles share, and the role's own.

mod checked;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_gateway::GatewayConfig;
use whimbrel_host::TelemetryConfig;
use whimbrel_lbs::LbsConfig;
use whimbrel_link::Capacity;
use whimbrel_protocol::ids::NodeId;
use whimbrel_router::RouterConfig;

pub(crate) use self::checked::{Checked, Needed, check};

/// Who this node is.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSection {
    /// Unique in the cluster: lower-case letters, digits, `-` and `_`.
    pub(crate) name: String,
    /// Nodes of different clusters refuse one another.
    pub(crate) cluster: String,
    /// Where it stands, for placement; may be empty.
    pub(crate) zone: String,
    /// The apps it is kept for; empty: it serves all.
    pub(crate) app_keys: Vec<String>,
    /// How much it can do, percent of an ordinary node.
    pub(crate) capacity_percent: u32,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            cluster: "whimbrel".to_owned(),
            zone: String::new(),
            app_keys: Vec::new(),
            capacity_percent: Capacity::ORDINARY.percent(),
        }
    }
}

/// Links of a role that dials routers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LinksSection {
    /// The cluster's secret, as `whimbrel keygen cluster-secret` makes it; better given as `secret_file`.
    pub(crate) secret: SecretString,
    /// Every router, `host:port`.
    pub(crate) routers: Vec<String>,
}

/// Links of a router.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct RouterLinksSection {
    /// The cluster's secret; better given as `secret_file`.
    pub(crate) secret: SecretString,
    /// Where other nodes link to.
    pub(crate) listen: SocketAddr,
    /// The same as the other nodes reach it, `host:port`, for those that find routers in the registry; empty: `listen`.
    pub(crate) advertise: String,
}

impl Default for RouterLinksSection {
    fn default() -> Self {
        Self {
            secret: SecretString::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7200)),
            advertise: String::new(),
        }
    }
}

/// Where the registry lives: in Redis, or in the memory of one router.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RegistrySection {
    /// The Redis that holds it, as `whimbrel_registry_redis::url` says; better given as `redis_file` when it holds a password. Empty: a
    /// router keeps it.
    pub(crate) redis: SecretString,
    /// The router that keeps it, by name, the same on every node; may be empty where there is one router. Of no meaning with Redis.
    pub(crate) home: String,
}

impl RegistrySection {
    /// The router that keeps it, when it is named.
    pub(crate) fn home(&self) -> anyhow::Result<Option<NodeId>> {
        if self.home.is_empty() {
            return Ok(None);
        }
        Ok(Some(
            NodeId::new(&self.home).context("`registry.home` must name a router")?,
        ))
    }

    /// Whether the router `own` keeps it, where no Redis does.
    pub(crate) fn is_at(&self, own: &NodeId) -> anyhow::Result<bool> {
        Ok(self.home()?.is_none_or(|home| home == *own))
    }

    /// The URL of the Redis that holds it, when one is named.
    pub(crate) fn redis(&self) -> Option<&str> {
        let url = self.redis.expose_secret().trim();
        (!url.is_empty()).then_some(url)
    }
}

/// Metrics and health over HTTP.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HealthSection {
    /// Where `/metrics`, `/healthz` and `/readyz` are; absent: nowhere.
    pub(crate) listen: Option<SocketAddr>,
}

/// A gateway's proof of who it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct IdentitySection {
    /// The secret identity key, as `whimbrel keygen identity` makes it; better given as `key_file`.
    pub(crate) key: SecretString,
    /// The file of the root's certificate.
    pub(crate) certificate: PathBuf,
    /// The file of the root's public key, to check the certificate's signature at start; empty: it is not checked.
    pub(crate) root: PathBuf,
}

/// The store: TiKV, or the embedded one.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct StoreSection {
    /// PD's endpoints, `host:port`; empty: the embedded store.
    pub(crate) tikv: Vec<String>,
    /// Seconds for which TiKV is tried at the start.
    pub(crate) tikv_connect_within_s: u64,
    /// Clients of TiKV side by side.
    pub(crate) tikv_clients: usize,
    /// The id of the PD cluster that restored data is taken over into; 0: none.
    pub(crate) tikv_adopt_cluster: u64,
    /// The fingerprint of the cluster's secret of before, from which the store is taken over; `""`: none.
    pub(crate) tikv_adopt_owner: String,
    /// Seconds that old versions are kept; 0: another program collects garbage.
    pub(crate) tikv_keep_history_s: u64,
    /// The embedded store's folder; `""` keeps everything in memory, for try-outs. There is none that nobody named: messages in a place
    /// that nobody knows of are lost to those who look for them.
    pub(crate) folder: Option<PathBuf>,
    /// Memory for blocks read, bytes.
    pub(crate) cache_bytes: u64,
    /// Writes are refused when the disk has less than this left, bytes.
    pub(crate) min_free_bytes: u64,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            tikv: Vec::new(),
            tikv_connect_within_s: 30,
            tikv_clients: 4,
            tikv_adopt_cluster: 0,
            tikv_adopt_owner: String::new(),
            tikv_keep_history_s: 600,
            folder: None,
            cache_bytes: 64 * 1024 * 1024,
            min_free_bytes: 512 * 1024 * 1024,
        }
    }
}

impl StoreSection {
    /// Where everything is kept, if the section names a place.
    pub(crate) fn kept(&self) -> Option<Kept<'_>> {
        match (&*self.tikv, &self.folder) {
            ([], None) => None,
            ([], Some(folder)) if folder == Path::new("") => Some(Kept::Memory),
            ([], Some(folder)) => Some(Kept::Folder(folder)),
            (pd, _) => Some(Kept::Tikv(pd)),
        }
    }

    /// The folder of the embedded store, where that is what is used.
    pub(crate) fn embedded(&self) -> Option<&Path> {
        match self.kept() {
            Some(Kept::Folder(folder)) => Some(folder),
            _ => None,
        }
    }

    /// Has a relative folder start at `base`.
    pub(crate) fn based_at(&mut self, base: &Path) {
        if let Some(folder) = self.embedded() {
            self.folder = Some(base.join(folder));
        }
    }

    /// What is said of a section without a place.
    pub(crate) fn needed(&self) -> Needed {
        Needed {
            key: "store.folder",
            or: Some("store.tikv"),
            given: self.kept().is_some(),
            cure: "name the folder of the embedded store, or the PD of the cluster's TiKV in `store.tikv`",
        }
    }
}

/// A place for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept<'a> {
    /// In TiKV, by its PD's endpoints.
    Tikv(&'a [String]),
    /// In the embedded store of this folder.
    Folder(&'a Path),
    /// Nowhere that outlives the process.
    Memory,
}

/// As the operator reads it in the log.
impl fmt::Display for Kept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tikv(pd) => write!(f, "TiKV of PD {}", pd.join(", ")),
            Self::Folder(folder) => write!(f, "the embedded store in {}", folder.display()),
            Self::Memory => f.write_str("memory: nothing outlives this process"),
        }
    }
}

/// `whimbrel gateway --config`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GatewayFile {
    pub(crate) node: NodeSection,
    pub(crate) links: LinksSection,
    pub(crate) registry: RegistrySection,
    pub(crate) health: HealthSection,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) identity: IdentitySection,
    pub(crate) gateway: GatewayConfig,
}

/// `whimbrel router --config`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RouterFile {
    pub(crate) node: NodeSection,
    pub(crate) links: RouterLinksSection,
    pub(crate) registry: RegistrySection,
    pub(crate) health: HealthSection,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) router: RouterConfig,
}

/// `whimbrel app-service --config`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AppServiceFile {
    pub(crate) node: NodeSection,
    pub(crate) links: LinksSection,
    pub(crate) registry: RegistrySection,
    pub(crate) health: HealthSection,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) store: StoreSection,
    #[serde(rename = "app-service")]
    pub(crate) app_service: AppServiceConfig,
}

/// `whimbrel lbs --config`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LbsFile {
    pub(crate) node: NodeSection,
    pub(crate) links: LinksSection,
    pub(crate) registry: RegistrySection,
    pub(crate) health: HealthSection,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) lbs: LbsConfig,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;

    use whimbrel_host::config::{assert_example_complete, parse};

    use super::*;

    #[test]
    fn every_key_of_every_role_is_in_its_example() {
        assert_example_complete::<GatewayFile>(include_str!("../../deploy/config/gateway.toml"));
        assert_example_complete::<RouterFile>(include_str!("../../deploy/config/router.toml"));
        assert_example_complete::<AppServiceFile>(include_str!("../../deploy/config/app-service.toml"));
        assert_example_complete::<LbsFile>(include_str!("../../deploy/config/lbs.toml"));
    }

    /// What deploy/compose mounts, with what it gives by the environment.
    #[test]
    fn the_examples_of_a_cluster_are_whole_and_name_no_key_that_is_none() {
        fn load<T: Checked + serde::de::DeserializeOwned>(role: &str, text: &str, keys: &Path) -> T {
            let text = text.replace("/etc/whimbrel/keys", keys.to_str().unwrap());
            let env = [("WHIMBREL__NODE__NAME".to_owned(), format!("{role}-1"))];
            let loaded = parse::<T>(&text, role, Path::new("."), env).unwrap();
            check(&loaded).unwrap();
            assert!(loaded.warnings.is_empty(), "{role}: {:?}", loaded.warnings);
            loaded.value
        }
        let keys = tempfile::tempdir().unwrap();
        std::fs::create_dir(keys.path().join("gateway-1")).unwrap();
        for name in ["cluster.secret", "gateway-1/identity.key", "demo.secret"] {
            std::fs::write(keys.path().join(name), "secret").unwrap();
        }
        let at = keys.path();
        load::<GatewayFile>(
            "gateway",
            include_str!("../../deploy/config/cluster/gateway.toml"),
            at,
        );
        load::<RouterFile>(
            "router",
            include_str!("../../deploy/config/cluster/router.toml"),
            at,
        );
        load::<LbsFile>("lbs", include_str!("../../deploy/config/cluster/lbs.toml"), at);
        let text = include_str!("../../deploy/config/cluster/app-service.toml");
        let app_service: AppServiceFile = load("app-service", text, at);
        assert_eq!(app_service.store.tikv, ["pd:2379"]);
        assert_eq!(app_service.registry.redis(), Some("redis://redis:6379"));
    }
}
