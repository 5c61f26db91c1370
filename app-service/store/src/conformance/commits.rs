//! Commits: atomicity, conflicts, guards, inserts, limits.

#![expect(clippy::unwrap_used, reason = "a check fails by panicking")]

use bytes::Bytes;

use super::{Subject, conflict_keys};
use crate::limits::{BATCH_BYTES_MAX, BATCH_OPS_MAX, KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::{Batch, Commit, Readiness, StoreError};

/// Adds something about a key to a batch.
type Build = fn(&mut Batch, Bytes);

/// Puts, inserts and deletes of one batch are all there afterwards.
pub async fn a_batch_is_applied_whole(on: &Subject) {
    on.put("old", "x").await;
    let commit = on
        .commit(|b| {
            _ = b
                .put(on.key("a"), "1")
                .insert(on.key("b"), "2")
                .delete(on.key("old"))
        })
        .await;
    assert!(commit.is_committed(), "{commit:?}");
    assert_eq!(on.read("a").await, Some("1".into()));
    assert_eq!(on.read("b").await, Some("2".into()));
    assert_eq!(on.read("old").await, None);
}

/// Nothing to write is no error.
pub async fn an_empty_batch_and_a_batch_of_guards_are_committed(on: &Subject) {
    assert!(on.commit(|_| ()).await.is_committed());
    let snapshot = on.snapshot().await;
    let mut batch = Batch::at(&*snapshot);
    batch.guard(on.key("a"));
    assert!(on.store.commit(batch).await.is_committed());
}

/// A put, insert, delete or guard at an old snapshot conflicts and names the key.
pub async fn the_first_committer_wins_over_every_kind_of_operation(on: &Subject) {
    let operations: [(&str, Build); 4] = [
        ("put", |b, key| _ = b.put(key, "mine")),
        ("insert", |b, key| _ = b.insert(key, "mine")),
        ("delete", |b, key| _ = b.delete(key)),
        ("guard", |b, key| _ = b.guard(key)),
    ];
    for (name, operation) in operations {
        let snapshot = on.snapshot().await;
        on.put(name, "theirs").await;
        let mut batch = Batch::at(&*snapshot);
        operation(&mut batch, on.key(name));
        batch.put(on.key(&format!("{name}-other")), "v");
        assert_eq!(
            conflict_keys(on.store.commit(batch).await),
            [on.key(name)],
            "{name}"
        );
        assert_eq!(on.read(name).await, Some("theirs".into()), "{name}");
    }
}

/// `Conflict` means that nothing was applied.
pub async fn a_conflict_applies_nothing(on: &Subject) {
    let snapshot = on.snapshot().await;
    on.put("m", "theirs").await;
    let mut batch = Batch::at(&*snapshot);
    batch
        .put(on.key("a"), "1")
        .put(on.key("m"), "mine")
        .put(on.key("z"), "1");
    conflict_keys(on.store.commit(batch).await);
    assert_eq!((on.read("a").await, on.read("z").await), (None, None));
}

/// What was committed before the snapshot is no conflict, nor are other keys.
pub async fn a_batch_at_a_newer_snapshot_does_not_conflict(on: &Subject) {
    on.put("a", "1").await;
    let snapshot = on.snapshot().await;
    on.put("unrelated", "1").await;
    let mut batch = Batch::at(&*snapshot);
    batch.put(on.key("a"), "2").guard(on.key("missing"));
    assert!(on.store.commit(batch).await.is_committed());
    assert_eq!(on.read("a").await, Some("2".into()));
}

/// Deleting a missing key and putting the same value are writes to those who read before.
pub async fn a_write_that_changes_nothing_still_conflicts(on: &Subject) {
    on.put("same", "v").await;
    let snapshot = on.snapshot().await;
    on.put("same", "v").await;
    assert!(
        on.commit(|b| _ = b.delete(on.key("missing")))
            .await
            .is_committed()
    );
    for name in ["same", "missing"] {
        let mut batch = Batch::at(&*snapshot);
        batch.guard(on.key(name)).put(on.key("result"), "v");
        assert_eq!(conflict_keys(on.store.commit(batch).await), [on.key(name)]);
    }
}

/// Two batches that each write what the other one read: with guards only one commits.
pub async fn a_guard_prevents_write_skew(on: &Subject) {
    on.put("x", "on").await;
    on.put("y", "on").await;
    let snapshot = on.snapshot().await;
    let mut first = Batch::at(&*snapshot);
    first.guard(on.key("x")).put(on.key("y"), "off");
    let mut second = Batch::at(&*snapshot);
    second.guard(on.key("y")).put(on.key("x"), "off");
    assert!(on.store.commit(first).await.is_committed());
    assert_eq!(conflict_keys(on.store.commit(second).await), [on.key("y")]);
    assert_eq!(on.read("x").await, Some("on".into()));
}

/// A guard holds absence too.
pub async fn a_guard_of_a_missing_key_notices_its_creation(on: &Subject) {
    let snapshot = on.snapshot().await;
    assert!(
        on.commit(|b| _ = b.insert(on.key("late"), "v"))
            .await
            .is_committed()
    );
    let mut batch = Batch::at(&*snapshot);
    batch.guard(on.key("late")).put(on.key("result"), "v");
    assert_eq!(conflict_keys(on.store.commit(batch).await), [on.key("late")]);
}

/// Blind or at a snapshot, old or new; and a deleted key can be inserted again.
pub async fn an_insert_conflicts_when_the_key_exists(on: &Subject) {
    on.put("a", "1").await;
    let blind = on.commit(|b| _ = b.insert(on.key("a"), "2")).await;
    assert_eq!(conflict_keys(blind), [on.key("a")]);
    let snapshot = on.snapshot().await;
    let mut batch = Batch::at(&*snapshot);
    batch.insert(on.key("a"), "2");
    assert_eq!(conflict_keys(on.store.commit(batch).await), [on.key("a")]);

    assert!(on.commit(|b| _ = b.delete(on.key("a"))).await.is_committed());
    assert!(on.commit(|b| _ = b.insert(on.key("a"), "3")).await.is_committed());
    assert_eq!(on.read("a").await, Some("3".into()));
}

/// However many race.
pub async fn of_two_inserts_one_wins(on: &Subject) {
    for round in 0..20 {
        let key = on.key(&format!("k{round}"));
        let insert = |value: &'static str| {
            let key = key.clone();
            on.commit(move |b| _ = b.insert(key, value))
        };
        let (one, two) = tokio::join!(insert("1"), insert("2"));
        assert!(one.is_committed() != two.is_committed(), "{one:?} {two:?}");
        let winner = if one.is_committed() { "1" } else { "2" };
        assert_eq!(on.read(&format!("k{round}")).await, Some(winner.into()));
    }
}

