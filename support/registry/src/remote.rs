//! The registry as seen from another process: its home answers over the links.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use whimbrel_link::{CallError, Caller};
use whimbrel_protocol::cluster::registry_request::Call;
use whimbrel_protocol::cluster::registry_response::ErrorKind;
use whimbrel_protocol::cluster::{
    Envelope, Kind, ListNodes, LookUpSessions, NodeLease, Priority, RegistryRequest, RegistryResponse,
    RemoveNode, Role, RoomCounts, RoomKey, RoomOnGateway, SessionRecord, SessionRecords, UserKey,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::{Put, Registered, Registry, RegistryError};

/// How long a call waits. All of them are quick; a home that takes longer is in trouble, and logins wait behind it.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// What is told to whoever finds the home silent or gone.
const RETRY_AFTER_MS: u32 = 500;

/// The registry at its home, over a [`Caller`]. Every call is safe to send twice.
pub struct LinkRegistry {
    caller: Arc<dyn Caller>,
    home: String,
    life: watch::Sender<Option<Incarnation>>,
}

impl LinkRegistry {
    /// The registry whose home is the router `home`; with `None`, whichever router the caller finds passes it on.
    #[must_use]
    pub fn new(caller: Arc<dyn Caller>, home: Option<&NodeId>) -> Self {
        let home = home.map_or_else(String::new, |home| home.as_str().to_owned());
        Self {
            caller,
            home,
            life: watch::channel(None).0,
        }
    }

    async fn call(&self, call: Call) -> Result<RegistryResponse, RegistryError> {
        let request = Envelope {
            kind: Kind::Registry.into(),
            priority: Priority::Control.into(),
            to_role: Role::Router.into(),
            to_node: self.home.clone(),
            body: Bytes::from(RegistryRequest { call: Some(call) }.encode_to_vec()),
            ..Envelope::default()
        };
        let answer = self
            .caller
            .call(request, CALL_DEADLINE)
            .await
            .map_err(|error| unavailable(&error))?;
        let response = RegistryResponse::decode(answer.body).map_err(|error| RegistryError::Unavailable {
            reason: format!("its answer does not parse: {error}"),
            retry_after_ms: RETRY_AFTER_MS,
        })?;
        let seen = Some(Incarnation(response.registry_incarnation)).filter(|life| life.0 != 0);
        self.life
            .send_if_modified(|life| seen.is_some() && std::mem::replace(life, seen) != seen);
        match ErrorKind::try_from(response.error_kind) {
            Ok(ErrorKind::None) if response.error.is_empty() => Ok(response),
            Ok(ErrorKind::Invalid) => Err(RegistryError::Invalid(response.error)),
            Ok(ErrorKind::Superseded) => Err(RegistryError::Superseded { node: response.error }),
            Ok(ErrorKind::Unavailable | ErrorKind::None) | Err(_) => Err(RegistryError::Unavailable {
                reason: response.error,
                retry_after_ms: RETRY_AFTER_MS,
            }),
        }
    }
}

fn unavailable(error: &CallError) -> RegistryError {
    let retry_after_ms = match error {
        CallError::Unavailable { retry_after_ms } | CallError::Overloaded { retry_after_ms } => {
            *retry_after_ms
        }
        _ => RETRY_AFTER_MS,
    };
    RegistryError::Unavailable {
        reason: error.to_string(),
        retry_after_ms,
    }
}

#[async_trait]
impl Registry for LinkRegistry {
    async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError> {
        let response = self.call(Call::PutNode(lease)).await?;
        Ok(Put {
            began: response.lease_began,
            term: NonZeroU64::new(response.lease_term),
        })
    }

    async fn remove_node(&self, node: &NodeId, incarnation: Incarnation) -> Result<(), RegistryError> {
        let node = node.as_str().to_owned();
        self.call(Call::RemoveNode(RemoveNode {
            node,
            incarnation: incarnation.0,
        }))
        .await
        .map(drop)
    }

    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        let role = role.unwrap_or(Role::Unspecified).into();
        self.call(Call::ListNodes(ListNodes { role }))
            .await
            .map(|response| response.nodes)
    }

    async fn register(&self, record: SessionRecord) -> Result<Registered, RegistryError> {
        let response = self.call(Call::Register(record)).await?;
        Ok(Registered {
            accepted: response.registered,
            displaced: response.displaced,
        })
    }

    async fn unregister(&self, record: SessionRecord) -> Result<(), RegistryError> {
        self.call(Call::Unregister(record)).await.map(drop)
    }

    async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.call(Call::LookUp(LookUpSessions { users }))
            .await
            .map(|response| response.sessions)
    }

    async fn announce(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.call(Call::Announce(SessionRecords { records }))
            .await
            .map(|response| response.displaced)
    }

    async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError> {
        self.call(Call::PutRooms(counts)).await.map(drop)
    }

    async fn look_up_room(&self, room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        self.call(Call::LookUpRoom(room))
            .await
            .map(|response| response.rooms)
    }

    fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.life.subscribe()
    }
}
