//! Rooms: joins are judged here and carried out by the gateway that holds the session; a message goes to every gateway that
//! has members, one frame each. Nothing is stored.
//!
//! Who is where is the registry's: a gateway tells it of a room before it answers a join, and a send looks it up anew, so a
//! send that begins after a join was answered finds that member's gateway. The answer to a send says how many members'
//! gateways took it and for how many it was dropped; a send that nobody took is refused as a whole, to be tried again. While the
//! registry cannot be asked, or may have lost what it was told, a message goes to all gateways that lived when it was
//! (`last_view`).
//!
//! Not here: who is in a room (the gateways'), history (there is none), and user lanes.

mod last_view;
mod places;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use whimbrel_link::{CallError, Caller};
use whimbrel_protocol::client::{
    CountRoomRequest, CountRoomResponse, JoinRoomRequest, JoinRoomResponse, LeaveRoomRequest,
    LeaveRoomResponse, RoomPush, SendRoomRequest, SendRoomResponse,
};
use whimbrel_protocol::cluster::room_order_response::Outcome;
use whimbrel_protocol::cluster::{
    Envelope, Kind, NodeLease, Priority, PushTarget, Role, RoomBroadcast, RoomBroadcastResponse, RoomKey,
    RoomOnGateway, RoomOrder, RoomOrderResponse, SessionHandle,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{Incarnation, RoomId};
use whimbrel_protocol::method::PushMethod;
use whimbrel_registry::{Registry, RegistryError};

use self::last_view::LastView;
pub use self::places::BROADCASTS_IN_PROGRESS_MAX;
use self::places::{Holder, Places};
use crate::env::Env;
use crate::failure::Failure;
use crate::log::{Actor, Deadline, checked_content};

/// Bytes of a room message's content: it is copied to every member's socket, fifteen thousand times in a full room.
pub const ROOM_CONTENT_BYTES_MAX: usize = 8 * 1024;

/// How long a gateway may take to say what it did with a broadcast.
const BROADCAST_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a gateway may take to carry out a join or leave, the registry included.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);

/// When to come back to a node or gateways with too many broadcasts, milliseconds: some hundred broadcasts later.
const OVERLOADED_RETRY_AFTER_MS: u32 = 500;

/// Rooms, as a service node sees them. Clones share.
#[derive(Clone)]
pub struct Rooms(Arc<Inner>);

struct Inner {
    registry: Arc<dyn Registry>,
    caller: Arc<dyn Caller>,
    env: Env,
    in_progress: Places,
    last_view: Mutex<LastView>,
}

/// Who asks to be in a room, or to be out of it.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The session, if the request came from one.
    pub session: Option<&'a SessionHandle>,
    /// The session's number for the request; 0 when the gateway did not tell it. The gateway leaves out what later requests
    /// of the session have overtaken.
    pub request_id: u32,
}

/// What the gateways made of a broadcast.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    taken: u32,
    dropped: u32,
    /// Gateways that said neither. How many members they have may not be known, so these need not be among the dropped.
    unanswered: u32,
    retry_after_ms: u32,
}

/// A gateway that did not say what it did with a broadcast, and the members it was known to have.
#[derive(Debug, PartialEq, Eq)]
struct Unanswered {
    members: u32,
    retry_after_ms: u32,
}

impl Tally {
    fn add(&mut self, answer: Result<RoomBroadcastResponse, Unanswered>) {
        let (taken, dropped, retry_after_ms) = match answer {
            Ok(answer) => (answer.taken, answer.dropped, answer.retry_after_ms),
            Err(unanswered) => {
                self.unanswered = self.unanswered.saturating_add(1);
                (0, unanswered.members, unanswered.retry_after_ms)
            }
        };
        self.taken = self.taken.saturating_add(taken);
        self.dropped = self.dropped.saturating_add(dropped);
        self.retry_after_ms = self.retry_after_ms.max(retry_after_ms);
    }

