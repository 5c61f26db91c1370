//! One process's share of a run: the loop around reactor, scenario and leader.

use std::time::Duration;

use crate::clock;
use crate::engine::{Engine, Happening};
use crate::lead::{Lead, Phase};
use crate::tally::Tally;

const SECOND: Duration = Duration::from_secs(1);

/// What a scenario wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// To be called when something happens, or at this moment.
    Until(Duration),
    /// Nothing: it is over.
    Done,
}

/// Something that clients do.
pub trait Scenario {
    /// Takes in what happened to a device.
    fn handle(&mut self, happening: Happening, engine: &mut Engine);

    /// Does what is due.
    ///
    /// # Errors
    /// When the run cannot go on.
    fn tick(&mut self, now: Duration, engine: &mut Engine, lead: &mut dyn Lead) -> anyhow::Result<Step>;

    /// Messages that are due and not answered.
    fn backlog(&self) -> u64 {
        0
    }

    /// Counts what is left open.
    fn close(&mut self, tally: &mut Tally);

    /// The run is cut: counts what is there, and says nothing of what may have been on its way.
    fn cut(&mut self, tally: &mut Tally) {
        tally.unresolved += self.backlog() + tally.backlog_dropped;
    }
}

/// Runs a scenario to its end, or until its leader cuts it.
///
/// # Errors
/// When the system or the scenario says that it cannot go on.
pub fn run(engine: &mut Engine, scenario: &mut dyn Scenario, lead: &mut dyn Lead) -> anyhow::Result<Tally> {
    let begun = loop {
        if let Some(begun) = lead.pass(Phase::Begun) {
            break begun;
        }
        if let Some(signal) = lead.cut_by() {
            return Ok(Tally {
                cut_by: Some(signal),
                ..Tally::default()
            });
        }
        engine.turn(clock::now() + Duration::from_millis(10))?;
    };
    let mut second_ends = begun + SECOND;
    let mut at_s = 0;
    let cut_by = loop {
        if let Some(signal) = lead.cut_by() {
            break Some(signal);
        }
        let now = clock::now();
        while now >= second_ends {
            let online = engine.online();
            let mut second = engine.counter.end_second(at_s, online, scenario.backlog());
            second.away = engine.away(now);
            lead.second(second);
            second_ends += SECOND;
            at_s += 1;
        }
        match scenario.tick(now, engine, lead)? {
            Step::Done => break None,
            Step::Until(until) => engine.turn(until.min(second_ends))?,
        }
        while let Some(happening) = engine.next() {
            scenario.handle(happening, engine);
        }
    };
    let online = engine.online();
    let mut last = engine.counter.end_second(at_s, online, scenario.backlog());
    last.is_cut = true;
    lead.second(last);
    let mut tally = std::mem::take(&mut engine.counter.tally);
    tally.cut_by = cut_by;
    if tally.last_setback.is_none() {
        tally.last_setback = engine.last_setback().map(str::to_owned);
    }
    match cut_by {
        None => scenario.close(&mut tally),
        Some(_) => scenario.cut(&mut tally),
    }
    Ok(tally)
}
