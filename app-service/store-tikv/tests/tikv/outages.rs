//! The cluster restarted, frozen, abandoned; garbage collection, which needs a cluster of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libtest_mimic::Trial;
use tikv_client::{TimestampExt as _, TransactionClient};
use whimbrel_store::{Batch, Commit, Direction, KeyRange, Readiness, Store as _, StoreError};
use whimbrel_store_tikv::limits::{
    ATTEMPT_AFTER_LOCKS, CALL_TIME_MAX, HISTORY_MIN, LOCK_LIFE, READS_LOST_AFTER,
};
use whimbrel_store_tikv::pd::Pd;
use whimbrel_store_tikv::{Collected, TikvStore};
use whimbrel_tikv_cluster::{Binaries, Cluster, Options, Part};

use crate::{Test, config, open, prefix, raw, trial};

/// Far longer than anything here should take; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn trials(binaries: &Binaries) -> Vec<Trial> {
    let with = |name: &str, proxies: bool, test: Test<Site>| {
        let binaries = binaries.clone();
        trial(format!("outages::{name}"), move || async move {
            let options = Options {
                proxies,
                ..Options::default()
            };
            let cluster = Cluster::start(binaries, options).unwrap();
            let store = open(config(vec![cluster.pd_address().to_string()])).await;
            test(Site {
                cluster,
                store,
                prefix: prefix(),
            })
            .await;
        })
    };
    vec![
        with("the_store_restarted_serves_again", false, |on| {
            Box::pin(a_part_restarted_serves_again(on, Part::Store))
        }),
        with("the_placement_driver_restarted_serves_again", false, |on| {
            Box::pin(a_part_restarted_serves_again(on, Part::Pd))
        }),
        with(
            "a_frozen_placement_driver_is_noticed_and_its_thaw_too",
            true,
            |on| Box::pin(a_frozen_placement_driver_is_noticed_and_its_thaw_too(on)),
        ),
        with(
            "a_commit_whose_timestamp_never_comes_is_given_up_when_its_locks_have_ended",
            true,
            |on| Box::pin(a_commit_whose_timestamp_never_comes_is_given_up_when_its_locks_have_ended(on)),
        ),
        with("connections_that_died_in_silence_are_replaced", true, |on| {
            Box::pin(connections_that_died_in_silence_are_replaced(on))
        }),
        with("regions_split_under_writes_and_scans_join_them", false, |on| {
            Box::pin(regions_split_under_writes_and_scans_join_them(on))
        }),
        with("one_region_that_cannot_be_read_leaves_a_node_ready", true, |on| {
            Box::pin(one_region_that_cannot_be_read_leaves_a_node_ready(on))
        }),
        with(
            "garbage_is_collected_by_one_and_held_back_by_others",
            false,
            |on| Box::pin(garbage_is_collected_by_one_and_held_back_by_others(on)),
        ),
        with(
            "a_collector_that_died_is_followed_by_another_when_its_lease_has_ended",
            false,
            |on| Box::pin(a_collector_that_died_is_followed_by_another_when_its_lease_has_ended(on)),
        ),
        with("old_locks_of_the_dead_go_with_the_garbage", false, |on| {
            Box::pin(old_locks_of_the_dead_go_with_the_garbage(on))
        }),
    ]
}

/// A timestamp of so long before another one.
fn minutes_ago(now: u64, minutes: u64) -> u64 {
    now - ((minutes * 60_000) << 18)
}

struct Site {
    cluster: Cluster,
    store: Arc<TikvStore>,
    prefix: String,
}

impl Site {
    fn key(&self, name: &str) -> Bytes {
        Bytes::from(format!("{}{name}", self.prefix))
    }

    /// One that uses the same store.
    async fn another_node(&self) -> Arc<TikvStore> {
        let mut same = config(vec![self.cluster.pd_address().to_string()]);
        same.own_prefix = self.store.own_prefix();
        open(same).await
    }

    async fn put(&self, name: &str) -> Commit {
        let mut batch = Batch::blind();
        batch.put(self.key(name), "v");
        self.store.commit(batch).await
    }