/// A blind put and a blind delete look at nothing.
pub async fn a_blind_batch_overwrites(on: &Subject) {
    on.put("a", "1").await;
    on.put("a", "2").await;
    assert_eq!(on.read("a").await, Some("2".into()));
    assert!(on.commit(|b| _ = b.delete(on.key("a"))).await.is_committed());
    assert_eq!(on.read("a").await, None);
}

/// Every limit of a batch, and nothing of it is applied.
pub async fn a_batch_over_a_limit_is_refused_whole(on: &Subject) {
    let cases: [(&str, Build); 9] = [
        ("an empty key", |b, _| _ = b.put(Bytes::new(), "v")),
        ("a key too long", |b, _| {
            _ = b.put(vec![b'k'; KEY_LEN_MAX + 1], "v")
        }),
        ("a key to delete too long", |b, _| {
            _ = b.delete(vec![b'k'; KEY_LEN_MAX + 1])
        }),
        ("an empty value", |b, key| _ = b.put(key, Bytes::new())),
        ("an empty value to insert", |b, key| {
            _ = b.insert(key, Bytes::new())
        }),
        ("a value too long", |b, key| {
            _ = b.put(key, vec![1; VALUE_LEN_MAX + 1])
        }),
        ("a contradiction", |b, key| {
            _ = b.insert(key.clone(), "v").put(key, "w")
        }),
        ("a blind guard", |b, key| _ = b.guard(key)),
        ("too many operations", |b, key| {
            for i in 0..=BATCH_OPS_MAX {
                b.put([&key[..], &i.to_be_bytes()].concat(), "v");
            }
        }),
    ];
    for (name, build) in cases {
        let commit = on
            .commit(|b| {
                b.put(on.key("witness"), "v");
                build(b, on.key("k"));
            })
            .await;
        assert!(matches!(commit, Commit::Refused(_)), "{name}: {commit:?}");
        assert_eq!(on.read("witness").await, None, "{name}");
    }
    let too_large = on
        .commit(|b| {
            for i in 0..=BATCH_BYTES_MAX / VALUE_LEN_MAX {
                b.put(on.key(&format!("{i}")), vec![1; VALUE_LEN_MAX]);
            }
        })
        .await;
    assert!(matches!(
        too_large,
        Commit::Refused(StoreError::BatchTooLarge { .. })
    ));
    assert_eq!(on.read("0").await, None);
}

/// Exactly at the limits.
pub async fn the_largest_key_and_value_are_stored(on: &Subject) {
    let mut key = on.key("large").to_vec();
    key.resize(KEY_LEN_MAX, b'k');
    let value = Bytes::from(vec![7; VALUE_LEN_MAX]);
    assert!(
        on.commit(|b| _ = b.put(key.clone(), value.clone()))
            .await
            .is_committed()
    );
    let snapshot = on.snapshot().await;
    assert_eq!(snapshot.get(&key).await.unwrap(), Some(value));
}

/// After `close` everything answers `Closed`, and closing again does nothing.
pub async fn a_closed_store_says_so(on: &Subject) {
    on.put("a", "1").await;
    let snapshot = on.snapshot().await;
    assert_eq!(on.store.readiness(), Readiness::Ready);
    on.store.close().await;
    on.store.close().await;
    assert!(matches!(on.store.snapshot().await, Err(StoreError::Closed)));
    assert!(matches!(
        snapshot.get(&on.key("a")).await,
        Err(StoreError::Closed)
    ));
    let commit = on.commit(|b| _ = b.put(on.key("a"), "2")).await;
    assert!(
        matches!(commit, Commit::Refused(StoreError::Closed)),
        "{commit:?}"
    );
    assert!(matches!(on.store.epoch().await, Err(StoreError::Closed)));
    assert!(!on.store.readiness().serves_reads());
}

/// The epoch belongs to the store, not to the call.
pub async fn the_epoch_stays(on: &Subject) {
    let epoch = on.store.epoch().await.unwrap();
    on.put("a", "1").await;
    assert_eq!(on.store.epoch().await.unwrap(), epoch);
}
