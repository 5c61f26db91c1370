//! Markers of this node whose work was lost, and when each is to be taken up again. Pure but for its lock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::keys::MarkerKey;

/// The first pause; doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Markers remembered; beyond, they are found by the sweeper's look at this node's own. Some 100 bytes each.
const REMEMBERED_MAX: usize = 100_000;

/// Lost work of this node.
#[derive(Default)]
pub struct RetryList {
    by_marker: Mutex<BTreeMap<MarkerKey, Lost>>,
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    due: Duration,
    attempt: u32,
}

impl RetryList {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<MarkerKey, Lost>> {
        self.by_marker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work of `marker` was lost at `now`, after `attempt` earlier losses.
    pub fn add(&self, marker: MarkerKey, attempt: u32, now: Duration) {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << attempt.min(10))
            .min(LONGEST_PAUSE);
        let mut lost = self.lock();
        if lost.len() < REMEMBERED_MAX || lost.contains_key(&marker) {
            lost.insert(
                marker,
                Lost {
                    due: now + pause,
                    attempt: attempt.saturating_add(1),
                },
            );
        } else {
            metrics::counter!("whimbrel_markers_left_total").increment(1);
        }
    }

    /// The pauses of all are over at `now`: what they waited for is there again.
    pub fn make_due(&self, now: Duration) {
        for lost in self.lock().values_mut() {
            lost.due = lost.due.min(now);
        }
    }

    /// Takes up to `count` whose pause is over, each with how often it was lost.
    #[must_use]
    pub fn take_due(&self, now: Duration, count: usize) -> Vec<(MarkerKey, u32)> {
        let mut lost = self.lock();
        let due = lost.iter().filter(|(_, lost)| lost.due <= now).take(count);
        let due: Vec<_> = due.map(|(marker, lost)| (marker.clone(), lost.attempt)).collect();
        for (marker, _) in &due {
            lost.remove(marker);
        }
        due
    }

    /// Whether this marker waits here.
    #[must_use]
    pub fn contains(&self, marker: &MarkerKey) -> bool {
        self.lock().contains_key(marker)
    }

    /// Markers that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::keys::{Consumer, MarkerSubject};
    use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind, Incarnation, Rev, Seq};

    fn marker(seq: u64) -> MarkerKey {
        MarkerKey {
            owner: Incarnation(1),
            consumer: Consumer::Rows,
            app: AppKey::new("demo").unwrap(),
            conversation: ConversationId::from_parts(ConversationKind::Group, [1; 15]),
            subject: MarkerSubject::Everyone {
                seq: Seq(seq),
                rev: Rev(0),
            },
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let list = RetryList::default();
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        let mut attempt = 0;
        for _ in 0..9 {
            list.add(marker(1), attempt, now);
            let before = now;
            while list.contains(&marker(1)) {
                now += Duration::from_millis(500);
                if let Some((_, lost)) = list.take_due(now, 9).pop() {
                    attempt = lost;
                }
            }
            pauses.push((now - before).as_millis());
        }
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
        );
    }

    #[test]
    fn all_pauses_can_be_ended_at_once() {
        let list = RetryList::default();
        list.add(marker(1), 9, Duration::ZERO);
        list.add(marker(2), 0, Duration::ZERO);
        let now = Duration::from_secs(1);
        list.make_due(now);
        let due = list.take_due(now, 9);
        assert_eq!(due, [(marker(1), 10), (marker(2), 1)], "losses are still counted");
    }

    #[test]
    fn only_what_is_due_is_taken_and_only_so_many() {
        let list = RetryList::default();
        for seq in 0..5 {
            list.add(marker(seq), 0, Duration::ZERO);
        }
        list.add(marker(9), 5, Duration::ZERO);
        assert!(list.take_due(Duration::from_millis(499), 9).is_empty());
        assert_eq!(list.take_due(Duration::from_secs(1), 3).len(), 3);
        assert_eq!(list.take_due(Duration::from_secs(1), 9).len(), 2);
        assert_eq!(list.len(), 1);
    }
}
