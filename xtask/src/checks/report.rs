//! What came of the checks, as a table, as JSON and as totals. Pure.

use std::time::Duration;

use serde_json::json;

use super::seconds;

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// One question, answered.
    Single {
        /// Why it failed, if it did.
        failure: Option<String>,
    },
    /// Many tests, each counted.
    Tests {
        passed: u64,
        failed: u64,
        ignored: u64,
        failed_names: Vec<String>,
        /// What failing tests said.
        detail: String,
    },
    /// It could not run, and why.
    Skipped(String),
}

impl Outcome {
    pub(super) fn passed() -> Self {
        Self::Single { failure: None }
    }

    pub(super) fn failed(why: String) -> Self {
        Self::Single { failure: Some(why) }
    }

    fn passed_count(&self) -> u64 {
        match self {
            Self::Single { failure: None } => 1,
            Self::Tests { passed, .. } => *passed,
            Self::Single { .. } | Self::Skipped(_) => 0,
        }
    }

    fn failed_count(&self, skip_is_failure: bool) -> u64 {
        match self {
            Self::Single { failure } => u64::from(failure.is_some()),
            Self::Tests { failed, .. } => *failed,
            Self::Skipped(_) => u64::from(skip_is_failure),
        }
    }

    fn status(&self) -> &'static str {
        match self {
            Self::Skipped(_) => "SKIPPED",
            _ if self.failed_count(false) > 0 => "FAILED",
            _ => "passed",
        }
    }
}

/// What is printed when a check has ended.
pub(super) fn line(name: &str, outcome: &Outcome, took: Duration) -> String {
    let took = seconds(took);
    match outcome {
        Outcome::Skipped(why) => format!("SKIPPED {name}: {why}"),
        Outcome::Single { failure: Some(why) } => format!("{why}\nFAILED {name} ({took})"),
        Outcome::Single { failure: None } => format!("    passed ({took})"),
        Outcome::Tests {
            failed: 0, passed, ..
        } => format!("    {passed} passed ({took})"),
        Outcome::Tests { failed, detail, .. } => format!("{detail}\nFAILED {name}: {failed} failed ({took})"),
    }
}

/// All outcomes so far.
#[derive(Debug)]
pub(super) struct Report {
    skip_is_failure: bool,
    rows: Vec<(&'static str, Outcome, Duration)>,
}

impl Report {
    pub(super) fn new(skip_is_failure: bool) -> Self {
        Self {
            skip_is_failure,
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, name: &'static str, outcome: Outcome, took: Duration) {
        self.rows.push((name, outcome, took));
    }

    fn passed(&self) -> u64 {
        self.rows
            .iter()
            .map(|(_, outcome, _)| outcome.passed_count())
            .sum()
    }

    fn failed(&self) -> u64 {
        self.rows
            .iter()
            .map(|(_, outcome, _)| outcome.failed_count(self.skip_is_failure))
            .sum()
    }

    /// Whether nothing failed and something passed.
    pub(super) fn is_good(&self) -> bool {
        self.failed() == 0 && self.passed() > 0
    }

    /// `N passed, N failed`.
    pub(super) fn totals(&self) -> String {
        format!("{} passed, {} failed", self.passed(), self.failed())
    }

    /// A row a check, and the names of what failed below.
    pub(super) fn table(&self) -> String {
        let mut table = format!(
            "{:<8} {:<8} {:>7} {:>7} {:>13}\n",
            "check", "result", "passed", "failed", "took"
        );
        for (name, outcome, took) in &self.rows {
            let (passed, failed) = (outcome.passed_count(), outcome.failed_count(self.skip_is_failure));
            let took = seconds(*took);
            table += &format!(
                "{name:<8} {:<8} {passed:>7} {failed:>7} {took:>13}\n",
                outcome.status()
            );
        }
        for (name, outcome, _) in &self.rows {
            match outcome {
                Outcome::Tests {
                    failed_names,
                    ignored,
                    ..
                } => {
                    table.extend(failed_names.iter().map(|test| format!("FAILED {name}: {test}\n")));
                    if *ignored > 0 {
                        table += &format!("{name}: {ignored} ignored by the tests themselves\n");
                    }
                }
                Outcome::Skipped(why) => table += &format!("SKIPPED {name}: {why}\n"),
                Outcome::Single { .. } => {}
            }
        }
        table
    }

    /// The same for programs.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let checks: Vec<_> = self
            .rows
            .iter()
            .map(|(name, outcome, took)| {
                let (reason, failed_tests, ignored) = match outcome {
                    Outcome::Single { failure } => (failure.clone(), Vec::new(), 0),
                    Outcome::Skipped(why) => (Some(why.clone()), Vec::new(), 0),
                    Outcome::Tests {
                        failed_names,
                        ignored,
                        detail,
                        ..
                    } => (
                        Some(detail.clone()).filter(|text| !text.is_empty()),
                        failed_names.clone(),
                        *ignored,
                    ),
                };
                json!({
                    "name": name,
                    "status": outcome.status().to_ascii_lowercase(),
                    "passed": outcome.passed_count(),
                    "failed": outcome.failed_count(self.skip_is_failure),
                    "ignored": ignored,
                    "seconds": took.as_secs_f64(),
                    "reason": reason,
                    "failed_tests": failed_tests,
                })
            })
            .collect();
        json!({"passed": self.passed(), "failed": self.failed(), "checks": checks})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(skip_is_failure: bool) -> Report {
        let mut report = Report::new(skip_is_failure);
        report.add("fmt", Outcome::passed(), Duration::from_millis(1_500));
        let tests = Outcome::Tests {
            passed: 40,
            failed: 2,
            ignored: 1,
            failed_names: vec!["a".to_owned(), "b".to_owned()],
            detail: "boom".to_owned(),
        };
        report.add("tests", tests, Duration::from_secs(125));
        report.add(
            "python",
            Outcome::Skipped("no python3".to_owned()),
            Duration::ZERO,
        );
        report
    }

    #[test]
    fn tests_and_checks_add_up_and_a_skip_fails_only_where_it_must_not_happen() {
        assert_eq!(report(false).totals(), "41 passed, 2 failed");
        assert_eq!(report(true).totals(), "41 passed, 3 failed");
        assert!(!report(false).is_good());
    }

    #[test]
    fn a_skip_alone_is_not_good() {
        let mut report = Report::new(false);
        report.add(
            "python",
            Outcome::Skipped("no python3".to_owned()),
            Duration::ZERO,
        );
        assert!(!report.is_good());
    }

    #[test]
    fn the_table_names_what_failed_and_what_was_skipped() {
        let table = report(false).table();
        for expected in [
            "FAILED tests: a\n",
            "SKIPPED python: no python3\n",
            "2 min 05 s",
            "1 ignored",
        ] {
            assert!(table.contains(expected), "{expected} is missing in\n{table}");
        }
    }

    #[test]
    fn programs_get_the_same_numbers() {
        let json = report(true).to_json();
        assert_eq!((&json["passed"], &json["failed"]), (&json!(41), &json!(3)));
        assert_eq!(json["checks"][1]["failed_tests"], json!(["a", "b"]));
        assert_eq!(json["checks"][2]["status"], "skipped");
    }
}
