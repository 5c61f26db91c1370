//! How many members each room has on this gateway, reactor by reactor, and what of it the registry knows. Pure.
//!
//! A room's first member is told at once, and whoever put it there hears of it only then: so a broadcast that begins after
//! a join was answered finds this gateway. Everything else is told at leisure, many rooms in one request. Numbers are
//! absolute: one request at a time is under way, and a request that may have been lost is made again with the numbers of
//! then.
//!
//! Legal order: any `handle_*`; [`Ledger::poll`] gives a request when none is under way, and exactly one
//! [`Ledger::handle_told`] follows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::RoomName;

/// Numbers that merely changed are told this often, in milliseconds: a count may be as old, which nobody minds.
const TELL_EVERY_MS: u64 = 1_000;

/// The pause after a request that failed, in milliseconds.
const TELL_AGAIN_MS: u64 = 500;

#[derive(Debug)]
struct Counts<T> {
    by_reactor: Box<[u32]>,
    /// What the registry knows; none when that is not certain.
    told: Option<u32>,
    /// Who waits for the registry to know of the room.
    waiting: Vec<T>,
}

impl<T> Counts<T> {
    fn total(&self) -> u32 {
        self.by_reactor
            .iter()
            .fold(0, |sum, members| sum.saturating_add(*members))
    }

    fn is_settled(&self) -> bool {
        self.told == Some(self.total()) && self.waiting.is_empty()
    }
}

/// What became of those who waited.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released<T> {
    /// The registry knows of their rooms.
    pub(super) known: Vec<T>,
    /// It could not be told now.
    pub(super) unknown: Vec<T>,
}

/// See the module. `T` waits for a room to be known.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    reactors: usize,
    rooms: BTreeMap<Arc<RoomName>, Counts<T>>,
    /// Rooms whose number the registry does not know.
    unsettled: BTreeSet<Arc<RoomName>>,
    /// Rooms that somebody waits for; they are unsettled too.
    urgent: BTreeSet<Arc<RoomName>>,
    /// The request under way.
    telling: BTreeMap<Arc<RoomName>, u32>,
    /// The registry has lost everything since that was sent, or before it came.
    lost_meanwhile: bool,
    next_at_ms: u64,
    /// After a failure not even what is urgent goes before that.
    not_before_ms: u64,
}

impl<T> Ledger<T> {
    /// A ledger for so many reactors.
    pub(super) fn new(reactors: usize) -> Self {
        Self {
            reactors,
            rooms: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            urgent: BTreeSet::new(),
            telling: BTreeMap::new(),
            lost_meanwhile: false,
            next_at_ms: 0,
            not_before_ms: 0,
        }
    }

    /// A reactor has so many members of a room now.
    pub(super) fn handle_count(&mut self, name: &Arc<RoomName>, reactor: usize, members: u32) {
        let reactors = self.reactors;
        if !self.rooms.contains_key(name) && members == 0 {
            return;
        }
        let counts = self.rooms.entry(Arc::clone(name)).or_insert_with(|| Counts {
            by_reactor: vec![0; reactors].into_boxed_slice(),
            told: Some(0),
            waiting: Vec::new(),
        });
        if let Some(count) = counts.by_reactor.get_mut(reactor) {
            *count = members;
        }
        self.look_at(name);
    }

    /// Somebody has joined on a reactor. Gives `waiting` back at once when the registry knows of the room already; else
    /// it comes out of [`Ledger::handle_told`].
    pub(super) fn handle_join(
        &mut self,
        name: &Arc<RoomName>,
        reactor: usize,
        members: u32,
        waiting: T,
    ) -> Option<T> {
        self.handle_count(name, reactor, members);
        let forgotten_soon = self.telling.get(name) == Some(&0);
        match self.rooms.get_mut(name) {
            Some(counts) if matches!(counts.told, None | Some(0)) || forgotten_soon => {
                counts.waiting.push(waiting);
                self.urgent.insert(Arc::clone(name));
                self.unsettled.insert(Arc::clone(name));
                None
            }
            _ => Some(waiting),
        }
    }

