//! The beginning of every scenario: clients come in at a rate.

use std::time::Duration;

use anyhow::bail;

use crate::engine::{Engine, SeatId};
use crate::record::{Device, UserNumber};
use crate::schedule::{Schedule, Share};
use crate::tally::Counter;

/// Between two looks at who is in.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Clients that are to come in.
#[derive(Debug)]
pub(super) struct Connecting {
    seats: Vec<SeatId>,
    within: Duration,
    deadline: Duration,
    look_at: Duration,
}

impl Connecting {
    /// Adds `count` seats for the users from number `first` on, and has them dial at `per_s` (0: all at once) from `now`
    /// on. They have `within` beyond that.
    pub(super) fn start(
        engine: &mut Engine,
        first: u32,
        count: u32,
        (per_s, share): (f64, Share),
        within: Duration,
        now: Duration,
    ) -> Self {
        let mut schedule = Schedule::new(now, Duration::MAX, per_s, share);
        let mut last = now;
        let seats = (0..count).map(|index| {
            let seat = engine.add_seat(Device {
                user: UserNumber(first + index),
                number: 0,
            });
            let due = schedule.due().unwrap_or(now);
            schedule.take(due);
            last = due;
            engine.come(seat, due);
            seat
        });
        let seats = seats.collect();
        Self {
            seats,
            within,
            deadline: last.saturating_add(within),
            look_at: now,
        }
    }

    /// Whether all are in that will be; else when to look again.
    ///
    /// # Errors
    /// When none came in.
    pub(super) fn poll(
        &mut self,
        engine: &mut Engine,
        now: Duration,
    ) -> anyhow::Result<Result<(), Duration>> {
        if now < self.look_at {
            return Ok(Err(self.look_at));
        }
        self.look_at = now + LOOK_EVERY;
        let all_in = engine.online() == self.seats.len() as u64;
        let hopeless = || {
            let mut seats = self.seats.iter();
            seats.all(|seat| engine.is_ready(*seat) || !engine.is_wanted(*seat))
        };
        if !all_in && now < self.deadline && !hopeless() {
            return Ok(Err(self.look_at));
        }
        let connected = self.seats.iter().filter(|seat| engine.is_ready(**seat)).count();
        let Counter { tally, .. } = &mut engine.counter;
        tally.connected = connected as u64;
        tally.failed = (self.seats.len() - connected) as u64;
        if connected == 0 && !self.seats.is_empty() {
            bail!(
                "none of {} clients could log in within {:?} (--connect-within): {}",
                self.seats.len(),
                self.within,
                engine.last_setback().unwrap_or("no gateway answered in time")
            );
        }
        Ok(Ok(()))
    }
}
