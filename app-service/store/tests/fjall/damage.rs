//! Folders that are spoilt, and journals that end too early: refused, with the place and the cure.

use std::path::PathBuf;

use super::*;

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
