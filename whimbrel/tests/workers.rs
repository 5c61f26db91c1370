//! A run shared among several processes of the load generator, as `--workers` does it.
//!
//! Workers are started as the program that leads them, which here is this one: it has no harness of the usual kind, so that it
//! can be a worker.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "load/server.rs"]
mod server;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use server::Server;
use whimbrel_loadtest::cli::Cli;
use whimbrel_loadtest::program;

fn main() -> ExitCode {
    if std::env::args().any(|word| word.starts_with("--share=")) {
        let cli = Cli::read(std::env::args()).unwrap();
        return program::main(&cli).unwrap();
    }
    let test = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let tests = vec![
        test(
            "two_processes_hold_the_connections_of_one_run",
            two_processes_hold_the_connections_of_one_run,
        ),
        test(
            "what_two_processes_wrote_into_the_ledger_is_checked_as_one",
            what_two_processes_wrote_into_the_ledger_is_checked_as_one,
        ),
        test(
            "everybody_in_a_room_hears_the_senders_of_all_processes",
            everybody_in_a_room_hears_the_senders_of_all_processes,
        ),
        test(
            "what_a_worker_cannot_do_is_told_in_its_words",
            what_a_worker_cannot_do_is_told_in_its_words,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn two_processes_hold_the_connections_of_one_run() {
    let server = Server::start();
    let (report, json) = server.load("connect --connections 41 --rate 200 --hold 500ms --workers 2");
    assert!(!report.is_failure(), "{json}");
    for (key, expected) in [("connected", 41), ("logins", 41), ("processes", 2), ("failed", 0)] {
        assert_eq!(json[key], expected, "{key}: {json}");
    }
    assert!(json["handshake_ms"]["p50"].as_f64().unwrap() > 0.0, "{json}");
}

fn what_two_processes_wrote_into_the_ledger_is_checked_as_one() {
    let server = Server::start();
    let ledger = server.path("ledger");
    let (report, json) = server.load(&format!(
        "chat --users 24 --group-size 4 --rate 100 --duration 2s --workers 2 --check --ledger {}",
        ledger.display()
    ));
    assert!(!report.is_failure(), "{json}");
    let judged = whimbrel_loadtest::check::ledger::judge(&ledger).unwrap();
    assert_eq!((judged.sent, judged.violations.len()), (200, 0));
    assert_eq!(json["sends_acked"], judged.acknowledged, "{json}");
    for process in ["process-0", "process-1"] {
        assert!(ledger.join(process).is_dir(), "{process} kept no ledger");
    }
}

fn everybody_in_a_room_hears_the_senders_of_all_processes() {
    let server = Server::start();
    let (report, json) = server.load("room --members 30 --senders 4 --rate 20 --duration 1500ms --workers 2");
    assert!(!report.is_failure(), "{json}");
    assert_eq!(
        (&json["sends_acked"], &json["room_members"]),
        (&30.into(), &30.into()),
        "{json}"
    );
    let heard = json["deliveries"].as_u64().unwrap() + json["room_drops"].as_u64().unwrap();
    assert_eq!(heard, 900, "{json}");
}

fn what_a_worker_cannot_do_is_told_in_its_words() {
    let server = Server::start();
    let line = "chat --users 8 --rate 5 --duration 1s --workers 2 --user-prefix";
    let mut typed = server.command_line(line);
    // As no uid may begin.
    typed.insert(line.split(' ').count() + 1, "\u{1}".to_owned());
    let error = format!("{:#}", program::measure(&Cli::read(typed).unwrap()).unwrap_err());
    assert!(
        error.contains("worker ") && error.contains("--user-prefix"),
        "{error}"
    );
}