    /// The registry has lost everything: all must be told again, now.
    pub(super) fn handle_lost(&mut self) {
        for (name, counts) in &mut self.rooms {
            counts.told = None;
            self.unsettled.insert(Arc::clone(name));
        }
        self.next_at_ms = 0;
        self.lost_meanwhile = !self.telling.is_empty();
    }

    /// The reactors that have members of a room, and how many.
    pub(super) fn members(&self, name: &RoomName) -> impl Iterator<Item = (usize, u32)> {
        let counts = self
            .rooms
            .get(name)
            .map_or(&[][..], |counts| &counts.by_reactor[..]);
        counts
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, members)| *members > 0)
    }

    /// When [`Ledger::poll`] is next of use, if it is.
    pub(super) fn due_at_ms(&self) -> Option<u64> {
        if !self.telling.is_empty() || self.unsettled.is_empty() {
            return None;
        }
        let at_ms = if self.urgent.is_empty() {
            self.next_at_ms
        } else {
            0
        };
        Some(at_ms.max(self.not_before_ms))
    }

    /// Rooms and their numbers to be told now, at most `len_max`: those that somebody waits for first.
    pub(super) fn poll(&mut self, now_ms: u64, len_max: usize) -> Option<Vec<(Arc<RoomName>, u32)>> {
        if self.due_at_ms().is_none_or(|at_ms| at_ms > now_ms) {
            return None;
        }
        let leisurely = self.next_at_ms <= now_ms;
        let others = self.unsettled.difference(&self.urgent).filter(|_| leisurely);
        let names: Vec<_> = self.urgent.iter().chain(others).take(len_max).cloned().collect();
        for name in &names {
            let members = self.rooms.get(name).map_or(0, Counts::total);
            self.telling.insert(Arc::clone(name), members);
            self.urgent.remove(name);
            self.unsettled.remove(name);
        }
        if leisurely && self.unsettled.is_empty() {
            self.next_at_ms = now_ms.saturating_add(TELL_EVERY_MS);
        }
        Some(
            self.telling
                .iter()
                .map(|(name, members)| (Arc::clone(name), *members))
                .collect(),
        )
    }

    /// The request under way has ended, well or not.
    pub(super) fn handle_told(&mut self, now_ms: u64, well: bool) -> Released<T> {
        let mut released = Released {
            known: Vec::new(),
            unknown: Vec::new(),
        };
        let lost = std::mem::take(&mut self.lost_meanwhile);
        if !well {
            self.not_before_ms = now_ms.saturating_add(TELL_AGAIN_MS);
        }
        for (name, members) in std::mem::take(&mut self.telling) {
            let Some(counts) = self.rooms.get_mut(&name) else {
                continue;
            };
            if well && !lost {
                counts.told = Some(members);
                if members > 0 {
                    released.known.append(&mut counts.waiting);
                    self.urgent.remove(&name);
                }
            } else {
                // It may have been carried out all the same: what the registry knows is told again, whatever it is.
                counts.told = None;
                released.unknown.append(&mut counts.waiting);
                self.urgent.remove(&name);
                self.unsettled.insert(Arc::clone(&name));
                continue;
            }
            self.look_at(&name);
        }
        released
    }

    /// Puts a room on the list of those to be told, or takes it off, or forgets it.
    fn look_at(&mut self, name: &Arc<RoomName>) {
        let Some(counts) = self.rooms.get(name) else {
            return;
        };
        if !counts.is_settled() {
            self.unsettled.insert(Arc::clone(name));
            return;
        }
        // What is under way may still change what is known.
        if self.telling.contains_key(name) {
            return;
        }
        self.unsettled.remove(name);
        if counts.total() == 0 {
            self.rooms.remove(name);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.unsettled.is_empty() && self.urgent.is_empty()
    }
}
