//! Runs of the simulated cluster: some that are always the same, some that are new each time.
#![expect(clippy::print_stdout, reason = "a seed that fails must be seen")]

use std::time::{SystemTime, UNIX_EPOCH};

use whimbrel_sim::{Options, Report, run};

/// Seeds of new runs each time.
const NEW_SEEDS: u64 = 4;

fn must_hold(seed: u64) -> Report {
    println!("seed {seed}; replay it with `cargo xtask sim --seed {seed}`");
    let report = run(seed, Options::default());
    let violations: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(
        violations.is_empty(),
        "seed {seed}:\n{}\nreplay it with `cargo xtask sim --seed {seed}`",
        violations.join("\n")
    );
    report
}

#[test]
fn a_cluster_without_faults_delivers_everything() {
    let calm = Options {
        faults: false,
        ..Options::default()
    };
    let report = run(1, calm);
    assert_eq!(report.violations, []);
    assert!(report.messages > 20 && report.commits > 20, "{report:?}");
    // Nobody is slow and nothing is cut: whoever was taken for a member was reached.
    assert!(report.room_messages > 0 && report.room_heard > 0, "{report:?}");
    assert_eq!(report.room_heard, report.room_taken, "{report:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [2, 3] {
        let (first, second) = (must_hold(seed), must_hold(seed));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.events > 1_000, "a run in which things happen: {first:?}");
    }
    assert_ne!(must_hold(2).hash, must_hold(3).hash);
}

#[test]
fn fixed_seeds_hold() {
    (100..106).for_each(|seed| {
        must_hold(seed);
    });
}

#[test]
fn new_seeds_hold() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let from = now.map_or(1, |now| now.as_secs()) * 1_000;
    (from..from + NEW_SEEDS).for_each(|seed| {
        must_hold(seed);
    });
}
