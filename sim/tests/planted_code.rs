//! The faults planted in the cores themselves: each is found within a few runs, by the promise it breaks.
//!
//! Needs the feature `planted-faults`; `cargo xtask planted` builds and runs it apart from everything else.
#![expect(clippy::print_stdout, reason = "the figures are what the documents say")]

use whimbrel_loadtest::check::Invariant;
use whimbrel_sim::{Options, Plant, run};

fn planted(plant: Plant) -> Options {
    Options {
        plant: Some(plant),
        ..Options::default()
    }
}

/// Some of these seeds' runs break this promise because of the fault.
fn must_be_found(plant: Plant, seeds: std::ops::RangeInclusive<u64>, promise: Invariant) {
    let breaks = |seed: &u64| {
        let violations = run(*seed, planted(plant)).violations;
        violations.iter().any(|violation| violation.invariant == promise)
    };
    let found = seeds.clone().find(breaks);
    println!("{plant:?}: {promise:?} broken by seed {found:?} of {seeds:?}");
    assert!(found.is_some(), "{plant:?} in {seeds:?}");
}

#[test]
fn a_seq_left_out_is_found() {
    must_be_found(Plant::SeqGap, 1..=5, Invariant::OneLog);
}

#[test]
fn a_message_that_counts_twice_is_found() {
    must_be_found(Plant::UnreadTwice, 1..=5, Invariant::Cursors);
}

#[test]
fn a_removed_member_who_is_still_served_is_found() {
    must_be_found(Plant::RemovedStillServed, 1..=5, Invariant::Removal);
}

#[test]
fn a_registration_after_the_sync_is_found() {
    must_be_found(Plant::RegistrationAfterSync, 1..=10, Invariant::ReachesHead);
}

#[test]
fn a_push_to_whoever_has_the_slot_now_is_found() {
    // Users of a run share most conversations: what comes to the wrong one is, as a rule, of a group that they left. And somebody
    // else must take the slot before its user is back: of seeds 1 to 400 that happens in one.
    must_be_found(Plant::PushToReusedSlot, 126..=140, Invariant::Removal);
}

/// A fault is planted in one run and not in the one beside it.
#[test]
fn a_run_beside_a_planted_one_is_as_ever() {
    let alone = run(3, Options::default());
    assert_eq!(alone.violations, []);
    std::thread::scope(|threads| {
        let planted = threads.spawn(|| {
            (1..=5)
                .map(|seed| run(seed, planted(Plant::SeqGap)))
                .collect::<Vec<_>>()
        });
        let beside = threads.spawn(|| run(3, Options::default()));
        assert!(
            planted
                .join()
                .is_ok_and(|reports| reports.iter().any(|report| !report.violations.is_empty()))
        );
        assert!(beside.join().is_ok_and(|report| report == alone));
    });
    // Nor does it stay behind in the thread that had it.
    let _planted = run(1, planted(Plant::SeqGap));
    assert_eq!(run(3, Options::default()), alone);
}
