//! Faults that the checker must find in a real run: how one is planted, and how the code that has it asks.
//!
//! A crate with faults names them in an enum of its own ([`Fault`]); the few places where one bites ask [`is`]. One is planted
//! at a time: in a process, for as long as it lives, by [`plant`], or in what a thread runs, by [`plant_here`].
//!
//! Nothing that serves anybody contains this crate: it is an optional dependency, behind the feature `planted-faults` of
//! each crate that uses it. Not here: the faults themselves.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::OnceLock;

/// By name, for faults of several crates share the two places where one is planted.
static PLANTED: OnceLock<&'static str> = OnceLock::new();

thread_local! {
    static PLANTED_HERE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// A crate's faults. No two faults of any crates have the same name.
pub trait Fault: Copy + Eq + 'static {
    /// All of them, with the names by which they are chosen.
    const ALL: &'static [(&'static str, Self)];

    /// The one of this name.
    #[must_use]
    fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, fault)| *fault)
    }

    /// By what name it is chosen.
    ///
    /// # Panics
    /// When it is not among [`Fault::ALL`].
    #[must_use]
    fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, known)| *known == self);
        found.expect("each fault is among all of them").0
    }
}

/// Plants a fault in this process, for as long as it lives.
///
/// # Panics
/// When another was planted before: a run proves the checker by one fault.
pub fn plant(fault: impl Fault) {
    let planted = *PLANTED.get_or_init(|| fault.name());
    // The text is also what a build without faults is searched for.
    assert!(
        planted == fault.name(),
        "only one planted fault at a time: {planted} was there before"
    );
}

/// Plants a fault in what this thread runs, until what is returned is dropped: simulated clusters run side by side, each in a
/// thread of its own.
pub fn plant_here(fault: impl Fault) -> PlantedHere {
    PlantedHere(PLANTED_HERE.replace(Some(fault.name())))
}

/// A fault planted by [`plant_here`].
#[derive(Debug)]
#[must_use = "the fault is gone when this is dropped"]
pub struct PlantedHere(Option<&'static str>);

impl Drop for PlantedHere {
    fn drop(&mut self) {
        PLANTED_HERE.set(self.0);
    }
}

/// Whether this fault is planted.
#[must_use]
pub fn is(fault: impl Fault) -> bool {
    is_here(fault) || PLANTED.get().is_some_and(|planted| *planted == fault.name())
}

/// Whether this fault is planted in what this thread runs.
#[must_use]
pub fn is_here(fault: impl Fault) -> bool {
    PLANTED_HERE.get().is_some_and(|planted| planted == fault.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Clock {
        Slow,
        Fast,
    }

    impl Fault for Clock {
        const ALL: &'static [(&'static str, Self)] = &[("slow", Self::Slow), ("fast", Self::Fast)];
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Deaf;

    impl Fault for Deaf {
        const ALL: &'static [(&'static str, Self)] = &[("deaf", Self)];
    }

    #[test]
    fn a_fault_is_chosen_by_its_name() {
        assert_eq!(Clock::named("fast"), Some(Clock::Fast));
        assert_eq!(Clock::named("deaf"), None);
        assert_eq!(Clock::Slow.name(), "slow");
    }

    #[test]
    fn a_fault_of_a_thread_is_nobody_elses_and_ends_with_its_guard() {
        let outer = plant_here(Clock::Slow);
        assert!(is_here(Clock::Slow) && !is_here(Clock::Fast) && !is_here(Deaf));
        let elsewhere = std::thread::spawn(|| is_here(Clock::Slow));
        assert!(!elsewhere.join().expect("the other thread only asks"));
        {
            let _inner = plant_here(Deaf);
            assert!(is(Deaf) && !is_here(Clock::Slow));
        }
        assert!(is(Clock::Slow) && !is_here(Deaf));
        drop(outer);
        assert!(!is_here(Clock::Slow));
    }

    #[test]
    fn a_fault_of_the_process_is_every_threads_and_the_only_one() {
        plant(Clock::Fast);
        plant(Clock::Fast);
        assert!(is(Clock::Fast) && !is_here(Clock::Fast) && !is(Clock::Slow));
        let elsewhere = std::thread::spawn(|| is(Clock::Fast));
        assert!(elsewhere.join().expect("the other thread only asks"));
        let second = std::panic::catch_unwind(|| plant(Deaf));
        assert!(second.is_err() && !is(Deaf));
    }
}
