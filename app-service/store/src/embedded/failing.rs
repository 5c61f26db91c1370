//! What the backend does when its disk fails, by faults that only this crate's own tests can plant.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use tempfile::TempDir;

use super::*;
use crate::Batch;

const EPOCH: Epoch = Epoch([7; 16]);

fn config(folder: &Path) -> FjallConfig {
    let mut config = FjallConfig::new(folder);
    config.memtable_bytes = 64 * 1024;
    config.min_free_bytes = 0;
    config
}

async fn put(store: &FjallStore, key: &'static str, value: &'static str) -> Commit {
    let mut batch = Batch::blind();
    batch.put(key, value);
    store.commit(batch).await
}

async fn read(store: &FjallStore, key: &str) -> Option<Vec<u8>> {
    let value = store.snapshot().await.unwrap().get(key.as_bytes()).await.unwrap();
    value.map(|value| value.to_vec())
}

/// Waits until the committer has opened the store again. The bound is for a test that hangs, not a hope.
async fn until_ready(store: &FjallStore) {
    let wait = async {
        while store.readiness() != Readiness::Ready {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    assert!(
        tokio::time::timeout(limit, wait).await.is_ok(),
        "never ready again: {:?}",
        store.readiness()
    );
}

#[tokio::test]
async fn a_failed_write_is_unknown_and_the_store_reopens_by_itself() {
    let folder = TempDir::new().unwrap();
    let config = config(folder.path());
    let planted = config.planted.clone();
    let store = FjallStore::open(config, EPOCH).unwrap();
    assert!(put(&store, "a", "1").await.is_committed());
    let snapshot = store.snapshot().await.unwrap();
    let mut stale = Batch::at(&*snapshot);
    stale.put("b", "1");

    planted.fail_reopens.store(2, SeqCst);
    planted.fail_groups.store(1, SeqCst);
    assert!(matches!(put(&store, "a", "2").await, Commit::Unknown(_)));
    assert!(matches!(
        snapshot.get(b"a").await,
        Err(StoreError::SnapshotGone { .. })
    ));
    assert!(!store.readiness().serves_reads());
    assert!(matches!(
        put(&store, "a", "3").await,
        Commit::Refused(StoreError::NotReady { .. })
    ));

    until_ready(&store).await;
    assert_eq!(planted.fail_reopens.load(SeqCst), 0);
    assert_eq!(read(&store, "a").await, Some(b"1".to_vec()));
    // What an Unknown commit wrote is not known, so whatever was read before it conflicts.
    assert!(matches!(store.commit(stale).await, Commit::Conflict(_)));
    assert!(put(&store, "a", "4").await.is_committed());
    store.close().await;
}
