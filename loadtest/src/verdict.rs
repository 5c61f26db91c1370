//! What a ledger shows, in the form of its JSON, and in a few lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::check::{ledger, promise};
use crate::record::Violation;
use crate::tally::Tally;

/// See the module. The fields are the JSON's keys, those of a run where they mean the same.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names are those of a run's report")]
pub struct Verdict {
    pub scenario: &'static str,
    /// The folder's last name.
    pub ledger: String,
    pub events: u64,
    pub sends: u64,
    pub sends_acked: u64,
    /// Entries that devices were shown.
    pub shown: u64,
    /// Conversations of which something is missing that nobody could read to the end.
    pub unread: u64,
    pub violations: u64,
    pub violations_of: BTreeMap<u8, u64>,
    pub violations_told: Vec<Violation>,
}

impl Verdict {
    /// What the ledger in `folder` shows.
    #[must_use]
    pub fn of(folder: &Path, report: &ledger::Report) -> Self {
        let counts: BTreeMap<u8, u64> = report
            .counts
            .iter()
            .map(|(invariant, count)| (*invariant as u8, *count))
            .collect();
        let told = report.violations.iter().map(|violation| Violation {
            invariant: violation.invariant as u8,
            what: violation.what.clone(),
        });
        let mut tally = Tally::default();
        tally.take_violations(&counts, told);
        Self {
            scenario: "judge",
            ledger: folder
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            events: report.events,
            sends: report.sent,
            sends_acked: report.acknowledged,
            shown: report.shown,
            unread: report.unread,
            violations: tally.violations,
            violations_told: tally.told(),
            violations_of: counts,
        }
    }

    /// Whether a promise was broken, or nobody knows.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.violations > 0 || self.unread > 0
    }

    /// It in a few lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{name:<22}{value}");
        };
        line("ledger", self.ledger.clone());
        line("events", self.events.to_string());
        line(
            "acknowledged",
            format!("{} of {} sends", self.sends_acked, self.sends),
        );
        line("shown", self.shown.to_string());
        line("unread", format!("{} conversations", self.unread));
        line("violations", self.violations.to_string());
        for (invariant, count) in &self.violations_of {
            line(
                "",
                format!("{count} against ({invariant}), {}", promise(*invariant)),
            );
        }
        for violation in &self.violations_told {
            line("", format!("({}) {}", violation.invariant, violation.what));
        }
        out
    }
}
