//! A coarse timer wheel: one entry per connection, moved lazily.
//!
//! Deadlines mostly move away (every record a client sends defers its liveness), so nothing is removed or moved when they
//! do: an entry that comes due too early is put back at the deadline of then. Deadlines beyond the wheel's reach wait at
//! its far end. Hashed wheel, scheme 6 of Varghese and Lauck (SOSP 1987), with lazy re-arming.

use super::slots::Place;

/// How coarse timers are, in milliseconds: far below every clock of a session, far above the cost of a turn.
pub(crate) const TICK_MS: u64 = 250;

/// Ticks around the wheel: 128 s. A liveness of ten minutes is looked at five times.
const TICKS: u64 = 512;

/// Which tick a place was put at. A connection remembers its own and ignores every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u32);

impl Tick {
    /// Not on the wheel.
    pub(crate) const NEVER: Self = Self(u32::MAX);
}

/// Places by the tick at which to look at them.
#[derive(Debug)]
pub(crate) struct Wheel {
    spokes: Vec<Vec<Place>>,
    /// Everything up to this tick has been handed out.
    done: u64,
    entries: usize,
}

impl Wheel {
    /// An empty wheel at `now_ms`.
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            spokes: (0..TICKS).map(|_| Vec::new()).collect(),
            done: now_ms / TICK_MS,
            entries: 0,
        }
    }

    /// Puts `place` where it is looked at by `deadline_ms` or, if that is out of reach, as late as possible; does nothing
    /// when it is on the wheel early enough already.
    pub(crate) fn arm(&mut self, place: Place, deadline_ms: u64, armed: &mut Tick) {
        let tick = deadline_ms
            .div_ceil(TICK_MS)
            .clamp(self.done + 1, self.done + TICKS - 1);
        let wanted = Tick(u32::try_from(tick).unwrap_or(u32::MAX - 1));
        if *armed <= wanted {
            return;
        }
        *armed = wanted;
        self.spoke(tick).push(place);
        self.entries += 1;
    }

    fn spoke(&mut self, tick: u64) -> &mut Vec<Place> {
        let spoke = usize::try_from(tick % TICKS).expect("a remainder of 512 fits");
        &mut self.spokes[spoke]
    }

    /// Moves the places of the next tick that is over by `now_ms` to `due` and says which tick it was.
    pub(crate) fn turn(&mut self, now_ms: u64, due: &mut Vec<Place>) -> Option<Tick> {
        if self.done >= now_ms / TICK_MS {
            return None;
        }
        self.done += 1;
        let tick = self.done;
        let spoke = std::mem::take(self.spoke(tick));
        self.entries -= spoke.len();
        due.extend(spoke);
        Some(Tick(u32::try_from(tick).unwrap_or(u32::MAX - 1)))
    }

    /// How long until the next tick, if anything waits for one.
    pub(crate) fn next_in_ms(&self, now_ms: u64) -> Option<u64> {
        (self.entries > 0).then(|| ((self.done + 1) * TICK_MS).saturating_sub(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        slot: 3,
        generation: 1,
    };

    fn due_at(wheel: &mut Wheel, until_ms: u64) -> Vec<(u64, Tick)> {
        let mut all = Vec::new();
        for now_ms in (0..=until_ms).step_by(50) {
            let mut due = Vec::new();
            while let Some(tick) = wheel.turn(now_ms, &mut due) {
                due.drain(..).for_each(|_| all.push((now_ms, tick)));
            }
        }
        all
    }

    #[test]
    fn a_place_is_due_within_a_tick_of_its_deadline_and_never_before() {
        let (mut wheel, mut armed) = (Wheel::new(0), Tick::NEVER);
        wheel.arm(PLACE, 10_001, &mut armed);
        assert_eq!(due_at(&mut wheel, 20_000), [(10_250, armed)]);
        assert_eq!(wheel.next_in_ms(20_000), None);
    }

    #[test]
    fn a_nearer_deadline_is_put_in_front_and_a_farther_one_changes_nothing() {
        let (mut wheel, mut armed) = (Wheel::new(0), Tick::NEVER);
        wheel.arm(PLACE, 9_000, &mut armed);
        wheel.arm(PLACE, 12_000, &mut armed);
        wheel.arm(PLACE, 5_000, &mut armed);
        let due = due_at(&mut wheel, 20_000);
        assert_eq!(due.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [5_000, 9_000]);
        assert_eq!(due[0].1, armed, "the later entry is of a tick nobody remembers");
        assert_ne!(due[1].1, armed);
    }

    #[test]
    fn what_is_out_of_reach_comes_due_early_instead_of_never() {
        let (mut wheel, mut armed) = (Wheel::new(0), Tick::NEVER);
        wheel.arm(PLACE, 600_000, &mut armed);
        let due = due_at(&mut wheel, 200_000);
        assert_eq!(due.len(), 1);
        assert!(due[0].0 >= 127_000, "{due:?}");
    }
}
