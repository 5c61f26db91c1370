//! How long to leave something alone after it failed: between half and all of a bound that doubles, and at least as long
//! as the server asked.
//!
//! At least half, because a few short draws in a row would double the bound within one short outage, and the next pause
//! could last many times as long as the outage did. So a pause is at most four times what was waited before.
//!
//! When something else gets its answer the outage is over for it, and most likely for all: the pauses that still run are
//! then shortened to the first one's length, spread by chance, but never below what the server asked for.
//!
//! Requests over a connection that is up have a much lower bound than connecting has: whoever sees himself online does not
//! expect to wait, the connection is paid for, and a server that is asked too much says how long to leave it alone.

use std::time::Duration;

/// The first pause, in milliseconds: long enough for a node's place to be taken by another.
const FIRST_MS: u64 = 500;

/// The longest pause before another connection, in milliseconds: what a user who waits will bear behind an outage that is
/// over, and what a server can bear from all of them, each with a handshake; one that cannot asks for more.
const LONGEST_CONNECTING_MS: u64 = 20_000;

/// The longest pause before a request is made again over a connection that is up, in milliseconds: an attempt itself takes
/// seconds to go unanswered, so a few more halve what a server that is down is asked.
const LONGEST_ASKING_MS: u64 = 5_000;

/// Failures in a row, and when the next try is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause {
    longest_ms: u64,
    failures: u32,
    until: Duration,
    /// The server asked to be left alone until then.
    asked_until: Duration,
}

/// Of a request.
impl Default for Pause {
    fn default() -> Self {
        Self::up_to(LONGEST_ASKING_MS)
    }
}

impl Pause {
    /// Of the connection itself.
    pub(crate) fn of_connecting() -> Self {
        Self::up_to(LONGEST_CONNECTING_MS)
    }

    fn up_to(longest_ms: u64) -> Self {
        Self {
            longest_ms,
            failures: 0,
            until: Duration::ZERO,
            asked_until: Duration::ZERO,
        }
    }

    /// Counts a failure at `now`. `jitter` is a random number from 0 up to 1.
    pub(crate) fn fail(&mut self, now: Duration, retry_after_ms: u32, jitter: f64) -> Duration {
        let doubled = FIRST_MS
            .saturating_mul(1_u64 << self.failures.min(16))
            .min(self.longest_ms);
        self.failures = self.failures.saturating_add(1);
        let asked = Duration::from_millis(retry_after_ms.into());
        let jitter = jitter.clamp(0.0, 1.0);
        let own = Duration::from_millis(doubled).mul_f64((1.0 + jitter) / 2.0);
        // The jitter also spreads those whom the server told the same time.
        let spread = asked + Duration::from_millis(FIRST_MS).mul_f64(jitter);
        let pause = own.max(spread);
        self.until = now.saturating_add(pause);
        self.asked_until = now.saturating_add(asked);
        pause
    }

    /// Something else was answered at `now`, or somebody asks for more: waits no longer than the first pause from here.
    /// `jitter` as above.
    pub(crate) fn hasten(&mut self, now: Duration, jitter: f64) {
        let soon = now.saturating_add(Duration::from_millis(FIRST_MS).mul_f64(jitter.clamp(0.0, 1.0)));
        self.until = self.until.min(soon.max(self.asked_until));
    }

    /// Forgets all failures.
    pub(crate) fn succeed(&mut self) {
        *self = Self::up_to(self.longest_ms);
    }

    /// Ends a pause that is running, but remembers the failures.
    pub(crate) fn cut_short(&mut self) {
        self.until = Duration::ZERO;
    }

    pub(crate) fn is_over(&self, now: Duration) -> bool {
        now >= self.until
    }

    pub(crate) fn until(&self) -> Duration {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_their_bound_and_start_over_after_a_success() {
        let mut pause = Pause::of_connecting();
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            let next = pause.fail(Duration::ZERO, 0, 0.5);
            assert!(next >= last);
            last = next;
        }
        assert_eq!(last, Duration::from_millis(LONGEST_CONNECTING_MS * 3 / 4));
        assert!(!pause.is_over(Duration::from_secs(14)));
        assert!(pause.is_over(Duration::from_secs(15)));
        pause.succeed();
        assert_eq!(
            pause.fail(Duration::ZERO, 0, 0.0),
            Duration::from_millis(FIRST_MS / 2)
        );
    }

    #[test]
    fn a_request_waits_seconds_at_most_unless_the_server_asked_for_more() {
        let mut pause = Pause::default();
        for _ in 0..40 {
            assert!(pause.fail(Duration::ZERO, 0, 1.0) <= Duration::from_millis(LONGEST_ASKING_MS));
        }
        assert_eq!(pause.fail(Duration::ZERO, 30_000, 0.0), Duration::from_secs(30));
        pause.succeed();
        assert!(pause.fail(Duration::ZERO, 0, 0.0) <= Duration::from_millis(FIRST_MS));
    }

    #[test]
    fn whatever_chance_says_a_pause_is_no_longer_than_four_times_what_was_waited_before() {
        for failures in 1..12 {
            let mut pause = Pause::of_connecting();
            let waited: Duration = (0..failures).map(|_| pause.fail(Duration::ZERO, 0, 0.0)).sum();
            assert!(pause.fail(Duration::ZERO, 0, 1.0) <= waited * 4, "{failures}");
        }
    }

    #[test]
    fn a_long_pause_is_shortened_when_something_else_is_answered() {
        let mut pause = Pause::of_connecting();
        for _ in 0..8 {
            pause.fail(Duration::ZERO, 0, 1.0);
        }
        pause.hasten(Duration::from_secs(1), 1.0);
        assert!(!pause.is_over(Duration::from_millis(1_499)));
        assert!(pause.is_over(Duration::from_millis(1_500)));
        pause.hasten(Duration::from_secs(2), 1.0);
        assert!(pause.is_over(Duration::from_secs(2)), "nothing makes it longer");
    }

    #[test]
    fn a_pause_is_never_shorter_than_the_server_asked_whatever_else_is_answered() {
        let mut pause = Pause::default();
        pause.fail(Duration::ZERO, 9_000, 0.3);
        pause.hasten(Duration::from_secs(1), 0.0);
        assert!(!pause.is_over(Duration::from_millis(8_999)));
    }

    #[test]
    fn a_pause_is_never_shorter_than_the_server_asked() {
        let mut pause = Pause::default();
        assert!(pause.fail(Duration::ZERO, 9_000, 0.3) >= Duration::from_secs(9));
    }
}
