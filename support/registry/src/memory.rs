//! The registry of one process: the pure core behind a lock and a clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use whimbrel_protocol::cluster::{
    NodeLease, Role, RoomCounts, RoomKey, RoomOnGateway, SessionRecord, UserKey,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::core::Core;
use crate::{Put, Registered, Registry, RegistryError};

/// A monotonic clock: the time since some fixed moment.
pub type MonotonicClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Node leases, sessions and rooms in this process's memory. It lives as long as the process, and so does its incarnation.
pub struct MemoryRegistry {
    core: Mutex<Core>,
    clock: MonotonicClock,
    life: watch::Sender<Option<Incarnation>>,
}

impl MemoryRegistry {
    /// An empty registry on the system's clock. `incarnation` names its life: that of the process will do.
    #[must_use]
    pub fn new(incarnation: Incarnation) -> Self {
        let start = Instant::now();
        Self::with_clock(incarnation, Arc::new(move || start.elapsed()))
    }

    /// An empty registry on another clock.
    #[must_use]
    pub fn with_clock(incarnation: Incarnation, clock: MonotonicClock) -> Self {
        Self {
            core: Mutex::default(),
            clock,
            life: watch::channel(Some(incarnation)).0,
        }
    }

    /// Which life of the registry this is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.life.borrow().expect("set for good when it was made")
    }

    fn core(&self) -> (MutexGuard<'_, Core>, Duration) {
        // Nothing under the lock panics half-way, so a poisoned core is whole.
        (
            self.core.lock().unwrap_or_else(PoisonError::into_inner),
            (self.clock)(),
        )
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError> {
        let (mut core, now) = self.core();
        core.put_node(now, lease)
    }

    async fn remove_node(&self, node: &NodeId, incarnation: Incarnation) -> Result<(), RegistryError> {
        let (mut core, now) = self.core();
        core.remove_node(now, node, incarnation);
        Ok(())
    }

    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        let (mut core, now) = self.core();
        Ok(core.nodes(now, role))
    }

    async fn register(&self, record: SessionRecord) -> Result<Registered, RegistryError> {
        let (mut core, now) = self.core();
        core.register(now, record)
    }

    async fn unregister(&self, record: SessionRecord) -> Result<(), RegistryError> {
        let (mut core, now) = self.core();
        core.unregister(now, &record)
    }

    async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        let (mut core, now) = self.core();
        core.look_up(now, users)
    }

    async fn announce(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        let (mut core, now) = self.core();
        core.announce(now, records)
    }

    async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError> {
        let (mut core, now) = self.core();
        core.put_rooms(now, counts)
    }

    async fn look_up_room(&self, room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        let (mut core, now) = self.core();
        core.look_up_room(now, room)
    }

    fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.life.subscribe()
    }
}

impl std::fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryRegistry")
            .field("life", &self.incarnation())
            .finish_non_exhaustive()
    }
}
