//! Each planted fault is found within a few runs, by the promise it breaks.

use whimbrel_loadtest::check::Invariant;
use whimbrel_sim::{Options, Plant, run};

/// Some of these seeds' runs break this promise because of the fault.
fn must_be_found(plant: Plant, seeds: std::ops::RangeInclusive<u64>, promise: Invariant) {
    let planted = Options {
        plant: Some(plant),
        ..Options::default()
    };
    let breaks = |seed: &u64| {
        let violations = run(*seed, planted).violations;
        violations.iter().any(|violation| violation.invariant == promise)
    };
    assert!(seeds.clone().any(|seed| breaks(&seed)), "{plant:?} in {seeds:?}");
}

#[test]
fn answers_before_the_commit_are_found() {
    must_be_found(Plant::AckBeforeCommit, 1..=5, Invariant::PresentOnce);
}

#[test]
fn missing_deduplication_is_found() {
    must_be_found(Plant::DedupOff, 1..=10, Invariant::PresentOnce);
}

/// And by what else it breaks, and nothing but that: it is the deduplication alone that is missing.
#[test]
fn missing_deduplication_breaks_nothing_else() {
    let planted = Options {
        plant: Some(Plant::DedupOff),
        ..Options::default()
    };
    for seed in 1..=6 {
        for violation in run(seed, planted).violations {
            assert!(
                matches!(violation.invariant, Invariant::PresentOnce | Invariant::OneAnswer),
                "seed {seed}: {violation}"
            );
        }
    }
}

#[test]
fn ignored_conflicts_are_found() {
    must_be_found(Plant::ConflictsIgnored, 1..=20, Invariant::OneLog);
}

#[test]
fn a_missing_sweeper_is_found() {
    // Whoever dies must leave something behind, and nobody may be there to tell of it later: of the first seventy runs two are such.
    must_be_found(Plant::SweeperOff, 58..=66, Invariant::ReachesHead);
}
