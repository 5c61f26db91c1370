//! Crash tests of the real binary: SDK clients chat through it without pause while it is killed again and again, wholly or
//! role by role, and in the end everything they were told must be true, for them and for devices that know nothing.
//!
//! `device` and `load` act, `cluster` dies and comes back, `ledger` writes down what happened, and the checker of
//! `whimbrel-loadtest` says what of it breaks the design's invariants. `WHIMBREL_CRASH_SEED` repeats a run's choices, though
//! not its timing.
#![expect(clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod device;
mod ledger;
mod load;
mod run;

use cluster::Target;
use support::Mode;

/// Two runs at once would share what processors there are, and each would be told of the other's timeouts.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_one_process_breaks_no_promise() {
    let _alone = ONE_AT_A_TIME.lock().await;
    run::run(Mode::OneProcess, &[Target::Whole; 10]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_any_role_breaks_no_promise() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let kills = [
        Target::Role("app-service"),
        Target::Role("gateway"),
        Target::Role("router"),
        Target::Role("lbs"),
        Target::Role("gateway"),
        Target::Role("app-service"),
        Target::Role("router"),
        Target::Whole,
        Target::Role("gateway"),
        Target::Role("router"),
        // The last: pushes and rows of its last commits are made by nobody but the markers.
        Target::Role("app-service"),
    ];
    run::run(Mode::Processes, &kills).await;
}
