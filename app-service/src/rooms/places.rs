//! Broadcasts in progress, and their parts that gateways have not answered: who may have another. Pure but for its lock.
//!
//! A broadcast ends with the last gateway's answer, so one gateway that stands still holds every broadcast that it has members
//! for. Rooms share the broadcasts by [`fair`], so that one that is sent to without end leaves places to others; and gateways
//! share the parts: one that holds as many as it may is handed nothing more until it has answered, while all others are.
//! There are as many places for parts, or a gateway's share of them could be all broadcasts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use whimbrel_host::fair;
use whimbrel_protocol::ids::{AppKey, RoomId};

/// Broadcasts of this node that gateways have not answered yet. A gateway answers in a millisecond or so; as many as this mean
/// that several are silent or swamped. The same bound holds for their parts, each of which has its payload: 16 MiB at most.
pub const BROADCASTS_IN_PROGRESS_MAX: usize = 2_048;

/// Of what is free, a room or gateway must have less than this part to have more, once half is taken: beside one that
/// holds half, another still has a hundred, and a gateway that answers is never asked for so many at a time.
const SHARE: usize = 8;

/// Whom a place is counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// A room that a message is for.
    Room(AppKey, RoomId),
    /// A gateway that has not answered.
    Gateway(String),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    broadcasts: usize,
    parts: usize,
    /// Who holds none is not in it.
    held: HashMap<Holder, usize>,
}

/// A place among the broadcasts in progress, or a gateway's part of one; given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    holder: Holder,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        let all = taken.all(&self.holder);
        *all = all.saturating_sub(1);
        if let Entry::Occupied(mut held) = taken.held.entry(self.holder.clone()) {
            match held.get().checked_sub(1) {
                None | Some(0) => drop(held.remove()),
                Some(left) => *held.get_mut() = left,
            }
        }
    }
}

impl Taken {
    /// All places of the kind that this holder takes.
    fn all(&mut self, holder: &Holder) -> &mut usize {
        match holder {
            Holder::Room(..) => &mut self.broadcasts,
            Holder::Gateway(_) => &mut self.parts,
        }
    }
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a broadcast to a room, or for a gateway's part of one; none when its share is used up.
    pub(super) fn enter(&self, holder: Holder) -> Option<Place<'_>> {
        let mut taken = self.taken();
        let held = taken.held.get(&holder).copied().unwrap_or(0);
        let all = taken.all(&holder);
        if !fair::may_take_with(SHARE, held, *all, BROADCASTS_IN_PROGRESS_MAX) {
            return None;
        }
        *all += 1;
        *taken.held.entry(holder.clone()).or_insert(0) += 1;
        drop(taken);
        Some(Place { places: self, holder })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn room(number: usize) -> Holder {
        let id = RoomId::new(&format!("room-{number}")).unwrap();
        Holder::Room(AppKey::new("demo").unwrap(), id)
    }

    #[test]
    fn a_room_that_is_sent_to_without_end_leaves_places_to_others() {
        let places = Places::default();
        let hot: Vec<_> = std::iter::from_fn(|| places.enter(room(0))).collect();
        assert_eq!(hot.len(), BROADCASTS_IN_PROGRESS_MAX / 2);
        let others: Vec<_> = std::iter::from_fn(|| places.enter(room(1))).collect();
        assert!(others.len() > 100, "{}", others.len());
        drop((hot, others));
        let taken = places.taken();
        assert_eq!((taken.broadcasts, taken.parts, taken.held.len()), (0, 0, 0));
    }

    #[test]
    fn a_gateway_that_answers_nothing_is_handed_no_more_than_its_share_whatever_rooms_it_has() {
        let places = Places::default();
        let mut held = Vec::new();
        for number in 0..3 * BROADCASTS_IN_PROGRESS_MAX {
            let broadcast = places
                .enter(room(number))
                .expect("a room that has none gets a place");
            // Whoever is not handed over ends at once.
            if let Some(part) = places.enter(Holder::Gateway("frozen".into())) {
                held.push((broadcast, part));
            }
        }
        assert_eq!(held.len(), BROADCASTS_IN_PROGRESS_MAX / 2);
        let _mine = places.enter(room(0)).unwrap();
        assert!(places.enter(Holder::Gateway("answers".into())).is_some());
    }
}