    /// The answer to the sender. What nobody took may be sent again; what somebody has would be shown twice.
    fn judge(self, time_ms: u64) -> Result<SendRoomResponse, Failure> {
        let message = match (self.taken, self.dropped, self.unanswered) {
            (0, dropped @ 1.., _) => {
                format!("the gateways of the room's {dropped} members have too much to do for it now")
            }
            (0, 0, unanswered @ 1..) => format!(
                "{unanswered} gateways that may have members of the room do not answer now, and no other has any"
            ),
            (taken, dropped, _) => {
                return Ok(SendRoomResponse {
                    time_ms,
                    taken,
                    dropped,
                });
            }
        };
        let retry_after_ms = self.retry_after_ms.max(OVERLOADED_RETRY_AFTER_MS);
        Err(Failure::later(Code::Overloaded, message, retry_after_ms))
    }
}

impl Rooms {
    /// Rooms that are found in `registry` and reached by `caller`.
    #[must_use]
    pub fn new(registry: Arc<dyn Registry>, caller: Arc<dyn Caller>, env: Env) -> Self {
        Self(Arc::new(Inner {
            registry,
            caller,
            env,
            in_progress: Places::default(),
            last_view: Mutex::default(),
        }))
    }

    /// Takes what the registry says of who lives. While it cannot be asked who is in a room, messages go to all gateways that lived:
    /// more than have members, never fewer, for nobody joins meanwhile.
    pub(crate) fn learn_gateways(&self, live: &[NodeLease]) {
        let (life, now) = self.registry_now();
        self.last_view().learn(life, live, now);
    }

    fn last_view(&self) -> MutexGuard<'_, LastView> {
        self.0.last_view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry's life as last seen, and the time.
    fn registry_now(&self) -> (Option<Incarnation>, Duration) {
        (*self.0.registry.life().borrow(), self.0.env.clock.monotonic())
    }

    /// Puts the asking session into a room: every user of an app may join any of its rooms.
    ///
    /// # Errors
    /// When the room's id is none, a bound is hit, or the session's gateway does not answer.
    pub async fn join(
        &self,
        actor: &Actor,
        asker: Asker<'_>,
        request: &JoinRoomRequest,
        deadline: Deadline,
    ) -> Result<JoinRoomResponse, Failure> {
        let room = RoomId::new(&request.room)?;
        self.order(actor, asker, &room, false, deadline).await?;
        Ok(JoinRoomResponse {})
    }

    /// Takes the asking session out of a room.
    ///
    /// # Errors
    /// When the room's id is none, or the session's gateway does not answer.
    pub async fn leave(
        &self,
        actor: &Actor,
        asker: Asker<'_>,
        request: &LeaveRoomRequest,
        deadline: Deadline,
    ) -> Result<LeaveRoomResponse, Failure> {
        let room = RoomId::new(&request.room)?;
        self.order(actor, asker, &room, true, deadline).await?;
        Ok(LeaveRoomResponse {})
    }

    async fn order(
        &self,
        actor: &Actor,
        asker: Asker<'_>,
        room: &RoomId,
        leave: bool,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let session = asker.session.ok_or_else(|| {
            Failure::invalid("only a session can be in a room: this request came from none")
        })?;
        let order = RoomOrder {
            app_key: actor.app.as_str().to_owned(),
            room: room.as_str().to_owned(),
            session: Some(PushTarget {
                reactor: session.reactor,
                slot: session.slot,
                generation: session.generation,
                user_id: actor.user.0,
            }),
            gateway_incarnation: session.incarnation,
            leave,
            request_id: asker.request_id,
        };
        let envelope = self.envelope(
            Kind::RoomOrder,
            Priority::Control,
            actor,
            &session.gateway,
            &order,
        );
        let answer = self
            .call(envelope, ORDER_TIMEOUT, deadline)
            .await
            .map_err(|error| unanswered(&error))?;
        let answer = RoomOrderResponse::decode(answer.body).map_err(|error| {
            Failure::new(
                Code::Internal,
                format!("a gateway's answer does not parse: {error}"),
            )
        })?;
        match answer.outcome() {
            Outcome::Done => Ok(()),
            Outcome::Gone => Err(Failure::new(
                Code::Unavailable,
                "the session has ended: log in again, and then join",
            )),
            Outcome::TooManyRooms => Err(Failure::new(
                Code::TooManyRooms,
                "the session is in 16 rooms, as many as it may be: leave one first",
            )),
            Outcome::RoomFull => Err(Failure::new(
                Code::RoomFull,
                "the room has as many members as it may have",
            )),
            Outcome::GatewayFull => Err(Failure::later(
                Code::Overloaded,
                "the gateway has too much to do for rooms now",
                OVERLOADED_RETRY_AFTER_MS,
            )),
            Outcome::Unspecified => Err(Failure::new(
                Code::Internal,
                "the gateway's answer is of a later version",
            )),
        }
    }

