//! `cargo xtask chaos-sum`: what several runs of `cargo xtask chaos` showed together: how often each kind of fault happened, and over
//! all of them the recovery of each class and the share of sends that were acknowledged in time.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// Which runs.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct SumArgs {
    /// The runs' folders, each with its `chaos.json`.
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// Write the sum to this file too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The smallest that so many of a hundred do not exceed; 0 of nothing.
pub(crate) fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// Recoveries of one class, from the return on.
#[derive(Debug, Default)]
struct Class {
    times_s: Vec<f64>,
    target_s: f64,
}

impl Class {
    fn quantile(&self, percent: usize) -> f64 {
        let mut sorted = self.times_s.clone();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, percent)
    }

    fn is_within(&self) -> bool {
        self.quantile(95) <= self.target_s
    }
}

/// All runs together.
#[derive(Debug, Default)]
struct Sum {
    /// Each run's seed, and how many faults it had.
    seeds: BTreeMap<u64, usize>,
    minutes: u64,
    kinds: BTreeMap<String, usize>,
    classes: BTreeMap<String, Class>,
    /// Faults during which the run itself stood still: not among the recoveries.
    disturbed: usize,
    offered: u64,
    in_time: u64,
    in_time_target: f64,
    /// Sends, acknowledgements and deliveries of all loads.
    sends: u64,
    acked: u64,
    delivered: u64,
    /// What was not as it is to be.
    wrong: Vec<String>,
}

impl Sum {
    /// Adds a run's `chaos.json`.
    fn add(&mut self, run: &Value) -> Option<()> {
        let seed = run["seed"].as_u64()?;
        self.minutes += run["minutes"].as_u64()?;
        let faults = run["faults"].as_array()?;
        if self.seeds.insert(seed, faults.len()).is_some() {
            self.wrong
                .push(format!("seed {seed} is there twice: it is the same faults"));
        }
        for class in run["recovery"].as_array()? {
            let own = self
                .classes
                .entry(class["class"].as_str()?.to_owned())
                .or_default();
            own.target_s = class["target_p95_s"].as_f64()?;
        }
        for fault in faults {
            *self.kinds.entry(fault["kind"].as_str()?.to_owned()).or_default() += 1;
            if fault["disturbed"].as_bool()? {
                self.disturbed += 1;
                continue;
            }
            let class = self
                .classes
                .entry(fault["class"].as_str()?.to_owned())
                .or_default();
            class.times_s.push(fault["recovered_s_after_return"].as_f64()?);
        }
        let outside = &run["outside_windows"];
        self.offered += outside["offered"].as_u64()?;
        self.in_time += outside["acknowledged_in_5_s"].as_u64()?;
        self.in_time_target = outside["target"].as_f64()?;
        for load in run["loads"].as_array()? {
            let figures = &load["figures"];
            let count = |name: &str| figures[name].as_u64().unwrap_or(0);
            self.sends += count("sends");
            self.acked += count("sends_acked");
            self.delivered += count("deliveries");
        }
        for wrong in run["wrong"].as_array()? {
            self.wrong.push(format!("seed {seed}: {}", wrong.as_str()?));
        }
        Some(())
    }

