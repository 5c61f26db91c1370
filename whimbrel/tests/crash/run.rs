//! The story of a run: whatever is deployed, people chat through it while faults happen, and then everything is judged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use whimbrel_loadtest::check::{Event, Talk, Violation, check};
use whimbrel_sdk::{ClientConfig, ConversationId, FixedToken, NewGroup};

use crate::device::{self, Device, Uid};
use crate::ledger::{Ledger, Tally};
use crate::load::Load;

/// Users of a run.
const USERS: usize = 12;
/// So many of them have two devices.
const SECOND_DEVICES: usize = 3;
/// Whom each user chats with, counted from them.
const PEERS: [usize; 2] = [1, 4];
/// Every so-manieth user owns a group,
const OWNER_EVERY: usize = 3;
/// with these, counted from them.
const MEMBERS: [usize; 4] = [1, 2, 5, 7];
/// The longest a fault waits for that; what takes longer hangs.
const TRAFFIC_WITHIN: Duration = Duration::from_secs(60);
/// A fault comes within this time after that, milliseconds, so that it hits anything.
const FAULT_JITTER_MS: u64 = 200;
/// How long everything begun may take to be answered once nobody begins anything: a restart, a reconnect, some retries.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// How long devices may take to be up to date after that: a dead node's lease (9 s) and two looks for its markers (10 s
/// each), and all of the load's reading on a slow machine.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How long a planted run waits for rows before it goes on without.
const ROWS_WITHIN_PLANTED: Duration = Duration::from_secs(5);
/// Between two looks whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Violations printed of an invariant; the rest are like them.
const PRINTED_MAX: usize = 10;

/// What is deployed, and may have faults.
pub(crate) trait Deployment {
    /// Something that happens to it.
    type Fault: Copy + fmt::Debug;

    /// Messages acknowledged between two faults, at least: as many as show that it works again, in a few seconds.
    const ACKNOWLEDGED_BETWEEN: u64;

    /// What a client of `uid` is started with.
    fn client(&self, uid: &str) -> (ClientConfig, Arc<FixedToken>);

    /// What a customer's server shows.
    fn server_token(&self) -> String;

    /// Where the HTTP API is.
    fn api(&self) -> String;

    /// Whether `fault` is to come only once all that was begun is answered.
    fn spares_what_is_begun(_fault: Self::Fault) -> bool {
        false
    }

    /// Lets `fault` happen and waits until what it hit is back.
    async fn suffer(&mut self, fault: Self::Fault, rng: &mut StdRng);

    /// What its processes printed.
    fn printed(&self) -> String;

    /// Ends it at once; its status, if it had ended by itself before.
    fn kill(&mut self) -> Option<ExitStatus>;
}

/// What a run may find.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Whether a fault is planted in it, which the judge is to find.
    pub(crate) planted: bool,
    /// How long what is wrong may take to come right.
    pub(crate) settled_within: Duration,
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    /// Where the deployment's data and what it printed are.
    pub(crate) folder: PathBuf,
}

impl Verdict {
    /// Panics when a promise was broken; else nothing is kept of the run.
    pub(crate) fn expect_unbroken(self) {
        let (violations, folder) = (self.violations, self.folder);
        assert!(
            violations.is_empty(),
            "{} violations, see above; {}",
            violations.len(),
            folder.display()
        );
        std::fs::remove_dir_all(&folder).expect("the run's folder can be removed");
    }
}

/// Lets `faults` happen one after the other, each under load, to what `start` deploys in a folder; and what that showed.
pub(crate) async fn judge<D: Deployment>(
    start: impl AsyncFnOnce(&Path) -> D,
    faults: &[D::Fault],
    terms: Terms,
) -> Verdict {
    let seed = match std::env::var("WHIMBREL_CRASH_SEED") {
        Ok(seed) => seed.parse().expect("WHIMBREL_CRASH_SEED is a number"),
        Err(_) => rand::random(),
    };
    let started = Instant::now();
    let say = |what: &str| progress(started, what);
    say(&format!("seed {seed}, {terms:?}"));
    let mut rng = StdRng::seed_from_u64(seed);
    // Kept unless all is well, for whoever looks into it.
    let folder = tempfile::tempdir().expect("a folder for the deployment").keep();
    say(&format!("data and logs are in {}", folder.display()));
    let mut deployed = start(&folder).await;
    say("deployed");

    let ledger = Arc::new(Ledger::new());
    let devices = start_devices(&deployed, &ledger);
    let (stop, stopped) = watch::channel(false);
    let mut load = Load {
        ledger: Arc::clone(&ledger),
        stop: stopped,
        tasks: JoinSet::new(),
        rng: StdRng::seed_from_u64(rng.random()),
    };
    // Some plants keep rows from those who wait for them; the checker will say so.
    let rows_within = if terms.planted {
        ROWS_WITHIN_PLANTED
    } else {
        ANSWERED_WITHIN
    };
    let all_there = begin(&deployed, &devices, &mut load, rows_within).await;
    assert!(all_there || terms.planted, "not in their lists, see above");
    say("everybody chats");

    let fault_rng = StdRng::seed_from_u64(rng.random());
    suffer_all(
        &mut deployed,
        faults,
        (&ledger, &devices),
        &stop,
        (fault_rng, &say),
    )
    .await;
    finish(&mut load, &say).await;

    let settled = settle(&ledger, terms.settled_within).await;
    say(&format!(
        "devices that were there have settled: {}",
        settled.is_empty()
    ));
    let mut everywhere = devices;
    everywhere.extend(fresh_devices(&deployed, &ledger));
    let violations = settle(&ledger, terms.settled_within).await;
    say("new devices have read everything");
    for device in &everywhere {
        // Closed already is as good.
        let _ = device.client.close().await;
    }
    report(&violations);
    let printed = deployed.printed();
    assert!(!printed.contains("panicked"), "a server panicked: {printed}");
    drop(deployed);
    say(&format!("promises broken: {}", violations.len()));
    Verdict { violations, folder }
}

