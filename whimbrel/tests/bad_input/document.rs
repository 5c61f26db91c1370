//! The rows and `docs/protocol.md` say the same, in both directions.

use std::collections::BTreeSet;

use crate::{requests, sessions, strangers, waits, web};

const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

fn all_that_rows_quote() -> BTreeSet<&'static str> {
    let of_scenes = [strangers::ROWS, sessions::ROWS, requests::ROWS, web::ROWS]
        .into_iter()
        .flatten();
    let of_waits = waits::WAITS.iter();
    of_scenes
        .map(|row| row.says)
        .chain(of_waits.map(|wait| wait.says))
        .flatten()
        .copied()
        .collect()
}

fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_row_quotes_the_protocol_page_as_it_is() {
    let page = flat(PROTOCOL);
    let wrong: Vec<_> = all_that_rows_quote()
        .into_iter()
        .filter(|quote| !page.contains(&flat(quote)))
        .collect();
    assert!(wrong.is_empty(), "docs/protocol.md does not say: {wrong:#?}");
}

#[test]
fn every_line_of_what_breaking_a_rule_gets_is_played_by_a_row() {
    let section = PROTOCOL
        .split("\n## ")
        .find(|section| section.starts_with("12. "))
        .unwrap_or_default();
    let lines: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    assert!(lines.len() > 10, "section 12 is a table");
    let quoted = all_that_rows_quote();
    let missing: Vec<_> = lines.into_iter().filter(|line| !quoted.contains(line)).collect();
    assert!(missing.is_empty(), "no row plays: {missing:#?}");
}
