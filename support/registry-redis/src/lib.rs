//! The registry in Redis: as many nodes as wanted meet there, and any of them may die.
//!
//! A crate of its own, so that the roles, the simulation and the memory registry do not build a Redis client: they know the trait.
//!
//! [`RedisRegistry`] behaves as the memory registry does (one conformance suite holds both), and it is as soft: what Redis forgets is
//! announced again. Redis may be a single server, behind Sentinels, or a Cluster; [`url`] says how each is named.
//!
//! # What lies where
//!
//! Every key and the channel begin with `whimbrel:1:` (the version of this layout) and hold the cluster's name, so that several
//! clusters can share one Redis; nothing is read or written beyond them. `{T}` is a hash tag: `{NAME.n}` for the nodes, `{NAME.P-S}`
//! for each of 64 parts `P` into which users and rooms fall by CityHash (`S` makes the tag fall into its own stretch of a Cluster's
//! slots). So all keys of a user share one tag, and so do those of a room.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `whimbrel:1:{T}:life` | string | the life of this place, random; put when there is none, and anew when its server is another run |
//! | `whimbrel:1:{T}:run` | string | the `run_id` of the server on which that life began |
//! | `whimbrel:1:{NAME.n}:owner` | string, 60 s | a digest of the cluster's secret, so that two clusters of one name do not mix |
//! | `whimbrel:1:{NAME.n}:clock` | hash | `last`: the server's clock at the last call, ms; `passed`: the registry's time, ms |
//! | `whimbrel:1:{NAME.n}:ends` | sorted set | `node/incarnation` by when it ends, in the registry's time |
//! | `whimbrel:1:{NAME.n}:terms` | hash | `node/incarnation` to its term |
//! | `whimbrel:1:{NAME.n}:leases` | hash | node to its lease |
//! | `whimbrel:1:{NAME.n}:holders` | hash | node to the incarnation that holds the lease |
//! | `whimbrel:1:{NAME.n}:superseded` | sorted set | the last 1,024 `node/incarnation` that a later one took the name of |
//! | `whimbrel:1:{NAME.n}:lapsed` | hash | node to the incarnation that held its lease last, once that has ended; 4,096 of them |
//! | `whimbrel:1:{NAME.n}:lapsed_at` | sorted set | these nodes by when that was |
//! | `whimbrel:1:{NAME.n}:ended` | sorted set | `node/incarnation term` by when to sweep after it |
//! | `whimbrel:1:{NAME.P-S}:u:APP/USER` | hash | a user's sessions, by device |
//! | `whimbrel:1:{NAME.P-S}:l:APP/USER/DEVICE` | sorted set, 30 s | the last 4 sessions that lost a place to logins of this device, in that order, told again to the next |
//! | `whimbrel:1:{NAME.P-S}:r:APP/ROOM` | hash | a room's members, by `node/incarnation` |
//! | `whimbrel:1:{NAME.P-S}:i:NODE/INCARNATION` | set | in which of these a gateway's life has something |
//! | `whimbrel:1:{NAME.P-S}:o:NODE/INCARNATION` | hash, 1 h | in which order rooms were counted, so that a call that comes late changes nothing |
//! | `whimbrel:1:NAME:changes` | channel | `nodes`: leases came or ended; `life`: something was lost |
//!
//! # How it holds together
//!
//! - **Steps.** What must be one step is one Lua script over keys of one tag, all of them declared. Scripts use no commands but those that
//!   `docs/operations.md` has operators grant (a test runs as such a user).
//! - **Time** is the server's, and only differences of it count: a gap of more than [`whimbrel_registry::STANDSTILL_AFTER`] is a standstill of the server
//!   during which nobody could renew, and a clock that is set back is no time at all. The clocks of nodes matter nowhere.
//! - **Terms.** An unbroken lease of a life is a *term*, a random number. Sessions and rooms name the term they hang on, so
//!   one look at the nodes tells which of them go on, wherever they lie. An ended term never comes back. A node believes for a second
//!   at most that a term goes on, less when a notice says otherwise.
//! - **Lives.** Each script compares the life of its place first. So the first call after a loss notices it; without a call the look of
//!   every second does. The registry's life follows from those of all places.
//! - **Sweeping.** One node at a time removes what ended terms left, found by the index. Until then it is ignored.
//! - **Redis gone.** Calls fail at once while there is no connection, and within two seconds while it stands still.
//!
//! Redis 6.2 or newer, or what speaks as it does; `maxmemory-policy noeviction`. Persistence is not needed.
#![forbid(unsafe_code)]

mod inner;
mod keeper;
mod keys;
mod lives;
mod meter;
mod nodes;
mod notices;
mod rooms;
mod scripts;
mod sessions;
mod standing;
mod upkeep;
pub mod url;
mod value;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use whimbrel_protocol::cluster::{
    NodeLease, Role, RoomCounts, RoomKey, RoomOnGateway, SessionRecord, UserKey,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{Put, Registered, Registry, RegistryError};

use crate::inner::{Inner, foreign};
use crate::keeper::{Keeper, NOT_YET, State};
use crate::keys::Keys;
use crate::upkeep::Upkeep;
pub use crate::url::UrlError;
use crate::url::{Kind, Target};
use crate::wire::Dialer;

/// How long a server that does not answer is tried at start unless the configuration says otherwise: as long as a machine
/// takes to start one.
pub const START_WITHIN: Duration = Duration::from_secs(60);
/// How often it is said meanwhile what is waited for.
const SAY_INTERVAL: Duration = Duration::from_secs(5);
/// Users waiting to be taken off an index; beyond, they go with their life.
const LEFTOVERS_MAX: usize = 4_096;

/// Which Redis, and for whom.
#[derive(Clone)]
pub struct RedisConfig {
    /// As [`url`] says; it may hold passwords.
    pub url: String,
    /// The cluster's name. Nodes of another name do not meet there.
    pub cluster: String,
    /// Tells clusters of the same name apart: a digest of the cluster's secret, the same on all its nodes.
    pub owner: String,
    /// How long a server that does not answer is tried at start.
    pub start_within: Duration,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("cluster", &self.cluster)
            .field("start_within", &self.start_within)
            .finish_non_exhaustive()
    }
}

