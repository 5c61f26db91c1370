//! Random histories against a model, and many writers at once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a check fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Seed, Subject};
use crate::{Batch, Commit, Direction, Op, Snapshot};

/// Steps of one random history.
const STEPS: usize = 400;

/// Few keys, so that histories meet.
const KEYS: u32 = 12;

/// What the store should hold.
#[derive(Default)]
struct Model {
    rows: BTreeMap<Bytes, Bytes>,
    /// Number of commits so far.
    clock: usize,
    written: BTreeMap<Bytes, usize>,
    guarded: BTreeMap<Bytes, usize>,
}

/// A snapshot of the store, with what it should show.
struct Held {
    snapshot: Arc<dyn Snapshot>,
    rows: BTreeMap<Bytes, Bytes>,
    clock: usize,
    /// Batches that were committed at it.
    commits: usize,
}

impl Model {
    /// The keys that must conflict, and those that also may: concurrent guards are left to the backend.
    fn conflicts(&self, batch: &Batch, since: Option<usize>) -> (BTreeSet<Bytes>, BTreeSet<Bytes>) {
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        for (key, op) in batch.iter() {
            let after = |times: &BTreeMap<Bytes, usize>| {
                since.is_some_and(|since| times.get(key).is_some_and(|&time| time > since))
            };
            if after(&self.written) || matches!(op, Op::Insert(_)) && self.rows.contains_key(key) {
                must.insert(key.clone());
            } else if after(&self.guarded) {
                may.insert(key.clone());
            }
        }
        (must, may)
    }

    fn apply(&mut self, batch: Batch) {
        self.clock += 1;
        for (key, op) in batch.into_ops() {
            let times = if op.is_write() {
                &mut self.written
            } else {
                &mut self.guarded
            };
            times.insert(key.clone(), self.clock);
            match op {
                Op::Put(value) | Op::Insert(value) => _ = self.rows.insert(key, value),
                Op::Delete => _ = self.rows.remove(&key),
                Op::Guard => {}
            }
        }
    }
}

/// Random batches at random snapshots conflict or commit as the model says, and every snapshot keeps showing
/// what it showed.
pub async fn random_histories_match_the_model(on: &Subject) {
    let seed = Seed::from_env();
    let mut rng = StdRng::seed_from_u64(seed.0);
    let mut model = Model::default();
    let mut held: Vec<Held> = Vec::new();
    for step in 0..STEPS {
        if held.is_empty() || rng.random_bool(0.3) {
            if held.len() == 5 {
                held.swap_remove(rng.random_range(0..5));
            }
            let snapshot = on.snapshot().await;
            held.push(Held {
                snapshot,
                rows: model.rows.clone(),
                clock: model.clock,
                commits: 0,
            });
        }
        let chosen = rng.random_range(0..held.len());
        let base = &mut held[chosen];
        let blind = rng.random_bool(0.2);
        base.commits += usize::from(!blind);
        let used_up = base.commits == on.commits_per_snapshot;
        let mut batch = if blind {
            Batch::blind()
        } else {
            Batch::at(&*base.snapshot)
        };
        random_operations(on, &mut rng, &mut batch, blind, step);

        let (must, may) = model.conflicts(&batch, (!blind).then_some(base.clock));
        match on.store.commit(batch.clone()).await {
            Commit::Committed => {
                assert!(must.is_empty(), "step {step}: {batch:?} should have met {must:?}");
                model.apply(batch);
            }
            Commit::Conflict(keys) => {
                let named: BTreeSet<_> = keys.into_iter().collect();
                assert!(!named.is_empty(), "step {step}: a conflict without a key");
                assert!(
                    named.iter().all(|key| must.contains(key) || may.contains(key)),
                    "step {step}: {batch:?} named {named:?}, expected {must:?} or {may:?}"
                );
            }
            other => panic!("step {step}: {other:?}"),
        }
        let checked = &held[rng.random_range(0..held.len())];
        check_reads(on, &mut rng, checked, step).await;
        if used_up {
            held.swap_remove(chosen);
        }
    }
}

