//! Commits per second: one batch of 1, 16 and 128 messages at a time, and 64 batches of one message waiting together.
//!
//! A message is four keys, as a send writes them: entry, head, idempotency key, marker. Every commit is synced. The
//! folder is a temporary one: set `TMPDIR` to measure another disk.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use whimbrel_store::{Batch, Epoch, FjallConfig, FjallStore, MemoryStore, Store};

/// Bytes of an entry: a short text and what surrounds it.
const ENTRY_BYTES: usize = 160;

fn add_message(batch: &mut Batch, number: u64) {
    let conversation = (number % 1000).to_be_bytes();
    let number = number.to_be_bytes();
    let key = |kind: &[u8], tail: &[u8]| [&b"app1"[..], &conversation, kind, tail].concat();
    batch.put(key(b"e", &number), vec![7; ENTRY_BYTES]);
    batch.put(key(b"h", b""), vec![7; 48]);
    batch.put(key(b"i", &number), vec![7; 24]);
    batch.put(key(b"m", &number), vec![7; 16]);
}

fn batch_of(messages: u64, next: &mut u64) -> Batch {
    let mut batch = Batch::blind();
    for _ in 0..messages {
        add_message(&mut batch, *next);
        *next += 1;
    }
    batch
}

fn bench_store(c: &mut Criterion, name: &str, store: &Arc<dyn Store>, runtime: &Runtime) {
    let mut group = c.benchmark_group(name);
    let mut next = 0;
    for messages in [1, 16, 128] {
        group.throughput(Throughput::Elements(messages));
        group.bench_function(BenchmarkId::new("batch", messages), |b| {
            b.iter(|| {
                let commit = runtime.block_on(store.commit(batch_of(messages, &mut next)));
                assert!(black_box(commit).is_committed());
            });
        });
    }
    let waiting = 64;
    group.throughput(Throughput::Elements(waiting));
    group.bench_function(BenchmarkId::new("waiting", waiting), |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut commits = JoinSet::new();
                for _ in 0..waiting {
                    let (store, batch) = (Arc::clone(store), batch_of(1, &mut next));
                    commits.spawn(async move { store.commit(batch).await });
                }
                while let Some(commit) = commits.join_next().await {
                    assert!(commit.is_ok_and(|commit| commit.is_committed()));
                }
            });
        });
    });
    group.finish();
}

fn commits(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(Epoch([7; 16])));
    bench_store(c, "memory", &memory, &runtime);
    drop(memory);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = FjallConfig::new(folder.path());
    config.min_free_bytes = 0;
    let fjall: Arc<dyn Store> =
        Arc::new(FjallStore::open(config, Epoch([7; 16])).expect("a new store opens"));
    bench_store(c, "fjall", &fjall, &runtime);
    runtime.block_on(fjall.close());
}

criterion_group! {
    name = benches;
    // Short, so that the tables of one measurement do not weigh on the next.
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_secs(1))
        .measurement_time(std::time::Duration::from_secs(3))
        .sample_size(20);
    targets = commits
}
criterion_main!(benches);
