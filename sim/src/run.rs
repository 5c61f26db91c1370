//! One run: from a seed to a verdict.

use std::time::Duration;

use whimbrel_loadtest::check::{Invariant, Violation, check};

use crate::dice::Dice;
use crate::faults::Faults;
use crate::plant::Plant;
use crate::trace::note;
use crate::workload::Workload;
use crate::world::World;

/// Conversations must be open by then, ms: nothing goes wrong until they are.
const SET_UP_WITHIN_MS: u64 = 60_000;

/// How long users write while things go wrong, ms.
const STORM_MS: std::ops::RangeInclusive<u64> = 4_000..=20_000;

/// By then after the storm everything must have come to rest, ms: the longest pause of a client is a minute, a lost session
/// is noticed in half a minute, work left behind by a dead node in seconds.
const SETTLE_WITHIN_MS: u64 = 300_000;

/// Between a client's syncs without a cause, where what happened may be told to nobody: the net under everything, which is
/// minutes in production.
const SYNC_INTERVAL: Duration = Duration::from_secs(60);

/// The same where everything must be told: longer than any run.
const NO_SYNC: Duration = Duration::from_secs(24 * 3_600);

/// Between two looks at whether it has, ms.
const LOOK_EVERY_MS: u64 = 2_000;

/// What a run is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Things go wrong.
    pub faults: bool,
    /// Every event is printed.
    pub trace: bool,
    /// The cluster has this fault.
    pub plant: Option<Plant>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            faults: true,
            trace: false,
            plant: None,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whose run it was.
    pub seed: u64,
    /// What was broken; nothing, if all is well.
    pub violations: Vec<Violation>,
    /// Events of the trace.
    pub events: u64,
    /// The trace's hash: the same seed has the same, always.
    pub hash: u64,
    /// How long it took, in virtual milliseconds.
    pub virtual_ms: u64,
    /// Messages that users wrote.
    pub messages: usize,
    /// Batches that the store took.
    pub commits: u64,
    /// Messages sent to rooms.
    pub room_messages: usize,
    /// Members whose gateways took one.
    pub room_taken: u64,
    /// Messages to rooms that arrived.
    pub room_heard: u64,
}

/// Runs a cluster through the faults of `seed`.
#[must_use]
pub fn run(seed: u64, options: Options) -> Report {
    #[cfg(feature = "planted-faults")]
    let _planted = options.plant.and_then(Plant::in_code);
    let mut dice = Dice::new(seed);
    let services = 2 + dice.below(2);
    let faults = Faults::new(dice.fork());
    let sync_interval = if options.faults && faults.may_lose_notices() {
        SYNC_INTERVAL
    } else {
        NO_SYNC
    };
    let world = World::new(dice.fork(), services, sync_interval, options);
    let mut run = Run::begin(world, dice);
    run.go_through(options.faults.then_some(faults));
    let violations = run.settle();
    let (events, hash) = run.world.trace.sum();
    let (room_messages, room_taken, room_heard) = run.workload.rooms().counts();
    Report {
        seed,
        violations,
        events,
        hash,
        virtual_ms: run.world.now_ms,
        messages: run.workload.messages(),
        commits: run.world.surroundings.store.commits(),
        room_messages,
        room_taken,
        room_heard,
    }
}

struct Run {
    world: World,
    workload: Workload,
    dice: Dice,
}

impl Run {
    fn begin(mut world: World, mut dice: Dice) -> Self {
        let workload = Workload::begin(&mut world, dice.fork());
        Self {
            world,
            workload,
            dice,
        }
    }

    fn step(&mut self, until_ms: u64) {
        self.world.step(until_ms);
        self.workload.take_answers(&mut self.world);
    }

    /// Sets up, then lets users act while things go wrong, then heals.
    fn go_through(&mut self, mut faults: Option<Faults>) {
        while !self.workload.is_set_up() && self.world.now_ms < SET_UP_WITHIN_MS {
            self.step(SET_UP_WITHIN_MS);
        }
        let end_ms = self.world.now_ms + self.dice.within(STORM_MS);
        note!(self.world.trace, self.world.now_ms, "the storm begins");
        while self.world.now_ms < end_ms {
            let mut due_ms = end_ms;
            if let Some(faults) = &mut faults {
                faults.act(&mut self.world, &mut self.workload);
                due_ms = due_ms.min(faults.due_ms());
            }
            self.workload.act(&mut self.world);
            due_ms = due_ms.min(self.workload.due_ms());
            self.step(due_ms.max(self.world.now_ms + 1));
        }
        if let Some(faults) = &mut faults {
            faults.finish(&mut self.world);
        }
        self.world.heal();
    }

    /// Waits until everything has come to rest and been read by new devices; gives what is wrong with the account if it
    /// does not come right in time.
    fn settle(&mut self) -> Vec<Violation> {
        let end_ms = self.world.now_ms + SETTLE_WITHIN_MS;
        let mut has_readers = false;
        loop {
            let look_ms = self.world.now_ms + LOOK_EVERY_MS;
            while self.world.now_ms < look_ms {
                self.step(look_ms);
            }
            let quiet =
                self.workload.is_set_up() && self.workload.is_quiet(&self.world) && self.world.is_whole();
            let violations = if quiet { self.judge() } else { Vec::new() };
            if quiet && violations.is_empty() {
                if has_readers {
                    return violations;
                }
                has_readers = true;
                for uid in self.workload.uids() {
                    self.world.add_device(&uid, &format!("{uid}-reader"));
                }
            } else if self.world.now_ms >= end_ms {
                return self.judge();
            }
        }
    }

    fn judge(&self) -> Vec<Violation> {
        let mut violations = check(&self.world.history);
        if !self.workload.is_set_up() {
            violations.push(Violation {
                invariant: Invariant::Answered,
                what: "a conversation could not be opened while nothing went wrong".to_owned(),
            });
        }
        violations.extend(self.workload.wrongly_brought());
        violations.extend(self.workload.rooms().judge(|room| self.world.room_members(room)));
        violations.extend(self.world.stayed().iter().map(|what| Violation {
            invariant: Invariant::Answered,
            what: what.clone(),
        }));
        let devices = self.world.devices.len();
        let ready = self
            .world
            .devices
            .iter()
            .filter(|device| device.client.is_ready());
        let (ready, sessions) = (ready.count(), self.world.sessions());
        if (ready, sessions) != (devices, devices) {
            violations.push(Violation {
                invariant: Invariant::DevicePolicy,
                what: format!(
                    "{devices} devices, {ready} of them logged in, {sessions} sessions at gateways"
                ),
            });
        }
        violations
    }
}
