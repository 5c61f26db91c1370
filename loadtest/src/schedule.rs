//! When things are to happen: at absolute times, decided before the run begins.
//!
//! This is what makes the loop *open*. The n-th event belongs to the moment `start + n / rate` whatever the server does
//! meanwhile; a generator that is late does it late, and the lateness counts as latency. Nothing is skipped, nothing is
//! moved. Pure: the time is an argument.

use std::time::Duration;

/// Events taken at once: what is owed beyond them waits until sockets were read and the run was shown.
pub const TAKEN_MAX: usize = 1_000;

/// One process's part of a schedule that `of` processes share: every `of`-th event, from the `index`-th on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which part, from 0.
    pub index: u32,
    /// How many parts there are, at least 1.
    pub of: u32,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// How many of `total` things fall to this share; the shares of all add up.
    #[must_use]
    pub fn count(self, total: u32) -> u32 {
        total / self.of + u32::from(self.index < total % self.of)
    }

    /// How many things fall to the shares before this one.
    #[must_use]
    pub fn offset(self, total: u32) -> u32 {
        self.index * (total / self.of) + self.index.min(total % self.of)
    }
}

/// Events at a steady rate, from `start` until `until`. See the module.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Duration,
    until: Duration,
    per_s: f64,
    share: Share,
    next: u64,
}

impl Schedule {
    /// `per_s` events a second over all shares; none with a rate of 0.
    #[must_use]
    pub fn new(start: Duration, lasting: Duration, per_s: f64, share: Share) -> Self {
        Self {
            start,
            until: start.saturating_add(lasting),
            per_s,
            share,
            next: 0,
        }
    }

    /// When the next event is to happen; `None` once the schedule is through.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        if self.per_s <= 0.0 {
            return None;
        }
        let place = self
            .next
            .saturating_mul(u64::from(self.share.of))
            .saturating_add(u64::from(self.share.index));
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact below 2^53 events, which no run reaches"
        )]
        let after = Duration::try_from_secs_f64(place as f64 / self.per_s).ok()?;
        Some(self.start.saturating_add(after)).filter(|due| *due < self.until)
    }

    /// Takes the next event, when its moment has come: the moment it belongs to, not the one it is taken at.
    pub fn take(&mut self, now: Duration) -> Option<Duration> {
        let due = self.due().filter(|due| *due <= now)?;
        self.next += 1;
        Some(due)
    }

    /// Takes those whose moment has come, [`TAKEN_MAX`] at most.
    pub fn take_some(&mut self, now: Duration) -> impl Iterator<Item = Duration> {
        std::iter::from_fn(move || self.take(now)).take(TAKEN_MAX)
    }

    /// Whether every event was taken.
    #[must_use]
    pub fn is_through(&self) -> bool {
        self.due().is_none()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn events_belong_to_absolute_moments_however_late_they_are_taken() {
        let mut schedule = Schedule::new(ms(1_000), ms(1_000), 10.0, Share::WHOLE);
        assert_eq!(schedule.take(ms(999)), None);
        assert_eq!(schedule.take(ms(1_000)), Some(ms(1_000)));
        // The server stalls, or this process does, for half a second: what was missed is still owed, at its own time.
        let owed: Vec<Duration> = std::iter::from_fn(|| schedule.take(ms(1_550))).collect();
        assert_eq!(owed, [ms(1_100), ms(1_200), ms(1_300), ms(1_400), ms(1_500)]);
        assert_eq!(schedule.due(), Some(ms(1_600)));
    }

    #[test]
    fn of_what_is_owed_some_is_taken_at_once_and_nothing_is_skipped() {
        let mut schedule = Schedule::new(ms(0), ms(1_000), 2_500.0, Share::WHOLE);
        let taken: Vec<usize> = (0..4).map(|_| schedule.take_some(ms(5_000)).count()).collect();
        assert_eq!(taken, [TAKEN_MAX, TAKEN_MAX, 500, 0]);
        let mut schedule = Schedule::new(ms(0), ms(1_000), 10_000_000.0, Share::WHOLE);
        schedule.take_some(ms(5_000)).for_each(drop);
        assert!(
            schedule.due() < Some(ms(1)),
            "the next is still owed at its own time"
        );
    }

    #[test]
    fn a_rate_times_a_duration_is_the_number_of_events() {
        for (per_s, lasting, expected) in [(3.0, ms(1_000), 3), (2_000.0, ms(500), 1_000), (0.0, ms(500), 0)]
        {
            let mut schedule = Schedule::new(ms(0), lasting, per_s, Share::WHOLE);
            let count = std::iter::from_fn(|| schedule.take(ms(10_000))).count();
            assert_eq!(count, expected, "{per_s}/s for {lasting:?}");
            assert!(schedule.is_through());
        }
    }

    #[test]
    fn shares_interleave_to_the_whole_schedule() {
        let whole: Vec<Duration> = {
            let mut schedule = Schedule::new(ms(0), ms(1_000), 100.0, Share::WHOLE);
            std::iter::from_fn(|| schedule.take(ms(5_000))).collect()
        };
        let mut shared: Vec<Duration> = (0..3)
            .flat_map(|index| {
                let share = Share { index, of: 3 };
                let mut schedule = Schedule::new(ms(0), ms(1_000), 100.0, share);
                std::iter::from_fn(move || schedule.take(ms(5_000))).collect::<Vec<_>>()
            })
            .collect();
        shared.sort();
        assert_eq!(shared, whole);
    }

    #[test]
    fn shares_of_a_count_add_up_and_follow_one_another() {
        for total in [0, 1, 7, 60_000] {
            let of = 4;
            let mut next = 0;
            for index in 0..of {
                let share = Share { index, of };
                assert_eq!(share.offset(total), next);
                next += share.count(total);
            }
            assert_eq!(next, total);
        }
    }

    #[test]
    fn an_hour_of_events_does_not_drift() {
        let schedule = Schedule {
            next: 36_000_000,
            ..Schedule::new(ms(0), ms(10_000_000), 10_000.0, Share::WHOLE)
        };
        assert_eq!(schedule.due().unwrap(), ms(3_600_000));
    }
}
