//! How long the effects of each fault lasted, and what was answered in time beside them: computed from what became of the messages
//! due in each tenth of a second. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::plan::{Class, Fault};
use crate::chaos_sum::quantile;

/// A message was late when it was not acknowledged, or not delivered, within this.
const LATE: Duration = Duration::from_millis(1_000);
/// What is on its way at a fault feels it: messages due this long before are not counted as sent outside of faults.
const IN_FLIGHT: Duration = Duration::from_millis(300);

/// What became of the messages due in each slice, of one generator.
#[derive(Debug, Clone, Default)]
pub(super) struct Slices {
    from_ms: u64,
    every_ms: u64,
    offered: Vec<u64>,
    in_time: Vec<u64>,
    refused: Vec<u64>,
    ack_max_ms: Vec<u64>,
    delivery_max_ms: Vec<u64>,
}

impl Slices {
    /// As a generator's figures have them.
    pub(super) fn of(figures: &Value) -> Option<Self> {
        let slices = &figures["slices"];
        let column = |name: &str| {
            let numbers = slices[name].as_array()?.iter();
            numbers.map(Value::as_u64).collect::<Option<Vec<_>>>()
        };
        Some(Self {
            from_ms: slices["from_ms"].as_u64()?,
            every_ms: slices["every_ms"].as_u64().filter(|every| *every > 0)?,
            offered: column("offered")?,
            in_time: column("in_time")?,
            refused: column("refused")?,
            ack_max_ms: column("ack_max_ms")?,
            delivery_max_ms: column("delivery_max_ms")?,
        })
    }

    /// Each slice: when it began, and its number.
    fn each(&self) -> impl Iterator<Item = (u64, usize)> {
        (0..self.offered.len()).map(|nth| (self.from_ms + nth as u64 * self.every_ms, nth))
    }

    /// When the last of a slice's messages had come where it should, if one was late.
    fn late_until(&self, began: u64, nth: usize) -> Option<u64> {
        let (ack, delivery) = (self.ack_max_ms[nth], self.delivery_max_ms[nth]);
        let longest = ack.max(delivery);
        (u128::from(longest) > LATE.as_millis()).then_some(began + longest)
    }
}

/// A fault that happened, by this machine's monotonic clock.
#[derive(Debug, Clone)]
pub(super) struct Happened {
    pub(super) fault: Fault,
    pub(super) hit_ms: u64,
    /// When what caused it was over: at once, for a kill.
    pub(super) returned_ms: u64,
    /// Whether the load was seen to be well again while it ran.
    pub(super) well: bool,
    /// Whether this program itself stood still between it and the next, so that its recovery says nothing of the cluster.
    pub(super) disturbed: bool,
}

/// What it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recovery {
    /// From the hit until the last message that was late because of it had come.
    pub(super) from_hit: Duration,
    /// The same from the return on; zero when all was well before.
    pub(super) from_return: Duration,
}

/// Of each fault. Whatever is late between it and the next one is laid to it; what was not late yet when the next one hit, to that.
pub(super) fn recoveries(happened: &[Happened], all: &[Slices]) -> Vec<Recovery> {
    let starts = happened.iter().map(|one| before(one.hit_ms, LATE));
    let ends = starts.clone().skip(1).chain([u64::MAX]);
    let felt = starts.zip(ends);
    let of = |(one, (from, to)): (&Happened, (u64, u64))| {
        let late = all.iter().flat_map(|slices| {
            let within = slices.each().filter(move |(began, _)| (from..to).contains(began));
            within.filter_map(|(began, nth)| slices.late_until(began, nth))
        });
        let last = late.max().unwrap_or(one.hit_ms);
        Recovery {
            from_hit: Duration::from_millis(last.saturating_sub(one.hit_ms)),
            from_return: Duration::from_millis(last.saturating_sub(one.returned_ms)),
        }
    };
    happened.iter().zip(felt).map(of).collect()
}

fn before(hit_ms: u64, lead: Duration) -> u64 {
    hit_ms.saturating_sub(u64::try_from(lead.as_millis()).unwrap_or(0))
}

