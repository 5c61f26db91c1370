//! The memory registry's state. Pure: `now` is handed in, time to live is judged on every call.
//!
//! Sessions and members of rooms hang on one life (incarnation) of their gateway: when its lease ends they go with it, so a gateway that
//! died leaves nothing behind. Order can be seen everywhere, so all maps are ordered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::time::Duration;

use whimbrel_protocol::cluster::{
    NodeLease, Role, RoomCounts, RoomKey, RoomOnGateway, SessionRecord, UserKey,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::devices::Devices;
use crate::displaced::{By, Displaced};
use crate::lapsed::Lapsed;
use crate::validity::{self, bounded};
use crate::{
    ANNOUNCE_LEN_MAX, ENDED_LEN_MAX, LEASELESS_GRACE, LOOK_UP_LEN_MAX, NODES_MAX, Put, Registered,
    RegistryError, SESSIONS_PER_USER_MAX, STANDSTILL_AFTER,
};

type User = (String, u64);
type Life = (NodeId, u64);
type Room = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Core {
    leases: BTreeMap<NodeId, NodeLease>,
    /// Who held the names that have no lease now.
    lapsed: Lapsed,
    lives: BTreeMap<Life, LifeState>,
    /// When each life ends unless it is renewed.
    expiries: BTreeSet<(Duration, Life)>,
    users: BTreeMap<User, Devices>,
    /// How many members each room has on each life of a gateway; never 0.
    rooms: BTreeMap<Room, BTreeMap<Life, u32>>,
    displaced: Displaced,
    superseded: VecDeque<Life>,
    /// Leases that have begun.
    terms: u64,
    /// The clock at the last call, and the time that had passed by then without standstills.
    last_call: Duration,
    passed: Duration,
}

#[derive(Debug, Default)]
struct LifeState {
    ends_at: Duration,
    /// Which of all leases it has.
    term: Option<NonZeroU64>,
    /// The sessions of this life: user and device.
    sessions: BTreeSet<(User, String)>,
    /// The rooms that have members there.
    rooms: BTreeSet<Room>,
    /// The `order` of the last counts of rooms.
    rooms_order: u64,
}

impl Core {
    /// Ends what has not been renewed in time. Every other call does so first, and goes on with the time that this gives:
    /// `now` without standstills.
    pub(crate) fn expire(&mut self, now: Duration) -> Duration {
        let gap = now.saturating_sub(self.last_call);
        self.last_call = self.last_call.max(now);
        self.passed = self.passed.saturating_add(gap.min(STANDSTILL_AFTER));
        let now = self.passed;
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
            && let Some((_, life)) = self.expiries.pop_first()
        {
            if self.holds_lease(&life) {
                self.lapsed.remember(life.0.clone(), life.1);
            }
            self.end(&life);
        }
        now
    }

    pub(crate) fn put_node(&mut self, now: Duration, lease: NodeLease) -> Result<Put, RegistryError> {
        let now = self.expire(now);
        let ((node, _), ttl) = validity::lease(&lease)?;
        let life = (node.clone(), lease.incarnation);
        if self.superseded.contains(&life) {
            return Err(RegistryError::Superseded { node: lease.node });
        }
        let known = self.leases.get(&node).map(|known| known.incarnation);
        if known.is_none() && self.leases.len() >= NODES_MAX {
            return Err(validity::too_many_nodes());
        }
        // Whether or not its lease had ended: it may only stand still.
        let before = known.or_else(|| self.lapsed.take(&node));
        if let Some(before) = before.filter(|before| *before != lease.incarnation) {
            self.supersede((node.clone(), before));
        }
        let began = known != Some(lease.incarnation);
        self.renew(life.clone(), now.saturating_add(ttl));
        self.leases.insert(node, lease);
        let state = self.lives.entry(life).or_default();
        if began {
            self.terms += 1;
            state.term = NonZeroU64::new(self.terms);
        }
        let term = state.term;
        Ok(Put { began, term })
    }

    pub(crate) fn remove_node(&mut self, now: Duration, node: &NodeId, incarnation: Incarnation) {
        self.expire(now);
        let life = (node.clone(), incarnation.0);
        self.lapsed.give_back(&life);
        if let Some(state) = self.lives.get(&life) {
            self.expiries.remove(&(state.ends_at, life.clone()));
            self.end(&life);
        }
    }

    pub(crate) fn nodes(&mut self, now: Duration, role: Option<Role>) -> Vec<NodeLease> {
        self.expire(now);
        let wanted = |lease: &&NodeLease| role.is_none_or(|role| lease.role == i32::from(role));
        self.leases.values().filter(wanted).cloned().collect()
    }

    pub(crate) fn register(
        &mut self,
        now: Duration,
        record: SessionRecord,
    ) -> Result<Registered, RegistryError> {
        let now = self.expire(now);
        let (gateway, incarnation) = life_of(&record)?;
        let life = (gateway, incarnation);
        if self.superseded.contains(&life) {
            return Err(RegistryError::Superseded {
                node: life.0.to_string(),
            });
        }
        let user = (record.app_key.clone(), record.user_id);
        let device = record.device_id.clone();
        let by = (user.clone(), device.clone());
        let devices = self.users.entry(user.clone()).or_default();
        let mut displaced = Vec::new();
        if let Some(there) = devices.get(&device) {
            if there.session == record.session {
                let epoch = record.login_epoch.max(there.login_epoch);
                devices.insert(SessionRecord {
                    login_epoch: epoch,
                    ..record
                });
                return Ok(Registered {
                    accepted: true,
                    displaced: self.displaced_before(now, &by),
                });
            }
            if there.login_epoch >= record.login_epoch {
                return Ok(Registered {
                    accepted: false,
                    displaced,
                });
            }
        } else if devices.len() >= SESSIONS_PER_USER_MAX
            && let Some(oldest) = devices.sessions().min_by_key(|session| session.login_epoch)
        {
            let oldest = oldest.device_id.clone();
            displaced.extend(devices.remove(&oldest));
        }
        displaced.extend(devices.insert(record));
        let before = self.displaced_before(now, &by);
        for session in &displaced {
            self.detach(session);
            self.displaced.remember(now, &by, session.clone());
        }
        displaced.extend(before);
        if !self.lives.contains_key(&life) {
            self.renew(life.clone(), now.saturating_add(LEASELESS_GRACE));
        }
        if let Some(state) = self.lives.get_mut(&life) {
            state.sessions.insert((user, device));
        }
        Ok(Registered {
            accepted: true,
            displaced,
        })
    }

    /// Who lost a place to this device's logins before, and has none now.
    fn displaced_before(&mut self, now: Duration, by: &By) -> Vec<SessionRecord> {
        let (lives, devices) = (&self.lives, self.users.get(&by.0));
        let has_a_place = |lost: &SessionRecord| {
            let mut sessions = devices.into_iter().flat_map(Devices::sessions);
            sessions.any(|there| there.session == lost.session)
        };
        let is_alive = |lost: &SessionRecord| life_of(lost).is_ok_and(|life| lives.contains_key(&life));
        let before = self.displaced.of(now, by);
        before
            .filter(|lost| is_alive(lost) && !has_a_place(lost))
            .cloned()
            .collect()
    }

    pub(crate) fn unregister(&mut self, now: Duration, record: &SessionRecord) -> Result<(), RegistryError> {
        self.expire(now);
        life_of(record)?;
        let user = (record.app_key.clone(), record.user_id);
        let Some(devices) = self.users.get_mut(&user) else {
            return Ok(());
        };
        if devices
            .get(&record.device_id)
            .is_some_and(|there| there.session == record.session)
        {
            devices.remove(&record.device_id);
            if devices.is_empty() {
                self.users.remove(&user);
            }
            self.detach(record);
        }
        Ok(())
    }

    pub(crate) fn look_up(
        &mut self,
        now: Duration,
        users: Vec<UserKey>,
    ) -> Result<Vec<SessionRecord>, RegistryError> {
        self.expire(now);
        bounded("users in a look-up", users.len(), LOOK_UP_LEN_MAX)?;
        let users: BTreeSet<User> = users
            .into_iter()
            .map(|user| (user.app_key, user.user_id))
            .collect();
        let sessions = users
            .iter()
            .filter_map(|user| self.users.get(user))
            .flat_map(Devices::sessions);
        Ok(sessions.cloned().collect())
    }

    pub(crate) fn announce(
        &mut self,
        now: Duration,
        records: Vec<SessionRecord>,
    ) -> Result<Vec<SessionRecord>, RegistryError> {
        bounded("records in an announcement", records.len(), ANNOUNCE_LEN_MAX)?;
        // All or nothing: an error must not hide who was displaced.
        for record in &records {
            let life = life_of(record)?;
            if self.superseded.contains(&life) {
                return Err(RegistryError::Superseded {
                    node: life.0.to_string(),
                });
            }
        }
        let mut displaced = Vec::new();
        for record in records {
            let registered = self.register(now, record.clone())?;
            if !registered.accepted {
                displaced.push(record);
            }
            displaced.extend(registered.displaced);
        }
        Ok(displaced)
    }

    pub(crate) fn put_rooms(&mut self, now: Duration, counts: RoomCounts) -> Result<(), RegistryError> {
        let now = self.expire(now);
        let (gateway, incarnation) = validity::room_counts(&counts)?;
        let life = (gateway, incarnation.0);
        if self.superseded.contains(&life) {
            return Err(RegistryError::Superseded { node: counts.gateway });
        }
        // All or nothing, as with sessions.
        let mut rooms = Vec::with_capacity(counts.counts.len());
        for count in counts.counts {
            rooms.push((room_of(count.room.unwrap_or_default())?, count.members));
        }
        if !self.lives.contains_key(&life) {
            self.renew(life.clone(), now.saturating_add(LEASELESS_GRACE));
        }
        let state = self.lives.entry(life.clone()).or_default();
        if counts.order != 0 && counts.order < state.rooms_order {
            // It was overtaken by a later one, as when a line stood still: what that said holds.
            return Ok(());
        }
        state.rooms_order = state.rooms_order.max(counts.order);
        for (room, members) in rooms {
            if members == 0 {
                state.rooms.remove(&room);
                remove_from(&mut self.rooms, &room, &life);
            } else {
                state.rooms.insert(room.clone());
                self.rooms.entry(room).or_default().insert(life.clone(), members);
            }
        }
        Ok(())
    }

    pub(crate) fn look_up_room(
        &mut self,
        now: Duration,
        room: RoomKey,
    ) -> Result<Vec<RoomOnGateway>, RegistryError> {
        self.expire(now);
        let Some(lives) = self.rooms.get(&room_of(room)?) else {
            return Ok(Vec::new());
        };
        let on_gateway = |((gateway, incarnation), members): (&Life, &u32)| RoomOnGateway {
            gateway: gateway.as_str().to_owned(),
            incarnation: *incarnation,
            members: *members,
        };
        Ok(lives.iter().map(on_gateway).collect())
    }

    fn holds_lease(&self, (node, incarnation): &Life) -> bool {
        let lease = self.leases.get(node);
        lease.is_some_and(|lease| lease.incarnation == *incarnation)
    }

    fn renew(&mut self, life: Life, ends_at: Duration) {
        let state = self.lives.entry(life.clone()).or_default();
        self.expiries.remove(&(state.ends_at, life.clone()));
        state.ends_at = ends_at;
        self.expiries.insert((ends_at, life));
    }

    /// Ends a life because a later one took its name.
    fn supersede(&mut self, life: Life) {
        if let Some(state) = self.lives.get(&life) {
            self.expiries.remove(&(state.ends_at, life.clone()));
        }
        self.end(&life);
        if self.superseded.len() == ENDED_LEN_MAX {
            self.superseded.pop_front();
        }
        self.superseded.push_back(life);
    }

    /// Drops a life, its lease, its sessions and its members of rooms; its expiry has been taken out.
    fn end(&mut self, life: &Life) {
        if self.holds_lease(life) {
            self.leases.remove(&life.0);
        }
        let LifeState { sessions, rooms, .. } = self.lives.remove(life).unwrap_or_default();
        for room in &rooms {
            remove_from(&mut self.rooms, room, life);
        }
        for (user, device) in sessions {
            if let Some(devices) = self.users.get_mut(&user) {
                devices.remove(&device);
                if devices.is_empty() {
                    self.users.remove(&user);
                }
            }
        }
    }

    /// Takes a session off its life's list.
    fn detach(&mut self, record: &SessionRecord) {
        if let Ok(life) = life_of(record)
            && let Some(state) = self.lives.get_mut(&life)
        {
            state
                .sessions
                .remove(&((record.app_key.clone(), record.user_id), record.device_id.clone()));
        }
    }
}

/// The gateway's life a record hangs on, once the record is known to be whole.
fn life_of(record: &SessionRecord) -> Result<Life, RegistryError> {
    let (gateway, incarnation) = validity::session(record)?;
    Ok((gateway, incarnation.0))
}

/// The room a key names.
fn room_of(key: RoomKey) -> Result<Room, RegistryError> {
    validity::room(&key)?;
    Ok((key.app_key, key.room))
}

/// Forgets the members of `room` on a life; a room without any is no more.
fn remove_from(rooms: &mut BTreeMap<Room, BTreeMap<Life, u32>>, room: &Room, life: &Life) {
    if let Some(lives) = rooms.get_mut(room) {
        lives.remove(life);
        if lives.is_empty() {
            rooms.remove(room);
        }
    }
}
