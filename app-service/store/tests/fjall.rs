//! The fjall backend under the conformance suite, and what only it does: folders, reopening, failing, a full disk.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
async fn a_newer_format_is_refused_and_left_alone() {
    let folder = temp_folder();
    open(folder.path()).close().await;
    let format = folder.path().join("current/format");
    let text = std::fs::read_to_string(&format)
        .unwrap()
        .replace("store 1", "store 2");
    std::fs::write(&format, text).unwrap();
    let error = FjallStore::open(config(folder.path()), EPOCH).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_corrupt_folder_is_an_error_that_says_so() {
    type Spoil = fn(&Path);
    // What is done, and what the error names besides the folder and the cure.
    let spoil: [(&str, &str, Spoil); 13] = [
        ("garbage in format", "current/format", |f| {
            std::fs::write(f.join("current/format"), [255; 40]).unwrap()
        }),
        ("an epoch cut short", "current/format", |f| {
            std::fs::write(f.join("current/format"), "whimbrel-store 1\nepoch 07").unwrap();
        }),
        ("no format", "current/format", |f| {
            std::fs::remove_file(f.join("current/format")).unwrap()
        }),
        ("no tree", "keyspace", |f| {
            std::fs::remove_dir_all(f.join("current/db/keyspaces/1")).unwrap()
        }),
        ("a stray folder", "keyspaces/x", |f| {
            std::fs::create_dir(f.join("current/db/keyspaces/x")).unwrap()
        }),
        ("no journal", "0.jnl", |f| {
            std::fs::remove_file(f.join("current/db/0.jnl")).unwrap();
        }),
        ("garbage in a manifest's name", "keyspaces/1/current", |f| {
            std::fs::write(f.join("current/db/keyspaces/1/current"), [255; 25]).unwrap();
        }),
        ("a flipped manifest's name", "keyspaces/0/current", |f| {
            let path = f.join("current/db/keyspaces/0/current");
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[0] ^= 0x40;
            std::fs::write(&path, bytes).unwrap();
        }),
        ("no version", "db/version", |f| {
            std::fs::remove_file(f.join("current/db/version")).unwrap();
        }),
        ("an empty version", "db/version", |f| {
            std::fs::write(f.join("current/db/version"), "").unwrap();
        }),
        ("an empty manifest", "keyspaces/1/v", |f| {
            std::fs::write(manifest(f, 1), "").unwrap();
        }),
        ("no manifest", "keyspaces/0/current names v", |f| {
            std::fs::remove_file(manifest(f, 0)).unwrap();
        }),
        ("an empty table", "keyspaces/0/tables/", |f| {
            let tables = std::fs::read_dir(f.join("current/db/keyspaces/0/tables")).unwrap();
            for table in tables {
                std::fs::write(table.unwrap().path(), "").unwrap();
            }
        }),
    ];
    for (name, names, spoil) in spoil {
        let folder = temp_folder();
        let store = open(folder.path());
        assert!(put(&store, "a", "1").await.is_committed());
        store.close().await;
        spoil(folder.path());
        let error = FjallStore::open(config(folder.path()), EPOCH).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{name}: {error:?}");
        let said = error.to_string();
        let place = folder.path().display().to_string();
        for part in [names, &place, "restore a backup, or move the folder away"] {
            assert!(said.contains(part), "{name}: {part:?} is not in {said:?}");
        }
    }
}

/// The manifest of a tree that counts.
fn manifest(folder: &Path, tree: u32) -> PathBuf {
    let tree = folder.join(format!("current/db/keyspaces/{tree}"));
    let current = std::fs::read(tree.join("current")).unwrap();
    let number = u64::from_le_bytes(*current.first_chunk().unwrap());
    tree.join(format!("v{number}"))
}

fn journal(folder: &Path) -> PathBuf {
    folder.join("current/db/0.jnl")
}

fn cut_to(path: &Path, len: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

#[tokio::test]
async fn a_journal_shorter_than_what_was_closed_is_refused_and_stays_refused() {
    let folder = temp_folder();
    let store = open(folder.path());
    for key in ["a", "b", "c"] {
        assert!(put(&store, key, "some value").await.is_committed());
    }
    store.close().await;
    let journal = journal(folder.path());
    let whole = std::fs::read(&journal).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&journal, &whole[..len]).unwrap();
        let error = FjallStore::open(config(folder.path()), EPOCH).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("acknowledged data is missing"), "{len}: {said}");
        assert!(
            said.contains("0.jnl") && said.contains("restore a backup"),
            "{said}"
        );
        // A look at it changes nothing.
        assert_eq!(std::fs::read(&journal).unwrap(), &whole[..len]);
    }
    // Whole again, it opens; and what is torn behind what was closed is cut off.
    for behind in [&b""[..], b"\x01\x02torn"] {
        std::fs::write(&journal, [&whole[..], behind].concat()).unwrap();
        let store = open(folder.path());
        assert_eq!(read(&store, "c").await, Some(b"some value".to_vec()));
        store.close().await;
    }
}

