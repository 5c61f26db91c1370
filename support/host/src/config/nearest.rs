//! Which known name an unknown key was meant to be.

use std::fmt::Write as _;

use super::walk::FILE_SUFFIX;

/// How alike (0 to 1) a known name must be to be offered for an unknown one.
const LIKENESS_MIN: f64 = 0.6;

/// The name most like `key`, of the `known` ones and of those by which a file's content is given for them.
pub(super) fn nearest(key: &str, known: &[&str]) -> Option<String> {
    known
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}{FILE_SUFFIX}")])
        .map(|name| (strsim::normalized_damerau_levenshtein(key, &name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// What is said behind "it is missing" when `unknown` keys stand in its section, each with the name it may have been meant to
/// be: those with one alone, else all; nothing when there are none.
pub(super) fn misspelt<'k>(unknown: impl Iterator<Item = (&'k str, Option<String>)>) -> String {
    let (meant, others): (Vec<_>, Vec<_>) = unknown.partition(|(_, name)| name.is_some());
    let mut text = String::new();
    for (key, name) in if meant.is_empty() { others } else { meant } {
        write!(text, "; the key `{key}` is unknown").expect("a string takes all");
        if let Some(name) = name {
            write!(text, ": did you mean `{name}`?").expect("a string takes all");
        }
    }
    text
}
