//! docs/performance.md names every flag that may be given, and every key that is written.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use clap::{Command, CommandFactory as _};
use serde_json::Value;
use whimbrel_loadtest::cli::Cli;
use whimbrel_loadtest::report::{Facts, Report, RoleFigures};
use whimbrel_loadtest::tally::{Second, Tally};

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");
    std::fs::read_to_string(path).unwrap()
}

fn flags(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let own = own.filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    own.chain(below.flat_map(flags)).collect()
}

fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, below)| {
            found.insert(key.clone());
            keys(below, found);
        }),
        Value::Array(all) => all.iter().for_each(|below| keys(below, found)),
        _ => {}
    }
}

#[test]
fn every_flag_is_documented() {
    let page = page();
    let is_word = |flag: &str| {
        page.match_indices(flag).any(|(at, _)| {
            !page[at + flag.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '-')
        })
    };
    let missing: Vec<String> = flags(&Cli::command())
        .into_iter()
        .filter(|flag| !is_word(flag))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_key_is_documented() {
    let facts = Facts {
        slices: true,
        ..Facts::default()
    };
    let mut report = Report::new(facts, &Tally::default(), &BTreeMap::new(), &[Second::default()]);
    let key = "roles".to_owned();
    report.roles.insert(key.clone(), RoleFigures::default());
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(&report).unwrap(), &mut found);
    assert!(found.contains(&key) && found.contains("ack_p50_ms") && found.contains("ack_max_ms"));
    let page = page();
    found.retain(|key| !page.contains(&format!("`{key}`")));
    assert!(found.is_empty(), "{found:?}");
}
