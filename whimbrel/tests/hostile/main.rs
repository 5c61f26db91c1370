//! Hostile clients in numbers, and users who chat on beside them.
//!
//! Each attack is a crowd of plain sockets from addresses of 127/8 that do one bad thing together for some seconds,
//! against the real binary with each role in a process of its own. The seconds count from when a quarter of the crowd has got as
//! far as their attack begins; one whose crowd does not get there proves nothing, and fails. An attack is withstood when, all
//! the while,
//!
//! - two users who were logged in before chat on: no message takes longer than [`bystanders::DELIVERED_WITHIN`] from the
//!   call to the other's event, none is lost, and neither loses the connection;
//! - a newcomer who tries again as an SDK does is in within [`NEWCOMER_WITHIN`];
//! - the gateway's resident memory keeps below [`memory_max`];
//!
//! and when afterwards the gateway's gauges of connections and of held and owed bytes fall back to what they were.
//!
//! `cargo xtask test` plays it with 1,000 connections for each attack. The measured run, in a release build:
//!
//! ```text
//! WHIMBREL_HOSTILE_CONNECTIONS=15000 WHIMBREL_HOSTILE_SECONDS=20 WHIMBREL_HOSTILE_JSON=hostile.json \
//!     cargo test --release -p whimbrel --test hostile -- --nocapture
//! ```
#![cfg(target_os = "linux")]

mod attacks;
#[expect(dead_code, reason = "shared with the tests of bad input, which use the rest")]
#[path = "../bad_input/bystanders.rs"]
mod bystanders;
mod crowd;
#[expect(dead_code, reason = "shared with the tests of bad input, which use the rest")]
#[path = "../bad_input/deployment.rs"]
mod deployment;
mod descriptors;
#[expect(dead_code, reason = "shared with the tests of bad input, which use the rest")]
#[path = "../bad_input/door.rs"]
mod door;
#[expect(dead_code, reason = "shared with the tests of bad input, which use the rest")]
#[path = "../bad_input/peer.rs"]
mod peer;
mod report;
#[expect(dead_code, reason = "shared with the tests of bad input, which use the rest")]
#[path = "../bad_input/session.rs"]
mod session;
mod table;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::runtime::{Handle, Runtime};

use crate::attacks::{ATTACKS, Attack};
use crate::bystanders::Bystanders;
use crate::crowd::Crowd;
use crate::deployment::Deployment;
use crate::door::Door;
use crate::report::{Outcome, Samples};

/// Connections of each attack unless `WHIMBREL_HOSTILE_CONNECTIONS` says otherwise.
const CONNECTIONS: usize = 1_000;
/// For how long each goes on unless `WHIMBREL_HOSTILE_SECONDS` says otherwise.
const SECONDS: usize = 3;
/// Connections that the gateway takes beyond an attack's: far more than users and tools need, far fewer than the attack
/// that wants all of them.
const ROOM: usize = 200;
/// A newcomer is in within this, refusals and second tries included. The bound is for a debug build that shares two cores
/// with the attack; the measured figure is in the table.
const NEWCOMER_WITHIN: Duration = Duration::from_secs(15);
/// Between two newcomers, and between two tries of one.
const NEWCOMER_PAUSE: Duration = Duration::from_millis(250);
/// Between two messages of the users.
const PACE: Duration = Duration::from_millis(20);
/// By then a quarter of a crowd of so many has got as far as their attack begins: a debug build that shares two cores with its
/// attackers and the users lets at least a hundred in a second.
fn attacks_within(connections: usize) -> Duration {
    let ms = u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(10);
    Duration::from_secs(30).saturating_add(Duration::from_millis(ms))
}
/// One test at a time: each would be told of the other's load.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
/// Everything of an attack is gone within this: the longest that a gateway waits for anybody is a half record's 20 s.
const GONE_WITHIN: Duration = Duration::from_secs(40);

/// What the gateway's memory may grow to while `connections` attack: their state, what is owed to them (each as much as a session's
/// pushes collapse at, and what comes on top of one read of its requests; all together the gateway's own bound), what is held of
/// unfinished things (its bound), and slack of the allocator.
const fn memory_max(before_bytes: i64, connections: usize) -> i64 {
    #[expect(
        clippy::cast_possible_wrap,
        reason = "a number of connections is far below 2^63"
    )]
    let connections = connections as i64;
    let (mib, owed_each) = (1024 * 1024, connections * 272 * 1024);
    let owed = if owed_each < 256 * mib {
        owed_each
    } else {
        256 * mib
    };
    before_bytes + (32 + 64) * mib + owed + connections * 16 * 1024
}

fn setting(name: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is {text:?}, expected a number")),
        Err(_) => Ok(default),
    }
}

/// Until it is dropped no other test of this file runs.
fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?)
}

