//! Two service nodes of one cluster with a store each: the later one serves nobody until the other is gone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use whimbrel_app_service::auth::TokenRole;
use whimbrel_app_service::config::{AppServiceConfig, HttpConfig};
use whimbrel_app_service::env::ThreadEntropy;
use whimbrel_app_service::{AppService, AppServiceHandle};
use whimbrel_host::{HostParts, Readiness};
use whimbrel_link::{ClusterSecret, Endpoint};
use whimbrel_protocol::cluster::Role;
use whimbrel_protocol::ids::Incarnation;
use whimbrel_registry::{MemoryRegistry, Registry, RegistryAt};
use whimbrel_store::{Epoch, MemoryStore, Store};

use crate::http::{http, token};
use crate::world::{World, apps, identity};

struct Running {
    host: HostParts,
    handle: AppServiceHandle,
}

async fn start(name: &str, life: u64, store: &Arc<MemoryStore>, registry: &Arc<MemoryRegistry>) -> Running {
    let mut config = AppServiceConfig {
        http: HttpConfig {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            ..HttpConfig::default()
        },
        ..AppServiceConfig::default()
    };
    config.service.lease_renewal_s = 1;
    let (env, _) = World::new(1).env();
    let host = HostParts::on_clock(env.clock);
    let handle = AppService::start_with(
        (config, apps()),
        Arc::clone(store) as Arc<dyn Store>,
        Endpoint::new(
            identity(name, Role::AppService, life),
            ClusterSecret::from_bytes([1; 32]),
        ),
        RegistryAt::Here(Arc::clone(registry) as Arc<dyn Registry>),
        host.clone(),
        Arc::new(ThreadEntropy),
    )
    .await
    .unwrap();
    Running { host, handle }
}

impl Running {
    /// Waits until the node has said how it is, once it has looked at who serves.
    async fn says(&self) -> Readiness {
        loop {
            if let Some((_, readiness)) = self.host.health.snapshot().pop() {
                return readiness;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn answers(&self) -> u16 {
        let address = self.handle.http_address().unwrap();
        http(address, "GET", "/v1/users/ann", &token(TokenRole::Server), "")
            .await
            .0
    }

    async fn leave(self) {
        self.host.drain.start();
        assert!(self.handle.join().await.is_clean());
    }
}

#[tokio::test]
async fn a_node_with_another_store_takes_nothing_until_the_one_that_served_is_gone() {
    let registry = Arc::new(MemoryRegistry::new(Incarnation(1)));
    let stores = [5, 6].map(|byte| Arc::new(MemoryStore::new(Epoch([byte; 16]))));
    let first = start("app-1", 9, &stores[0], &registry).await;
    assert_eq!(first.says().await, Readiness::Ready);
    let same = start("app-2", 1, &stores[0], &registry).await;
    assert_eq!(same.says().await, Readiness::Ready, "they share a store");

    // Its life is the lower one: who came first is told by who serves.
    let other = start("app-3", 2, &stores[1], &registry).await;
    let Readiness::NotReady(why) = other.says().await else {
        unreachable!("it has another store")
    };
    assert!(why.contains("app-3") && why.contains("app-1"), "{why}");
    assert_eq!(other.answers().await, 503);
    assert_eq!(
        first.answers().await,
        404,
        "there is no such user, and it says so"
    );
    let leases = registry.nodes(Some(Role::AppService)).await.unwrap();
    let told: Vec<_> = leases
        .iter()
        .map(|lease| (lease.draining, &lease.store[..]))
        .collect();
    assert_eq!(
        told,
        [(false, &[5; 16][..]), (false, &[5; 16][..]), (true, &[][..])]
    );

    same.leave().await;
    first.leave().await;
    while other.says().await != Readiness::Ready {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(other.answers().await, 404);
    other.leave().await;
}