/// The time in which messages may be late because of each fault: from the hit to the return and as long as recovery is to take, or
/// less if it took less. Whatever comes behind that counts as if there had been no fault.
pub(super) fn windows(happened: &[Happened], recoveries: &[Recovery]) -> Vec<(u64, u64)> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let of = |(one, recovery): (&Happened, &Recovery)| {
        let allowed = one.returned_ms + ms(one.fault.class().target());
        let taken = one.returned_ms.max(one.hit_ms + ms(recovery.from_hit));
        (before(one.hit_ms, IN_FLIGHT), taken.min(allowed))
    };
    happened.iter().zip(recoveries).map(of).collect()
}

/// Messages that were due while nothing was wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outside {
    /// How many, without those refused.
    pub(super) offered: u64,
    /// Those that were acknowledged in time.
    pub(super) in_time: u64,
}

impl Outside {
    /// Counts those due from a moment on, in no window.
    pub(super) fn count(from_ms: u64, windows: &[(u64, u64)], all: &[Slices]) -> Self {
        let mut outside = Self::default();
        for slices in all {
            for (began, nth) in slices.each() {
                let is_inside = |(from, to): &(u64, u64)| began + slices.every_ms > *from && began < *to;
                if began >= from_ms && !windows.iter().any(is_inside) {
                    outside.offered += slices.offered[nth].saturating_sub(slices.refused[nth]);
                    outside.in_time += slices.in_time[nth];
                }
            }
        }
        outside
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
    pub(super) fn share(self) -> f64 {
        if self.offered == 0 {
            return 0.0;
        }
        self.in_time as f64 / self.offered as f64
    }
}

/// The recoveries of a class of faults.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClassFigures {
    pub(super) class: Class,
    pub(super) count: usize,
    /// Of the recoveries from the return on, seconds.
    pub(super) p50_s: f64,
    pub(super) p95_s: f64,
    pub(super) max_s: f64,
}

impl ClassFigures {
    /// Of each class that had faults, without those that were disturbed.
    pub(super) fn of(happened: &[Happened], recoveries: &[Recovery]) -> Vec<Self> {
        let of_class = |class: Class| {
            let own = happened.iter().zip(recoveries);
            let own = own.filter(|(one, _)| one.fault.class() == class && !one.disturbed);
            let mut times: Vec<f64> = own
                .map(|(_, recovery)| recovery.from_return.as_secs_f64())
                .collect();
            times.sort_by(f64::total_cmp);
            let max_s = *times.last()?;
            Some(Self {
                class,
                count: times.len(),
                p50_s: quantile(&times, 50),
                p95_s: quantile(&times, 95),
                max_s,
            })
        };
        Class::ALL.into_iter().filter_map(of_class).collect()
    }

