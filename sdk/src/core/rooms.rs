//! Rooms the app is in: joined again with every new session, and their messages shown once each.
//!
//! A membership ends with its session on the server, and lives on here until the app leaves. Nothing of it is stored: after a
//! restart the app joins again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::bucket;
use whimbrel_protocol::client::{JoinRoomRequest, RoomPush};
use whimbrel_protocol::client_session::Failure;
use whimbrel_protocol::ids::RoomId;
use whimbrel_protocol::method::Method;

use super::{ATTEMPT_WITHIN, Core, NoAnswer, Now, Pause, Purpose};
use crate::error::{Error, Retry};
use crate::events::Event;
use crate::types::RoomMessage;

/// Ids of room messages that are remembered, so that one that comes twice is shown once: a repetition follows within
/// seconds, and a busy room has a hundred messages in one.
const IDS_REMEMBERED: usize = 1_024;

/// One room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// This session is in it, or the app's own call is about to put it there.
    joined: bool,
    in_flight: bool,
    pub(super) pause: Pause,
}

/// The last ids of room messages.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: BTreeSet<Bytes>,
    order: VecDeque<Bytes>,
}

impl Seen {
    /// Whether it is new.
    fn note(&mut self, id: &Bytes) -> bool {
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id.clone());
        if self.order.len() > IDS_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

impl Core {
    /// The app wants to be in a room, and joins it by a call of its own; from now on every new session joins it.
    pub(crate) fn keep_room(&mut self, room: RoomId) {
        self.rooms.entry(room).or_default().joined = true;
    }

    /// The app is not in a room any more.
    pub(crate) fn forget_room(&mut self, room: &RoomId) {
        self.rooms.remove(room);
    }

    /// A new session is in no room.
    pub(super) fn rejoin_rooms(&mut self) {
        for room in self.rooms.values_mut() {
            room.joined = false;
            room.pause.cut_short();
        }
    }

    /// Whatever was under way is forgotten.
    pub(super) fn forget_joins(&mut self) {
        for room in self.rooms.values_mut() {
            *room = Room::default();
        }
    }

    pub(super) fn poll_rooms(&mut self, now: Now) {
        let waiting = |room: &Room| !room.joined && !room.in_flight && room.pause.is_over(now.monotonic);
        let ready: Vec<RoomId> = self
            .rooms
            .iter()
            .filter(|(_, room)| waiting(room))
            .map(|(id, _)| id.clone())
            .collect();
        for room in ready {
            if let Some(kept) = self.rooms.get_mut(&room) {
                kept.in_flight = true;
            }
            let message = JoinRoomRequest {
                room: room.as_str().to_owned(),
            };
            let affinity = Some(bucket::room_affinity(&room));
            let payload = message.encode_to_vec().into();
            let purpose = Purpose::JoinRoom { room };
            let request = self.request(purpose, Method::JoinRoom, affinity, ATTEMPT_WITHIN, payload);
            self.requests.push_back(request);
        }
    }

    pub(super) fn rooms_due(&self) -> Option<Duration> {
        let waiting = self.rooms.values().filter(|room| !room.joined && !room.in_flight);
        waiting.map(|room| room.pause.until()).min()
    }

    pub(super) fn handle_joined(&mut self, room: &RoomId) {
        if let Some(kept) = self.rooms.get_mut(room) {
            kept.joined = true;
            kept.in_flight = false;
            kept.pause.succeed();
        }
    }

    pub(super) fn handle_not_joined(&mut self, room: &RoomId, why: &NoAnswer, now: Now) {
        let jitter = self.jitter();
        let Some(kept) = self.rooms.get_mut(room) else {
            return;
        };
        kept.in_flight = false;
        match why {
            NoAnswer::Lost | NoAnswer::Failed(Failure::NotBegun) => {}
            NoAnswer::Failed(Failure::Refused(refusal)) if Error::refused(refusal).retry == Retry::Never => {
                let error = Error::refused(refusal);
                self.rooms.remove(room);
                self.events.push(Event::RoomLost {
                    room: room.as_str().to_owned(),
                    error,
                });
            }
            NoAnswer::Failed(Failure::Refused(refusal)) => {
                kept.pause.fail(now.monotonic, refusal.retry_after_ms, jitter);
            }
            NoAnswer::Failed(Failure::Deadline | Failure::Malformed) => {
                kept.pause.fail(now.monotonic, 0, jitter);
            }
        }
    }

