//! Rooms, from a client's request to what gateways are told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use prost::Message;
use whimbrel_app_service::rooms::ROOM_CONTENT_BYTES_MAX;
use whimbrel_protocol::client::{
    CountRoomRequest, CountRoomResponse, JoinRoomRequest, LeaveRoomRequest, RoomPush, SendRoomRequest,
    SendRoomResponse,
};
use whimbrel_protocol::cluster::room_order_response::Outcome;
use whimbrel_protocol::cluster::{RoomBroadcastResponse, SessionHandle};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::method::{Method, PushMethod};
use whimbrel_registry::Registry;
use whimbrel_registry::conformance::room_counts;

use crate::device::Device;
use crate::switch::GATEWAY;
use crate::world::{Live, World, outgoing};

/// A session's number for what it asks.
const REQUEST: u32 = 77;

/// A second gateway, which the world knows nothing else of.
const OTHER: &str = "gateway-2";

fn session() -> SessionHandle {
    SessionHandle {
        gateway: GATEWAY.into(),
        incarnation: 9,
        reactor: 1,
        slot: 33,
        generation: 4,
    }
}

fn answer(taken: u32, dropped: u32, retry_after_ms: u32) -> RoomBroadcastResponse {
    RoomBroadcastResponse {
        taken,
        dropped,
        retry_after_ms,
    }
}

impl World {
    fn message(&self, room: &str, text: &str) -> SendRoomRequest {
        let message = outgoing(self.operation(), text);
        SendRoomRequest {
            room: room.into(),
            client_msg_id: message.client_msg_id,
            content: message.content,
        }
    }

    fn gateway_answers(&self, gateway: &str, response: RoomBroadcastResponse) {
        self.switch
            .rooms
            .answers
            .lock()
            .unwrap()
            .insert(gateway.into(), response);
    }
}

impl Live {
    async fn enters(&self, device: &Device, method: Method, request: &impl Message) -> u32 {
        let payload = request.encode_to_vec().into();
        let answer = self
            .request_of(&device.actor, Some(session()), REQUEST, method.number(), payload)
            .await;
        answer.code
    }

