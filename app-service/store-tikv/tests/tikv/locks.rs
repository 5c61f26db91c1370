//! Locks that others left behind.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libtest_mimic::Trial;
use tikv_client::{Timestamp, TimestampExt as _, TransactionClient};
use whimbrel_store::{Batch, Commit, Direction, KeyRange, Store as _};
use whimbrel_store_tikv::TikvStore;
use whimbrel_store_tikv::limits::{
    COMMIT_TIME_MAX, COMMITS_PER_SNAPSHOT, LOCK_LIFE, PATIENCE_IN_CALLS, PATIENCE_MIN,
};

use crate::{Ground, Test, open, prefix, raw, trial};

pub(crate) fn trials(ground: &Arc<Ground>) -> Vec<Trial> {
    let with = |name: &str, test: Test<Place>| {
        let ground = Arc::clone(ground);
        trial(format!("locks::{name}"), move || async move {
            let store = open(ground.config()).await;
            test(Place {
                endpoints: ground.endpoints(),
                store,
                prefix: prefix(),
            })
            .await;
        })
    };
    vec![
        with("a_key_locked_by_one_who_died_before_the_primary_is_read", |on| {
            Box::pin(a_key_locked_by_one_who_died_before_the_primary_is_read(on))
        }),
        with(
            "a_key_locked_by_one_who_died_before_the_primary_is_written",
            |on| Box::pin(a_key_locked_by_one_who_died_before_the_primary_is_written(on)),
        ),
        with("a_dead_owners_primary_lock_is_pushed_out", |on| {
            Box::pin(a_dead_owners_primary_lock_is_pushed_out(on))
        }),
        with("an_orphan_among_many_conversations_is_read_past", |on| {
            Box::pin(an_orphan_among_many_conversations_is_read_past(on))
        }),
        with("an_orphan_among_many_conversations_is_written_past", |on| {
            Box::pin(an_orphan_among_many_conversations_is_written_past(on))
        }),
        with("who_died_after_locking_holds_nobody_up_for_a_locks_life", |on| {
            Box::pin(who_died_after_locking_holds_nobody_up_for_a_locks_life(on))
        }),
        with("who_died_while_locking_holds_nobody_up_for_a_locks_life", |on| {
            Box::pin(who_died_while_locking_holds_nobody_up_for_a_locks_life(on))
        }),
        with("a_primary_lock_that_comes_after_the_push_is_refused", |on| {
            Box::pin(a_primary_lock_that_comes_after_the_push_is_refused(on))
        }),
        with("what_follows_from_a_committed_primary_is_not_undone", |on| {
            Box::pin(what_follows_from_a_committed_primary_is_not_undone(on))
        }),
        with("a_lock_that_outlives_the_wait_is_a_conflict", |on| {
            Box::pin(a_lock_that_outlives_the_wait_is_a_conflict(on))
        }),
        with("a_snapshot_serves_its_commits_and_no_more", |on| {
            Box::pin(a_snapshot_serves_its_commits_and_no_more(on))
        }),
        with("a_dropped_snapshots_batch_conflicts", |on| {
            Box::pin(a_dropped_snapshots_batch_conflicts(on))
        }),
        with("a_dropped_commit_leaves_no_half", |on| {
            Box::pin(a_dropped_commit_leaves_no_half(on))
        }),
    ]
}

/// A conflict that did not come for want of patience comes after a second and more, and patience is three at most.
const COMMITS_MAX: usize = 4;

/// More keys than are looked at for locks at once, by far.
const CONVERSATIONS: usize = 16;
const KEYS_EACH: usize = 5;

struct Place {
    endpoints: Vec<String>,
    store: Arc<TikvStore>,
    prefix: String,
}

impl Place {
    fn key(&self, name: &str) -> Bytes {
        Bytes::from(format!("{}{name}", self.prefix))
    }

    /// Locks a key as one who died leaves it; gives the start of the dead transaction.
    async fn lock(&self, key: &Bytes, primary: &Bytes, life: Duration) -> u64 {
        let ms = u64::try_from(life.as_millis()).unwrap();
        raw::lock(&self.endpoints[0], self.store.cluster(), key, primary, ms).await
    }

