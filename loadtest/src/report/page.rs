//! The page of a run: one file of HTML with everything in it, for a browser or a colleague.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use humantime_serde::re::humantime;

use super::figures::{Quantiles, Report, RoleFigures, SecondFigures};
use super::plot::{Line, Plot, Scale};
use crate::interrupt;
use crate::latency::Latency;

const STYLE: &str = include_str!("page.css");

/// Points of a percentile curve.
const CURVE_POINTS: u32 = 90;

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(report: &Report) -> anyhow::Result<String> {
    let mut out = String::new();
    let scenario = escape(report.scenario);
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(report.started_unix_ms);
    let started = humantime::format_rfc3339_seconds(started);
    let verdict = if let Some(signal) = report.cut_by {
        let name = interrupt::name(signal);
        format!("<span class=\"bad\">cut by {name}: all of this is of what was until then</span>")
    } else if !report.is_failure() {
        "<span class=\"good\">nothing lost, nothing unresolved</span>".to_owned()
    } else {
        format!(
            "<span class=\"bad\">{} violations, {} unresolved sends, {} refused without reason, {} clients not in, {} conversations unread, {} lost</span>",
            report.violations,
            report.unresolved,
            report.refused_wrongly,
            report.failed,
            report.unread,
            report.lost
        )
    };
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Whimbrel load: {scenario}</title><style>{STYLE}</style></head><body><main>\
         <header><h1>Whimbrel load: {scenario}</h1><p>{verdict}</p>\
         <p class=\"quiet\">{started} · version {} · {} generator process{}</p>\
         <pre>{}</pre></header>",
        report.version,
        report.processes,
        if report.processes == 1 { "" } else { "es" },
        escape(&report.command),
    )?;
    cards(&mut out, report)?;
    plots(&mut out, report)?;
    tables(&mut out, report)?;
    out.push_str("</main></body></html>\n");
    Ok(out)
}

fn cards(out: &mut String, report: &Report) -> std::fmt::Result {
    let mut card = |name: &str, value: String, below: String| {
        write!(
            out,
            "<div class=\"card\"><div class=\"name\">{name}</div><div class=\"value\">{value}</div><div class=\"quiet\">{below}</div></div>"
        )
    };
    let p50_p99 = |quantiles: &Quantiles| format!("p50 {} · p99 {}", ms(quantiles.p50), ms(quantiles.p99));
    card(
        "connected",
        grouped(report.connected),
        format!(
            "{:.0}/s · {}",
            report.connects_per_s,
            p50_p99(&report.handshake_ms)
        ),
    )?;
    if report.sends > 0 {
        card(
            "acknowledged a second",
            format!("{:.0}", report.acked_per_s),
            p50_p99(&report.ack_ms),
        )?;
        card(
            "deliveries a second",
            format!("{:.0}", report.deliveries_per_s),
            p50_p99(&report.delivery_ms),
        )?;
    }
    if let Some(longest) = report.rounds_ms.iter().copied().reduce(f64::max) {
        card(
            "all back and synced",
            format!("{longest:.0} ms"),
            format!("the longest of {} rounds", report.rounds_ms.len()),
        )?;
    }
    if let Some(drops) = report.room_drops {
        card(
            "dropped on the way",
            grouped(drops),
            "room messages members never saw".to_owned(),
        )?;
    }
    Ok(())
}

fn plots(out: &mut String, report: &Report) -> anyhow::Result<()> {
    let over_time = |of: fn(&SecondFigures) -> Option<f64>| -> Vec<(f64, f64)> {
        let seconds = report.seconds.iter();
        seconds
            .filter_map(|second| Some((number(second.at_s + 1), of(second)?)))
            .collect()
    };
    let line = |name, of| Line {
        name,
        points: over_time(of),
    };
    // What happened in a part of a second is no rate.
    let rate = |name, of: fn(&SecondFigures) -> u64| Line {
        name,
        points: report
            .seconds
            .iter()
            .filter(|second| !second.is_cut)
            .map(|second| (number(second.at_s + 1), number(of(second))))
            .collect(),
    };
    let messages = report.sends > 0;
    let latency = if messages {
        vec![
            line("delivery p99", |second| second.delivery_p99_ms),
            line("ack p99", |second| second.ack_p99_ms),
            line("delivery p50", |second| second.delivery_p50_ms),
            line("ack p50", |second| second.ack_p50_ms),
        ]
    } else {
        vec![
            line("login p99", |second| second.handshake_p99_ms),
            line("login p50", |second| second.handshake_p50_ms),
        ]
    };
    figure(
        out,
        "Latency over time",
        "second",
        ("ms, from the moment it was due", Scale::Log),
        latency,
    )?;
    let all = &report.distributions;
    let curves = [
        ("delivery", &all.delivery),
        ("ack", &all.ack),
        ("login", &all.handshake),
    ];
    let curves = curves.map(|(name, latency)| Line {
        name,
        points: curve(latency),
    });
    let plot = Plot {
        x: ("share of operations that were as fast or faster", Scale::Nines),
        y: ("ms", Scale::Log),
        lines: curves.into(),
    };
    section(out, "Percentiles", &plot.draw()?)?;
    let rates = if messages {
        vec![
            rate("deliveries", |second| second.deliveries),
            rate("sends due", |second| second.sends),
            rate("acknowledged", |second| second.acked),
            rate("open", |second| second.backlog),
        ]
    } else {
        vec![
            rate("logins", |second| second.logins),
            rate("failed or lost", |second| second.failures),
        ]
    };
    figure(out, "Rates", "second", ("per second", Scale::Linear), rates)?;
    let online = vec![rate("online", |second| second.online)];
    figure(
        out,
        "Clients online",
        "second",
        ("clients", Scale::Linear),
        online,
    )
}

