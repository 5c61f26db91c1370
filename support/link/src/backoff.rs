//! How long to wait before dialling again. Pure: the random part is handed in.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Doubling pauses between two bounds, each drawn from its upper half so that nodes do not dial in step.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            next: min,
        }
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self, rng: &mut (impl Rng + ?Sized)) -> Duration {
        let base = self.next;
        self.next = base.saturating_mul(2).min(self.max);
        base.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// Starts over after a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_start_over() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut rng = SmallRng::seed_from_u64(1);
        let mut backoff = Backoff::new(min, max);
        let mut base = min;
        for _ in 0..10 {
            let pause = backoff.pause(&mut rng);
            assert!(pause >= base / 2 && pause <= base, "{pause:?} of {base:?}");
            base = (base * 2).min(max);
        }
        assert_eq!(base, max);
        backoff.reset();
        assert!(backoff.pause(&mut rng) <= min);
    }
}