    /// Locks one more key for the dead transaction that started at `started`, if it can be.
    async fn lock_late(&self, key: &Bytes, primary: &Bytes, started: u64) -> bool {
        let ms = u64::try_from(LOCK_LIFE.as_millis()).unwrap();
        let keys = (key, primary);
        raw::try_lock(&self.endpoints[0], self.store.cluster(), keys, started, ms).await
    }

    /// Puts, and again after a conflict.
    async fn put_past(&self, key: &Bytes, value: &'static str) {
        self.commit_past(key, async || {
            let mut batch = Batch::blind();
            batch.put(key.clone(), value);
            (batch, ())
        })
        .await;
    }

    /// Commits what `batch` makes, again after a conflict over `locked`: a conflict comes when the lock is out of the way, as far
    /// as patience goes. What it gives beside the batch is kept for that time.
    async fn commit_past<T>(&self, locked: &Bytes, batch: impl AsyncFn() -> (Batch, T)) {
        for _ in 0..COMMITS_MAX {
            let (batch, _kept) = batch().await;
            match self.store.commit(batch).await {
                Commit::Committed => return,
                Commit::Conflict(keys) => assert!(keys.contains(locked), "{keys:?}"),
                other => panic!("{other:?}"),
            }
        }
        panic!("{COMMITS_MAX} commits conflicted: none waited for the lock's end");
    }

    async fn put(&self, key: &Bytes, value: &'static str) -> Commit {
        let mut batch = Batch::blind();
        batch.put(key.clone(), value);
        self.store.commit(batch).await
    }

