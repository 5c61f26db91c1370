//! What a run shows of itself while it goes on: a line that changes on a terminal, a line per second elsewhere.
//!
//! It goes to standard error; standard output is the result's.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use serde_json::{Value, json};

use crate::lead::{Phase, Show};
use crate::report::SecondFigures;
use crate::slices;
use crate::tally::Second;

/// How a run shows itself here.
#[must_use]
pub fn show(quiet: bool) -> Box<dyn Show> {
    if quiet {
        Box::new(Quiet)
    } else if io::stderr().is_terminal() {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Box::new(Terminal(bar))
    } else {
        Box::new(Lines)
    }
}

/// Shows it as `other` does, and writes it to a file too, a line of JSON for each second and phase, whole as soon as it is there.
///
/// # Errors
/// When the file cannot be made.
pub fn live(path: &Path, other: Box<dyn Show>) -> io::Result<Box<dyn Show>> {
    let file = File::create(path)?;
    Ok(Box::new(Live { file, other }))
}

struct Live {
    file: File,
    other: Box<dyn Show>,
}

impl Live {
    fn write(&mut self, what: &Value) {
        // A disk that is full does not stop the run.
        let _ = self.file.write_all(format!("{what}\n").as_bytes());
    }
}

impl Show for Live {
    fn second(&mut self, second: &Second) {
        self.write(&json!({ "now_ms": slices::now_ms(), "second": SecondFigures::of(second) }));
        self.other.second(second);
    }

    fn phase(&mut self, phase: Phase) {
        self.write(&json!({ "now_ms": slices::now_ms(), "phase": phase }));
        self.other.phase(phase);
    }
}

struct Quiet;

impl Show for Quiet {
    fn second(&mut self, _: &Second) {}
    fn phase(&mut self, _: Phase) {}
}

struct Terminal(ProgressBar);

impl Show for Terminal {
    fn second(&mut self, second: &Second) {
        self.0.set_message(line(second));
    }

    fn phase(&mut self, phase: Phase) {
        self.0.println(phase_line(phase));
        if phase == Phase::Ran {
            self.0.finish_and_clear();
        }
    }
}

struct Lines;

impl Show for Lines {
    fn second(&mut self, second: &Second) {
        say(&format!("{:>4} s  {}", second.at_s + 1, line(second)));
    }

    fn phase(&mut self, phase: Phase) {
        say(&phase_line(phase));
    }
}

fn say(line: &str) {
    // A reader that has gone does not stop the run.
    let _ = writeln!(io::stderr(), "{line}");
}

fn phase_line(phase: Phase) -> String {
    match phase {
        Phase::Begun => "begun: clients come in".to_owned(),
        Phase::Connected => "clients are in".to_owned(),
        Phase::Prepared => "everything is ready: the load begins".to_owned(),
        Phase::Round(number) => format!("round {number} is over"),
        Phase::Ran => "the load is over".to_owned(),
    }
}

fn line(second: &Second) -> String {
    let mut line = format!("{} online", second.online);
    if second.logins > 0 {
        line += &format!(", {} logins/s{}", second.logins, quantiles(&second.handshake));
    }
    if second.failures > 0 {
        line += &format!(", {} FAILED or lost", second.failures);
    }
    if second.sends > 0 || second.acked > 0 || second.backlog > 0 {
        line += &format!(
            ", {} sends/s, {} acked/s{}, {} open",
            second.sends,
            second.acked,
            quantiles(&second.ack),
            second.backlog
        );
    }
    if second.deliveries > 0 {
        line += &format!(
            ", {} deliveries/s{}",
            second.deliveries,
            quantiles(&second.delivery)
        );
    }
    line
}

fn quantiles(latency: &crate::latency::Latency) -> String {
    match (latency.quantile_ms(0.5), latency.quantile_ms(0.99)) {
        (Some(p50), Some(p99)) => format!(" (p50 {p50:.1} ms, p99 {p99:.1})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    fn a_live_file_has_a_line_for_each_second_and_phase() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live");
        let mut show = live(&path, Box::new(Quiet)).unwrap();
        show.phase(Phase::Prepared);
        show.second(&Second {
            at_s: 3,
            acked: 7,
            ..Second::default()
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["phase"], "Prepared");
        assert_eq!(
            (&lines[1]["second"]["at_s"], &lines[1]["second"]["acked"]),
            (&json!(3), &json!(7))
        );
    }

    #[test]
    fn a_line_says_what_happened_and_leaves_out_what_did_not() {
        let mut second = Second {
            online: 7,
            sends: 3,
            acked: 2,
            backlog: 1,
            ..Second::default()
        };
        second.ack.record(Duration::from_millis(4));
        let line = line(&second);
        assert!(
            line.starts_with("7 online, 3 sends/s, 2 acked/s (p50 4.0 ms"),
            "{line}"
        );
        assert!(!line.contains("logins") && !line.contains("deliveries"), "{line}");
    }
}
