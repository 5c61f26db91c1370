//! The fjall backend under the conformance suite, and what only it does: folders, reopening, failing, a full disk.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod damage;
mod space;

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use whimbrel_store::conformance::Subject;
use whimbrel_store::{
    Batch, Commit, Epoch, FjallConfig, FjallStore, OpenError, Readiness, Snapshot, Store, StoreError,
};

const EPOCH: Epoch = Epoch([7; 16]);

/// Small enough that a test writes tables, with nothing kept back on the test machine's disk.
fn config(folder: &Path) -> FjallConfig {
    let mut config = FjallConfig::new(folder);
    config.memtable_bytes = 64 * 1024;
    config.min_free_bytes = 0;
    config
}

fn open(folder: &Path) -> FjallStore {
    FjallStore::open(config(folder), EPOCH).unwrap()
}

/// In memory where there is such a place: what a sync costs on the test machine's disk is not the subject.
fn temp_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    }
}

mod conformance {
    use super::*;

    async fn subject() -> Subject {
        let folder = temp_folder();
        Subject::new(
            Arc::new(OwnsFolder {
                store: open(folder.path()),
                _folder: folder,
            }),
            "",
        )
    }

    whimbrel_store::conformance_tests!(subject());
}

/// A store whose folder goes with it.
struct OwnsFolder {
    store: FjallStore,
    _folder: TempDir,
}

#[async_trait::async_trait]
impl Store for OwnsFolder {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.store.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Commit {
        self.store.commit(batch).await
    }

    fn readiness(&self) -> Readiness {
        self.store.readiness()
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.store.epoch().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
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

#[tokio::test]
async fn what_was_committed_is_there_after_reopening_and_the_epoch_is_the_same() {
    let folder = temp_folder();
    let store = open(folder.path());
    for round in 0..300u32 {
        let mut batch = Batch::blind();
        batch
            .put(round.to_be_bytes().to_vec(), vec![1; 1000])
            .put("last", round.to_be_bytes().to_vec());
        assert!(store.commit(batch).await.is_committed());
    }
    store.close().await;

    let store = FjallStore::open(config(folder.path()), Epoch([9; 16])).unwrap();
    assert_eq!(store.epoch().await.unwrap(), EPOCH);
    let snapshot = store.snapshot().await.unwrap();
    for round in 0..300u32 {
        assert!(
            snapshot.get(&round.to_be_bytes()).await.unwrap().is_some(),
            "{round}"
        );
    }
    assert_eq!(read(&store, "last").await, Some(299u32.to_be_bytes().to_vec()));
    store.close().await;
}

#[tokio::test]
async fn a_folder_in_use_is_refused_and_names_the_process() {
    let folder = temp_folder();
    let store = open(folder.path());
    let error = FjallStore::open(config(folder.path()), EPOCH).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    store.close().await;
    open(folder.path()).close().await;
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let folder = temp_folder();
    let mut config = config(folder.path());
    config.journal_bytes = 1;
    let error = FjallStore::open(config, EPOCH).unwrap_err();
    assert!(error.to_string().contains("journal_bytes is 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_waiting_batches_share_a_group_and_conflicts_do_not_spoil_the_others() {
    let folder = temp_folder();
    let store = open(folder.path());
    let snapshot = store.snapshot().await.unwrap();
    let commits = (0..200u32).map(|i| {
        let mut batch = Batch::at(&*snapshot);
        // Every tenth writes the one contested key.
        let contested = i % 10 == 0;
        let key = if contested {
            b"contested".to_vec()
        } else {
            i.to_be_bytes().to_vec()
        };
        batch.put(key, "v");
        let store = store.clone();
        tokio::spawn(async move { (contested, store.commit(batch).await) })
    });
    let (mut contested_wins, mut others) = (0, 0);
    for commit in commits.collect::<Vec<_>>() {
        match commit.await.unwrap() {
            (true, Commit::Committed) => contested_wins += 1,
            (true, Commit::Conflict(_)) => {}
            (false, Commit::Committed) => others += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((contested_wins, others), (1, 180));
    store.close().await;
}

#[tokio::test]
async fn closing_answers_what_was_accepted() {
    let folder = temp_folder();
    let store = open(folder.path());
    let pending: Vec<_> = (0..50)
        .map(|i: u32| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut batch = Batch::blind();
                batch.put(i.to_be_bytes().to_vec(), "v");
                (i, store.commit(batch).await)
            })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    let mut committed = Vec::new();
    for commit in pending {
        match commit.await.unwrap() {
            (i, Commit::Committed) => committed.push(i),
            (_, Commit::Refused(StoreError::Closed)) => {}
            (_, other) => panic!("{other:?}"),
        }
    }
    let store = open(folder.path());
    let snapshot = store.snapshot().await.unwrap();
    for i in 0..50u32 {
        let there = snapshot.get(&i.to_be_bytes()).await.unwrap().is_some();
        assert_eq!(there, committed.contains(&i), "{i}");
    }
    store.close().await;
}
