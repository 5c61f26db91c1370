//! Every input that a fuzzer kept, and every seed, run again: what was found once stays found.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use whimbrel_fuzz_targets::{TARGETS, Target};

/// Bytes and files of a corpus at most: it is in the repository and runs in every test run.
const CORPUS_BYTES_MAX: u64 = 200 * 1024;
const CORPUS_FILES_MAX: usize = 600;

fn fuzz_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn corpus(target: &Target) -> Vec<PathBuf> {
    let folder = fuzz_folder().join("corpus").join(target.name);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic_about(&folder, &error))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn panic_about(folder: &std::path::Path, error: &std::io::Error) -> ! {
    panic!(
        "{}: {error}: each target has its corpus in the repository",
        folder.display()
    )
}

/// Runs all inputs of a target; a failing one is named before it fails.
fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    for seed in (target.seeds)() {
        println!("seed {}", data_encoding::HEXLOWER.encode(&seed));
        (target.run)(&seed);
    }
    for file in corpus(target) {
        println!("{}", file.display());
        (target.run)(&fs::read(file).unwrap());
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed_and_has_a_fuzzer() {
            let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, BTreeSet::from([$(stringify!($name)),*]));
            let binaries: BTreeSet<String> = fs::read_dir(fuzz_folder().join("fuzz_targets"))
                .unwrap()
                .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            assert_eq!(binaries, names.into_iter().map(str::to_owned).collect());
        }
    };
}

replays!(hello records frames messages requests session directory lbs);

#[test]
fn corpora_are_small_enough_for_the_repository() {
    for target in TARGETS {
        let files = corpus(&target);
        let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert!(
            !files.is_empty() && files.len() <= CORPUS_FILES_MAX && bytes <= CORPUS_BYTES_MAX,
            "{}: {} files, {bytes} bytes: run `cargo xtask fuzz` to make it small",
            target.name,
            files.len()
        );
    }
}
