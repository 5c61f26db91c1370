//! One load after the other: `whimbrel-loadtest chat`, and what it found.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{LOOK_EVERY, counters, sleep};
use crate::interrupt::Interrupt;

/// How long logging in, and all else that the generator does beside sending, may take.
const AROUND_WITHIN: Duration = Duration::from_secs(180);
/// For a rate to be held as much as this must be acknowledged of what is offered meanwhile.
const HELD_SHARE: f64 = 0.98;
/// Seconds in which less is offered of a rate than this are its beginning and its end.
const WHOLE_SECOND: f64 = 0.95;
/// And this soon, 99 of 100, milliseconds.
const HELD_P99_MS: f64 = 1_000.0;
/// Lines of the generator's log that an error shows.
const LINES_SHOWN: usize = 3;

/// What people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chat {
    pub(super) users: u64,
    /// 0: pairs.
    pub(super) group_size: u64,
    /// Messages a second, of all.
    pub(super) rate: u64,
    pub(super) seconds: u64,
    /// How long open sends are waited for.
    pub(super) grace_s: u64,
}

/// The generator, and what it loads.
pub(super) struct Generator<'a> {
    pub(super) program: &'a Path,
    pub(super) ready_file: &'a Path,
    /// Where its files go.
    pub(super) folder: &'a Path,
    pub(super) interrupt: &'a Interrupt,
}

/// What was looked at before the first message and after the last; or why it could not be.
type Watched<T> = anyhow::Result<(T, T)>;