    async fn sends(&self, device: &Device, request: &SendRoomRequest) -> Result<SendRoomResponse, Code> {
        self.call(&device.actor, Method::SendRoom, request).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_one_frame_to_each_gateway_with_members_and_to_no_other() {
    let world = World::new(60);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    for (gateway, members) in [((GATEWAY, 9), 3), ((OTHER, 8), 2)] {
        let counts = room_counts(gateway, &[("hall", members), ("bar", 1)]);
        world.registry.put_rooms(counts).await.unwrap();
        world.gateway_answers(gateway.0, answer(members, 0, 0));
    }
    world
        .registry
        .put_rooms(room_counts((OTHER, 8), &[("bar", 0)]))
        .await
        .unwrap();
    let request = world.message("hall", "hello");
    let sent = live.sends(&ann, &request).await.unwrap();
    assert_eq!((sent.taken, sent.dropped), (5, 0));
    let told = std::mem::take(&mut *world.switch.rooms.broadcasts.lock().unwrap());
    let ways: Vec<_> = told
        .iter()
        .map(|(to, told)| (&to[..], told.gateway_incarnation))
        .collect();
    assert_eq!(ways, [(GATEWAY, 9), (OTHER, 8)]);
    for (_, broadcast) in &told {
        assert_eq!((&broadcast.app_key[..], &broadcast.room[..]), ("demo", "hall"));
        assert_eq!(broadcast.method, PushMethod::Room.number());
        let push = RoomPush::decode(broadcast.payload.clone()).unwrap();
        assert_eq!((&push.room[..], &push.sender_uid[..]), ("hall", "ann"));
        assert_eq!(
            (push.client_msg_id, push.content, push.time_ms),
            (
                request.client_msg_id.clone(),
                request.content.clone(),
                sent.time_ms
            )
        );
    }
    live.sends(&ann, &world.message("bar", "hello")).await.unwrap();
    assert_eq!(world.switch.rooms.broadcasts.lock().unwrap().len(), 1);
    let nobody = live.sends(&ann, &world.message("empty", "hello")).await.unwrap();
    assert_eq!((nobody.taken, nobody.dropped), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_gateways_dropped_is_told_and_what_nobody_took_is_refused() {
    let world = World::new(61);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    for (gateway, members) in [((GATEWAY, 9), 3), ((OTHER, 8), 2)] {
        let counts = room_counts(gateway, &[("hall", members)]);
        world.registry.put_rooms(counts).await.unwrap();
    }
    world.gateway_answers(GATEWAY, answer(1, 2, 700));
    world.switch.cut(OTHER);
    let sent = live.sends(&ann, &world.message("hall", "hello")).await.unwrap();
    assert_eq!(
        (sent.taken, sent.dropped),
        (1, 4),
        "who cannot be reached counts as dropped"
    );
    world.gateway_answers(GATEWAY, answer(0, 3, 700));
    let refused = live.sends(&ann, &world.message("hall", "hello")).await;
    assert_eq!(refused, Err(Code::Overloaded));
}

#[tokio::test(start_paused = true)]
async fn a_join_is_an_order_to_the_gateway_about_the_very_session_that_asked() {
    let world = World::new(62);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let join = JoinRoomRequest { room: "hall".into() };
    assert_eq!(live.enters(&ann, Method::JoinRoom, &join).await, 0);
    let leave = LeaveRoomRequest { room: "hall".into() };
    assert_eq!(live.enters(&ann, Method::LeaveRoom, &leave).await, 0);
    let orders = std::mem::take(&mut *world.switch.rooms.orders.lock().unwrap());
    assert_eq!(
        orders.iter().map(|(_, order)| order.leave).collect::<Vec<_>>(),
        [false, true]
    );
    for (gateway, order) in orders {
        let target = order.session.unwrap();
        assert_eq!((&gateway[..], order.gateway_incarnation), (GATEWAY, 9));
        assert_eq!((target.reactor, target.slot, target.generation), (1, 33, 4));
        assert_eq!(target.user_id, ann.actor.user.0);
        assert_eq!(order.request_id, REQUEST);
        assert_eq!((&order.app_key[..], &order.room[..]), ("demo", "hall"));
    }
    for (outcome, code) in [
        (Outcome::Gone, Code::Unavailable),
        (Outcome::TooManyRooms, Code::TooManyRooms),
        (Outcome::RoomFull, Code::RoomFull),
        (Outcome::GatewayFull, Code::Overloaded),
    ] {
        *world.switch.rooms.outcome.lock().unwrap() = Some(outcome);
        assert_eq!(
            live.enters(&ann, Method::JoinRoom, &join).await,
            code.number(),
            "{outcome:?}"
        );
    }
    world.switch.cut(GATEWAY);
    assert_eq!(
        live.enters(&ann, Method::JoinRoom, &join).await,
        Code::Unavailable.number()
    );
}

#[tokio::test(start_paused = true)]
async fn a_count_adds_up_what_live_gateways_have() {
    let world = World::new(63);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    for (gateway, members) in [((GATEWAY, 9), 3), ((OTHER, 8), 2)] {
        let counts = room_counts(gateway, &[("hall", members)]);
        world.registry.put_rooms(counts).await.unwrap();
    }
    let request = CountRoomRequest { room: "hall".into() };
    let counted: Result<CountRoomResponse, Code> = live.call(&ann.actor, Method::CountRoom, &request).await;
    assert_eq!(counted.unwrap().members, 5);
}

#[tokio::test(start_paused = true)]
async fn bad_requests_about_rooms_are_told_what_is_wrong_and_reach_no_gateway() {
    let world = World::new(64);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let counts = room_counts((GATEWAY, 9), &[("hall", 1)]);
    world.registry.put_rooms(counts).await.unwrap();
    let long = "x".repeat(65);
    for room in ["", "a\nb", &long] {
        let join = JoinRoomRequest { room: room.into() };
        let invalid = Code::InvalidArgument.number();
        assert_eq!(
            live.enters(&ann, Method::JoinRoom, &join).await,
            invalid,
            "{room:?}"
        );
        let sent = live.sends(&ann, &world.message(room, "hello")).await;
        assert_eq!(sent, Err(Code::InvalidArgument), "{room:?}");
    }
    let large = world.message("hall", &"x".repeat(ROOM_CONTENT_BYTES_MAX));
    assert_eq!(live.sends(&ann, &large).await, Err(Code::TooLarge));
    let empty = SendRoomRequest {
        content: None,
        ..world.message("hall", "hello")
    };
    assert_eq!(live.sends(&ann, &empty).await, Err(Code::InvalidArgument));
    let join = JoinRoomRequest { room: "hall".into() };
    let from_nowhere = live
        .request(&ann.actor, Method::JoinRoom.number(), join.encode_to_vec().into())
        .await;
    assert_eq!(from_nowhere.code, Code::InvalidArgument.number());
    assert!(world.switch.rooms.orders.lock().unwrap().is_empty());
    assert!(world.switch.rooms.broadcasts.lock().unwrap().is_empty());
}
