//! The tables, as Markdown that can stand in a document. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Measured;
use super::load::{LoadFigures, Quantiles};
use super::plan::Plan;
use super::round_trips::RoundTrips;

/// Where nothing was measured, or nothing is there to be measured.
const NONE: &str = "-";
/// The roles in the order in which a message meets them, then what they stand on.
const ROLES: [&str; 7] = [
    "gateway",
    "router",
    "app-service",
    "lbs",
    "redis",
    "placement-driver",
    "store",
];
/// Methods that are called less often per message than this, in all columns, are noise.
const NOISE: f64 = 0.005;

/// All of them.
pub(super) fn of(plan: &Plan, all: &[Measured]) -> String {
    let mut text = String::new();
    if plan.quick {
        text.push_str("A try: these are no figures.\n\n");
    }
    for part in [sends(plan, all), processor(plan, all), calls(all), missing(all)] {
        if !part.is_empty() {
            text.push_str(&part);
            text.push('\n');
        }
    }
    text
}

fn sends(plan: &Plan, all: &[Measured]) -> String {
    let head = [
        "deployment".to_owned(),
        "nodes".to_owned(),
        "idle: ack p50, p99, ms".to_owned(),
        "idle: delivery p50, p99, ms".to_owned(),
        format!("at {}/s: acked/s", plan.rate),
        "ack p50, p99, ms".to_owned(),
        "delivery p50, p99, ms".to_owned(),
        "the most held, sends/s".to_owned(),
    ];
    let rows = all.iter().map(|measured| {
        let of = |load: &Option<LoadFigures>, what: fn(&LoadFigures) -> String| {
            load.as_ref().map_or_else(none, what)
        };
        vec![
            measured.name.clone(),
            measured.nodes.clone(),
            of(&measured.idle, |load| both(load.ack)),
            of(&measured.idle, |load| both(load.delivery)),
            of(&measured.loaded, |load| format!("{:.1}", load.acked_per_s)),
            of(&measured.loaded, |load| both(load.ack)),
            of(&measured.loaded, |load| both(load.delivery)),
            of(&measured.most, |load| load.rate.to_string()),
        ]
    });
    markdown(&head, 2, &rows.collect::<Vec<_>>())
}

fn processor(plan: &Plan, all: &[Measured]) -> String {
    let mut head = vec![format!("us per acknowledged message at {}/s", plan.rate)];
    head.extend(ROLES.map(str::to_owned));
    head.extend(["all", "messages per commit"].map(str::to_owned));
    let rows = all.iter().map(|measured| {
        let mut row = vec![measured.name.clone()];
        let loaded = measured.loaded.as_ref();
        row.extend(ROLES.map(|role| {
            let us = loaded.and_then(|load| load.cpu_us.get(role));
            us.map_or_else(none, |us| format!("{us:.0}"))
        }));
        row.push(loaded.map_or_else(none, |load| format!("{:.0}", load.cpu_us_of_all())));
        row.push(per_commit(measured.messages_per_commit));
        row
    });
    markdown(&head, 1, &rows.collect::<Vec<_>>())
}

fn calls(all: &[Measured]) -> String {
    let columns: Vec<(String, &RoundTrips)> = all
        .iter()
        .flat_map(|measured| {
            let of_it = measured.round_trips.iter();
            of_it.map(|trips| (format!("{}, {}", measured.name, trips.name), trips))
        })
        .collect();
    if columns.is_empty() {
        return String::new();
    }
    let mut head = vec!["calls per acknowledged message".to_owned()];
    head.extend(columns.iter().map(|(name, _)| name.clone()));
    let row = |name: &str, cell: &dyn Fn(&RoundTrips) -> String| {
        let mut row = vec![name.to_owned()];
        row.extend(columns.iter().map(|(_, trips)| cell(trips)));
        row
    };
    let mut rows = vec![row("messages per commit", &|trips| {
        per_commit(trips.messages_per_commit)
    })];
    let methods: BTreeSet<_> = columns
        .iter()
        .flat_map(|(_, trips)| trips.calls.iter())
        .filter(|(_, count)| count.abs() >= NOISE)
        .map(|(method, _)| method)
        .collect();
    for method in methods {
        rows.push(row(&format!("`{method}`"), &|trips| {
            trips.calls.get(method).map_or_else(none, |count| two(*count))
        }));
    }
    rows.push(row("**store**", &|trips| two(trips.of_store())));
    rows.push(row("**placement driver**", &|trips| two(trips.of_pd())));
    rows.push(row("**all**", &|trips| two(trips.of_store() + trips.of_pd())));
    markdown(&head, 1, &rows)
}

