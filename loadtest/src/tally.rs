//! What a run has counted: in all, and second by second; merged over processes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::interrupt::Signal;
use crate::latency::Latency;
use crate::record::Violation;
use crate::slices::Slices;

/// Violations that are told one by one; the rest are only counted. The first of each invariant come first, so that one which
/// is broken a thousand times hides none that is broken once.
pub const VIOLATIONS_TOLD_MAX: usize = 50;
const VIOLATIONS_TOLD_FIRST: usize = 5;

/// What one process, or all, have counted in a run. Adding two gives that of both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Tally {
    /// The signal that ended the run before it was over.
    pub cut_by: Option<Signal>,
    /// Clients that were in when the connecting was over.
    pub connected: u64,
    /// Clients that never came in.
    pub failed: u64,
    /// Logins that reached READY, repeated ones included.
    pub logins: u64,
    /// Attempts to log in that failed; most are tried again.
    pub attempts_failed: u64,
    /// Sessions that ended although nobody here wanted it.
    pub disconnects: u64,
    /// Messages that were due.
    pub sends: u64,
    /// Those that are acknowledged.
    pub acked: u64,
    /// Those refused for good.
    pub refused: u64,
    /// Of them, those that no change of a group's members explains.
    pub refused_wrongly: u64,
    /// Clients that had come in and were not there at the end, of runs whose clients are to stay.
    pub lost: u64,
    /// Those that nobody knows the fate of at the end, those that did not fit the backlog among them.
    pub unresolved: u64,
    /// Those that were due and did not fit the backlog.
    pub backlog_dropped: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Acknowledged messages that were sent once more, and answered.
    pub repeated: u64,
    /// Messages shown to devices of others than their sender, each once.
    pub deliveries: u64,
    /// Messages that were pushed again.
    pub duplicates: u64,
    /// Conversations of which something is missing, and whose members could not read to the end: nobody knows whether it is there.
    pub unread: u64,
    /// Messages that members should have and do not, at the end.
    pub undelivered: u64,
    /// Members of groups who were removed, or invited back, by the server's word.
    pub membership_changes: u64,
    /// Members of the room.
    pub room_members: u64,
    /// Pulls: of holes, and of what came while a device was away.
    pub pulls: u64,
    /// Bytes read, on the wire.
    pub bytes_in: u64,
    /// Bytes written, on the wire.
    pub bytes_out: u64,
    /// When the first message was due, monotonic; zero when there was none.
    pub began: Duration,
    /// When the last message was acknowledged.
    pub last_ack: Duration,
    /// When the last message was delivered.
    pub last_delivery: Duration,
    /// How long each round took, milliseconds.
    pub rounds_ms: Vec<f64>,
    /// Why the last attempt failed, or the last session ended.
    pub last_setback: Option<String>,
    /// Violations, in all.
    pub violations: u64,
    /// Of each invariant.
    pub violations_of: BTreeMap<u8, u64>,
    /// The first of each, no more than are told.
    pub(crate) kept: BTreeMap<u8, Vec<Violation>>,
    /// From the moment a dial was due to READY.
    pub handshake: Latency,
    /// From the moment a send was due to its acknowledgement.
    pub ack: Latency,
    /// From the moment a send was due to its delivery.
    pub delivery: Latency,
    /// What became of what was due in each tenth of a second.
    pub slices: Slices,
}

impl Tally {
    /// Takes in what another process counted.
    pub fn merge(&mut self, other: &Self) {
        self.cut_by = self.cut_by.or(other.cut_by);
        self.connected += other.connected;
        self.failed += other.failed;
        self.logins += other.logins;
        self.attempts_failed += other.attempts_failed;
        self.disconnects += other.disconnects;
        self.sends += other.sends;
        self.acked += other.acked;
        self.refused += other.refused;
        self.refused_wrongly += other.refused_wrongly;
        self.lost += other.lost;
        self.unresolved += other.unresolved;
        self.backlog_dropped += other.backlog_dropped;
        self.retries += other.retries;
        self.repeated += other.repeated;
        self.deliveries += other.deliveries;
        self.duplicates += other.duplicates;
        self.undelivered += other.undelivered;
        self.unread += other.unread;
        self.membership_changes += other.membership_changes;
        self.room_members += other.room_members;
        self.pulls += other.pulls;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.began = match (self.began, other.began) {
            (Duration::ZERO, began) | (began, Duration::ZERO) => began,
            (one, two) => one.min(two),
        };
        self.last_ack = self.last_ack.max(other.last_ack);
        self.last_delivery = self.last_delivery.max(other.last_delivery);
        // A round is over when the last process's clients are back.
        self.rounds_ms
            .resize(self.rounds_ms.len().max(other.rounds_ms.len()), 0.0);
        for (longest, round) in self.rounds_ms.iter_mut().zip(&other.rounds_ms) {
            *longest = longest.max(*round);
        }
        if other.last_setback.is_some() {
            self.last_setback.clone_from(&other.last_setback);
        }
        self.take_violations(&other.violations_of, other.kept.values().flatten().cloned());
        self.handshake.merge(&other.handshake);
        self.ack.merge(&other.ack);
        self.delivery.merge(&other.delivery);
        self.slices.merge(&other.slices);
    }

