//! Owners that stand still amid a commit for so long that others push their locks out of the way, and then wake.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libtest_mimic::Trial;
use tokio::task::JoinHandle;
use whimbrel_store::{Batch, Commit, Store as _};
use whimbrel_store_tikv::TikvStore;
use whimbrel_store_tikv::limits::LOCK_LIFE;
use whimbrel_tikv_cluster::{Binaries, Cluster, Options, Part};

use crate::{Test, config, open, prefix, raw, trial};

/// Far longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(60);

/// In one of so many rounds the other store goes past the owner's locks before their life is over, and the
/// owner wakes before it gives up, a second later.
const ROUNDS_MAX: usize = 6;

pub(crate) fn trials(binaries: &Binaries) -> Vec<Trial> {
    let with = |name: &str, test: Test<Two>| {
        let binaries = binaries.clone();
        trial(format!("woken::{name}"), move || async move {
            test(Two::on(binaries).await).await;
        })
    };
    vec![
        with(
            "an_owner_asleep_before_its_commit_is_never_told_committed",
            |on| Box::pin(an_owner_asleep_before_its_commit_is_never_told_committed(on)),
        ),
        with("a_commit_on_its_way_is_not_torn", |on| {
            Box::pin(a_commit_on_its_way_is_not_torn(on))
        }),
    ]
}

/// A store, and later another one, on a cluster behind proxies.
struct Two {
    cluster: Arc<Cluster>,
    owner: Arc<TikvStore>,
    prefix: String,
}

impl Two {
    async fn on(binaries: Binaries) -> Self {
        let options = Options {
            proxies: true,
            ..Options::default()
        };
        let cluster = Arc::new(Cluster::start(binaries, options).unwrap());
        let owner = open(config(vec![cluster.pd_address().to_string()])).await;
        Self {
            cluster,
            owner,
            prefix: prefix(),
        }
    }

    /// Takes rounds, each under keys of its own, until one was in time.
    async fn in_time(&self, round: impl AsyncFn(&Self) -> bool) {
        for _ in 0..ROUNDS_MAX {
            let on = Self {
                cluster: Arc::clone(&self.cluster),
                owner: Arc::clone(&self.owner),
                prefix: prefix(),
            };
            // From now on the owner's clients know the region.
            for _ in 0..8 {
                assert!(put(&on.owner, on.key("warm"), "v").await.is_committed());
            }
            if Box::pin(round(&on)).await {
                return;
            }
        }
        panic!("none of {ROUNDS_MAX} rounds was in time");
    }

    /// One that connects only now.
    async fn other(&self) -> Arc<TikvStore> {
        open(config(vec![self.cluster.pd_address().to_string()])).await
    }

    fn key(&self, name: &str) -> Bytes {
        Bytes::from(format!("{}{name}", self.prefix))
    }

    /// Has the owner commit two keys and a guard, for which it needs one timestamp more; `fault` comes before, and knows what its
    /// request to commit carries.
    async fn owner_commits(&self, fault: impl FnOnce(&Cluster, &[u8])) -> JoinHandle<Commit> {
        let snapshot = self.owner.snapshot().await.unwrap();
        let mut batch = Batch::at(&*snapshot);
        batch
            .put(self.key("a"), "owner")
            .put(self.key("b"), "owner")
            .guard(self.key("c"));
        let owner = Arc::clone(&self.owner);
        // A snapshot's first commit is the transaction of its version.
        let carried = raw::carried_by_a_commit(&self.key("a"), snapshot.version().as_raw());
        self.cluster.proxy(Part::Store).watch(&carried);
        fault(&self.cluster, &carried);
        tokio::spawn(async move {
            let commit = owner.commit(batch).await;
            drop(snapshot);
            commit
        })
    }

