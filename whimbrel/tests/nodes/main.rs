//! Several nodes of each role as processes of their own, over a Redis and over what speaks TiKV's protocol: SDK clients chat
//! through them while one after the other is killed, cut off from the store, or stands still for longer than its lease, and in the end everything
//! they were told must be true. And a process that stands still while another one takes its name.
//!
//! Where there is no `redis-server`, or for the first nothing in `target/tikv`, the tests are shown as ignored; with `CI=true` they fail, so that
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
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod names;
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#[expect(dead_code, reason = "of what tests share this one needs a part")]
#[path = "../many/role.rs"]
mod role;
#[path = "../crash/run.rs"]
mod run;
#[path = "../support/token.rs"]
mod token;
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#[path = "../support/waits.rs"]
mod waits;

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
    let (redis, ground) = (redis(), ground());
    let must = std::env::var("CI").is_ok_and(|value| value == "true");
    if let (Err(why), false) = (&ground, must) {
        eprintln!("SKIPPED: {why}");
    }
    let (no_redis, no_ground) = (redis.is_err() && !must, ground.is_err() && !must);
    let suffering = move || -> Result<(), Failed> {
        any_node_may_be_killed_cut_off_or_stand_still(ground?);
        Ok(())
    };
    let woken = move || -> Result<(), Failed> {
        redis?;
        runtime().block_on(names::of_a_woken_process_and_the_one_that_took_its_name_the_later_stays());
        Ok(())
    };
    let tests = vec![
        Trial::test("any_node_may_be_killed_cut_off_or_stand_still", suffering).with_ignored_flag(no_ground),
        Trial::test(
            "of_a_woken_process_and_the_one_that_took_its_name_the_later_stays",
            woken,
        )
        .with_ignored_flag(no_redis),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// Whether this machine has a Redis.
fn redis() -> Result<(), &'static str> {
    if !whimbrel_cluster::redis_is_there() {
        return Err("redis-server is missing: run `apt-get install redis-server`");
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// What clusters stand on, or what of it is missing.
fn ground() -> Result<Binaries, &'static str> {
    redis()?;
    Binaries::beside_this_program().ok_or("nothing in target/tikv: run `cargo xtask tikv` where Go is")
}

fn any_node_may_be_killed_cut_off_or_stand_still(binaries: Binaries) {
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
    let verdict = runtime().block_on(run::judge(start, &faults, terms));
    verdict.expect_unbroken();
}
