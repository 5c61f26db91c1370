//! Several nodes of each role as processes of their own, over a Redis and over what speaks TiKV's protocol: SDK clients chat
//! through them while one after the other is killed, cut off from the store, or stands still for longer than its lease, and in the end everything
//! they were told must be true.
//!
//! Where there is no `redis-server`, or nothing in `target/tikv`, the tests are shown as ignored; with `CI=true` they fail, so that
//! nothing passes unseen. The story of a run and its judge are those of the crash tests of one machine.
#![expect(
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why it is skipped"
)]

mod cluster;
#[path = "../crash/device.rs"]
mod device;
#[path = "../crash/ledger.rs"]
mod ledger;
#[path = "../crash/load.rs"]
mod load;
#[path = "../crash/run.rs"]
mod run;
#[path = "../support/token.rs"]
mod token;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use whimbrel_cluster::Role;
use whimbrel_tikv_cluster::Binaries;

use cluster::{Deployed, Fault};
use run::{SETTLED_WITHIN, Terms};

/// Longer than a service node's lease (9 s): the others have given up on it, and it does not know.
const LONG: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    // Programs of a cluster are started through this one.
    whimbrel_cluster::hold().expect("it becomes what it was told to");
    let ground = ground();
    let must = std::env::var("CI").is_ok_and(|value| value == "true");
    if let (Err(why), false) = (&ground, must) {
        eprintln!("SKIPPED: {why}");
    }
    let is_ignored = ground.is_err() && !must;
    let test = move || -> Result<(), Failed> {
        any_node_may_be_killed_cut_off_or_stand_still(ground?);
        Ok(())
    };
    let tests = vec![
        Trial::test("any_node_may_be_killed_cut_off_or_stand_still", test).with_ignored_flag(is_ignored),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// What clusters stand on, or what of it is missing.
fn ground() -> Result<Binaries, &'static str> {
    if !whimbrel_cluster::redis_is_there() {
        return Err("redis-server is missing: run `apt-get install redis-server`");
    }
    Binaries::beside_this_program().ok_or("nothing in target/tikv: run `cargo xtask tikv` where Go is")
}

fn any_node_may_be_killed_cut_off_or_stand_still(binaries: Binaries) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let faults = [
        Fault::Kill(Role::AppService),
        Fault::Kill(Role::Gateway),
        Fault::Kill(Role::Router),
        Fault::CutFromStore,
        // The last: it owes pushes and rows of what it committed, to those who took it for dead.
        Fault::Stop(Role::AppService, LONG),
    ];
    let terms = Terms {
        planted: false,
        settled_within: SETTLED_WITHIN,
    };
    let start = async |folder: &std::path::Path| Deployed::start(folder, binaries);
    let verdict = runtime.block_on(run::judge(start, &faults, terms));
    verdict.expect_unbroken();
}
