//! What a role's configuration must have and hold to beyond what parses. Nothing is started before it is looked at.

use anyhow::bail;
use secrecy::{ExposeSecret as _, SecretString};
use whimbrel_host::config::{Loaded, OutOfBounds};
use whimbrel_protocol::cluster::Role;

use super::{AppServiceFile, GatewayFile, LbsFile, LinksSection, NodeSection, RegistrySection, RouterFile};
use crate::roles;

/// A key that has no default to start with.
pub(crate) struct Needed {
    /// With its section.
    pub(crate) key: &'static str,
    /// Another that would do in its place.
    pub(crate) or: Option<&'static str>,
    pub(super) given: bool,
    /// What to do when it is not there.
    pub(crate) cure: &'static str,
}

impl Needed {
    /// That it is in what was `loaded`.
    ///
    /// # Errors
    /// When it is not, with what may have been meant for it.
    pub(crate) fn in_what_is<T>(&self, loaded: &Loaded<T>) -> anyhow::Result<()> {
        let Self { key, or, cure, given } = self;
        if *given {
            return Ok(());
        }
        let keys: Vec<&str> = std::iter::once(*key).chain(*or).collect();
        bail!("`{key}` is missing: {cure}{}", loaded.misspelt(&keys));
    }

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
    /// The command that takes such a file.
    const COMMAND: &'static str;
    /// What its node does.
    const ROLE: Role;

    /// Who its node is.
    fn node(&self) -> &NodeSection;

    /// What it cannot do without, in the order in which it is looked for.
    fn needed(&self) -> Vec<Needed>;

    /// Holds the role's own values to their bounds.
    ///
    /// # Errors
    /// With the first that lies outside.
    fn check(&self) -> Result<(), OutOfBounds>;
}

/// The first key that `loaded` cannot do without and has not, with what may have been meant for it; then whether peers will take its node
/// for one, before anything is waited for; and then its bounds.
///
/// # Errors
/// With the first that is wrong.
pub(crate) fn check<T: Checked>(loaded: &Loaded<T>) -> anyhow::Result<()> {
    loaded
        .value
        .needed()
        .into_iter()
        .try_for_each(|needed| needed.in_what_is(loaded))?;
    roles::identity(loaded.value.node(), T::ROLE)?;
    Ok(loaded.value.check()?)
}

impl Checked for GatewayFile {
    const COMMAND: &'static str = "gateway";
    const ROLE: Role = Role::Gateway;

    fn node(&self) -> &NodeSection {
        &self.node
    }

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
        self.gateway.check()
    }
}

impl Checked for RouterFile {
    const COMMAND: &'static str = "router";
    const ROLE: Role = Role::Router;

    fn node(&self) -> &NodeSection {
        &self.node
    }

    fn needed(&self) -> Vec<Needed> {
        vec![Needed::name(&self.node), Needed::secret(&self.links.secret)]
    }

    fn check(&self) -> Result<(), OutOfBounds> {
        self.router.check()
    }
}

impl Checked for AppServiceFile {
    const COMMAND: &'static str = "app-service";
    const ROLE: Role = Role::AppService;

    fn node(&self) -> &NodeSection {
        &self.node
    }

    fn needed(&self) -> Vec<Needed> {
        let mut needed = Needed::of_a_leaf(&self.node, &self.links, &self.registry);
        needed.push(self.store.needed());
        needed.push(Needed {
            key: "app-service.apps",
            or: None,
            given: !self.app_service.apps.is_empty(),
            cure: "name each app that is served here in an `[[app-service.apps]]` of its own, with `key` and `secret_files`",
        });
        needed
    }

    fn check(&self) -> Result<(), OutOfBounds> {
        self.app_service.check()
    }
}

impl Checked for LbsFile {
    const COMMAND: &'static str = "lbs";
    const ROLE: Role = Role::Lbs;

    fn node(&self) -> &NodeSection {
        &self.node
    }

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

    use whimbrel_host::config::parse;
    use whimbrel_link::{APP_KEYS_MAX, LABEL_LEN_MAX};

    use super::*;

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
        let stored = format!("{routed}[store]\nfolder = \"f\"\n");
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
            // A node must not open a store that nobody named, nor serve nobody.
            (
                refused::<AppServiceFile>(&format!("{routed}[stor]\nfolder = \"f\"\n")),
                "store.folder",
                "stor",
                "store",
            ),
            (
                refused::<AppServiceFile>(&format!("{routed}[store]\nfoldr = \"f\"\n")),
                "store.folder",
                "store.foldr",
                "store.folder",
            ),
            (
                refused::<AppServiceFile>(&format!("{routed}[store]\ntikvs = [\"pd:1\"]\n")),
                "store.folder",
                "store.tikvs",
                "store.tikv",
            ),
            (
                refused::<AppServiceFile>(&format!("{stored}[[app-service.aps]]\nkey = \"demo\"\n")),
                "app-service.apps",
                "app-service.aps",
                "app-service.apps",
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

    #[test]
    fn a_node_that_peers_would_refuse_is_refused_at_its_start_with_the_key_the_bound_and_the_cure() {
        const NAMED: &str = "[links]\nsecret = \"s\"\n[node]\nname = \"r\"\n";
        let long = "z".repeat(LABEL_LEN_MAX + 1);
        let apps = vec!["\"app\""; APP_KEYS_MAX + 1].join(", ");
        for (key, value, says) in [
            (
                "cluster",
                format!("\"{long}\""),
                "65 bytes long, and peers take at most 64: give it a shorter name",
            ),
            (
                "zone",
                format!("\"{long}\""),
                "65 bytes long, and peers take at most 64: give it a shorter name",
            ),
            (
                "app_keys",
                format!("[{apps}]"),
                "33 apps: a node can be kept for at most 32",
            ),
            (
                "app_keys",
                "[\"Not an app\"]".to_owned(),
                "must name apps by their keys",
            ),
            ("capacity_percent", "0".to_owned(), "`node.capacity_percent`"),
        ] {
            let said = refused::<RouterFile>(&format!("{NAMED}{key} = {value}\n"));
            assert!(
                said.contains(&format!("`node.{key}`")) && said.contains(says),
                "{said}"
            );
        }
        let said = refused::<RouterFile>(&NAMED.replace("\"r\"", "\"R 1\""));
        assert!(said.contains("`node.name`"), "{said}");
        let longest = "z".repeat(LABEL_LEN_MAX);
        let text = format!("{NAMED}cluster = \"{longest}\"\nzone = \"{longest}\"\n");
        check(&parse::<RouterFile>(&text, "role.toml", Path::new("."), []).unwrap()).unwrap();
    }
}