    pub(super) fn is_within(&self) -> bool {
        self.p95_s <= self.class.target().as_secs_f64()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "class": self.class.name(),
            "count": self.count,
            "p50_s": self.p50_s,
            "p95_s": self.p95_s,
            "max_s": self.max_s,
            "target_p95_s": self.class.target().as_secs_f64(),
            "within": self.is_within(),
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_cluster::{Member, Role};

    use super::super::plan::Kind;
    use super::*;

    /// One message a slice from 0 on; those of `late` (slice, time to the acknowledgement) are late.
    fn slices(count: usize, late: &[(usize, u64)]) -> Slices {
        let mut ack_max_ms = vec![10; count];
        let mut in_time = vec![1; count];
        for (nth, took) in late {
            ack_max_ms[*nth] = *took;
            in_time[*nth] = u64::from(*took <= 5_000);
        }
        Slices {
            from_ms: 0,
            every_ms: 100,
            offered: vec![1; count],
            refused: vec![0; count],
            delivery_max_ms: vec![20; count],
            ack_max_ms,
            in_time,
        }
    }

    fn kill(role: Role, hit_ms: u64, lasting_ms: u64) -> Happened {
        Happened {
            fault: Fault {
                kind: Kind::KillGateway,
                members: vec![Member { role, nth: 0 }],
                lasting: Duration::ZERO,
                delay: Duration::ZERO,
                calm: Duration::ZERO,
            },
            hit_ms,
            returned_ms: hit_ms + lasting_ms,
            well: true,
            disturbed: false,
        }
    }

    #[test]
    fn recovery_ends_with_the_last_message_that_was_late() {
        let happened = [kill(Role::Gateway, 1_000, 0), kill(Role::Router, 6_000, 2_000)];
        // Due at 1.1 s and there at 4.1 s; at 1.5 s and there at 3.5 s; then, of the second, at 6.2 s and there at 7.9 s.
        let all = [slices(100, &[(11, 3_000), (15, 2_000), (62, 1_700)])];
        let recoveries = recoveries(&happened, &all);
        let ms = |time: Duration| time.as_millis();
        assert_eq!(
            (ms(recoveries[0].from_hit), ms(recoveries[0].from_return)),
            (3_100, 3_100)
        );
        assert_eq!(
            (ms(recoveries[1].from_hit), ms(recoveries[1].from_return)),
            (1_900, 0)
        );
    }

    #[test]
    fn what_was_on_its_way_when_the_next_one_hit_is_laid_to_that() {
        let happened = [kill(Role::Gateway, 1_000, 0), kill(Role::Router, 6_000, 2_000)];
        // Due half a second before the second: late because of it. Due 1.1 s before it: late already when it came.
        let of = |late| {
            let recoveries = recoveries(&happened, &[slices(100, &[late])]);
            recoveries
                .iter()
                .map(|one| one.from_hit.as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(of((55, 3_500)), [0, 3_000]);
        assert_eq!(of((49, 1_500)), [5_400, 0]);
    }

    #[test]
    fn a_fault_that_nobody_felt_took_no_time() {
        let happened = [kill(Role::Lbs, 1_000, 0)];
        let recoveries = recoveries(&happened, &[slices(50, &[])]);
        assert_eq!(recoveries[0].from_hit, Duration::ZERO);
    }

    #[test]
    fn what_is_late_behind_the_time_a_recovery_may_take_counts_as_without_a_fault() {
        let happened = [kill(Role::Router, 1_000, 0)];
        // One within the two seconds, one far behind them.
        let all = [slices(100, &[(15, 6_000), (50, 7_000)])];
        let recoveries = recoveries(&happened, &all);
        let windows = windows(&happened, &recoveries);
        assert_eq!(windows, [(700, 3_000)]);
        let outside = Outside::count(0, &windows, &all);
        // Slices 7 to 29 are inside.
        assert_eq!((outside.offered, outside.in_time), (77, 76));
        assert!(outside.share() < 0.99);
        assert_eq!(Outside::count(9_000, &windows, &all).offered, 10);
        let quick = [slices(100, &[(11, 1_200)])];
        let soon = super::recoveries(&happened, &quick);
        assert_eq!(
            super::windows(&happened, &soon),
            [(700, 2_300)],
            "it ends when all is well"
        );
    }

    #[test]
    fn a_class_is_held_to_its_target_by_95_of_100() {
        let happened: Vec<_> = (0..20).map(|nth| kill(Role::Router, nth * 10_000, 0)).collect();
        let times = |slow: usize| -> Vec<Recovery> {
            let of = |nth| Duration::from_secs(if nth < slow { 9 } else { 1 });
            let both = |time| Recovery {
                from_hit: time,
                from_return: time,
            };
            (0..20).map(|nth| both(of(nth))).collect()
        };
        let one = ClassFigures::of(&happened, &times(1)).pop().unwrap();
        assert_eq!((one.count, one.p50_s, one.p95_s, one.max_s), (20, 1.0, 1.0, 9.0));
        assert!(one.is_within());
        let two = ClassFigures::of(&happened, &times(2)).pop().unwrap();
        assert!(!two.is_within(), "{two:?}");
    }

    #[test]
    fn slices_are_read_as_the_generator_writes_them() {
        let figures = json!({ "slices": {
            "from_ms": 500, "every_ms": 100, "offered": [1, 2], "acked": [1, 1], "in_time": [1, 1], "refused": [0, 1],
            "ack_max_ms": [3, 4], "delivery_max_ms": [5, 6],
        } });
        let slices = Slices::of(&figures).unwrap();
        assert_eq!(slices.each().collect::<Vec<_>>(), [(500, 0), (600, 1)]);
        assert_eq!(Outside::count(0, &[], std::slice::from_ref(&slices)).offered, 2);
        assert!(Slices::of(&json!({ "sends": 3 })).is_none());
    }
}
