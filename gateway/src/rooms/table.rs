//! The rooms of one reactor: memberships, and the broadcasts that walk over them. Pure: `now_ms` is handed in.
//!
//! PERFORMANCE: [`Rooms::next`] is called for every delivery and allocates nothing. Joining, leaving and ending a session
//! are O(1) per membership.
//!
//! Broadcasts of one room are served one after another, so that members see them in order; rooms take turns, a slice
//! each. A broadcast that has to wait is bounded in number, in the deliveries it stands for, and in time; what falls out
//! is counted ([`Rooms::take_drops`]). Rooms share the number and the deliveries by [`fair`]: one that is sent to faster than
//! it is walked leaves half of both to others, and whoever has no broadcast waiting gets one in.
//!
//! Members whose user buckets have no tokens hold up nobody else for long. A walk waits for them up to [`PACED_MAX_MS`] while
//! nothing follows it, so that in a large or crowded room all are served, only later. Once the broadcast behind it has waited
//! for [`HELD_UP_MAX_MS`], or places for broadcasts run short, it goes on without them, and so do those that follow until none
//! has waited so long. A pause for each broadcast, however short, would have the crowded bucket set the room's pace; this way
//! the others get everything, late by that bound and a rest at most. Nor does the crowded bucket lose everything: it gets as
//! many deliveries as it has tokens, which is all that it could have, and they go round among its members ([`Roster`]).
//!
//! Orders of one session may come in another order than it asked for them, and twice: a request waits in a node that stands
//! still, is carried out by another node, and once more when the first goes on. So a membership knows the last request that
//! wanted it, and an earlier one does not end it. A join that comes behind a later leave is carried out: its session is sent
//! what it does not want, until it ends. Sessions must be taken out with [`Rooms::end`] before their slot is used again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use whimbrel_host::fair;
use whimbrel_protocol::frame::RequestId;

use super::pace::{Member, Pace, PacedBy};
use super::roster::Roster;
use super::{ROOMS_PER_SESSION_MAX, RoomLimits, RoomName};
use crate::engine::Place;

/// Of what is free, a room must have less than this part to have more, once half is taken: beside one that takes all it can,
/// another still has some fifteen broadcasts, and fifty such rooms leave places for thirty more.
const SHARE: usize = 8;

/// How long a broadcast may wait for its first member, in milliseconds: by then a conversation has moved on.
const WAIT_MAX_MS: u64 = 5_000;

/// How long a walk may wait for tokens of crowded buckets, in milliseconds; those who had none by then are passed over.
const PACED_MAX_MS: u64 = 2_000;

/// How long a broadcast may wait for members without a token in the walk before it, in milliseconds: in a chat nobody notices,
/// and a bucket gains as many tokens again as it can save up.
const HELD_UP_MAX_MS: u64 = 250;

/// The pause before members without a token are tried again, in milliseconds: some tens of tokens.
const PACED_REST_MS: u64 = 20;

/// Why a session was not put into a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinError {
    /// It is in as many as it may be.
    TooManyRooms,
    /// The room has as many members here as it may have.
    RoomFull,
    /// The reactor holds as many memberships as it may.
    Full,
}

/// What became of a broadcast that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    /// So many members are going to be served.
    Taken(u32),
    /// So many members will not get it: too much waits already.
    Dropped(u32),
}

/// Whose turn it is; the broadcast is [`Rooms::front`] of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The session.
    pub(crate) place: Place,
    /// The room's number.
    pub(crate) room: u32,
}

/// Members who were not served by a broadcast that had been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Drops {
    /// Their user buckets had no tokens for too long.
    pub(crate) paced: u64,
    /// The broadcast had waited for too long.
    pub(crate) late: u64,
}

#[derive(Debug)]
struct Broadcast<B> {
    what: B,
    since_ms: u64,
    /// Deliveries it was counted for.
    deliveries: usize,
}

#[derive(Debug)]
struct Room<B> {
    name: Arc<RoomName>,
    roster: Roster,
    queue: VecDeque<Broadcast<B>>,
    /// Deliveries that the queue stands for.
    deliveries: usize,
    /// The first of the queue is being walked.
    walking: bool,
    give_up_at_ms: u64,
    rest_until_ms: u64,
}

