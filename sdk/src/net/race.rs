//! Which gateway to dial when, and which of those that answer to log in to. Pure.
//!
//! Dials start 250 ms apart, so that one dead gateway costs a quarter of a second; the first that connects is logged in
//! to, and only one at a time, because a login costs a server more than a connect. A login that fails or stalls passes
//! the turn on. After a GOAWAY, or when the server asked to wait, nothing is raced: one candidate at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::directory::Candidate;

/// Between two dials: longer than most round trips, shorter than a user's patience.
const STAGGER: Duration = Duration::from_millis(250);

/// How long one dial may take.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// Names one try of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Attempt(pub(crate) u64);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Dial; report with [`Race::handle_connected`] or [`Race::handle_dial_failed`].
    Dial(Attempt, Candidate),
    /// Log in over the connection of this attempt; report with [`Race::handle_login_failed`], or end the race.
    LogIn(Attempt, Candidate),
    /// Give this attempt up.
    Drop(Attempt),
    /// Everybody was tried.
    Exhausted {
        /// No candidate could even be sent a packet: the device has no network.
        no_network: bool,
    },
}

/// Why a dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialError {
    /// There is no way there: no network, no route, no name resolution.
    NoNetwork,
    /// Somebody there said no.
    Refused,
    /// Nobody answered in time.
    TimedOut,
}

/// One round over all candidates. See the module.
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<Candidate>,
    one_at_a_time: bool,
    dialing: BTreeMap<Attempt, (Candidate, Duration)>,
    connected: VecDeque<(Attempt, Candidate)>,
    login: Option<(Attempt, Candidate)>,
    next_dial: Duration,
    next_attempt: u64,
    /// Whether any candidate failed in a way that shows that there is a network.
    network_seen: bool,
}

impl Race {
    /// Begins a round; attempts are numbered from `first_attempt`, which the owner never reuses.
    pub(crate) fn new(
        candidates: Vec<Candidate>,
        one_at_a_time: bool,
        first_attempt: u64,
        now: Duration,
    ) -> Self {
        Self {
            waiting: candidates.into(),
            one_at_a_time,
            dialing: BTreeMap::new(),
            connected: VecDeque::new(),
            login: None,
            next_dial: now,
            next_attempt: first_attempt,
            network_seen: false,
        }
    }

    /// The number a later round begins with.
    pub(crate) fn next_attempt(&self) -> u64 {
        self.next_attempt
    }

    /// What is to be done now; to be asked until it says nothing.
    pub(crate) fn poll_action(&mut self, now: Duration) -> Option<Action> {
        let late = self
            .dialing
            .iter()
            .find(|(_, (_, deadline))| *deadline <= now)
            .map(|(attempt, _)| *attempt);
        if let Some(attempt) = late {
            self.handle_dial_failed(attempt, DialError::TimedOut);
            return Some(Action::Drop(attempt));
        }
        if self.login.is_some() {
            return None;
        }
        if let Some((attempt, candidate)) = self.connected.pop_front() {
            self.login = Some((attempt, candidate.clone()));
            return Some(Action::LogIn(attempt, candidate));
        }
        let turn = self.dialing.is_empty() || (!self.one_at_a_time && now >= self.next_dial);
        if turn && let Some(candidate) = self.waiting.pop_front() {
            let attempt = Attempt(self.next_attempt);
            self.next_attempt += 1;
            self.dialing
                .insert(attempt, (candidate.clone(), now.saturating_add(DIAL_WITHIN)));
            self.next_dial = now.saturating_add(STAGGER);
            return Some(Action::Dial(attempt, candidate));
        }
        self.dialing.is_empty().then_some(Action::Exhausted {
            no_network: !self.network_seen,
        })
    }

    /// When [`Race::poll_action`] is to be asked again without an event.
    pub(crate) fn due(&self) -> Option<Duration> {
        let deadline = self.dialing.values().map(|(_, deadline)| *deadline).min();
        let dial = (self.login.is_none() && !self.waiting.is_empty() && !self.one_at_a_time)
            .then_some(self.next_dial);
        [deadline, dial].into_iter().flatten().min()
    }

    /// A dial succeeded.
    pub(crate) fn handle_connected(&mut self, attempt: Attempt) {
        if let Some((candidate, _)) = self.dialing.remove(&attempt) {
            self.network_seen = true;
            self.connected.push_back((attempt, candidate));
        }
    }