/// Why the registry did not start. The text tells what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The URL, or the cluster's name.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// It answers, and will not do.
    #[error("Redis at {redis}: {reason}")]
    Refused {
        /// Which, without passwords.
        redis: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// It does not answer.
    #[error(
        "Redis at {redis} does not answer ({reason}); it was tried for {tried_for:?}: start it, or correct the URL"
    )]
    Silent {
        /// Which, without passwords.
        redis: String,
        /// What was met.
        reason: String,
        /// How long it was tried.
        tried_for: Duration,
    },
}

/// The registry in Redis. Dropping it ends its connections.
pub struct RedisRegistry {
    inner: Arc<Inner>,
    _tasks: JoinSet<()>,
}

impl RedisRegistry {
    /// Connects, and looks what is there. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the URL is unusable, the server refuses us or cannot hold a registry, the registry there is another cluster's, or nobody
    /// answers for `start_within`.
    pub async fn start(config: RedisConfig) -> Result<Arc<Self>, StartError> {
        let target = Target::parse(&config.url)?;
        let keys = Keys::new(&config.cluster)?;
        let keeper = Keeper::new(target.to_string(), target.kind == Kind::Cluster);
        let (leftovers, leftover) = mpsc::channel(LEFTOVERS_MAX);
        let names = (config.cluster, config.owner);
        let inner = Arc::new(Inner::new(names, keys, keeper, leftovers));
        let mut tasks = JoinSet::new();
        let kept = Arc::clone(&inner);
        tasks.spawn(async move { kept.keeper.run(Dialer::new(target)).await });
        let mut upkeep = Upkeep::new(Arc::clone(&inner));
        wait_until_there(&inner, &mut upkeep, config.start_within).await?;
        tasks.spawn(notices::run(Arc::clone(&inner)));
        tasks.spawn(upkeep.run(leftover));
        Ok(Arc::new(Self { inner, _tasks: tasks }))
    }

    /// Counts up whenever leases have come or ended, or may have: a view of the nodes is worth reading anew.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }
}

/// Waits for the first connection and the first look at what is there.
async fn wait_until_there(inner: &Inner, upkeep: &mut Upkeep, within: Duration) -> Result<(), StartError> {
    let redis = inner.keeper.redis().to_owned();
    let began = Instant::now();
    let mut state = inner.keeper.state();
    let mut said_at: Option<Instant> = None;
    loop {
        let reason = match &*state.borrow_and_update() {
            State::Down {
                reason,
                is_final: true,
                ..
            } => {
                let reason = reason.clone();
                return Err(StartError::Refused { redis, reason });
            }
            State::Down { reason, .. } => Some(reason.clone()),
            State::Up { .. } => None,
        };
        let reason = match reason {
            Some(reason) => reason,
            None => match upkeep.look().await {
                Ok(()) if inner.is_foreign.load(std::sync::atomic::Ordering::Relaxed) => {
                    let reason = foreign(&inner.cluster);
                    return Err(StartError::Refused { redis, reason });
                }
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            },
        };
        let left = within.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(StartError::Silent {
                redis,
                reason,
                tried_for: within,
            });
        }
        // That the first attempt is still under way is nothing to say.
        let is_to_say = reason != NOT_YET && said_at.is_none_or(|at| at.elapsed() >= SAY_INTERVAL);
        if is_to_say {
            said_at = Some(Instant::now());
            let left = left.as_secs();
            tracing::warn!(redis, reason, "Redis does not answer; trying for {left} s more");
        }
        let pause = left.min(Duration::from_millis(500));
        let _changed_or_not = tokio::time::timeout(pause, state.changed()).await;
    }
}

#[async_trait]
impl Registry for RedisRegistry {
    async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError> {
        self.inner.call("put_node", self.inner.put_node(lease)).await
    }

    async fn remove_node(&self, node: &NodeId, incarnation: Incarnation) -> Result<(), RegistryError> {
        let removing = self.inner.remove_node(node, incarnation);
        self.inner.call("remove_node", removing).await
    }

    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        self.inner.call("nodes", self.inner.nodes(role)).await
    }

    async fn register(&self, record: SessionRecord) -> Result<Registered, RegistryError> {
        self.inner.call("register", self.inner.register(record)).await
    }

    async fn unregister(&self, record: SessionRecord) -> Result<(), RegistryError> {
        self.inner.call("unregister", self.inner.unregister(record)).await
    }

    async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.inner.call("look_up", self.inner.look_up(users)).await
    }

    async fn announce(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.inner.call("announce", self.inner.announce(records)).await
    }

    async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError> {
        self.inner.call("put_rooms", self.inner.put_rooms(counts)).await
    }

    async fn look_up_room(&self, room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        self.inner
            .call("look_up_room", self.inner.look_up_room(room))
            .await
    }

    fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.inner.lives.registry()
    }

    fn life_is_current(&self) -> bool {
        self.inner.all_answer()
    }
}

impl fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRegistry")
            .field("redis", &self.inner.keeper.redis())
            .field("cluster", &self.inner.cluster)
            .finish_non_exhaustive()
    }
}
