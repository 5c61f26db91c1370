//! Calls to the store and the placement driver per acknowledged message. Each is a round trip, since TiKV's client puts no two of
//! them together; but not all of them are waited for one after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::counters::{Difference, float, per};
use super::load::LoadFigures;

/// What a message leaves to be done behind its acknowledgement, rows of conversation lists and markers, is done after this: markers
/// are kept for a second.
pub(super) const SETTLE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RoundTrips {
    /// Which load.
    pub(super) name: &'static str,
    messages: u64,
    /// By the service nodes' own count.
    pub(super) messages_per_commit: Option<f64>,
    /// Calls per message by method, less what was called without any. Those of the placement driver begin with "PD".
    pub(super) calls: BTreeMap<String, f64>,
    /// Calls a second without load.
    background_per_s: BTreeMap<String, f64>,
    lasting: Duration,
    pulls: u64,
}

impl RoundTrips {
    pub(super) fn new(
        name: &'static str,
        figures: &LoadFigures,
        counted: &Difference,
        background: &Difference,
    ) -> anyhow::Result<Self> {
        ensure!(figures.acked > 0, "nothing was acknowledged");
        let calls = counted.less(background);
        calls
            .values()
            .find(|count| **count > 0.0)
            .context("neither the store nor the placement driver counted a call")?;
        let messages = float(figures.acked);
        Ok(Self {
            name,
            messages: figures.acked,
            messages_per_commit: per(figures.acked, counted.commits),
            calls: calls
                .into_iter()
                .map(|(method, count)| (method, count / messages))
                .collect(),
            background_per_s: background.per_s(),
            lasting: counted.lasting,
            pulls: figures.pulls,
        })
    }

    fn of(&self, is_pd: bool) -> f64 {
        let of_it = self
            .calls
            .iter()
            .filter(|(method, _)| method.starts_with("PD ") == is_pd);
        of_it.map(|(_, count)| count).sum()
    }

    /// Of the store.
    pub(super) fn of_store(&self) -> f64 {
        self.of(false)
    }

    /// Of the placement driver.
    pub(super) fn of_pd(&self) -> f64 {
        self.of(true)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "load": self.name,
            "messages": self.messages,
            "messages_per_commit": self.messages_per_commit,
            "calls_per_message": self.calls,
            "calls_per_message_of_store": self.of_store(),
            "calls_per_message_of_pd": self.of_pd(),
            "background_per_s": self.background_per_s,
            "counted_s": self.lasting.as_secs_f64(),
            "pulls": self.pulls,
        })
    }
}

impl fmt::Display for RoundTrips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} of the store and {:.2} of the placement driver for each of {} messages",
            self.of_store(),
            self.of_pd(),
            self.messages
        )?;
        match self.messages_per_commit {
            Some(messages) => write!(f, ", {messages:.1} messages a commit"),
            None => write!(f, ", no commit was counted"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn difference(lasting_s: u64, calls: &[(&str, u64)], commits: u64) -> Difference {
        Difference {
            lasting: Duration::from_secs(lasting_s),
            calls: calls
                .iter()
                .map(|(method, count)| ((*method).to_owned(), *count))
                .collect(),
            commits,
        }
    }

    fn acked(acked: u64) -> LoadFigures {
        LoadFigures {
            acked,
            ..LoadFigures::default()
        }
    }

    #[test]
    fn calls_are_shared_out_among_messages_without_those_that_come_anyway() {
        let background = difference(10, &[("kv_get", 20), ("PD Tso", 10)], 0);
        let counted = difference(20, &[("kv_get", 240), ("kv_prewrite", 100), ("PD Tso", 220)], 50);
        let trips = RoundTrips::new("pair", &acked(100), &counted, &background).unwrap();
        assert_eq!(trips.calls["kv_get"], 2.0);
        assert_eq!(trips.calls["PD Tso"], 2.0);
        assert_eq!((trips.of_store(), trips.of_pd()), (3.0, 2.0));
        assert_eq!(trips.messages_per_commit, Some(2.0));
        assert!(trips.to_string().contains("2.0 messages a commit"), "{trips}");
    }

    #[test]
    fn where_nothing_was_counted_nothing_is_told() {
        let none = difference(10, &[], 0);
        let some = difference(10, &[("kv_get", 1)], 0);
        assert!(RoundTrips::new("pair", &acked(0), &some, &none).is_err());
        assert!(RoundTrips::new("pair", &acked(1), &none, &some).is_err());
        let trips = RoundTrips::new("pair", &acked(1), &some, &none).unwrap();
        assert_eq!(trips.messages_per_commit, None);
    }
}
