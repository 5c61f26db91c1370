//! The store that a configuration describes: opened, and its backups offered.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use whimbrel_host::{HostParts, config};
use whimbrel_link::ClusterSecret;
use whimbrel_protocol::{SystemEntropy, entropy::Entropy as _};
use whimbrel_store::{Epoch, FjallConfig, FjallStore, MemoryStore, OpenError, Store};
use whimbrel_store_tikv::{TikvConfig, TikvStore};

use crate::{
    backup,
    config::{Kept, StoreSection},
    roles::{PREDECESSOR_POLL, PREDECESSOR_WAIT},
    secret_file,
};

/// Who opens a store.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Opener<'a> {
    /// Tells whose a store over TiKV is; without one it is not asked.
    pub(crate) secret: Option<&'a ClusterSecret>,
    /// Whose a store over TiKV is is only compared, and opening it writes nothing.
    pub(crate) only_reads: bool,
    /// A process that was told to end may still have it open.
    pub(crate) supervised: bool,
}

/// The store that the section describes, for a node of the cluster called `deployment`.
pub(crate) async fn open(
    section: &StoreSection,
    deployment: &str,
    opener: Opener<'_>,
) -> anyhow::Result<Arc<dyn Store>> {
    let mut epoch = [0; 16];
    SystemEntropy.fill(&mut epoch);
    let epoch = Epoch(epoch);
    let folder = match section.kept() {
        Some(Kept::Folder(folder)) => folder,
        Some(Kept::Tikv(_)) => {
            let config = TikvConfig {
                only_reads: opener.only_reads,
                ..tikv_config(section, deployment, opener.secret)?
            };
            let store = TikvStore::open(config, epoch).await;
            return Ok(Arc::new(store.context("`store.tikv`")?));
        }
        Some(Kept::Memory) => return Ok(Arc::new(MemoryStore::new(epoch))),
        None => bail!("neither `store.folder` nor `store.tikv` is set"),
    };
    let config = FjallConfig {
        cache_bytes: section.cache_bytes,
        min_free_bytes: section.min_free_bytes,
        #[cfg(feature = "planted-faults")]
        planted: crate::planted::of_the_store(),
        ..FjallConfig::new(folder)
    };
    // Messages are their owner's business; what goes wrong here the store says better.
    let _ = secret_file::create_folder(folder);
    let deadline = tokio::time::Instant::now() + PREDECESSOR_WAIT;
    loop {
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || FjallStore::open(config, epoch)).await?;
        match opened {
            Ok(store) => return Ok(Arc::new(store)),
            Err(OpenError::InUse { .. }) if opener.supervised && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PREDECESSOR_POLL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lets `whimbrel backup` ask this process for what only it can read.
pub(crate) fn offer_backups(section: &StoreSection, cluster: &str, store: &Arc<dyn Store>, host: &HostParts) {
    if let Some(folder) = section.embedded() {
        backup::open_door(folder, Arc::clone(store), cluster, host.drain.clone());
    }
}

/// What the section says of TiKV.
fn tikv_config(
    section: &StoreSection,
    deployment: &str,
    secret: Option<&ClusterSecret>,
) -> anyhow::Result<TikvConfig> {
    if let Some(wrong) = section
        .tikv
        .iter()
        .find(|endpoint| !config::is_host_and_port(endpoint))
    {
        bail!("`store.tikv` names PD's endpoints as host:port; \"{wrong}\" is none");
    }
    if section.tikv_clients == 0 {
        bail!("`store.tikv_clients` is 0; at least one client is needed");
    }
    let adopt_owner = &section.tikv_adopt_owner;
    if !adopt_owner.is_empty() && !ClusterSecret::is_fingerprint(adopt_owner) {
        bail!(
            "`store.tikv_adopt_owner` is {adopt_owner:?}: expected the 32 hexadecimal digits that the refusal to start names"
        );
    }
    Ok(TikvConfig {
        owner: secret.map(ClusterSecret::fingerprint),
        adopt_owner: Some(adopt_owner.clone()).filter(|owner| !owner.is_empty()),
        connect_within: Duration::from_secs(section.tikv_connect_within_s),
        clients: section.tikv_clients,
        adopt_cluster: Some(section.tikv_adopt_cluster).filter(|id| *id != 0),
        keep_history: Some(section.tikv_keep_history_s)
            .filter(|seconds| *seconds != 0)
            .map(Duration::from_secs),
        ..TikvConfig::new(section.tikv.iter().cloned(), deployment)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn tikv_section(endpoint: &str) -> StoreSection {
        StoreSection {
            tikv: vec![endpoint.to_owned()],
            tikv_connect_within_s: 1,
            ..StoreSection::default()
        }
    }

    #[test]
    fn the_tikv_keys_are_taken_as_they_are_meant() {
        let mut section = tikv_section("pd-1:2379");
        let secret = ClusterSecret::generate();
        let config = tikv_config(&section, "eu", Some(&secret)).unwrap();
        assert_eq!(config.owner, Some(secret.fingerprint()));
        assert_eq!(config.adopt_owner, None);
        assert_eq!((config.deployment.as_str(), config.adopt_cluster), ("eu", None));
        assert_eq!(config.keep_history, Some(Duration::from_secs(600)));
        section.tikv_keep_history_s = 0;
        section.tikv_adopt_cluster = 7;
        section.tikv_adopt_owner = secret.fingerprint();
        let config = tikv_config(&section, "eu", None).unwrap();
        assert_eq!(
            (config.owner, config.adopt_owner),
            (None, Some(secret.fingerprint()))
        );
        assert_eq!((config.keep_history, config.adopt_cluster), (None, Some(7)));
    }

    #[test]
    fn an_owner_that_cannot_be_one_is_named() {
        let mut section = tikv_section("pd-1:2379");
        section.tikv_adopt_owner = "whimbrel".to_owned();
        let error = tikv_config(&section, "eu", None).unwrap_err().to_string();
        for named in [
            "`store.tikv_adopt_owner`",
            "\"whimbrel\"",
            "32 hexadecimal digits",
        ] {
            assert!(error.contains(named), "{error} does not name {named}");
        }
    }

    #[test]
    fn a_pd_endpoint_that_is_none_is_named() {
        let error = tikv_config(&tikv_section("http://pd-1"), "eu", None).unwrap_err();
        assert!(error.to_string().contains("http://pd-1"), "{error}");
    }

    #[tokio::test]
    async fn a_pd_that_does_not_answer_is_named_with_its_key_and_the_time_it_was_tried() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let opened = open(&tikv_section(&gone), "eu", Opener::default()).await;
        let error = opened.err().unwrap();
        let text = format!("{error:#}");
        for named in ["store.tikv", gone.as_str(), "within 1s"] {
            assert!(text.contains(named), "{text} does not name {named}");
        }
    }
}
