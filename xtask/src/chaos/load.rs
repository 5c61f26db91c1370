//! The load: generators from outside, which know nothing of what happens to the cluster, and what they say while they run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use serde_json::Value;

/// Bytes of a live file's end that are looked at: some seconds of it.
const LIVE_TAIL: usize = 16 * 1024;
/// Seconds in a row that must be as usual for a load to be well.
const WELL_SECONDS: usize = 2;
/// The 99th percentile of a second that is as usual, milliseconds.
const USUAL_P99_MS: f64 = 1_000.0;

/// What a generator does.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: &'static str,
    /// The scenario and its flags.
    pub(super) words: Vec<String>,
    /// Clients that are to be there.
    pub(super) clients: u64,
    /// Messages a second; 0: none.
    pub(super) rate: f64,
    /// Begun anew when it ends, until the load is over.
    pub(super) again: bool,
}

/// A generator that runs. Killed when dropped.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) job: Job,
    program: PathBuf,
    ready_file: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
    /// How often it was begun.
    pub(super) runs: u32,
    /// How its runs that failed ended.
    pub(super) failures: Vec<String>,
}

impl Load {
    pub(super) fn start(job: Job, program: &Path, ready_file: &Path, folder: &Path) -> anyhow::Result<Self> {
        let mut load = Self {
            job,
            program: program.to_owned(),
            ready_file: ready_file.to_owned(),
            folder: folder.to_owned(),
            child: None,
            runs: 0,
            failures: Vec::new(),
        };
        load.begin()?;
        Ok(load)
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.job.name))
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.runs += 1;
        let mut command = Command::new(&self.program);
        command.args(&self.job.words);
        command.arg("--ready-file").arg(&self.ready_file);
        command.arg("--json").arg(self.path("json"));
        command.arg("--live").arg(self.path("live"));
        if self.job.words.iter().any(|word| word == "--check") {
            command.arg("--ledger").arg(self.path("ledger"));
            command.arg("--report").arg(self.path("html"));
        }
        if self.job.rate > 0.0 {
            command.arg("--slices");
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("{} does not start", self.program.display()))?);
        Ok(())
    }

    /// Looks whether it has ended, and begins it anew if it is to be; whether it runs.
    pub(super) fn runs(&mut self, more: bool) -> anyhow::Result<bool> {
        let Some(child) = &mut self.child else {
            return Ok(false);
        };
        let Some(status) = child.try_wait()? else {
            return Ok(true);
        };
        self.child = None;
        if !status.success() {
            self.failures.push(format!("run {}: {status}", self.runs));
        }
        if self.job.again && more {
            self.begin()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn live(&self) -> Vec<Value> {
        let Ok(bytes) = fs::read(self.path("live")) else {
            return Vec::new();
        };
        let tail = &bytes[bytes.len().saturating_sub(LIVE_TAIL)..];
        // The first line of a tail is cut, the last may be half written: neither is JSON.
        let lines = String::from_utf8_lossy(tail).into_owned();
        lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Whether its clients have begun to send.
    pub(super) fn has_begun(&self) -> bool {
        let reached = |line: &Value| ["Prepared", "Ran"].iter().any(|phase| line["phase"] == *phase);
        let live = self.live();
        live.iter().any(reached) || live.len() > 20 || self.runs > 1
    }

    /// Whether its last seconds, all of them after `since_ms`, were as usual.
    pub(super) fn is_well(&self, since_ms: u64) -> bool {
        let live = self.live();
        let seconds = live.iter().filter(|line| line["second"].is_object());
        let after = seconds.filter(|line| line["now_ms"].as_u64().is_some_and(|at| at >= since_ms + 1_000));
        let last: Vec<_> = after.map(|line| &line["second"]).collect();
        // Devices that log in again and again, as some of a checked run do, are away for moments.
        let all_in = |second: &Value| second["away"] == 0;
        last.len() >= WELL_SECONDS
            && last[last.len() - WELL_SECONDS..]
                .iter()
                .all(|second| is_usual(second, &self.job))
            && last.into_iter().rev().take(WELL_SECONDS + 1).any(all_in)
    }

    /// The figures of its last run.
    pub(super) fn figures(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.path("json")).ok()?).ok()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a second was as they are when all is well.
fn is_usual(second: &Value, job: &Job) -> bool {
    let number = |name: &str| second[name].as_f64().unwrap_or(0.0);
    let is_quick = ["ack_p99_ms", "delivery_p99_ms"]
        .iter()
        .all(|name| number(name) < USUAL_P99_MS);
    // In flight for a moment each: what a second offers and no more.
    let is_short = number("backlog") <= job.rate.max(4.0);
    let are_there = second["online"]
        .as_u64()
        .is_some_and(|online| online >= job.clients);
    let flows = job.rate < 2.0 || number("acked") > 0.0;
    is_quick && is_short && are_there && flows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_second_is_usual_when_all_are_there_and_nothing_waits() {
        let job = Job {
            name: "direct",
            words: Vec::new(),
            clients: 10,
            rate: 50.0,
            again: false,
        };
        let second = |change: fn(&mut Value)| {
            let mut second = json!({ "online": 12, "backlog": 3, "acked": 49, "ack_p99_ms": 20.0, "delivery_p99_ms": 30.0 });
            change(&mut second);
            second
        };
        assert!(is_usual(&second(|_| {}), &job));
        let changes: [fn(&mut Value); 5] = [
            |second| second["online"] = json!(9),
            |second| second["backlog"] = json!(51),
            |second| second["acked"] = json!(0),
            |second| second["ack_p99_ms"] = json!(1_500.0),
            |second| second["delivery_p99_ms"] = json!(4_000.0),
        ];
        for change in changes {
            assert!(!is_usual(&second(change), &job), "{}", second(change));
        }
    }
}
