//! Two processes of one name: who has it, by the registry and by what a router remembers of who came last.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use whimbrel_host::HostParts;
use whimbrel_link::{Capacity, ClusterSecret, Endpoint, Identity, LinkOptions};
use whimbrel_protocol::cluster::Role;
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::conformance::lease;
use whimbrel_registry::{MemoryRegistry, Registry as _};
use whimbrel_router::{LinkState, Router, RouterConfig, RouterHandle, announce};

/// Whatever takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn identity(node: &str, role: Role, life: u64) -> Identity {
    Identity {
        node: NodeId::new(node).unwrap(),
        role,
        incarnation: Incarnation(life),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: Capacity::ORDINARY,
    }
}

fn secret() -> ClusterSecret {
    ClusterSecret::from_bytes([7; 32])
}

/// A service node's links; what it is told is left unread.
fn service_node(life: u64, router: &str) -> Endpoint {
    let options = LinkOptions {
        redial_max: Duration::from_millis(50),
        ..LinkOptions::default()
    };
    let (endpoint, mut events) =
        Endpoint::with_options(identity("app-1", Role::AppService, life), secret(), options);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    endpoint.dial(router.to_owned());
    endpoint
}

/// A router that listens and is known to a registry.
struct Known {
    address: String,
    host: HostParts,
    handle: RouterHandle,
    registry: Arc<MemoryRegistry>,
}

impl Known {
    async fn start() -> Self {
        let registry = Arc::new(MemoryRegistry::new(Incarnation(5)));
        let (endpoint, events) = Endpoint::new(identity("router-1", Role::Router, 1), secret());
        let address = endpoint.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, host) = (address.to_string(), HostParts::on_system_clock());
        let config = RouterConfig {
            drain_window: Duration::from_millis(50),
            ..RouterConfig::default()
        };
        let handle = Router::start(config, (endpoint.clone(), events), None, host.clone());
        let (of_router, drain) = (Arc::clone(&registry), host.drain.clone());
        let view = handle.view();
        tokio::spawn(announce(of_router, endpoint, address.clone(), view, drain));
        Self {
            address,
            host,
            handle,
            registry,
        }
    }

    /// Waits until this life of the service node is linked.
    async fn has(&self, life: u64) {
        let has = async || {
            let seen = self.handle.view().look().await.unwrap();
            let mut linked = seen.nodes.iter().filter(|node| node.link == LinkState::Up);
            linked.any(|node| u64::from_str_radix(&node.incarnation, 16) == Ok(life))
        };
        let comes = async {
            while !has().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, comes).await;
        assert!(came.is_ok(), "life {life} is not linked");
    }
}

#[tokio::test]
async fn a_router_that_took_a_woken_process_for_the_later_one_learns_better_from_the_registry() {
    let router = Known::start().await;
    let of_holder = lease("app-1", Role::AppService, 2, 60_000);
    router.registry.put_node(of_holder).await.unwrap();
    let _holder = service_node(2, &router.address);
    router.has(2).await;
    // It stood still while the other took its name, at other routers: this one has not seen it before.
    let woken = service_node(1, &router.address);
    router.has(1).await;
    router.has(2).await;
    tokio::time::timeout(PATIENCE, woken.taken_over()).await.unwrap();
    router.has(2).await;
}

#[tokio::test]
async fn a_router_whose_name_a_later_process_has_in_the_registry_leaves() {
    let router = Known::start().await;
    let its_own = async {
        while router.registry.nodes(None).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, its_own).await.unwrap();
    let later = lease("router-1", Role::Router, 2, 60_000);
    router.registry.put_node(later.clone()).await.unwrap();
    tokio::time::timeout(PATIENCE, router.handle.join())
        .await
        .unwrap();
    assert!(router.host.drain.is_started());
    assert_eq!(router.registry.nodes(None).await.unwrap(), [later]);
}
