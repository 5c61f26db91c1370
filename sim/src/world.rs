//! The simulated cluster: processes, the network between them, the store under them and the devices before them.
//!
//! Time goes in windows. In a window every process runs by itself; what it says to others leaves at the window's end and
//! arrives later, so nobody is overtaken by another's future. A window is a millisecond while anything moves and grows
//! while nothing does.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_app_service::auth::{App, AppSecret, Apps, TokenRole, mint};
use whimbrel_link::ClusterSecret;
use whimbrel_loadtest::check::History;
use whimbrel_protocol::ids::{AppKey, NodeId, Uid};
use whimbrel_registry::Role;

use crate::clock::START_UNIX_MS;
use crate::device::{APP, Device, Scene};
use crate::dice::Dice;
use crate::directory::Directory;
use crate::fabric::{Fabric, Leaving};
use crate::process::{Plan, Process, REGISTRY_HOME, Surroundings};
use crate::run::Options;
use crate::store::SharedStore;
use crate::trace::{Trace, note};

/// The longest window, ms: what nobody waits for may come so much later.
const WINDOW_MAX_MS: u64 = 32;

/// How often clients' directory is brought up to date, ms.
const DIRECTORY_EVERY_MS: u64 = 250;

/// How long a process that could not start stays down, ms: a supervisor's pause.
const RESTART_AFTER_MS: u64 = 500;

/// How long a process that was replaced while it stood still runs on after it woke, ms: long enough to finish everything it
/// was at.
const ZOMBIE_LIFE_MS: u64 = 20_000;

/// A process that was ordered to leave has left by then, ms: more than every grace it has, and a standstill on the way.
const LEAVES_WITHIN_MS: u64 = 120_000;

/// The tokens of a run outlive it, s.
const TOKEN_TTL_S: u64 = 24 * 3_600;

/// See the module.
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) trace: Trace,
    pub(crate) history: History,
    pub(crate) devices: Vec<Device>,
    pub(crate) processes: BTreeMap<NodeId, Process>,
    pub(crate) fabric: Fabric,
    pub(crate) plans: Vec<Plan>,
    pub(crate) surroundings: Surroundings,
    directory: Directory,
    directory_at_ms: u64,
    /// Processes to be started, and when.
    starts: BTreeMap<NodeId, u64>,
    /// Processes that stand still, or did, while others have their names; and when they end.
    zombies: Vec<(u64, Process)>,
    /// Processes that were ordered to leave: when they must have, and how long they stay away.
    leaving: BTreeMap<NodeId, (u64, u64)>,
    /// Those that did not in time.
    stayed: Vec<String>,
    window_ms: u64,
    sync_interval: Duration,
    secret: AppSecret,
    dice: Dice,
}

impl World {
    /// A cluster about to start: two gateways, two routers, and so many service nodes.
    pub(crate) fn new(mut dice: Dice, services: usize, sync_interval: Duration, options: Options) -> Self {
        let name =
            |role: &str, number: usize| NodeId::new(&format!("{role}-{number}")).expect("the name of a node");
        let roles = [
            ("router", Role::Router, 2),
            ("app-service", Role::AppService, services),
            ("gateway", Role::Gateway, 2),
        ];
        let mut plans = Vec::new();
        for (label, role, count) in roles {
            plans.extend((1..=count).map(|number| Plan {
                name: name(label, number),
                role,
                skew_ms: dice.within(0..=300),
            }));
        }
        let names: Vec<_> = plans.iter().map(|plan| (plan.name.clone(), plan.role)).collect();
        let secret = AppSecret::from_bytes(&[7; 32]).expect("32 bytes are a secret");
        let app = App::new(app_key(), vec![secret.clone()], true).expect("one secret is enough");
        let starts = names
            .iter()
            .map(|(name, _)| (name.clone(), dice.within(0..=300)))
            .collect();
        Self {
            now_ms: 0,
            trace: Trace::new(options.trace),
            history: History::default(),
            devices: Vec::new(),
            processes: BTreeMap::new(),
            fabric: Fabric::new(&names, dice.fork()),
            plans,
            surroundings: Surroundings {
                store: SharedStore::new(dice.fork(), options.plant),
                apps: Apps::new([app]).expect("one app has no double"),
                secret: ClusterSecret::from_bytes([9; 32]),
            },
            directory: Directory::new(),
            directory_at_ms: 0,
            starts,
            zombies: Vec::new(),
            leaving: BTreeMap::new(),
            stayed: Vec::new(),
            window_ms: 1,
            sync_interval,
            secret,
            dice,
        }
    }

    /// A new device of a user, which logs in by itself.
    pub(crate) fn add_device(&mut self, uid: &str, name: &str) {
        let user = Uid::new(uid).expect("the name of a user");
        let token = mint(
            &self.secret,
            &app_key(),
            &user,
            TokenRole::User,
            START_UNIX_MS + self.now_ms,
            TOKEN_TTL_S,
        );
        let token = token.expect("a token can be signed");
        let device = Device::new(
            (uid, name),
            token,
            self.sync_interval,
            &mut self.history,
            self.dice.fork(),
        );
        self.devices.push(device);
    }

