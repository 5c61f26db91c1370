//! The server's clock, as seen from a device whose own may be years off.
//!
//! The device's wall clock is read once, at the start; from then on only the monotonic one counts, so that a user who
//! sets the clock moves nothing. Logins say what the server's clock shows; the difference is kept for the next start.
//!
//! A process that was stopped (an app the system put to sleep) ran no timers meanwhile. [`Clock::note_wake`] takes that time
//! out of [`Now::monotonic`], so that nobody's silence, and no deadline, is counted over a standstill.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use whimbrel_protocol::descriptor::KnownTime;

use crate::core::Now;

/// A time that is certainly past wherever this code runs: 2026-11-21. Raised with each release, it keeps descriptors that
/// ended before from a client that has never logged in.
const BUILT_MS: u64 = 1_795_219_200_000;

/// A timer this late was held up by a standstill of the process, not by work.
const STANDSTILL_AFTER: Duration = Duration::from_secs(2);

/// Both clocks. See the module.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// How much of the time since then the process stood still.
    stood_still: Duration,
    device_ms_at_start: u64,
    /// Server time minus the device's.
    offset_ms: i64,
    /// A login of this run said what time it is, within its gateway's proven life.
    known: bool,
    /// The newest time that any login has proven, and not before this client was built.
    floor_ms: u64,
    /// What an LBS said the time is. For this run only: nothing vouches for it.
    heard_ms: u64,
}

impl Clock {
    /// From what was kept of earlier runs, on a device whose clock is `device_off_ms` off (0, but in tests).
    pub(crate) fn start(offset_ms: i64, floor_ms: u64, device_off_ms: i64) -> Self {
        let device = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let device_ms = u64::try_from(device.as_millis()).unwrap_or(u64::MAX);
        Self {
            started: Instant::now(),
            stood_still: Duration::ZERO,
            device_ms_at_start: device_ms.saturating_add_signed(device_off_ms),
            offset_ms,
            known: false,
            floor_ms: floor_ms.max(BUILT_MS),
            heard_ms: 0,
        }
    }

    pub(crate) fn now(&self) -> Now {
        let monotonic = self.monotonic();
        Now {
            monotonic,
            server_ms: self
                .device_ms(monotonic)
                .saturating_add_signed(self.offset_ms)
                .max(self.floor_ms),
        }
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.stood_still)
    }

    /// The process should have woken at `due` at the latest. If it did far later, it stood still from then on: that time is
    /// not counted. Says whether it was so.
    pub(crate) fn note_wake(&mut self, due: Duration) -> bool {
        let late = self.monotonic().saturating_sub(due);
        let stood_still = late > STANDSTILL_AFTER;
        if stood_still {
            self.stood_still += late;
        }
        stood_still
    }

    /// What the device's own clock shows.
    pub(crate) fn device_ms(&self, monotonic: Duration) -> u64 {
        let elapsed = monotonic.saturating_add(self.stood_still);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.device_ms_at_start.saturating_add(elapsed_ms)
    }

    /// When a time of [`Now::monotonic`] is.
    pub(crate) fn instant(&self, monotonic: Duration) -> Instant {
        // Far enough to mean never, near enough to be representable everywhere.
        self.started + self.stood_still + monotonic.min(Duration::from_secs(365 * 86_400))
    }

    /// An LBS said what time it is.
    pub(crate) fn hear_ms(&mut self, lbs_ms: u64) {
        self.heard_ms = self.heard_ms.max(lbs_ms);
    }

    /// A login said what time it is, of which its gateway's descriptor vouches for `proven_ms`; gives the new offset. A
    /// gateway that names a time past its own descriptor's end is not believed in it: whoever plays one with a stolen key
    /// could otherwise name a far future, and shut the client off from all honest ones.
    pub(crate) fn set_server_ms(&mut self, server_ms: u64, proven_ms: u64) -> i64 {
        let device_ms = self.device_ms(self.monotonic());
        let difference = i128::from(server_ms) - i128::from(device_ms);
        self.offset_ms = i64::try_from(difference).unwrap_or(0);
        self.floor_ms = self.floor_ms.max(proven_ms);
        self.known = server_ms <= proven_ms;
        self.offset_ms
    }

    /// The newest time that is proven to be past, to be kept for the next run.
    pub(crate) fn floor_ms(&self) -> u64 {
        self.floor_ms
    }

    /// What may be said about the time when descriptors are judged: the device's clock is no knowledge.
    pub(crate) fn known_time(&self) -> KnownTime {
        if self.known {
            return KnownTime::Exactly(self.now().server_ms);
        }
        KnownTime::AtLeast(self.floor_ms.max(self.heard_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_corrects_a_clock_that_is_years_off() {
        let ten_years_ms = 10 * 365 * 86_400_000_i64;
        let mut clock = Clock::start(0, 0, -ten_years_ms);
        assert_eq!(clock.known_time(), KnownTime::AtLeast(BUILT_MS));
        let server_ms = clock.device_ms(Duration::ZERO) + ten_years_ms.unsigned_abs();
        let offset_ms = clock.set_server_ms(server_ms, server_ms);
        assert!(clock.now().server_ms.abs_diff(server_ms) < 5_000);
        assert!(matches!(clock.known_time(), KnownTime::Exactly(_)));
        let next_run = Clock::start(offset_ms, clock.floor_ms(), -ten_years_ms);
        assert!(next_run.now().server_ms.abs_diff(server_ms) < 5_000);
        assert_eq!(next_run.known_time(), KnownTime::AtLeast(server_ms));
    }

    #[test]
    fn a_standstill_is_in_the_servers_time_and_not_in_the_monotonic() {
        let mut clock = Clock::start(0, 0, 0);
        clock.started -= Duration::from_secs(100);
        let server_ms = clock.now().server_ms;
        assert!(!clock.note_wake(clock.now().monotonic));
        let due = Duration::from_secs(40);
        assert!(clock.note_wake(due));
        let now = clock.now();
        assert!(now.monotonic >= due && now.monotonic < due + Duration::from_secs(1));
        assert!(now.server_ms >= server_ms && now.server_ms < server_ms + 1_000);
        let wait = clock.instant(due + Duration::from_secs(5)) - Instant::now();
        assert!(wait > Duration::from_secs(4) && wait <= Duration::from_secs(5));
    }

    #[test]
    fn time_never_goes_back_behind_what_a_server_said() {
        let clock = Clock::start(-1_000_000_000_000, 1_800_000_000_000, 0);
        assert_eq!(clock.now().server_ms, 1_800_000_000_000);
    }

    #[test]
    fn a_gateway_is_not_believed_in_a_time_past_its_own_descriptor() {
        let mut clock = Clock::start(0, 0, 0);
        let (end_ms, far_ms) = (BUILT_MS + 172_800_000, BUILT_MS * 2);
        clock.set_server_ms(far_ms, end_ms);
        assert_eq!(clock.known_time(), KnownTime::AtLeast(end_ms));
        assert_eq!(clock.floor_ms(), end_ms);
    }

    #[test]
    fn what_an_lbs_says_is_a_floor_for_this_run_only() {
        let mut clock = Clock::start(0, 0, 0);
        clock.hear_ms(BUILT_MS + 1);
        clock.hear_ms(5);
        assert_eq!(clock.known_time(), KnownTime::AtLeast(BUILT_MS + 1));
        assert_eq!(clock.floor_ms(), BUILT_MS);
    }
}
