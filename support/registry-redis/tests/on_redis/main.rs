//! The registry on real Redis servers that these tests start: the conformance suite, and what happens when they fail.
//!
//! Where there is no `redis-server` the tests are shown as ignored; with `CI=true` they fail, so that nothing passes unseen.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why it is skipped"
)]

mod cutting;
mod faults;
mod harness;
mod rights;
mod server;
mod together;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use whimbrel_registry::conformance;

use crate::harness::{Admin, OnRedis};
use crate::server::{Cluster, STANDSTILL_MAX_MS, Server, Watched};

fn main() -> ExitCode {
    let is_there = server::is_there();
    let must = std::env::var("CI").is_ok_and(|value| value == "true");
    let trial = |(name, test): (&str, fn())| {
        let run = move || -> Result<(), Failed> {
            if !is_there {
                return Err("redis-server is missing: run `apt-get install redis-server`".into());
            }
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(!is_there && !must)
    };
    let own: [(&str, fn()); 3] = [
        ("a_single_server_is_a_registry", a_single_server_is_a_registry),
        ("a_cluster_is_a_registry", a_cluster_is_a_registry),
        (
            "a_master_behind_sentinels_is_a_registry",
            a_master_behind_sentinels_is_a_registry,
        ),
    ];
    let tests = own
        .into_iter()
        .chain(cutting::TESTS)
        .chain(faults::TESTS)
        .chain(rights::TESTS)
        .chain(together::TESTS);
    let tests = tests.map(trial).collect();
    if !is_there && !must {
        eprintln!("SKIPPED: redis-server is missing: run `apt-get install redis-server`");
    }
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// Runs a test's async part.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

pub(crate) async fn conform(url: String, admin: Admin) {
    let cluster = String::new();
    let mut harness = OnRedis { url, admin, cluster };
    conformance::run(&mut harness).await;
}

pub(crate) async fn admin_of(server: &Server) -> Admin {
    let client = redis::Client::open(server.url()).unwrap();
    Admin::One(client.get_multiplexed_async_connection().await.unwrap())
}

pub(crate) async fn admin_of_cluster(cluster: &Cluster) -> Admin {
    let nodes = cluster.masters.iter().map(Server::url);
    let client = redis::cluster::ClusterClient::new(nodes.collect::<Vec<_>>()).unwrap();
    Admin::Cluster(client.get_async_connection().await.unwrap())
}

fn a_single_server_is_a_registry() {
    let server = Server::start(&["--save", ""]);
    block_on(async { conform(server.url(), admin_of(&server).await).await });
}

fn a_master_behind_sentinels_is_a_registry() {
    let watched = Watched::start(STANDSTILL_MAX_MS);
    block_on(async { conform(watched.url(), admin_of(&watched.master).await).await });
}

fn a_cluster_is_a_registry() {
    let cluster = Cluster::start();
    block_on(async { conform(cluster.url(), admin_of_cluster(&cluster).await).await });
}