    /// Sends a message to everybody in a room.
    ///
    /// # Errors
    /// When the request is none, the room's share of the broadcasts in progress is used up, nobody knows of a gateway, or no
    /// gateway took the message and one that has members, or may have, did not.
    pub async fn send(
        &self,
        actor: &Actor,
        request: SendRoomRequest,
        deadline: Deadline,
    ) -> Result<SendRoomResponse, Failure> {
        let room = RoomId::new(&request.room)?;
        let (id, content, bytes) = checked_content(&request.client_msg_id, request.content)?;
        if bytes > ROOM_CONTENT_BYTES_MAX {
            return Err(Failure::new(
                Code::TooLarge,
                format!(
                    "message {id:?} has {bytes} bytes: at most {ROOM_CONTENT_BYTES_MAX} go to a room, send a link to larger things"
                ),
            ));
        }
        let holder = Holder::Room(actor.app.clone(), room.clone());
        let _place = self.0.in_progress.enter(holder).ok_or_else(|| {
            Failure::later(
                Code::Overloaded,
                "as many messages to the room, or to all rooms, are in progress here as there may be",
                OVERLOADED_RETRY_AFTER_MS,
            )
        })?;
        let time_ms = self.0.env.clock.now_ms();
        let push = RoomPush {
            room: room.as_str().to_owned(),
            sender_uid: actor.uid.as_str().to_owned(),
            client_msg_id: Bytes::copy_from_slice(id.as_bytes()),
            time_ms,
            content: Some(content),
        };
        let payload = Bytes::from(push.encode_to_vec());
        let gateways = self.gateways_of(actor, &room).await?;
        let tally = self.broadcast(actor, &room, payload, gateways, deadline).await;
        metrics::counter!("whimbrel_room_members_total", "outcome" => "taken").increment(tally.taken.into());
        metrics::counter!("whimbrel_room_members_total", "outcome" => "dropped")
            .increment(tally.dropped.into());
        tally.judge(time_ms)
    }

    /// The gateways on which a room has members, and those on which it may have some.
    async fn gateways_of(&self, actor: &Actor, room: &RoomId) -> Result<Vec<RoomOnGateway>, Failure> {
        let found = self.look_up(actor, room).await;
        // The answer may have come from a new life, which is seen by now.
        let (life, now) = self.registry_now();
        let mut last_view = self.last_view();
        let known = match found {
            Ok(known) if !last_view.doubts(life, now) => return Ok(known),
            Ok(known) => known,
            Err(failure) if failure.code == Code::Unavailable && !last_view.is_empty() => Vec::new(),
            Err(failure) => return Err(failure),
        };
        metrics::counter!("whimbrel_rooms_by_last_view_total").increment(1);
        Ok(last_view.completed(known))
    }

    /// One frame to each gateway, all at once.
    async fn broadcast(
        &self,
        actor: &Actor,
        room: &RoomId,
        payload: Bytes,
        gateways: Vec<RoomOnGateway>,
        deadline: Deadline,
    ) -> Tally {
        let mut answers: FuturesUnordered<_> = gateways
            .into_iter()
            .map(|on| self.hand_over(actor, room, payload.clone(), on, deadline))
            .collect();
        let mut tally = Tally::default();
        while let Some(answer) = answers.next().await {
            tally.add(answer);
        }
        tally
    }

