//! What the cluster sends to this gateway: pushes, orders to close sessions, and all about rooms.
//!
//! A push is acknowledged once the reactors have taken it, not when clients have: from there on a client either gets it or
//! syncs because of it.

use std::sync::{Arc, OnceLock};

use prost::Message as _;
use whimbrel_link::{Handler, Reply};
use whimbrel_protocol::cluster::room_order_response::Outcome;
use whimbrel_protocol::cluster::{
    self, CloseSessions, Envelope, Kind, PushRequest, PushResponse, PushesRequest, RoomBroadcast,
    RoomBroadcastResponse, RoomOrderResponse, Status,
};
use whimbrel_protocol::frame::{PAYLOAD_LEN_MAX, RequestId};
use whimbrel_protocol::ids::{APP_KEY_LEN_MAX, ROOM_ID_LEN_MAX};

use crate::engine::{Brought, Ordered, Reach, RoomFrame, RoomOrder};
use crate::receipt::Share;
use crate::rooms::{Desk, JoinError, RoomName};

/// What is told to whoever comes before the reactors run, in milliseconds.
const STARTING_RETRY_AFTER_MS: u32 = 200;

/// What is told to whoever finds a reactor full of orders, in milliseconds.
const BUSY_RETRY_AFTER_MS: u32 = 100;

/// Sessions that one frame may name: a group of the largest size with several devices each.
const TARGETS_MAX: usize = 16_384;

/// Pushes that one frame may hold. Service nodes put at most as many together.
const PUSHES_MAX: usize = 1_024;

fn unreadable(error: &prost::DecodeError) -> String {
    format!("the push does not parse: {error}")
}

fn within_bounds(push: PushRequest) -> Result<PushRequest, String> {
    let (bytes, sessions) = (push.payload.len(), push.targets.len());
    if bytes > PAYLOAD_LEN_MAX || sessions > TARGETS_MAX {
        return Err(format!(
            "a push of {bytes} bytes to {sessions} sessions is over the bounds of {PAYLOAD_LEN_MAX} and {TARGETS_MAX}",
        ));
    }
    Ok(push)
}

/// Serves what routers pass on to this gateway.
#[derive(Default)]
pub(crate) struct Downward {
    inside: OnceLock<(Reach, Desk)>,
}

impl Downward {
    /// The reactors run.
    pub(crate) fn serve(&self, reach: Reach, desk: Desk) {
        // Set once, at the start.
        let _first = self.inside.set((reach, desk));
    }

    fn push(reach: &Reach, request: Envelope, reply: Reply) {
        let push = PushRequest::decode(request.body);
        match push.map_err(|error| unreadable(&error)).and_then(within_bounds) {
            Ok(push) => Self::deliver(reach, push, move |response| {
                reply.ok(response.encode_to_vec().into());
            }),
            Err(detail) => reply.fail(Status::BadRequest, detail, 0),
        }
    }

    fn pushes(reach: &Reach, request: Envelope, reply: Reply) {
        let pushes = PushesRequest::decode(request.body);
        let pushes = pushes.map_err(|error| unreadable(&error)).and_then(|request| {
            let pushes = request.pushes;
            if pushes.len() > PUSHES_MAX {
                return Err(format!(
                    "{} pushes at once: at most {PUSHES_MAX} are taken",
                    pushes.len()
                ));
            }
            pushes
                .into_iter()
                .map(within_bounds)
                .collect::<Result<Vec<_>, _>>()
        });
        match pushes {
            Ok(pushes) => {
                let shares = Share::of(pushes.len(), move |sum| reply.ok(sum.encode_to_vec().into()));
                for (push, share) in pushes.into_iter().zip(shares) {
                    Self::deliver(reach, push, |response| share.settle(response));
                }
            }
            Err(detail) => reply.fail(Status::BadRequest, detail, 0),
        }
    }

    fn deliver(reach: &Reach, push: PushRequest, settle: impl FnOnce(PushResponse) + Send + Sync + 'static) {
        if push.gateway_incarnation != reach.incarnation().0 {
            return settle(PushResponse {
                accepted: 0,
                gone: push.targets,
            });
        }
        let brought = if push.missed {
            Brought::Missed {
                spread_ms: push.spread_ms,
            }
        } else {
            Brought::Push {
                method: push.method,
                tracked: push.tracked,
                payload: push.payload,
            }
        };
        reach.push(push.targets, &brought, settle);
    }

    fn close(reach: &Reach, request: Envelope, reply: Reply) {
        let order = match CloseSessions::decode(request.body) {
            Ok(order) => order,
            Err(error) => {
                return reply.fail(
                    Status::BadRequest,
                    format!("the order does not parse: {error}"),
                    0,
                );
            }
        };
        if reach.close(order.gateway_incarnation, order.targets, order.reason) {
            reply.ok(bytes::Bytes::new());
        } else {
            reply.fail(
                Status::Overloaded,
                "a reactor has too many orders",
                BUSY_RETRY_AFTER_MS,
            );
        }
    }
}

