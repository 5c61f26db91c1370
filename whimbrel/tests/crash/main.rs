//! Crash tests of the real binary: SDK clients chat through it without pause while it is killed again and again, or stopped
//! and let go on, wholly or role by role, and in the end everything they were told must be true, for them and for devices that know nothing.
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

use std::time::Duration;

use cluster::Fault::{CutPower, Kill, KillAnswered, Stop};
use cluster::Target::{self, Role, SecondGateway};
use support::Mode;

/// Two runs at once would share what processors there are, and each would be told of the other's timeouts.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What one sends another crosses from one gateway to the other for about half of them.
const TWO_GATEWAYS: Mode = Mode::Processes {
    gateways: 2,
    routers: 1,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_one_process_breaks_no_promise() {
    let _alone = ONE_AT_A_TIME.lock().await;
    cluster::run(
        Mode::OneProcess,
        // Ten with sends in flight, and one with none.
        &[[Kill(Target::Whole); 10].as_slice(), &[KillAnswered]].concat(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cutting_the_power_breaks_no_promise() {
    let _alone = ONE_AT_A_TIME.lock().await;
    cluster::run(Mode::OneProcess, &[CutPower; 5]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_any_role_breaks_no_promise() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let kills = [
        Kill(Role("app-service")),
        Kill(Role("gateway")),
        Kill(Role("router")),
        Kill(Role("lbs")),
        Kill(SecondGateway),
        Kill(Role("app-service")),
        Kill(Role("router")),
        Kill(Target::Whole),
        Kill(Role("gateway")),
        Kill(Role("router")),
        // The last: pushes and rows of its last commits are made by nobody but the markers.
        Kill(Role("app-service")),
    ];
    cluster::run(TWO_GATEWAYS, &kills).await;
}

/// Shorter than any lease (9 s), so that only those who wait notice.
const SHORT: Duration = Duration::from_secs(4);
/// Longer than a lease: the others have given up on it, and it does not know.
const LONG: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_the_one_process_breaks_no_promise() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let faults = [
        Stop(Target::Whole, SHORT),
        Stop(Target::Whole, LONG),
        Kill(Target::Whole),
        Stop(Target::Whole, LONG),
    ];
    cluster::run(Mode::OneProcess, &faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_any_role_breaks_no_promise() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let faults = [
        Stop(Role("app-service"), SHORT),
        Stop(Role("gateway"), LONG),
        Stop(Role("router"), SHORT),
        Stop(Role("app-service"), LONG),
        Stop(Role("lbs"), SHORT),
        Stop(Role("router"), LONG),
        Kill(Role("router")),
        Stop(SecondGateway, SHORT),
        Stop(Target::Whole, LONG),
        // The last: it owes pushes and rows of what it committed, to those who took it for dead.
        Stop(Role("app-service"), LONG),
    ];
    cluster::run(TWO_GATEWAYS, &faults).await;
}