    /// A message to a room. What comes after the app has left is not shown.
    pub(super) fn handle_room_push(&mut self, push: RoomPush) {
        let Ok(room) = RoomId::new(&push.room) else {
            tracing::warn!("a message names no room");
            return;
        };
        if self.rooms.contains_key(&room) && self.seen.note(&push.client_msg_id) {
            self.events.push(Event::RoomMessageReceived {
                room: room.as_str().to_owned(),
                message: RoomMessage::from_wire(push),
            });
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::client::{Content, Text, content};
    use whimbrel_protocol::client_session::Refusal;
    use whimbrel_protocol::code::Code;

    use super::*;
    use crate::core::{Request, Settings};
    use crate::store::Store;
    use crate::types::EntryBody;

    fn core() -> Core {
        let settings = Settings {
            initial_history: 50,
            initial_unread: false,
            sync_interval: Duration::from_secs(300),
            uid: "alice".into(),
        };
        Core::open(Store::open(None).unwrap(), settings, [1; 32]).unwrap()
    }

    fn now(ms: u64) -> Now {
        Now {
            monotonic: Duration::from_millis(ms),
            server_ms: 1_800_000_000_000 + ms,
        }
    }

    fn room(id: &str) -> RoomId {
        RoomId::new(id).unwrap()
    }

    /// The joins that are asked for now.
    fn joins(core: &mut Core, ms: u64) -> Vec<Request> {
        let asked = core.poll_requests(now(ms)).unwrap();
        asked
            .into_iter()
            .filter(|request| request.method == Method::JoinRoom)
            .collect()
    }

    fn refused(code: Code) -> Failure {
        Failure::Refused(Refusal {
            code: code.number(),
            message: "no".to_owned(),
            retry_after_ms: 1_000,
        })
    }

    fn push(id: u8, in_room: &str) -> Bytes {
        let text = Text {
            text: "hi".to_owned(),
        };
        let push = RoomPush {
            room: in_room.to_owned(),
            sender_uid: "bob".to_owned(),
            client_msg_id: vec![id; 16].into(),
            time_ms: 5,
            content: Some(Content {
                content: Some(content::Content::Text(text)),
            }),
        };
        push.encode_to_vec().into()
    }

    fn events(core: &mut Core) -> Vec<Event> {
        core.begin(false).unwrap();
        core.commit().unwrap()
    }

    #[test]
    fn every_new_session_joins_the_rooms_again_until_it_is_in_them() {
        let mut core = core();
        core.handle_online(now(0));
        core.keep_room(room("hall"));
        assert_eq!(
            joins(&mut core, 0),
            [],
            "the app's own call does it the first time"
        );
        core.handle_offline();
        core.handle_online(now(10));
        let asked = joins(&mut core, 10);
        assert_eq!(asked.len(), 1);
        let request = JoinRoomRequest::decode(asked[0].payload.clone()).unwrap();
        assert_eq!(request.room, "hall");
        assert_eq!(joins(&mut core, 11), [], "it is on its way");
        core.handle_response(asked[0].tag, Err(refused(Code::Overloaded)), now(20))
            .unwrap();
        assert_eq!(joins(&mut core, 900), []);
        let again = joins(&mut core, 3_000);
        assert_eq!(again.len(), 1);
        core.handle_response(again[0].tag, Ok(Bytes::new()), now(3_001))
            .unwrap();
        assert_eq!(joins(&mut core, 60_000), []);
        core.forget_room(&room("hall"));
        core.handle_offline();
        core.handle_online(now(70_000));
        assert_eq!(joins(&mut core, 70_000), []);
    }

    #[test]
    fn a_join_lost_with_its_connection_is_made_on_the_next() {
        let mut core = core();
        core.keep_room(room("hall"));
        core.handle_online(now(0));
        let lost = joins(&mut core, 0);
        core.handle_offline();
        core.handle_lost(lost[0].tag, now(5)).unwrap();
        core.handle_online(now(10));
        assert_eq!(joins(&mut core, 10).len(), 1);
    }

    #[test]
    fn a_room_that_does_not_let_the_device_in_again_is_told_as_lost() {
        let mut core = core();
        core.keep_room(room("hall"));
        core.handle_online(now(0));
        let asked = joins(&mut core, 0);
        core.handle_response(asked[0].tag, Err(refused(Code::RoomFull)), now(1))
            .unwrap();
        assert!(matches!(&events(&mut core)[..], [Event::RoomLost { room, .. }] if room == "hall"));
        assert_eq!(joins(&mut core, 60_000), []);
    }

    #[test]
    fn a_rooms_message_is_shown_once_and_only_while_the_app_is_in_it() {
        let mut core = core();
        core.keep_room(room("hall"));
        let method = whimbrel_protocol::method::PushMethod::Room.number();
        for payload in [push(1, "hall"), push(1, "hall"), push(2, "bar"), push(3, "hall")] {
            core.handle_push(method, payload, now(0)).unwrap();
        }
        let shown = events(&mut core);
        assert_eq!(shown.len(), 2);
        let Event::RoomMessageReceived { message, .. } = &shown[0] else {
            unreachable!("a message was shown")
        };
        assert_eq!(
            (&message.sender_uid[..], &message.body),
            ("bob", &EntryBody::Text("hi".into()))
        );
        core.forget_room(&room("hall"));
        core.handle_push(method, push(4, "hall"), now(0)).unwrap();
        assert_eq!(events(&mut core), []);
    }

    #[test]
    fn a_message_is_new_once_and_memory_is_bounded() {
        let mut seen = Seen::default();
        let id = |number: usize| Bytes::from(number.to_be_bytes().to_vec());
        assert!((0..3 * IDS_REMEMBERED).all(|number| seen.note(&id(number))));
        assert!(!seen.note(&id(3 * IDS_REMEMBERED - 1)));
        assert_eq!(
            (seen.ids.len(), seen.order.len()),
            (IDS_REMEMBERED, IDS_REMEMBERED)
        );
    }
}
