//! What the process under test does, and what must be left of it.
//!
//! Writers commit numbered batches: an entry and the writer's head, together. When the commit is acknowledged the
//! writer says so in the file `acks`, which stands for the world outside. Entries can be told from their numbers, so
//! the checker needs nothing but the store and the acknowledgements.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use whimbrel_store::{
    Batch, Commit, Direction, Epoch, FjallConfig, FjallStore, KeyRange, OpenError, Snapshot, Store,
};

/// How a run differs from another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) writers: u64,
    pub(crate) commits: u64,
    /// Every this many entries is large.
    pub(crate) large_every: u64,
    pub(crate) large_bytes: u64,
    pub(crate) memtable_bytes: u64,
}

impl Shape {
    pub(crate) fn to_env(self) -> String {
        let Self {
            writers,
            commits,
            large_every,
            large_bytes,
            memtable_bytes,
        } = self;
        format!("{writers} {commits} {large_every} {large_bytes} {memtable_bytes}")
    }

    pub(crate) fn from_env(text: &str) -> Self {
        let numbers: Vec<u64> = text.split(' ').map(|number| number.parse().unwrap()).collect();
        let [writers, commits, large_every, large_bytes, memtable_bytes] = numbers[..] else {
            panic!("five numbers: {text:?}")
        };
        Self {
            writers,
            commits,
            large_every,
            large_bytes,
            memtable_bytes,
        }
    }

    fn config(self, folder: &Path) -> FjallConfig {
        let mut config = FjallConfig::new(folder);
        config.memtable_bytes = self.memtable_bytes;
        config.min_free_bytes = 0;
        config
    }

    fn value(self, writer: u64, number: u64) -> Vec<u8> {
        let len = if number.is_multiple_of(self.large_every) {
            self.large_bytes
        } else {
            20 + number * 37 % 400
        };
        // Does not compress, and is never zero.
        let mut state = writer << 32 | number;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8 | 1
            })
            .collect()
    }
}

/// Number of each writer's last acknowledged batch.
pub(crate) type Acks = BTreeMap<u64, u64>;

/// Reads what the writers said so far.
pub(crate) fn parse_acks(text: &[u8]) -> Acks {
    let text = std::str::from_utf8(text).unwrap();
    text.lines()
        .map(|line| {
            let (writer, number) = line.split_once(' ').unwrap();
            (writer.parse().unwrap(), number.parse().unwrap())
        })
        .collect()
}

fn entry_key(writer: u64, number: u64) -> Vec<u8> {
    [&b"entry"[..], &writer.to_be_bytes(), &number.to_be_bytes()].concat()
}

fn head_key(writer: u64) -> Vec<u8> {
    [&b"head"[..], &writer.to_be_bytes()].concat()
}

async fn head(snapshot: &dyn Snapshot, writer: u64) -> u64 {
    let head = snapshot.get(&head_key(writer)).await.unwrap();
    head.map_or(0, |head| u64::from_be_bytes(head[..].try_into().unwrap()))
}

/// Goes on from where the store stands.
pub(crate) async fn write(root: &Path, shape: Shape) {
    let store = FjallStore::open(shape.config(&root.join("store")), Epoch([7; 16])).unwrap();
    let writers: Vec<_> = (0..shape.writers)
        .map(|writer| {
            let store = store.clone();
            let mut acks = File::options().append(true).open(root.join("acks")).unwrap();
            tokio::spawn(async move {
                let first = head(&*store.snapshot().await.unwrap(), writer).await + 1;
                for number in first..first + shape.commits {
                    let mut batch = Batch::blind();
                    batch.insert(entry_key(writer, number), shape.value(writer, number));
                    batch.put(head_key(writer), number.to_be_bytes().to_vec());
                    match store.commit(batch).await {
                        Commit::Committed => {}
                        other => panic!("{other:?}"),
                    }
                    acks.write_all(format!("{writer} {number}\n").as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    store.close().await;
}

/// What is wrong with a store after a power cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("the store does not open: {0}")]
    DoesNotOpen(OpenError),
    #[error("acknowledged data is lost: {0}")]
    Lost(String),
}

impl Wrong {
    /// Whether acknowledged data is gone, as the checker found or the store itself noticed.
    pub(crate) fn is_loss(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::DoesNotOpen(error) => error.to_string().contains("acknowledged data is missing"),
        }
    }
}

/// Opens the store in `folder` and compares it with what was acknowledged.
pub(crate) async fn check(folder: &Path, shape: Shape, acks: &Acks) -> Result<(), Wrong> {
    let store = FjallStore::open(shape.config(folder), Epoch([7; 16])).map_err(Wrong::DoesNotOpen)?;
    let snapshot = store.snapshot().await.unwrap();
    let mut result = Ok(());
    for writer in 0..shape.writers {
        let acked = acks.get(&writer).copied().unwrap_or(0);
        if let Err(what) = check_writer(&*snapshot, shape, writer, acked).await {
            result = Err(Wrong::Lost(format!(
                "writer {writer}, acknowledged {acked}: {what}"
            )));
        }
    }
    // It must also go on from there.
    let mut batch = Batch::blind();
    batch.put("afterwards", "x");
    assert!(store.commit(batch).await.is_committed());
    store.close().await;
    result
}

async fn check_writer(snapshot: &dyn Snapshot, shape: Shape, writer: u64, acked: u64) -> Result<(), String> {
    let head = head(snapshot, writer).await;
    if head < acked {
        return Err(format!("head is {head}"));
    }
    let mut next = Some(KeyRange::new(entry_key(writer, 0), entry_key(writer, u64::MAX)).unwrap());
    let mut expected = 1;
    while let Some(range) = next {
        let page = snapshot
            .scan(range, 500, Direction::Forward)
            .await
            .map_err(|e| e.to_string())?;
        for (key, value) in page.entries {
            if key != entry_key(writer, expected) || value != shape.value(writer, expected) {
                return Err(format!("entry {expected} is missing or different"));
            }
            expected += 1;
        }
        next = page.next;
    }
    if expected != head + 1 {
        return Err(format!("head is {head}, entries end at {}", expected - 1));
    }
    Ok(())
}
