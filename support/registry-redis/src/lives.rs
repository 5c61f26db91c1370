//! The lives of all places, and the one life that follows from them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use whimbrel_protocol::ids::Incarnation;
use whimbrel_registry::rendezvous::mix;

use crate::keys::Place;
use crate::meter;

/// What this process knows of each place's life. When one changes, the registry's life is another: a Cluster that lost one of its
/// masters has lost what was there, and everybody announces again.
pub(crate) struct Lives {
    known: Mutex<Vec<String>>,
    registry: watch::Sender<Option<Incarnation>>,
}

impl Lives {
    pub(crate) fn new() -> Self {
        Self {
            known: Mutex::new(vec![String::new(); Place::COUNT]),
            registry: watch::channel(None).0,
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a place; empty when it is not known yet.
    pub(crate) fn of(&self, place: Place) -> String {
        self.known().get(place.index()).cloned().unwrap_or_default()
    }

    /// A place has this life; says whether that is news. Nobody else is told before [`Lives::publish`].
    pub(crate) fn learn(&self, place: Place, life: String) -> bool {
        let mut known = self.known();
        let Some(there) = known.get_mut(place.index()) else {
            return false;
        };
        let is_news = *there != life;
        *there = life;
        is_news
    }

    /// Says which life the registry has, once all places have been looked at: a server that lost many of them is one loss.
    pub(crate) fn publish(&self) {
        let known = self.known();
        if known.iter().any(String::is_empty) {
            return;
        }
        let now = Some(combined(&known));
        let changed = self.registry.send_if_modified(|life| {
            let before = std::mem::replace(life, now);
            if before.is_some() && before != now {
                meter::new_life();
            }
            before != now
        });
        if changed {
            tracing::debug!("the registry has another life");
        }
    }

    /// Whether the registry's life is told of all that is known to be lost.
    pub(crate) fn is_published(&self) -> bool {
        let known = self.known();
        *self.registry.borrow() == Some(combined(&known))
    }

    /// The registry's life.
    pub(crate) fn registry(&self) -> watch::Receiver<Option<Incarnation>> {
        self.registry.subscribe()
    }
}

/// The same for all who know the same lives.
fn combined(lives: &[String]) -> Incarnation {
    let fold = |sum: u64, life: &String| mix(sum ^ u64::from_str_radix(life, 16).unwrap_or_default());
    // 0 stands for none on links.
    Incarnation(lives.iter().fold(0, fold).max(1))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_registry_has_another_life_when_any_place_has() {
        let lives = Lives::new();
        let mut registry = lives.registry();
        for place in Place::all() {
            lives.publish();
            assert_eq!(*registry.borrow_and_update(), None);
            assert!(lives.learn(place, format!("{:016x}", place.index() + 1)));
        }
        assert!(!lives.is_published());
        lives.publish();
        assert!(lives.is_published());
        let first = registry.borrow_and_update().unwrap();
        assert!(!lives.learn(Place::Part(3), lives.of(Place::Part(3))));
        lives.publish();
        assert!(!registry.has_changed().unwrap());
        for part in [3, 4] {
            assert!(lives.learn(Place::Part(part), "ff".to_owned()));
        }
        assert!(!registry.has_changed().unwrap() && !lives.is_published());
        lives.publish();
        assert_ne!(registry.borrow_and_update().unwrap(), first);
    }
}
