//! Backups of memory stores: what comes back, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::{Batch, Commit, Epoch, KeyRange, MemoryStore, Snapshot, Store};

const ID: [u8; 16] = [3; 16];

fn store() -> MemoryStore {
    MemoryStore::new(Epoch([9; 16]))
}

/// Everything from `a` to `m` and from `n` to `z`, but for what a store keeps for itself under `m`.
fn contents() -> Contents {
    let range = |from: &'static [u8], to: &'static [u8]| KeyRange::new(from, to).unwrap();
    Contents {
        schema: 5,
        ranges: vec![range(b"a", b"m"), range(b"n", b"z")],
        mark: Bytes::from_static(b"b-mark"),
    }
}

async fn put(store: &MemoryStore, entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
    for (key, value) in entries {
        let mut batch = Batch::blind();
        batch.put(key, value);
        assert!(store.commit(batch).await.is_committed());
    }
}

/// As many as several pages hold, the longest and the shortest among them.
async fn filled() -> MemoryStore {
    let store = store();
    put(
        &store,
        (0..9_000u32).map(|n| (format!("c{n:05}").into_bytes(), n.to_be_bytes().to_vec())),
    )
    .await;
    put(&store, (0..80u8).map(|n| (vec![b'd', n], vec![n; VALUE_LEN_MAX]))).await;
    put(
        &store,
        [(vec![b'x'; KEY_LEN_MAX], vec![1]), (vec![b'o'], vec![2])],
    )
    .await;
    store
}

async fn saved(store: &dyn Store) -> Vec<u8> {
    let mut saving = Saving::begin(store, &contents(), (ID, 77), "eu").await.unwrap();
    let mut file = Vec::new();
    while let Some(bytes) = saving.next().await.unwrap() {
        file.extend(bytes);
    }
    file
}

async fn restored(file: &[u8], store: &dyn Store) -> Result<Totals, RestoreError> {
    restore(store, &contents(), Reader::open(file)?, |_| ()).await
}

