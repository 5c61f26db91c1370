//! When time may run out for others, so that nobody is called late whose answer is here and unread. Pure; `now` is handed in.
//!
//! Whoever reads an endpoint's events in batches, and judges by time between them, finds after a standstill (stopped, swapped out,
//! its machine suspended) that every time is over, while the answers lie behind the first batch or still in the sockets. Under
//! overload the same happens on a small scale. So judging waits until what has arrived is read, but not for long.

use std::time::Duration;

/// Whoever is later than this by its own reckoning stood still: no batch takes nearly as long.
const STOOD_STILL: Duration = Duration::from_millis(500);
/// How long links have after a standstill to read what lies in their sockets.
const READING: Duration = Duration::from_millis(200);
/// How long judging waits at most: where more comes than can be read, times run out by this much later.
const HELD_MAX: Duration = Duration::from_secs(1);

/// Holds the judging by time back while there are events to read.
///
/// In each turn: [`means_to_judge_at`](Self::means_to_judge_at), sleep until then, though not before [`not_before`](Self::not_before),
/// or until there are events; handle a batch of them; and judge if [`judges`](Self::judges) says so.
#[derive(Debug, Default)]
pub struct Thaw {
    due: Option<Duration>,
    held_since: Option<Duration>,
    not_before: Duration,
}

impl Thaw {
    /// When there is next something to judge; `None`: nothing.
    pub fn means_to_judge_at(&mut self, due: Option<Duration>) {
        self.due = due;
    }

    /// What is due earlier waits until then.
    #[must_use]
    pub fn not_before(&self) -> Duration {
        self.not_before
    }

    /// Whether to judge now; `more_waits` says whether there are events that have not been handled.
    pub fn judges(&mut self, now: Duration, more_waits: bool) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else {
            self.held_since = None;
            return true;
        };
        if self.held_since.is_none() {
            let late = now.saturating_sub(due);
            if late > STOOD_STILL {
                tracing::warn!(
                    ?late,
                    "this process stood still: what has arrived is read before any time runs out"
                );
                self.not_before = now + READING;
            }
        }
        let held_since = *self.held_since.get_or_insert(now);
        let holds = more_waits || now < self.not_before;
        let judges = !holds || now.saturating_sub(held_since) >= HELD_MAX;
        if judges {
            self.held_since = None;
        }
        judges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn due(at: Duration) -> Thaw {
        let mut thaw = Thaw::default();
        thaw.means_to_judge_at(Some(at));
        thaw
    }

    #[test]
    fn on_time_and_with_nothing_to_read_time_runs_out_at_once() {
        let mut thaw = due(100 * MS);
        assert!(thaw.judges(50 * MS, true), "nothing is due");
        assert!(thaw.judges(101 * MS, false));
        assert_eq!(thaw.not_before(), Duration::ZERO);
        thaw.means_to_judge_at(None);
        assert!(thaw.judges(9_000 * MS, true));
    }

    #[test]
    fn after_a_standstill_what_lies_in_the_sockets_is_waited_for() {
        let mut thaw = due(100 * MS);
        assert!(!thaw.judges(4_000 * MS, false));
        assert_eq!(thaw.not_before(), 4_200 * MS);
        thaw.means_to_judge_at(Some(100 * MS));
        assert!(!thaw.judges(4_199 * MS, false));
        assert!(thaw.judges(4_200 * MS, false));
    }

    #[test]
    fn what_has_arrived_is_read_first_but_not_without_end() {
        let mut thaw = due(100 * MS);
        for now in 100..1_100 {
            assert!(!thaw.judges(now * MS, true), "{now}");
            thaw.means_to_judge_at(Some(100 * MS));
        }
        assert!(thaw.judges(1_100 * MS, true));
        // And so on, for what ran out meanwhile: it is no standstill.
        thaw.means_to_judge_at(Some(1_101 * MS));
        assert!(!thaw.judges(1_101 * MS, true));
        assert!(thaw.judges(1_102 * MS, false));
    }
}
