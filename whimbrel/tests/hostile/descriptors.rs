//! A gateway that has no descriptor left, for real: its limit is lowered while it runs, so that accepting fails with EMFILE
//! long before its own bound on connections is met.
//!
//! Those who are in chat on, the gateway says so once and not with each failure, and as soon as there are descriptors again
//! whoever waited is taken in.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::bystanders::Bystanders;
use crate::deployment::Deployment;
use crate::door::Door;
use crate::{NEWCOMER_PAUSE, NEWCOMER_WITHIN, alone, runtime};

/// Descriptors that the gateway may take beyond those it has.
const LEFT: u64 = 16;
/// Strangers who want one.
const STRANGERS: usize = 200;
/// Accepts that must have failed, so that one warning for all is told from one for each: a reactor tries ten times a second.
const FAILURES_MIN: f64 = 20.0;
/// For how long: twice the tries of one reactor that these take.
const SPELL: Duration = Duration::from_secs(4);
/// The first has by then.
const FAILS_WITHIN: Duration = Duration::from_secs(30);

/// Sets how many descriptors a process may have; the limit before.
fn limit(pid: u32, descriptors: Option<u64>, maximum: Option<u64>) -> anyhow::Result<Rlimit> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process has a number")?;
    let wanted = Rlimit {
        current: descriptors,
        maximum,
    };
    prlimit(Some(pid), Resource::Nofile, wanted).context("the limit of one's own child can be set")
}

#[test]
fn a_gateway_out_of_descriptors_serves_those_it_has_and_says_so_once() -> anyhow::Result<()> {
    let _alone = alone();
    let users = runtime(1)?;
    let mut deployment = Deployment::start(&["--ephemeral", "--processes"], &[])?;
    let door = Arc::new(Door::of(users.handle(), &deployment)?);
    let mut bystanders = Bystanders::new(users.handle(), &deployment, &door)?;
    users.block_on(bystanders.exchange())?;

    let gateway = *deployment
        .ready
        .pids
        .get("gateway")
        .context("a gateway's process")?;
    let open = std::fs::read_dir(format!("/proc/{gateway}/fd"))?.count();
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let before = limit(gateway, Some(u64::try_from(open)? + LEFT), hard)?;
    let strangers = (0..STRANGERS)
        .map(|_| TcpStream::connect(door.gateway))
        .collect::<Result<Vec<_>, _>>()
        .context("the kernel completes connections that wait to be accepted")?;

    let errors = || deployment.gauge(users.handle(), "whimbrel_gateway_accept_errors_total");
    let latest = Instant::now() + FAILS_WITHIN;
    // By its log: its health page has no descriptor left to answer with.
    let warnings =
        || -> anyhow::Result<usize> { Ok(deployment.log()?.matches("out of descriptors or memory").count()) };
    while warnings()? == 0 {
        users.block_on(bystanders.exchange())?;
        ensure!(Instant::now() < latest, "accepting never failed");
    }
    let until = Instant::now() + SPELL;
    while Instant::now() < until {
        users.block_on(bystanders.exchange())?;
    }
    let warnings = warnings()?;
    // Each reactor listens by itself.
    let reactors = std::thread::available_parallelism()?.get();
    ensure!(
        (1..=reactors).contains(&warnings),
        "{warnings} warnings of {reactors} reactors"
    );

    limit(gateway, before.current, before.maximum)?;
    let began = Instant::now();
    while let Err(refused) = door.session("newcomer") {
        ensure!(
            began.elapsed() < NEWCOMER_WITHIN,
            "a newcomer is not in {NEWCOMER_WITHIN:?} after there are descriptors again: {refused:#}"
        );
        std::thread::sleep(NEWCOMER_PAUSE);
    }
    users.block_on(bystanders.exchange())?;
    let failed = errors()?;
    ensure!(failed >= FAILURES_MIN, "accepting failed {failed} times only");
    drop(strangers);
    deployment.check_sane()
}
