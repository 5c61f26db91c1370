//! The program as somebody types it: what is wrong is named, and the exit status says so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

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
