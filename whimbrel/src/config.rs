//! The configuration file of each role: sections that all roles share, and the role's own.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_gateway::GatewayConfig;
use whimbrel_host::{
    TelemetryConfig,
    config::{Loaded, OutOfBounds},
};
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

/// A key that has no default to start with.
pub(crate) struct Needed {
    /// With its section.
    pub(crate) key: &'static str,
    /// Another that would do in its place.
    pub(crate) or: Option<&'static str>,
    given: bool,
    /// What to do when it is not there.
    pub(crate) cure: &'static str,
}

impl Needed {
    fn name(node: &NodeSection) -> Self {
        Self {
            key: "node.name",
            or: None,
            given: !node.name.is_empty(),
            cure: "name this node, as no other of the cluster is named",
        }
    }

    fn secret(secret: &SecretString) -> Self {
        Self {
            key: "links.secret_file",
            or: None,
            given: !secret.expose_secret().trim().is_empty(),
            cure: "make one with `whimbrel keygen cluster-secret` and give it to every node",
        }
    }

    /// Where the registry can be asked without routers, it knows them.
    fn routers(links: &LinksSection, registry: &RegistrySection) -> Self {
        Self {
            key: "links.routers",
            or: Some("registry.redis"),
            given: !links.routers.is_empty() || registry.redis().is_some(),
            cure: "name every router as \"host:port\"",
        }
    }

    fn of_a_leaf(node: &NodeSection, links: &LinksSection, registry: &RegistrySection) -> Vec<Self> {
        vec![
            Self::name(node),
            Self::secret(&links.secret),
            Self::routers(links, registry),
        ]
    }
}

/// What parses may still not work.
pub(crate) trait Checked {
    /// What it cannot do without, in the order in which it is looked for.
    fn needed(&self) -> Vec<Needed>;

    /// Holds the role's own values to their bounds.
    ///
    /// # Errors
    /// With the first that lies outside.
    fn check(&self) -> Result<(), OutOfBounds>;
}

/// The first key that `loaded` cannot do without and has not, with what may have been meant for it; and then its bounds.
///
/// # Errors
/// When there is one.
pub(crate) fn check<T: Checked>(loaded: &Loaded<T>) -> anyhow::Result<()> {
    if let Some(Needed { key, or, cure, .. }) = loaded.value.needed().into_iter().find(|needed| !needed.given)
    {
        let misspelt: String = [Some(key), or]
            .into_iter()
            .flatten()
            .map(|key| loaded.misspelt(key))
            .collect();
        bail!("`{key}` is missing: {cure}{misspelt}");
    }
    Ok(loaded.value.check()?)
}

impl Checked for GatewayFile {
    fn needed(&self) -> Vec<Needed> {
        let mut needed = Needed::of_a_leaf(&self.node, &self.links, &self.registry);
        needed.push(Needed {
            key: "identity.key_file",
            or: None,
            given: !self.identity.key.expose_secret().trim().is_empty(),
            cure: "make an identity with `whimbrel keygen identity`",
        });
        needed.push(Needed {
            key: "identity.certificate",
            or: None,
            given: !self.identity.certificate.as_os_str().is_empty(),
            cure: "make one with `whimbrel keygen certificate`",
        });
        needed
    }

    fn check(&self) -> Result<(), OutOfBounds> {
        // A gateway checks itself when it starts.
        Ok(())
    }
}

impl Checked for RouterFile {
    fn needed(&self) -> Vec<Needed> {
        vec![Needed::name(&self.node), Needed::secret(&self.links.secret)]
    }

    fn check(&self) -> Result<(), OutOfBounds> {
        self.router.check()
    }
}

impl Checked for AppServiceFile {
    fn needed(&self) -> Vec<Needed> {
        Needed::of_a_leaf(&self.node, &self.links, &self.registry)
    }

    fn check(&self) -> Result<(), OutOfBounds> {
        self.app_service.check()
    }
}

impl Checked for LbsFile {
    fn needed(&self) -> Vec<Needed> {
        Needed::of_a_leaf(&self.node, &self.links, &self.registry)
    }

    fn check(&self) -> Result<(), OutOfBounds> {
        self.lbs.check()
    }
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

    fn refused<T: Checked + serde::de::DeserializeOwned>(text: &str) -> String {
        let loaded = match parse::<T>(text, "role.toml", Path::new("."), []) {
            Ok(loaded) => loaded,
            Err(error) => return error.to_string(),
        };
        check(&loaded).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_key_that_a_role_needs_is_named_with_the_right_one() {
        const NODE: &str = "[node]\nname = \"n\"\n";
        let linked = format!("{NODE}[links]\nsecret = \"s\"\n");
        let routed = format!("{linked}routers = [\"r:1\"]\n");
        let identified = format!("{routed}[identity]\nkey = \"k\"\n");
        let app = format!("{routed}[[app-service.apps]]\nsecret_files = []\n");
        for (said, missing, unknown, meant) in [
            (
                refused::<RouterFile>("[node]\nnaem = \"r\"\n"),
                "node.name",
                "node.naem",
                "node.name",
            ),
            (
                refused::<RouterFile>("[nod]\nname = \"r\"\n"),
                "node.name",
                "nod",
                "node",
            ),
            (
                refused::<LbsFile>(&format!("{NODE}[links]\nsecert_file = \"f\"\n")),
                "links.secret_file",
                "links.secert_file",
                "links.secret_file",
            ),
            (
                refused::<LbsFile>(&format!("{linked}ruters = []\n")),
                "links.routers",
                "links.ruters",
                "links.routers",
            ),
            // Without routers, a gateway must be told of the registry.
            (
                refused::<GatewayFile>(&format!("{linked}[registery]\nredis = \"redis://h:1\"\n")),
                "links.routers",
                "registery",
                "registry",
            ),
            (
                refused::<GatewayFile>(&format!("{routed}[identity]\nkeyfile = \"f\"\n")),
                "identity.key_file",
                "identity.keyfile",
                "identity.key_file",
            ),
            (
                refused::<GatewayFile>(&format!("{identified}certifcate = \"f\"\n")),
                "identity.certificate",
                "identity.certifcate",
                "identity.certificate",
            ),
            (
                refused::<AppServiceFile>(&format!("{linked}router = []\n")),
                "links.routers",
                "links.router",
                "links.routers",
            ),
            (
                refused::<AppServiceFile>(&format!("{app}kye = \"demo\"\n")),
                "key",
                "kye",
                "key",
            ),
        ] {
            for named in [
                format!("`{missing}`"),
                format!("the key `{unknown}` is unknown: did you mean `{meant}`?"),
            ] {
                assert!(said.contains(&named), "{said}\ndoes not say: {named}");
            }
        }
    }
}
