//! How many requests are in progress, and who is turned away first. Pure but for its lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use whimbrel_host::fair;
use whimbrel_protocol::cluster::Priority;

/// Admits requests up to a bound; the lower a priority, the smaller its share, so that a burst of history reads leaves
/// room for messages, and these for logins. Users share what there is by [`fair`]: however much others ask, one who has
/// nothing in progress finds a place.
#[derive(Debug)]
pub(super) struct Admission {
    places: Mutex<Places>,
    max: usize,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Places {
    taken: usize,
    /// How many each user has; who has none is not in it.
    of_user: HashMap<u64, usize>,
}

/// A place among the requests in progress; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    asker: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.admission.places();
        places.taken = places.taken.saturating_sub(1);
        if let Entry::Occupied(mut own) = places.of_user.entry(self.asker) {
            match own.get().checked_sub(1) {
                None | Some(0) => drop(own.remove()),
                Some(left) => *own.get_mut() = left,
            }
        }
        if places.taken == 0 {
            drop(places);
            self.admission.emptied.notify_waiters();
        }
    }
}

impl Admission {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Mutex::default(),
            max: max.max(1),
            emptied: Notify::new(),
        })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a request of this priority, if its share has one for `asker`; 0: nobody's request, for which only the
    /// priority counts.
    pub(super) fn enter(self: &Arc<Self>, priority: Priority, asker: u64) -> Option<Place> {
        let share = (self.max * percent(priority) / 100).max(1);
        let mut places = self.places();
        let own = match asker {
            0 => 0,
            user => places.of_user.get(&user).copied().unwrap_or(0),
        };
        if !fair::may_take(own, places.taken, share) {
            return None;
        }
        places.taken += 1;
        if asker != 0 {
            *places.of_user.entry(asker).or_insert(0) += 1;
        }
        drop(places);
        Some(Place {
            admission: Arc::clone(self),
            asker,
        })
    }

    /// Returns when nothing is in progress.
    pub(super) async fn idle(&self) {
        loop {
            // Asked to be woken before looking, so that the last place given back in between is not missed.
            let emptied = self.emptied.notified();
            if self.places().taken == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// How full it is, 0 to 1000.
    pub(super) fn load_permille(&self) -> u32 {
        let permille = self.places().taken * 1000 / self.max;
        u32::try_from(permille).unwrap_or(1000).min(1000)
    }
}

const fn percent(priority: Priority) -> usize {
    match priority {
        Priority::Control => 100,
        Priority::Direct => 90,
        Priority::Group => 80,
        Priority::Room => 65,
        Priority::History => 50,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_priorities_are_turned_away_first_and_places_come_back() {
        let admission = Admission::new(10);
        let history: Vec<_> = (0..7)
            .filter_map(|_| admission.enter(Priority::History, 0))
            .collect();
        assert_eq!(history.len(), 5);
        let direct: Vec<_> = (0..7)
            .filter_map(|_| admission.enter(Priority::Direct, 0))
            .collect();
        assert_eq!(direct.len(), 4);
        assert!(
            admission
                .enter(Priority::Control, 0)
                .is_some_and(|_place| admission.load_permille() == 1000)
        );
        drop(history);
        assert_eq!(admission.load_permille(), 400);
        assert!(admission.enter(Priority::History, 0).is_some());
    }

    #[test]
    fn who_asks_little_is_let_in_beside_those_who_ask_all_they_can() {
        let admission = Admission::new(4_096);
        let mut greedy = Vec::new();
        loop {
            let before = greedy.len();
            greedy.extend((1..=1_000).filter_map(|user| admission.enter(Priority::Direct, user)));
            if greedy.len() == before {
                break;
            }
        }
        assert!(greedy.len() >= 3_000, "{}", greedy.len());
        let modest = admission.enter(Priority::Direct, 7_777);
        assert!(modest.is_some());
        drop(greedy);
        drop(modest);
        assert_eq!(
            (admission.load_permille(), admission.places().of_user.len()),
            (0, 0)
        );
    }
}
