//! The program as somebody types it: what is wrong is named, and the exit status says so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use whimbrel_loadtest::check::ledger::Writer;
use whimbrel_loadtest::check::{Device, Event, Showing, Talk, Text, User};
use whimbrel_loadtest::schedule::Share;
use whimbrel_protocol::ids::{ConversationId, ConversationKind};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_whimbrel-loadtest"))
        .args(arguments)
        .output()
        .unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_command_line_that_is_wrong_ends_with_2_and_says_what_was_expected() {
    for (arguments, expected) in [
        (&["connect"][..], "--connections"),
        (
            &["chat", "--users", "4", "--rate", "5", "--payload", "1"],
            "expected 58",
        ),
        (&["room", "--members", "0", "--rate", "5"], "1.."),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(complaint(&output).contains(expected), "{}", complaint(&output));
    }
}

#[test]
fn a_deployment_that_is_not_there_ends_with_1_and_its_cure() {
    let output = run(&["connect", "--connections", "5"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("--ready-file"),
        "{}",
        complaint(&output)
    );
    let output = run(&[
        "connect",
        "--connections",
        "5",
        "--ready-file",
        "/nonexistent/ready.json",
    ]);
    assert!(
        complaint(&output).contains("whimbrel standalone"),
        "{}",
        complaint(&output)
    );
}

#[test]
fn the_raw_reference_is_measured_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("raw.json");
    let output = run(&[
        "raw",
        "--connections",
        "50",
        "--payload",
        "100",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", complaint(&output));
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert!(told["raw_write_us"].as_f64().unwrap() > 0.0, "{told}");
}

#[test]
fn files_that_cannot_be_written_are_told_before_the_run() {
    let output = run(&["raw", "--connections", "5", "--json", "/nonexistent/file"]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains("--json"), "{complaint}");
    assert!(output.stdout.is_empty(), "it was measured all the same");
}

#[test]
fn what_was_measured_is_told_though_it_cannot_be_written() {
    let output = run(&["raw", "--connections", "5", "--json", "/dev/full"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("us over"));
    let complaint = complaint(&output);
    assert!(
        complaint.contains("--json") && complaint.contains("make room"),
        "{complaint}"
    );
}

#[test]
fn a_ledger_is_judged_again() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, json) = (folder.path().join("kept"), folder.path().join("verdict.json"));
    let id = ConversationId::from_parts(ConversationKind::Direct, [1; 15]);
    let mut writer = Writer::create(&ledger, Share::WHOLE).unwrap();
    let device = Device::named("ann", "0");
    writer.note(&Event::Device {
        uid: "ann".to_owned(),
        name: "0".to_owned(),
        showing: Showing::AsItComes,
    });
    let [ann, bob] = ["ann", "bob"].map(User::named);
    writer.note(&Event::Talk {
        id,
        talk: Talk::Direct([ann, bob]),
        base_seq: 0,
    });
    for number in 0..70 {
        writer.note(&Event::Begun {
            id,
            device,
            user: ann,
            text: Text(number),
            at: Duration::from_secs(number),
        });
    }
    writer.finish().unwrap();
    for _ in 0..2 {
        let [ledger, json] = [&ledger, &json].map(|path| path.to_str().unwrap());
        let output = run(&["judge", "--ledger", ledger, "--json", json]);
        assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
        let told: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(
            (&told["sends"], &told["violations"]),
            (&70.into(), &70.into()),
            "{told}"
        );
        assert_eq!(
            (&told["ledger"], &told["violations_of"]["0"]),
            (&"kept".into(), &70.into())
        );
        assert_eq!(told["unread"], 0);
        let summary = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(summary.contains("70 against (0), every send"), "{summary}");
        assert_eq!(told["violations_told"].as_array().unwrap().len(), 50);
    }
    // Without what it held of the conversation it would be a run in which nothing was sent.
    for part in std::fs::read_dir(ledger.join("process-0")).unwrap() {
        std::fs::write(part.unwrap().path(), "").unwrap();
    }
    let output = run(&["judge", "--ledger", ledger.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("has no end"),
        "{}",
        complaint(&output)
    );
    let output = run(&["judge", "--ledger", "/nonexistent/ledger"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("/nonexistent/ledger"),
        "{}",
        complaint(&output)
    );
}

#[test]
fn more_raw_sockets_than_descriptors_are_refused_with_the_cure() {
    let program = env!("CARGO_BIN_EXE_whimbrel-loadtest");
    let limited = format!("ulimit -n 500 && exec {program} raw --connections 1000 --payload 64");
    let output = Command::new("sh").args(["-c", &limited]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains("--connections 436"), "{complaint}");
}

/// A worker waits for a list that never comes; the process that leads it goes away.
#[test]
fn a_worker_ends_with_its_leader() {
    let lbs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let root = whimbrel_protocol::descriptor::RootKey::from_seed(&[9; 32]).public();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_whimbrel-loadtest"))
        .args([
            "connect",
            "--connections",
            "10",
            "--share=0/2",
            "--run=1",
            "--lbs-within",
            "1h",
        ])
        .args(["--lbs", &format!("http://{}", lbs.local_addr().unwrap())])
        .args(["--app-secret-file", secret.to_str().unwrap()])
        .args(["--root-key", &root.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It has come as far as to ask.
    let asked = lbs.accept().unwrap();
    drop(worker.stdin.take());
    assert_eq!(worker.wait().unwrap().code(), Some(1));
    drop(asked);
}
