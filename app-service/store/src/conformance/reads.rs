//! Reads: snapshots, points, ranges and pages.

#![expect(clippy::unwrap_used, reason = "a check fails by panicking")]

use bytes::Bytes;

use super::Subject;
use crate::limits::{KEY_LEN_MAX, MULTI_GET_MAX, SCAN_BYTES_MAX, SCAN_LIMIT_MAX, VALUE_LEN_MAX};
use crate::{Direction, KeyRange, StoreError};

/// Later puts, inserts and deletes do not show in point reads or scans of an earlier snapshot.
pub async fn a_snapshot_never_changes(on: &Subject) {
    on.put("s-a", "1").await;
    on.put("s-b", "1").await;
    let snapshot = on.snapshot().await;
    for _ in 0..3 {
        on.put("s-a", "2").await;
        on.put("s-c", "2").await;
        assert!(on.commit(|b| _ = b.delete(on.key("s-b"))).await.is_committed());
    }
    let expected = vec![(on.key("s-a"), "1".into()), (on.key("s-b"), Bytes::from("1"))];
    let page = snapshot
        .scan(on.range("s-"), 10, Direction::Forward)
        .await
        .unwrap();
    assert_eq!(page.entries, expected);
    assert_eq!(snapshot.get(&on.key("s-b")).await.unwrap(), Some("1".into()));
    assert_eq!(snapshot.get(&on.key("s-c")).await.unwrap(), None);

    let page = on
        .snapshot()
        .await
        .scan(on.range("s-"), 10, Direction::Forward)
        .await
        .unwrap();
    assert_eq!(
        page.entries,
        [(on.key("s-a"), "2".into()), (on.key("s-c"), Bytes::from("2"))]
    );
}

/// `Committed` is a promise about the very next snapshot.
pub async fn a_commit_is_seen_by_the_next_snapshot(on: &Subject) {
    for round in 0..50u32 {
        let value = Bytes::from(round.to_string());
        assert!(
            on.commit(|b| _ = b.put(on.key("a"), value.clone()))
                .await
                .is_committed()
        );
        assert_eq!(on.read("a").await, Some(value));
    }
}

/// A snapshot that sees more has a greater version.
pub async fn versions_grow(on: &Subject) {
    let before = on.snapshot().await.version();
    on.put("a", "1").await;
    let after = on.snapshot().await.version();
    assert!(before < after, "{before:?} {after:?}");
}

/// Answers stand where their keys stood, repeated keys too.
pub async fn multi_get_keeps_order_and_gaps(on: &Subject) {
    on.put("a", "1").await;
    on.put("b", "2").await;
    let snapshot = on.snapshot().await;
    let keys = ["b", "missing", "a", "b"].map(|name| on.key(name));
    let values = snapshot.multi_get(&keys).await.unwrap();
    assert_eq!(
        values,
        [Some("2".into()), None, Some("1".into()), Some(Bytes::from("2"))]
    );
    assert!(snapshot.multi_get(&[]).await.unwrap().is_empty());

    let many: Vec<_> = (0..MULTI_GET_MAX).map(|i| on.key(&i.to_string())).collect();
    assert_eq!(snapshot.multi_get(&many).await.unwrap().len(), MULTI_GET_MAX);
}

/// Start included, end excluded, nothing beyond either.
pub async fn a_scan_honours_both_bounds_in_both_directions(on: &Subject) {
    for name in ["k1", "k2", "k3", "k4"] {
        on.put(name, "v").await;
    }
    let snapshot = on.snapshot().await;
    let range = KeyRange::new(on.key("k2"), on.key("k4")).unwrap();
    for (direction, expected) in [
        (Direction::Forward, ["k2", "k3"]),
        (Direction::Reverse, ["k3", "k2"]),
    ] {
        let page = snapshot.scan(range.clone(), 10, direction).await.unwrap();
        let keys: Vec<_> = page.entries.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, expected.map(|name| on.key(name)));
        assert_eq!(page.next, None);
    }
    let empty = KeyRange::new(on.key("k2"), on.key("k2")).unwrap();
    let page = snapshot.scan(empty, 10, Direction::Forward).await.unwrap();
    assert!(page.entries.is_empty() && page.next.is_none());
}

