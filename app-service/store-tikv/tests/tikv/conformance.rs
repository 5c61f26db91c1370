//! The suite of every backend.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libtest_mimic::Trial;
use whimbrel_store::conformance::{Subject, checks};
use whimbrel_store_tikv::TikvConfig;
use whimbrel_store_tikv::limits::COMMITS_PER_SNAPSHOT;
use whimbrel_tikv_cluster::{Binaries, Cluster, Options, Part};

use crate::{Ground, config, open, prefix, trial};

/// Held back on each way, at the placement driver and at the store.
const SLOW: Duration = Duration::from_millis(2);

async fn subject(config: TikvConfig) -> Subject {
    Subject::new(open(config).await, prefix()).with_commits_per_snapshot(COMMITS_PER_SNAPSHOT)
}

pub(crate) fn direct(ground: &Arc<Ground>) -> Vec<Trial> {
    let each = |(name, check): (&'static str, whimbrel_store::conformance::Check)| {
        let ground = Arc::clone(ground);
        trial(format!("conformance::{name}"), move || async move {
            check(subject(ground.config()).await).await;
        })
    };
    checks().into_iter().map(each).collect()
}

pub(crate) fn through_a_slow_network(binaries: &Binaries) -> Vec<Trial> {
    let cluster: Arc<OnceLock<Cluster>> = Arc::default();
    let each = |(name, check): (&'static str, whimbrel_store::conformance::Check)| {
        let (cluster, binaries) = (Arc::clone(&cluster), binaries.clone());
        trial(format!("slow_network::{name}"), move || async move {
            let cluster = cluster.get_or_init(|| {
                let options = Options {
                    proxies: true,
                    ..Options::default()
                };
                let cluster = Cluster::start(binaries, options).unwrap();
                for part in [Part::Pd, Part::Store] {
                    cluster.proxy(part).delay(SLOW);
                }
                cluster
            });
            check(subject(config(vec![cluster.pd_address().to_string()])).await).await;
        })
    };
    checks().into_iter().map(each).collect()
}
