//! What a person or script types: lines to send, and commands that begin with a slash.

use std::io::BufRead as _;

use anyhow::Context as _;
use tokio::sync::mpsc;

/// Lines read ahead of the sending; a script that pipes a file in is slowed down to the server's pace.
const LINES_AHEAD_MAX: usize = 64;

/// What can be typed.
pub(crate) const HELP: &str = "/to UID, /group ID, /room ID, /create NAME UID..., /invite UID..., /remove UID..., /leave, /members, /list, /quit; \
     a line that should begin with a slash begins with two";

/// One line of input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Text(String),
    Command(Command),
    Unknown(String),
}

/// A line with a meaning of its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    To(String),
    Group(String),
    Room(String),
    Create { name: String, uids: Vec<String> },
    Invite(Vec<String>),
    Remove(Vec<String>),
    Leave,
    Members,
    List,
    Quit,
}

/// Standard input, line by line; closed at its end. Empty lines are nothing.
pub(crate) fn lines() -> anyhow::Result<mpsc::Receiver<Line>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD_MAX);
    // A thread of its own: reading a terminal cannot be given up, and must not hold up the end of the program.
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                let Some(line) = parse(&line) else { continue };
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        })
        .context("a thread that reads standard input")?;
    Ok(receiver)
}

fn parse(line: &str) -> Option<Line> {
    let line = line.trim_end_matches('\r');
    if line.is_empty() {
        return None;
    }
    let Some(command) = line.strip_prefix('/') else {
        return Some(Line::Text(line.to_owned()));
    };
    if command.starts_with('/') {
        return Some(Line::Text(command.to_owned()));
    }
    let mut words = command.split_whitespace().map(str::to_owned);
    let name = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    let parsed = match (name.as_str(), rest.as_slice()) {
        ("help" | "?", []) => Command::Help,
        ("to", [uid]) => Command::To(uid.clone()),
        ("group", [id]) => Command::Group(id.clone()),
        ("room", [id]) => Command::Room(id.clone()),
        ("create", [name, uids @ ..]) => Command::Create {
            name: name.clone(),
            uids: uids.to_vec(),
        },
        ("invite", [_, ..]) => Command::Invite(rest),
        ("remove", [_, ..]) => Command::Remove(rest),
        ("leave", []) => Command::Leave,
        ("members", []) => Command::Members,
        ("list", []) => Command::List,
        ("quit" | "exit", []) => Command::Quit,
        _ => return Some(Line::Unknown(format!("{line:?} is no command"))),
    };
    Some(Line::Command(parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_unless_they_begin_with_a_slash() {
        assert_eq!(parse("hi /there"), Some(Line::Text("hi /there".to_owned())));
        assert_eq!(parse("//etc"), Some(Line::Text("/etc".to_owned())));
        assert_eq!(parse(""), None);
        assert_eq!(parse("/quit"), Some(Line::Command(Command::Quit)));
        assert!(matches!(parse("/qiut"), Some(Line::Unknown(_))));
        assert!(matches!(parse("/to"), Some(Line::Unknown(_))));
    }

    #[test]
    fn a_group_is_created_with_a_name_and_members() {
        let expected = Command::Create {
            name: "crew".to_owned(),
            uids: vec!["bob".to_owned(), "eve".to_owned()],
        };
        assert_eq!(parse("/create crew bob eve"), Some(Line::Command(expected)));
    }
}
