//! The rooms around a session under test: a reactor's own table, neighbours in its rooms, and the orders that the desk hands
//! to the reactor.
//!
//! Orders are judged and broadcasts walked by what production runs; what must hold is told by a model: which rooms the
//! session is in, and what it was brought of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use whimbrel_protocol::cluster::PushTarget;

use super::Harness;
use crate::engine::{Ordered, Place, RoomFrame, RoomOrder, bucket_of_ordered, obey};
use crate::rooms::{JoinError, Offered, PacedBy, ROOMS_PER_SESSION_MAX, RoomLimits, RoomName, Rooms};

/// Rooms that orders can name: one more than a session may be in, and one more.
const ROOMS: u8 = 18;

/// So small that a script reaches each.
const LIMITS: RoomLimits = RoomLimits {
    members_per_room: 3,
    memberships: 24,
    broadcasts: 5,
    deliveries: 7,
    tokens: 4,
};

/// Deliveries of a slice.
const SLICE_MEMBERS: usize = 8;

/// Where the session is. Its slot was another's before.
const MINE: Place = Place {
    slot: 3,
    generation: 2,
};

/// Whom an order of the desk is for, and what it says.
#[derive(Debug, Clone, Copy)]
pub struct DeskOrder {
    /// The room, by number.
    pub room: u8,
    /// Out instead of in.
    pub leave: bool,
    /// The user that the session is to be of.
    pub user_id: u64,
    /// For this session and not for the one that had its slot before.
    pub is_current: bool,
    /// In the session's own app.
    pub is_own_app: bool,
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obeyed {
    /// The session is in the room.
    In,
    /// It is not.
    Out,
    /// The order was for nobody who is there.
    Gone,
    /// A bound was hit.
    Refused,
}

/// A broadcast's number, counted over all rooms, and its frame.
type Numbered = (u64, Arc<RoomFrame>);

/// See the module.
#[derive(Debug)]
pub(super) struct Around {
    table: Rooms<Numbered>,
    /// Rooms that the session is in.
    mine: BTreeSet<Arc<RoomName>>,
    /// Who else is in rooms.
    neighbours: BTreeSet<(u32, Arc<RoomName>)>,
    /// The last broadcast of each room that the session was brought.
    brought: BTreeMap<Arc<RoomName>, u64>,
    /// The rooms of broadcasts that were taken.
    taken: Vec<Arc<RoomName>>,
}

impl Around {
    pub(super) fn new() -> Self {
        Self {
            table: Rooms::new(LIMITS),
            mine: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            brought: BTreeMap::new(),
            taken: Vec::new(),
        }
    }

    /// The session has ended, or will: as the reactor does it, before its slot is anybody else's.
    pub(super) fn leave_all(&mut self) {
        self.table.end(MINE);
        self.mine.clear();
        self.assert_books();
    }

    /// All others have gone too.
    pub(super) fn finish(mut self) {
        self.leave_all();
        for (slot, _) in std::mem::take(&mut self.neighbours) {
            self.table.end(neighbour(slot));
        }
        self.assert_books();
        assert_eq!(
            self.table.due_at_ms(),
            None,
            "a broadcast waits for a room that nobody is in"
        );
    }

    fn assert_books(&self) {
        assert_eq!(
            self.table.memberships(),
            self.mine.len() + self.neighbours.len(),
            "memberships are those that were ordered"
        );
        assert!(self.mine.len() <= ROOMS_PER_SESSION_MAX);
    }

    fn members(&self, name: &Arc<RoomName>) -> u32 {
        let others = self.neighbours.iter().filter(|(_, room)| room == name).count();
        u32::try_from(others).unwrap_or(u32::MAX) + u32::from(self.mine.contains(name))
    }

