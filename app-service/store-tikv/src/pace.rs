//! What commits take at the moment, and so how old a lock must be before it counts as left behind. Pure.
//!
//! The middle one of the last few commits says it: a commit that waited for somebody's lock, and a single slow one, do not count,
//! but a cluster that has become slow does. Commits that were answered with an error that proves nothing count for as long as
//! they were tried, since those that were pushed out of the way are among them: if that happens to most, the patience grows until it
//! happens no more. Commits that were not answered at all do not count: while a store is away, locks are left behind, and they
//! are to be pushed out soon after.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::{
    PACE_AGE_MAX, PACE_COMMITS, PACE_COMMITS_MIN, PATIENCE_IN_COMMITS, PATIENCE_MAX, PATIENCE_MIN,
};

/// The last commits of one store.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When each ended and how long it took, oldest first.
    commits: VecDeque<(Instant, Duration)>,
}

impl Pace {
    /// A commit has ended that took so long.
    pub(crate) fn note(&mut self, now: Instant, took: Duration) {
        if self.commits.len() == PACE_COMMITS {
            self.commits.pop_front();
        }
        self.commits.push_back((now, took));
    }

    /// How old a lock must be before it is pushed out of the way: [`PATIENCE_MIN`] to [`PATIENCE_MAX`].
    pub(crate) fn patience(&self, now: Instant) -> Duration {
        let mut recent: Vec<Duration> = self
            .commits
            .iter()
            .filter(|(ended, _)| now.saturating_duration_since(*ended) <= PACE_AGE_MAX)
            .map(|(_, took)| *took)
            .collect();
        if recent.len() < PACE_COMMITS_MIN {
            return PATIENCE_MIN;
        }
        recent.sort_unstable();
        recent[recent.len() / 2]
            .saturating_mul(PATIENCE_IN_COMMITS)
            .clamp(PATIENCE_MIN, PATIENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(now: Instant, took_ms: &[u64]) -> Pace {
        let mut pace = Pace::default();
        for ms in took_ms {
            pace.note(now, Duration::from_millis(*ms));
        }
        pace
    }

    #[test]
    fn patience_is_short_while_commits_are() {
        let now = Instant::now();
        assert_eq!(Pace::default().patience(now), PATIENCE_MIN);
        assert_eq!(pace(now, &[5; PACE_COMMITS]).patience(now), PATIENCE_MIN);
    }

    #[test]
    fn commits_that_waited_for_the_dead_do_not_lengthen_it() {
        let now = Instant::now();
        assert_eq!(pace(now, &[1_100; 4]).patience(now), PATIENCE_MIN);
        let some = pace(now, &[5, 1_100, 6, 1_200, 7, 1_000, 8, 9, 1_000]);
        assert_eq!(some.patience(now), PATIENCE_MIN);
    }

    #[test]
    fn a_slow_cluster_is_given_more_time_up_to_a_locks_life_and_not_for_ever() {
        let now = Instant::now();
        assert_eq!(
            pace(now, &[200; 5]).patience(now),
            Duration::from_millis(200 * u64::from(PATIENCE_IN_COMMITS))
        );
        assert_eq!(pace(now, &[2_000; 5]).patience(now), PATIENCE_MAX);
        let later = now + PACE_AGE_MAX + Duration::from_millis(1);
        assert_eq!(pace(now, &[2_000; 5]).patience(later), PATIENCE_MIN);
    }

    #[test]
    fn only_the_last_commits_count() {
        let now = Instant::now();
        let mut pace = pace(now, &[900; 50]);
        for _ in 0..PACE_COMMITS {
            pace.note(now, Duration::from_millis(4));
        }
        assert_eq!(pace.patience(now), PATIENCE_MIN);
        assert_eq!(pace.commits.len(), PACE_COMMITS);
    }
}