fn missing(all: &[Measured]) -> String {
    let mut text = String::new();
    for measured in all {
        for error in &measured.errors {
            writeln!(text, "- {}: {error}", measured.name).expect("a String takes everything");
        }
    }
    if text.is_empty() {
        return text;
    }
    format!("Not measured, or not as it should be:\n\n{text}")
}

fn none() -> String {
    NONE.to_owned()
}

fn both(of: Quantiles) -> String {
    let ms = |ms: Option<f64>| ms.map_or_else(none, |ms| format!("{ms:.1}"));
    format!("{}, {}", ms(of.p50), ms(of.p99))
}

fn per_commit(messages: Option<f64>) -> String {
    messages.map_or_else(none, |messages| format!("{messages:.1}"))
}

/// Without the sign of what is rounded to nothing.
fn two(number: f64) -> String {
    let text = format!("{number:.2}");
    if text == "-0.00" { "0.00".to_owned() } else { text }
}

/// The first columns are words, the others numbers.
fn markdown(head: &[String], words: usize, rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rules = (0..head.len()).map(|column| if column < words { "---" } else { "--:" });
    let mut text = line(head);
    writeln!(text, "|{}|", rules.collect::<Vec<_>>().join("|")).expect("a String takes everything");
    text.extend(rows.iter().map(|row| line(row)));
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use clap::Parser;

    use super::super::counters::Difference;
    use super::super::plan::CostArgs;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CostArgs,
    }

    fn plan(line: &str) -> Plan {
        Line::parse_from(line.split(' ')).args.plan().unwrap()
    }

    fn load() -> LoadFigures {
        LoadFigures {
            rate: 1_000,
            acked: 100,
            acked_per_s: 998.75,
            ack: Quantiles {
                p50: Some(3.06),
                p99: None,
            },
            cpu_us: BTreeMap::from([("gateway".to_owned(), 40.4), ("store".to_owned(), 60.0)]),
            ..LoadFigures::default()
        }
    }

    fn difference(calls: &[(&str, u64)]) -> Difference {
        Difference {
            lasting: Duration::from_secs(1),
            calls: calls
                .iter()
                .map(|(method, count)| ((*method).to_owned(), *count))
                .collect(),
            commits: 50,
        }
    }

    #[test]
    fn all_rows_of_a_table_have_as_many_cells_and_what_is_missing_is_a_dash() {
        let calls = difference(&[("kv_get", 250), ("PD Tso", 100)]);
        let trips = RoundTrips::new("pair", &load(), &calls, &difference(&[("kv_scan", 1)])).unwrap();
        let measured = Measured {
            name: "1x1".to_owned(),
            nodes: "1 service node".to_owned(),
            loaded: Some(load()),
            messages_per_commit: Some(2.25),
            round_trips: vec![trips],
            ..Measured::default()
        };
        let nothing = Measured {
            name: "2x1".to_owned(),
            errors: vec!["it did not start".to_owned()],
            ..Measured::default()
        };
        let text = of(&plan("cost"), &[measured, nothing]);
        assert!(
            text.contains("| 1x1 | 1 service node | - | - | 998.8 | 3.1, - |"),
            "{text}"
        );
        assert!(
            text.contains("| 1x1 | 40 | - | - | - | - | - | 60 | 100 | 2.2 |"),
            "{text}"
        );
        assert!(text.contains("| `kv_get` | 2.50 |"), "{text}");
        assert!(text.contains("| `kv_scan` | -0.01 |"), "{text}");
        assert!(text.contains("| **all** | 3.49 |"), "{text}");
        assert!(text.contains("- 2x1: it did not start"), "{text}");
        for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
            let widths: BTreeSet<_> = table.lines().map(|line| line.matches('|').count()).collect();
            assert_eq!(widths.len(), 1, "{table}");
        }
    }

    #[test]
    fn a_try_says_so_and_where_no_calls_were_counted_there_is_no_table_of_them() {
        assert!(of(&plan("cost --quick"), &[]).starts_with("A try"));
        let text = of(&plan("cost"), &[Measured::default()]);
        assert!(
            !text.contains("calls per") && !text.contains("Not measured"),
            "{text}"
        );
    }

    #[test]
    fn what_is_rounded_to_nothing_has_no_sign() {
        assert_eq!(two(-0.001), "0.00");
        assert_eq!(two(-0.01), "-0.01");
    }
}
