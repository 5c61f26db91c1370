//! Dates in error messages.

use std::fmt;

/// Shows Unix milliseconds as `2026-11-21 19:43 UTC`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Utc(pub(crate) u64);

const DAY_S: u64 = 86_400;

impl fmt::Display for Utc {
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "days since 1970 from 64-bit milliseconds stay far below 2^63"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (days, second_of_day) = (seconds / DAY_S, seconds % DAY_S);
        // Years are counted from March, so that leap days end them (Hinnant, "chrono-compatible low-level date
        // algorithms", civil_from_days).
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute) = (second_of_day / 3600, second_of_day / 60 % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::Utc;

    #[test]
    fn known_dates_are_shown() {
        for (ms, shown) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399_000, "2000-02-28 23:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00 UTC"),
            (1_709_251_199_999, "2024-02-29 23:59 UTC"),
            (1_795_290_180_000, "2026-11-21 19:43 UTC"),
        ] {
            assert_eq!(Utc(ms).to_string(), shown);
        }
        assert!(!Utc(u64::MAX).to_string().is_empty());
    }
}
