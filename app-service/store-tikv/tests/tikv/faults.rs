//! Single requests and answers lost, and a storm of everything, through the proxy.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use libtest_mimic::Trial;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use whimbrel_store::conformance::Seed;
use whimbrel_store::{Batch, Commit, Snapshot, Store as _, StoreError};
use whimbrel_store_tikv::TikvStore;
use whimbrel_tikv_cluster::{Binaries, Cluster, FaultProxy, Loss, Options, Part};

use crate::{config, open, prefix, trial};

pub(crate) fn trials(binaries: &Binaries) -> Vec<Trial> {
    // What is lost, of the first request that carries the key (locks are taken) or the second (it is committed), and
    // whether the way stays closed.
    let cases = [
        (
            "the_answer_to_locking",
            Loss::Answer,
            0,
            false,
            Expected::Committed,
        ),
        (
            "the_answer_to_the_commit",
            Loss::Answer,
            1,
            false,
            Expected::Committed,
        ),
        (
            "the_request_to_lock",
            Loss::Request,
            0,
            false,
            Expected::Committed,
        ),
        (
            "the_request_to_commit",
            Loss::Request,
            1,
            false,
            Expected::Committed,
        ),
        (
            "the_answer_to_locking_and_the_way",
            Loss::Answer,
            0,
            true,
            Expected::Nothing,
        ),
        (
            "the_answer_to_the_commit_and_the_way",
            Loss::Answer,
            1,
            true,
            Expected::Applied,
        ),
        (
            "the_request_to_lock_and_the_way",
            Loss::Request,
            0,
            true,
            Expected::Nothing,
        ),
        (
            "the_request_to_commit_and_the_way",
            Loss::Request,
            1,
            true,
            Expected::Nothing,
        ),
    ];
    let mut trials: Vec<Trial> = cases
        .into_iter()
        .map(|(name, loss, passing, closed, expected)| {
            let binaries = binaries.clone();
            trial(format!("lost::{name}"), move || async move {
                let field = Field::new(binaries).await;
                field.lose_one(loss, passing, closed, expected).await;
            })
        })
        .collect();
    let binaries = binaries.clone();
    trials.push(trial(
        "faults::a_storm_counts_every_increment_once",
        move || async move {
            a_storm_counts_every_increment_once(Field::new(binaries).await).await;
        },
    ));
    trials
}

/// What must be so afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The client tried again and found out.
    Committed,
    /// Unknown, and it turns out to be there.
    Applied,
    /// Unknown, and it turns out not to be there.
    Nothing,
}

/// A store on a cluster of its own behind proxies.
struct Field {
    cluster: Arc<Cluster>,
    store: Arc<TikvStore>,
    prefix: String,
}

impl Field {
    async fn new(binaries: Binaries) -> Self {
        let options = Options {
            proxies: true,
            ..Options::default()
        };
        let cluster = Cluster::start(binaries, options).unwrap();
        let store = open(config(vec![cluster.pd_address().to_string()])).await;
        Self {
            cluster: Arc::new(cluster),
            store,
            prefix: prefix(),
        }
    }

    fn key(&self, name: &str) -> Bytes {
        Bytes::from(format!("{}{name}", self.prefix))
    }

    fn stores(&self) -> &FaultProxy {
        self.cluster.proxy(Part::Store)
    }

    async fn lose_one(&self, loss: Loss, passing: usize, closed: bool, expected: Expected) {
        let (key, other) = (self.key("key"), self.key("other"));
        self.stores().lose(loss, &key, passing, closed);
        let mut batch = Batch::blind();
        batch.insert(key.clone(), "v").put(other.clone(), "v");
        let commit = self.store.commit(batch).await;
        assert_eq!(self.stores().losses(), 1, "the fault struck");
        match expected {
            Expected::Committed => assert!(commit.is_committed(), "{commit:?}"),
            Expected::Applied | Expected::Nothing => {
                assert!(matches!(commit, Commit::Unknown(_)), "{commit:?}");
            }
        }
        self.stores().heal();

        // One read at a new snapshot tells, and what it tells stays.
        let there = (expected != Expected::Nothing).then(|| Bytes::from("v"));
        for _ in 0..2 {
            let snapshot = ready_snapshot(&self.store).await;
            let values = read(&*snapshot, &[key.clone(), other.clone()]).await;
            assert_eq!(values, [there.clone(), there.clone()]);
        }
        let mut batch = Batch::blind();
        batch.put(key.clone(), "later");
        let commit = self.store.commit(batch).await;
        assert!(commit.is_committed(), "the key is usable: {commit:?}");
    }
}