impl<B> Room<B> {
    /// Whether it is time to go on without those who have no token.
    fn gives_up(&self, places_are_short: bool, now_ms: u64) -> bool {
        let is_held_up = |next: &Broadcast<B>| now_ms.saturating_sub(next.since_ms) >= HELD_UP_MAX_MS;
        let next = self.queue.get(1);
        self.give_up_at_ms <= now_ms || next.is_some_and(|next| places_are_short || is_held_up(next))
    }
}

/// One membership, as its session knows it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    room: u32,
    position: u32,
    /// The last of the session's requests to be in the room; none of those whose number is known.
    wanted_by: Option<RequestId>,
}

/// See the module. `B` is a broadcast's content.
#[derive(Debug)]
pub(crate) struct Rooms<B> {
    limits: RoomLimits,
    numbers: HashMap<Arc<RoomName>, u32>,
    rooms: Vec<Option<Room<B>>>,
    free: Vec<u32>,
    sessions: HashMap<Place, Vec<Entry>>,
    memberships: usize,
    /// Rooms with broadcasts, the one whose turn it is first.
    turns: VecDeque<u32>,
    broadcasts: usize,
    deliveries: usize,
    pace: Pace,
    drops: Drops,
    /// Rooms whose number of members has changed.
    changed: BTreeSet<Arc<RoomName>>,
}

impl<B> Rooms<B> {
    /// No room yet.
    pub(crate) fn new(limits: RoomLimits) -> Self {
        Self {
            limits,
            numbers: HashMap::new(),
            rooms: Vec::new(),
            free: Vec::new(),
            sessions: HashMap::new(),
            memberships: 0,
            turns: VecDeque::new(),
            broadcasts: 0,
            deliveries: 0,
            pace: Pace::new(limits.tokens),
            drops: Drops::default(),
            changed: BTreeSet::new(),
        }
    }

    /// Puts a session into a room and says how many are in it now. One that is in it stays. `asked_by` is the request that
    /// is carried out, if that is known.
    ///
    /// # Errors
    /// When a bound is hit; nothing has changed then.
    pub(crate) fn join(
        &mut self,
        name: &Arc<RoomName>,
        place: Place,
        bucket: PacedBy,
        asked_by: Option<RequestId>,
        now_ms: u64,
    ) -> Result<u32, JoinError> {
        let number = self.numbers.get(name).copied();
        let of_session = self
            .sessions
            .get_mut(&place)
            .map_or(&mut [][..], Vec::as_mut_slice);
        if let Some(entry) = of_session.iter_mut().find(|entry| Some(entry.room) == number) {
            entry.wanted_by = entry.wanted_by.max(asked_by);
            return Ok(self.members(name));
        }
        if of_session.len() >= ROOMS_PER_SESSION_MAX {
            return Err(JoinError::TooManyRooms);
        }
        // What has changed and could not be told yet is bounded too, however often clients come and go.
        if self.memberships >= self.limits.memberships || self.changed.len() >= self.limits.memberships {
            return Err(JoinError::Full);
        }
        if self.members(name) as usize >= self.limits.members_per_room {
            return Err(JoinError::RoomFull);
        }
        let number = number.unwrap_or_else(|| self.open(name));
        self.pace.open(bucket, now_ms);
        let room = room_mut(&mut self.rooms, number);
        let position = room.roster.push(Member { place, bucket });
        self.sessions.entry(place).or_default().push(Entry {
            room: number,
            position,
            wanted_by: asked_by,
        });
        self.memberships += 1;
        self.changed.insert(Arc::clone(name));
        Ok(self.members(name))
    }