    /// A dial failed.
    pub(crate) fn handle_dial_failed(&mut self, attempt: Attempt, error: DialError) {
        if self.dialing.remove(&attempt).is_some() {
            self.network_seen |= error != DialError::NoNetwork;
        }
    }

    /// The login failed; the next one's turn.
    pub(crate) fn handle_login_failed(&mut self, attempt: Attempt) {
        self.login.take_if(|(login, _)| *login == attempt);
    }

    /// The login failed for a reason that is mended: the same gateway is tried again before all others.
    pub(crate) fn handle_login_mended(&mut self, attempt: Attempt) {
        if let Some((_, candidate)) = self.login.take_if(|(login, _)| *login == attempt) {
            self.waiting.push_front(candidate);
            self.next_dial = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn candidate(name: &str) -> Candidate {
        Candidate {
            node: name.into(),
            endpoint: format!("{name}:1"),
        }
    }

    fn race(names: &[&str], one_at_a_time: bool) -> Race {
        Race::new(
            names.iter().map(|name| candidate(name)).collect(),
            one_at_a_time,
            1,
            ms(0),
        )
    }

    fn actions(race: &mut Race, now: Duration) -> Vec<Action> {
        std::iter::from_fn(|| {
            race.poll_action(now)
                .filter(|action| !matches!(action, Action::Exhausted { .. }))
        })
        .collect()
    }

    const A: Attempt = Attempt(1);
    const B: Attempt = Attempt(2);

    #[test]
    fn dials_start_a_quarter_second_apart_and_the_first_to_connect_is_logged_in_to() {
        let mut race = race(&["a", "b", "c"], false);
        assert_eq!(actions(&mut race, ms(0)), [Action::Dial(A, candidate("a"))]);
        assert_eq!(race.due(), Some(ms(250)));
        assert_eq!(actions(&mut race, ms(249)), []);
        assert_eq!(actions(&mut race, ms(250)), [Action::Dial(B, candidate("b"))]);
        race.handle_connected(B);
        assert_eq!(actions(&mut race, ms(260)), [Action::LogIn(B, candidate("b"))]);
        race.handle_connected(A);
        assert_eq!(
            actions(&mut race, ms(900)),
            [],
            "one login at a time, and no more dials meanwhile"
        );
        race.handle_login_failed(B);
        assert_eq!(actions(&mut race, ms(901)), [Action::LogIn(A, candidate("a"))]);
    }

    #[test]
    fn a_failed_dial_makes_room_at_once() {
        let mut race = race(&["a", "b"], true);
        actions(&mut race, ms(0));
        assert_eq!(actions(&mut race, ms(5_000)), [], "no racing");
        race.handle_dial_failed(A, DialError::Refused);
        assert_eq!(actions(&mut race, ms(5_001)), [Action::Dial(B, candidate("b"))]);
    }

    #[test]
    fn a_silent_dial_is_given_up() {
        let mut race = race(&["a"], false);
        actions(&mut race, ms(0));
        assert_eq!(race.due(), Some(ms(10_000)));
        assert_eq!(race.poll_action(ms(10_000)), Some(Action::Drop(A)));
        assert_eq!(
            race.poll_action(ms(10_000)),
            Some(Action::Exhausted { no_network: false })
        );
    }

    #[test]
    fn no_network_is_told_from_refused() {
        for (errors, no_network) in [
            ([DialError::NoNetwork, DialError::NoNetwork], true),
            ([DialError::NoNetwork, DialError::Refused], false),
        ] {
            let mut race = race(&["a", "b"], true);
            for (attempt, error) in [A, B].into_iter().zip(errors) {
                actions(&mut race, ms(0));
                race.handle_dial_failed(attempt, error);
            }
            assert_eq!(race.poll_action(ms(0)), Some(Action::Exhausted { no_network }));
        }
    }

    #[test]
    fn a_mended_login_is_tried_again_before_others() {
        let mut race = race(&["a", "b"], false);
        actions(&mut race, ms(0));
        race.handle_connected(A);
        actions(&mut race, ms(1));
        race.handle_login_mended(A);
        assert_eq!(actions(&mut race, ms(2)), [Action::Dial(B, candidate("a"))]);
    }
}
