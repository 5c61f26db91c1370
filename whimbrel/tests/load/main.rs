//! The load generator against the real binary: each scenario small, what it writes, and that it says so when something is
//! lost.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use server::{Server, read_json};
use whimbrel_loadtest::cli::Cli;
use whimbrel_loadtest::program;

/// Clients are in within a second; a machine that is busy with other tests may take far longer.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn clients_log_in_at_a_rate_and_stay() {
    let server = Server::start();
    let (report, json) = server.load("connect --connections 60 --rate 100 --hold 500ms");
    assert!(!report.is_failure(), "{json}");
    assert_eq!(
        (&json["scenario"], &json["connected"]),
        (&"connect".into(), &60.into())
    );
    assert!(json["handshake_ms"]["p50"].as_f64().unwrap() > 0.0, "{json}");
    let per_s = json["connects_per_s"].as_f64().unwrap();
    assert!(
        per_s > 0.0 && per_s <= 110.0,
        "a schedule is not overtaken: {per_s}"
    );
    let role = &json["roles"]["standalone"];
    assert!(
        role["cpu_us_per_connect"].is_number() && role["bytes_per_connection"].is_number(),
        "{json}"
    );
}

#[test]
fn pairs_chat_and_everything_is_acknowledged_delivered_and_checked() {
    let server = Server::start();
    let page = server.path("report.html");
    let scenario = format!(
        "chat --users 20 --rate 100 --duration 2s --check --report {}",
        page.display()
    );
    let (report, json) = server.load(&scenario);
    assert!(!report.is_failure(), "{json}");
    for (key, expected) in [
        ("connected", 20),
        ("sends", 200),
        ("sends_acked", 200),
        ("deliveries", 200),
        ("violations", 0),
        ("unresolved", 0),
    ] {
        assert_eq!(json[key], expected, "{key}: {json}");
    }
    assert!(json["delivery_ms"]["p99"].as_f64().unwrap() > 0.0, "{json}");
    assert!(
        json["repeated"].as_u64().unwrap() > 0,
        "nothing was sent twice: {json}"
    );
    // One user in fifty has two devices more, one of which logs in again while it is in.
    assert!(json["logins"].as_u64().unwrap() >= 20 + 20 + 3, "{json}");
    let page = fs::read_to_string(page).unwrap();
    assert!(
        page.contains("<svg") && page.contains("nothing lost"),
        "no plots, or a bad verdict"
    );
}

#[test]
fn groups_are_made_and_everybody_else_in_them_gets_each_message() {
    let server = Server::start();
    let (report, json) = server.load("chat --users 24 --group-size 8 --rate 40 --duration 1500ms");
    assert!(!report.is_failure(), "{json}");
    assert_eq!(
        (&json["sends_acked"], &json["deliveries"]),
        (&60.into(), &420.into()),
        "{json}"
    );
}

#[test]
fn members_come_and_go_meanwhile_and_see_what_is_theirs() {
    let server = Server::start();
    let (report, json) = server.load(
        "chat --users 24 --group-size 6 --rate 100 --duration 3s --check --membership-changes 10 --grace 10s",
    );
    assert!(!report.is_failure(), "{json}");
    assert!(
        json["membership_changes"].as_u64().unwrap() > 10,
        "they hardly came and went: {json}"
    );
    let resolved = json["sends_acked"].as_u64().unwrap() + json["refused"].as_u64().unwrap();
    assert_eq!(resolved, 300, "{json}");
    assert!(
        json["refused"].as_u64().unwrap() > 0,
        "nobody who was out sent anything: {json}"
    );
}

#[test]
fn a_report_repeats_the_command_without_the_paths_of_this_machine() {
    let server = Server::start();
    let (_, json) = server.load("connect --connections 2 --rate 10 --hold 0s");
    assert_eq!(
        json["command"],
        "whimbrel-loadtest connect --connections 2 --rate 10 --hold 0s --quiet --ready-file ready.json --json out.json"
    );
}

#[test]
fn everybody_in_a_room_hears_what_is_sent_to_it() {
    let server = Server::start();
    let (report, json) = server.load("room --members 30 --senders 3 --rate 20 --duration 1500ms");
    assert!(!report.is_failure(), "{json}");
    assert_eq!(
        (&json["sends_acked"], &json["room_members"]),
        (&30.into(), &30.into()),
        "{json}"
    );
    let heard = json["deliveries"].as_u64().unwrap() + json["room_drops"].as_u64().unwrap();
    assert_eq!(heard, 900, "{json}");
}

#[test]
fn all_drop_come_back_and_sync() {
    let server = Server::start();
    let (report, json) = server.load("reconnect --connections 40 --rounds 2 --spread 200ms");
    assert!(!report.is_failure(), "{json}");
    assert_eq!(json["logins"], 120, "{json}");
    assert_eq!(json["rounds_ms"].as_array().unwrap().len(), 2, "{json}");
    assert!(
        json["roles"]["standalone"]["cpu_us_per_reconnect"].is_number(),
        "{json}"
    );
}

