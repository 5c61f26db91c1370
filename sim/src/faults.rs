//! What goes wrong, by seed. A run has some kinds of faults and not others: with all of them at once most interleavings
//! would be hidden behind the loudest.

use whimbrel_protocol::ids::NodeId;
use whimbrel_registry::Role;

use crate::dice::Dice;
use crate::fabric::Leaving;
use crate::process::REGISTRY_HOME;
use crate::store::Weather;
use crate::trace::note;
use crate::workload::Workload;
use crate::world::World;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A process is killed, or its machine lost, and starts again.
    Crash,
    /// A process stands still and wakes.
    Freeze,
    /// A process stands still, is replaced, and wakes.
    Replace,
    /// The registry's home starts anew, and has forgotten everything.
    LoseRegistry,
    /// A link breaks with everything on it.
    BreakLink,
    /// Nothing passes on a link for a while.
    StallLink,
    /// Messages between nodes are slow.
    SlowLinks,
    /// The store refuses commits as conflicting.
    Conflicts,
    /// The store does not tell how commits ended.
    Unknowns,
    /// The store is slow.
    SlowStore,
    /// The store fails reads.
    ReadErrors,
    /// The store cannot be reached.
    Outage,
    /// A client's connection is reset.
    Cut,
    /// A client changes its network.
    ChangeNetwork,
    /// A client's connection swallows everything.
    Swallow,
    /// A client's app starts anew.
    RestartClient,
    /// A process is ordered to leave, as SIGTERM does, and starts again.
    Drain,
}

const KINDS: [Kind; 17] = [
    Kind::Crash,
    Kind::Freeze,
    Kind::Replace,
    Kind::LoseRegistry,
    Kind::BreakLink,
    Kind::StallLink,
    Kind::SlowLinks,
    Kind::Conflicts,
    Kind::Unknowns,
    Kind::SlowStore,
    Kind::ReadErrors,
    Kind::Outage,
    Kind::Cut,
    Kind::ChangeNetwork,
    Kind::Swallow,
    Kind::RestartClient,
    Kind::Drain,
];

/// See the module.
pub(crate) struct Faults {
    dice: Dice,
    kinds: Vec<Kind>,
    next_ms: u64,
    pause_ms: u64,
    weather: Weather,
    weather_until_ms: u64,
    slow_until_ms: u64,
}

impl Faults {
    /// The faults of a run.
    pub(crate) fn new(mut dice: Dice) -> Self {
        let permille = [150, 300, 600][dice.below(3)];
        let kinds: Vec<Kind> = KINDS.into_iter().filter(|_| dice.chance(permille)).collect();
        let pause_ms = [300, 1_000, 3_000][dice.below(3)];
        Self {
            dice,
            kinds,
            next_ms: 0,
            pause_ms,
            weather: Weather::default(),
            weather_until_ms: 0,
            slow_until_ms: 0,
        }
    }

    /// Whether something may be committed and nobody left who could tell of it: then it takes a client's next sync. In the
    /// other runs no client syncs without a cause, and whatever is not told is found.
    pub(crate) fn may_lose_notices(&self) -> bool {
        let loses = |kind: &Kind| {
            matches!(
                kind,
                Kind::Crash
                    | Kind::Freeze
                    | Kind::Replace
                    | Kind::Drain
                    | Kind::LoseRegistry
                    | Kind::StallLink
                    | Kind::SlowLinks
                    | Kind::BreakLink
            )
        };
        self.kinds.iter().any(loses)
    }

    /// When something goes wrong next.
    pub(crate) fn due_ms(&self) -> u64 {
        self.next_ms
    }

    /// What is due goes wrong.
    pub(crate) fn act(&mut self, world: &mut World, workload: &mut Workload) {
        let now_ms = world.now_ms;
        if self.weather_until_ms > 0 && self.weather_until_ms <= now_ms {
            self.weather_until_ms = 0;
            self.weather = Weather::default();
            world.surroundings.store.set_weather(self.weather);
        }
        if self.slow_until_ms > 0 && self.slow_until_ms <= now_ms {
            self.slow_until_ms = 0;
            world.fabric.slow_ms = 0;
        }
        if self.next_ms > now_ms {
            return;
        }
        self.next_ms = now_ms + 1 + self.dice.within(0..=2 * self.pause_ms);
        if let Some(kind) = self.dice.pick(&self.kinds).copied() {
            self.bring(kind, world, workload);
        }
    }

    /// The last blow: of what was just written nothing later tells, so what a dead node leaves behind is left to others.
    pub(crate) fn finish(&mut self, world: &mut World) {
        if !self.kinds.contains(&Kind::Crash) {
            return;
        }
        let services = world.plans.iter().filter(|plan| plan.role == Role::AppService);
        for name in services.map(|plan| plan.name.clone()).collect::<Vec<_>>() {
            if self.dice.chance(600) {
                world.crash(&name, Leaving::Killed, 1_000);
            }
        }
    }

