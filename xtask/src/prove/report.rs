//! What a run showed: a table for people, JSON for programs.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::ProveArgs;

/// Violations in the table; the others are in the JSON.
const TOLD_MAX: usize = 10;

/// Something that happened to the server.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Suffered {
    /// Since the load began.
    pub(super) at_s: f64,
    pub(super) what: String,
    pub(super) back_after_s: f64,
    /// Of a power cut: what was written and not synced.
    pub(super) unsynced_bytes: Option<u64>,
}

impl fmt::Display for Suffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: back after {:.2} s", self.what, self.back_after_s)?;
        match self.unsynced_bytes {
            Some(bytes) => write!(f, ", {} KiB were not synced", bytes / 1024),
            None => Ok(()),
        }
    }
}

/// How it all ended.
#[derive(Debug)]
pub(super) struct Outcome {
    seed: u64,
    plant: Option<String>,
    /// The generator was content.
    load_passed: bool,
    server_panicked: bool,
    /// How many faults were to happen: a run that had fewer proves nothing.
    faults: usize,
    suffered: Vec<Suffered>,
    /// The generator's figures.
    load: Value,
}

impl Outcome {
    pub(super) fn read(
        out: &Path,
        seed: u64,
        args: &ProveArgs,
        load_passed: bool,
        server_panicked: bool,
        suffered: Vec<Suffered>,
    ) -> anyhow::Result<Self> {
        let path = out.join("load.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("the generator has not written {}", path.display()))?;
        Ok(Self {
            seed,
            plant: args.plant.clone(),
            load_passed,
            server_panicked,
            faults: args.faults as usize,
            suffered,
            load: serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?,
        })
    }

    /// Whether what was to be shown was: no broken promise, or a planted fault found.
    fn passed(&self) -> bool {
        match self.plant {
            None => self.load_passed && !self.server_panicked && self.had_all_faults(),
            Some(_) => self.violations() > 0,
        }
    }

    fn had_all_faults(&self) -> bool {
        self.suffered.len() == self.faults
    }

    fn violations(&self) -> u64 {
        self.load["violations"].as_u64().unwrap_or(0)
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        if self.passed() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    pub(super) fn write(&self, out: &Path) -> anyhow::Result<()> {
        let suffered = self.suffered.iter().map(|suffered| {
            json!({
                "at_s": suffered.at_s,
                "what": suffered.what,
                "back_after_s": suffered.back_after_s,
                "unsynced_bytes": suffered.unsynced_bytes,
            })
        });
        let all = json!({
            "passed": self.passed(),
            "seed": self.seed,
            "plant": self.plant,
            "server_panicked": self.server_panicked,
            "faults": suffered.collect::<Vec<_>>(),
            "load": self.load,
        });
        let path = out.join("prove.json");
        fs::write(&path, format!("{all:#}\n")).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for suffered in &self.suffered {
            writeln!(f, "{:8.1} s  {suffered}", suffered.at_s)?;
        }
        writeln!(f)?;
        for name in [
            "sends",
            "sends_acked",
            "refused",
            "refused_wrongly",
            "repeated",
            "unresolved",
            "unread",
            "membership_changes",
            "deliveries",
            "disconnects",
            "retries",
            "violations",
        ] {
            writeln!(f, "{name:<20}{:>14}", self.load[name])?;
        }
        let told = self.load["violations_told"].as_array();
        for violation in told.into_iter().flatten().take(TOLD_MAX) {
            writeln!(f, "  ({}) {}", violation["invariant"], violation["what"])?;
        }
        if self.server_panicked {
            writeln!(f, "the server panicked: see server.log")?;
        }
        if !self.had_all_faults() {
            let (had, wanted) = (self.suffered.len(), self.faults);
            writeln!(
                f,
                "only {had} of {wanted} faults happened: the load was over before"
            )?;
        }
        let end = match (&self.plant, self.passed()) {
            (None, true) => "no promise was broken",
            (None, false) => "FAILED: a promise was broken, or the run was not as it was to be",
            (Some(_), true) => "the planted fault was found",
            (Some(_), false) => "FAILED: the planted fault was not found",
        };
        writeln!(f, "{end}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(plant: Option<&str>, load_passed: bool, violations: u64) -> Outcome {
        Outcome {
            seed: 1,
            plant: plant.map(ToOwned::to_owned),
            load_passed,
            server_panicked: false,
            faults: 0,
            suffered: Vec::new(),
            load: json!({ "violations": violations }),
        }
    }

    #[test]
    fn a_run_passes_without_violations_and_a_planted_one_with_them() {
        assert!(outcome(None, true, 0).passed());
        assert!(!outcome(None, false, 3).passed());
        assert!(outcome(Some("no-fsync"), false, 3).passed());
        assert!(!outcome(Some("no-fsync"), true, 0).passed());
        let panicked = Outcome {
            server_panicked: true,
            ..outcome(None, true, 0)
        };
        assert!(!panicked.passed());
        let without_its_faults = Outcome {
            faults: 4,
            ..outcome(None, true, 0)
        };
        assert!(!without_its_faults.passed());
    }
}
