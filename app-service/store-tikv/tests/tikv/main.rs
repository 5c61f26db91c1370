//! The store over TiKV's protocol: the conformance suite on a cluster, the suite again and more through a proxy that fails,
//! and what only this backend does.
//!
//! The cluster is the one whose PD `WHIMBREL_TEST_PD` names (`host:port`, several by commas; a real TiKV too: everything is
//! written under prefixes of its own, which stay), for all that needs no say over it; otherwise, and for the rest, the test
//! processes that `cargo xtask tikv` builds. Where neither is there all of it is ignored, and with `CI=true` it fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

// Its derive macros name it so.
extern crate prost_tikv as prost;

mod committer;
mod conformance;
mod faults;
mod identity;
mod locks;
mod outages;
mod raw;
mod woken;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libtest_mimic::{Arguments, Failed, Trial};
use whimbrel_store::Epoch;
use whimbrel_store_tikv::{TikvConfig, TikvStore};
use whimbrel_tikv_cluster::{Binaries, Cluster, Options};

const EPOCH: Epoch = Epoch([7; 16]);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match Ground::find() {
        Some(ground) => {
            let ground = Arc::new(ground);
            let mut trials = conformance::direct(&ground);
            trials.extend(identity::trials(&ground));
            trials.extend(locks::trials(&ground));
            if let Some(binaries) = &ground.binaries {
                trials.extend(conformance::through_a_slow_network(binaries));
                trials.extend(faults::trials(binaries));
                trials.extend(outages::trials(binaries));
                trials.extend(woken::trials(binaries));
                trials.extend(committer::trials(binaries));
            } else {
                trials.push(absent("faults"));
            }
            trials
        }
        None => vec![absent("all")],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Says in the list of tests what did not run and why; a failure where nothing may be skipped.
fn absent(what: &'static str) -> Trial {
    const WHY: &str = "no WHIMBREL_TEST_PD and nothing in target/tikv: run `cargo xtask tikv` where Go is";
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        return Trial::test(what, || Err(Failed::from(WHY)));
    }
    Trial::test(format!("{what} ({WHY})"), || Ok(())).with_ignored_flag(true)
}

/// Where tests run.
pub(crate) struct Ground {
    /// PD, where it is not ours.
    given: Vec<String>,
    /// The programs of which clusters can be started.
    binaries: Option<Binaries>,
    /// The cluster that tests share which need no say over it.
    shared: Option<Cluster>,
}

impl Ground {
    fn find() -> Option<Self> {
        let given: Vec<String> = std::env::var("WHIMBREL_TEST_PD").map_or_else(
            |_| Vec::new(),
            |list| {
                list.split(',')
                    .map(|endpoint| endpoint.trim().to_owned())
                    .collect()
            },
        );
        let binaries = Binaries::beside_this_program();
        let shared = match &binaries {
            Some(binaries) if given.is_empty() => {
                Some(Cluster::start(binaries.clone(), Options::default()).unwrap())
            }
            _ => None,
        };
        (!given.is_empty() || shared.is_some()).then_some(Self {
            given,
            binaries,
            shared,
        })
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        match &self.shared {
            Some(cluster) => vec![cluster.pd_address().to_string()],
            None => self.given.clone(),
        }
    }

    /// A place of its own in the shared cluster.
    pub(crate) fn config(&self) -> TikvConfig {
        config(self.endpoints())
    }
}

/// A configuration with a prefix that nothing else uses.
pub(crate) fn config(endpoints: Vec<String>) -> TikvConfig {
    let mut config = TikvConfig::new(endpoints, "test");
    config.own_prefix = Bytes::from(format!("w\0s-test-{:032x}-", rand::random::<u128>()));
    config.connect_within = Duration::from_secs(10);
    config.clients = 2;
    config.keep_history = None;
    config
}

/// A prefix of keys that nothing else uses.
pub(crate) fn prefix() -> String {
    format!("wtest-{:032x}-", rand::random::<u128>())
}

pub(crate) async fn open(config: TikvConfig) -> Arc<TikvStore> {
    Arc::new(TikvStore::open(config, EPOCH).await.unwrap())
}

/// An async test of something.
pub(crate) type Test<S> = fn(S) -> Pin<Box<dyn Future<Output = ()>>>;

/// A trial of an async test, on a runtime of its own.
pub(crate) fn trial<F, T>(name: impl Into<String>, test: T) -> Trial
where
    T: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()>,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(test());
        Ok(())
    })
}