impl Generator<'_> {
    /// Runs one load.
    pub(super) fn chat(&self, name: &str, chat: Chat) -> anyhow::Result<LoadFigures> {
        self.watched(name, chat, Duration::ZERO, &|| Ok(()))
            .map(|(figures, _)| figures)
    }

    /// Runs one load, and looks at something when everybody is there and nothing was sent yet, and `settle` after all is
    /// acknowledged.
    pub(super) fn watched<T>(
        &self,
        name: &str,
        chat: Chat,
        settle: Duration,
        look: &dyn Fn() -> anyhow::Result<T>,
    ) -> anyhow::Result<(LoadFigures, Watched<T>)> {
        let mut running = self.start(name, chat)?;
        let within = Duration::from_secs(chat.seconds + chat.grace_s) + AROUND_WITHIN;
        let started = Instant::now();
        let (mut before, mut after, mut over) = (None, None, None);
        let status = loop {
            let ended = running.0.try_wait()?;
            let live = fs::read_to_string(self.path(name, "live")).unwrap_or_default();
            if before.is_none() && reached(&live, "Prepared") {
                before = Some(look());
            }
            if over.is_none() && reached(&live, "Ran") {
                over = Some(Instant::now());
                if settle.is_zero() {
                    after = Some(look());
                }
            }
            if let Some(status) = ended {
                break status;
            }
            ensure!(!self.interrupt.is_heard(), "interrupted");
            ensure!(
                started.elapsed() < within,
                "the generator has not ended after {within:?}"
            );
            thread::sleep(LOOK_EVERY);
        };
        if let Some(over) = over.filter(|_| after.is_none()) {
            sleep(settle.saturating_sub(over.elapsed()), self.interrupt)?;
            after = Some(look());
        }
        let figures = LoadFigures::read(&self.figures(name, status)?, chat, status)?;
        let both = before
            .zip(after)
            .context("the load was not seen to begin and to end");
        let watched = both.and_then(|(before, after)| Ok((before?, after?)));
        Ok((figures, watched))
    }

    fn path(&self, name: &str, kind: &str) -> std::path::PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }

    fn start(&self, name: &str, chat: Chat) -> anyhow::Result<Killed> {
        let log = fs::File::create(self.path(name, "log"))?;
        let mut command = Command::new(self.program);
        command.arg("chat").arg("--ready-file").arg(self.ready_file);
        for (flag, number) in [
            ("--users", chat.users),
            ("--rate", chat.rate),
            ("--group-size", chat.group_size),
        ] {
            command.arg(flag).arg(number.to_string());
        }
        for (flag, seconds) in [("--duration", chat.seconds), ("--grace", chat.grace_s)] {
            command.arg(flag).arg(format!("{seconds}s"));
        }
        command.arg("--json").arg(self.path(name, "json"));
        command.arg("--live").arg(self.path(name, "live"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn();
        Ok(Killed(child.with_context(|| {
            format!("{} does not start", self.program.display())
        })?))
    }

    /// Its figures; where it has none, what it said last.
    fn figures(&self, name: &str, status: ExitStatus) -> anyhow::Result<Value> {
        let written = fs::read_to_string(self.path(name, "json")).ok();
        let figures = written.and_then(|text| serde_json::from_str(&text).ok());
        figures.with_context(|| {
            let log = fs::read_to_string(self.path(name, "log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let said = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("; ");
            format!("the generator ended with {status} and no figures: {said}")
        })
    }
}

/// Killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a live file says that a phase is reached. Its last line may be half written.
fn reached(live: &str, phase: &str) -> bool {
    let lines = live
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.into_iter().any(|line| line["phase"] == phase)
}

/// What was acknowledged of what was offered in the whole seconds of a load but the first. By the acknowledged of all over the time until
/// the last of them, a short load would look as if it were not kept up with when it is only answered a little later.
fn steady_share(seconds: &Value, rate: f64) -> Option<f64> {
    let of = |second: &Value, name: &str| second[name].as_f64().unwrap_or(0.0);
    let whole = seconds.as_array()?.iter();
    let whole = whole.filter(|second| of(second, "sends") >= WHOLE_SECOND * rate);
    let (sends, acked) = whole.skip(1).fold((0.0, 0.0), |(sends, acked), second| {
        (sends + of(second, "sends"), acked + of(second, "acked"))
    });
    (sends > 0.0).then(|| acked / sends)
}

/// The middle, and what 99 of 100 stay below, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Quantiles {
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Quantiles {
    fn read(value: &Value) -> Self {
        Self {
            p50: value["p50"].as_f64(),
            p99: value["p99"].as_f64(),
        }
    }

    fn json(self) -> Value {
        json!({ "p50": self.p50, "p99": self.p99 })
    }
}

/// What a load found, as far as it is of use here; the rest is in its own JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LoadFigures {
    /// What was offered, a second.
    pub(super) rate: u64,
    pub(super) acked: u64,
    pub(super) acked_per_s: f64,
    /// What was acknowledged of what was offered while the load went on steadily.
    pub(super) acked_share: f64,
    pub(super) ack: Quantiles,
    pub(super) delivery: Quantiles,
    /// Processor time per acknowledged message by role, microseconds.
    pub(super) cpu_us: BTreeMap<String, f64>,
    /// Shares of one processor by role, percent.
    pub(super) cpu_percent: BTreeMap<String, f64>,
    /// Requests for entries that were not pushed, or not in time.
    pub(super) pulls: u64,
    /// What makes the figures less than they seem.
    pub(super) wrong: Vec<String>,
    /// Sends without an answer.
    pub(super) unresolved: u64,
    /// Clients that could not come in, or did not stay.
    pub(super) out: u64,
}

impl LoadFigures {
    fn read(value: &Value, chat: Chat, status: ExitStatus) -> anyhow::Result<Self> {
        let count = |name: &str| value[name].as_u64().unwrap_or(0);
        let acked_per_s = value["acked_per_s"].as_f64();
        let acked_per_s = acked_per_s.context("the generator's JSON has no acked_per_s")?;
        let rate = counters::float(chat.rate);
        let mut figures = Self {
            rate: chat.rate,
            acked: count("sends_acked"),
            acked_per_s,
            acked_share: steady_share(&value["seconds"], rate).unwrap_or(acked_per_s / rate),
            ack: Quantiles::read(&value["ack_ms"]),
            delivery: Quantiles::read(&value["delivery_ms"]),
            pulls: count("pulls"),
            unresolved: count("unresolved"),
            out: count("failed") + count("lost"),
            ..Self::default()
        };
        for name in [
            "violations",
            "unresolved",
            "undelivered",
            "refused",
            "failed",
            "lost",
        ] {
            if count(name) > 0 {
                figures.wrong.push(format!("{} {name}", count(name)));
            }
        }
        if figures.wrong.is_empty() && !status.success() {
            figures.wrong.push(format!("the generator ended with {status}"));
        }
        for (role, of_it) in value["roles"].as_object().into_iter().flatten() {
            if let Some(us) = of_it["cpu_us_per_send"].as_f64() {
                figures.cpu_us.insert(role.clone(), us);
            } else if figures.acked > 0 {
                let what = format!("no processor time of {role}: another process took its place, or none");
                figures.wrong.push(what);
            }
            if let Some(percent) = of_it["cpu_percent"].as_f64() {
                figures.cpu_percent.insert(role.clone(), percent);
            }
        }
        Ok(figures)
    }

    /// Whether the deployment kept up.
    pub(super) fn is_held(&self) -> bool {
        let is_quick = self.ack.p99.is_some_and(|p99| p99 <= HELD_P99_MS);
        is_quick && self.acked_share >= HELD_SHARE && self.unresolved == 0 && self.out == 0
    }

    /// Of all roles together.
    pub(super) fn cpu_us_of_all(&self) -> f64 {
        self.cpu_us.values().sum()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "rate": self.rate,
            "sends_acked": self.acked,
            "acked_per_s": self.acked_per_s,
            "acked_share": self.acked_share,
            "ack_ms": self.ack.json(),
            "delivery_ms": self.delivery.json(),
            "cpu_us_per_send": self.cpu_us,
            "cpu_us_per_send_of_all": self.cpu_us_of_all(),
            "cpu_percent": self.cpu_percent,
            "pulls": self.pulls,
            "wrong": self.wrong,
        })
    }
}

