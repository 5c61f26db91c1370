//! How many requests are in progress, and who is turned away first. Pure but for its counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use whimbrel_protocol::cluster::Priority;

/// Admits requests up to a bound; the lower a priority, the smaller its share, so that a burst of history reads leaves
/// room for messages, and these for logins.
#[derive(Debug)]
pub(super) struct Admission {
    in_progress: AtomicUsize,
    max: usize,
    emptied: Notify,
}

/// A place among the requests in progress; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.in_progress.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

impl Admission {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            in_progress: AtomicUsize::new(0),
            max: max.max(1),
            emptied: Notify::new(),
        })
    }

    /// A place for a request of this priority, if its share has one.
    pub(super) fn enter(self: &Arc<Self>, priority: Priority) -> Option<Place> {
        let share = (self.max * percent(priority) / 100).max(1);
        let enter = |count: usize| (count < share).then_some(count + 1);
        let entered = self
            .in_progress
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter);
        entered.ok().map(|_| Place(Arc::clone(self)))
    }

    /// Returns when nothing is in progress.
    pub(super) async fn idle(&self) {
        loop {
            // Asked to be woken before looking, so that the last place given back in between is not missed.
            let emptied = self.emptied.notified();
            if self.in_progress.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// How full it is, 0 to 1000.
    pub(super) fn load_permille(&self) -> u32 {
        let permille = self.in_progress.load(Ordering::Relaxed) * 1000 / self.max;
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
            .filter_map(|_| admission.enter(Priority::History))
            .collect();
        assert_eq!(history.len(), 5);
        let direct: Vec<_> = (0..7).filter_map(|_| admission.enter(Priority::Direct)).collect();
        assert_eq!(direct.len(), 4);
        assert!(
            admission
                .enter(Priority::Control)
                .is_some_and(|_place| admission.load_permille() == 1000)
        );
        drop(history);
        assert_eq!(admission.load_permille(), 400);
        assert!(admission.enter(Priority::History).is_some());
    }
}