async fn everything(store: &dyn Store) -> Vec<(Bytes, Bytes)> {
    let snapshot: Arc<dyn Snapshot> = store.snapshot().await.unwrap();
    let mut left = contents().ranges.into();
    let mut all = Vec::new();
    loop {
        let page = saving::next_page(&*snapshot, &mut left).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// What reading a file to its end comes to.
fn read(file: &[u8]) -> Result<Totals, RestoreError> {
    Reader::open(file)?.check(&contents())
}

#[tokio::test]
async fn what_was_saved_comes_back_entry_by_entry() {
    let source = filled().await;
    put(&source, [(b"m-own".to_vec(), vec![1])]).await;
    let file = saved(&source).await;
    let reader = Reader::open(&file[..]).unwrap();
    assert_eq!(
        (
            reader.header().schema,
            reader.header().id,
            reader.header().taken_ms
        ),
        (5, ID, 77)
    );
    assert_eq!(
        (&*reader.header().cluster, reader.header().epoch),
        ("eu", Epoch([9; 16]))
    );
    let target = MemoryStore::new(Epoch([1; 16]));
    let totals = restored(&file, &target).await.unwrap();
    assert_eq!(totals.entries, 9_082);
    assert_eq!(totals, read(&file).unwrap());
    assert_eq!(everything(&target).await, everything(&source).await);
    let snapshot = target.snapshot().await.unwrap();
    assert_eq!(
        snapshot.get(b"m-own").await.unwrap(),
        None,
        "a store's own rows stay with it"
    );
    assert_eq!(snapshot.get(b"b-mark").await.unwrap(), None);
    assert_eq!(target.epoch().await.unwrap(), Epoch([1; 16]));
}

#[tokio::test]
async fn what_is_written_while_a_backup_is_taken_is_not_in_it() {
    let source = filled().await;
    let mut saving = Saving::begin(&source, &contents(), (ID, 0), "eu").await.unwrap();
    let mut file = saving.next().await.unwrap().unwrap();
    put(
        &source,
        [
            (b"e-late".to_vec(), vec![1]),
            (b"c00000".to_vec(), b"new".to_vec()),
        ],
    )
    .await;
    while let Some(bytes) = saving.next().await.unwrap() {
        file.extend(bytes);
    }
    let target = store();
    restored(&file, &target).await.unwrap();
    let snapshot = target.snapshot().await.unwrap();
    assert_eq!(snapshot.get(b"e-late").await.unwrap(), None);
    assert_eq!(snapshot.get(b"c00000").await.unwrap().unwrap()[..], [0; 4]);
}

#[tokio::test]
async fn an_empty_store_makes_a_whole_file() {
    let file = saved(&store()).await;
    assert_eq!(restored(&file, &store()).await.unwrap().entries, 0);
}

#[tokio::test]
async fn a_file_cut_off_anywhere_is_known() {
    let source = store();
    put(&source, (0..20u8).map(|n| (vec![b'c', n], vec![n + 1; 9]))).await;
    let file = saved(&source).await;
    for len in 0..file.len() {
        let error = read(&file[..len]).unwrap_err();
        let known = matches!(
            error,
            RestoreError::Backup(ReadError::CutOff { .. } | ReadError::NoBackup)
        );
        assert!(known, "{len}: {error}");
    }
}

#[tokio::test]
async fn any_byte_that_changed_is_noticed() {
    let source = store();
    put(&source, (0..20u8).map(|n| (vec![b'c', n], vec![n + 1; 9]))).await;
    let file = saved(&source).await;
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x40;
        assert!(read(&damaged).is_err(), "byte {at}");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(read(&longer).unwrap_err().to_string().contains("follows its end"));
}

#[tokio::test]
async fn a_block_that_is_missing_or_out_of_place_is_noticed() {
    let header = Header {
        schema: 5,
        id: ID,
        epoch: Epoch([9; 16]),
        version: 1,
        taken_ms: 1,
        cluster: "eu".to_owned(),
    };
    let entry = |key: &'static [u8]| vec![(Bytes::from_static(key), Bytes::from_static(b"v"))];
    let mut writer = format::Writer::default();
    let blocks = [
        writer.begin(&header),
        writer.entries(&entry(b"c")),
        writer.entries(&entry(b"d")),
        writer.end(),
    ];
    assert_eq!(read(&blocks.concat()).unwrap().entries, 2);
    for order in [
        &[0, 2, 3][..],
        &[0, 2, 1, 3],
        &[0, 1, 1, 2, 3],
        &[0, 3],
        &[0, 1, 2, 0, 3],
    ] {
        let file: Vec<u8> = order.iter().flat_map(|at| blocks[*at].clone()).collect();
        assert!(read(&file).is_err(), "{order:?}");
    }
    let mut writer = format::Writer::default();
    let unordered = [
        writer.begin(&header),
        writer.entries(&entry(b"d")),
        writer.entries(&entry(b"c")),
    ];
    assert!(
        read(&unordered.concat())
            .unwrap_err()
            .to_string()
            .contains("out of order")
    );
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_named() {
    let mut newer = saved(&store()).await;
    newer[19] = 2;
    let error = Reader::open(&newer[..]).unwrap_err();
    assert!(matches!(error, ReadError::NewerFormat { found: 2 }), "{error}");

    let ahead = Contents {
        schema: 6,
        ..contents()
    };
    let mut saving = Saving::begin(&store(), &ahead, (ID, 0), "eu").await.unwrap();
    let mut file = Vec::new();
    while let Some(bytes) = saving.next().await.unwrap() {
        file.extend(bytes);
    }
    for error in [
        read(&file).unwrap_err(),
        restored(&file, &store()).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, RestoreError::NewerSchema { found: 6, known: 5 }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_is_no_backup_is_said_to_be_none() {
    for file in [&b""[..], b"PK\x03\x04", &[0; 64]] {
        assert!(matches!(Reader::open(file), Err(ReadError::NoBackup)));
    }
}

#[tokio::test]
async fn a_store_that_holds_anything_is_left_alone() {
    let file = saved(&filled().await).await;
    let target = store();
    put(&target, [(b"y".to_vec(), vec![1])]).await;
    let before = everything(&target).await;
    assert!(matches!(
        restored(&file, &target).await,
        Err(RestoreError::NotEmpty)
    ));
    assert_eq!(everything(&target).await, before);
}

#[tokio::test]
async fn a_restore_cut_short_leaves_its_mark_and_the_same_one_finishes_it() {
    let source = filled().await;
    let file = saved(&source).await;
    let target = store();
    let cut = &file[..file.len() / 2];
    assert!(matches!(
        restored(cut, &target).await,
        Err(RestoreError::Backup(ReadError::CutOff { .. }))
    ));
    let mark = target.snapshot().await.unwrap().get(b"b-mark").await.unwrap();
    assert_eq!(mark.unwrap()[..], ID);
    let unfinished = Saving::begin(&target, &contents(), (ID, 0), "eu").await;
    assert!(matches!(unfinished.err().unwrap(), SaveError::Unfinished));

    let mut saving = Saving::begin(&source, &contents(), ([4; 16], 0), "eu")
        .await
        .unwrap();
    let mut other = Vec::new();
    while let Some(bytes) = saving.next().await.unwrap() {
        other.extend(bytes);
    }
    assert!(matches!(
        restored(&other, &target).await,
        Err(RestoreError::OtherUnfinished)
    ));
    restored(&file, &target).await.unwrap();
    assert_eq!(everything(&target).await, everything(&source).await);
}

#[tokio::test]
async fn a_key_outside_of_what_is_kept_is_refused() {
    let source = store();
    put(&source, [(b"m-own".to_vec(), vec![1])]).await;
    let wider = Contents {
        ranges: vec![KeyRange::new(&b"a"[..], &b"z"[..]).unwrap()],
        ..contents()
    };
    let mut saving = Saving::begin(&source, &wider, (ID, 0), "eu").await.unwrap();
    let mut file = Vec::new();
    while let Some(bytes) = saving.next().await.unwrap() {
        file.extend(bytes);
    }
    assert!(matches!(read(&file), Err(RestoreError::Foreign)));
}

#[tokio::test]
async fn somebody_who_writes_during_a_restore_is_noticed() {
    let file = saved(&filled().await).await;
    let target = Arc::new(store());
    let reader = Reader::open(&file[..]).unwrap();
    let beside = Arc::clone(&target);
    let mut first = true;
    let contents = contents();
    let restoring = restore(&*target, &contents, reader, |_| {
        if std::mem::take(&mut first) {
            let mut batch = Batch::blind();
            batch.put("y-late", "v");
            let committed = futures_now(beside.commit(batch));
            assert!(committed.is_committed());
        }
    });
    assert!(matches!(restoring.await, Err(RestoreError::Differs { .. })));
}

/// The memory store never waits.
fn futures_now(future: impl Future<Output = Commit>) -> Commit {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(commit) => commit,
        std::task::Poll::Pending => Commit::Unknown(crate::StoreError::Closed),
    }
}

#[tokio::test]
async fn a_backup_that_broke_off_says_why() {
    let source = filled().await;
    let mut saving = Saving::begin(&source, &contents(), (ID, 0), "eu").await.unwrap();
    let mut file = saving.next().await.unwrap().unwrap();
    file.extend(saving.next().await.unwrap().unwrap());
    file.extend(saving.failed("the store is closed"));
    let error = read(&file).unwrap_err().to_string();
    assert!(
        error.contains("broke off after 4096") && error.contains("the store is closed"),
        "{error}"
    );
}
