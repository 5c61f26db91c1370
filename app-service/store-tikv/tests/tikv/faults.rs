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
use whimbrel_store_tikv::limits::LOCK_LIFE;
use whimbrel_tikv_cluster::{Binaries, Cluster, FaultProxy, Loss, Options, Part};

use crate::{config, open, prefix, raw, trial};

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
            Expected::Either,
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
    /// Unknown, and it may be there: the client goes on sending what it was about to send for some seconds, and whoever reads
    /// comes before that or after it.
    Either,
}

/// Two nodes' stores on a cluster of its own behind proxies.
struct Field {
    cluster: Arc<Cluster>,
    store: Arc<TikvStore>,
    beside: Arc<TikvStore>,
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
        let beside = open(config(vec![cluster.pd_address().to_string()])).await;
        Self {
            cluster: Arc::new(cluster),
            store,
            beside,
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
            Expected::Applied | Expected::Nothing | Expected::Either => {
                assert!(matches!(commit, Commit::Unknown(_)), "{commit:?}");
            }
        }
        self.stores().heal();

        // One read at a new snapshot tells, and what it tells stays.
        let mut told = match expected {
            Expected::Committed | Expected::Applied => Some(Some(Bytes::from("v"))),
            Expected::Nothing => Some(None),
            Expected::Either => None,
        };
        for _ in 0..2 {
            let snapshot = ready_snapshot(&self.store).await;
            let values = read(&*snapshot, &[key.clone(), other.clone()]).await;
            let there = told.get_or_insert_with(|| values[0].clone());
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
/// A request that is held for longer than others wait for its sender's locks, and not as long as these live.
const STILL_MS: std::ops::Range<u64> = 1_200..2_500;
/// So many faults are followed by somebody's death.
const DEATHS: f64 = 0.2;

/// Tasks of two nodes add one to two counters, in one batch with a key of the operation's own; a proxy fails by the seed, and
/// the dead leave locks behind, with their primary or without. So transactions are pushed out of the way, of the dead and of those
/// who only stood still. An unknown outcome is resolved by the operation's key. In the end the counters are equal, and
/// count each operation once.
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
                let store = [&field.store, &field.beside][task % 2];
                for number in 0..INCREMENTS {
                    increment(&field, store, &format!("op-{task}-{number}")).await;
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
    let pushed_out = field.store.locks_pushed_out() + field.beside.locks_pushed_out();
    assert!(pushed_out > 0, "the first of the dead is in everybody's way");
}

/// Locks one or both of the counters as one who dies then, unless another's lock is there.
async fn die(field: &Field, with_primary: bool) -> bool {
    let endpoint = field.cluster.pd_address().to_string();
    let cluster = field.store.cluster();
    let (low, high) = (field.key("a-counter"), field.key("z-counter"));
    let started = raw::now(&endpoint).await;
    let ms = u64::try_from(LOCK_LIFE.as_millis()).unwrap();
    let locked = raw::try_lock(&endpoint, cluster, (&high, &low), started, ms).await;
    if locked && with_primary {
        raw::try_lock(&endpoint, cluster, (&low, &low), started, ms).await;
    }
    locked
}

async fn increment(field: &Field, store: &TikvStore, operation: &str) {
    let (low, high) = (field.key("a-counter"), field.key("z-counter"));
    let operation = field.key(operation);
    loop {
        let snapshot = ready_snapshot(store).await;
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
        match store.commit(batch).await {
            Commit::Committed => return,
            // The operation's key tells.
            Commit::Unknown(_) | Commit::Conflict(_) | Commit::Refused(StoreError::NotReady { .. }) => {}
            Commit::Refused(StoreError::Backend { .. }) => {}
            Commit::Refused(error) => panic!("{error}"),
        }
    }
}

async fn storm(field: &Field, done: &AtomicBool, mut rng: StdRng) {
    while !die(field, rng.random_bool(0.5)).await {}
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
        let mut lasting = 50..400;
        match rng.random_range(0..7) {
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
            5 => proxy.lose(
                Loss::Request,
                field.prefix.as_bytes(),
                rng.random_range(0..4),
                false,
            ),
            _ => {
                proxy.hold(field.prefix.as_bytes(), rng.random_range(0..4));
                if rng.random_bool(0.5) {
                    lasting = STILL_MS;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(lasting))).await;
        proxy.heal();
        if rng.random_bool(DEATHS) {
            die(field, rng.random_bool(0.5)).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
    }
    for part in [Part::Pd, Part::Store] {
        field.cluster.proxy(part).heal();
    }
}