    async fn hand_over(
        &self,
        actor: &Actor,
        room: &RoomId,
        payload: Bytes,
        on: RoomOnGateway,
        deadline: Deadline,
    ) -> Result<RoomBroadcastResponse, Unanswered> {
        let unanswered = |retry_after_ms| Unanswered {
            members: on.members,
            retry_after_ms,
        };
        let holder = Holder::Gateway(on.gateway.clone());
        let Some(_place) = self.0.in_progress.enter(holder) else {
            tracing::debug!(
                gateway = on.gateway,
                "a gateway leaves too many messages to rooms unanswered to get another"
            );
            return Err(unanswered(OVERLOADED_RETRY_AFTER_MS));
        };
        let broadcast = RoomBroadcast {
            app_key: actor.app.as_str().to_owned(),
            room: room.as_str().to_owned(),
            method: PushMethod::Room.number(),
            payload,
            gateway_incarnation: on.incarnation,
        };
        let envelope = self.envelope(
            Kind::RoomBroadcast,
            Priority::Room,
            actor,
            &on.gateway,
            &broadcast,
        );
        let answer = match self.call(envelope, BROADCAST_TIMEOUT, deadline).await {
            Ok(answer) => RoomBroadcastResponse::decode(answer.body)
                .map_err(|error| CallError::Internal(format!("its answer does not parse: {error}"))),
            Err(error) => Err(error),
        };
        answer.map_err(|error| {
            tracing::debug!(%error, gateway = on.gateway, members = on.members, "a gateway did not take a message to a room");
            unanswered(match error {
                CallError::Overloaded { retry_after_ms } | CallError::Unavailable { retry_after_ms } => {
                    retry_after_ms
                }
                _ => 0,
            })
        })
    }

    /// How many sessions are in a room.
    ///
    /// # Errors
    /// When the room's id is none, or the registry is out of reach.
    pub async fn count(
        &self,
        actor: &Actor,
        request: &CountRoomRequest,
    ) -> Result<CountRoomResponse, Failure> {
        let room = RoomId::new(&request.room)?;
        let gateways = self.look_up(actor, &room).await?;
        let members = gateways.iter().map(|on| u64::from(on.members)).sum();
        Ok(CountRoomResponse { members })
    }

    async fn look_up(&self, actor: &Actor, room: &RoomId) -> Result<Vec<RoomOnGateway>, Failure> {
        let key = RoomKey {
            app_key: actor.app.as_str().to_owned(),
            room: room.as_str().to_owned(),
        };
        self.0
            .registry
            .look_up_room(key)
            .await
            .map_err(|error| match error {
                RegistryError::Unavailable { retry_after_ms, .. } => Failure::later(
                    Code::Unavailable,
                    "who is in the room cannot be looked up now",
                    retry_after_ms,
                ),
                error => Failure::new(Code::Internal, error.to_string()),
            })
    }

    fn envelope(
        &self,
        kind: Kind,
        priority: Priority,
        actor: &Actor,
        gateway: &str,
        body: &impl prost::Message,
    ) -> Envelope {
        Envelope {
            kind: kind.into(),
            priority: priority.into(),
            to_node: gateway.to_owned(),
            to_role: Role::Gateway.into(),
            trace_id: self.0.env.entropy.random_u64(),
            app_key: actor.app.as_str().to_owned(),
            body: body.encode_to_vec().into(),
            ..Envelope::default()
        }
    }

    async fn call(
        &self,
        envelope: Envelope,
        at_most: Duration,
        deadline: Deadline,
    ) -> Result<Envelope, CallError> {
        let left = deadline.0.saturating_sub(self.0.env.clock.monotonic());
        self.0.caller.call(envelope, left.min(at_most)).await
    }
}

/// Why a gateway did not carry an order out. It is safe to repeat.
fn unanswered(error: &CallError) -> Failure {
    let message = format!("the session's gateway did not answer: {error}");
    match error {
        CallError::Overloaded { retry_after_ms } => {
            Failure::later(Code::Overloaded, message, *retry_after_ms)
        }
        CallError::Unavailable { retry_after_ms } => {
            Failure::later(Code::Unavailable, message, *retry_after_ms)
        }
        CallError::Lost | CallError::Deadline | CallError::UnknownNode => {
            Failure::new(Code::Unavailable, message)
        }
        CallError::BadRequest(_) | CallError::Internal(_) => Failure::new(Code::Internal, message),
    }
}
