//! Disks that fill: the watermark before, what becomes of commits, and how the store goes on afterwards.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;

/// Waits for what the committer does in the background. The bound is for a test that hangs, not a hope.
async fn until(store: &FjallStore, what: &str, holds: impl Fn(&Readiness) -> bool) {
    let wait = async {
        while !holds(&store.readiness()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    assert!(
        tokio::time::timeout(limit, wait).await.is_ok(),
        "never {what}: {:?}",
        store.readiness()
    );
}

#[tokio::test]
async fn below_the_watermark_writes_are_refused_and_reads_go_on() {
    let folder = temp_folder();
    let store = open(folder.path());
    assert!(put(&store, "a", "1").await.is_committed());
    store.close().await;

    let mut config = config(folder.path());
    config.min_free_bytes = u64::MAX;
    let store = FjallStore::open(config, EPOCH).unwrap();
    assert!(matches!(store.readiness(), Readiness::WritesRefused { .. }));
    let commit = put(&store, "a", "2").await;
    assert!(
        matches!(commit, Commit::Refused(StoreError::OutOfSpace { .. })),
        "{commit:?}"
    );
    assert_eq!(read(&store, "a").await, Some(b"1".to_vec()));
    store.close().await;
}

/// A file system of `mib` MiB in memory, with `ballast_mib` of it taken by a file. `None` without the right to
/// mount.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn mount(mib: usize, ballast_mib: usize) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: mounting a small file system needs root");
            return None;
        }
        std::fs::write(folder.path().join("ballast"), vec![1; ballast_mib << 20]).unwrap();
        Some(Self { folder })
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn drop_ballast(&self) {
        std::fs::remove_file(self.folder.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

/// Commits 50 KB each until one is not committed; how many were, and what stopped it.
async fn fill(store: &FjallStore, from: u32) -> (u32, Commit) {
    for i in from.. {
        let mut batch = Batch::blind();
        // Does not compress to nothing.
        let value: Vec<u8> = (0..50_000u32)
            .map(|b| (b.wrapping_mul(i + 7) >> 3) as u8)
            .collect();
        batch.put(i.to_be_bytes().to_vec(), value);
        match store.commit(batch).await {
            Commit::Committed => {}
            stopped => return (i, stopped),
        }
    }
    unreachable!("a small disk fills")
}

#[tokio::test]
async fn the_watermark_stops_writes_before_the_disk_is_full_and_lets_them_go_on_afterwards() {
    let Some(disk) = SmallDisk::mount(48, 8) else {
        return;
    };
    let mut config = config(&disk.store());
    config.memtable_bytes = 2 << 20;
    config.min_free_bytes = 8 << 20;
    let store = FjallStore::open(config, EPOCH).unwrap();
    let (committed, stopped) = fill(&store, 0).await;
    assert!(
        matches!(stopped, Commit::Refused(StoreError::OutOfSpace { .. })),
        "{stopped:?}"
    );
    let snapshot = store.snapshot().await.unwrap();
    for i in 0..committed {
        assert!(snapshot.get(&i.to_be_bytes()).await.unwrap().is_some(), "{i}");
    }
    drop(snapshot);
    disk.drop_ballast();
    until(&store, "ready again", |readiness| *readiness == Readiness::Ready).await;
    assert!(put(&store, "more", "x").await.is_committed());
    store.close().await;
}

#[tokio::test]
async fn a_disk_that_somebody_else_filled_still_serves_reads() {
    let Some(disk) = SmallDisk::mount(48, 8) else {
        return;
    };
    let mut config = config(&disk.store());
    config.min_free_bytes = 4 << 20;
    let store = FjallStore::open(config, EPOCH).unwrap();
    assert!(put(&store, "a", "1").await.is_committed());
    // Fails when the file system is full.
    _ = std::fs::write(disk.folder.path().join("other"), vec![1; 48 << 20]);
    let (_, stopped) = fill(&store, 0).await;
    assert!(
        matches!(stopped, Commit::Unknown(_) | Commit::Refused(_)),
        "{stopped:?}"
    );
    until(&store, "refusing writes", |r| {
        matches!(r, Readiness::WritesRefused { .. })
    })
    .await;
    assert_eq!(read(&store, "a").await, Some(b"1".to_vec()));
    assert!(matches!(put(&store, "a", "2").await, Commit::Refused(_)));

    std::fs::remove_file(disk.folder.path().join("other")).unwrap();
    disk.drop_ballast();
    until(&store, "ready again", |readiness| *readiness == Readiness::Ready).await;
    until_committed(&store).await;
    assert_eq!(read(&store, "a").await, Some(b"1".to_vec()));
    store.close().await;
}

/// Right after the space came back the poisoned database is still to be reopened.
async fn until_committed(store: &FjallStore) {
    while !put(store, "afterwards", "x").await.is_committed() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_full_disk_is_unknown_or_refused_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount(48, 16) else {
        return;
    };
    let mut config = config(&disk.store());
    config.memtable_bytes = 2 << 20;
    let store = FjallStore::open(config.clone(), EPOCH).unwrap();
    let (committed, stopped) = fill(&store, 0).await;
    assert!(
        matches!(stopped, Commit::Unknown(_) | Commit::Refused(_)),
        "{stopped:?}"
    );
    assert!(committed > 100, "{committed}");

    disk.drop_ballast();
    until(&store, "ready again", |readiness| *readiness == Readiness::Ready).await;
    assert!(put(&store, "more", "x").await.is_committed());
    store.close().await;
    let store = FjallStore::open(config, EPOCH).unwrap();
    let snapshot = store.snapshot().await.unwrap();
    for i in 0..committed {
        assert!(
            snapshot.get(&i.to_be_bytes()).await.unwrap().is_some(),
            "{i} of {committed}"
        );
    }
    store.close().await;
}
