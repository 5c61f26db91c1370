//! docs/operations.md names every metric that the roles publish, and none that they do not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where roles and what they share live.
const FOLDERS: [&str; 5] = ["app-service", "gateway", "lbs", "router", "support"];
/// What no metric's name ends with, but a text in the code may.
const NOT_METRICS: [&str; 1] = ["_test_total"];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !["tests", "target", "generated"].contains(&name) {
            rust_files(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// Every `whimbrel_...` that follows `quote` at once and ends before it.
fn names(text: &str, quote: char) -> BTreeSet<String> {
    let start = format!("{quote}whimbrel_");
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(&start) {
        let rest = &text[at + 1..];
        let len = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap();
        if rest[len..].starts_with(quote) {
            names.insert(rest[..len].to_owned());
        }
    }
    names
}

#[test]
fn every_metric_has_its_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    FOLDERS
        .iter()
        .for_each(|folder| rust_files(&root.join(folder), &mut files));
    let mut published = BTreeSet::new();
    for file in files {
        published.append(&mut names(&std::fs::read_to_string(file).unwrap(), '"'));
    }
    // Crates are named in the same way; metrics are counted, measured or kept at a level.
    published.retain(|name| !NOT_METRICS.iter().any(|end| name.ends_with(end)));
    let document = std::fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let documented = names(&document, '`');
    let undocumented: Vec<_> = published.difference(&documented).collect();
    assert!(
        undocumented.is_empty(),
        "not in docs/operations.md: {undocumented:?}"
    );
    let unknown: Vec<_> = documented.difference(&published).collect();
    assert!(
        unknown.is_empty(),
        "docs/operations.md has what nobody publishes: {unknown:?}"
    );
}
