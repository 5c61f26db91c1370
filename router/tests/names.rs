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

/// Whether it knows by now that a later process has its name.
async fn leaves(node: &Endpoint) -> bool {
    let known = tokio::time::timeout(Duration::from_millis(1), node.taken_over());
    known.await.is_ok()
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

    /// The lives of the service node that are linked.
    async fn linked(&self) -> Vec<u64> {
        let seen = self.handle.view().look().await.unwrap();
        let linked = seen.nodes.iter().filter(|node| node.link == LinkState::Up);
        linked
            .map(|node| u64::from_str_radix(&node.incarnation, 16).unwrap())
            .collect()
    }

    async fn has_only(&self, life: u64) {
        assert_eq!(self.linked().await, [life]);
    }

    /// Waits until it renews its lease, and looks who holds the names.
    async fn renews(&self) {
        let name = NodeId::new("router-1").unwrap();
        self.registry.remove_node(&name, Incarnation(1)).await.unwrap();
        let comes = async {
            while self.registry.nodes(Some(Role::Router)).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, comes).await.unwrap();
    }

    /// Waits until this life of the service node is linked.
    async fn has(&self, life: u64) {
        let comes = async {
            while !self.linked().await.contains(&life) {
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
    let holder = service_node(2, &router.address);
    router.has(2).await;
    // It stood still while the other took its name, at other routers: this one has not seen it before.
    let woken = service_node(1, &router.address);
    router.has(1).await;
    router.has(2).await;
    assert!(
        !leaves(&holder).await,
        "it was refused for as long as the router did not know better"
    );
    tokio::time::timeout(PATIENCE, woken.taken_over()).await.unwrap();
    router.has(2).await;
    assert!(!leaves(&holder).await);
}

#[tokio::test]
async fn who_has_just_come_is_not_driven_out_by_the_lease_of_the_one_before() {
    let router = Known::start().await;
    let of_earlier = lease("app-1", Role::AppService, 1, 60_000);
    router.registry.put_node(of_earlier).await.unwrap();
    let earlier = service_node(1, &router.address);
    router.has(1).await;
    let later = service_node(2, &router.address);
    router.has(2).await;
    // It asked for its lease before it was linked, in vain, and asks again at the next renewal. The router looks before that.
    tokio::time::sleep(Duration::from_millis(300)).await;
    router.renews().await;
    // Long enough for the earlier one to dial again, and not for the router to look again.
    tokio::time::sleep(Duration::from_millis(400)).await;
    router.has_only(2).await;
    let of_later = lease("app-1", Role::AppService, 2, 60_000);
    router.registry.put_node(of_later).await.unwrap();
    router.renews().await;
    router.renews().await;
    router.has_only(2).await;
    tokio::time::timeout(PATIENCE, earlier.taken_over())
        .await
        .unwrap();
    assert!(!leaves(&later).await);
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
