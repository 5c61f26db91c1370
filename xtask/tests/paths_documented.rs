//! Files and folders of this repository that the documents name are there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

/// What a name of a file in this repository ends with, wherever it is said to be.
const ENDINGS: [&str; 8] = [".rs", ".md", ".toml", ".lua", ".go", ".proto", ".py", ".service"];
/// What is built or run into, at any depth.
const NOT_KEPT: &str = "target";
/// What only looks like a path: the protocol that is asked of WebSockets.
const NO_PATHS: [&str; 1] = ["whimbrel/1"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn documents() -> Vec<PathBuf> {
    let mut documents = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    let folder = std::fs::read_dir(root().join("docs")).unwrap();
    documents.extend(folder.map(|entry| entry.unwrap().path()));
    documents.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    documents
}

/// What stands between single back-ticks outside of blocks of code.
fn quoted(text: &str) -> Vec<&str> {
    let mut in_block = false;
    let mut quoted = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            quoted.extend(line.split('`').skip(1).step_by(2));
        }
    }
    quoted
}

/// Whether `quoted` means a place in this repository: it lies in one of its folders, or is called as files here are.
fn is_ours(quoted: &str, folders: &[String]) -> bool {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./*".contains(c);
    let mut parts = quoted.split('/');
    let first = parts.next().unwrap_or_default();
    quoted.contains('/')
        && !NO_PATHS.contains(&quoted)
        && !first.is_empty()
        && quoted.chars().all(is_path)
        && !quoted.split('/').any(|part| part == NOT_KEPT)
        && (folders.iter().any(|folder| folder == first)
            || ENDINGS.iter().any(|ending| quoted.ends_with(ending)))
}

/// Whether it is there. Of a last part with a `*` one of many is enough.
fn is_there(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap();
    let Some((begin, end)) = name.split_once('*') else {
        return root().join(path).exists();
    };
    let entries = std::fs::read_dir(root().join(folder));
    entries.is_ok_and(|mut entries| {
        entries.any(|entry| {
            let name = entry.unwrap().file_name();
            let name = name.to_str().unwrap();
            name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
        })
    })
}

#[test]
fn every_path_that_a_document_names_is_there() {
    let entries = std::fs::read_dir(root()).unwrap().map(Result::unwrap);
    let folders: Vec<_> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let mut named = 0;
    let mut missing = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let paths = quoted(&text);
        for path in paths.into_iter().filter(|path| is_ours(path, &folders)) {
            named += 1;
            if !is_there(path) {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
    assert!(named > 100, "only {named} were looked at");
}

#[test]
fn what_is_a_path_here_is_told_from_what_is_not() {
    let folders = ["docs".to_owned()];
    for ours in [
        "docs/operations.md",
        "docs/none",
        "dosc/operations.md",
        "docs/*.md",
    ] {
        assert!(is_ours(ours, &folders), "{ours}");
    }
    for other in [
        "docs",
        "/readyz",
        "/etc/whimbrel/a.toml",
        "whimbrel-data/ready.json",
        "target/tikv",
        "redis://host",
        "cat docs/a.md",
    ] {
        assert!(!is_ours(other, &folders), "{other}");
    }
    assert!(is_there("docs/*.md") && !is_there("docs/*.rs") && !is_there("docs/none.md"));
    assert_eq!(quoted("a `b` c `d/e`\n```\n`f`\n```\n`g`"), ["b", "d/e", "g"]);
}
