//! Rooms: joins are judged here and carried out by the gateway that holds the session; a message goes to every gateway that
//! has members, one frame each. Nothing is stored.
//!
//! Who is where is the registry's: a gateway tells it of a room before it answers a join, and a send looks it up anew, so a
//! send that begins after a join was answered finds that member's gateway. The answer to a send says how many members'
//! gateways took it and for how many it was dropped; a send that nobody took is refused as a whole, to be tried again. While the
//! registry cannot be asked, a message goes to all gateways that lived when it was.
//!
//! Not here: who is in a room (the gateways'), history (there is none), and user lanes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
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
use whimbrel_protocol::ids::RoomId;
use whimbrel_protocol::method::PushMethod;
use whimbrel_registry::{Registry, RegistryError};

use crate::env::Env;
use crate::failure::Failure;
use crate::log::{Actor, Deadline, checked_content};

/// Bytes of a room message's content: it is copied to every member's socket, fifteen thousand times in a full room.
pub const ROOM_CONTENT_BYTES_MAX: usize = 8 * 1024;

/// Broadcasts of this node that gateways have not answered yet. A gateway answers in a millisecond or so; more than this
/// means that one is silent or swamped, and a message to a room is worth little once it is late.
pub const BROADCASTS_IN_PROGRESS_MAX: usize = 256;

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
    in_progress: AtomicUsize,
    /// The gateways that lived when the registry last said so.
    gateways: RwLock<Vec<RoomOnGateway>>,
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

/// A place among the broadcasts in progress; given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the gateways made of a broadcast.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    taken: u32,
    dropped: u32,
    retry_after_ms: u32,
}

impl Tally {
    fn add(&mut self, answer: &RoomBroadcastResponse) {
        self.taken = self.taken.saturating_add(answer.taken);
        self.dropped = self.dropped.saturating_add(answer.dropped);
        self.retry_after_ms = self.retry_after_ms.max(answer.retry_after_ms);
    }

    /// The answer to the sender. What nobody took may be sent again; what somebody has would be shown twice.
    fn judge(self, time_ms: u64) -> Result<SendRoomResponse, Failure> {
        if self.taken == 0 && self.dropped > 0 {
            return Err(Failure::later(
                Code::Overloaded,
                format!(
                    "the gateways of the room's {} members have too much to do for it now",
                    self.dropped
                ),
                self.retry_after_ms.max(OVERLOADED_RETRY_AFTER_MS),
            ));
        }
        Ok(SendRoomResponse {
            time_ms,
            taken: self.taken,
            dropped: self.dropped,
        })
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
            in_progress: AtomicUsize::new(0),
            gateways: RwLock::default(),
        }))
    }

    /// Takes what the registry says of who lives. While it cannot be asked who is in a room, messages go to all gateways that lived:
    /// more than have members, never fewer, for nobody joins meanwhile.
    pub(crate) fn learn_gateways(&self, live: &[NodeLease]) {
        let gateways = live.iter().filter(|lease| lease.role() == Role::Gateway);
        let gateways = gateways.map(|lease| RoomOnGateway {
            gateway: lease.node.clone(),
            incarnation: lease.incarnation,
            // Nobody knows; the gateway does.
            members: 0,
        });
        *self.0.gateways.write().unwrap_or_else(PoisonError::into_inner) = gateways.collect();
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
    /// When the request is none, too many broadcasts are in progress, the registry is out of reach, or no gateway with
    /// members took the message.
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
        let _place = self.enter()?;
        let time_ms = self.0.env.clock.now_ms();
        let push = RoomPush {
            room: room.as_str().to_owned(),
            sender_uid: actor.uid.as_str().to_owned(),
            client_msg_id: Bytes::copy_from_slice(id.as_bytes()),
            time_ms,
            content: Some(content),
        };
        let payload = Bytes::from(push.encode_to_vec());
        let gateways = match self.look_up(actor, &room).await {
            Ok(gateways) => gateways,
            Err(failure) if failure.code == Code::Unavailable => {
                let all = self
                    .0
                    .gateways
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                if all.is_empty() {
                    return Err(failure);
                }
                metrics::counter!("whimbrel_rooms_by_last_view_total").increment(1);
                all
            }
            Err(failure) => return Err(failure),
        };
        let tally = self.broadcast(actor, &room, payload, gateways, deadline).await;
        metrics::counter!("whimbrel_room_members_total", "outcome" => "taken").increment(tally.taken.into());
        metrics::counter!("whimbrel_room_members_total", "outcome" => "dropped")
            .increment(tally.dropped.into());
        tally.judge(time_ms)
    }

    fn enter(&self) -> Result<Place<'_>, Failure> {
        let in_progress = &self.0.in_progress;
        let enter = |count: usize| (count < BROADCASTS_IN_PROGRESS_MAX).then_some(count + 1);
        match in_progress.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter) {
            Ok(_) => Ok(Place(in_progress)),
            Err(count) => Err(Failure::later(
                Code::Overloaded,
                format!("{count} messages to rooms are in progress here, as many as there may be"),
                OVERLOADED_RETRY_AFTER_MS,
            )),
        }
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
            tally.add(&answer);
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
    ) -> RoomBroadcastResponse {
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
        let answer = self.call(envelope, BROADCAST_TIMEOUT, deadline).await;
        let answer = answer.map(|answer| RoomBroadcastResponse::decode(answer.body).unwrap_or_default());
        answer.unwrap_or_else(|error| {
            tracing::debug!(%error, gateway = on.gateway, members = on.members, "a gateway did not take a message to a room");
            let retry_after_ms = match error {
                CallError::Overloaded { retry_after_ms } | CallError::Unavailable { retry_after_ms } => {
                    retry_after_ms
                }
                _ => 0,
            };
            RoomBroadcastResponse {
                taken: 0,
                dropped: on.members,
                retry_after_ms,
            }
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn tally(answers: &[(u32, u32, u32)]) -> Tally {
        let mut tally = Tally::default();
        for (taken, dropped, retry_after_ms) in answers.iter().copied() {
            tally.add(&RoomBroadcastResponse {
                taken,
                dropped,
                retry_after_ms,
            });
        }
        tally
    }

    #[test]
    fn what_nobody_took_is_refused_and_what_somebody_took_is_told() {
        let refused = tally(&[(0, 5, 200), (0, 7, 900)]).judge(1).unwrap_err();
        assert_eq!((refused.code, refused.retry_after_ms), (Code::Overloaded, 900));
        let told = tally(&[(3, 0, 0), (0, 7, 900)]).judge(9).unwrap();
        assert_eq!((told.time_ms, told.taken, told.dropped), (9, 3, 7));
        let empty = tally(&[]).judge(9).unwrap();
        assert_eq!((empty.taken, empty.dropped), (0, 0), "an empty room is no fault");
    }
}
