//! The phases of a run, and who leads through them.
//!
//! A process that does its share tells its leader each second what happened, and at the end of each phase waits until all
//! processes are there. At that moment the leader looks at the server's processes: what a phase cost is the difference.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::interrupt::{Interrupt, Signal};
use crate::procfs::{RoleProcesses, RoleUsage};
use crate::tally::Second;

/// How far all processes have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing was done yet.
    Begun,
    /// Clients are in.
    Connected,
    /// Conversations or rooms are there.
    Prepared,
    /// So many rounds are over.
    Round(u32),
    /// What was to be measured is over.
    Ran,
}

/// Leads one process through a run.
pub trait Lead {
    /// Hears what happened in a second.
    fn second(&mut self, second: Second);

    /// Hears, as often as it is called, that this process has reached `phase`; gives the moment at which to go on once all
    /// processes have.
    fn pass(&mut self, phase: Phase) -> Option<Duration>;

    /// The signal by which the run is to end before it is over.
    fn cut_by(&self) -> Option<Signal>;
}

/// What a phase's end looked like.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// When it was.
    pub at: Duration,
    /// What each role's processes have used, by the role's name.
    pub usage: BTreeMap<String, RoleUsage>,
}

/// Shows a run while it goes on.
pub trait Show {
    /// A second of the whole run.
    fn second(&mut self, second: &Second);

    /// All processes reached a phase.
    fn phase(&mut self, phase: Phase);
}

/// Knows all processes of a run: adds their seconds up, and looks at the server when they pass from phase to phase.
pub struct Conductor {
    processes: usize,
    /// Asked anew each time: a deployment that was started again has other processes.
    roles: Box<dyn Fn() -> Vec<RoleProcesses>>,
    show: Box<dyn Show>,
    /// Seconds that some processes have told.
    open: BTreeMap<u64, (usize, Second)>,
    /// Seconds of the whole run.
    pub seconds: Vec<Second>,
    /// What the server looked like.
    pub samples: BTreeMap<Phase, Sample>,
}

impl std::fmt::Debug for Conductor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conductor")
            .field("processes", &self.processes)
            .finish_non_exhaustive()
    }
}

impl Conductor {
    /// Of so many processes, against a server of these.
    #[must_use]
    pub fn new(processes: usize, roles: Box<dyn Fn() -> Vec<RoleProcesses>>, show: Box<dyn Show>) -> Self {
        Self {
            processes,
            roles,
            show,
            open: BTreeMap::new(),
            seconds: Vec::new(),
            samples: BTreeMap::new(),
        }
    }

    /// Takes a second of one process in; once all have told it, it is shown.
    pub fn take_second(&mut self, second: &Second) {
        let at_s = second.at_s;
        let (told, sum) = self.open.entry(at_s).or_default();
        sum.at_s = at_s;
        sum.merge(second);
        *told += 1;
        if *told >= self.processes
            && let Some((_, sum)) = self.open.remove(&at_s)
        {
            self.show.second(&sum);
            self.seconds.push(sum);
        }
    }

    /// All processes reached `phase`.
    pub fn reach(&mut self, phase: Phase) {
        let usage = (self.roles)().into_iter().filter_map(|role| {
            let usage = role.usage()?;
            Some((role.role, usage))
        });
        let sample = Sample {
            at: clock::now(),
            usage: usage.collect(),
        };
        self.samples.insert(phase, sample);
        self.show.phase(phase);
    }
}

/// Leads the only process of a run.
#[derive(Debug)]
pub struct Solo {
    /// Sums up and looks at the server.
    pub conductor: Conductor,
    /// Of this process.
    pub interrupt: Interrupt,
}

impl Lead for Solo {
    fn second(&mut self, second: Second) {
        self.conductor.take_second(&second);
    }

    fn pass(&mut self, phase: Phase) -> Option<Duration> {
        if !self.conductor.samples.contains_key(&phase) {
            self.conductor.reach(phase);
        }
        Some(clock::now())
    }

    fn cut_by(&self) -> Option<Signal> {
        self.interrupt.heard()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Quiet;

    impl Show for Quiet {
        fn second(&mut self, _: &Second) {}
        fn phase(&mut self, _: Phase) {}
    }

    #[test]
    fn a_second_counts_once_all_processes_have_told_it() {
        let mut conductor = Conductor::new(2, Box::new(Vec::new), Box::new(Quiet));
        let second = |at_s, acked| Second {
            at_s,
            acked,
            ..Second::default()
        };
        conductor.take_second(&second(0, 3));
        conductor.take_second(&second(1, 5));
        assert!(conductor.seconds.is_empty());
        conductor.take_second(&second(0, 4));
        let told: Vec<(u64, u64)> = conductor.seconds.iter().map(|s| (s.at_s, s.acked)).collect();
        assert_eq!(told, [(0, 7)]);
    }

    #[test]
    fn a_phase_samples_the_servers_processes() {
        let roles = || {
            vec![RoleProcesses {
                role: "gateway".into(),
                pids: vec![std::process::id()],
            }]
        };
        let mut solo = Solo {
            conductor: Conductor::new(1, Box::new(roles), Box::new(Quiet)),
            interrupt: Interrupt::default(),
        };
        assert!(solo.pass(Phase::Begun).is_some());
        assert!(
            solo.conductor.samples[&Phase::Begun]
                .usage
                .contains_key("gateway")
        );
    }
}
