//! Backup and restore as an operator does them, with the real binary: people chat, a backup is taken, they chat on, everything is
//! lost but the backup, and clients with old cursors find what it holds, all of it, and go on from there.
//!
//! The way through TiKV needs the test programs of `cargo xtask tikv`, and the cluster a `redis-server` besides; without them these are
//! shown as ignored, and with `CI=true` they fail.
#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and says why it is skipped"
)]

mod nodes;
mod people;
mod tool;

#[expect(dead_code, reason = "of what tests share this one needs little")]
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use whimbrel_sdk::{ClientConfig, FixedToken};
use whimbrel_tikv_cluster::{Binaries, Cluster, Options};

use people::{People, Server};
use support::{Mode, Standalone};
use tool::{epoch, fails, keep_keys, succeeds};

const PROCESSES: Mode = Mode::Processes {
    gateways: 1,
    routers: 1,
};

impl Server for Standalone {
    fn client(&self, uid: &str) -> (ClientConfig, Arc<FixedToken>) {
        self.client(uid)
    }
}

fn main() -> ExitCode {
    // Programs of a cluster are started through this one.
    whimbrel_cluster::hold().expect("it becomes what it was told to");
    let trial = |name: &str, test: fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>| {
        Trial::test(name, move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(test());
            Ok::<(), Failed>(())
        })
    };
    let (no_tikv, no_ground) = (tikv().err(), nodes::ground().err());
    let must = std::env::var("CI").is_ok_and(|value| value == "true");
    if let (Some(why), false) = (no_ground, must) {
        eprintln!("SKIPPED: {why}");
    }
    let tests = vec![
        trial("a_backup_of_a_running_node_is_restored", || {
            Box::pin(restored(Mode::OneProcess, Taken::WhileItRuns))
        }),
        trial("a_backup_of_running_processes_is_restored", || {
            Box::pin(restored(PROCESSES, Taken::WhileItRuns))
        }),
        trial("a_backup_of_a_folder_whose_node_was_killed_is_restored", || {
            Box::pin(restored(Mode::OneProcess, Taken::AfterItWasKilled))
        }),
        trial("a_store_moves_into_tikv_and_back", || {
            Box::pin(through_tikv(tikv().unwrap()))
        })
        .with_ignored_flag(no_tikv.is_some() && !must),
        trial(
            "a_cluster_is_backed_up_while_people_write_and_another_goes_on_from_it",
            || Box::pin(nodes::backed_up_and_restored()),
        )
        .with_ignored_flag(no_ground.is_some() && !must),
        trial("what_cannot_be_done_is_said_and_not_done", || Box::pin(refused())),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// What speaks TiKV's protocol, or that it is missing.
fn tikv() -> Result<Binaries, &'static str> {
    Binaries::beside_this_program().ok_or("nothing in target/tikv: run `cargo xtask tikv` where Go is")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    WhileItRuns,
    AfterItWasKilled,
}

async fn restored(mode: Mode, taken: Taken) {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let file = folder.path().join("a.backup");
    std::fs::create_dir_all(&old).unwrap();
    let mut server = Standalone::start(&old, mode, 0, &[]).await;
    let mut people = People::arrive(&server, folder.path()).await;
    people.chat("kept", 20).await;
    let data = old.join("data");
    let backup = || succeeds(&["backup", "--data", text(&data), "--to", text(&file)]);
    if taken == Taken::WhileItRuns {
        backup();
        people.chat("lost", 5).await;
    }
    people.leave().await;
    server.kill();
    if taken == Taken::AfterItWasKilled {
        backup();
    }

    keep_keys(&data, &new.join("data"));
    let said = succeeds(&[
        "restore",
        "--data",
        text(&new.join("data")),
        "--from",
        text(&file),
    ]);
    assert!(said.contains("read back"), "{said}");
    assert_ne!(
        epoch(&data.join("store")),
        epoch(&new.join("data/store")),
        "a restored store is another one to whoever has synced"
    );
    let server = Standalone::start(&new, mode, 0, &[]).await;
    people.come_back_to_what_was_kept(&server).await;
}