#[test]
fn users_chat_on_beside_crowds_of_hostile_clients() -> anyhow::Result<()> {
    let _alone = alone();
    let connections = setting("WHIMBREL_HOSTILE_CONNECTIONS", CONNECTIONS)?;
    let seconds = setting("WHIMBREL_HOSTILE_SECONDS", SECONDS)?;
    let lasts = Duration::from_secs(u64::try_from(seconds)?);
    let _limit = whimbrel_host::RawFdLimit::raise_to_hard();
    let (users, attackers) = (runtime(1)?, runtime(1)?);
    let mut deployment = Deployment::start(
        &["--ephemeral", "--processes"],
        &[(
            "WHIMBREL__GATEWAY__CONNECTIONS_MAX",
            (connections + ROOM).to_string(),
        )],
    )?;
    let door = Arc::new(Door::of(users.handle(), &deployment)?);
    let mut bystanders = Bystanders::new(users.handle(), &deployment, &door)?;
    let mut outcomes = vec![play(
        users.handle(),
        &mut deployment,
        &mut bystanders,
        &door,
        None,
        lasts,
    )?];
    for (attack, network) in ATTACKS.iter().zip(1..) {
        let crowd = Crowd::new(attackers.handle(), &door, connections, network);
        let outcome = play(
            users.handle(),
            &mut deployment,
            &mut bystanders,
            &door,
            Some((attack, crowd)),
            lasts,
        )
        .with_context(|| format!("beside the attack {:?}; {}", attack.name, deployment.said()))?;
        outcomes.push(outcome);
        settle(users.handle(), &deployment).with_context(|| format!("after the attack {:?}", attack.name))?;
    }
    report::print(connections, lasts, &outcomes)?;
    deployment.check_sane()
}

/// The users chat and newcomers come while the attack goes on; without one, for comparison.
fn play(
    users: &Handle,
    deployment: &mut Deployment,
    bystanders: &mut Bystanders,
    door: &Arc<Door>,
    attack: Option<(&'static Attack, Crowd)>,
    lasts: Duration,
) -> anyhow::Result<Outcome> {
    let before_bytes = deployment.resident_bytes(Some("gateway"))?;
    let (name, crowd) = match attack {
        Some((attack, crowd)) => {
            crowd.begin(attack)?;
            (attack.name, Some((attack, crowd)))
        }
        None => ("nobody attacks", None),
    };
    let over = Arc::new(AtomicBool::new(false));
    let newcomers = {
        let (door, over) = (Arc::clone(door), Arc::clone(&over));
        std::thread::spawn(move || come_until(&door, &over))
    };
    let mut chat = Samples::default();
    let mut most_bytes = before_bytes;
    let connections = crowd.as_ref().map_or(0, |(_, crowd)| crowd.connections());
    let mut attacks = crowd.is_none();
    let mut until = Instant::now() + lasts;
    let latest = Instant::now() + attacks_within(connections);
    // Should a quarter of the crowd not get there in time, its end says so.
    while Instant::now() < until || !(attacks || Instant::now() > latest) || !newcomers.is_finished() {
        if !attacks && crowd.as_ref().is_some_and(|(_, crowd)| crowd.attacks()) {
            attacks = true;
            until = Instant::now() + lasts;
        }
        let begun = attacks || Instant::now() > latest;
        over.store(begun && Instant::now() >= until, Relaxed);
        let took = users.block_on(async {
            let took = bystanders.exchange().await;
            tokio::time::sleep(PACE).await;
            took
        })?;
        chat.add(took);
        most_bytes = most_bytes.max(deployment.resident_bytes(Some("gateway"))?);
    }
    let Ok(newcomers) = newcomers.join() else {
        bail!("a newcomer panicked");
    };
    let bound = memory_max(before_bytes, connections);
    ensure!(
        most_bytes <= bound,
        "the gateway's memory grew from {before_bytes} to {most_bytes} bytes, expected at most {bound}"
    );
    deployment.check_sane()?;
    let tally = crowd.map(|(attack, crowd)| crowd.end(attack)).transpose()?;
    Ok(Outcome {
        name,
        tally: tally.unwrap_or_default(),
        chat,
        newcomers: newcomers?,
        before_bytes,
        most_bytes,
    })
}

/// Newcomers, one after the other, until it is over: how long each took to be in.
fn come_until(door: &Door, over: &AtomicBool) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    loop {
        let began = Instant::now();
        loop {
            match door.session("newcomer") {
                Ok(session) => break drop(session),
                Err(refused) => ensure!(
                    began.elapsed() < NEWCOMER_WITHIN,
                    "a newcomer is not in after {NEWCOMER_WITHIN:?}: {refused:#}"
                ),
            }
            std::thread::sleep(NEWCOMER_PAUSE);
        }
        samples.add(began.elapsed());
        if over.load(Relaxed) {
            return Ok(samples);
        }
        std::thread::sleep(NEWCOMER_PAUSE);
    }
}

/// Waits until nothing of an attack is left.
fn settle(runtime: &Handle, deployment: &Deployment) -> anyhow::Result<()> {
    for (gauge, most) in [
        ("whimbrel_gateway_connections", 2.0),
        ("whimbrel_gateway_held_bytes", 0.0),
        ("whimbrel_gateway_owed_bytes", 0.0),
    ] {
        deployment.await_gauge(runtime, gauge, most, GONE_WITHIN)?;
    }
    Ok(())
}
