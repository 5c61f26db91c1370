//! Power cuts under the fjall backend: nothing acknowledged is lost, and the store always opens again.
//!
//! A child process writes to a store under the recorder (`whimbrel-powercut`, preloaded), which logs every change and
//! sync of its files, acknowledgements among them. Then the log is cut at random places, and for each cut a model disk
//! says what a machine may find after the power came back: unsynced pages there, gone or torn, unsynced names
//! there or gone. The store is opened on that and compared with what had been acknowledged before the cut. Some of
//! these disks are written to further and cut again.
//!
//! The checker is checked: of a run whose commits' fsyncs are taken out of the log it must find losses.
//!
//! `WHIMBREL_SEED` replays, `WHIMBREL_POWERCUTS` sets the cuts per run (default 20).

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod workload;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use whimbrel_disk::{Disk, Loss, Record, Records, write_as_seen};
use whimbrel_store::conformance::Seed;
use workload::{Acks, Shape, Wrong};

/// Tables and manifests are written every few dozen commits.
const SMALL: Shape = Shape {
    writers: 4,
    commits: 150,
    large_every: 17,
    large_bytes: 20_000,
    memtable_bytes: 128 * 1024,
};

/// The journal passes 64 MiB: it is sealed, a new one begins, the old one is removed.
const ROTATING: Shape = Shape {
    writers: 4,
    commits: 420,
    large_every: 1,
    large_bytes: 50_000,
    memtable_bytes: 4 * 1024 * 1024,
};

/// Runs until one of them has begun a second journal.
const ROTATING_RUNS_MAX: usize = 5;

fn cuts_per_run() -> usize {
    std::env::var("WHIMBREL_POWERCUTS").map_or(20, |cuts| cuts.parse().unwrap())
}

/// In memory where there is such a place; the disk under test is a model anyway.
fn temp_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    }
}

/// The child process: does nothing unless started by [`record_run`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_under_test() {
    if let Ok(root) = std::env::var("WHIMBREL_POWERCUT_ROOT") {
        let shape = Shape::from_env(&std::env::var("WHIMBREL_POWERCUT_SHAPE").unwrap());
        workload::write(Path::new(&root), shape).await;
    }
}