/// A store's backup restored into TiKV, and TiKV's into a folder again.
async fn through_tikv(binaries: Binaries) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let old = path("old");
    std::fs::create_dir_all(&old).unwrap();
    let mut server = Standalone::start(&old, Mode::OneProcess, 0, &[]).await;
    let mut people = People::arrive(&server, folder.path()).await;
    people.chat("kept", 20).await;
    people.leave().await;
    server.kill();
    let (embedded, tikv) = (path("embedded.backup"), path("tikv.backup"));
    succeeds(&[
        "backup",
        "--data",
        text(&old.join("data")),
        "--to",
        text(&embedded),
    ]);

    let cluster = Cluster::start(binaries, Options::default()).unwrap();
    let config = path("app-service.toml");
    let write_config = |secret: &str| {
        let mut section = format!(
            "[node]\ncluster = \"eu\"\n[store]\ntikv = [\"{}\"]\n",
            cluster.pd_address()
        );
        if !secret.is_empty() {
            std::fs::write(path("cluster.secret"), secret).unwrap();
            section += "[links]\nsecret_file = \"cluster.secret\"\n";
        }
        std::fs::write(&config, section).unwrap();
    };
    let restore = ["restore", "--config", text(&config), "--from", text(&embedded)];
    write_config("");
    let said = fails(&restore);
    assert!(said.contains("`links.secret_file` is missing"), "{said}");
    let [ours, anothers] = ["5", "7"].map(|digit| digit.repeat(64));
    write_config(&ours);
    succeeds(&restore);
    write_config(&anothers);
    for whatever in [
        &restore[..],
        &["backup", "--config", text(&config), "--to", text(&tikv)],
    ] {
        let said = fails(whatever);
        assert!(
            said.contains("another Whimbrel cluster that is called \"eu\" too"),
            "{said}"
        );
    }
    write_config(&ours);
    let said = fails(&["restore", "--config", text(&config), "--from", text(&embedded)]);
    assert!(said.contains("the store is not empty"), "{said}");
    succeeds(&["backup", "--config", text(&config), "--to", text(&tikv)]);

    let new = path("new");
    keep_keys(&old.join("data"), &new.join("data"));
    succeeds(&[
        "restore",
        "--data",
        text(&new.join("data")),
        "--from",
        text(&tikv),
    ]);
    let server = Standalone::start(&new, Mode::OneProcess, 0, &[]).await;
    people.come_back_to_what_was_kept(&server).await;
}

async fn refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (old, good) = (path("old"), path("good.backup"));
    let data = old.join("data");
    let said = fails(&["backup", "--data", text(&data), "--to", text(&good)]);
    assert!(said.contains("there is no store in") && !data.exists(), "{said}");

    std::fs::create_dir_all(&old).unwrap();
    let server = Standalone::start(&old, Mode::OneProcess, 0, &[]).await;
    let mut people = People::arrive(&server, folder.path()).await;
    people.chat("kept", 3).await;
    people.leave().await;
    succeeds(&["backup", "--data", text(&data), "--to", text(&good)]);
    let said = fails(&["backup", "--data", text(&data), "--to", text(&good)]);
    assert!(said.contains("is there already"), "{said}");
    let said = fails(&["restore", "--data", text(&data), "--from", text(&good)]);
    assert!(said.contains("in use by another process"), "{said}");
    drop(server);
    let said = fails(&["restore", "--data", text(&data), "--from", text(&good)]);
    assert!(said.contains("the store is not empty"), "{said}");
    assert!(succeeds(&["restore", "--check", "--from", text(&good)]).contains("whole"));

    // Damage shows before anything is made.
    let bytes = std::fs::read(&good).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let mut newer = bytes.clone();
    newer[19] = 9;
    let cases: [(&str, &[u8], &str); 4] = [
        ("cut.backup", &bytes[..bytes.len() - 40], "cut off"),
        ("flipped.backup", &flipped, "damaged"),
        ("newer.backup", &newer, "backup format 9"),
        ("none.backup", b"no backup", "no backup of Whimbrel"),
    ];
    for (name, bytes, expected) in cases {
        let (file, new) = (path(name), path("untouched"));
        std::fs::write(&file, bytes).unwrap();
        let said = fails(&["restore", "--data", text(&new), "--from", text(&file)]);
        assert!(said.contains(expected) && said.contains(name), "{said}");
        assert!(!new.exists(), "{name} made something");
    }

    // A node does not serve from half a restore, which is finished by being begun again.
    let half = path("half");
    keep_keys(&data, &half.join("data"));
    tool::begin_a_restore(&half.join("data/store"), &good).await;
    let said = fails(&[
        "standalone",
        "--data",
        text(&half.join("data")),
        "--port-base",
        "0",
    ]);
    assert!(said.contains("a restore that is under way"), "{said}");
    let said = fails(&[
        "backup",
        "--data",
        text(&half.join("data")),
        "--to",
        text(&path("half.backup")),
    ]);
    assert!(said.contains("a restore that was never finished"), "{said}");
    succeeds(&[
        "restore",
        "--data",
        text(&half.join("data")),
        "--from",
        text(&good),
    ]);
    let server = Standalone::start(&half, Mode::OneProcess, 0, &[]).await;
    people.come_back_to_what_was_kept(&server).await;
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the test's own")
}