impl Handler for Downward {
    fn handle(&self, request: Envelope, reply: Reply) {
        let Some((reach, desk)) = self.inside.get() else {
            return reply.fail(
                Status::Unavailable,
                "the gateway is starting",
                STARTING_RETRY_AFTER_MS,
            );
        };
        match request.kind() {
            Kind::Push => Self::push(reach, request, reply),
            Kind::Pushes => Self::pushes(reach, request, reply),
            Kind::CloseSessions => Self::close(reach, request, reply),
            Kind::RoomOrder => order_room(reach, desk, request, reply),
            Kind::RoomBroadcast => broadcast(reach, desk, request, reply),
            kind => reply.fail(
                Status::BadRequest,
                format!("a gateway serves no {}", kind.as_str_name()),
                0,
            ),
        }
    }
}

/// Puts a session into a room or takes it out. A join is answered by the desk, once the registry knows of the room.
fn order_room(reach: &Reach, desk: &Desk, request: Envelope, reply: Reply) {
    let order = match cluster::RoomOrder::decode(request.body) {
        Ok(order) => order,
        Err(error) => {
            return reply.fail(
                Status::BadRequest,
                format!("the order does not parse: {error}"),
                0,
            );
        }
    };
    let (Some(name), Some(session)) = (room_name(order.app_key, order.room), order.session) else {
        return reply.fail(
            Status::BadRequest,
            "the order names no room or no session: give an app key, a room id and a session",
            0,
        );
    };
    if order.gateway_incarnation != reach.incarnation().0 {
        return answer_order(reply, Outcome::Gone);
    }
    let name = Arc::new(name);
    let (desk, joined) = (desk.clone(), Arc::clone(&name));
    let reactor = u16::try_from(session.reactor).unwrap_or(u16::MAX);
    let done = move |ordered| {
        let outcome = match ordered {
            Ordered::In(members) => return desk.joined(joined, reactor, members, reply),
            Ordered::Out => Outcome::Done,
            Ordered::Gone => Outcome::Gone,
            Ordered::Refused(JoinError::TooManyRooms) => Outcome::TooManyRooms,
            Ordered::Refused(JoinError::RoomFull) => Outcome::RoomFull,
            Ordered::Refused(JoinError::Full) => Outcome::GatewayFull,
        };
        answer_order(reply, outcome);
    };
    let refused = reach.order_room(RoomOrder {
        name,
        session,
        leave: order.leave,
        asked_by: (order.request_id != 0).then_some(RequestId(order.request_id)),
        done: Box::new(done),
    });
    if let Err(order) = refused {
        (order.done)(Ordered::Refused(JoinError::Full));
    }
}

fn answer_order(reply: Reply, outcome: Outcome) {
    let response = RoomOrderResponse {
        outcome: outcome.into(),
    };
    reply.ok(response.encode_to_vec().into());
}

/// Hands a message to everybody in a room, by way of the desk.
fn broadcast(reach: &Reach, desk: &Desk, request: Envelope, reply: Reply) {
    let broadcast = match RoomBroadcast::decode(request.body) {
        Ok(broadcast) => broadcast,
        Err(error) => {
            return reply.fail(
                Status::BadRequest,
                format!("the broadcast does not parse: {error}"),
                0,
            );
        }
    };
    if broadcast.gateway_incarnation != reach.incarnation().0 {
        // Its members went with that life.
        return reply.ok(RoomBroadcastResponse::default().encode_to_vec().into());
    }
    let Some(name) = room_name(broadcast.app_key, broadcast.room) else {
        return reply.fail(
            Status::BadRequest,
            "the broadcast names no room: give an app key and a room id",
            0,
        );
    };
    match RoomFrame::new(broadcast.method, broadcast.payload) {
        Ok(frame) => desk.broadcast(name, Arc::new(frame), reply),
        Err(error) => reply.fail(
            Status::BadRequest,
            format!("the broadcast is no push: {error}"),
            0,
        ),
    }
}

/// A room's name, within the bounds of names. Service nodes have judged it; here it only must not be endless.
fn room_name(app: String, room: String) -> Option<RoomName> {
    let fits = |text: &str, max: usize| !text.is_empty() && text.len() <= max;
    (fits(&app, APP_KEY_LEN_MAX) && fits(&room, ROOM_ID_LEN_MAX)).then(|| RoomName {
        app: app.into_boxed_str(),
        room: room.into_boxed_str(),
    })
}
