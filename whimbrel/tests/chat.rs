//! `whimbrel chat --plain` as a script drives it: through pipes, to the end of input, with a server that comes and goes.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "of what tests share this one needs little")]
mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Mode, Standalone};

/// A chat waits for 60 s where a test does not say otherwise; a busy machine takes some more.
const WITHIN: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A chat that runs. Killed when dropped.
struct Chat {
    child: Child,
    input: Option<ChildStdin>,
    out: PathBuf,
    err: PathBuf,
}

/// How a chat ended.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    printed: String,
    said: String,
}

impl Chat {
    /// Starts `chat --plain` of this user, its local state in a folder of this name.
    fn start(folder: &Path, state: &str, flags: &[&str]) -> Self {
        let (out, err) = (
            folder.join(format!("{state}.out")),
            folder.join(format!("{state}.err")),
        );
        let mut child = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
            .args(["chat", "--plain", "--ready-file"])
            .arg(folder.join("ready.json"))
            .arg("--state")
            .arg(folder.join(state))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            child,
            out,
            err,
        }
    }

    fn type_in(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until it has read all that was typed.
    fn until_read(&self) {
        self.until("all read", |_| {
            rustix::io::ioctl_fionread(self.input.as_ref().unwrap()).unwrap() == 0
        });
    }

    fn until(&self, what: &str, happened: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !happened(self) {
            assert!(
                since.elapsed() < WITHIN,
                "not {what}: {} {}",
                self.printed(),
                self.said()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    /// Waits for its end.
    fn ended(&mut self) -> Ended {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended {
                    status,
                    printed: self.printed(),
                    said: self.said(),
                };
            }
            assert!(
                since.elapsed() < WITHIN,
                "does not end: {} {}",
                self.printed(),
                self.said()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends its input and waits for its end.
    fn end(mut self) -> Ended {
        drop(self.input.take());
        self.ended()
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole chat: this input, then its end.
fn chat(folder: &Path, state: &str, flags: &[&str], input: &str) -> Ended {
    let mut chat = Chat::start(folder, state, flags);
    chat.type_in(input);
    chat.end()
}

/// The texts it printed.
fn texts(printed: &str) -> Vec<&str> {
    printed
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            assert_eq!(fields.len(), 4, "{line:?}");
            fields[3]
        })
        .collect()
}

fn numbered(name: &str, count: usize) -> String {
    (0..count).map(|number| format!("{name}{number}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_typed_and_everything_missed_is_printed_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _server = Standalone::start(folder, Mode::OneProcess, 0, &[]).await;
    let to_bob = ["--uid", "alice", "--to", "bob"];
    for run in 0..12 {
        let line = format!("line {run}");
        let ended = chat(folder, "alice", &to_bob, &format!("{line}\n"));
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(texts(&ended.printed), [line.as_str()], "{ended:?}");
    }
    let ended = chat(folder, "alice", &to_bob, &numbered("more ", 300));
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.printed.lines().count(), 300);
    for device in ["bob-1", "bob-2", "bob-3"] {
        let ended = chat(folder, device, &["--uid", "bob", "--to", "alice"], "");
        assert!(ended.status.success(), "{ended:?}");
        let seqs: Vec<_> = ended
            .printed
            .lines()
            .map(|line| line.split('\t').nth(1).unwrap())
            .collect();
        // Nobody has read anything before the first device, which shows all of it; of what that one had read the server may know
        // all, and the next shows the newest entries nevertheless.
        let from = match device {
            "bob-1" => 1,
            _ => seqs[0].parse().unwrap(),
        };
        assert!(from <= 263, "{device} shows from {from} on");
        let expected: Vec<_> = (from..=312).map(|seq: u32| seq.to_string()).collect();
        assert_eq!(seqs, expected, "{device}");
    }
    let ended = chat(folder, "alice", &to_bob, "\u{1b}[2J\u{b}boo\u{85}\n");
    assert_eq!(texts(&ended.printed), ["\\u{1b}[2J\\u{b}boo\\u{85}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_talk_in_a_group_and_in_a_room() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _server = Standalone::start(folder, Mode::OneProcess, 0, &[]).await;
    let made = chat(
        folder,
        "alice",
        &["--uid", "alice"],
        "/create crew bob\nwelcome\n",
    );
    assert!(made.status.success(), "{made:?}");
    assert_eq!(texts(&made.printed), ["welcome"], "{made:?}");
    let group = made.printed.split('\t').next().unwrap();
    let ended = chat(folder, "bob", &["--uid", "bob", "--group", group], "thanks\n");
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(texts(&ended.printed), ["welcome", "thanks"]);

    let in_lobby = Chat::start(folder, "bob", &["--uid", "bob", "--room", "lobby"]);
    in_lobby.until("in the room", |chat| chat.said().contains("room lobby"));
    let ended = chat(
        folder,
        "alice",
        &["--uid", "alice", "--room", "lobby"],
        "anybody?\n",
    );
    assert!(ended.status.success(), "{ended:?}");
    in_lobby.until("told", |chat| {
        chat.printed().contains("room:lobby\t0\talice\tanybody?\n")
    });
    assert!(in_lobby.end().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_is_said_and_ends_a_chat_only_where_it_is_all_there_was() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _server = Standalone::start(folder, Mode::OneProcess, 0, &[]).await;
    let ended = chat(folder, "alice", &["--uid", "alice", "--to", "bob"], "hello\n");
    let direct = ended.printed.split('\t').next().unwrap().to_owned();
    let unknown = format!("g{}", &direct[1..]);
    for (id, why) in [(direct.as_str(), "direct conversation"), (&unknown, "no group")] {
        let ended = chat(folder, "alice", &["--uid", "alice", "--group", id], "lost\n");
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.said.contains(why), "{ended:?}");
    }
    let ended = chat(
        folder,
        "alice",
        &["--uid", "alice"],
        "/to alice\n/to bob\nstill here\n",
    );
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(texts(&ended.printed), ["still here"], "{ended:?}");
    let ended = chat(folder, "bob", &["--uid", "bob"], "to whom?\n");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.said.contains("1 line was not sent"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_outlast_a_server_that_is_away_or_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut server = Standalone::start(folder, Mode::OneProcess, 0, &[]).await;
    let port = server.said("lbs").rsplit(':').next().unwrap().parse().unwrap();
    let to_bob = ["--uid", "alice", "--to", "bob", "--wait", "1s"];
    let mut running = Chat::start(folder, "running", &["--uid", "carl", "--to", "bob"]);
    running.type_in("one\n");
    running.until("shown", |chat| chat.printed().contains("one"));
    assert!(chat(folder, "alice", &to_bob, "before\n").status.success());
    // The row of the conversation list follows the message.
    let since = Instant::now();
    while !chat(folder, "alice", &["--uid", "alice"], "/list\n")
        .said
        .contains("bob")
    {
        assert!(since.elapsed() < WITHIN, "bob is not in the list");
    }
    server.kill();
    running.type_in("two\n");

    // To somebody known: it is on the disk at once.
    let ended = chat(folder, "alice", &to_bob, "kept\n");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.said.contains("1 line is not acknowledged"), "{ended:?}");
    // To somebody new: it cannot be.
    let to_dora = ["--uid", "alice", "--to", "dora", "--wait", "1s"];
    let ended = chat(folder, "alice", &to_dora, "lost 1\nlost 2\n");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.said.contains("2 lines were not sent"), "{ended:?}");
    let mut interrupted = Chat::start(folder, "alice", &to_dora);
    interrupted.until("waiting", |chat| !chat.said().is_empty());
    interrupted.type_in("lost 3\n");
    interrupted.until_read();
    kill_process(Pid::from_child(&interrupted.child), Signal::INT).unwrap();
    let ended = interrupted.ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.said.contains("1 line was not sent"), "{ended:?}");

    let _server = Standalone::start(folder, Mode::OneProcess, port, &[]).await;
    running.type_in("three\n");
    let ended = running.end();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(texts(&ended.printed), ["one", "two", "three"]);
    let ended = chat(folder, "alice", &["--uid", "alice", "--to", "bob"], "");
    assert!(ended.status.success(), "{ended:?}");
    assert!(texts(&ended.printed).contains(&"kept"), "{ended:?}");
}
