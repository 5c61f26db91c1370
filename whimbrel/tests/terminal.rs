//! A person's terminal, as a server meets it: Ctrl-C goes to the whole foreground group, and an output may be closed.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A busy machine starts five processes in a few seconds, and drains them in as many.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Killed when dropped, so that a test that fails leaves nothing behind.
struct Standalone(Child);

impl Standalone {
    fn command(folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel"));
        command
            .args(["standalone", "--port-base", "0", "--data"])
            .arg(folder.join("data"))
            .arg("--ready-file")
            .arg(folder.join("ready.json"))
            .stdin(Stdio::null())
            .stderr(File::create(folder.join("log")).unwrap())
            .process_group(0);
        command
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn wait_until_ready(&mut self, folder: &Path) {
        let started = Instant::now();
        while !folder.join("ready.json").exists() {
            assert_eq!(self.0.try_wait().unwrap(), None, "ended at its start");
            assert!(started.elapsed() < WITHIN, "not ready");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn end(&mut self) -> ExitStatus {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(asked.elapsed() < WITHIN, "does not drain");
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_interrupt_of_the_whole_group_drains_every_process_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Standalone::command(folder.path());
    command.arg("--processes").stdout(Stdio::null());
    command.env("RUST_LOG", "info");
    let mut standalone = Standalone(command.spawn().unwrap());
    standalone.wait_until_ready(folder.path());
    kill_process_group(standalone.pid(), Signal::INT).unwrap();
    let status = standalone.end();
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(status.success(), "{status}: {log}");
    assert!(!log.contains("ending without draining"), "{log}");
    assert!(!log.contains("ended and is started again"), "{log}");
    for left in [
        "the gateway has left",
        "the service node has left",
        "the router has left",
        "the LBS has left",
    ] {
        assert!(log.contains(left), "{left}: {log}");
    }
}

#[test]
fn a_server_whose_output_nobody_reads_any_more_still_drains() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Standalone::command(folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut standalone = Standalone(command.spawn().unwrap());
    let mut first_line = String::new();
    let mut out = BufReader::new(standalone.0.stdout.take().unwrap());
    out.read_line(&mut first_line).unwrap();
    assert!(first_line.starts_with("Whimbrel"), "{first_line}");
    drop(out);
    drop(standalone.0.stderr.take());
    standalone.wait_until_ready(folder.path());
    kill_process(standalone.pid(), Signal::TERM).unwrap();
    let status = standalone.end();
    assert!(status.success(), "{status}");
    assert!(
        !folder.path().join("ready.json").exists(),
        "a drain takes the ready file away"
    );
}

#[test]
fn a_command_whose_answer_nobody_reads_fails_without_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(["keygen", "cluster-secret", "--out"])
        .arg(folder.path().join("secret"))
        .stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .stderr(File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let status = child.wait().unwrap();
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("standard output is closed"), "{log}");
}
