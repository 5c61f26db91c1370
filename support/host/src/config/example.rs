//! Holds an example file to the struct it is an example of.
//!
//! In an example, prose is commented as `# words` and a key that shows its default as `#key = value`, without a space
//! (a section likewise: `#[section]`).

use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Node, Seen, Walk, inside, parse_toml, unknown_keys};

/// Asserts that `text`, an example configuration for `T`, loads without warnings both as it stands and with all its keys
/// uncommented, and that every key of `T` then appears in it. Files of secrets that it names need not exist. For each
/// role's tests.
///
/// # Panics
/// When one of that does not hold; the text says which key.
#[expect(clippy::panic, reason = "it is an assertion, for tests")]
pub fn assert_example_complete<T: DeserializeOwned>(text: &str) {
    if let Err(fault) = read_without_warnings::<T>(text) {
        panic!("the example as it stands: {fault}");
    }
    let complete = read_without_warnings::<T>(&uncommented(text)).and_then(|seen| nothing_missing(&seen));
    if let Err(fault) = complete {
        panic!("the example with all keys uncommented: {fault}");
    }
}

/// Every section of `text` as `T` read it.
fn read_without_warnings<T: DeserializeOwned>(text: &str) -> Result<Vec<Seen>, String> {
    let file = "the example";
    let tree: Node = parse_toml(text, file).map_err(|error| error.to_string())?;
    // Files of secrets need not exist where a test runs.
    let read = |_: &Path| Ok("0123456789abcdef0123456789abcdef".to_owned());
    let walk = Walk::new(&read);
    let result = walk.run::<T>(tree);
    let seen = walk.into_seen();
    result.map_err(|error| super::value_error(error, file).to_string())?;
    if let Some(warning) = seen.iter().flat_map(|seen| unknown_keys(seen, file)).next() {
        return Err(warning.to_string());
    }
    Ok(seen)
}

fn nothing_missing(seen: &[Seen]) -> Result<(), String> {
    let missing: Vec<String> = seen
        .iter()
        .flat_map(|seen| {
            let absent = seen
                .known
                .iter()
                .filter(|name| !seen.given.iter().any(|(key, _)| key == *name));
            absent.map(|name| inside(&seen.place, name))
        })
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("keys without a line: {}", missing.join(", ")))
    }
}

fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with('[') || is_key_line(rest) => rest,
        _ => line,
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn is_key_line(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim_end();
        !key.is_empty()
            && key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Outer {
        port: u16,
        secret: String,
        inner: Inner,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Inner {
        limit: u32,
    }

    #[test]
    fn a_complete_example_passes() {
        assert_example_complete::<Outer>(
            "# The port; 0 = a free one.\n#port = 1\n#secret_file = \"/run/secret\"\n#[inner]\n#limit = 3\n",
        );
    }

    #[test]
    #[should_panic(expected = "keys without a line: inner.limit")]
    fn a_key_without_a_line_fails() {
        assert_example_complete::<Outer>("port = 1\n#secret = \"x\"\n[inner]\n");
    }

    #[test]
    #[should_panic(expected = "unknown key `prt`")]
    fn a_commented_key_that_nobody_reads_fails() {
        assert_example_complete::<Outer>("#prt = 1\n");
    }

    #[test]
    #[should_panic(expected = "`port` = 70000")]
    fn a_commented_value_of_the_wrong_kind_fails() {
        assert_example_complete::<Outer>("#port = 70000\n#secret = \"\"\n[inner]\nlimit = 1\n");
    }
}