    /// Counts a violation, and tells it if there is room.
    pub fn violate(&mut self, invariant: u8, what: impl FnOnce() -> String) {
        self.violations += 1;
        *self.violations_of.entry(invariant).or_default() += 1;
        let kept = self.kept.entry(invariant).or_default();
        if kept.len() < VIOLATIONS_TOLD_MAX {
            kept.push(Violation {
                invariant,
                what: what(),
            });
        }
    }

    /// Takes in what somebody else has found: how many of each invariant, and some of them.
    pub fn take_violations(&mut self, counts: &BTreeMap<u8, u64>, some: impl IntoIterator<Item = Violation>) {
        for (invariant, count) in counts {
            self.violations += count;
            *self.violations_of.entry(*invariant).or_default() += count;
        }
        for violation in some {
            let kept = self.kept.entry(violation.invariant).or_default();
            if kept.len() < VIOLATIONS_TOLD_MAX {
                kept.push(violation);
            }
        }
    }

    /// The violations that are told one by one: the first few of each invariant, then others.
    #[must_use]
    pub fn told(&self) -> Vec<Violation> {
        let few = |kept: &Vec<Violation>| kept.len().min(VIOLATIONS_TOLD_FIRST);
        let first = self.kept.values().flat_map(|kept| kept.iter().take(few(kept)));
        let others = self.kept.values().flat_map(|kept| kept.iter().skip(few(kept)));
        let told = first.cloned().collect::<Vec<_>>();
        let room = VIOLATIONS_TOLD_MAX.saturating_sub(told.len());
        told.into_iter().chain(others.take(room).cloned()).collect()
    }

    /// Whether a run that counted this has failed.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        [
            self.violations,
            self.unresolved,
            self.refused_wrongly,
            self.failed,
            self.lost,
            self.unread,
        ]
        .iter()
        .any(|count| *count > 0)
    }
}

/// What happened in one second of one process, or of all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Second {
    /// The second, counted from the start of the run.
    pub at_s: u64,
    /// The run ended within it.
    pub is_cut: bool,
    /// Clients that are in, at its end.
    pub online: u64,
    /// Clients that are to be in and are not, at its end.
    pub away: u64,
    /// Logins in it.
    pub logins: u64,
    /// Failed attempts and lost connections in it.
    pub failures: u64,
    /// Messages that became due in it.
    pub sends: u64,
    /// Acknowledgements in it.
    pub acked: u64,
    /// Deliveries in it.
    pub deliveries: u64,
    /// Messages due and not acknowledged, at its end.
    pub backlog: u64,
    /// Of the logins in it.
    pub handshake: Latency,
    /// Of the acknowledgements in it.
    pub ack: Latency,
    /// Of the deliveries in it.
    pub delivery: Latency,
}

impl Second {
    /// Takes in the same second of another process.
    pub fn merge(&mut self, other: &Self) {
        self.is_cut |= other.is_cut;
        self.online += other.online;
        self.away += other.away;
        self.logins += other.logins;
        self.failures += other.failures;
        self.sends += other.sends;
        self.acked += other.acked;
        self.deliveries += other.deliveries;
        self.backlog += other.backlog;
        self.handshake.merge(&other.handshake);
        self.ack.merge(&other.ack);
        self.delivery.merge(&other.delivery);
    }
}

/// Counts into a tally and into the second that is running.
#[derive(Debug, Default)]
pub struct Counter {
    /// In all.
    pub tally: Tally,
    /// In this second.
    pub second: Second,
}

impl Counter {
    /// A login that took this long since it was due.
    pub fn login(&mut self, took: Duration) {
        self.tally.logins += 1;
        self.second.logins += 1;
        self.tally.handshake.record(took);
        self.second.handshake.record(took);
    }

    /// An attempt to log in failed.
    pub fn attempt_failed(&mut self) {
        self.tally.attempts_failed += 1;
        self.second.failures += 1;
    }

    /// A session ended although nobody here wanted it.
    pub fn disconnected(&mut self) {
        self.tally.disconnects += 1;
        self.second.failures += 1;
    }

    /// A message became due at `due`.
    pub fn send(&mut self, due: Duration) {
        self.tally.slices.offered(due);
        self.tally.sends += 1;
        self.second.sends += 1;
    }