#[test]
fn a_server_that_dies_leaves_sends_unresolved_and_the_run_fails() {
    let mut server = Server::start();
    let cli = Cli::read(server.command_line("chat --users 10 --rate 50 --duration 8s --grace 1s")).unwrap();
    let run = thread::spawn(move || program::measure(&cli));
    // Some of its sends have been delivered, and most are still to come.
    wait_for(&server, "whimbrel_gateway_pushes_total", 40);
    server.child.kill().unwrap();
    let report = run.join().unwrap().unwrap();
    assert!(report.is_failure());
    assert!(
        report.unresolved > 0,
        "{} of {} are acknowledged",
        report.sends_acked,
        report.sends
    );
    assert_eq!(report.sends, 400, "a dead server does not stop the schedule");
    assert!(report.last_setback.is_some());
}

/// Waits until a metric, summed over its labels, has reached `count`.
fn wait_for(server: &Server, metric: &str, count: u64) {
    let ready = read_json(&server.path("ready.json"));
    let address = ready["metrics"]
        .as_str()
        .unwrap()
        .trim_start_matches("http://")
        .to_owned();
    let started = Instant::now();
    loop {
        let mut socket = TcpStream::connect(&address).unwrap();
        let asked = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        socket.write_all(asked.as_bytes()).unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        let values = page.lines().filter(|line| line.starts_with(metric));
        let sum: f64 = values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        if sum >= count as f64 {
            return;
        }
        assert!(started.elapsed() < SOON, "{metric} is {sum}, not {count}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Forty clients read what was sent to them within this, on a busy machine too; the scenarios last four times as long.
const READ_WITHIN: Duration = Duration::from_secs(3);

/// Runs a scenario whose server is killed soon after a metric of it has reached `count`.
fn killed(scenario: &str, metric: &str, count: u64) -> Value {
    let mut server = Server::start();
    let cli = Cli::read(server.command_line(scenario)).unwrap();
    let run = thread::spawn(move || program::measure(&cli));
    wait_for(&server, metric, count);
    // What the server has sent its clients have yet to read: nothing of theirs tells when, and all of it has time enough.
    thread::sleep(READ_WITHIN);
    server.child.kill().unwrap();
    let report = run.join().unwrap().unwrap();
    assert!(report.is_failure(), "{scenario}: {report:?}");
    read_json(&server.path("out.json"))
}

#[test]
fn clients_that_are_to_stay_and_are_gone_at_the_end_are_lost() {
    let page = tempfile::NamedTempFile::new().unwrap();
    let scenario = format!(
        "connect --connections 40 --rate 0 --hold 12s --report {}",
        page.path().display()
    );
    let json = killed(&scenario, "whimbrel_gateway_logins_total", 40);
    assert_eq!(
        (&json["connected"], &json["lost"]),
        (&40.into(), &40.into()),
        "{json}"
    );
    let role = &json["roles"]["standalone"];
    assert_eq!(
        (&role["ended"], &role["restarted"]),
        (&true.into(), &false.into()),
        "{json}"
    );
    assert!(role["bytes_per_connection"].is_null(), "{json}");
    let page = fs::read_to_string(page.path()).unwrap();
    assert!(page.contains("lost</span>") && !page.contains("nothing lost"));
}

#[test]
fn members_who_only_listen_and_are_gone_at_the_end_are_lost() {
    let scenario = "room --members 40 --rate 0 --duration 12s --connect-rate 0";
    let json = killed(scenario, "whimbrel_gateway_room_memberships", 40);
    assert_eq!(json["lost"], 40, "{json}");
}

#[test]
fn clients_that_do_not_come_back_are_told_with_what_was_measured_before() {
    let json = killed(
        "reconnect --connections 40 --rounds 1000 --spread 50ms --connect-within 12s --connect-rate 0",
        // Those of the second round: the first is over.
        "whimbrel_gateway_logins_total",
        120,
    );
    assert_eq!(json["lost"], 40, "{json}");
    assert!(!json["rounds_ms"].as_array().unwrap().is_empty(), "{json}");
    let setback = json["last_setback"].as_str().unwrap();
    assert!(setback.contains("40 of 40 clients are not back"), "{setback}");
}

#[test]
fn a_wrong_root_key_is_named() {
    let server = Server::start();
    let ready = read_json(&server.path("ready.json"));
    let other = whimbrel_protocol::descriptor::RootKey::from_seed(&[9; 32]).public();
    assert_ne!(ready["root_key"], other.to_string());
    let line = format!("connect --connections 2 --hold 1s --root-key {other}");
    let cli = Cli::read(server.command_line(&line)).unwrap();
    let error = format!("{:#}", program::measure(&cli).unwrap_err());
    assert!(error.contains("no pinned root signed"), "{error}");
}
