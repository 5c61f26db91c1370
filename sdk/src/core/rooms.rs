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
    pause: Pause,
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
mod tests {
    use super::*;

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