/// Lets one after the other happen under full load, and nobody begin anything after the last.
async fn suffer_all<D: Deployment>(
    deployed: &mut D,
    faults: &[D::Fault],
    (ledger, devices): (&Ledger, &[Arc<Device>]),
    stop: &watch::Sender<bool>,
    (mut rng, say): (StdRng, &impl Fn(&str)),
) {
    let mut tally = ledger.tally();
    for (number, fault) in faults.iter().enumerate() {
        let before = *tally.borrow();
        let Some(now) = traffic(&mut tally, before.acknowledged + D::ACKNOWLEDGED_BETWEEN).await else {
            let (now, standings) = (*tally.borrow(), standings(devices).await);
            let ended = deployed.kill();
            panic!(
                "{now:?} after {before:?} and {TRAFFIC_WITHIN:?}; ended by itself: {ended:?}; {standings:#?}"
            );
        };
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..FAULT_JITTER_MS))).await;
        let now = in_flight(&mut tally, now).await;
        if number + 1 == faults.len() {
            // Nothing new comes after the last fault: what it left behind must be found without.
            stop.send_replace(true);
        }
        if D::spares_what_is_begun(*fault) {
            let answered = tally.wait_for(|tally| tally.pending == 0);
            // If something hangs, the checker says so.
            let _ = tokio::time::timeout(ANSWERED_WITHIN, answered).await;
        }
        let hit = Instant::now();
        deployed.suffer(*fault, &mut rng).await;
        let (back, after) = (hit.elapsed(), *tally.borrow());
        let answered = tally.wait_for(|tally| tally.acknowledged > after.acknowledged || tally.pending == 0);
        let answered = tokio::time::timeout(TRAFFIC_WITHIN, answered).await;
        let answered = answered.map(|_| hit.elapsed() - back);
        say(&format!(
            "{fault:?}, {} of {}: {} acknowledged since the last, {} in flight; back after {back:?}, answers again after \
             {answered:?} more",
            number + 1,
            faults.len(),
            now.acknowledged - before.acknowledged,
            now.pending,
        ));
    }
}

/// Waits until what was begun is answered. What is not by then the checker names.
async fn finish(load: &mut Load, say: &impl Fn(&str)) {
    let mut tally = load.ledger.tally();
    let answered = async {
        while let Some(ended) = load.tasks.join_next().await {
            ended.expect("a task of the load panicked");
        }
        let none_pending = tally.wait_for(|tally| tally.pending == 0).await;
        none_pending.map(|_| ()).expect("the ledger outlives the run");
    };
    let answered = tokio::time::timeout(ANSWERED_WITHIN, answered).await;
    let tally = *load.ledger.tally().borrow();
    say(&format!("all answered: {}; {tally:?}", answered.is_ok()));
}

fn user(number: usize) -> Uid {
    Uid::new(&format!("user{:02}", number % USERS))
}

fn start_devices(deployed: &impl Deployment, ledger: &Arc<Ledger>) -> Vec<Arc<Device>> {
    let phones = (0..USERS).map(|number| (number, "phone"));
    let desks = (0..SECOND_DEVICES).map(|number| (number, "desk"));
    let all = phones.chain(desks);
    all.map(|(number, kind)| {
        let user = user(number);
        Device::start(deployed.client(&user.0), kind, true, ledger)
    })
    .collect()
}

/// A device of each user that has never been here.
fn fresh_devices(deployed: &impl Deployment, ledger: &Arc<Ledger>) -> Vec<Arc<Device>> {
    let users = (0..USERS).map(user);
    users
        .map(|user| {
            let client = deployed.client(&user.0);
            Device::start(client, "new one", false, ledger)
        })
        .collect()
}

