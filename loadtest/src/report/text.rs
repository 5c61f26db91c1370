//! A run's figures in a few lines, for whoever started it.

use std::fmt::Write as _;

use super::figures::{Quantiles, Report};
use crate::check::promise;
use crate::interrupt;

/// The lines.
#[must_use]
pub fn summary(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<22}{value}");
    };
    line("scenario", report.scenario.to_owned());
    if let Some(signal) = report.cut_by {
        let name = interrupt::name(signal);
        line("CUT", format!("by {name}: all of this is of what was until then"));
    }
    line(
        "connected",
        format!(
            "{} ({} failed), {:.0}/s{}",
            report.connected,
            report.failed,
            report.connects_per_s,
            of(&report.handshake_ms)
        ),
    );
    if report.disconnects + report.attempts_failed > 0 {
        line(
            "lost, then retried",
            format!(
                "{} sessions, {} attempts to log in",
                report.disconnects, report.attempts_failed
            ),
        );
    }
    if report.sends > 0 {
        line(
            "acknowledged",
            format!(
                "{} of {} sends, {:.0}/s{}",
                report.sends_acked,
                report.sends,
                report.acked_per_s,
                of(&report.ack_ms)
            ),
        );
        line(
            "delivered",
            format!(
                "{}, {:.0}/s{}",
                report.deliveries,
                report.deliveries_per_s,
                of(&report.delivery_ms)
            ),
        );
    }
    if report.refused > 0 {
        line(
            "refused for good",
            format!(
                "{} ({} for no reason that this run knows)",
                report.refused, report.refused_wrongly
            ),
        );
    }
    if report.membership_changes > 0 {
        line(
            "members came and went",
            format!("{} times", report.membership_changes),
        );
    }
    if let Some(drops) = report.room_drops {
        line("dropped on the way", drops.to_string());
    }
    if !report.rounds_ms.is_empty() {
        let rounds: Vec<String> = report.rounds_ms.iter().map(|ms| format!("{ms:.0} ms")).collect();
        line("all back and synced", rounds.join(", "));
    }
    for (role, figures) in &report.roles {
        let mut parts = Vec::new();
        let mut part = |value: Option<f64>, unit: &str| {
            if let Some(value) = value {
                parts.push(format!("{value:.1} {unit}"));
            }
        };
        part(figures.cpu_us_per_connect, "us/connect");
        part(figures.cpu_us_per_send, "us/send");
        part(figures.cpu_us_per_delivery, "us/delivery");
        part(figures.cpu_us_per_reconnect, "us/reconnect");
        part(figures.bytes_per_connection, "bytes/connection");
        if figures.restarted {
            parts.push("restarted during the run: no figures of the load".to_owned());
        }
        if figures.ended {
            parts.push("gone at the end of the run: no figures of the load".to_owned());
        }
        line(role, parts.join(", "));
    }
    if report.roles.is_empty() {
        line(
            "server's processes",
            "not measured: no pids of this machine are known (--ready-file)".to_owned(),
        );
    }
    if let Some(us) = report.raw_write_us {
        line("raw write", format!("{us:.2} us"));
    }
    if report.lost > 0 {
        line(
            "LOST",
            format!("{} clients were not there at the end", report.lost),
        );
    }
    if report.unread > 0 {
        line(
            "UNREAD",
            format!(
                "{} conversations could not be read to the end: nothing is said of what is missing there",
                report.unread
            ),
        );
    }
    line("unresolved sends", report.unresolved.to_string());
    line("violations", report.violations.to_string());
    for (invariant, count) in &report.violations_of {
        line(
            "",
            format!("{count} against ({invariant}), {}", promise(*invariant)),
        );
    }
    for violation in &report.violations_told {
        line("", format!("({}) {}", violation.invariant, violation.what));
    }
    if let Some(ledger) = &report.ledger {
        let path = ledger.display();
        line(
            "ledger",
            match report.is_cut {
                true => format!("{path}, which was not judged: it is not whole"),
                false => path.to_string(),
            },
        );
    }
    if report.failed + report.unresolved + report.refused_wrongly + report.lost + report.unread > 0
        && let Some(setback) = &report.last_setback
    {
        line("last setback", setback.clone());
    }
    out
}

fn of(quantiles: &Quantiles) -> String {
    match (quantiles.p50, quantiles.p99) {
        (Some(p50), Some(p99)) => format!(", p50 {p50:.2} ms, p99 {p99:.2} ms"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::figures::Facts;
    use super::*;
    use crate::tally::Tally;

    #[test]
    fn a_violation_is_told_with_what_was_promised() {
        let mut tally = Tally::default();
        tally.violate(0, || "message 7 was never answered".to_owned());
        let summary = summary(&Report::new(Facts::default(), &tally, &BTreeMap::new(), &[]));
        for expected in [
            "1 against (0), every send and every change is answered",
            "(0) message 7",
        ] {
            assert!(summary.contains(expected), "{expected}: {summary}");
        }
    }

    #[test]
    fn what_was_refused_or_lost_without_reason_is_said() {
        let tally = Tally {
            refused: 614,
            refused_wrongly: 600,
            lost: 17,
            last_setback: Some("the gateway closed the connection".to_owned()),
            ..Tally::default()
        };
        let summary = summary(&Report::new(Facts::default(), &tally, &BTreeMap::new(), &[]));
        for expected in ["614 (600 for no reason", "17 clients", "closed the connection"] {
            assert!(summary.contains(expected), "{expected}: {summary}");
        }
    }
}
