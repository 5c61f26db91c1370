//! Whether one node is fit to serve. Pure: `now` is a monotonic time handed in.
//!
//! Three judges. The node itself says, asked by probes or unasked, whether it is ready, draining and how loaded.
//! Silence to a probe says that it is frozen, though its link lives. And failures of real requests in a row eject it
//! for a growing time, if its pool can spare it. Whoever comes back starts slowly.

use std::time::Duration;

use whimbrel_protocol::cluster::ProbeResponse;

/// Failures in a row that eject a node: fewer happen to healthy ones.
const FAILURES_MAX: u32 = 5;
/// The first ejection; each further one doubles it.
const EJECTION_MIN: Duration = Duration::from_secs(5);
/// The longest ejection: by then it is worth asking again.
const EJECTION_MAX: Duration = Duration::from_secs(80);
/// A node that has served this long since its last ejection starts over at the shortest.
const EJECTION_FORGOTTEN: Duration = Duration::from_secs(300);
/// How long a node takes from its first work to its full share: caches and connections warm in seconds.
const SLOW_START: Duration = Duration::from_secs(10);
/// The share a node starts with, permille.
const SLOW_START_FLOOR: u32 = 100;
/// A node that says it is this loaded gets work only for want of others.
const LOAD_FULL_PERMILLE: u32 = 950;

/// One node's health.
#[derive(Debug)]
pub(crate) struct Health {
    told: Option<Told>,
    probe: Option<Probe>,
    next_probe_at: Duration,
    silent: bool,
    failures: u32,
    ejections: u32,
    ejected_until: Option<Duration>,
    last_ejection_end: Duration,
    /// Since when it has been fit without a break.
    fit_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    ready: bool,
    load_permille: u32,
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
            probe: None,
            next_probe_at: now,
            silent: false,
            failures: 0,
            ejections: 0,
            ejected_until: None,
            last_ejection_end: Duration::ZERO,
            fit_since: None,
        }
    }

    /// The node said how it is.
    pub(crate) fn handle_told(&mut self, now: Duration, told: &ProbeResponse) {
        self.silent = false;
        self.told = Some(Told {
            ready: told.ready && !told.draining,
            load_permille: told.load_permille,
        });
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
        // An unanswered probe keeps its clock: probing again must not put off the verdict.
        let lost_at = self.probe.map_or(now + timeout, |probe| probe.lost_at);
        self.probe = Some(Probe { id, lost_at });
        self.next_probe_at = now + interval;
    }

    /// Whether `id` is the probe that is out; if so it is answered.
    pub(crate) fn handle_probe_answered(&mut self, id: u64) -> bool {
        let answered = self.probe.is_some_and(|probe| probe.id == id);
        if answered {
            self.probe = None;
        }
        answered
    }

    /// It served a request.
    pub(crate) fn handle_success(&mut self) {
        self.failures = 0;
    }

    /// It failed one. True when that ejects it; `may_eject` says whether its pool can spare it.
    pub(crate) fn handle_failure(&mut self, now: Duration, may_eject: bool) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_MAX || self.ejected_until.is_some() || !may_eject {
            return false;
        }
        if now.saturating_sub(self.last_ejection_end) > EJECTION_FORGOTTEN {
            self.ejections = 0;
        }
        let time = EJECTION_MIN
            .saturating_mul(1 << self.ejections.min(8))
            .min(EJECTION_MAX);
        self.ejections += 1;
        self.failures = 0;
        self.last_ejection_end = now + time;
        self.ejected_until = Some(now + time);
        self.judge(now);
        true
    }

    /// When [`handle_timeout`](Self::handle_timeout) next has something to do.
    pub(crate) fn next_timeout(&self) -> Duration {
        let lost_at = self.probe.filter(|_| !self.silent).map(|probe| probe.lost_at);
        [lost_at, self.ejected_until]
            .into_iter()
            .flatten()
            .fold(self.next_probe_at, Duration::min)
    }

    /// What is due at `now`; at most one of each.
    pub(crate) fn handle_timeout(&mut self, now: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        if self.ejected_until.is_some_and(|until| until <= now) {
            self.ejected_until = None;
        }
        if !self.silent && self.probe.is_some_and(|probe| probe.lost_at <= now) {
            self.silent = true;
            due.push(Due::WentSilent);
        }
        if self.next_probe_at <= now {
            due.push(Due::Probe);
        }
        self.judge(now);
        due
    }

    /// Whether it answers at all.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether failures have taken it out.
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected_until.is_some()
    }

    /// How much of a full share it gets, permille; 0: none.
    pub(crate) fn weight_permille(&self, now: Duration) -> u32 {
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
            .is_some_and(|told| told.load_permille >= LOAD_FULL_PERMILLE)
    }

    fn judge(&mut self, now: Duration) {
        let fit = self.told.is_some_and(|told| told.ready) && !self.silent && self.ejected_until.is_none();
        self.fit_since = if fit { self.fit_since.or(Some(now)) } else { None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_secs(2);

    fn ready() -> ProbeResponse {
        ProbeResponse {
            ready: true,
            ..ProbeResponse::default()
        }
    }

    fn fit(now: Duration) -> Health {
        let mut health = Health::new(now);
        health.handle_told(now, &ready());
        health
    }

    fn fail_until_ejected(health: &mut Health, now: Duration) -> u32 {
        (1..=100).find(|_| health.handle_failure(now, true)).unwrap_or(0)
    }

    #[test]
    fn a_node_gets_nothing_before_it_says_that_it_is_ready() {
        let mut health = Health::new(SECOND);
        assert_eq!(health.weight_permille(SECOND), 0);
        assert_eq!(health.handle_timeout(SECOND), [Due::Probe]);
        health.handle_told(SECOND, &ready());
        assert_eq!(health.weight_permille(SECOND), SLOW_START_FLOOR);
        health.handle_told(
            SECOND,
            &ProbeResponse {
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
        assert!(!health.handle_probe_answered(2));
        assert!(health.handle_probe_answered(3));
        health.handle_told(5 * SECOND, &ready());
        assert_eq!(health.weight_permille(5 * SECOND), SLOW_START_FLOOR);
    }

    #[test]
    fn failures_in_a_row_eject_for_a_growing_time() {
        let mut now = SECOND;
        let mut health = fit(now);
        for seconds in [5, 10, 20, 40, 80, 80] {
            assert_eq!(fail_until_ejected(&mut health, now), FAILURES_MAX);
            assert_eq!(health.weight_permille(now), 0);
            now += Duration::from_secs(seconds);
            health.handle_timeout(now - Duration::from_millis(1));
            assert!(health.is_ejected());
            health.handle_timeout(now);
            assert_eq!(health.weight_permille(now), SLOW_START_FLOOR);
        }
        now += EJECTION_FORGOTTEN + SECOND;
        fail_until_ejected(&mut health, now);
        health.handle_timeout(now + EJECTION_MIN);
        assert!(!health.is_ejected());
    }

    #[test]
    fn a_success_between_failures_keeps_a_node_in() {
        let mut health = fit(SECOND);
        for _ in 0..20 {
            assert!(!health.handle_failure(SECOND, true));
            health.handle_success();
        }
    }

    #[test]
    fn a_pool_that_cannot_spare_it_keeps_it() {
        let mut health = fit(SECOND);
        for _ in 0..20 {
            assert!(!health.handle_failure(SECOND, false));
        }
        assert!(health.handle_failure(SECOND, true));
    }
}
