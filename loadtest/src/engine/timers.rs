//! When which seat has something to do. Pure.
//!
//! A seat has at most one moment that counts; moments that were moved stay in the heap and are passed over when they come
//! up, which is cheaper than finding them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, u32)>>,
    /// The moment that counts, by seat.
    moments: Vec<Option<Duration>>,
}

impl Timers {
    /// Makes sure that `seat` comes up at `moment` or before.
    pub(crate) fn arm(&mut self, seat: u32, moment: Duration) {
        let index = seat as usize;
        if self.moments.len() <= index {
            self.moments.resize(index + 1, None);
        }
        if let Some(armed) = self.moments.get_mut(index)
            && armed.is_none_or(|armed| moment < armed)
        {
            *armed = Some(moment);
            self.heap.push(Reverse((moment, seat)));
        }
    }

    /// The first moment, perhaps of a seat that has moved its own.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((moment, _))| *moment)
    }

    /// A seat whose moment has come; it has none afterwards.
    pub(crate) fn take(&mut self, now: Duration) -> Option<u32> {
        while self.next()? <= now {
            let Reverse((moment, seat)) = self.heap.pop()?;
            if let Some(armed) = self.moments.get_mut(seat as usize)
                && *armed == Some(moment)
            {
                *armed = None;
                return Some(seat);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn seats_come_up_in_the_order_of_their_moments_and_once() {
        let mut timers = Timers::default();
        timers.arm(7, s(3));
        timers.arm(1, s(2));
        timers.arm(7, s(1));
        assert_eq!(timers.next(), Some(s(1)));
        assert_eq!(timers.take(s(0)), None);
        assert_eq!(timers.take(s(9)), Some(7));
        assert_eq!(timers.take(s(9)), Some(1));
        assert_eq!(
            timers.take(s(9)),
            None,
            "the moment that seat 7 had before does not count"
        );
    }

    #[test]
    fn a_later_moment_does_not_put_off_an_earlier_one() {
        let mut timers = Timers::default();
        timers.arm(0, s(1));
        timers.arm(0, s(5));
        assert_eq!(timers.take(s(1)), Some(0));
        timers.arm(0, s(5));
        assert_eq!(timers.take(s(4)), None);
        assert_eq!(timers.take(s(5)), Some(0));
    }
}
