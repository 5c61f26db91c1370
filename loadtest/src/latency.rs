//! Latencies, in microseconds, to three digits, over any range; merged over processes without loss.

use std::time::Duration;

use data_encoding::BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize};

/// The longest latency told apart, microseconds: an hour. Longer ones count as that.
const LONGEST_US: u64 = 3_600_000_000;

/// Decimal digits that a percentile is exact to.
const DIGITS: u8 = 3;

/// See the module.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("the bounds fit one another"))
    }
}

impl Latency {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US);
        self.0.saturating_record(us.clamp(1, LONGEST_US));
    }

    /// Takes in what another process counted.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share (0 to 1) stayed within, in milliseconds; `None` when nothing was counted.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        (self.count() > 0).then(|| ms_of(self.0.value_at_quantile(quantile)))
    }

    /// The longest, in milliseconds.
    #[must_use]
    pub fn max_ms(&self) -> Option<f64> {
        (self.count() > 0).then(|| ms_of(self.0.max()))
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an hour of microseconds is far below 2^53"
)]
fn ms_of(us: u64) -> f64 {
    us as f64 / 1_000.0
}

impl Serialize for Latency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&self.0, &mut bytes)
            .map_err(|error| S::Error::custom(format!("{error:?}")))?;
        serializer.serialize_str(&BASE64.encode(&bytes))
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64.decode(text.as_bytes()).map_err(D::Error::custom)?;
        let read: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| D::Error::custom(format!("{error:?}")))?;
        let mut latency = Self::default();
        latency.0.add(&read).map_err(D::Error::custom)?;
        Ok(latency)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_three_digits() {
        let mut latency = Latency::default();
        for ms in 1..=1_000 {
            latency.record(Duration::from_millis(ms));
        }
        let p50 = latency.quantile_ms(0.5).unwrap();
        let p99 = latency.quantile_ms(0.99).unwrap();
        assert!((p50 - 500.0).abs() < 1.0, "{p50}");
        assert!((p99 - 990.0).abs() < 1.0, "{p99}");
    }

    #[test]
    fn nothing_counted_has_no_percentile() {
        assert_eq!(Latency::default().quantile_ms(0.5), None);
    }

    #[test]
    fn a_latency_survives_the_way_to_another_process() {
        let mut one = Latency::default();
        one.record(Duration::from_micros(250));
        let mut two: Latency = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
        two.record(Duration::from_secs(2));
        one.merge(&two);
        assert_eq!(one.count(), 3);
        assert_eq!(one.quantile_ms(0.0), Some(0.25));
        assert!((one.max_ms().unwrap() - 2_000.0).abs() < 1.0);
    }

    #[test]
    fn longer_than_an_hour_counts_as_an_hour() {
        let mut latency = Latency::default();
        latency.record(Duration::from_secs(100_000));
        assert!((latency.max_ms().unwrap() - 3_600_000.0).abs() < 3_600.0);
    }
}