/// The preloaded library, which cargo builds beside this test.
fn recorder() -> PathBuf {
    let beside = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let path = beside.join("libwhimbrel_powercut.so");
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// A run of the writers that went to its end, recorded.
struct Run {
    /// The disk before the run.
    disk: Disk,
    records: Vec<Record>,
}

/// Lets the child write to the disk in `image`, and records it.
fn record_run(image: &Path, shape: Shape) -> Run {
    let workplace = temp_folder();
    let root = workplace.path().canonicalize().unwrap().join("root");
    let disk = Disk::load(image).unwrap();
    write_as_seen(&disk, &root).unwrap();
    let log = workplace.path().join("log");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_under_test", "--nocapture"])
        .env("LD_PRELOAD", recorder())
        .env("WHIMBREL_POWERCUT_ROOT", &root)
        .env("WHIMBREL_POWERCUT_LOG", &log)
        .env("WHIMBREL_POWERCUT_SHAPE", shape.to_env())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{}", output.status, said());
    let records: Vec<_> = Records::open(&log).unwrap().collect::<Result<_, _>>().unwrap();

    // The recorder saw everything: replayed whole, the log gives the very files.
    let mut replayed = disk.clone();
    records.iter().for_each(|record| replayed.apply(record).unwrap());
    assert_eq!(
        replayed.difference(&root).unwrap(),
        None,
        "the recorder missed something"
    );
    Run { disk, records }
}

/// A disk at a place in a run.
struct Cut {
    at: usize,
    loss: Loss,
    disk: Disk,
    acks: Acks,
    /// Decides what of the unsynced is left.
    seed: u64,
}

impl Run {
    /// Cuts at the given places, in order.
    fn cuts(&self, mut places: Vec<usize>, rng: &mut StdRng) -> Vec<Cut> {
        places.sort_unstable();
        let mut disk = self.disk.clone();
        let mut acks_handles = Vec::new();
        let mut acks = Vec::new();
        let mut done = 0;
        let mut cuts = Vec::new();
        for at in places {
            for record in &self.records[done..at] {
                match record {
                    Record::Open { handle, path, .. } if path == "acks" => {
                        acks_handles.push(*handle);
                    }
                    Record::Write { handle, data, .. } if acks_handles.contains(handle) => {
                        acks.extend_from_slice(data);
                    }
                    _ => {}
                }
                disk.apply(record).unwrap();
            }
            done = at;
            let loss = [Loss::All, Loss::Random, Loss::Random, Loss::Nothing][rng.random_range(0..4)];
            cuts.push(Cut {
                at,
                loss,
                disk: disk.clone(),
                acks: workload::parse_acks(&acks),
                seed: rng.random(),
            });
        }
        cuts
    }

    fn random_places(&self, rng: &mut StdRng) -> Vec<usize> {
        (0..cuts_per_run())
            .map(|_| rng.random_range(0..=self.records.len()))
            .collect()
    }

    /// Places around everything that happens to names, where the order of syncs matters most.
    fn places_around_name_changes(&self) -> Vec<usize> {
        let changes = self
            .records
            .iter()
            .enumerate()
            .filter(|(_, record)| match record {
                Record::Open { path, creates, .. } => *creates && path.ends_with(".jnl"),
                Record::Rename { .. } | Record::RemoveFile { .. } => true,
                _ => false,
            });
        // The change and the next call, each with the record that it begins.
        changes
            .flat_map(|(at, _)| at..=at + 3)
            .filter(|at| *at <= self.records.len())
            .collect()
    }

    /// The same run of a store that does not sync what it commits: without the journals' syncs, once the store is made.
    fn without_commits_synced(mut self) -> Self {
        let mut journals = BTreeSet::new();
        let (mut made, mut dropped) = (false, 0);
        self.records.retain(|record| match record {
            Record::Open { handle, path, .. } => {
                if path.ends_with(".jnl") {
                    journals.insert(*handle);
                }
                true
            }
            Record::Rename { to, .. } => {
                made |= to == "store/current";
                true
            }
            Record::Sync { handle } => {
                let drops = made && journals.contains(handle);
                dropped += usize::from(drops);
                !drops
            }
            _ => true,
        });
        assert!(dropped > 0, "the run syncs its journal");
        self
    }

    /// How many journals were begun.
    fn journals(&self) -> usize {
        let begins = |record: &&Record| matches!(record, Record::Open { path, creates: true, .. } if path.ends_with(".jnl"));
        self.records.iter().filter(begins).count()
    }
}

/// An empty disk, but for the file of acknowledgements.
fn empty_disk() -> TempDir {
    let image = temp_folder();
    std::fs::write(image.path().join("acks"), "").unwrap();
    image
}

/// What the store looks like after `cut`, acknowledgements of earlier runs in `before` included.
fn check(cut: &Cut, shape: Shape, before: &Acks) -> Result<TempDir, Wrong> {
    let (checked, image) = (temp_folder(), temp_folder());
    for copy in [&checked, &image] {
        cut.disk
            .crash(cut.loss, &mut StdRng::seed_from_u64(cut.seed), copy.path())
            .unwrap();
    }
    let mut acks = before.clone();
    acks.extend(cut.acks.iter().map(|(writer, number)| (*writer, *number)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(workload::check(&checked.path().join("store"), shape, &acks))?;
    // The next run begins its own; the caller keeps what was acknowledged so far.
    std::fs::write(image.path().join("acks"), "").unwrap();
    Ok(image)
}

#[test]
fn after_any_power_cut_the_store_opens_and_nothing_acknowledged_is_lost() {
    let seed = Seed::from_env();
    let mut rng = StdRng::seed_from_u64(seed.0);
    let mut image = empty_disk();
    let mut before = Acks::new();
    for round in 0..3 {
        let run = record_run(image.path(), SMALL);
        let places = run.random_places(&mut rng);
        let next = rng.random_range(0..places.len());
        let cuts = run.cuts(places, &mut rng);
        for (i, cut) in cuts.iter().enumerate() {
            let left = check(cut, SMALL, &before);
            let left = left.unwrap_or_else(|wrong| {
                panic!(
                    "round {round}, record {} of {}, {:?}: {wrong}",
                    cut.at,
                    run.records.len(),
                    cut.loss
                )
            });
            if i == next {
                image = left;
            }
        }
        before.extend(cuts[next].acks.iter().map(|(writer, number)| (*writer, *number)));
    }
}

#[test]
fn a_power_cut_while_the_store_is_made_leaves_nothing_or_a_store() {
    let seed = Seed::from_env();
    let mut rng = StdRng::seed_from_u64(seed.0);
    let run = record_run(
        empty_disk().path(),
        Shape {
            writers: 1,
            commits: 1,
            ..SMALL
        },
    );
    let made = run
        .records
        .iter()
        .position(|record| matches!(record, Record::Rename { to, .. } if to == "store/current"));
    let made = made.expect("the store is renamed into place");
    for at in 0..=made + 5 {
        for cut in run.cuts(vec![at; 3], &mut rng) {
            if let Err(wrong) = check(&cut, SMALL, &Acks::new()) {
                panic!("record {at}, {:?}: {wrong}", cut.loss);
            }
        }
    }
}

#[test]
fn power_cuts_around_the_change_of_journals_lose_nothing() {
    let seed = Seed::from_env();
    let mut rng = StdRng::seed_from_u64(seed.0);
    // A full journal is noticed by a background thread, for which a run on a busy machine may be over too soon.
    let run = (0..ROTATING_RUNS_MAX)
        .map(|_| record_run(empty_disk().path(), ROTATING))
        .find(|run| run.journals() >= 2)
        .expect("a second journal is begun");
    let around = run.places_around_name_changes();
    let count = cuts_per_run().div_ceil(2);
    let places = (0..count)
        .map(|_| around[rng.random_range(0..around.len())])
        .collect();
    for cut in run.cuts(places, &mut rng) {
        if let Err(wrong) = check(&cut, ROTATING, &Acks::new()) {
            panic!(
                "record {} of {}, {:?}: {wrong}",
                cut.at,
                run.records.len(),
                cut.loss
            );
        }
    }
}

#[test]
fn without_the_fsync_the_checker_finds_losses() {
    let seed = Seed::from_env();
    let mut rng = StdRng::seed_from_u64(seed.0);
    let run = record_run(empty_disk().path(), SMALL).without_commits_synced();
    let places = run.random_places(&mut rng);
    let cuts = run.cuts(places, &mut rng);
    let lost = cuts
        .iter()
        .filter(|cut| cut.loss != Loss::Nothing)
        .filter(|cut| check(cut, SMALL, &Acks::new()).is_err_and(|wrong| wrong.is_loss()))
        .count();
    assert!(lost > 0, "{} cuts and no loss was found", cuts.len());
}
