//! Whether one node is fit to serve. Pure: `now` is a monotonic time handed in.
//!
//! Three judges. The node itself says, asked by probes or unasked, whether it is ready, draining and how loaded.
//! Silence to a probe says that it is frozen, though its link lives. And failures of real requests in a row open its
//! [circuit](crate::circuit) for a growing time, if its pool can spare it. Whoever comes back starts slowly.

use std::collections::VecDeque;
use std::time::Duration;

use whimbrel_protocol::cluster::ProbeResponse;

use crate::circuit::{self, Circuit, Pool};

/// How long a node takes from its first work to its full share: caches and connections warm in seconds.
const SLOW_START: Duration = Duration::from_secs(10);
/// The share a node starts with, permille, and which it is tried with while its circuit is half open.
const SLOW_START_FLOOR: u32 = 100;
/// A node that says it is this loaded gets work only for want of others.
const LOAD_FULL_PERMILLE: u32 = 950;
/// Bytes of a node's reason that are kept.
const REASON_LEN_MAX: usize = 256;

/// One node's health.
#[derive(Debug)]
pub(crate) struct Health {
    told: Option<Told>,
    /// It has said that it is ready since it last turned a request away.
    stands_by_it: bool,
    /// The probes that are out, oldest first: as many as go out within one timeout.
    probes: VecDeque<Probe>,
    next_probe_at: Duration,
    silent: bool,
    /// How far its clock is ahead of most, ms, if that is too much; else 0.
    clock_ahead_ms: i64,
    circuit: Circuit,
    /// Since when it has been fit without a break.
    fit_since: Option<Duration>,
}

/// What the node last said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) ready: bool,
    pub(crate) draining: bool,
    pub(crate) reason: String,
    pub(crate) load_permille: u32,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    id: u64,
    lost_at: Duration,
}

/// What time brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// It is time for a probe.
    Probe,
    /// A probe was not answered in time: what the node has is to be sent elsewhere.
    WentSilent,
}