fn figure(
    out: &mut String,
    title: &str,
    x: &'static str,
    y: (&'static str, Scale),
    lines: Vec<Line>,
) -> anyhow::Result<()> {
    let plot = Plot {
        x: (x, Scale::Linear),
        y,
        lines,
    };
    section(out, title, &plot.draw()?)?;
    Ok(())
}

fn section(out: &mut String, title: &str, svg: &str) -> std::fmt::Result {
    if svg.is_empty() {
        return Ok(());
    }
    write!(out, "<section><h2>{title}</h2>{svg}</section>")
}

fn curve(latency: &Latency) -> Vec<(f64, f64)> {
    let most = (number(latency.count()).log10()).clamp(0.0, 5.0);
    (0..=CURVE_POINTS)
        .filter_map(|step| {
            let share = 1.0 - 10_f64.powf(-most * f64::from(step) / f64::from(CURVE_POINTS));
            Some((share, latency.quantile_ms(share)?))
        })
        .collect()
}

fn tables(out: &mut String, report: &Report) -> std::fmt::Result {
    out.push_str("<section><h2>Latency, ms</h2><table><tr><th></th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>longest</th></tr>");
    for (name, quantiles) in [
        ("login, from due to READY", &report.handshake_ms),
        ("send, from due to acknowledged", &report.ack_ms),
        ("send, from due to delivered", &report.delivery_ms),
    ] {
        let Quantiles {
            p50,
            p90,
            p99,
            p999,
            max,
        } = quantiles;
        row(
            out,
            name,
            &[p50, p90, p99, p999, max].map(|value| figure_of(*value)),
        )?;
    }
    out.push_str("</table></section>");
    if report.roles.is_empty() {
        out.push_str("<section><h2>The server's processes</h2><p>Not measured: no pids of this machine are known (--ready-file).</p></section>");
    } else {
        out.push_str("<section><h2>The server's processes</h2><table><tr><th></th><th>us/connect</th><th>us/send</th><th>us/delivery</th><th>us/reconnect</th><th>CPU %</th><th>bytes/connection</th><th>resident</th></tr>");
        for (role, figures) in &report.roles {
            let RoleFigures {
                pids,
                restarted,
                ended,
                cpu_us_per_connect,
                cpu_us_per_send,
                cpu_us_per_delivery,
                cpu_us_per_reconnect,
                cpu_percent,
                bytes_per_connection,
                rss_bytes_per_connection,
            } = figures;
            let several = if pids.len() > 1 {
                format!(" × {}", pids.len())
            } else {
                String::new()
            };
            let name = format!(
                "{}{several}{}",
                escape(role),
                match (restarted, ended) {
                    (_, true) => " (gone)",
                    (true, false) => " (restarted)",
                    (false, false) => "",
                }
            );
            let cells = [
                cpu_us_per_connect,
                cpu_us_per_send,
                cpu_us_per_delivery,
                cpu_us_per_reconnect,
                cpu_percent,
                bytes_per_connection,
                rss_bytes_per_connection,
            ];
            row(out, &name, &cells.map(|value| figure_of(*value)))?;
        }
        out.push_str("</table></section>");
    }
    counts(out, report)?;
    if !report.violations_told.is_empty() {
        out.push_str("<section><h2>Violations</h2><ul>");
        for violation in &report.violations_told {
            let what = escape(&violation.what);
            write!(out, "<li>({}) {what}</li>", violation.invariant)?;
        }
        out.push_str("</ul></section>");
    }
    out.push_str("<section><details><summary>Second by second</summary><table><tr><th>s</th><th>online</th><th>logins</th><th>failures</th><th>sends</th><th>acked</th><th>deliveries</th><th>open</th><th>ack p50</th><th>ack p99</th><th>delivery p50</th><th>delivery p99</th></tr>");
    for second in &report.seconds {
        let counts = [
            second.online,
            second.logins,
            second.failures,
            second.sends,
            second.acked,
            second.deliveries,
            second.backlog,
        ];
        let latencies = [
            second.ack_p50_ms,
            second.ack_p99_ms,
            second.delivery_p50_ms,
            second.delivery_p99_ms,
        ];
        let cells: Vec<String> = counts
            .map(grouped)
            .into_iter()
            .chain(latencies.map(figure_of))
            .collect();
        row(out, &(second.at_s + 1).to_string(), &cells)?;
    }
    out.push_str("</table></details></section>");
    Ok(())
}

fn counts(out: &mut String, report: &Report) -> std::fmt::Result {
    let mut rows = vec![
        ("clients in", report.connected),
        ("clients not in", report.failed),
        ("logins", report.logins),
        ("failed attempts to log in", report.attempts_failed),
        ("sessions lost", report.disconnects),
        ("messages due", report.sends),
        ("acknowledged", report.sends_acked),
        ("refused for good", report.refused),
        ("refused without reason", report.refused_wrongly),
        ("clients lost", report.lost),
        ("unresolved", report.unresolved),
        ("too many open, never sent", report.backlog_dropped),
        ("sent again", report.retries),
        ("deliveries", report.deliveries),
        ("pushed again", report.duplicates),
        ("pulls", report.pulls),
        ("acknowledged and not delivered", report.undelivered),
        ("violations", report.violations),
        ("bytes received", report.bytes_in),
        ("bytes sent", report.bytes_out),
    ];
    rows.extend(report.room_members.map(|count| ("members of the room", count)));
    rows.extend(
        report
            .room_drops
            .map(|count| ("dropped on the way to members", count)),
    );
    out.push_str("<section><h2>Counts</h2><table>");
    for (name, count) in rows {
        row(out, name, &[grouped(count)])?;
    }
    for (index, round) in report.rounds_ms.iter().enumerate() {
        row(
            out,
            &format!("round {}: all back and synced", index + 1),
            &[format!("{round:.0} ms")],
        )?;
    }
    if let Some(us) = report.raw_write_us {
        row(out, "one bare write of the same size", &[format!("{us:.2} us")])?;
    }
    if let Some(setback) = &report.last_setback {
        row(out, "last setback", &[escape(setback)])?;
    }
    out.push_str("</table></section>");
    Ok(())
}

fn row(out: &mut String, name: &str, cells: &[String]) -> std::fmt::Result {
    write!(out, "<tr><th>{name}</th>")?;
    for cell in cells {
        write!(out, "<td>{cell}</td>")?;
    }
    out.push_str("</tr>");
    Ok(())
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2} ms"))
}

