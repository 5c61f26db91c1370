//! The checker, proved on the real binary: each planted fault is found in a run, by the promise that it breaks, and without
//! a plant nothing is.
//!
//! Needs the feature `planted-faults`; `cargo xtask planted` builds and runs it apart from everything else.
#![expect(clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../crash/cluster.rs"]
mod cluster;
#[path = "../crash/device.rs"]
mod device;
#[path = "../crash/ledger.rs"]
mod ledger;
#[path = "../crash/load.rs"]
mod load;
mod markers;
#[path = "../crash/run.rs"]
mod run;
mod strangers;

use std::time::Duration;

use cluster::Fault::{CutPower, Kill, KillAnswered, Stop};
use cluster::{Fault, Plan, Target};
use support::Mode;
use whimbrel_loadtest::check::Invariant;

/// Two runs at once would share what processors there are, and each would be told of the other's timeouts.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What is wrong stays wrong: a moment for what merely is late.
const SOON: Duration = Duration::from_secs(3);
/// Longer than a dead node's lease (9 s) and two looks for its markers (10 s each).
const AFTER_THE_SWEEPER: Duration = Duration::from_secs(30);

/// Runs with the fault, and expects it to be found by a promise that it breaks.
async fn is_found(plant: &'static str, broken: &[Invariant], mode: Mode, faults: &[Fault], within: Duration) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let verdict = cluster::judge(Plan {
        mode,
        faults,
        plant: Some(plant),
        settled_within: within,
    })
    .await;
    let found = verdict.violations.iter().map(|violation| violation.invariant);
    assert!(
        found.into_iter().any(|found| broken.contains(&found)),
        "{plant} was to be found by {broken:?}; {} other violations; {}",
        verdict.violations.len(),
        verdict.folder.display()
    );
    std::fs::remove_dir_all(&verdict.folder).expect("the run's folder can be removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_plant_nothing_is_found() {
    let _alone = ONE_AT_A_TIME.lock().await;
    cluster::run(Mode::OneProcess, &[Kill(Target::Whole), CutPower]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_plant_nothing_is_found_between_processes() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let faults = [
        Kill(Target::SecondGateway),
        Stop(Target::Role("app-service"), Duration::from_secs(2)),
    ];
    let mode = Mode::Processes {
        gateways: 2,
        routers: 1,
    };
    cluster::run(mode, &faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_fsync_is_found_by_a_power_cut() {
    is_found(
        "no-fsync",
        &[Invariant::PresentOnce],
        Mode::OneProcess,
        &[CutPower],
        SOON,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_before_the_commit_is_found() {
    is_found(
        "ack-before-commit",
        &[Invariant::PresentOnce],
        Mode::OneProcess,
        &[Kill(Target::Whole); 3],
        SOON,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_operation_ids_are_found() {
    is_found(
        "dedup-off",
        &[Invariant::PresentOnce],
        Mode::OneProcess,
        &[Kill(Target::Whole)],
        SOON,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seq_left_out_is_found() {
    is_found(
        "seq-gap",
        &[Invariant::OneLog],
        Mode::OneProcess,
        &[Kill(Target::Whole)],
        SOON,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_that_nobody_works_off_are_found() {
    // A row that nobody writes is behind the head after a message, and behind the read mark after a mark: whichever was the
    // last before the kill.
    is_found(
        "sweeper-off",
        &[Invariant::ReachesHead, Invariant::Cursors],
        Mode::OneProcess,
        &[KillAnswered],
        AFTER_THE_SWEEPER,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_after_the_sync_is_found() {
    is_found(
        "registration-after-sync",
        &[Invariant::ReachesHead],
        Mode::Processes {
            gateways: 1,
            routers: 1,
        },
        &[Kill(Target::Role("gateway"))],
        AFTER_THE_SWEEPER,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_counts_twice_is_found() {
    is_found(
        "unread-twice",
        &[Invariant::Cursors],
        Mode::OneProcess,
        &[Kill(Target::Whole)],
        SOON,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_who_is_still_served_is_found() {
    is_found(
        "removed-still-served",
        &[Invariant::Removal],
        Mode::OneProcess,
        &[Kill(Target::Whole)],
        SOON,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_whoever_has_the_slot_now_is_found() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let found = strangers::visit(Some("push-to-reused-slot")).await;
    assert!(
        found
            .iter()
            .any(|violation| violation.invariant == Invariant::Foreign),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_in_used_slots_are_shown_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    assert_eq!(strangers::visit(None).await, []);
}

/// What [`plain`](../plain.rs) looks for and must not find is there with the feature, all of it: that test can fail.
#[test]
fn every_marker_of_a_fault_is_in_this_binary() {
    let found = markers::found_in(env!("CARGO_BIN_EXE_whimbrel").as_ref());
    assert_eq!(found, markers::MARKERS);
}
