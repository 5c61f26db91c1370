//! Values that parse and yet cannot work: zero where something must be, a pause of no length.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is {value}, expected {expected}")]
pub struct OutOfBounds {
    /// The key with its sections.
    pub key: &'static str,
    /// What it is set to.
    pub value: String,
    /// What would work.
    pub expected: String,
}

impl OutOfBounds {
    /// Holds `value` of `key` to `bounds`.
    ///
    /// # Errors
    /// When it lies outside.
    pub fn unless_within<T: PartialOrd + Display + Copy>(
        key: &'static str,
        value: T,
        bounds: RangeInclusive<T>,
    ) -> Result<(), Self> {
        if bounds.contains(&value) {
            return Ok(());
        }
        Err(Self {
            key,
            value: value.to_string(),
            expected: format!("{} to {}", bounds.start(), bounds.end()),
        })
    }

    /// The same of a length of time.
    ///
    /// # Errors
    /// When it lies outside.
    pub fn unless_lasting(
        key: &'static str,
        value: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Result<(), Self> {
        if bounds.contains(&value) {
            return Ok(());
        }
        Err(Self {
            key,
            value: shown(value),
            expected: format!("{} to {}", shown(*bounds.start()), shown(*bounds.end())),
        })
    }
}

/// As people write it; the standard library has nothing of any length as nanoseconds.
fn shown(time: Duration) -> String {
    if time.is_zero() {
        "0s".to_owned()
    } else {
        format!("{time:?}")
    }
}

/// Whether it can be dialled, `host:port`; whether somebody is there shows later.
#[must_use]
pub fn is_host_and_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_named_with_its_bounds() {
        assert_eq!(
            OutOfBounds::unless_within("router.pending_max", 1, 1..=10),
            Ok(())
        );
        let error =
            OutOfBounds::unless_within("router.pending_max", 0, 1..=10).map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("`router.pending_max` is 0, expected 1 to 10".to_owned())
        );
        let second = Duration::from_secs(1);
        let error = OutOfBounds::unless_lasting("lbs.refresh_interval", Duration::ZERO, second..=60 * second)
            .map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("`lbs.refresh_interval` is 0s, expected 1s to 60s".to_owned())
        );
    }
}