    /// Whoever waited may go on a moment before it is counted.
    async fn has_pushed_out(&self, transactions: u64) {
        let counted = async {
            while self.store.locks_pushed_out() < transactions {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(COMMIT_TIME_MAX, counted).await.unwrap();
    }

    /// Some keys of each of some conversations, in no order that says whose they are.
    fn conversations(&self) -> Vec<Bytes> {
        (0..CONVERSATIONS * KEYS_EACH)
            .map(|number| {
                let conversation = number % CONVERSATIONS;
                let place = conversation.wrapping_mul(0x9e37) & 0xffff;
                self.key(&format!("{place:04x}-{conversation}-{number}"))
            })
            .collect()
    }

    async fn read(&self, key: &Bytes) -> Option<Bytes> {
        self.store.snapshot().await.unwrap().get(key).await.unwrap()
    }

    /// Has `round` leave a lock and go past it, under keys of its own each time, until the store has pushed
    /// it out; the round gives the start of the lock's transaction. One that takes as long as the lock lives
    /// says nothing: TiKV's client may have ended the lock, or whoever pushed it out did not wait for the
    /// answer.
    async fn pushes_out(&self, round: impl AsyncFn(&Self) -> u64) -> (Self, u64) {
        const ROUNDS_MAX: usize = 6;
        let client = TransactionClient::new(self.endpoints.clone()).await.unwrap();
        for number in 0..ROUNDS_MAX {
            let on = Self {
                endpoints: self.endpoints.clone(),
                store: Arc::clone(&self.store),
                prefix: format!("{}{number}-", self.prefix),
            };
            let before = self.store.locks_pushed_out();
            let started = Box::pin(round(&on)).await;
            if since(&client, started).await < LOCK_LIFE {
                self.has_pushed_out(before + 1).await;
            }
            if self.store.locks_pushed_out() > before {
                return (on, started);
            }
        }
        panic!("in none of {ROUNDS_MAX} rounds was a lock pushed out while it lived");
    }
}

impl Place {
    /// A dead transaction's keys, with or without its primary's, are read by get and scan and written by others: all of
    /// them are through before the locks' life is over. A round in which the cluster was not well, so that patience is longer,
    /// says nothing.
    async fn holds_nobody_up(&self, with_primary: bool) {
        const ROUNDS_MAX: usize = 20;
        let client = TransactionClient::new(self.endpoints.clone()).await.unwrap();
        for round in 0..ROUNDS_MAX {
            let key = |name: &str| self.key(&format!("{round}-{name}"));
            let primary = key("primary");
            let names = ["got", "scanned", "written"].map(key);
            let started = self.lock(&names[0], &primary, LOCK_LIFE).await;
            let also = if with_primary { &primary } else { &names[1] };
            for name in [&names[1], &names[2], also] {
                assert!(self.lock_late(name, &primary, started).await);
            }
            let get = async { assert_eq!(self.read(&names[0]).await, None) };
            let scan = async {
                let snapshot = self.store.snapshot().await.unwrap();
                let range = KeyRange::prefix(names[1].clone()).unwrap();
                let page = snapshot.scan(range, 10, Direction::Forward).await.unwrap();
                assert_eq!(page.entries, []);
            };
            let write = self.put_past(&names[2], "alive");
            let all = async { tokio::join!(get, scan, write) };
            let (_, was_well) = while_well(&client, all).await;
            let waited = since(&client, started).await;
            assert_eq!(self.read(&primary).await, None);
            assert_eq!(self.read(&names[2]).await, Some("alive".into()));
            if waited < LOCK_LIFE {
                self.has_pushed_out(1).await;
                return;
            }
            assert!(!was_well, "the dead held others up for {waited:?}");
        }
        panic!("the cluster was not well in any of {ROUNDS_MAX} rounds");
    }
}

/// Does `work`. Also says whether calls took no longer meanwhile than they may take before patience grows.
async fn while_well<T>(client: &TransactionClient, work: impl Future<Output = T>) -> (T, bool) {
    const PAUSE: Duration = Duration::from_millis(10);
    const STILL_MAX: Duration = Duration::from_millis(500);
    let (rounds, slowest) = (Cell::new(0), Cell::new(Duration::ZERO));
    let begins = Instant::now();
    let asking = async {
        loop {
            let asked = Instant::now();
            tokio::time::sleep(PAUSE).await;
            client.current_timestamp().await.unwrap();
            slowest.set(slowest.get().max(asked.elapsed()));
            rounds.set(rounds.get() + 1);
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = asking => unreachable!("it never ends"),
    };
    let usual = begins.elapsed() / rounds.get().max(1);
    let is_well = usual <= PAUSE + PATIENCE_MIN / PATIENCE_IN_CALLS && slowest.get() <= STILL_MAX;
    (done, is_well)
}

/// How long ago a transaction started, by PD's clock.
async fn since(client: &TransactionClient, started: u64) -> Duration {
    let now = client.current_timestamp().await.unwrap().physical;
    let ms = now - Timestamp::from_version(started).physical;
    Duration::from_millis(u64::try_from(ms).unwrap())
}

/// Waits until PD's clock says that a lock's life is over.
async fn outlive(client: &TransactionClient, started: u64, life: Duration) {
    let until = Timestamp::from_version(started).physical + i64::try_from(life.as_millis()).unwrap() + 1;
    while client.current_timestamp().await.unwrap().physical <= until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// TiKV's client by itself cannot, however long it waits: that is what the store works around.
async fn a_key_locked_by_one_who_died_before_the_primary_is_read(on: Place) {
    let (orphan, primary) = (on.key("b-orphan"), on.key("a-primary"));
    let started = on.lock(&orphan, &primary, LOCK_LIFE).await;
    let client = TransactionClient::new(on.endpoints.clone()).await.unwrap();
    outlive(&client, started, LOCK_LIFE).await;
    let options = tikv_client::TransactionOptions::new_optimistic().drop_check(tikv_client::CheckLevel::None);
    let mut plain = client.begin_with_options(options).await.unwrap();
    assert!(
        plain.get(orphan.to_vec()).await.is_err(),
        "if TiKV's client has learnt to resolve such locks, `overdue` may say less"
    );

    assert_eq!(on.read(&orphan).await, None);
    let again = on.lock(&on.key("c-orphan"), &primary, LOCK_LIFE).await;
    assert!(again > started);
    assert!(on.put(&on.key("d"), "v").await.is_committed());
    let snapshot = on.store.snapshot().await.unwrap();
    let range = KeyRange::prefix(on.prefix.clone()).unwrap();
    let page = snapshot.scan(range, 10, Direction::Forward).await.unwrap();
    assert_eq!(page.entries, [(on.key("d"), Bytes::from("v"))]);
    let both = [on.key("c-orphan"), on.key("d")];
    assert_eq!(
        snapshot.multi_get(&both).await.unwrap(),
        [None, Some(Bytes::from("v"))]
    );
}

async fn a_key_locked_by_one_who_died_before_the_primary_is_written(on: Place) {
    let (orphan, primary) = (on.key("b-orphan"), on.key("a-primary"));
    on.lock(&orphan, &primary, LOCK_LIFE).await;
    on.put_past(&orphan, "alive").await;
    assert_eq!(on.read(&orphan).await, Some("alive".into()));
    assert_eq!(on.read(&primary).await, None);
}

async fn a_dead_owners_primary_lock_is_pushed_out(on: Place) {
    let (read, written) = (on.key("read"), on.key("written"));
    on.lock(&read, &read, LOCK_LIFE).await;
    on.lock(&written, &written, LOCK_LIFE).await;
    let (value, ()) = tokio::join!(on.read(&read), on.put_past(&written, "alive"));
    assert_eq!(value, None);
}

/// As a group of conversations is read: many keys, far from one another, of which TiKV's client does not say which is locked.
async fn an_orphan_among_many_conversations_is_read_past(on: Place) {
    on.pushes_out(async |on: &Place| {
        let keys = on.conversations();
        let started = on.lock(&keys[37], &on.key("a-primary"), LOCK_LIFE).await;
        let snapshot = on.store.snapshot().await.unwrap();
        let values = snapshot.multi_get(&keys).await.unwrap();
        assert!(values.iter().all(Option::is_none));
        started
    })
    .await;
}

/// As a group is committed: the orphan is on a key that is only written.
async fn an_orphan_among_many_conversations_is_written_past(on: Place) {
    on.pushes_out(async |on: &Place| {
        let keys = on.conversations();
        let (orphan, guarded) = (&keys[37], &keys[73]);
        let started = on.lock(orphan, &on.key("a-primary"), LOCK_LIFE).await;
        on.commit_past(orphan, async || {
            let snapshot = on.store.snapshot().await.unwrap();
            assert_eq!(snapshot.get(guarded).await.unwrap(), None);
            let mut batch = Batch::at(&*snapshot);
            batch.guard(guarded.clone());
            for key in keys.iter().filter(|key| *key != guarded) {
                batch.put(key.clone(), "alive");
            }
            (batch, snapshot)
        })
        .await;
        assert_eq!(on.read(orphan).await, Some("alive".into()));
        started
    })
    .await;
}

/// All keys are locked, nothing is committed.
async fn who_died_after_locking_holds_nobody_up_for_a_locks_life(on: Place) {
    on.holds_nobody_up(true).await;
}

/// The primary lock was never taken.
async fn who_died_while_locking_holds_nobody_up_for_a_locks_life(on: Place) {
    on.holds_nobody_up(false).await;
}

/// Its owner was slow, not dead; it can no longer take what it needs to commit.
async fn a_primary_lock_that_comes_after_the_push_is_refused(on: Place) {
    let (on, started) = on
        .pushes_out(async |on: &Place| {
            let (key, primary) = (on.key("b-key"), on.key("a-primary"));
            let started = on.lock(&key, &primary, LOCK_LIFE).await;
            assert_eq!(on.read(&key).await, None);
            started
        })
        .await;
    let primary = on.key("a-primary");
    assert!(!on.lock_late(&primary, &primary, started).await);
    // Another key may still be locked, and is found rolled back at the primary.
    on.lock_late(&on.key("c-key"), &primary, started).await;
    for name in ["a-primary", "b-key", "c-key"] {
        assert!(on.put(&on.key(name), "alive").await.is_committed());
        assert_eq!(on.read(&on.key(name)).await, Some("alive".into()));
    }
}

async fn what_follows_from_a_committed_primary_is_not_undone(on: Place) {
    let (read, written, primary) = (on.key("c-read"), on.key("b-written"), on.key("a-primary"));
    let started = on.lock(&primary, &primary, LOCK_LIFE).await;
    for key in [&read, &written] {
        assert!(on.lock_late(key, &primary, started).await);
    }
    raw::commit(&on.endpoints[0], on.store.cluster(), &primary, started).await;
    let dead = Some(Bytes::from_static(raw::OF_THE_DEAD));
    let mut insert = Batch::blind();
    insert.insert(written.clone(), "alive");
    let (value, commit) = tokio::join!(on.read(&read), on.store.commit(insert));
    assert_eq!(value, dead);
    assert!(matches!(commit, Commit::Conflict(_)), "{commit:?}");
    assert_eq!(
        [on.read(&written).await, on.read(&primary).await],
        [dead.clone(), dead]
    );
}

async fn a_lock_that_outlives_the_wait_is_a_conflict(on: Place) {
    let (held, other) = (on.key("held"), on.key("other"));
    on.lock(&held, &held, Duration::from_secs(60)).await;
    // Clearing a younger one before it, whose owner is dead, leaves it alone.
    let orphan = on.key("a-orphan");
    on.lock(&orphan, &on.key("b-primary"), LOCK_LIFE).await;
    assert_eq!(on.read(&orphan).await, None);
    let mut batch = Batch::blind();
    batch.put(held.clone(), "v").put(other.clone(), "v");
    match on.store.commit(batch).await {
        Commit::Conflict(keys) => assert_eq!(keys, [held]),
        other => panic!("{other:?}"),
    }
    // Rolled back: the other key is free at once, and empty.
    assert_eq!(on.read(&other).await, None);
    assert!(on.put(&other, "later").await.is_committed());
}

async fn a_snapshot_serves_its_commits_and_no_more(on: Place) {
    let snapshot = on.store.snapshot().await.unwrap();
    for number in 0..COMMITS_PER_SNAPSHOT {
        let mut batch = Batch::at(&*snapshot);
        batch
            .put(on.key(&number.to_string()), "v")
            .guard(on.key("guarded"));
        // Guards of one key by several batches may conflict.
        assert!(matches!(
            on.store.commit(batch).await,
            Commit::Committed | Commit::Conflict(_)
        ));
    }
    let mut batch = Batch::at(&*snapshot);
    batch.put(on.key("more"), "v").guard(on.key("guarded"));
    match on.store.commit(batch).await {
        Commit::Conflict(keys) => assert_eq!(keys, [on.key("guarded"), on.key("more")]),
        other => panic!("{other:?}"),
    }
}

async fn a_dropped_snapshots_batch_conflicts(on: Place) {
    let batch = {
        let snapshot = on.store.snapshot().await.unwrap();
        let mut batch = Batch::at(&*snapshot);
        batch.put(on.key("k"), "v");
        batch
    };
    assert!(matches!(on.store.commit(batch).await, Commit::Conflict(_)));
    assert_eq!(on.read(&on.key("k")).await, None);
}

/// Whoever stops waiting for a commit finds all of it or nothing, and no key unusable.
async fn a_dropped_commit_leaves_no_half(on: Place) {
    for round in 0..20u32 {
        let (one, two) = (on.key(&format!("{round}-1")), on.key(&format!("{round}-2")));
        let mut batch = Batch::blind();
        batch.put(one.clone(), "v").put(two.clone(), "v");
        let wait = Duration::from_micros(u64::from(round) * 200);
        let _ = tokio::time::timeout(wait, on.store.commit(batch)).await;
        let snapshot = on.store.snapshot().await.unwrap();
        let values = snapshot.multi_get(&[one.clone(), two]).await.unwrap();
        assert_eq!(values[0], values[1]);
        // What nobody waits for goes on, and may get ahead of one put; there is no second of it.
        let first = on.put(&one, "w").await;
        assert!(
            matches!(first, Commit::Committed | Commit::Conflict(_)),
            "{first:?}"
        );
        if !first.is_committed() {
            assert!(on.put(&one, "w").await.is_committed());
        }
    }
}