    /// A message that was due at `due` was acknowledged.
    pub fn acked(&mut self, due: Duration, now: Duration) {
        let took = now.saturating_sub(due);
        self.tally.last_ack = now;
        self.tally.acked += 1;
        self.second.acked += 1;
        self.tally.ack.record(took);
        self.tally.slices.acked(due, took);
        self.second.ack.record(took);
    }

    /// A message that was due at `due` was refused for good.
    pub fn refused(&mut self, due: Duration) {
        self.tally.refused += 1;
        self.tally.slices.refused(due);
    }

    /// A message that was due at `due` was delivered.
    pub fn delivered(&mut self, due: Duration, now: Duration) {
        let took = now.saturating_sub(due);
        self.tally.last_delivery = now;
        self.tally.deliveries += 1;
        self.second.deliveries += 1;
        self.tally.delivery.record(took);
        self.tally.slices.delivered(due, took);
        self.second.delivery.record(took);
    }

    /// Ends the second: what happened in it.
    pub fn end_second(&mut self, at_s: u64, online: u64, backlog: u64) -> Second {
        let mut ended = std::mem::take(&mut self.second);
        (ended.at_s, ended.online, ended.backlog) = (at_s, online, backlog);
        ended
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn counted(ack_ms: u64, violations: usize) -> Tally {
        let mut counter = Counter::default();
        counter.send(Duration::ZERO);
        counter.acked(Duration::ZERO, Duration::from_millis(ack_ms));
        for number in 0..violations {
            counter.tally.violate(2, || format!("seq {number}"));
        }
        counter.tally
    }

    #[test]
    fn two_processes_count_as_one() {
        let mut one = counted(1, 1);
        let two: Tally = serde_json::from_str(&serde_json::to_string(&counted(100, 0)).unwrap()).unwrap();
        one.merge(&two);
        assert_eq!((one.sends, one.acked, one.violations), (2, 2, 1));
        assert!(one.ack.max_ms().unwrap() >= 99.0);
        assert!(one.ack.quantile_ms(0.5).unwrap() <= 1.1);
    }

    #[test]
    fn every_violation_is_counted_and_the_first_are_told() {
        let mut one = counted(1, VIOLATIONS_TOLD_MAX);
        one.merge(&counted(1, 7));
        assert_eq!(one.violations, 57);
        assert_eq!(one.told().len(), VIOLATIONS_TOLD_MAX);
        assert!(one.is_failure());
    }

    #[test]
    fn one_invariant_that_is_broken_often_hides_no_other() {
        let mut one = counted(1, 1_000);
        one.violate(10, || "a stranger".to_owned());
        let mut all = Tally::default();
        all.merge(&one);
        all.take_violations(
            &BTreeMap::from([(1, 3_000)]),
            [Violation {
                invariant: 1,
                what: "lost".to_owned(),
            }],
        );
        assert_eq!(all.violations, 4_001);
        assert_eq!(
            all.violations_of,
            BTreeMap::from([(1, 3_000), (2, 1_000), (10, 1)])
        );
        let told: Vec<u8> = all.told().iter().map(|told| told.invariant).collect();
        assert_eq!(told[..7], [1, 2, 2, 2, 2, 2, 10]);
        assert_eq!(told.len(), VIOLATIONS_TOLD_MAX);
    }

    #[test]
    fn a_second_is_empty_again_after_its_end() {
        let mut counter = Counter::default();
        counter.acked(Duration::ZERO, Duration::from_millis(5));
        let ended = counter.end_second(3, 10, 2);
        assert_eq!(
            (ended.at_s, ended.online, ended.acked, ended.backlog),
            (3, 10, 1, 2)
        );
        assert_eq!(counter.end_second(4, 10, 0).ack.count(), 0);
        assert_eq!(counter.tally.acked, 1);
    }

    #[test]
    fn a_run_without_anything_wrong_is_no_failure() {
        assert!(!counted(1, 0).is_failure());
        for wrong in [
            |tally: &mut Tally| tally.unresolved = 1,
            |tally: &mut Tally| tally.refused_wrongly = 1,
            |tally: &mut Tally| tally.failed = 1,
            |tally: &mut Tally| tally.lost = 1,
            |tally: &mut Tally| tally.unread = 1,
        ] {
            let mut tally = Tally::default();
            wrong(&mut tally);
            assert!(tally.is_failure(), "{tally:?}");
            let mut all = Tally::default();
            all.merge(&tally);
            assert!(all.is_failure(), "of another process: {tally:?}");
        }
        let explained = Tally {
            refused: 1,
            ..Tally::default()
        };
        assert!(!explained.is_failure(), "whoever is out is refused");
    }
}
