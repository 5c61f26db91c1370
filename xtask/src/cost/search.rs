//! The search for the highest rate that is held: up in strides until one is not, then between the two. Pure.

/// From one rate to the next while none has failed, or none was held.
const STRIDE: f64 = 1.6;
/// It is found when what is held and what is not are as near as this: the noise of a short load is not much less.
const NEAR: f64 = 1.12;
/// Rates are multiples of this.
const GRAIN: f64 = 10.0;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Search {
    first: u64,
    held: Option<u64>,
    failed: Option<u64>,
    /// How many rates may be tried yet.
    left: u32,
}

impl Search {
    pub(super) fn new(first: u64, steps: u32) -> Self {
        Self {
            first,
            held: None,
            failed: None,
            left: steps,
        }
    }

    /// The rate to try next; `None` when it is found, or was looked for long enough.
    pub(super) fn next(&mut self) -> Option<u64> {
        let next = match (self.held, self.failed) {
            (None, None) => self.first,
            (Some(held), None) => scaled(held, STRIDE),
            (None, Some(failed)) => scaled(failed, 1.0 / STRIDE),
            (Some(held), Some(failed)) => {
                let apart = float(failed) / float(held);
                if apart <= NEAR {
                    return None;
                }
                scaled(held, apart.sqrt())
            }
        };
        let is_new =
            self.held.is_none_or(|held| next > held) && self.failed.is_none_or(|failed| next < failed);
        if !is_new || next == 0 || self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(next)
    }

    /// Whether a rate was held. One that is held above one that was not is taken at its word.
    pub(super) fn take(&mut self, rate: u64, held: bool) {
        if held {
            self.held = Some(self.held.map_or(rate, |before| before.max(rate)));
        } else {
            self.failed = Some(self.failed.map_or(rate, |before| before.min(rate)));
        }
    }
}

fn float(rate: u64) -> f64 {
    super::counters::float(rate)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive and small"
)]
fn scaled(rate: u64, by: f64) -> u64 {
    ((float(rate) * by / GRAIN).round() * GRAIN) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates that are tried on something that holds so much, and what is found.
    fn tried(first: u64, steps: u32, holds: u64) -> (Vec<u64>, Option<u64>) {
        let mut search = Search::new(first, steps);
        let mut rates = Vec::new();
        while let Some(rate) = search.next() {
            rates.push(rate);
            search.take(rate, rate <= holds);
        }
        (rates, search.held)
    }

    #[test]
    fn it_goes_up_until_one_fails_and_then_between() {
        let (rates, found) = tried(1_000, 20, 3_000);
        assert_eq!(rates[..4], [1_000, 1_600, 2_560, 4_100]);
        let found = found.map_or(0, |found| found);
        assert!((2_700..=3_000).contains(&found), "{rates:?}");
        assert!(rates.len() <= 7, "{rates:?}");
    }

    #[test]
    fn it_goes_down_when_the_first_is_too_much() {
        let (rates, found) = tried(1_000, 20, 200);
        assert!(
            found.is_some_and(|found| (170..=200).contains(&found)),
            "{rates:?}"
        );
    }

    #[test]
    fn it_ends_where_nothing_is_held_and_when_it_may_try_no_more() {
        let (rates, found) = tried(1_000, 50, 0);
        assert!(found.is_none() && rates.len() < 15, "{rates:?}");
        assert_eq!(
            tried(1_000, 3, u64::MAX),
            (vec![1_000, 1_600, 2_560], Some(2_560))
        );
    }

    #[test]
    fn what_is_known_before_is_not_tried_again() {
        let mut search = Search::new(1_000, 9);
        search.take(1_000, true);
        assert_eq!(search.next(), Some(1_600));
    }
}
