//! The configuration file of each role: sections that all roles share, and the role's own.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_gateway::GatewayConfig;
use whimbrel_host::{TelemetryConfig, config::OutOfBounds};
use whimbrel_lbs::LbsConfig;
use whimbrel_link::Capacity;
use whimbrel_protocol::ids::NodeId;
use whimbrel_router::RouterConfig;

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
    /// Seconds that old versions are kept; 0: another program collects garbage.
    pub(crate) tikv_keep_history_s: u64,
    /// The embedded store's folder; `""` keeps everything in memory, for try-outs.
    pub(crate) folder: PathBuf,
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
            tikv_keep_history_s: 600,
            folder: PathBuf::from("whimbrel-store"),
            cache_bytes: 64 * 1024 * 1024,
            min_free_bytes: 512 * 1024 * 1024,
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

/// What parses may still not work.
pub(crate) trait Checked {
    /// Holds the role's own values to their bounds.
    ///
    /// # Errors
    /// With the first that lies outside.
    fn check(&self) -> Result<(), OutOfBounds>;
}

impl Checked for GatewayFile {
    fn check(&self) -> Result<(), OutOfBounds> {
        // A gateway checks itself when it starts.
        Ok(())
    }
}

impl Checked for RouterFile {
    fn check(&self) -> Result<(), OutOfBounds> {
        self.router.check()
    }
}

impl Checked for AppServiceFile {
    fn check(&self) -> Result<(), OutOfBounds> {
        self.app_service.check()
    }
}

impl Checked for LbsFile {
    fn check(&self) -> Result<(), OutOfBounds> {
        self.lbs.check()
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_host::config::assert_example_complete;

    use super::*;

    #[test]
    fn every_key_of_every_role_is_in_its_example() {
        assert_example_complete::<GatewayFile>(include_str!("../../deploy/config/gateway.toml"));
        assert_example_complete::<RouterFile>(include_str!("../../deploy/config/router.toml"));
        assert_example_complete::<AppServiceFile>(include_str!("../../deploy/config/app-service.toml"));
        assert_example_complete::<LbsFile>(include_str!("../../deploy/config/lbs.toml"));
    }
}