    /// Tries until `name` is written and read.
    async fn serves_again(&self, name: &str) {
        let working = async {
            loop {
                if self.put(name).await.is_committed()
                    && let Ok(snapshot) = self.store.snapshot().await
                    && let Ok(Some(_)) = snapshot.get(&self.key(name)).await
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, working).await.unwrap();
    }

    async fn readiness(&self, wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        let waiting = async {
            loop {
                let readiness = self.store.readiness();
                if wanted(&readiness) {
                    return readiness;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap()
    }
}

async fn a_part_restarted_serves_again(mut on: Site, part: Part) {
    assert!(on.put("before").await.is_committed());
    on.cluster.restart(part).unwrap();
    on.serves_again("after").await;
    let snapshot = on.store.snapshot().await.unwrap();
    let value = snapshot.get(&on.key("before")).await.unwrap();
    assert_eq!(value, Some("v".into()));
}

async fn a_frozen_placement_driver_is_noticed_and_its_thaw_too(on: Site) {
    on.cluster.proxy(Part::Pd).freeze();
    let Readiness::NotReady { reason } = on.readiness(|r| !r.serves_reads()).await else {
        unreachable!("it was waited for")
    };
    assert!(
        reason.contains(&on.cluster.pd_address().to_string()),
        "who does not answer is named: {reason}"
    );
    assert!(matches!(
        on.put("k").await,
        Commit::Refused(StoreError::NotReady { .. })
    ));
    assert!(matches!(
        on.store.snapshot().await,
        Err(StoreError::NotReady { .. })
    ));
    on.cluster.proxy(Part::Pd).heal();
    on.readiness(Readiness::serves_writes).await;
    on.serves_again("k").await;
}

/// Until then others may wait for them; afterwards whoever waits on waits in vain.
async fn a_commit_whose_timestamp_never_comes_is_given_up_when_its_locks_have_ended(on: Site) {
    assert!(on.put("before").await.is_committed());
    let snapshot = on.store.snapshot().await.unwrap();
    let mut batch = Batch::at(&*snapshot);
    batch.put(on.key("k"), "v");
    on.cluster.proxy(Part::Pd).freeze();
    let Commit::Unknown(error) = on.store.commit(batch).await else {
        unreachable!("without a timestamp nothing is committed")
    };
    let limit = LOCK_LIFE + ATTEMPT_AFTER_LOCKS;
    let said = error.to_string();
    assert!(said.contains(&format!("no outcome within {limit:?}")), "{said}");
    on.cluster.proxy(Part::Pd).heal();
    on.serves_again("k").await;
}

/// Nothing ends these connections for many minutes but the store itself.
async fn connections_that_died_in_silence_are_replaced(on: Site) {
    for part in [Part::Pd, Part::Store] {
        assert!(on.put("before").await.is_committed());
        on.cluster.proxy(part).abandon();
        on.serves_again("after").await;
    }
}

/// Entries of a batch over all of the prefix.
const ENTRIES: usize = 32;

/// Batches over all of the prefix, until its first and its last key are in different regions and so many more; gives how many.
async fn written_past_a_split(on: &Site, after_the_split: usize) -> usize {
    let endpoint = on.cluster.pd_address().to_string();
    let mut batches = 0;
    let mut left = after_the_split;
    let writing = async {
        loop {
            let region = async |key: Bytes| raw::region_id(&endpoint, on.store.cluster(), &key).await;
            if region(on.key("00")).await != region(on.key("99")).await {
                if left == 0 {
                    return;
                }
                left -= 1;
            }
            let mut batch = Batch::blind();
            for number in 0..ENTRIES {
                batch.put(on.key(&format!("{number:02}-{batches:04}")), vec![7; 2_000]);
            }
            match on.store.commit(batch).await {
                Commit::Committed => batches += 1,
                // A region that splits just now may leave the outcome open; the batch is written again.
                Commit::Conflict(_) | Commit::Unknown(_) => {}
                Commit::Refused(error) => unreachable!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, writing).await.unwrap();
    batches
}

/// The one that all clients are probed by; nobody asks for anything else meanwhile.
async fn one_region_that_cannot_be_read_leaves_a_node_ready(on: Site) {
    written_past_a_split(&on, 0).await;
    let identity = [&on.store.own_prefix()[..], b"identity"].concat();
    on.cluster.proxy(Part::Store).watch(&identity);
    on.cluster.proxy(Part::Store).lose_each(&identity);
    let begun = Instant::now();
    while begun.elapsed() < READS_LOST_AFTER + 2 * CALL_TIME_MAX {
        let readiness = on.store.readiness();
        assert!(
            readiness.serves_writes(),
            "{readiness:?} after {:?}",
            begun.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(on.cluster.proxy(Part::Store).passed(), 0);
    assert!(on.put("99-after").await.is_committed());
    on.cluster.proxy(Part::Store).heal();
}

async fn regions_split_under_writes_and_scans_join_them(on: Site) {
    let batches = written_past_a_split(&on, 10).await;
    let [short, long] = [on.store.snapshot().await, on.store.long_snapshot().await].map(Result::unwrap);
    let mut expected: Vec<_> = (0..ENTRIES)
        .flat_map(|number| (0..batches).map(move |batch| (number, batch)))
        .map(|(number, batch)| on.key(&format!("{number:02}-{batch:04}")))
        .collect();
    expected.sort();
    // A long one reads region by region.
    let ways = [
        (&short, Direction::Forward),
        (&short, Direction::Reverse),
        (&long, Direction::Forward),
    ];
    for (snapshot, direction) in ways {
        let mut keys = Vec::new();
        let mut next = Some(KeyRange::prefix(on.prefix.clone()).unwrap());
        while let Some(range) = next {
            let page = snapshot.scan(range, 300, direction).await.unwrap();
            keys.extend(page.entries.into_iter().map(|(key, _)| key));
            next = page.next;
        }
        if direction == Direction::Reverse {
            keys.reverse();
        }
        assert!(
            keys == expected,
            "{direction:?}: {} of {}",
            keys.len(),
            expected.len()
        );
    }
}

async fn garbage_is_collected_by_one_and_held_back_by_others(on: Site) {
    let endpoints = vec![on.cluster.pd_address().to_string()];
    let mut pd = Pd::connect(&endpoints).await.unwrap();
    assert_eq!(pd.cluster(), on.store.cluster());
    let client = TransactionClient::new(endpoints.clone()).await.unwrap();
    let now = client.current_timestamp().await.unwrap().version();
    let backup = minutes_ago(now, 30);
    pd.set_service_safe_point(b"backup", 600, backup).await.unwrap();

    let held = on.store.collect_garbage(HISTORY_MIN).await.unwrap();
    assert_eq!(
        held,
        Collected::UpTo {
            point: backup,
            held_by: Some("backup".to_owned())
        }
    );
    assert_eq!(pd.collected_up_to().await.unwrap(), backup);

    // Another node of the deployment leaves it to the first.
    let other = on.another_node().await;
    assert_eq!(
        other.collect_garbage(HISTORY_MIN).await.unwrap(),
        Collected::NotOurs
    );

    pd.set_service_safe_point(b"backup", 0, 0).await.unwrap();
    let Collected::UpTo { point, held_by: None } = on.store.collect_garbage(HISTORY_MIN).await.unwrap()
    else {
        unreachable!("nobody holds it back")
    };
    assert!(point >= minutes_ago(now, 5) && point < now, "{point}");
    assert_eq!(pd.collected_up_to().await.unwrap(), point);
    assert!(on.put("after").await.is_committed());

    // A long snapshot holds its moment back from every collector for as long as it is there.
    let long = on.store.long_snapshot().await.unwrap();
    let later = client.current_timestamp().await.unwrap().version();
    let least = pd.propose_collection(later).await.unwrap();
    assert!(least.service.starts_with("whimbrel-"), "{least:?}");
    assert_eq!(least.point, long.version().as_raw());
    drop(long);
    let let_go = async {
        while pd.propose_collection(later).await.unwrap().point < later {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, let_go).await.unwrap();
}

/// What is kept of the lease: who has it, and until when by PD's clock.
const LEASE_HOLDER_LEN: usize = 16;

async fn a_collector_that_died_is_followed_by_another_when_its_lease_has_ended(on: Site) {
    let is_done = |round| matches!(round, Collected::UpTo { .. });
    assert!(is_done(on.store.collect_garbage(HISTORY_MIN).await.unwrap()));
    let key = Bytes::from([&on.store.own_prefix()[..], b"collector"].concat());
    on.store.close().await;
    let (second, third) = (on.another_node().await, on.another_node().await);
    let round = async |node: &TikvStore| node.collect_garbage(HISTORY_MIN).await.unwrap();
    assert_eq!(round(&second).await, Collected::NotOurs);

    // Its time is over, as it would be after three minutes.
    let snapshot = second.snapshot().await.unwrap();
    let mut lease = snapshot.get(&key).await.unwrap().unwrap().to_vec();
    let until_ms = u64::from_be_bytes(lease[LEASE_HOLDER_LEN..].try_into().unwrap());
    let now_ms = snapshot.version().as_raw() >> 18;
    assert!(until_ms > now_ms + 60_000, "a lease lasts for more than a round");
    lease[LEASE_HOLDER_LEN..].copy_from_slice(&now_ms.to_be_bytes());
    let mut batch = Batch::at(&*snapshot);
    batch.put(key, lease);
    assert!(second.commit(batch).await.is_committed());

    assert!(is_done(round(&second).await));
    assert_eq!(
        round(&third).await,
        Collected::NotOurs,
        "one of those left has it"
    );
    assert!(is_done(round(&second).await), "and keeps it");
}

async fn old_locks_of_the_dead_go_with_the_garbage(on: Site) {
    let endpoint = on.cluster.pd_address().to_string();
    let cluster = on.store.cluster();
    let now = raw::now(&endpoint).await;
    let lock = async |name: &str, primary: &str, started: u64| {
        let (key, primary) = (on.key(name), on.key(primary));
        assert!(raw::try_lock(&endpoint, cluster, (&key, &primary), started, 3_000).await);
    };
    lock("primary", "primary", minutes_ago(now, 10)).await;
    lock("orphan", "nowhere", minutes_ago(now, 11)).await;
    let committed = minutes_ago(now, 12);
    lock("committed-primary", "committed-primary", committed).await;
    lock("committed", "committed-primary", committed).await;
    raw::commit(&endpoint, cluster, &on.key("committed-primary"), committed).await;
    // Within the history that is kept: those who meet it see to it.
    lock("young", "young", minutes_ago(now, 4)).await;

    let client = TransactionClient::new(vec![endpoint.clone()]).await.unwrap();
    let locked = async || {
        let at = client.current_timestamp().await.unwrap();
        let range = on.key("")..on.key("z");
        let range = range.start.to_vec()..range.end.to_vec();
        let locks = client.scan_locks(&at, range, 100).await.unwrap();
        let mut keys: Vec<_> = locks.into_iter().map(|lock| Bytes::from(lock.key)).collect();
        keys.sort();
        keys
    };
    let all = ["committed", "orphan", "primary", "young"].map(|name| on.key(name));
    assert_eq!(locked().await, all);
    let round = on.store.collect_garbage(HISTORY_MIN).await.unwrap();
    assert!(
        matches!(round, Collected::UpTo { held_by: None, .. }),
        "{round:?}"
    );
    assert_eq!(locked().await, [on.key("young")]);

    let snapshot = on.store.snapshot().await.unwrap();
    let names = ["primary", "orphan", "committed-primary", "committed"];
    let values = snapshot.multi_get(&names.map(|name| on.key(name))).await.unwrap();
    let committed = Some(Bytes::from_static(raw::OF_THE_DEAD));
    assert_eq!(values, [None, None, committed.clone(), committed]);
    assert_eq!(on.store.locks_pushed_out(), 0, "nothing stood in the way");
}
