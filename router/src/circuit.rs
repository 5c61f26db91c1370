//! One node's circuit: whether failures have taken it out. Pure; `now` is handed in.
//!
//! *Closed*, it serves. Failures in a row *open* it: it gets nothing for a time that grows with each opening. Then it is
//! *half open*: it is tried with one request at a time, and a few good answers close it, one failure opens it again. The time does not
//! grow while all others of its pool fail as well: what ails all of them is not cured by anybody's rest.

use std::time::Duration;

/// Failures in a row that open it: fewer happen to healthy nodes.
const FAILURES_MAX: u32 = 5;
/// Good answers in a row that close it: one may be luck.
const TRIALS: u32 = 3;
/// The first time it stays open; each further one doubles it.
const OPEN_MIN: Duration = Duration::from_secs(5);
/// The longest: by then it is worth asking again.
const OPEN_MAX: Duration = Duration::from_secs(80);
/// A node that has served this long since its circuit was last open starts over at the shortest.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    state: State,
    /// How often it has opened, lately, and not for what ailed all.
    openings: u32,
    last_open_end: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It serves, and has failed so many in a row.
    Closed { failures: u32 },
    /// It gets nothing.
    Open { until: Duration },
    /// It is being tried, and has answered so many in a row.
    HalfOpen { answered: u32 },
}

/// How a node's pool is while the node fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    /// It can do without one more.
    pub(crate) can_spare: bool,
    /// All others that are asked fail as well.
    pub(crate) fails_alike: bool,
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Circuit {
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether the last that was asked of it failed, as far as is known.
    pub(crate) fn is_failing(&self) -> bool {
        match self.state {
            State::Closed { failures } => failures > 0,
            State::Open { .. } => true,
            State::HalfOpen { answered } => answered == 0,
        }
    }

    /// Whether failures have taken the node out, wholly or but for trials.
    pub(crate) fn is_out(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// How often it has opened since it was last well for long, but for what ailed its whole pool.
    pub(crate) fn openings(&self) -> u32 {
        self.openings
    }

    /// The node served a request.
    pub(crate) fn handle_success(&mut self) {
        self.state = match self.state {
            State::Closed { .. } => State::Closed { failures: 0 },
            // Begun before it opened: says nothing of how it is now.
            State::Open { until } => State::Open { until },
            State::HalfOpen { answered } if answered + 1 >= TRIALS => State::Closed { failures: 0 },
            State::HalfOpen { answered } => State::HalfOpen {
                answered: answered + 1,
            },
        };
    }

    /// The node failed one. True when that opens the circuit.
    pub(crate) fn handle_failure(&mut self, now: Duration, pool: Pool) -> bool {
        match self.state {
            State::Closed { failures } => {
                let failures = failures.saturating_add(1);
                if failures < FAILURES_MAX || !pool.can_spare {
                    self.state = State::Closed { failures };
                    return false;
                }
                if now.saturating_sub(self.last_open_end) > FORGOTTEN_AFTER {
                    self.openings = 0;
                }
            }
            State::Open { .. } => return false,
            State::HalfOpen { .. } => {}
        }
        let time = OPEN_MIN.saturating_mul(1 << self.openings.min(8)).min(OPEN_MAX);
        if !pool.fails_alike {
            self.openings += 1;
        }
        self.last_open_end = now + time;
        self.state = State::Open { until: now + time };
        true
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        if matches!(self.state, State::Open { until } if until <= now) {
            self.state = State::HalfOpen { answered: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SPARES: Pool = Pool {
        can_spare: true,
        fails_alike: false,
    };
    const KEEPS: Pool = Pool {
        can_spare: false,
        fails_alike: false,
    };

    fn fail_until_open(circuit: &mut Circuit, now: Duration) -> u32 {
        (1..=100)
            .find(|_| circuit.handle_failure(now, SPARES))
            .unwrap_or(0)
    }

    fn close(circuit: &mut Circuit) {
        (0..TRIALS).for_each(|_| circuit.handle_success());
        assert!(!circuit.is_out());
    }

    #[test]
    fn failures_in_a_row_open_it_for_a_growing_time() {
        let (mut circuit, mut now) = (Circuit::default(), SECOND);
        for seconds in [5, 10, 20, 40, 80, 80] {
            assert_eq!(fail_until_open(&mut circuit, now), FAILURES_MAX);
            now += Duration::from_secs(seconds);
            circuit.handle_timeout(now - Duration::from_millis(1));
            assert!(matches!(circuit.state(), State::Open { .. }));
            circuit.handle_timeout(now);
            assert_eq!(circuit.state(), State::HalfOpen { answered: 0 });
            close(&mut circuit);
        }
        now += FORGOTTEN_AFTER + SECOND;
        fail_until_open(&mut circuit, now);
        circuit.handle_timeout(now + OPEN_MIN);
        assert_eq!(circuit.openings(), 1, "what is long ago is forgotten");
    }

    #[test]
    fn one_failure_of_a_node_that_is_tried_opens_it_again_for_longer() {
        let (mut circuit, mut now) = (Circuit::default(), SECOND);
        fail_until_open(&mut circuit, now);
        for seconds in [5, 10, 20] {
            now += Duration::from_secs(seconds);
            circuit.handle_timeout(now);
            (1..TRIALS).for_each(|_| circuit.handle_success());
            // Even where the pool could not spare it, were it in: it is out already.
            assert!(circuit.handle_failure(now, KEEPS));
        }
        assert_eq!(circuit.openings(), 4);
    }

    #[test]
    fn what_ails_the_whole_pool_makes_no_time_grow() {
        let alike = Pool {
            fails_alike: true,
            ..SPARES
        };
        let (mut circuit, mut now) = (Circuit::default(), SECOND);
        (0..FAILURES_MAX).for_each(|_| _ = circuit.handle_failure(now, alike));
        for _ in 0..5 {
            assert_eq!(
                circuit.state(),
                State::Open {
                    until: now + OPEN_MIN
                }
            );
            now += OPEN_MIN;
            circuit.handle_timeout(now);
            assert!(circuit.handle_failure(now, alike));
        }
        assert!(circuit.is_failing() && circuit.openings() == 0);
    }

    #[test]
    fn what_was_begun_before_it_opened_changes_nothing() {
        let mut circuit = Circuit::default();
        fail_until_open(&mut circuit, SECOND);
        let open = circuit.state();
        circuit.handle_success();
        assert!(!circuit.handle_failure(SECOND, SPARES));
        assert_eq!(circuit.state(), open);
    }

    #[test]
    fn a_success_between_failures_keeps_a_node_in() {
        let mut circuit = Circuit::default();
        for _ in 0..20 {
            (1..FAILURES_MAX).for_each(|_| assert!(!circuit.handle_failure(SECOND, SPARES)));
            circuit.handle_success();
        }
    }

    #[test]
    fn a_pool_that_cannot_spare_it_keeps_it() {
        let mut circuit = Circuit::default();
        for _ in 0..20 {
            assert!(!circuit.handle_failure(SECOND, KEEPS));
        }
        assert!(circuit.handle_failure(SECOND, SPARES), "until it can");
    }
}