fn figure_of(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 1_000.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Thousands apart.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use super::super::figures::Facts;
    use super::*;
    use crate::tally::{Second, Tally};

    #[test]
    fn a_page_stands_alone_and_shows_what_was_wrong() {
        let mut tally = Tally {
            connected: 12_345,
            sends: 10,
            ..Tally::default()
        };
        tally.violate(2, || "seq <7> is missing".to_owned());
        let mut second = Second::default();
        for ms in [1, 3, 50] {
            tally.ack.record(Duration::from_millis(ms));
            second.ack.record(Duration::from_millis(ms));
        }
        let facts = Facts {
            scenario: "chat",
            command: "whimbrel-loadtest chat --users <2>".to_owned(),
            ..Facts::default()
        };
        let report = Report::new(facts, &tally, &BTreeMap::new(), &[second.clone(), second]);
        let page = page(&report).unwrap();
        for expected in [
            "seq &lt;7&gt; is missing",
            "12\u{202f}345",
            "<svg",
            "--users &lt;2&gt;",
            "1 violations",
        ] {
            assert!(page.contains(expected), "{expected}");
        }
        assert!(
            !page.contains("src=") && !page.contains("href="),
            "nothing is loaded from elsewhere"
        );
    }

    #[test]
    fn a_run_that_was_refused_or_lost_its_clients_is_not_green() {
        for tally in [
            Tally {
                refused_wrongly: 3,
                ..Tally::default()
            },
            Tally {
                lost: 3,
                ..Tally::default()
            },
        ] {
            let report = Report::new(Facts::default(), &tally, &BTreeMap::new(), &[]);
            let page = page(&report).unwrap();
            assert!(page.contains("class=\"bad\"") && !page.contains("class=\"good\""));
        }
    }

    #[test]
    fn the_second_in_which_the_run_ended_is_no_collapse() {
        let second = |at_s, acked, is_cut| Second {
            at_s,
            acked,
            is_cut,
            ..Second::default()
        };
        let tally = Tally {
            sends: 210,
            ..Tally::default()
        };
        let page_of = |seconds: &[Second]| {
            let report = Report::new(Facts::default(), &tally, &BTreeMap::new(), seconds);
            let mut plotted = String::new();
            plots(&mut plotted, &report).unwrap();
            plotted
        };
        let whole = [second(0, 100, false), second(1, 100, false)];
        let cut = [&whole[..], &[second(2, 10, true)]].concat();
        assert_eq!(page_of(&cut), page_of(&whole));
        let slow = [&whole[..], &[second(2, 10, false)]].concat();
        assert_ne!(page_of(&slow), page_of(&whole));
    }
}