    fn bring(&mut self, kind: Kind, world: &mut World, workload: &mut Workload) {
        let now_ms = world.now_ms;
        match kind {
            Kind::Crash => {
                let name = self.process(world);
                let how = if self.dice.chance(700) {
                    Leaving::Killed
                } else {
                    Leaving::MachineLost
                };
                let restart_in_ms = self.dice.within(50..=5_000);
                world.crash(&name, how, restart_in_ms);
            }
            Kind::Freeze => {
                let (name, for_ms) = (self.process(world), self.standstill_ms());
                world.freeze(&name, for_ms);
            }
            Kind::Replace => {
                let (name, for_ms) = (self.process(world), self.standstill_ms());
                let restart_in_ms = self.dice.within(50..=6_000);
                world.replace(&name, for_ms, restart_in_ms);
            }
            Kind::Drain => {
                let name = self.process(world);
                let away_ms = self.dice.within(50..=5_000);
                world.order_to_leave(&name, away_ms);
            }
            Kind::LoseRegistry => {
                let home = NodeId::new(REGISTRY_HOME).expect("the name of a node");
                let restart_in_ms = self.dice.within(50..=5_000);
                world.crash(&home, Leaving::Killed, restart_in_ms);
            }
            Kind::BreakLink => {
                let link = self.link(world);
                world.fabric.break_off(&link, now_ms, &mut world.trace);
            }
            Kind::StallLink => {
                let link = self.link(world);
                let for_ms = self.dice.within(100..=8_000);
                note!(
                    world.trace,
                    now_ms,
                    "link {} {} stalls for {for_ms}",
                    link.0,
                    link.1
                );
                world.fabric.stall(&link, now_ms + for_ms);
            }
            Kind::SlowLinks => {
                world.fabric.slow_ms = self.dice.within(20..=600);
                self.slow_until_ms = now_ms + self.dice.within(500..=4_000);
            }
            Kind::Conflicts => {
                let permille = self.dice.within(50..=600);
                self.set_weather(world, |weather| weather.conflicts = permille);
            }
            Kind::Unknowns => {
                let permille = self.dice.within(50..=500);
                self.set_weather(world, |weather| weather.unknowns = permille);
            }
            Kind::SlowStore => {
                let slow_ms = self.dice.within(10..=1_500);
                self.set_weather(world, |weather| weather.slow_ms = slow_ms);
            }
            Kind::ReadErrors => {
                let permille = self.dice.within(10..=300);
                self.set_weather(world, |weather| weather.read_errors = permille);
            }
            Kind::Outage => self.set_weather(world, |weather| weather.outage = true),
            Kind::Cut => {
                let device = self.dice.below(world.devices.len());
                note!(world.trace, now_ms, "device {device} is cut off");
                world.devices[device].cut(now_ms);
            }
            Kind::ChangeNetwork => {
                let device = self.dice.below(world.devices.len());
                note!(world.trace, now_ms, "device {device} changes its network");
                world.with_device(device, |device, scene| device.change_network(scene.now_ms));
            }
            Kind::Swallow => {
                let device = self.dice.below(world.devices.len());
                note!(world.trace, now_ms, "device {device} is swallowed");
                world.devices[device].swallow();
            }
            Kind::RestartClient => {
                let device = self.dice.below(world.devices.len());
                // What it asked would be forgotten, and nobody could say whether it was done.
                if !workload.waits(device) {
                    note!(world.trace, now_ms, "device {device} starts anew");
                    workload.started_anew(device);
                    world.with_device(device, |device, scene| device.restart(scene.now_ms));
                }
            }
        }
    }

    fn set_weather(&mut self, world: &mut World, set: impl FnOnce(&mut Weather)) {
        set(&mut self.weather);
        self.weather_until_ms = world.now_ms + self.dice.within(200..=4_000);
        note!(world.trace, world.now_ms, "the store: {:?}", self.weather);
        world.surroundings.store.set_weather(self.weather);
    }

    fn process(&mut self, world: &World) -> NodeId {
        let plan = self.dice.pick(&world.plans);
        plan.expect("a cluster has processes").name.clone()
    }

    fn link(&mut self, world: &World) -> (NodeId, NodeId) {
        let names = world.fabric.names();
        self.dice.pick(&names).expect("a cluster has links").clone()
    }

    fn standstill_ms(&mut self) -> u64 {
        match self.dice.below(3) {
            0 => self.dice.within(50..=1_000),
            1 => self.dice.within(1_000..=6_000),
            _ => self.dice.within(6_000..=20_000),
        }
    }
}
