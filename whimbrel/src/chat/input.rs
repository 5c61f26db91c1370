//! What a person or script types: lines to send, and commands that begin with a slash.

use std::io::{self, BufRead, Read as _};

use anyhow::Context as _;
use tokio::sync::mpsc;

/// Lines read ahead of the sending; a script that pipes a file in is slowed down to the server's pace.
const LINES_AHEAD_MAX: usize = 64;

/// Bytes of a text that can be sent: a whole message has no more (docs/protocol.md). One that is a little below is refused by the
/// client, which knows what else the message takes.
pub(crate) const TEXT_LEN_MAX: usize = 24 * 1024;

/// Bytes of a line that are kept, without its end: a text as long as can be sent, the slash before a slash it begins with, and a
/// carriage return.
const LINE_LEN_MAX: usize = TEXT_LEN_MAX + 2;

/// What can be typed.
pub(crate) const HELP: &str = "/to UID, /group ID, /room ID, /create NAME UID..., /invite UID..., /remove UID..., /leave, /members, /list, /quit; \
     a line that should begin with a slash begins with two";

/// One line of input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// It was no text: what of it is, is not sent.
    NotText,
    /// It was longer than can be sent: the rest of it was passed over.
    TooLong,
    /// The input could not be read, and is over.
    Broken(String),
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
            for line in lines_of(io::stdin().lock()) {
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        })
        .context("a thread that reads standard input")?;
    Ok(receiver)
}

/// What the lines of `input` mean, until its end or an error.
fn lines_of(input: impl BufRead) -> impl Iterator<Item = Line> {
    let mut input = Some(input);
    std::iter::from_fn(move || {
        loop {
            let line = match read_line(input.as_mut()?) {
                Ok(None) => return None,
                Ok(Some(bytes)) if bytes.len() > LINE_LEN_MAX => Some(Line::TooLong),
                Ok(Some(bytes)) => str::from_utf8(&bytes).map_or(Some(Line::NotText), parse),
                Err(error) => {
                    input = None;
                    Some(Line::Broken(error.to_string()))
                }
            };
            if line.is_some() {
                return line;
            }
        }
    })
}

/// The next line without its end, and of a longer one the first bytes over [`LINE_LEN_MAX`] by one. `None` at the end.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let most = LINE_LEN_MAX as u64 + 1;
    input.by_ref().take(most).read_until(b'\n', &mut line)?;
    match line.last() {
        None => return Ok(None),
        Some(b'\n') => _ = line.pop(),
        Some(_) if line.len() > LINE_LEN_MAX => _ = input.skip_until(b'\n')?,
        Some(_) => {}
    }
    Ok(Some(line))
}

fn text(text: &str) -> Line {
    if text.len() > TEXT_LEN_MAX {
        return Line::TooLong;
    }
    Line::Text(text.to_owned())
}

fn parse(line: &str) -> Option<Line> {
    let line = line.trim_end_matches('\r');
    if line.is_empty() {
        return None;
    }
    let Some(command) = line.strip_prefix('/') else {
        return Some(text(line));
    };
    if command.starts_with('/') {
        return Some(text(command));
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
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
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
    fn a_line_that_is_no_text_does_not_end_the_input() {
        let lines: Vec<_> = lines_of(&b"one\n\xff\xfe\n\ntwo"[..]).collect();
        let text = |text: &str| Line::Text(text.to_owned());
        assert_eq!(lines, [text("one"), Line::NotText, text("two")]);
    }

    #[test]
    fn a_line_longer_than_can_be_sent_is_passed_over_and_never_kept() {
        let longest = "x".repeat(TEXT_LEN_MAX);
        let input = format!("{longest}\r\n/{longest}y\n//{}\n{longest}y\nshort", &longest[1..]);
        let lines: Vec<_> = lines_of(input.as_bytes()).collect();
        let text = |text: &str| Line::Text(text.to_owned());
        let (whole, long, slash) = (&lines[0], &lines[1..4], &lines[4]);
        assert_eq!(*whole, text(&longest));
        assert!(
            matches!(long, [Line::Unknown(_), Line::Text(_), Line::TooLong]),
            "{long:?}"
        );
        assert_eq!(*slash, text("short"));

        // A hundred times what may be kept, and no line end: one read over the bound, the rest goes by.
        let endless = io::Read::take(io::repeat(0), 100 * LINE_LEN_MAX as u64);
        let mut endless = io::BufReader::new(endless);
        let line = read_line(&mut endless).unwrap().unwrap();
        assert_eq!(
            (line.len(), line.capacity() < 4 * LINE_LEN_MAX),
            (LINE_LEN_MAX + 1, true)
        );
        assert_eq!(read_line(&mut endless).unwrap(), None);
    }

    #[test]
    fn an_input_that_cannot_be_read_is_said_once_and_is_over() {
        struct Fails(u8);
        impl io::Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                assert_eq!(self.0, 1, "asked again after an error");
                Err(io::Error::other("gone"))
            }
        }
        let lines: Vec<_> = lines_of(io::BufReader::new(Fails(0))).collect();
        assert_eq!(lines, [Line::Broken("gone".to_owned())]);
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
