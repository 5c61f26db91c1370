//! The commands, and the files of a deployment that an operator keeps beside the backup.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use whimbrel_store::{Batch, Epoch, FjallConfig, FjallStore, Store as _};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(arguments)
        .output()
        .expect("the binary starts")
}

/// What the command answered.
pub(crate) fn succeeds(arguments: &[&str]) -> String {
    let ran = run(arguments);
    assert!(ran.status.success(), "{arguments:?}: {ran:?}");
    String::from_utf8(ran.stdout).expect("an answer is text")
}

/// What the command complained of.
pub(crate) fn fails(arguments: &[&str]) -> String {
    let ran = run(arguments);
    assert!(!ran.status.success(), "{arguments:?}: {ran:?}");
    String::from_utf8(ran.stderr).expect("a complaint is text")
}

/// Copies everything of a data folder that is no message: what clients pinned, and what signs tokens.
pub(crate) fn keep_keys(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in ["format", "keys", "apps"] {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(from.join(name))
            .arg(to)
            .status()
            .expect("cp starts");
        assert!(copied.success(), "{name} is copied");
    }
}

/// The epoch of an embedded store.
pub(crate) fn epoch(store: &Path) -> String {
    let format = fs::read_to_string(store.join("current/format")).expect("a store");
    let line = format.lines().find(|line| line.starts_with("epoch "));
    line.expect("a store has an epoch").to_owned()
}

/// Leaves a store as a restore of this backup leaves it that is killed right after its beginning.
pub(crate) async fn begin_a_restore(store: &Path, backup: &Path) {
    let file = fs::File::open(backup).unwrap();
    let id = whimbrel_store::backup::Reader::open(file).unwrap().header().id;
    let store = FjallStore::open(FjallConfig::new(store), Epoch([1; 16])).unwrap();
    let mut batch = Batch::blind();
    batch.put(whimbrel_app_service::keys::restore_mark(), id.to_vec());
    assert!(store.commit(batch).await.is_committed());
    store.close().await;
}