/// Page by page, forwards and backwards, nothing is missing or twice, also beyond the inline reads.
pub async fn pages_join_into_the_whole_range(on: &Subject) {
    let names: Vec<_> = (0..250).map(|i| format!("p{i:03}")).collect();
    let commit = on
        .commit(|b| {
            for name in &names {
                b.put(on.key(name), name.clone());
            }
        })
        .await;
    assert!(commit.is_committed());
    on.put("q", "outside").await;
    let snapshot = on.snapshot().await;
    for limit in [1, 7, 64, 100, 250, 1000] {
        for direction in [Direction::Forward, Direction::Reverse] {
            let mut seen = Vec::new();
            let mut next = Some(on.range("p"));
            while let Some(range) = next {
                let page = snapshot.scan(range, limit, direction).await.unwrap();
                assert!(page.entries.len() <= limit && !page.entries.is_empty());
                seen.extend(page.entries.iter().map(|(key, _)| key.clone()));
                next = page.next;
            }
            let mut expected: Vec<_> = names.iter().map(|name| on.key(name)).collect();
            if direction == Direction::Reverse {
                expected.reverse();
            }
            assert_eq!(seen, expected, "limit {limit}, {direction:?}");
        }
    }
}

/// A range that ends with the page has no next page.
pub async fn a_page_says_exactly_whether_more_follows(on: &Subject) {
    for name in ["x1", "x2", "x3"] {
        on.put(name, "v").await;
    }
    let snapshot = on.snapshot().await;
    for (limit, more) in [(2, true), (3, false), (4, false)] {
        for direction in [Direction::Forward, Direction::Reverse] {
            let page = snapshot.scan(on.range("x"), limit, direction).await.unwrap();
            assert_eq!(page.has_more(), more, "limit {limit}, {direction:?}");
        }
    }
}

/// A page of the largest values stays near the byte bound, and the rest can be read.
pub async fn a_page_of_large_values_is_bounded_by_bytes(on: &Subject) {
    let count = SCAN_BYTES_MAX / VALUE_LEN_MAX + 10;
    let commit = on
        .commit(|b| {
            for i in 0..count {
                b.put(on.key(&format!("v{i:03}")), vec![1; VALUE_LEN_MAX]);
            }
        })
        .await;
    assert!(commit.is_committed(), "{commit:?}");
    let snapshot = on.snapshot().await;
    let page = snapshot
        .scan(on.range("v"), SCAN_LIMIT_MAX, Direction::Forward)
        .await
        .unwrap();
    let bytes: usize = page
        .entries
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    assert!(bytes <= SCAN_BYTES_MAX + VALUE_LEN_MAX + KEY_LEN_MAX, "{bytes}");
    let rest = snapshot
        .scan(page.next.unwrap(), count, Direction::Forward)
        .await
        .unwrap();
    assert_eq!(page.entries.len() + rest.entries.len(), count);
}

/// Every limit of a read.
pub async fn reads_over_a_limit_are_refused(on: &Subject) {
    let snapshot = on.snapshot().await;
    assert!(matches!(snapshot.get(b"").await, Err(StoreError::KeyEmpty)));
    let long = Bytes::from(vec![b'k'; KEY_LEN_MAX + 1]);
    assert!(matches!(
        snapshot.get(&long).await,
        Err(StoreError::KeyTooLong { .. })
    ));
    assert!(matches!(
        snapshot.multi_get(&[long]).await,
        Err(StoreError::KeyTooLong { .. })
    ));
    let many = vec![on.key("k"); MULTI_GET_MAX + 1];
    assert!(matches!(
        snapshot.multi_get(&many).await,
        Err(StoreError::TooManyKeys { .. })
    ));
    for limit in [0, SCAN_LIMIT_MAX + 1] {
        let scan = snapshot.scan(on.range("k"), limit, Direction::Forward).await;
        assert!(matches!(scan, Err(StoreError::ScanLimit { .. })), "{limit}");
    }
}

/// What backups are made of: every entry once, in order, and nothing that came later.
pub async fn a_long_snapshot_reads_everything_of_one_moment(on: &Subject) {
    const ENTRIES: u32 = 90;
    for some in (0..ENTRIES).collect::<Vec<_>>().chunks(30) {
        let wrote = on.commit(|batch| {
            for number in some {
                batch.put(on.key(&format!("long-{number:05}")), vec![7; 10]);
            }
        });
        assert!(wrote.await.is_committed());
    }
    let snapshot = on.store.long_snapshot().await.unwrap();
    on.put("long-00000", "later").await;
    on.put("long-late", "later").await;
    let (mut keys, mut next) = (Vec::new(), Some(on.range("long-")));
    while let Some(range) = next {
        let page = snapshot.scan(range, 20, Direction::Forward).await.unwrap();
        assert!(page.entries.iter().all(|(_, value)| value[..] == [7; 10]));
        keys.extend(page.entries.into_iter().map(|(key, _)| key));
        next = page.next;
    }
    let expected: Vec<_> = (0..ENTRIES)
        .map(|number| on.key(&format!("long-{number:05}")))
        .collect();
    assert!(keys == expected, "{} of {}", keys.len(), expected.len());
    assert_eq!(snapshot.get(&on.key("long-late")).await.unwrap(), None);
}
