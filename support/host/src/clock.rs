//! What time it is: handed to the shells of the roles, who hand it on as a number to their cores.

use std::{
    sync::Mutex,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The two kinds of time. Neither is ever compared with the other.
pub trait Clock: Send + Sync {
    /// Unix time, ms. People may set it back; only what outlives the process is stamped with it.
    fn now_ms(&self) -> u64;
    /// Time since some fixed moment of this process; never goes back. For timeouts and ages.
    fn monotonic(&self) -> Duration;
}

/// The machine's time.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        // A machine set before 1970 counts as 1970.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that moves only when told to: for tests and simulation.
#[derive(Debug)]
pub struct ManualClock {
    unix_start_ms: u64,
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    /// A clock standing at `unix_start_ms`.
    #[must_use]
    pub fn new(unix_start_ms: u64) -> Self {
        Self {
            unix_start_ms,
            elapsed: Mutex::new(Duration::ZERO),
        }
    }

    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        *self.elapsed() += by;
    }

    fn elapsed(&self) -> std::sync::MutexGuard<'_, Duration> {
        self.elapsed
            .lock()
            .expect("nothing panics while it holds a Duration")
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        let elapsed_ms = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.unix_start_ms.saturating_add(elapsed_ms)
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_both_times_together() {
        let clock = ManualClock::new(1_000);
        clock.advance(Duration::from_millis(250));
        assert_eq!(clock.now_ms(), 1_250);
        assert_eq!(clock.monotonic(), Duration::from_millis(250));
    }

    #[test]
    fn the_system_clock_says_a_year_in_which_this_was_written_or_later() {
        let year_2026_ms = 1_767_225_600_000;
        assert!(SystemClock::new().now_ms() > year_2026_ms);
    }
}