impl Health {
    /// A node whose link has just come up: unknown, and probed at once.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            told: None,
            stands_by_it: false,
            probes: VecDeque::new(),
            next_probe_at: now,
            silent: false,
            clock_ahead_ms: 0,
            circuit: Circuit::default(),
            fit_since: None,
        }
    }

    /// The node said how it is.
    pub(crate) fn handle_told(&mut self, now: Duration, told: ProbeResponse) {
        self.silent = false;
        let mut reason = told.reason;
        reason.truncate(reason.floor_char_boundary(REASON_LEN_MAX));
        self.told = Some(Told {
            ready: told.ready && !told.draining,
            draining: told.draining,
            reason,
            load_permille: told.load_permille,
        });
        self.stands_by_it = told.ready;
        self.judge(now);
    }

    /// A probe went out.
    pub(crate) fn handle_probe_sent(
        &mut self,
        now: Duration,
        id: u64,
        interval: Duration,
        timeout: Duration,
    ) {
        // Each has a clock of its own: a way longer than the interval is no silence, and probing again does not put off the verdict.
        let lost_at = now + timeout;
        self.probes.push_back(Probe { id, lost_at });
        self.next_probe_at = now + interval;
    }

    /// Whether `id` is a probe that is out; if so it is answered, and those before it are. One over which the verdict is spoken is
    /// not out any more: an answer that late is no sign that the next comes in time.
    pub(crate) fn handle_probe_answered(&mut self, id: u64) -> bool {
        // Ids grow.
        let Ok(place) = self.probes.binary_search_by_key(&id, |probe| probe.id) else {
            return false;
        };
        self.probes.drain(..=place);
        true
    }

    /// It served a request.
    pub(crate) fn handle_success(&mut self, now: Duration) {
        self.circuit.handle_success();
        self.judge(now);
    }

    /// It turned one away, as one that is not ready does: its store is gone, say. Its readiness will tell, and is enough; only one that
    /// goes on saying that it is ready fails by it, once each time that it does.
    pub(crate) fn handle_turned_away(&mut self, now: Duration, pool: Pool) -> bool {
        std::mem::take(&mut self.stands_by_it) && self.handle_failure(now, pool)
    }

    /// It failed one. True when that ejects it.
    pub(crate) fn handle_failure(&mut self, now: Duration, pool: Pool) -> bool {
        let ejected = self.circuit.handle_failure(now, pool);
        self.judge(now);
        ejected
    }

    /// When [`handle_timeout`](Self::handle_timeout) next has something to do.
    pub(crate) fn next_timeout(&self) -> Duration {
        let lost_at = self.probes.front().map(|probe| probe.lost_at);
        [lost_at, self.circuit.next_timeout()]
            .into_iter()
            .flatten()
            .fold(self.next_probe_at, Duration::min)
    }

    /// What is due at `now`; at most one of each.
    pub(crate) fn handle_timeout(&mut self, now: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        self.circuit.handle_timeout(now);
        while self.probes.pop_front_if(|probe| probe.lost_at <= now).is_some() {
            if !std::mem::replace(&mut self.silent, true) {
                due.push(Due::WentSilent);
            }
        }
        if self.next_probe_at <= now {
            due.push(Due::Probe);
        }
        self.judge(now);
        due
    }

    /// Its clock is so much ahead of most; 0: not too much.
    pub(crate) fn handle_clock(&mut self, now: Duration, ahead_ms: i64) {
        self.clock_ahead_ms = ahead_ms;
        self.judge(now);
    }

    /// How far its clock is ahead of most, ms, if that is too much; else 0.
    pub(crate) fn clock_ahead_ms(&self) -> i64 {
        self.clock_ahead_ms
    }

    /// Whether it answers at all.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether it is out of service for its failures or its silence: what its pool has to do without by our judgement.
    pub(crate) fn is_out(&self) -> bool {
        self.silent || self.circuit.is_out()
    }

    /// Whether it is being tried, with one request at a time.
    pub(crate) fn is_tried(&self) -> bool {
        matches!(self.circuit.state(), circuit::State::HalfOpen { .. })
    }

    /// Its circuit, to be shown.
    pub(crate) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// What it last said of itself.
    pub(crate) fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    /// How much of a full share it gets, permille; 0: none.
    pub(crate) fn weight_permille(&self, now: Duration) -> u32 {
        if self.is_tried() && self.is_willing() {
            return SLOW_START_FLOOR;
        }
        let Some(since) = self.fit_since else { return 0 };
        let served = now.saturating_sub(since);
        if served >= SLOW_START {
            return 1_000;
        }
        let grown = served.as_millis() * u128::from(1_000 - SLOW_START_FLOOR) / SLOW_START.as_millis();
        SLOW_START_FLOOR + u32::try_from(grown).unwrap_or(0)
    }

    /// Whether it says that it is full.
    pub(crate) fn is_full(&self) -> bool {
        self.told
            .as_ref()
            .is_some_and(|told| told.load_permille >= LOAD_FULL_PERMILLE)
    }

    /// Whether it says that it is ready, and answers, and knows what time it is.
    pub(crate) fn is_willing(&self) -> bool {
        !self.silent && self.clock_ahead_ms == 0 && self.told.as_ref().is_some_and(|told| told.ready)
    }

    fn judge(&mut self, now: Duration) {
        let fit = self.is_willing() && !self.circuit.is_out();
        self.fit_since = if fit { self.fit_since.or(Some(now)) } else { None };
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
    const TIMEOUT: Duration = Duration::from_secs(2);

    fn ready() -> ProbeResponse {
        ProbeResponse {
            ready: true,
            ..ProbeResponse::default()
        }
    }

    fn fit(now: Duration) -> Health {
        let mut health = Health::new(now);
        health.handle_told(now, ready());
        health
    }

    #[test]
    fn a_node_gets_nothing_before_it_says_that_it_is_ready() {
        let mut health = Health::new(SECOND);
        assert_eq!(health.weight_permille(SECOND), 0);
        assert_eq!(health.handle_timeout(SECOND), [Due::Probe]);
        health.handle_told(SECOND, ready());
        assert_eq!(health.weight_permille(SECOND), SLOW_START_FLOOR);
        health.handle_told(
            SECOND,
            ProbeResponse {
                draining: true,
                ..ready()
            },
        );
        assert_eq!(health.weight_permille(SECOND), 0);
    }

    #[test]
    fn shares_grow_over_the_slow_start() {
        let health = fit(SECOND);
        assert_eq!(health.weight_permille(SECOND + SLOW_START / 2), 550);
        assert_eq!(health.weight_permille(SECOND + SLOW_START), 1_000);
    }

    #[test]
    fn an_unanswered_probe_silences_even_while_more_are_sent() {
        let mut health = fit(Duration::ZERO);
        health.handle_probe_sent(Duration::ZERO, 1, SECOND, TIMEOUT);
        assert_eq!(health.next_timeout(), SECOND);
        assert_eq!(health.handle_timeout(SECOND), [Due::Probe]);
        health.handle_probe_sent(SECOND, 2, SECOND, TIMEOUT);
        assert_eq!(health.handle_timeout(TIMEOUT), [Due::WentSilent, Due::Probe]);
        assert!(health.is_silent() && health.weight_permille(TIMEOUT) == 0);
        health.handle_probe_sent(TIMEOUT, 3, SECOND, TIMEOUT);
        // Still silent: said once, probed on.
        assert_eq!(health.handle_timeout(5 * SECOND), [Due::Probe]);
        health.handle_probe_sent(5 * SECOND, 4, SECOND, TIMEOUT);
        assert!(!health.handle_probe_answered(2), "the verdict over it is spoken");
        assert!(!health.handle_probe_answered(5), "never sent");
        assert!(health.handle_probe_answered(4));
        health.handle_told(5 * SECOND, ready());
        assert_eq!(health.weight_permille(5 * SECOND), SLOW_START_FLOOR);
    }

    /// Half a minute of probes, each of them answered `round_trip` later; how often the node fell silent, and whether it is.
    fn probed(round_trip: Option<Duration>) -> (usize, Health) {
        let mut health = fit(Duration::ZERO);
        let (mut id, mut silences, mut answers) = (0, 0, Vec::new());
        for tick in 0..300 {
            let now = tick * SECOND / 10;
            answers.retain(|(at, id)| {
                let is_due = *at <= now;
                if is_due && health.handle_probe_answered(*id) {
                    health.handle_told(now, ready());
                }
                !is_due
            });
            for due in health.handle_timeout(now) {
                match due {
                    Due::WentSilent => silences += 1,
                    Due::Probe => {
                        id += 1;
                        health.handle_probe_sent(now, id, SECOND, TIMEOUT);
                        answers.extend(round_trip.map(|trip| (now + trip, id)));
                    }
                }
            }
        }
        (silences, health)
    }

    #[test]
    fn a_round_trip_longer_than_the_interval_silences_nobody_who_answers_in_time() {
        for round_trip_ms in [0, 900, 1_000, 1_200, 1_500, 1_900] {
            let (silences, health) = probed(Some(Duration::from_millis(round_trip_ms)));
            assert!(silences == 0 && !health.is_silent(), "{round_trip_ms} ms");
            assert!(
                health.probes.len() <= 2,
                "{round_trip_ms} ms: {:?}",
                health.probes
            );
        }
        for late in [Some(Duration::from_millis(2_100)), None] {
            let (silences, health) = probed(late);
            assert!(silences == 1 && health.is_silent(), "{late:?}: {silences}");
            assert!(health.probes.len() <= 2, "{late:?}: {:?}", health.probes);
        }
    }

    #[test]
    fn an_answer_answers_for_the_probes_before_it_and_not_for_those_behind() {
        let mut health = fit(Duration::ZERO);
        for id in 1..=3 {
            let now = u32::try_from(id - 1).unwrap_or(0) * SECOND / 2;
            health.handle_probe_sent(now, id, SECOND / 2, TIMEOUT);
        }
        // The first found no room on the link, say.
        assert!(health.handle_probe_answered(2));
        assert!(!health.handle_probe_answered(1) && !health.is_silent());
        assert!(!health.handle_timeout(TIMEOUT).contains(&Due::WentSilent));
        let third_lost_at = TIMEOUT + SECOND;
        assert_eq!(health.handle_timeout(third_lost_at)[0], Due::WentSilent);
    }

    #[test]
    fn an_ejected_node_is_tried_and_then_starts_slowly() {
        let mut now = SECOND;
        let mut health = fit(now);
        now += SLOW_START;
        assert_eq!((1..9).find(|_| health.handle_failure(now, SPARES)), Some(5));
        assert!(health.circuit().is_out() && !health.is_tried() && health.weight_permille(now) == 0);
        now += Duration::from_secs(5);
        health.handle_timeout(now);
        assert!(health.is_tried() && health.weight_permille(now) == SLOW_START_FLOOR);
        // However long that takes, its share does not grow meanwhile.
        now += SLOW_START;
        assert_eq!(health.weight_permille(now), SLOW_START_FLOOR);
        (0..3).for_each(|_| health.handle_success(now));
        assert!(!health.circuit().is_out());
        assert_eq!(health.weight_permille(now), SLOW_START_FLOOR);
        assert_eq!(health.weight_permille(now + SLOW_START), 1_000);
    }

    #[test]
    fn a_node_whose_clock_is_far_off_gets_nothing_until_it_is_right() {
        let mut health = fit(Duration::ZERO);
        health.handle_clock(SLOW_START, 86_400_000);
        assert_eq!(health.weight_permille(SLOW_START), 0);
        health.handle_clock(SLOW_START, 0);
        assert_eq!(health.weight_permille(SLOW_START), SLOW_START_FLOOR);
    }

    #[test]
    fn a_node_that_is_tried_must_still_be_ready_and_answer() {
        let mut health = fit(SECOND);
        (0..5).for_each(|_| _ = health.handle_failure(SECOND, SPARES));
        health.handle_timeout(SECOND + Duration::from_secs(5));
        assert!(health.is_tried());
        let unready = ProbeResponse {
            reason: "x".repeat(300),
            ..ProbeResponse::default()
        };
        health.handle_told(6 * SECOND, unready);
        assert_eq!(health.weight_permille(6 * SECOND), 0);
        assert_eq!(health.told().map(|told| told.reason.len()), Some(REASON_LEN_MAX));
    }
}
