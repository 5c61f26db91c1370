//! What was typed, as a report repeats it: the same command elsewhere, without the paths of this machine. Pure.

use std::path::Path;

use clap::{Command, ValueHint};

/// The words in one line. Of values that are paths, as `command` says, and of the program itself, the last name is left.
#[must_use]
pub fn without_folders(words: &[String], command: &Command) -> String {
    let mut shown = Vec::with_capacity(words.len());
    let mut words = words.iter();
    shown.extend(words.next().map(|program| last_name(program)));
    let mut is_path = false;
    for word in words {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
            _ => (word.as_str(), None),
        };
        if std::mem::take(&mut is_path) {
            shown.push(last_name(word));
            continue;
        }
        match value {
            Some(value) if takes_path(command, flag) => shown.push(format!("{flag}={}", last_name(value))),
            Some(_) => shown.push(word.clone()),
            None => {
                is_path = takes_path(command, flag);
                shown.push(word.clone());
            }
        }
    }
    shown.join(" ")
}

/// Whether a flag of the command, or of one below it, takes a path.
fn takes_path(command: &Command, flag: &str) -> bool {
    let Some(name) = flag.strip_prefix("--") else {
        return false;
    };
    let mut own = command.get_arguments();
    own.any(|known| known.get_long() == Some(name) && known.get_value_hint() == ValueHint::AnyPath)
        || command.get_subcommands().any(|below| takes_path(below, flag))
}

fn last_name(path: &str) -> String {
    let name = Path::new(path).file_name();
    name.map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn shown(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        without_folders(&words, &Cli::command())
    }

    #[test]
    fn of_paths_the_last_name_is_left_and_of_everything_else_all() {
        for (typed, expected) in [
            (
                "/home/ann/target/release/whimbrel-loadtest chat --users 4 --ready-file /tmp/x/ready.json --json=/tmp/x/o.json",
                "whimbrel-loadtest chat --users 4 --ready-file ready.json --json=o.json",
            ),
            (
                "whimbrel-loadtest --app-secret-file ../secrets/demo --lbs http://127.0.0.1:7000 --root-key a/b/c chat --check --ledger /var/l --report r.html",
                "whimbrel-loadtest --app-secret-file demo --lbs http://127.0.0.1:7000 --root-key a/b/c chat --check --ledger l --report r.html",
            ),
            (
                "whimbrel-loadtest room --room /lobby/1 --json",
                "whimbrel-loadtest room --room /lobby/1 --json",
            ),
        ] {
            assert_eq!(shown(typed), expected);
        }
    }
}
