//! The server's clock, as seen from a device whose own may be years off.
//!
//! The device's wall clock is read once, at the start; from then on only the monotonic one counts, so that a user who
//! sets the clock moves nothing. Logins say what the server's clock shows; the difference is kept for the next start.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use whimbrel_protocol::descriptor::KnownTime;

use crate::core::Now;

/// Both clocks. See the module.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    device_ms_at_start: u64,
    /// Server time minus the device's.
    offset_ms: i64,
    /// A login of this run said what time it is.
    known: bool,
    /// The newest server time of any login before, 0 for none.
    floor_ms: u64,
}

impl Clock {
    /// From what was kept of earlier runs.
    pub(crate) fn start(offset_ms: i64, floor_ms: u64) -> Self {
        let device = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            device_ms_at_start: u64::try_from(device.as_millis()).unwrap_or(u64::MAX),
            offset_ms,
            known: false,
            floor_ms,
        }
    }

    pub(crate) fn now(&self) -> Now {
        let monotonic = self.started.elapsed();
        Now {
            monotonic,
            server_ms: self
                .device_ms(monotonic)
                .saturating_add_signed(self.offset_ms)
                .max(self.floor_ms),
        }
    }

    /// What the device's own clock shows.
    pub(crate) fn device_ms(&self, monotonic: Duration) -> u64 {
        let elapsed_ms = u64::try_from(monotonic.as_millis()).unwrap_or(u64::MAX);
        self.device_ms_at_start.saturating_add(elapsed_ms)
    }

    /// When a time of [`Now::monotonic`] is.
    pub(crate) fn instant(&self, monotonic: Duration) -> Instant {
        // Far enough to mean never, near enough to be representable everywhere.
        self.started + monotonic.min(Duration::from_secs(365 * 86_400))
    }

    /// A login said what time it is; gives the new offset.
    pub(crate) fn set_server_ms(&mut self, server_ms: u64) -> i64 {
        let device_ms = self.device_ms(self.started.elapsed());
        let difference = i128::from(server_ms) - i128::from(device_ms);
        self.offset_ms = i64::try_from(difference).unwrap_or(0);
        self.floor_ms = self.floor_ms.max(server_ms);
        self.known = true;
        self.offset_ms
    }

    /// What may be said about the time when descriptors are judged: the device's clock is no knowledge.
    pub(crate) fn known_time(&self) -> KnownTime {
        match (self.known, self.floor_ms) {
            (true, _) => KnownTime::Exactly(self.now().server_ms),
            (false, 0) => KnownTime::Unknown,
            (false, floor_ms) => KnownTime::AtLeast(floor_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_corrects_a_clock_that_is_years_off() {
        let mut clock = Clock::start(0, 0);
        assert_eq!(clock.known_time(), KnownTime::Unknown);
        let ten_years_ms = 10 * 365 * 86_400_000_u64;
        let server_ms = clock.device_ms(Duration::ZERO) + ten_years_ms;
        let offset_ms = clock.set_server_ms(server_ms);
        assert!(clock.now().server_ms.abs_diff(server_ms) < 5_000);
        assert!(matches!(clock.known_time(), KnownTime::Exactly(_)));
        let next_run = Clock::start(offset_ms, server_ms);
        assert!(next_run.now().server_ms.abs_diff(server_ms) < 5_000);
        assert_eq!(next_run.known_time(), KnownTime::AtLeast(server_ms));
    }

    #[test]
    fn time_never_goes_back_behind_what_a_server_said() {
        let clock = Clock::start(-1_000_000_000_000, 1_800_000_000_000);
        assert_eq!(clock.now().server_ms, 1_800_000_000_000);
    }
}