    /// The other store finds the owner's lock on a key of its and reads past it; then it writes another.
    /// False when the life of a lock that was taken at `since` is over before: TiKV's client ends it then,
    /// and nothing is pushed out.
    async fn goes_past_the_owner(&self, other: &TikvStore, since: Instant) -> bool {
        while other.locks_pushed_out() == 0 {
            if since.elapsed() >= LOCK_LIFE {
                return false;
            }
            assert_eq!(read(other, self.key("b")).await, None);
        }
        let commit = put(other, self.key("a"), "other").await;
        assert!(commit.is_committed(), "{commit:?}");
        true
    }

    /// Whether the owner's request to commit is held before the life of locks that were taken at `since` is
    /// over.
    async fn holds_one(&self, since: Instant) -> bool {
        let cluster = Arc::clone(&self.cluster);
        let left = LOCK_LIFE.saturating_sub(since.elapsed());
        let holds = move || cluster.proxy(Part::Store).holds_one(left);
        tokio::task::spawn_blocking(holds).await.unwrap()
    }

    /// Whether the owner's request to commit reaches the store.
    async fn passes_one(&self, patience: Duration) -> bool {
        let cluster = Arc::clone(&self.cluster);
        let passes = move || cluster.proxy(Part::Store).passes_one(patience);
        tokio::task::spawn_blocking(passes).await.unwrap()
    }

    /// The owner was not told of a commit, and nothing of it is there, for either, now or later.
    async fn nothing_came_of_it(&self, told: Commit, other: &TikvStore) {
        assert!(
            matches!(told, Commit::Unknown(_) | Commit::Conflict(_)),
            "{told:?}"
        );
        for store in [&self.owner, other] {
            assert_eq!(read(store, self.key("a")).await, Some("other".into()));
            assert_eq!(read(store, self.key("b")).await, None);
        }
        for name in ["a", "b", "c"] {
            assert!(put(&self.owner, self.key(name), "later").await.is_committed());
            assert_eq!(read(other, self.key(name)).await, Some("later".into()));
        }
    }
}

async fn put(store: &TikvStore, key: Bytes, value: &'static str) -> Commit {
    let mut batch = Batch::blind();
    batch.put(key, value);
    store.commit(batch).await
}

/// The value, as soon as the store is in touch again.
async fn read(store: &TikvStore, key: Bytes) -> Option<Bytes> {
    loop {
        match store.snapshot().await {
            Ok(snapshot) => return snapshot.get(&key).await.unwrap(),
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// It has locked all keys and waits for the timestamp of its commit.
async fn an_owner_asleep_before_its_commit_is_never_told_committed(on: Two) {
    on.in_time(async |on: &Two| {
        let since = Instant::now();
        let owners = on
            .owner_commits(|cluster, _| cluster.proxy(Part::Pd).freeze_those_there())
            .await;
        let other = on.other().await;
        let is_past = on.goes_past_the_owner(&other, since).await;
        assert_eq!(on.cluster.proxy(Part::Store).passed(), 0);
        on.cluster.proxy(Part::Pd).heal();
        let told = owners.await.unwrap();
        if !is_past {
            return false;
        }
        on.nothing_came_of_it(told, &other).await;
        // It has sent its commit by now, unless it had given up.
        on.passes_one(Duration::from_secs(1)).await
    })
    .await;
}

/// Its commit was sent, and arrives after others have gone on.
async fn a_commit_on_its_way_is_not_torn(on: Two) {
    on.in_time(async |on: &Two| {
        let other = on.other().await;
        let since = Instant::now();
        let owners = on
            .owner_commits(|cluster, carried| cluster.proxy(Part::Store).hold_each(carried))
            .await;
        let is_past = on.holds_one(since).await && on.goes_past_the_owner(&other, since).await;
        assert_eq!(on.cluster.proxy(Part::Store).passed(), 0);
        on.cluster.proxy(Part::Store).heal();
        let told = owners.await.unwrap();
        if !is_past {
            return false;
        }
        assert!(on.passes_one(PATIENCE).await, "it arrives after that");
        on.nothing_came_of_it(told, &other).await;
        true
    })
    .await;
}
