//! Several nodes of each role as processes of their own, over a Redis and over what speaks TiKV's protocol: SDK clients chat
//! through them while one after the other is killed, told to end, cut off from the store, or stands still for longer than its lease, while
//! Redis is emptied, stands still or cannot be reached, and while nodes are added; in the end everything they were told must be true. And
//! a process that stands still while another one takes its name.
//!
//! Where there is no `redis-server`, or, for all but the last, nothing in `target/tikv`, the tests are shown as ignored; with `CI=true` they fail, so that
//! nothing passes unseen. The story of a run and its judge are those of the crash tests of one machine.
#![expect(
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why it is skipped"
)]

mod added;
mod cluster;
#[path = "../crash/device.rs"]
mod device;
mod found;
#[path = "../crash/ledger.rs"]
mod ledger;
#[path = "../crash/load.rs"]
mod load;
mod metrics;
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod names;
mod people;
mod redis;
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
use whimbrel_cluster::{Member, Role, Shape};
use whimbrel_tikv_cluster::Binaries;

use cluster::{Deployed, Fault, Nodes};
use redis::Loss;
use run::{SETTLED_WITHIN, Terms};

/// Of each role as many as show that another one takes over, where one can.
const SHAPE: Shape = Shape {
    lbs: 1,
    gateways: 2,
    routers: 1,
    service_nodes: 2,
};
/// Either zone has a router, so that the service nodes of both get work.
const WIDER: Shape = Shape { routers: 2, ..SHAPE };

/// Longer than a service node's lease (9 s): the others have given up on it, and it does not know.
const LONG: Duration = Duration::from_secs(10);

/// Its name, and what it does over what clusters stand on.
type Test = (&'static str, fn(Binaries));

fn main() -> ExitCode {
    // Programs of a cluster are started through this one.
    whimbrel_cluster::hold().expect("it becomes what it was told to");
    let (redis, ground) = (redis(), ground());
    let must = std::env::var("CI").is_ok_and(|value| value == "true");
    if let (Err(why), false) = (&ground, must) {
        eprintln!("SKIPPED: {why}");
    }
    let (no_redis, no_ground) = (redis.is_err() && !must, ground.is_err() && !must);
    let woken = move || -> Result<(), Failed> {
        redis?;
        runtime().block_on(names::of_a_woken_process_and_the_one_that_took_its_name_the_later_stays());
        Ok(())
    };
    let woken = Trial::test(
        "of_a_woken_process_and_the_one_that_took_its_name_the_later_stays",
        woken,
    );
    let tests: [Test; 5] = [
        (
            "any_node_may_be_killed_cut_off_or_stand_still",
            any_node_may_be_killed_cut_off_or_stand_still,
        ),
        (
            "a_node_that_is_told_to_end_under_load_fails_no_send",
            a_node_that_is_told_to_end_under_load_fails_no_send,
        ),
        (
            "whoever_is_there_chats_on_whatever_becomes_of_redis",
            whoever_is_there_chats_on_whatever_becomes_of_redis,
        ),
        (
            "a_node_added_under_load_carries_its_share_within_30_s",
            a_node_added_under_load_carries_its_share_within_30_s,
        ),
        (
            "nodes_find_each_other_in_redis_and_whatever_is_killed_is_found_again",
            found::nodes_find_each_other_in_redis,
        ),
    ];
    let trial = |(name, test): Test| {
        let ground = ground.clone();
        let run = move || -> Result<(), Failed> {
            test(ground?);
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(no_ground)
    };
    let mut arguments = Arguments::from_args();
    // Each has a dozen processes of its own.
    arguments.test_threads.get_or_insert(1);
    let tests = tests.into_iter().map(trial);
    let tests = tests.chain([woken.with_ignored_flag(no_redis)]).collect();
    libtest_mimic::run(&arguments, tests).exit_code()
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

/// Lets all of it happen to a cluster of these nodes under load, one after the other, and judges it.
fn suffers(binaries: Binaries, nodes: Nodes, faults: &[Fault]) {
    let terms = Terms {
        planted: false,
        settled_within: SETTLED_WITHIN,
    };
    let start = async |folder: &std::path::Path| Deployed::start(folder, binaries, nodes);
    let verdict = runtime().block_on(run::judge(start, faults, terms));
    verdict.expect_unbroken();
}

fn all_of(shape: Shape) -> Nodes {
    Nodes {
        shape,
        held_back: Vec::new(),
        proxies: true,
    }
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
    suffers(binaries, all_of(SHAPE), &faults);
}

fn a_node_that_is_told_to_end_under_load_fails_no_send(binaries: Binaries) {
    let each = [Role::AppService, Role::Gateway, Role::Router].map(Fault::Drain);
    suffers(binaries, all_of(WIDER), &[each, each].concat());
}

fn whoever_is_there_chats_on_whatever_becomes_of_redis(binaries: Binaries) {
    let faults = [Loss::Paused, Loss::CutOff, Loss::Wiped, Loss::Restarted].map(Fault::Redis);
    suffers(binaries, all_of(WIDER), &faults);
}

fn a_node_added_under_load_carries_its_share_within_30_s(binaries: Binaries) {
    let shape = Shape {
        service_nodes: WIDER.service_nodes + 1,
        gateways: WIDER.gateways + 1,
        ..WIDER
    };
    let last = |role| Member {
        role,
        nth: shape.of(role) - 1,
    };
    let nodes = Nodes {
        held_back: [Role::AppService, Role::Gateway].map(last).to_vec(),
        ..all_of(shape)
    };
    // One may be taken out again: and at the last of them nobody begins anything.
    let faults = [
        Fault::Add(Role::AppService),
        Fault::Add(Role::Gateway),
        Fault::Drain(Role::AppService),
    ];
    suffers(binaries, nodes, &faults);
}