/// Opens all conversations, waits until everybody has them, and lets everybody chat.
///
/// False when some are never given their rows.
async fn begin(
    deployed: &impl Deployment,
    devices: &[Arc<Device>],
    load: &mut Load,
    rows_within: Duration,
) -> bool {
    let mut members: BTreeMap<ConversationId, Vec<Uid>> = BTreeMap::new();
    let mut talks = BTreeMap::new();
    for (number, device) in devices.iter().take(USERS).enumerate() {
        for peer in PEERS.map(|peer| user(number + peer)) {
            let opened = device.client.open_direct(&peer.0).await;
            let id = opened.expect("a direct conversation");
            let pair = [user(number), peer];
            members.insert(id, pair.to_vec());
            talks.insert(id, Talk::Direct([pair[0].user(), pair[1].user()]));
        }
    }
    let mut groups = Vec::new();
    for (nth, number) in (0..USERS).step_by(OWNER_EVERY).enumerate() {
        let others = MEMBERS.map(|member| user(number + member)).to_vec();
        let open_history = nth % 2 == 0;
        let group = NewGroup {
            name: format!("{}'s", user(number)),
            member_uids: others.iter().map(|user| user.0.to_string()).collect(),
            history_for_newcomers: open_history,
        };
        let id = devices[number].client.create_group(group).await.expect("a group");
        talks.insert(id, Talk::Group { open_history });
        members.insert(id, others.iter().cloned().chain([user(number)]).collect());
        groups.push((number, id, others));
    }
    for (id, talk) in talks {
        let base_seq = 0;
        load.ledger.note(Event::Talk { id, talk, base_seq });
    }
    let started = Instant::now();
    let all_there = loop {
        let without = device::without_row(
            devices,
            &groups
                .iter()
                .map(|(_, id, _)| (*id, members[id].clone()))
                .collect(),
        );
        if without.is_empty() || started.elapsed() > rows_within {
            break without.is_empty();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };

    for device in devices {
        for (id, _) in members
            .iter()
            .filter(|(_, users)| users.contains(&device.name.uid))
        {
            load.chat(device, *id);
        }
    }
    let ids = members.iter().filter(|(_, users)| users.contains(&user(0)));
    let ids = ids
        .map(|(id, _)| *id)
        .filter(|id| groups.iter().all(|(owner, group, _)| group != id || *owner == 0));
    load.call_api(&deployed.api(), deployed.server_token(), &user(0), ids.collect());
    for (owner, id, others) in groups {
        load.govern(&devices[owner], id, others);
    }
    all_there
}

/// Waits for so many; `None` when they take too long.
async fn traffic(tally: &mut watch::Receiver<Tally>, acknowledged: u64) -> Option<Tally> {
    let enough = tally.wait_for(|tally| tally.acknowledged >= acknowledged);
    let in_time = tokio::time::timeout(TRAFFIC_WITHIN, enough).await.ok()?;
    Some(*in_time.expect("the ledger outlives the run"))
}

/// What each client says of its connection and its queue.
async fn standings(devices: &[Arc<Device>]) -> Vec<String> {
    let mut standings = Vec::new();
    for device in devices {
        let unsent = device.client.unsent().await.map(|unsent| unsent.len());
        standings.push(format!(
            "{}: {:?}, unsent {unsent:?}",
            device.name,
            device.client.connection().await
        ));
    }
    standings
}

async fn in_flight(tally: &mut watch::Receiver<Tally>, since: Tally) -> Tally {
    let now = tally.wait_for(|tally| tally.pending > 0 && tally.acknowledged >= since.acknowledged);
    *now.await.expect("the ledger outlives the run")
}

/// Waits until nothing is wrong; gives what still is after the longest it may take.
async fn settle(ledger: &Ledger, within: Duration) -> Vec<Violation> {
    let started = Instant::now();
    loop {
        let violations = check(&ledger.history());
        if violations.is_empty() || started.elapsed() > within {
            return violations;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[expect(clippy::print_stderr, reason = "a long test says how it goes")]
fn progress(started: Instant, what: &str) {
    eprintln!("[{:6.2} s] {what}", started.elapsed().as_secs_f64());
}

#[expect(clippy::print_stderr, reason = "a failed test says why")]
fn report(violations: &[Violation]) {
    if violations.is_empty() {
        return;
    }
    let mut counts = BTreeMap::new();
    for violation in violations {
        let count: &mut usize = counts.entry(violation.invariant).or_default();
        *count += 1;
        if *count <= PRINTED_MAX {
            eprintln!("{violation}");
        }
    }
    eprintln!("in all: {counts:?}");
}