    fn open(&mut self, name: &Arc<RoomName>) -> u32 {
        let room = Room {
            name: Arc::clone(name),
            roster: Roster::default(),
            queue: VecDeque::new(),
            deliveries: 0,
            walking: false,
            give_up_at_ms: 0,
            rest_until_ms: 0,
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.rooms.push(None);
            u32::try_from(self.rooms.len() - 1).expect("memberships are bounded below 2^32")
        });
        self.rooms[number as usize] = Some(room);
        self.numbers.insert(Arc::clone(name), number);
        number
    }

    /// Takes a session out of a room, if it is in it and has not wanted to be since the request `asked_by`.
    pub(crate) fn leave(&mut self, name: &RoomName, place: Place, asked_by: Option<RequestId>) {
        let Some(number) = self.numbers.get(name).copied() else {
            return;
        };
        let Some(entries) = self.sessions.get_mut(&place) else {
            return;
        };
        let Some(index) = entries.iter().position(|entry| entry.room == number) else {
            return;
        };
        if asked_by.is_some() && asked_by < entries[index].wanted_by {
            return;
        }
        let entry = entries.swap_remove(index);
        if entries.is_empty() {
            self.sessions.remove(&place);
        }
        self.remove(entry);
    }

    /// Takes a session out of all its rooms: it has ended.
    pub(crate) fn end(&mut self, place: Place) {
        for entry in self.sessions.remove(&place).into_iter().flatten() {
            self.remove(entry);
        }
    }

    fn remove(&mut self, entry: Entry) {
        let Self { rooms, sessions, .. } = self;
        let room = room_mut(rooms, entry.room);
        room.roster.remove(entry.position, |member, position| {
            relocate(sessions, entry.room, member, position)
        });
        let emptied = room.roster.len() == 0;
        self.changed.insert(Arc::clone(&room.name));
        self.memberships -= 1;
        if emptied {
            self.close(entry.room);
        }
    }

    /// Forgets a room that nobody is in.
    fn close(&mut self, number: u32) {
        let Some(room) = self.rooms[number as usize].take() else {
            return;
        };
        self.broadcasts -= room.queue.len();
        self.deliveries -= room.deliveries;
        if !room.queue.is_empty() {
            self.turns.retain(|turn| *turn != number);
        }
        self.numbers.remove(&room.name);
        self.free.push(number);
    }

    /// How many members a room has here.
    pub(crate) fn members(&self, name: &RoomName) -> u32 {
        let number = self.numbers.get(name);
        let room = number.and_then(|number| self.rooms[*number as usize].as_ref());
        room.map_or(0, |room| u32::try_from(room.roster.len()).unwrap_or(u32::MAX))
    }

    /// How many memberships there are.
    pub(crate) fn memberships(&self) -> usize {
        self.memberships
    }

    /// Hands in a broadcast for everybody in the room.
    pub(crate) fn offer(&mut self, name: &RoomName, what: B, now_ms: u64) -> Offered {
        let members = self.members(name);
        let Some(number) = self.numbers.get(name).copied() else {
            return Offered::Taken(0);
        };
        let deliveries = members as usize;
        let room = room_mut(&mut self.rooms, number);
        let limits = &self.limits;
        // Whoever has none waiting is asked for no more than a place: rooms take turns, so its deliveries keep nobody waiting.
        let has_room = room.queue.is_empty()
            || (self.deliveries.saturating_add(deliveries) <= limits.deliveries
                && fair::may_take_with(SHARE, room.deliveries, self.deliveries, limits.deliveries));
        let has_place = fair::may_take_with(SHARE, room.queue.len(), self.broadcasts, limits.broadcasts);
        if !has_room || !has_place {
            return Offered::Dropped(members);
        }
        if room.queue.is_empty() {
            self.turns.push_back(number);
        }
        room.queue.push_back(Broadcast {
            what,
            since_ms: now_ms,
            deliveries,
        });
        room.deliveries += deliveries;
        self.broadcasts += 1;
        self.deliveries += deliveries;
        Offered::Taken(members)
    }

    /// The next delivery, counted as done; none when nothing is left that could be done now.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Due> {
        let mut resting = 0;
        // As many may come again in a rest before rooms are held to their shares.
        let places_are_short =
            self.broadcasts >= self.limits.broadcasts / 4 || self.deliveries >= self.limits.deliveries / 4;
        while resting < self.turns.len() {
            let number = *self.turns.front()?;
            let Self { rooms, sessions, .. } = self;
            let room = room_mut(rooms, number);
            if room.rest_until_ms > now_ms {
                self.turns.rotate_left(1);
                resting += 1;
                continue;
            }
            if !room.walking {
                let waited_ms = room
                    .queue
                    .front()
                    .map_or(0, |broadcast| now_ms.saturating_sub(broadcast.since_ms));
                if waited_ms > WAIT_MAX_MS {
                    self.drops.late += room.roster.len() as u64;
                    self.finish(number);
                    continue;
                }
                room.roster.begin();
                room.walking = true;
                room.give_up_at_ms = now_ms.saturating_add(PACED_MAX_MS);
            }
            match room.roster.current() {
                Some(member) if self.pace.take(member.bucket, now_ms) => {
                    room.roster
                        .pass(|member, position| relocate(sessions, number, member, position));
                    return Some(Due {
                        place: member.place,
                        room: number,
                    });
                }
                Some(_) => room.roster.defer(),
                None if room.roster.left() == 0 => self.finish(number),
                None if room.roster.wrap() => {}
                None if room.gives_up(places_are_short, now_ms) => {
                    self.drops.paced += room.roster.left() as u64;
                    self.finish(number);
                }
                None => {
                    room.roster.again();
                    room.rest_until_ms = now_ms.saturating_add(PACED_REST_MS);
                }
            }
        }
        None
    }

    /// The broadcast at the front of a room is over. The room is at the front of the turns.
    fn finish(&mut self, number: u32) {
        let room = room_mut(&mut self.rooms, number);
        room.roster.finish();
        room.walking = false;
        room.rest_until_ms = 0;
        if let Some(over) = room.queue.pop_front() {
            room.deliveries -= over.deliveries;
            self.broadcasts -= 1;
            self.deliveries -= over.deliveries;
        }
        if room.queue.is_empty() {
            self.turns.pop_front();
        }
    }

    /// What is being broadcast in a room.
    pub(crate) fn front(&self, room: u32) -> Option<&B> {
        let room = self.rooms.get(room as usize)?.as_ref()?;
        room.queue.front().map(|broadcast| &broadcast.what)
    }

    /// A slice is over: it is the next room's turn.
    pub(crate) fn end_slice(&mut self) {
        if self.turns.len() > 1 {
            self.turns.rotate_left(1);
        }
    }

    /// When there is something to deliver.
    pub(crate) fn due_at_ms(&self) -> Option<u64> {
        let rest_until = |number: &u32| {
            let room = self.rooms[*number as usize].as_ref();
            room.map_or(0, |room| room.rest_until_ms)
        };
        self.turns.iter().map(rest_until).min()
    }

    /// What was not served since this was last asked.
    pub(crate) fn take_drops(&mut self) -> Drops {
        std::mem::take(&mut self.drops)
    }

    /// Whether the numbers of members have changed since they were last taken.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The rooms that have other numbers of members than when this was last asked, and these numbers.
    pub(crate) fn take_changes(&mut self) -> Vec<(Arc<RoomName>, u32)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|name| {
                let members = self.members(&name);
                (name, members)
            })
            .collect()
    }

    /// Changes that could not be told, to be told again.
    pub(crate) fn put_back(&mut self, changes: Vec<(Arc<RoomName>, u32)>) {
        self.changed.extend(changes.into_iter().map(|(name, _)| name));
    }
}

fn room_mut<B>(rooms: &mut [Option<Room<B>>], number: u32) -> &mut Room<B> {
    rooms
        .get_mut(number as usize)
        .and_then(Option::as_mut)
        .expect("a room that is numbered, has members or has its turn is there")
}

/// A member has another position in its room now.
fn relocate(sessions: &mut HashMap<Place, Vec<Entry>>, room: u32, member: Member, position: u32) {
    let entries = sessions
        .get_mut(&member.place)
        .map_or(&mut [][..], Vec::as_mut_slice);
    if let Some(entry) = entries.iter_mut().find(|entry| entry.room == room) {
        entry.position = position;
    }
}
