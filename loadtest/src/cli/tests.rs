//! Command lines, right and wrong, and what is said of those that are wrong.

use std::time::Duration;

use super::scenarios::MEMBERSHIP_CHANGES_PER_S;
use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::read(line.split_ascii_whitespace().map(str::to_owned))
}

#[test]
fn flags_of_the_deployment_may_stand_behind_the_scenario() {
    let line =
        "whimbrel-loadtest connect --connections 10 --rate 5 --hold 2s --ready-file r.json --json o.json";
    let cli = parse(line).unwrap();
    assert_eq!(cli.deployment.ready_file, Some("r.json".into()));
    let Command::Connect(args) = cli.command else {
        panic!("connect")
    };
    assert_eq!(Duration::from(args.hold), Duration::from_secs(2));
}

#[test]
fn members_come_and_go_in_checked_groups_unless_it_is_said_otherwise() {
    let changes = |line: &str| match parse(line).unwrap().command {
        Command::Chat(args) => args.membership_changes(),
        _ => panic!("chat"),
    };
    let line = "whimbrel-loadtest chat --users 40 --rate 5";
    for (more, expected) in [
        ("", 0.0),
        ("--check", 0.0),
        ("--group-size 5", 0.0),
        ("--group-size 5 --check", MEMBERSHIP_CHANGES_PER_S),
        ("--group-size 5 --check --membership-changes 0", 0.0),
        ("--group-size 5 --membership-changes 7", 7.0),
        ("--check --membership-changes 0", 0.0),
    ] {
        assert_eq!(changes(&format!("{line} {more}")).unwrap(), expected, "{more}");
    }
    let error = parse(&format!("{line} --membership-changes 7")).unwrap_err();
    assert!(error.to_string().contains("--group-size 0"), "{error}");
}

#[test]
fn one_client_is_enough_where_nobody_talks_to_another() {
    for line in [
        "room --members 1 --rate 5",
        "connect --connections 1",
        "reconnect --connections 1",
        "reconnect --connections 3 --workers 3",
        "chat --users 4 --rate 5 --workers 2",
        "raw --connections 1",
    ] {
        parse(&format!("whimbrel-loadtest {line}")).unwrap();
    }
    for (line, expected) in [
        ("chat --users 5 --rate 5 --workers 3", "at least 2 of the 5"),
        ("connect --connections 2 --workers 3", "at least 1 of the 2"),
    ] {
        let error = parse(&format!("whimbrel-loadtest {line}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn times_that_no_run_lasts_are_refused_by_their_flags() {
    let forever = "500000000000years";
    for line in [
        "connect --connections 1 --hold",
        "chat --users 2 --rate 1 --duration",
        "room --members 2 --rate 1 --duration",
        "reconnect --connections 1 --spread",
        "connect --connections 1 --lbs-within",
        "connect --connections 1 --connect-within",
        "room --members 2 --rate 1 --grace",
    ] {
        let flag = line.rsplit(' ').next().unwrap();
        for (time, is_right) in [("30days", true), ("30days1ns", false), (forever, false)] {
            let parsed = parse(&format!("whimbrel-loadtest {line} {time}"));
            assert_eq!(parsed.is_ok(), is_right, "{line} {time}");
            if let Err(error) = parsed {
                let error = error.to_string();
                assert!(error.contains(flag) && error.contains("30days"), "{error}");
            }
        }
    }
}

#[test]
fn what_would_be_taken_in_silence_is_refused() {
    for (line, expected) in [
        ("raw --report r.html", "--report means nothing to `raw`"),
        ("raw --workers 2", "--workers means nothing"),
        ("raw --live l.json", "--live means nothing"),
        (
            "--report r.html judge --ledger x",
            "--report means nothing to `judge`",
        ),
        (
            "connect --connections 5 --connect-rate 7",
            "--connect-rate means nothing",
        ),
        (
            "room --members 5 --rate 1 --json x --report x",
            "--json x and --report x",
        ),
        (
            "room --members 5 --rate 1 --report x --live x",
            "--report x and --live x",
        ),
        ("room --members 5 --rate 1 --json -", "--json"),
        (
            "room --members 5 --rate 1 --senders 6",
            "--senders 6 with --members 5",
        ),
        ("room --members 5 --rate 1 --duration 0s", "more than 0s"),
        ("chat --users 5 --rate 1 --duration 0s", "more than 0s"),
        ("chat --users 5 --rate 1 --group-size 1", "--group-size"),
        (
            "chat --users 5 --rate 1 --group-size 6",
            "--group-size 6 with --users 5",
        ),
        ("chat --users 9 --rate 1 --group-size 5 --workers 2", "at most 4"),
        ("chat --users 5 --rate 0", "--rate 0"),
    ] {
        let error = parse(&format!("whimbrel-loadtest {line}")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
    for line in [
        "room --members 4 --rate 1",
        "raw --json x --quiet",
        "chat --users 6 --rate 0 --group-size 3 --membership-changes 1",
        "chat --users 5 --rate 1 --group-size 5",
        "connect --connections 5 --hold 0s",
    ] {
        parse(&format!("whimbrel-loadtest {line}")).unwrap();
    }
}

#[test]
fn what_is_out_of_bounds_is_named_with_what_was_expected() {
    for (line, expected) in [
        ("whimbrel-loadtest chat --users 10 --rate=-1", "per second"),
        (
            "whimbrel-loadtest chat --users 10 --rate 5 --payload 3",
            "expected 58",
        ),
        (
            "whimbrel-loadtest room --members 10 --rate 5 --payload 9000",
            "8000",
        ),
        ("whimbrel-loadtest chat --users 1 --rate 5", "2.."),
        ("whimbrel-loadtest connect --connections 0", "1.."),
        ("whimbrel-loadtest chat --users 4 --rate 5 --ledger x", "--check"),
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}
