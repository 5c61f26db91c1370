//! What bad input gets, end to end: a table of rows against the real binary.
//!
//! Each row says what a peer, a client or an operator gets for one kind of bad input. It is played many times while two
//! users chat over the same server, and holds when every attempt got exactly that, no message of the two was late or
//! lost and neither lost their connection, the server's memory stayed flat, and every connection and held byte of the
//! attacker's is gone from its gauges. `docs/protocol.md` is held to the same answers, word for word.
//!
//! | module | rows |
//! |---|---|
//! | `strangers` | before a session: hellos, handshakes, tokens |
//! | `sessions` | with keys: records and frames |
//! | `requests` | well-formed frames that ask for the wrong thing |
//! | `web` | nonsense over HTTP |
//! | `waits` | peers who begin and do not go on |
//! | `ground` | data folders, ports, configurations |
//! | `disk` | no room on the disk |
//! | `directory` | descriptors, and clocks that are off |
//!
//! The attackers come from addresses of 127/8, each from its own few, because a gateway limits failed handshakes by
//! address; one row is about that limit. `cargo test -p whimbrel --test bad_input -- --nocapture` prints the tables.
#![cfg(target_os = "linux")]

mod bystanders;
mod deployment;
mod directory;
mod disk;
mod document;
mod door;
mod ground;
mod peer;
mod requests;
mod scene;
mod session;
mod sessions;
mod strangers;
mod table;
mod waits;
mod web;

use std::path::Path;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use whimbrel_protocol::code::Code;

use crate::bystanders::Bystanders;
use crate::deployment::Deployment;
use crate::directory::Directory;
use crate::disk::Disk;
use crate::door::Door;
use crate::ground::Ground;
use crate::scene::{KEPT_SESSIONS, Scene};
use crate::table::{Gets, Table};

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

#[test]
fn what_bad_input_on_the_wire_gets() -> anyhow::Result<()> {
    let runtime = runtime()?;
    let mut deployment = Deployment::ephemeral()?;
    let door = Door::of(runtime.handle(), &deployment)?;
    let bystanders = Bystanders::new(runtime.handle(), &deployment, &door)?;
    let scene = Scene::new(runtime.handle(), &deployment, door, &bystanders)?;
    let mut table = Table::new(runtime.handle(), &mut deployment, bystanders, KEPT_SESSIONS);
    table.play(&scene, strangers::ROWS);
    table.play(&scene, sessions::ROWS);
    table.play(&scene, requests::ROWS);
    table.play(&scene, web::ROWS);
    table.finish("What bad input on the wire gets")
}

#[test]
fn what_a_peer_gets_that_does_not_go_on() -> anyhow::Result<()> {
    let runtime = runtime()?;
    let mut deployment = Deployment::ephemeral()?;
    let door = Door::of(runtime.handle(), &deployment)?;
    let bystanders = Bystanders::new(runtime.handle(), &deployment, &door)?;
    let mut table = Table::new(runtime.handle(), &mut deployment, bystanders, 0);
    // All kinds side by side, twice: the time of the slowest is what a wave takes.
    table.measure(
        "all of those below, 64 peers each",
        "what is said below",
        waits::peers(),
        || waits::sit_out_all(&door),
        || waits::sit_out_all(&door),
    );
    table.finish("What a peer gets that does not go on")?;
    waits::print();
    Ok(())
}

#[test]
fn what_bad_ground_gets() -> anyhow::Result<()> {
    let runtime = runtime()?;
    let folders = tempfile::tempdir()?;
    let (data, seed) = (folders.path().join("data"), folders.path().join("seed"));
    let flags = |folder: &Path| ["--data".into(), folder.to_owned()];
    let seeding = Deployment::start(&flags(&seed), &[]).context("making a data folder")?;
    disk::begin(&mut Door::of(runtime.handle(), &seeding)?.session("mallory")?)?;
    drop(seeding);
    let mut deployment = Deployment::start(&flags(&data), &[])?;
    let door = Door::of(runtime.handle(), &deployment)?;
    let bystanders = Bystanders::new(runtime.handle(), &deployment, &door)?;
    let ground = Ground::new(&deployment, &data, &seed)?;
    let mut table = Table::new(runtime.handle(), &mut deployment, bystanders, 0);
    table.play(&ground, ground::ROWS);
    table.finish("What bad ground gets")
}

#[test]
fn what_a_full_disk_gets() -> anyhow::Result<()> {
    let runtime = runtime()?;
    let disk = Disk::new()?;
    let mut deployment = Deployment::start(
        &["--processes".into(), "--data".into(), disk.data()],
        &[(
            "WHIMBREL__STORE__MIN_FREE_BYTES",
            disk.min_free_bytes()?.to_string(),
        )],
    )?;
    let door = Door::of(runtime.handle(), &deployment)?;
    let mut bystanders = Bystanders::new(runtime.handle(), &deployment, &door)?;
    let mut session = door.session("mallory")?;
    let conversation = disk::begin(&mut session)?;
    let before = deployment.resident_bytes(None)?;
    // Few: each time fills a disk and empties it again, with everything that waited behind it.
    for nth in 1..=3 {
        disk::run_out(
            &disk,
            &mut session,
            &conversation,
            runtime.handle(),
            &mut bystanders,
        )
        .with_context(|| format!("time {nth}; {}", deployment.said()))?;
    }
    deployment.check_sane()?;
    let grown = deployment.resident_bytes(None)? - before;
    disk::print(Gets::Code(Code::StoreReadOnly), grown)
}

#[test]
fn what_a_client_makes_of_lies() -> anyhow::Result<()> {
    let runtime = runtime()?;
    let mut deployment = Deployment::ephemeral()?;
    let door = Door::of(runtime.handle(), &deployment)?;
    let bystanders = Bystanders::new(runtime.handle(), &deployment, &door)?;
    let directory = Directory::new(runtime.handle(), &deployment, door)?;
    let mut table = Table::new(runtime.handle(), &mut deployment, bystanders, 0);
    table.play(&directory, directory::ROWS);
    table.finish("What a client makes of lies")
}
