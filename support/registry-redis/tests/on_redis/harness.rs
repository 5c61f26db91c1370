//! Registries on a server, and how time passes for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use whimbrel_registry::Registry;
use whimbrel_registry::conformance::Harness;
use whimbrel_registry_redis::{RedisConfig, RedisRegistry};

/// A cluster of its own for each registry that must be empty.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);
/// That a term goes on is believed for a second: what passes sooner than that passes really.
const REALLY: Duration = Duration::from_millis(1_050);

pub(crate) fn new_cluster() -> String {
    format!("test-{}", CLUSTERS.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn config(url: &str, cluster: &str) -> RedisConfig {
    RedisConfig {
        url: url.to_owned(),
        cluster: cluster.to_owned(),
        owner: "us".to_owned(),
        start_within: Duration::from_secs(30),
    }
}

pub(crate) async fn registry(url: &str, cluster: &str) -> Arc<RedisRegistry> {
    RedisRegistry::start(config(url, cluster)).await.unwrap()
}

pub(crate) enum Admin {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What the suite needs.
pub(crate) struct OnRedis {
    pub(crate) url: String,
    pub(crate) admin: Admin,
    pub(crate) cluster: String,
}

#[async_trait]
impl Harness for OnRedis {
    async fn empty(&mut self) -> Arc<dyn Registry> {
        self.cluster = new_cluster();
        registry(&self.url, &self.cluster).await
    }

    async fn pass(&mut self, time: Duration) {
        let skipped = time.saturating_sub(REALLY);
        if time > 2 * REALLY {
            let key = format!("whimbrel:1:{{{}.n}}:clock", self.cluster);
            let mut skip = redis::cmd("HINCRBY");
            skip.arg(key).arg("passed").arg(skipped.as_millis().to_string());
            match &mut self.admin {
                Admin::One(connection) => skip.exec_async(connection).await.unwrap(),
                Admin::Cluster(connection) => skip.exec_async(connection).await.unwrap(),
            }
            tokio::time::sleep(REALLY).await;
        } else {
            tokio::time::sleep(time).await;
        }
    }
}