    /// Lets a device act, and sees to what follows.
    pub(crate) fn with_device<R>(
        &mut self,
        device: usize,
        act: impl FnOnce(&mut Device, &mut Scene<'_>) -> R,
    ) -> R {
        let mut scene = Scene {
            now_ms: self.now_ms,
            processes: &self.processes,
            directory: &mut self.directory,
            history: &mut self.history,
            trace: &mut self.trace,
        };
        let device = &mut self.devices[device];
        let result = act(device, &mut scene);
        device.follow(&mut scene);
        // What was said is on its way in the next window.
        self.window_ms = 1;
        result
    }

    /// One window, which ends at `until_ms` at the latest.
    pub(crate) fn step(&mut self, until_ms: u64) {
        let mut moved = self.start_and_wake();
        moved |= self.surroundings.store.pump(self.now_ms);
        moved |= self.fabric.pump(self.now_ms, &self.processes, &mut self.trace);
        self.refresh_directory();
        for device in 0..self.devices.len() {
            let mut scene = Scene {
                now_ms: self.now_ms,
                processes: &self.processes,
                directory: &mut self.directory,
                history: &mut self.history,
                trace: &mut self.trace,
            };
            moved |= self.devices[device].step(&mut scene);
        }
        self.window_ms = if moved {
            1
        } else {
            (2 * self.window_ms).min(WINDOW_MAX_MS)
        };
        let due_ms = self.due_ms().unwrap_or(u64::MAX).min(until_ms);
        let to_ms = (self.now_ms + self.window_ms).min(due_ms).max(self.now_ms + 1);
        if self.dice.chance(500) {
            self.processes.values_mut().for_each(|process| process.run(to_ms));
        } else {
            let processes = self.processes.values_mut().rev();
            processes.for_each(|process| process.run(to_ms));
        }
        self.zombies
            .iter_mut()
            .for_each(|(_, process)| process.run(to_ms));
        self.now_ms = to_ms;
    }

    /// When something is due that is not a process's own affair.
    fn due_ms(&self) -> Option<u64> {
        let devices = self.devices.iter().filter_map(Device::due_ms);
        let wakes = self
            .processes
            .values()
            .filter_map(|process| process.frozen_until_ms);
        devices
            .chain(wakes)
            .chain(self.starts.values().copied())
            .chain(self.fabric.due_ms())
            .chain(self.surroundings.store.due_ms())
            .min()
    }

    fn start_and_wake(&mut self) -> bool {
        let now_ms = self.now_ms;
        let due: Vec<NodeId> = self
            .starts
            .iter()
            .filter(|(_, at_ms)| **at_ms <= now_ms)
            .map(|(name, _)| name.clone())
            .collect();
        let mut moved = !due.is_empty();
        for name in due {
            self.starts.remove(&name);
            self.start(&name);
        }
        let failed: Vec<_> = self
            .processes
            .iter()
            .filter_map(|(name, process)| Some((name.clone(), process.failure()?)))
            .collect();
        for (name, why) in failed {
            note!(self.trace, now_ms, "{name} could not start: {why}");
            self.crash(&name, Leaving::Killed, RESTART_AFTER_MS);
        }
        moved |= self.see_off();
        let zombies = self.zombies.iter_mut().map(|(_, process)| process);
        for process in self.processes.values_mut().chain(zombies) {
            if process.frozen_until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                note!(self.trace, now_ms, "{} wakes", process.identity.node);
                process.wake(now_ms);
                moved = true;
            }
        }
        self.zombies.retain(|(until_ms, _)| *until_ms > now_ms);
        moved
    }

    /// Those that have left are gone, and start again later.
    fn see_off(&mut self) -> bool {
        let mut gone = Vec::new();
        for (name, (until_ms, away_ms)) in &self.leaving {
            let has_left = self.processes.get(name).is_some_and(Process::has_left);
            if !has_left && *until_ms <= self.now_ms {
                self.stayed.push(format!(
                    "{name} was ordered to leave and has not within {LEAVES_WITHIN_MS} ms"
                ));
            }
            if has_left || *until_ms <= self.now_ms {
                gone.push((name.clone(), *away_ms));
            }
        }
        for (name, away_ms) in &gone {
            note!(self.trace, self.now_ms, "{name} has left");
            self.crash(name, Leaving::Killed, *away_ms);
        }
        !gone.is_empty()
    }

    fn start(&mut self, name: &NodeId) {
        let Some(plan) = self.plans.iter().find(|plan| plan.name == *name) else {
            return;
        };
        note!(self.trace, self.now_ms, "{name} starts");
        let keys = (plan.role == Role::Gateway).then(|| self.directory.certify(name));
        let process = Process::start(plan, &self.surroundings, keys, self.now_ms, self.dice.fork());
        self.processes.insert(name.clone(), process);
    }

    fn refresh_directory(&mut self) {
        if self.now_ms < self.directory_at_ms {
            return;
        }
        self.directory_at_ms = self.now_ms + DIRECTORY_EVERY_MS;
        let home = self
            .processes
            .iter_mut()
            .find(|(name, process)| name.as_str() == REGISTRY_HOME && !process.is_frozen());
        let leases = home.and_then(|(_, process)| process.gateways());
        for lease in leases.unwrap_or_default() {
            self.directory.learn(&lease.descriptor, self.now_ms);
        }
    }

