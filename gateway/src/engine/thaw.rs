//! After the process stood still (stopped, swapped out, its machine suspended): clients spoke meanwhile, and what they
//! said lies in the kernel. Their clocks must not run out before it is read.
//!
//! Pure: a reactor says when it wakes, and asks whether sessions' timers may fire.

use std::time::Duration;

/// A reactor that is later than this by its own reckoning stood still: no turn takes nearly as long.
const STOOD_STILL: Duration = Duration::from_secs(2);

/// Holds sessions' timers back after a standstill, until everybody was read once.
#[derive(Debug)]
pub(super) struct Thaw {
    woke_at_ms: u64,
    turns_left: usize,
}

impl Thaw {
    /// A reactor that starts now.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            woke_at_ms: now_ms,
            turns_left: 0,
        }
    }

    /// The reactor woke, having meant to sleep for at most `patience`. `turns` is how many turns it takes to read from
    /// everybody once.
    pub(super) fn handle_wake(&mut self, now_ms: u64, patience: Option<Duration>, turns: usize) {
        let away = Duration::from_millis(now_ms.saturating_sub(self.woke_at_ms));
        self.woke_at_ms = now_ms;
        self.turns_left = match patience {
            Some(patience) if away > patience.saturating_add(STOOD_STILL) => {
                tracing::warn!(
                    ?away,
                    "this process stood still: reading from everybody before any time runs out"
                );
                turns.max(1)
            }
            _ => self.turns_left.saturating_sub(1),
        };
    }

    /// Whether sessions' timers must wait.
    pub(super) fn holds_timers(&self) -> bool {
        self.turns_left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    #[test]
    fn timers_wait_until_everybody_was_read_once() {
        let mut thaw = Thaw::new(0);
        thaw.handle_wake(60_000, SECOND, 3);
        for turn in 1..=3 {
            assert!(thaw.holds_timers(), "turn {turn}");
            thaw.handle_wake(60_000 + turn, Some(Duration::ZERO), 3);
        }
        assert!(!thaw.holds_timers());
    }

    #[test]
    fn sleeping_as_long_as_meant_is_no_standstill() {
        let mut thaw = Thaw::new(0);
        thaw.handle_wake(240_000, Some(Duration::from_secs(239)), 3);
        assert!(!thaw.holds_timers());
        thaw.handle_wake(900_000, None, 3);
        assert!(!thaw.holds_timers());
    }

    #[test]
    fn an_empty_reactor_waits_for_one_turn_only() {
        let mut thaw = Thaw::new(0);
        thaw.handle_wake(60_000, SECOND, 0);
        assert!(thaw.holds_timers());
        thaw.handle_wake(60_000, SECOND, 0);
        assert!(!thaw.holds_timers());
    }
}