impl fmt::Display for LoadFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        write!(
            f,
            "{:.1} acked/s, ack p50 {} ms, p99 {}, delivery p50 {}, p99 {}, CPU {:.0} us a send",
            self.acked_per_s,
            ms(self.ack.p50),
            ms(self.ack.p99),
            ms(self.delivery.p50),
            ms(self.delivery.p99),
            self.cpu_us_of_all()
        )
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const CHAT: Chat = Chat {
        users: 2,
        group_size: 0,
        rate: 100,
        seconds: 10,
        grace_s: 1,
    };

    fn figures(change: fn(&mut Value)) -> LoadFigures {
        let mut value = json!({
            "sends_acked": 1_000, "acked_per_s": 99.0, "ack_ms": { "p50": 2.0, "p99": 9.0 },
            "delivery_ms": { "p50": 3.0, "p99": null }, "unresolved": 0, "failed": 0,
            "roles": {
                "gateway": { "cpu_us_per_send": 50.0, "cpu_percent": 0.5 },
                "store": { "cpu_us_per_send": 25.5, "cpu_percent": 0.25 },
            },
        });
        change(&mut value);
        LoadFigures::read(&value, CHAT, ExitStatus::default()).unwrap()
    }

    #[test]
    fn processor_time_is_told_by_role_and_of_all() {
        let figures = figures(|_| {});
        assert_eq!(
            figures.cpu_us,
            BTreeMap::from([("gateway".to_owned(), 50.0), ("store".to_owned(), 25.5)])
        );
        assert_eq!(figures.json()["cpu_us_per_send_of_all"], 75.5);
        assert!(figures.is_held() && figures.wrong.is_empty());
    }

    #[test]
    fn a_rate_is_not_held_when_acknowledgements_are_few_or_late_or_missing() {
        let changes: [fn(&mut Value); 5] = [
            |value| value["acked_per_s"] = json!(97.9),
            |value| value["ack_ms"]["p99"] = json!(1_000.1),
            |value| value["ack_ms"]["p99"] = Value::Null,
            |value| value["unresolved"] = json!(1),
            |value| value["failed"] = json!(1),
        ];
        for change in changes {
            assert!(!figures(change).is_held());
        }
    }

    #[test]
    fn what_is_answered_late_but_as_fast_as_it_comes_is_kept_up_with() {
        let seconds = |acked: [u64; 5]| {
            let sends = [40, 100, 100, 100, 60].into_iter();
            let seconds = sends.zip(acked);
            let seconds = seconds.map(|(sends, acked)| json!({ "sends": sends, "acked": acked }));
            Value::Array(seconds.collect())
        };
        assert_eq!(steady_share(&seconds([10, 90, 100, 100, 100]), 100.0), Some(1.0));
        assert_eq!(steady_share(&seconds([10, 90, 95, 95, 110]), 100.0), Some(0.95));
        assert_eq!(steady_share(&seconds([10, 90, 100, 100, 100]), 500.0), None);
        assert_eq!(steady_share(&Value::Null, 1.0), None);
    }

    #[test]
    fn what_is_wrong_with_figures_is_told_with_them() {
        let replaced = figures(|value| value["roles"]["store"]["cpu_us_per_send"] = Value::Null);
        assert!(replaced.wrong[0].contains("store"), "{:?}", replaced.wrong);
        let open = figures(|value| value["unresolved"] = json!(7));
        assert_eq!(open.wrong, ["7 unresolved"]);
        assert!(LoadFigures::read(&json!({}), CHAT, ExitStatus::default()).is_err());
    }

    #[test]
    fn a_phase_is_reached_once_its_line_is_whole() {
        let live = "{\"now_ms\":1,\"phase\":\"Begun\"}\n{\"now_ms\":2,\"second\":{}}\n{\"now_ms\":3,\"phase\":\"Prep";
        assert!(reached(live, "Begun"));
        assert!(!reached(live, "Prepared") && !reached("", "Begun"));
    }
}