    fn faults(&self) -> usize {
        self.seeds.values().sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of runs are far below 2^53")]
    fn share(&self) -> f64 {
        if self.offered == 0 {
            return 0.0;
        }
        self.in_time as f64 / self.offered as f64
    }

    fn json(&self) -> Value {
        let classes = self.classes.iter().map(|(name, class)| {
            json!({
                "class": name,
                "count": class.times_s.len(),
                "p50_s": class.quantile(50),
                "p95_s": class.quantile(95),
                "max_s": class.quantile(100),
                "target_p95_s": class.target_s,
                "within": class.is_within(),
            })
        });
        json!({
            "seeds": self.seeds,
            "minutes": self.minutes,
            "faults": self.faults(),
            "kinds": self.kinds,
            "recovery": classes.collect::<Vec<_>>(),
            "disturbed": self.disturbed,
            "outside_windows": {
                "offered": self.offered,
                "acknowledged_in_5_s": self.in_time,
                "share": self.share(),
                "target": self.in_time_target,
                "within": self.share() >= self.in_time_target,
            },
            "sends": self.sends,
            "acknowledged": self.acked,
            "delivered": self.delivered,
            "wrong": self.wrong,
        })
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fewest = self.seeds.values().min().unwrap_or(&0);
        writeln!(
            f,
            "{} seeds, {} minutes of load, {} faults, {fewest} or more each\n",
            self.seeds.len(),
            self.minutes,
            self.faults()
        )?;
        for (kind, count) in &self.kinds {
            writeln!(f, "{kind:<26} {count:>4}")?;
        }
        writeln!(
            f,
            "\n{:<20} {:>6} {:>8} {:>8} {:>8} {:>8}",
            "class", "faults", "p50 s", "p95 s", "most s", "target"
        )?;
        for (name, class) in &self.classes {
            writeln!(
                f,
                "{name:<20} {:>6} {:>8.1} {:>8.1} {:>8.1} {:>8.0}{}",
                class.times_s.len(),
                class.quantile(50),
                class.quantile(95),
                class.quantile(100),
                class.target_s,
                if class.is_within() { "" } else { "  MISSED" }
            )?;
        }
        if self.disturbed > 0 {
            let disturbed = self.disturbed;
            writeln!(f, "without {disturbed} during which the run itself stood still")?;
        }
        writeln!(
            f,
            "\n{} sends, {} acknowledged, {} delivered",
            self.sends, self.acked, self.delivered
        )?;
        writeln!(
            f,
            "outside fault windows {} of {} sends were acknowledged within 5 s: {:.4} % (target {:.1} %)",
            self.in_time,
            self.offered,
            100.0 * self.share(),
            100.0 * self.in_time_target
        )?;
        for wrong in &self.wrong {
            writeln!(f, "WRONG: {wrong}")?;
        }
        if self.wrong.is_empty() {
            writeln!(f, "no promise was broken, everything recovered")?;
        }
        Ok(())
    }
}

/// Adds them up. Fails when something was wrong in one of them.
pub(crate) fn run(args: &SumArgs) -> anyhow::Result<ExitCode> {
    let mut sum = Sum::default();
    for folder in &args.runs {
        let path = folder.join("chaos.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let run: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        ensure!(
            sum.add(&run).is_some(),
            "{} is not what `cargo xtask chaos` writes",
            path.display()
        );
    }
    print!("{sum}");
    if let Some(path) = &args.json {
        fs::write(path, format!("{:#}\n", sum.json()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if sum.wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run with one fault after the other of a class, recovered from in these times.
    fn run(seed: u64, times_s: &[f64]) -> Value {
        let faults = times_s.iter().map(|time| {
            json!({"kind": "kill router", "class": "router", "disturbed": *time > 100.0, "recovered_s_after_return": time})
        });
        json!({
            "seed": seed,
            "minutes": 8,
            "faults": faults.collect::<Vec<_>>(),
            "recovery": [{"class": "router", "target_p95_s": 2.0}],
            "outside_windows": {"offered": 1_000, "acknowledged_in_5_s": 999, "target": 0.999},
            "loads": [{"figures": {"sends": 10, "sends_acked": 9, "deliveries": 20}}],
            "wrong": [],
        })
    }

    #[test]
    fn percentiles_are_those_of_all_runs_together() {
        let mut sum = Sum::default();
        // Of twenty-one, one is over the target; alone it would be one of two.
        assert!(sum.add(&run(1, &[0.0; 19])).is_some());
        assert!(sum.add(&run(2, &[0.5, 9.0, 500.0])).is_some());
        let router = &sum.classes["router"];
        assert_eq!(router.times_s.len(), 21, "one was disturbed");
        assert!(router.is_within());
        assert!((router.quantile(100) - 9.0).abs() < 1e-9);
        assert_eq!((sum.faults(), sum.minutes, sum.disturbed), (22, 16, 1));
        assert_eq!((sum.sends, sum.acked, sum.delivered), (20, 18, 40));
        assert!((sum.share() - 0.999).abs() < 1e-9);
        let text = sum.to_string();
        assert!(
            text.contains("kill router                  22") && !text.contains("MISSED"),
            "{text}"
        );
        assert!(sum.add(&run(3, &[7.0, 8.0])).is_some());
        assert!(sum.to_string().contains("MISSED"));
    }

    #[test]
    fn what_was_wrong_in_one_of_them_is_told() {
        let mut sum = Sum::default();
        let mut bad = run(4, &[0.0]);
        bad["wrong"] = json!(["direct: 1 violations"]);
        assert!(sum.add(&bad).is_some());
        assert_eq!(sum.wrong, ["seed 4: direct: 1 violations"]);
        assert!(sum.add(&run(4, &[0.0])).is_some());
        assert!(sum.wrong[1].contains("twice"), "{:?}", sum.wrong);
        assert!(sum.add(&json!({"seed": 5})).is_none(), "that is no run");
    }
}