    /// Whether a bound of the table stands before one more membership.
    fn is_full_for(&self, name: &Arc<RoomName>) -> bool {
        self.table.memberships() >= LIMITS.memberships
            || self.members(name) as usize >= LIMITS.members_per_room
    }
}

impl Harness {
    /// The desk hands on an order of a service node.
    pub fn desk_order(&mut self, order: DeskOrder) -> Obeyed {
        let app = match self.session.identity() {
            Some(identity) if order.is_own_app => identity.app().to_owned(),
            _ => "another".to_owned(),
        };
        let name = room(&app, order.room);
        let place = Place {
            generation: MINE.generation - u32::from(!order.is_current),
            ..MINE
        };
        let room_order = RoomOrder {
            name: Arc::clone(&name),
            session: PushTarget {
                reactor: 0,
                slot: place.slot,
                generation: place.generation,
                user_id: order.user_id,
            },
            leave: order.leave,
            asked_by: None,
            done: Box::new(|_| {}),
        };
        let theirs = (place == MINE && self.session.is_ready())
            .then(|| bucket_of_ordered(&self.session, &room_order, self.limits.buckets))
            .flatten();
        let is_mine = self.session.identity().is_some_and(|identity| {
            identity.user_id == order.user_id && order.is_own_app && order.is_current
        });
        assert_eq!(
            theirs.is_some(),
            is_mine && self.session.is_ready(),
            "an order touches exactly the session that it names: {order:?}"
        );
        let Some(bucket) = theirs else {
            return Obeyed::Gone;
        };
        let was_in = self.around.mine.contains(&name);
        let was_full = self.around.is_full_for(&name);
        let ordered = obey(
            &mut self.around.table,
            &room_order,
            MINE,
            PacedBy(bucket),
            self.now_ms,
        );
        let obeyed = match ordered {
            Ordered::In(members) => {
                self.around.mine.insert(Arc::clone(&name));
                assert_eq!(members, self.around.members(&name));
                Obeyed::In
            }
            Ordered::Out => {
                self.around.mine.remove(&name);
                Obeyed::Out
            }
            Ordered::Gone => Obeyed::Gone,
            Ordered::Refused(error) => {
                assert!(!was_in, "who is in a room stays in it: {error:?}");
                let is_right = match error {
                    JoinError::TooManyRooms => self.around.mine.len() == ROOMS_PER_SESSION_MAX,
                    JoinError::RoomFull | JoinError::Full => was_full,
                };
                assert!(is_right, "{error:?} is said without a reason");
                Obeyed::Refused
            }
        };
        assert_eq!(order.leave, obeyed == Obeyed::Out);
        self.around.assert_books();
        obeyed
    }

    /// Somebody else of the session's app comes into a room or leaves it.
    pub fn neighbour(&mut self, number: u8, room_number: u8, leave: bool) {
        let Some(app) = self.session.identity().map(|identity| identity.app().to_owned()) else {
            return;
        };
        let (slot, name) = (u32::from(number % 4), room(&app, room_number));
        if leave {
            self.around.table.leave(&name, neighbour(slot), None);
            self.around.neighbours.remove(&(slot, name));
        } else if self
            .around
            .table
            .join(&name, neighbour(slot), PacedBy(0), None, self.now_ms)
            .is_ok()
        {
            self.around.neighbours.insert((slot, name));
        }
        self.around.assert_books();
    }

    /// The desk hands on a message to a room.
    pub fn broadcast(&mut self, method: u32, payload: Bytes, room_number: u8) {
        let app = self.session.identity().map(|identity| identity.app().to_owned());
        let (Some(app), Ok(frame)) = (app, RoomFrame::new(method, payload)) else {
            return;
        };
        let name = room(&app, room_number);
        let number = self.around.taken.len() as u64;
        let members = self.around.members(&name);
        let offered = self
            .around
            .table
            .offer(&name, (number, Arc::new(frame)), self.now_ms);
        match offered {
            Offered::Taken(taken) => {
                assert_eq!(taken, members, "a broadcast is taken for all members");
                self.around.taken.push(name);
            }
            Offered::Dropped(dropped) => assert_eq!(dropped, members),
        }
    }

    /// A slice of the broadcasts under way. What a socket gets of it that takes up to `room` bytes of each message comes
    /// back; `None` is one that takes nothing.
    pub fn serve_rooms(&mut self, room: Option<usize>) -> Vec<u8> {
        let mut written = Vec::new();
        let mut is_full = room.is_none();
        for _ in 0..SLICE_MEMBERS {
            let Some(due) = self.around.table.next(self.now_ms) else {
                break;
            };
            let front = self.around.table.front(due.room);
            let (number, frame) = front.cloned().expect("whose turn it is has a broadcast");
            let name = Arc::clone(&self.around.taken[usize::try_from(number).unwrap_or(usize::MAX)]);
            if due.place != MINE {
                let is_neighbour =
                    |(slot, room): &(u32, Arc<RoomName>)| neighbour(*slot) == due.place && *room == name;
                assert!(
                    self.around.neighbours.iter().any(is_neighbour),
                    "{due:?} is nobody's who is in the room"
                );
                continue;
            }
            assert!(
                self.around.mine.contains(&name),
                "a message of a room that the session is not in"
            );
            let before = self.around.brought.insert(name, number);
            assert!(
                before.is_none_or(|before| before < number),
                "broadcast {number} of a room comes behind {before:?}, or again"
            );
            // A socket that took a part of a message takes nothing of the next.
            let takes = room.filter(|_| !is_full);
            let burst = self.deliver(&frame, takes);
            is_full |= takes.is_some_and(|takes| burst.len() == takes);
            written.extend(burst);
        }
        self.around.table.end_slice();
        for (name, members) in self.around.table.take_changes() {
            assert_eq!(members, self.around.members(&name), "what the desk is told is so");
        }
        self.around.assert_books();
        written
    }
}

fn room(app: &str, number: u8) -> Arc<RoomName> {
    Arc::new(RoomName {
        app: app.into(),
        room: format!("room-{}", number % ROOMS).into(),
    })
}

fn neighbour(number: u32) -> Place {
    Place {
        slot: MINE.slot + 1 + number,
        generation: 1,
    }
}
