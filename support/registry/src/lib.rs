//! Who is there: node leases, login sessions and rooms on gateways, behind one trait.
//!
//! The registry is soft state. Losing it loses no message: nodes renew their leases, gateways announce their sessions
//! again when [`Registry::life`] changes, and until then a session that is not found is served by the next sync.
//!
//! - [`MemoryRegistry`] keeps everything in one process (its *home*, a router).
//! - [`LinkRegistry`] reaches that home from the other processes; [`serve`] answers it there.
//! - `whimbrel-registry-redis` keeps it in Redis, for as many processes as there are.
//! - [`follow_routers`] has an endpoint dial the routers that a registry knows.
//! - [`conformance`] holds every backend to the same behaviour, [`validity`] to the same refusals.
//! - [`rendezvous`] is how those who know the same nodes agree which of them a key belongs to.
//!
//! Not here: deciding what to do about a displaced session (the gateway's), or which node serves a request (the
//! router's).
#![forbid(unsafe_code)]

pub mod conformance;
mod core;
mod devices;
mod discovery;
mod displaced;
mod lapsed;
mod memory;
mod place;
mod remote;
pub mod rendezvous;
mod served;
pub mod validity;

use std::num::NonZeroU64;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use whimbrel_link::Identity;
pub use whimbrel_protocol::cluster::{
    NodeLease, Role, RoomCount, RoomCounts, RoomKey, RoomOnGateway, SessionHandle, SessionRecord, UserKey,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};

pub use self::discovery::follow_routers;
pub use self::memory::{MemoryRegistry, MonotonicClock};
pub use self::remote::LinkRegistry;
pub use self::served::serve;
pub use crate::place::RegistryAt;

/// Sessions one user can have at once: more devices than a person carries, few enough for one push frame. One more
/// displaces the session of the oldest login epoch.
pub const SESSIONS_PER_USER_MAX: usize = 32;
/// Records in one announcement: about 200 KiB, far below a link's bound for an envelope.
pub const ANNOUNCE_LEN_MAX: usize = 1_000;
/// Rooms in one request: about 100 KiB with the longest names.
pub const ROOM_COUNTS_LEN_MAX: usize = 1_000;
/// Users in one look-up: a group of the largest size is looked up at once.
pub const LOOK_UP_LEN_MAX: usize = 4_000;
/// Nodes the registry knows at once.
pub const NODES_MAX: usize = 4_096;
/// How long sessions are kept for a gateway that has not (again) put its lease: a gateway puts it every few seconds.
pub const LEASELESS_GRACE: Duration = Duration::from_secs(30);
/// The longest time to live a lease may ask for.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(300);
/// The most time that passes between two calls. Nodes renew their leases every few seconds, so a longer gap means that the
/// registry itself stood still, and nobody could renew: no lease ends by that.
pub const STANDSTILL_AFTER: Duration = Duration::from_secs(5);
/// Ended incarnations remembered, so that a process that was frozen and wakes cannot take its name back.
pub const ENDED_LEN_MAX: usize = 1_024;

/// How long it is remembered who lost a place to a device's login, to be told again: whoever did not hear of it comes again within seconds.
pub const RETOLD_FOR: Duration = Duration::from_secs(30);
/// How many of them a device, the newest.
pub const RETOLD_LEN_MAX: usize = 4;

/// A lease that says what a node's links say of it, for its role to complete.
#[must_use]
pub fn lease_of(identity: &Identity, ttl: Duration) -> NodeLease {
    NodeLease {
        node: identity.node.as_str().to_owned(),
        role: identity.role.into(),
        incarnation: identity.incarnation.0,
        zone: identity.zone.clone(),
        version_tag: identity.version_tag.clone(),
        app_keys: identity
            .app_keys
            .iter()
            .map(|key| key.as_str().to_owned())
            .collect(),
        capacity_percent: identity.capacity.percent(),
        ttl_ms: u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX),
        ..NodeLease::default()
    }
}

/// What putting a lease came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// This life held no lease: what had hung on an earlier one is gone, though its clock may not tell that one has ended. The answer that
    /// says so may be lost, and the call be repeated on its way: [`Put::term`] tells it then.
    pub began: bool,
    /// Names the lease for as long as it goes on: another one than last time means that it had ended in between. `None` where the home is
    /// one of before, and while a registry that lost something has not told so yet ([`Registry::life`]).
    pub term: Option<NonZeroU64>,
}

/// What a registration came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// False when a session of the same device with the same or a higher login epoch is there.
    pub accepted: bool,
    /// Sessions that lost their place; their gateways close them. Those that lost theirs to this device within [`RETOLD_FOR`] are told
    /// again ([`RETOLD_LEN_MAX`] at most), for whoever never had an answer: to close a session twice is nothing.
    pub displaced: Vec<SessionRecord>,
}

/// Why the registry did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached or is overloaded; try again later.
    #[error("the registry cannot be reached now ({reason}); try again in {retry_after_ms} ms")]
    Unavailable {
        /// What stood in the way.
        reason: String,
        /// When to try again, ms.
        retry_after_ms: u32,
    },
    /// The request is at fault.
    #[error("the registry refused the request: {0}")]
    Invalid(String),
    /// A later process of the same name holds the lease.
    #[error(
        "node {node} has been taken over by a later process of that name: this one must end or be renamed"
    )]
    Superseded {
        /// The name.
        node: String,
    },
}

/// Node leases, login sessions and rooms on gateways. All methods may be called at any time from any task.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Puts or renews a lease; it ends `ttl_ms` later. The incarnation that held the name before ends for good, with its sessions:
    /// also when its lease had ended, unless that was given back ([`Registry::remove_node`]) or more than [`NODES_MAX`] other
    /// names have lapsed since.
    async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError>;

    /// Ends the lease of exactly this incarnation, with its sessions, and gives the name back. Fine when it has ended already, or there is
    /// none.
    async fn remove_node(&self, node: &NodeId, incarnation: Incarnation) -> Result<(), RegistryError>;

    /// The live leases of a role, or all; by name.
    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError>;

    /// Compare-and-set on the device's login epoch: a higher one displaces the session that is there, an equal or lower
    /// one is refused; the same handle again is fine. Who is displaced is told more than once, so that an answer may be lost.
    async fn register(&self, record: SessionRecord) -> Result<Registered, RegistryError>;

    /// Forgets a session, if its handle is the one registered.
    async fn unregister(&self, record: SessionRecord) -> Result<(), RegistryError>;

    /// All sessions of these users (at most [`LOOK_UP_LEN_MAX`]); by user, then device.
    async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError>;

    /// Registers many (at most [`ANNOUNCE_LEN_MAX`]) and returns all that lost their place, announced ones included.
    async fn announce(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError>;

    /// Sets how many members these rooms (at most [`ROOM_COUNTS_LEN_MAX`]) have on one life of a gateway; rooms not named
    /// keep their numbers. They end with the gateway's lease, as sessions do.
    async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError>;

    /// The live gateways on which a room has members, by name. What [`Registry::put_rooms`] was answered for is seen.
    async fn look_up_room(&self, room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError>;

    /// The registry's life as last seen: another one means that it lost everything, and all must be announced again.
    fn life(&self) -> watch::Receiver<Option<Incarnation>>;

    /// Whether that life is as good as now: of one whose parts do not all answer the others may have found another.
    fn life_is_current(&self) -> bool {
        true
    }
}