#[tokio::test]
async fn a_journal_without_what_making_the_store_wrote_is_refused() {
    let folder = temp_folder();
    open(folder.path()).close().await;
    // Nothing was ever committed, and the journal is not empty.
    let made = std::fs::metadata(journal(folder.path())).unwrap().len();
    assert!(made > 0);
    for len in 0..made {
        cut_to(&journal(folder.path()), len);
        let error = FjallStore::open(config(folder.path()), EPOCH).unwrap_err();
        assert!(
            error.to_string().contains("acknowledged data is missing"),
            "{len}: {error}"
        );
    }
}

#[tokio::test]
async fn a_store_of_before_the_note_opens_and_has_one_then() {
    let folder = temp_folder();
    open(folder.path()).close().await;
    let note = folder.path().join("current/durable");
    std::fs::remove_file(&note).unwrap();
    cut_to(&journal(folder.path()), 0);
    let store = open(folder.path());
    assert!(note.exists());
    assert!(put(&store, "a", "1").await.is_committed());
    store.close().await;

    // One that cannot be read bounds nothing, and is replaced.
    let whole = std::fs::read(&note).unwrap();
    std::fs::write(&note, "journal ").unwrap();
    let store = open(folder.path());
    assert_eq!(read(&store, "a").await, Some(b"1".to_vec()));
    store.close().await;
    assert_eq!(std::fs::read(&note).unwrap(), whole);
}

#[tokio::test]
async fn a_journal_that_ends_before_what_tables_hold_is_refused() {
    let folder = temp_folder();
    let store = open(folder.path());
    assert!(put(&store, "first", "1").await.is_committed());
    let note = folder.path().join("current/durable");
    let note_before = std::fs::read(&note).unwrap();
    let after_first = written(&journal(folder.path()));
    let tables = folder.path().join("current/db/keyspaces/1/tables");
    for round in 0..u32::MAX {
        let mut batch = Batch::blind();
        batch.put(round.to_be_bytes().to_vec(), vec![1; 30_000]);
        assert!(store.commit(batch).await.is_committed());
        if std::fs::read_dir(&tables).is_ok_and(|mut tables| tables.next().is_some()) {
            break;
        }
    }
    store.close().await;
    // As after a kill: nothing was noted since the store was opened.
    std::fs::write(&note, note_before).unwrap();
    cut_to(&journal(folder.path()), after_first);
    for _ in 0..2 {
        let error = FjallStore::open(config(folder.path()), EPOCH).unwrap_err();
        assert!(error.to_string().contains("tables hold writes up to"), "{error}");
    }
}

/// Bytes of a file but for zeros at its end.
fn written(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last as u64 + 1)
}

#[tokio::test]
async fn a_damaged_journal_with_acknowledged_batches_behind_is_corrupt() {
    let folder = temp_folder();
    let store = open(folder.path());
    for key in ["a", "b", "c", "d"] {
        assert!(put(&store, key, "some value").await.is_committed());
    }
    store.close().await;
    let journal = folder.path().join("current/db/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let at = bytes
        .windows(10)
        .position(|window| window == b"some value")
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    let error = FjallStore::open(config(folder.path()), EPOCH).unwrap_err();
    assert!(error.to_string().contains("0.jnl"), "{error}");
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let folder = temp_folder();
    let mut config = config(folder.path());
    config.journal_bytes = 1;
    let error = FjallStore::open(config, EPOCH).unwrap_err();
    assert!(error.to_string().contains("journal_bytes is 1"), "{error}");
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