fn random_operations(on: &Subject, rng: &mut StdRng, batch: &mut Batch, blind: bool, step: usize) {
    let mut used = BTreeSet::new();
    for _ in 0..rng.random_range(1..5) {
        let number = rng.random_range(0..KEYS);
        if !used.insert(number) {
            continue;
        }
        let key = on.key(&format!("r{number:02}"));
        match rng.random_range(0..if blind { 3 } else { 4 }) {
            0 => batch.put(key, format!("put {step}")),
            1 => batch.insert(key, format!("insert {step}")),
            2 => batch.delete(key),
            _ => batch.guard(key),
        };
    }
}

async fn check_reads(on: &Subject, rng: &mut StdRng, held: &Held, step: usize) {
    let key = on.key(&format!("r{:02}", rng.random_range(0..KEYS)));
    let value = held.snapshot.get(&key).await.unwrap();
    assert_eq!(value.as_ref(), held.rows.get(&key), "step {step}: {key:?}");

    let limit = rng.random_range(1..=KEYS as usize);
    let reverse = rng.random_bool(0.5);
    let direction = if reverse {
        Direction::Reverse
    } else {
        Direction::Forward
    };
    let page = held.snapshot.scan(on.range("r"), limit, direction).await.unwrap();
    let rows = held.rows.iter().map(|(key, value)| (key.clone(), value.clone()));
    let expected: Vec<_> = if reverse {
        rows.rev().take(limit).collect()
    } else {
        rows.take(limit).collect()
    };
    assert_eq!(page.entries, expected, "step {step}");
    assert_eq!(page.has_more(), held.rows.len() > limit, "step {step}");
}

/// Read, add one, commit, retry on conflict, from many tasks: no increment is lost or counted twice.
pub async fn concurrent_increments_are_all_counted(on: &Subject) {
    const TASKS: usize = 8;
    const INCREMENTS: usize = 40;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let on = on.clone();
            tokio::spawn(async move {
                for i in 0..INCREMENTS {
                    increment(&on, (task + i) % 2).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut total = 0;
    for counter in ["counter0", "counter1"] {
        let value = on.read(counter).await.unwrap();
        total += std::str::from_utf8(&value).unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(total, TASKS * INCREMENTS);
}

async fn increment(on: &Subject, counter: usize) {
    let key = on.key(&format!("counter{counter}"));
    loop {
        let snapshot = on.snapshot().await;
        let count = match snapshot.get(&key).await.unwrap() {
            Some(value) => std::str::from_utf8(&value).unwrap().parse().unwrap(),
            None => 0usize,
        };
        let mut batch = Batch::at(&*snapshot);
        batch.put(key.clone(), (count + 1).to_string());
        match on.store.commit(batch).await {
            Commit::Committed => return,
            Commit::Conflict(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Writers put one value under two keys; no snapshot ever shows them different.
pub async fn snapshots_never_see_half_a_batch(on: &Subject) {
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let on = on.clone();
            tokio::spawn(async move {
                for i in 0..60 {
                    let value = format!("{writer}-{i}");
                    let commit = on
                        .commit(|b| {
                            b.put(on.key("left"), value.clone()).put(on.key("right"), value);
                        })
                        .await;
                    assert!(commit.is_committed() || matches!(commit, Commit::Conflict(_)));
                }
            })
        })
        .collect();
    let reader = {
        let on = on.clone();
        tokio::spawn(async move {
            let keys = [on.key("left"), on.key("right")];
            for _ in 0..300 {
                let values = on.snapshot().await.multi_get(&keys).await.unwrap();
                assert_eq!(values[0], values[1]);
                tokio::task::yield_now().await;
            }
        })
    };
    for task in writers.into_iter().chain([reader]) {
        task.await.unwrap();
    }
}
