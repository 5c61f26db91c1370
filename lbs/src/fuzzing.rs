//! The LBS as a fuzzer drives it: a directory made of leases, asked by a query's text or by the bytes of a connection.
//!
//! Behind the feature `fuzzing`, since nothing that ships needs it. What is driven is what production runs; here it is only
//! put together without a socket and a registry.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::extract::Query;
use axum::http::Uri;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::watch;
use whimbrel_host::{Drain, HostParts, ManualClock, Readiness, http};
use whimbrel_protocol::cluster::{NodeLease, Role};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{
    Put, Registered, Registry, RegistryError, RoomCounts, RoomKey, RoomOnGateway, SessionRecord, UserKey,
};

use crate::{
    COMPONENT,
    answer::Question,
    config::LbsConfig,
    server::{self, Service},
    view::{View, refresh},
};

/// Unix time of it all, ms.
const START_UNIX_MS: u64 = 1_800_000_000_000;

/// What the registry does when it is asked.
#[derive(Debug, Clone)]
pub enum Heard {
    /// It names these.
    Leases(Vec<NodeLease>),
    /// It cannot be reached.
    Failure,
    /// Nothing.
    Silence,
}

/// A registry that does as it is told, and when there is no more to do has the LBS leave.
struct Script {
    heard: Mutex<VecDeque<Heard>>,
    drain: Drain,
    life: watch::Sender<Option<Incarnation>>,
}

impl Script {
    fn refused<T>() -> Result<T, RegistryError> {
        Err(RegistryError::Invalid("the LBS only asks for nodes".to_owned()))
    }
}

#[async_trait]
impl Registry for Script {
    async fn nodes(&self, _role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        let heard = self
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        match heard {
            Some(Heard::Leases(leases)) => Ok(leases),
            Some(Heard::Failure) => Err(RegistryError::Unavailable {
                reason: "as it was told".to_owned(),
                retry_after_ms: 1,
            }),
            Some(Heard::Silence) => std::future::pending().await,
            None => {
                self.drain.start();
                std::future::pending().await
            }
        }
    }

    fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.life.subscribe()
    }

    async fn put_node(&self, _lease: NodeLease) -> Result<Put, RegistryError> {
        Self::refused()
    }

    async fn remove_node(&self, _node: &NodeId, _incarnation: Incarnation) -> Result<(), RegistryError> {
        Self::refused()
    }

    async fn register(&self, _record: SessionRecord) -> Result<Registered, RegistryError> {
        Self::refused()
    }

    async fn unregister(&self, _record: SessionRecord) -> Result<(), RegistryError> {
        Self::refused()
    }

    async fn look_up(&self, _users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        Self::refused()
    }

    async fn announce(&self, _records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        Self::refused()
    }

    async fn put_rooms(&self, _counts: RoomCounts) -> Result<(), RegistryError> {
        Self::refused()
    }

    async fn look_up_room(&self, _room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        Self::refused()
    }
}

/// What an LBS knows.
#[derive(Debug)]
pub struct Directory {
    view: View,
    config: LbsConfig,
}

impl Directory {
    /// Nothing heard yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            view: View::new(),
            config: LbsConfig::default(),
        }
    }

    /// The registry, in this life of it, answered with these leases at `now`.
    pub fn hear(&mut self, now: Duration, life: Option<u64>, leases: &[NodeLease]) {
        let grace = self.config.registry_loss_grace;
        self.view = self.view.after(now, life.map(Incarnation), leases, grace);
    }

    /// Lets the LBS itself ask the registry, which answers so, and then leaves; says whether it was ready. In tokio's time.
    pub async fn refresh(&mut self, heard: Vec<Heard>) -> bool {
        let host = HostParts::on_clock(Arc::new(ManualClock::new(START_UNIX_MS)));
        host.health
            .set_ready(COMPONENT, Readiness::NotReady("waiting".to_owned()));
        let registry = Arc::new(Script {
            heard: Mutex::new(heard.into()),
            drain: host.drain.clone(),
            life: watch::channel(Some(Incarnation(1))).0,
        });
        let (publish, view) = watch::channel(Arc::new(self.view.clone()));
        refresh(registry, self.config.clone(), host.clone(), publish).await;
        self.view = View::clone(&view.borrow());
        host.health.is_ready()
    }

    /// Gateways listed now.
    #[must_use]
    pub fn gateways(&self) -> Vec<&str> {
        self.view
            .gateways
            .iter()
            .map(|gateway| gateway.node.as_str())
            .collect()
    }

    /// The answer's JSON to a request's target, or the code of the refusal and its words. `None` when the target is none.
    ///
    /// # Errors
    /// With the refusal.
    pub fn ask(&self, target: &str, seed: u64) -> Option<Result<String, (String, String)>> {
        let uri: Uri = target.parse().ok()?;
        let refused = |code: &str, message: String| Some(Err((code.to_owned(), message)));
        let pairs = match Query::<Vec<(String, String)>>::try_from_uri(&uri) {
            Ok(Query(pairs)) => pairs,
            Err(fault) => return refused("query_invalid", fault.body_text()),
        };
        let mut rng = SmallRng::seed_from_u64(seed);
        let question = match Question::parse(&pairs, self.config.gateways_default) {
            Ok(question) => question,
            Err(refusal) => return refused(refusal.code(), refusal.to_string()),
        };
        match question.answer(&self.view, &mut rng, 1, 2) {
            Ok(answer) => Some(Ok(serde_json::to_string(&answer).expect("an answer is JSON"))),
            Err(refusal) => refused(refusal.code(), refusal.to_string()),
        }
    }

    /// Serves one connection over `stream` until it ends.
    pub async fn serve(&self, stream: tokio::io::DuplexStream) {
        let (_publish, view) = watch::channel(Arc::new(self.view.clone()));
        let routes = server::routes(Service {
            config: self.config.clone(),
            view,
            host: HostParts::on_clock(Arc::new(ManualClock::new(START_UNIX_MS))),
        });
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        http::serve_stream(stream, remote, routes, self.config.http_limits()).await;
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}
