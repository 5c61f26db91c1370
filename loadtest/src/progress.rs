//! What a run shows of itself while it goes on: a line that changes on a terminal, a line per second elsewhere.
//!
//! It goes to standard error; standard output is the result's.

use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::lead::{Phase, Show};
use crate::tally::Second;

/// How a run shows itself here.
#[must_use]
pub fn show(quiet: bool) -> Box<dyn Show> {
    if quiet {
        Box::new(Quiet)
    } else if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Box::new(Terminal(bar))
    } else {
        Box::new(Lines)
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
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn phase_line(phase: Phase) -> String {
    match phase {
        Phase::Begun => "begun: clients come in".to_owned(),
        Phase::Connected => "all clients are in".to_owned(),
        Phase::Prepared => "conversations are ready: the load begins".to_owned(),
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