    /// A process ends at whatever it is at, and is started again later.
    pub(crate) fn crash(&mut self, name: &NodeId, how: Leaving, restart_in_ms: u64) {
        let Some(process) = self.processes.remove(name) else {
            return;
        };
        self.leaving.remove(name);
        note!(self.trace, self.now_ms, "{name} crashes, {how:?}");
        self.fabric.forget(name, how, self.now_ms);
        for device in &mut self.devices {
            device.lose_gateway(name, how != Leaving::Killed, self.now_ms);
        }
        drop(process);
        self.starts.insert(name.clone(), self.now_ms + restart_in_ms);
    }

    /// A process stands still for a while.
    pub(crate) fn freeze(&mut self, name: &NodeId, for_ms: u64) {
        if let Some(process) = self.processes.get_mut(name) {
            note!(self.trace, self.now_ms, "{name} stands still for {for_ms}");
            process.frozen_until_ms = Some(self.now_ms + for_ms);
        }
    }

    /// A process is ordered to leave, and is started again some time after it has.
    pub(crate) fn order_to_leave(&mut self, name: &NodeId, away_ms: u64) {
        if let Some(process) = self.processes.get_mut(name)
            && !self.leaving.contains_key(name)
        {
            note!(self.trace, self.now_ms, "{name} is ordered to leave");
            process.leave();
            let until_ms = self.now_ms + LEAVES_WITHIN_MS;
            self.leaving.insert(name.clone(), (until_ms, away_ms));
        }
    }

    /// Whether every process is there and none is about to leave.
    pub(crate) fn is_whole(&self) -> bool {
        self.leaving.is_empty() && self.starts.is_empty()
    }

    /// Processes that were ordered to leave and did not.
    pub(crate) fn stayed(&self) -> &[String] {
        &self.stayed
    }

    /// How many sessions are in a room, as the registry says; `None` while it is away.
    pub(crate) fn room_members(&self, room: &str) -> Option<u64> {
        self.processes
            .values()
            .find_map(|process| process.room_members(APP, room))
    }

    /// A process stands still for a while, and another life takes its name meanwhile.
    pub(crate) fn replace(&mut self, name: &NodeId, for_ms: u64, restart_in_ms: u64) {
        let Some(mut process) = self.processes.remove(name) else {
            return;
        };
        note!(
            self.trace,
            self.now_ms,
            "{name} is replaced, and stands still for {for_ms}"
        );
        self.leaving.remove(name);
        self.fabric.forget(name, Leaving::Replaced, self.now_ms);
        let until_ms = self.now_ms + for_ms;
        process.frozen_until_ms.get_or_insert(until_ms);
        self.zombies.push((until_ms + ZOMBIE_LIFE_MS, process));
        self.starts.insert(name.clone(), self.now_ms + restart_in_ms);
    }

    /// Everything works again: what is down starts, what stands still wakes, every link passes.
    pub(crate) fn heal(&mut self) {
        note!(self.trace, self.now_ms, "everything is well again");
        self.surroundings
            .store
            .set_weather(crate::store::Weather::default());
        self.fabric.heal();
        let now_ms = self.now_ms;
        for at_ms in self.starts.values_mut() {
            *at_ms = now_ms;
        }
        for process in self.processes.values_mut() {
            if let Some(until_ms) = &mut process.frozen_until_ms {
                *until_ms = now_ms;
            }
        }
    }

    /// Sessions that gateways have registered.
    pub(crate) fn sessions(&self) -> usize {
        self.processes.values().map(Process::sessions).sum()
    }
}

fn app_key() -> AppKey {
    AppKey::new(APP).expect("the key of an app")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A calm cluster with one user, some seconds after its start.
    fn world() -> World {
        let calm = Options {
            faults: false,
            ..Options::default()
        };
        let mut world = World::new(Dice::new(7), 2, Duration::from_secs(60), calm);
        world.add_device("ann", "phone");
        run_to(&mut world, 5_000);
        assert_eq!(world.sessions(), 1, "she is in");
        world
    }

    fn run_to(world: &mut World, ms: u64) {
        while world.now_ms < ms {
            world.step(ms);
        }
    }

    #[test]
    fn whoever_is_ordered_to_leave_leaves_in_time_and_comes_back() {
        for name in ["gateway-1", "gateway-2", "router-1", "router-2", "app-service-1"] {
            let mut world = world();
            let node = NodeId::new(name).expect("the name of a node");
            let before = world.processes[&node].identity.incarnation;
            world.order_to_leave(&node, 1_000);
            assert!(!world.is_whole());
            run_to(&mut world, 70_000);
            assert!(world.is_whole(), "{name} is not back");
            assert_eq!(world.stayed(), [""; 0]);
            let after = world.processes[&node].identity.incarnation;
            assert_ne!(before, after, "{name} is another life");
            assert_eq!(world.sessions(), 1, "she is in, wherever she is");
        }
    }
}