/// A snapshot, as soon as there is one again.
async fn ready_snapshot(store: &TikvStore) -> Arc<dyn Snapshot> {
    loop {
        match store.snapshot().await {
            Ok(snapshot) => return snapshot,
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Values, as soon as they can be read again.
async fn read(snapshot: &dyn Snapshot, keys: &[Bytes]) -> Vec<Option<Bytes>> {
    loop {
        match snapshot.multi_get(keys).await {
            Ok(values) => return values,
            Err(StoreError::Backend { .. } | StoreError::NotReady { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

const TASKS: usize = 4;
const INCREMENTS: usize = 30;
const FAULTS: usize = 40;

/// Tasks add one to two counters, in one batch with a key of the operation's own; a proxy fails by the seed. An unknown
/// outcome is resolved by the operation's key. In the end the counters are equal, and count each operation once.
async fn a_storm_counts_every_increment_once(field: Field) {
    let seed = Seed::from_env();
    let field = Arc::new(field);
    let done = Arc::new(AtomicBool::new(false));
    let storm = {
        let (field, done) = (Arc::clone(&field), Arc::clone(&done));
        let rng = StdRng::seed_from_u64(seed.0);
        tokio::spawn(async move { storm(&field, &done, rng).await })
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let field = Arc::clone(&field);
            tokio::spawn(async move {
                for number in 0..INCREMENTS {
                    increment(&field, &format!("op-{task}-{number}")).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    storm.await.unwrap();

    let snapshot = ready_snapshot(&field.store).await;
    let counters = read(&*snapshot, &[field.key("a-counter"), field.key("z-counter")]).await;
    let total = Bytes::from((TASKS * INCREMENTS).to_string());
    assert_eq!(counters, [Some(total.clone()), Some(total)]);
}

async fn increment(field: &Field, operation: &str) {
    let (low, high) = (field.key("a-counter"), field.key("z-counter"));
    let operation = field.key(operation);
    loop {
        let snapshot = ready_snapshot(&field.store).await;
        let keys = [low.clone(), high.clone(), operation.clone()];
        let values = read(&*snapshot, &keys).await;
        assert_eq!(values[0], values[1], "no snapshot shows half a batch");
        if values[2].is_some() {
            return;
        }
        let count: usize = values[0]
            .as_ref()
            .map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap());
        let next = (count + 1).to_string();
        let mut batch = Batch::at(&*snapshot);
        batch
            .put(low.clone(), next.clone())
            .put(high.clone(), next)
            .insert(operation.clone(), "done");
        match field.store.commit(batch).await {
            Commit::Committed => return,
            // The operation's key tells.
            Commit::Unknown(_) | Commit::Conflict(_) | Commit::Refused(StoreError::NotReady { .. }) => {}
            Commit::Refused(StoreError::Backend { .. }) => {}
            Commit::Refused(error) => panic!("{error}"),
        }
    }
}

async fn storm(field: &Field, done: &AtomicBool, mut rng: StdRng) {
    for _ in 0..FAULTS {
        if done.load(Ordering::SeqCst) {
            break;
        }
        let part = if rng.random_bool(0.8) {
            Part::Store
        } else {
            Part::Pd
        };
        let proxy = field.cluster.proxy(part);
        match rng.random_range(0..6) {
            0 => proxy.cut(),
            1 => proxy.refuse(),
            2 => proxy.freeze(),
            3 => proxy.delay(Duration::from_millis(rng.random_range(1..30))),
            4 => proxy.lose(
                Loss::Answer,
                field.prefix.as_bytes(),
                rng.random_range(0..4),
                false,
            ),
            _ => proxy.lose(
                Loss::Request,
                field.prefix.as_bytes(),
                rng.random_range(0..4),
                false,
            ),
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
        proxy.heal();
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
    }
    for part in [Part::Pd, Part::Store] {
        field.cluster.proxy(part).heal();
    }
}
