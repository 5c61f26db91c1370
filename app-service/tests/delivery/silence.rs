//! A node that the registry says nothing to.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use whimbrel_app_service::AppService;
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_app_service::env::ThreadEntropy;
use whimbrel_app_service::keys;
use whimbrel_app_service::values::{self, storage};
use whimbrel_host::HostParts;
use whimbrel_link::{ClusterSecret, Endpoint};
use whimbrel_protocol::cluster::{
    NodeLease, Role, RoomCounts, RoomKey, RoomOnGateway, SessionRecord, UserKey,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{MemoryRegistry, Put, Registered, Registry, RegistryAt, RegistryError};
use whimbrel_store::{Batch, Epoch, MemoryStore, Store};

use crate::world::{World, apps, identity};

/// A registry that can be out of reach.
struct Distant {
    inner: MemoryRegistry,
    silent: AtomicBool,
}

impl Distant {
    fn reach(&self) -> Result<&MemoryRegistry, RegistryError> {
        if self.silent.load(Ordering::Relaxed) {
            return Err(RegistryError::Unavailable {
                reason: "cut off by the test".to_owned(),
                retry_after_ms: 10,
            });
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl Registry for Distant {
    async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError> {
        self.reach()?.put_node(lease).await
    }
    async fn remove_node(&self, node: &NodeId, incarnation: Incarnation) -> Result<(), RegistryError> {
        self.reach()?.remove_node(node, incarnation).await
    }
    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        self.reach()?.nodes(role).await
    }
    async fn register(&self, record: SessionRecord) -> Result<Registered, RegistryError> {
        self.reach()?.register(record).await
    }
    async fn unregister(&self, record: SessionRecord) -> Result<(), RegistryError> {
        self.reach()?.unregister(record).await
    }
    async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.reach()?.look_up(users).await
    }
    async fn announce(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.reach()?.announce(records).await
    }
    async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError> {
        self.reach()?.put_rooms(counts).await
    }
    async fn look_up_room(&self, room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        self.reach()?.look_up_room(room).await
    }
    fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.inner.life()
    }
}

/// Another node's life begins.
async fn begin_life(store: &MemoryStore, life: Incarnation) {
    let value = storage::NodeLife {
        node: "app-2".to_owned(),
        started_ms: 1,
        ended_ms: 0,
    };
    let mut batch = Batch::blind();
    batch.put(keys::node_life(life), values::encode(&value));
    assert!(store.commit(batch).await.is_committed());
}

/// Whether somebody has taken that life for ended.
async fn is_taken_for_dead(store: &MemoryStore, life: Incarnation) -> bool {
    let snapshot = store.snapshot().await.unwrap();
    let value = snapshot.get(&keys::node_life(life)).await.unwrap().unwrap();
    values::decode::<storage::NodeLife>(&value).unwrap().ended_ms != 0
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_not_heard_of_the_registry_for_a_lease_takes_nobody_for_dead() {
    const LOOKS: Duration = Duration::from_secs(30);
    let mut config = AppServiceConfig::default();
    config.service.lease_renewal_s = 1;
    config.sweep.interval_s = 2;
    let store = Arc::new(MemoryStore::new(Epoch([5; 16])));
    let registry = Arc::new(Distant {
        inner: MemoryRegistry::new(Incarnation(1)),
        silent: AtomicBool::new(false),
    });
    let (env, _) = World::new(1).env();
    let host = HostParts::on_clock(env.clock);
    let handle = AppService::start_with(
        (config, apps()),
        Arc::clone(&store) as Arc<dyn Store>,
        Endpoint::new(
            identity("app-1", Role::AppService, 0x77),
            ClusterSecret::from_bytes([1; 32]),
        ),
        RegistryAt::Here(Arc::clone(&registry) as Arc<dyn Registry>),
        host.clone(),
        Arc::new(ThreadEntropy),
    )
    .await
    .unwrap();
    tokio::time::sleep(LOOKS).await;

    registry.silent.store(true, Ordering::Relaxed);
    tokio::time::sleep(LOOKS).await;
    // Somebody starts whom only the registry could tell of.
    let life = Incarnation(0x51);
    begin_life(&store, life).await;
    tokio::time::sleep(10 * LOOKS).await;
    assert!(
        !is_taken_for_dead(&store, life).await,
        "a node that is cut off cannot know"
    );

    // They have no lease, and now it does know.
    registry.silent.store(false, Ordering::Relaxed);
    tokio::time::sleep(LOOKS).await;
    assert!(is_taken_for_dead(&store, life).await);
    host.drain.start();
    assert!(handle.join().await.is_clean());
}
