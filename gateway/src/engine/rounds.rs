//! When strangers have their turn: at once while few come, in rounds when many do.
//!
//! A login is a handful of small steps, each behind a wait for somebody else: the hello, the judgement of its token, the
//! confirmation, the registration. A reactor that woke for each of them would find its caches cold each time: at a
//! thousand logins a second, a third of what they cost was that. So the steps are paid from an allowance. As long as it
//! lasts they are taken at once, and a login takes as long as its round trips; when it is used up, what has come is
//! looked after together, every [`ROUND_MS`]. A round that finds no more than one stranger has waited for nothing, as when
//! somebody logs in once more whenever he is in: then the allowance is whole again. Sessions never wait for a round, nor
//! does a round that had more than its turn's worth: in a storm there is always work, and nothing to wait for.
//!
//! Pure: the generic cell rate algorithm (ITU-T I.371) over turns instead of cells.

/// Between two rounds, in milliseconds: a login of four steps takes four of them at most, less than two round trips of a
/// mobile network.
pub(super) const ROUND_MS: u64 = 5;

/// Rounds that may be had at once: all the steps of four logins.
const BURST: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Rounds {
    /// Until when the rounds so far would have taken, at one in [`ROUND_MS`].
    paid_until_ms: u64,
    /// The last one left work behind.
    has_more: bool,
    /// Something was done for strangers in this turn.
    stepped: bool,
    /// Steps taken in this turn for which somebody waits.
    served: u32,
    /// No round since strangers were made to wait.
    held: bool,
}

impl Rounds {
    /// Nobody has come yet.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            paid_until_ms: now_ms,
            has_more: false,
            stepped: false,
            served: 0,
            held: false,
        }
    }

    /// When strangers can be looked after again.
    pub(super) fn opens_at_ms(&self) -> u64 {
        self.paid_until_ms.saturating_sub((BURST - 1) * ROUND_MS)
    }

    /// Whether they can be now.
    pub(super) fn is_open(&self, now_ms: u64) -> bool {
        self.has_more || now_ms >= self.opens_at_ms()
    }

    /// Somebody was taken in: his first step follows.
    pub(super) fn note_arrival(&mut self) {
        self.stepped = true;
    }

    /// A stranger was served.
    pub(super) fn note_step(&mut self) {
        self.stepped = true;
        self.served += 1;
    }

    /// A turn ends in which strangers were not looked after; answers to their questions may have come all the same.
    pub(super) fn end_turn(&mut self) {
        self.stepped = false;
        self.served = 0;
    }

    /// A turn ends in which they were; `has_more` if there was more to do than it could.
    pub(super) fn end_round(&mut self, now_ms: u64, has_more: bool) {
        self.has_more = has_more;
        let was_held = std::mem::take(&mut self.held);
        let served = std::mem::take(&mut self.served);
        if !std::mem::take(&mut self.stepped) {
            return;
        }
        if was_held && served <= 1 && !has_more {
            self.paid_until_ms = now_ms;
        }
        // A round that came early, because there was more, is not paid for twice.
        let most = now_ms.saturating_add(BURST * ROUND_MS);
        let paid = self.paid_until_ms.max(now_ms).saturating_add(ROUND_MS);
        self.paid_until_ms = paid.min(most);
        self.held = !self.is_open(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has so many strangers served at every opportunity within `ms` milliseconds; how many rounds that makes.
    fn rounds(rounds: &mut Rounds, from_ms: u64, ms: u64, strangers: u32) -> u64 {
        let mut count = 0;
        for now_ms in from_ms..from_ms + ms {
            // Several wakes within one millisecond.
            for _ in 0..3 {
                if rounds.is_open(now_ms) {
                    (0..strangers).for_each(|_| rounds.note_step());
                    rounds.end_round(now_ms, false);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn few_steps_are_taken_at_once() {
        let mut quiet = Rounds::new(1_000);
        for login in 0..50 {
            let now_ms = 1_000 + login * 4 * ROUND_MS;
            for step in 0..4 {
                assert!(quiet.is_open(now_ms), "step {step} of login {login}");
                quiet.note_step();
                quiet.end_round(now_ms, false);
            }
        }
    }

    #[test]
    fn many_steps_are_taken_in_rounds() {
        let mut busy = Rounds::new(0);
        assert_eq!(rounds(&mut busy, 0, 1_000, 2), BURST - 1 + 1_000 / ROUND_MS);
    }

    #[test]
    fn one_who_comes_again_and_again_alone_waits_once_in_an_allowance() {
        let mut alone = Rounds::new(0);
        let mut steps = 0;
        let mut now_ms = 0;
        while steps < 100 * BURST {
            if alone.is_open(now_ms) {
                alone.note_step();
                alone.end_round(now_ms, false);
                steps += 1;
            } else {
                now_ms += 1;
            }
        }
        assert!(now_ms <= 100 * ROUND_MS, "{now_ms} ms");
    }

    #[test]
    fn a_turn_without_a_step_costs_nothing() {
        let mut idle = Rounds::new(0);
        (0..100).for_each(|_| idle.end_round(0, false));
        idle.note_arrival();
        idle.end_turn();
        assert_eq!(rounds(&mut idle, 0, 5, 1), 15);
    }

    #[test]
    fn whoever_is_left_behind_does_not_wait_and_a_storm_leaves_no_debt() {
        let mut storm = Rounds::new(0);
        for _ in 0..1_000 {
            assert!(storm.is_open(7));
            storm.note_step();
            storm.end_round(7, true);
        }
        storm.note_step();
        storm.end_round(7, false);
        assert!(!storm.is_open(7));
        assert!(storm.is_open(7 + ROUND_MS));
    }
}
