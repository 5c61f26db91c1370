//! Each planted fault is found within a few runs, by the promise it breaks.

use whimbrel_loadtest::check::Invariant;
use whimbrel_sim::{Options, Plant, run};

/// The first of these seeds whose run breaks one of these promises because of the fault.
fn must_be_found(plant: Plant, seeds: std::ops::Range<u64>, promises: &[Invariant]) {
    let planted = Options {
        plant: Some(plant),
        ..Options::default()
    };
    let breaks = |seed: &u64| {
        let violations = run(*seed, planted).violations;
        violations
            .iter()
            .any(|violation| promises.contains(&violation.invariant))
    };
    assert!(seeds.clone().any(|seed| breaks(&seed)), "{plant:?} in {seeds:?}");
}

#[test]
fn answers_before_the_commit_are_found() {
    must_be_found(
        Plant::AckBeforeCommit,
        1..20,
        &[Invariant::PresentOnce, Invariant::OneAnswer],
    );
}

#[test]
fn missing_deduplication_is_found() {
    must_be_found(
        Plant::DedupOff,
        1..20,
        &[Invariant::PresentOnce, Invariant::OneAnswer, Invariant::OneLog],
    );
}

#[test]
fn ignored_conflicts_are_found() {
    must_be_found(
        Plant::ConflictsIgnored,
        1..30,
        &[Invariant::PresentOnce, Invariant::OneLog],
    );
}

#[test]
fn a_missing_sweeper_is_found() {
    must_be_found(Plant::SweeperOff, 1..60, &[Invariant::ReachesHead]);
}
