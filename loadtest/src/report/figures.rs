//! The figures of a run, in the form of its JSON.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::interrupt::Signal;
use crate::latency::Latency;
use crate::lead::{Phase, Sample};
use crate::record::Violation;
use crate::slices::Columns;
use crate::tally::{Second, Tally};

/// What is known of a run beside what was counted.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Which scenario.
    pub scenario: &'static str,
    /// What was typed; of paths their last names.
    pub command: String,
    /// When it was started, unix milliseconds.
    pub started_unix_ms: u64,
    /// Generator processes.
    pub processes: u32,
    /// Rounds of reconnecting.
    pub rounds: u32,
    /// How long messages were sent for.
    pub lasting: Duration,
    /// Bytes of a message's text.
    pub payload: usize,
    /// What one bare write cost, if that was measured.
    pub raw_write_us: Option<f64>,
    /// Where the ledger is kept, if it is.
    pub ledger: Option<PathBuf>,
    /// Whether what became of each tenth of a second is wanted.
    pub slices: bool,
}

/// Shares of latencies, in milliseconds; `null` when nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: Option<f64>,
    /// Of ten, nine are within.
    pub p90: Option<f64>,
    /// Of a hundred, 99.
    pub p99: Option<f64>,
    /// Of a thousand, 999.
    pub p999: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
}

impl Quantiles {
    fn of(latency: &Latency) -> Self {
        let quantile = |share| latency.quantile_ms(share);
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: latency.max_ms(),
        }
    }
}

/// What a role of the server spent. Figures are `null` where they mean nothing in the scenario, or its processes are not
/// those that they were at the beginning.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RoleFigures {
    /// Its processes, whose figures these are the sums of.
    pub pids: Vec<u32>,
    /// Another took its place during the run.
    pub restarted: bool,
    /// At the end there was none in its place.
    pub ended: bool,
    /// Processor time per client that came in, while they came in, microseconds.
    pub cpu_us_per_connect: Option<f64>,
    /// Per acknowledged message, everything that followed from it included.
    pub cpu_us_per_send: Option<f64>,
    /// The same time per delivery.
    pub cpu_us_per_delivery: Option<f64>,
    /// Per client that came back and synced.
    pub cpu_us_per_reconnect: Option<f64>,
    /// Share of one processor while the load went on, percent.
    pub cpu_percent: Option<f64>,
    /// Growth of `Private_Dirty` from before the first client to when all were held, per client.
    pub bytes_per_connection: Option<f64>,
    /// The same of `Rss`.
    pub rss_bytes_per_connection: Option<f64>,
}

/// One second of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are those of `Second`, and of `Quantiles`")]
pub struct SecondFigures {
    pub at_s: u64,
    pub is_cut: bool,
    pub online: u64,
    pub away: u64,
    pub logins: u64,
    pub failures: u64,
    pub sends: u64,
    pub acked: u64,
    pub deliveries: u64,
    pub backlog: u64,
    pub handshake_p50_ms: Option<f64>,
    pub handshake_p99_ms: Option<f64>,
    pub ack_p50_ms: Option<f64>,
    pub ack_p99_ms: Option<f64>,
    pub delivery_p50_ms: Option<f64>,
    pub delivery_p99_ms: Option<f64>,
}

impl SecondFigures {
    pub(crate) fn of(second: &Second) -> Self {
        Self {
            at_s: second.at_s,
            is_cut: second.is_cut,
            online: second.online,
            away: second.away,
            logins: second.logins,
            failures: second.failures,
            sends: second.sends,
            acked: second.acked,
            deliveries: second.deliveries,
            backlog: second.backlog,
            handshake_p50_ms: second.handshake.quantile_ms(0.5),
            handshake_p99_ms: second.handshake.quantile_ms(0.99),
            ack_p50_ms: second.ack.quantile_ms(0.5),
            ack_p99_ms: second.ack.quantile_ms(0.99),
            delivery_p50_ms: second.delivery.quantile_ms(0.5),
            delivery_p99_ms: second.delivery.quantile_ms(0.99),
        }
    }
}

/// See the module. The fields are the JSON's keys.
#[derive(Debug, Clone, Serialize)]
#[expect(
    missing_docs,
    reason = "the names are those of `Tally` and `Facts`, and docs/performance.md explains them"
)]
pub struct Report {
    pub scenario: &'static str,
    pub command: String,
    pub version: &'static str,
    pub started_unix_ms: u64,
    pub processes: u32,
    /// A signal ended the run before it was over: figures are of what was until then.
    pub is_cut: bool,
    /// Which one.
    #[serde(skip)]
    pub cut_by: Option<Signal>,
    pub connected: u64,
    pub failed: u64,
    pub connects_per_s: f64,
    pub handshake_ms: Quantiles,
    pub sends: u64,
    pub sends_acked: u64,
    pub acked_per_s: f64,
    pub ack_ms: Quantiles,
    pub deliveries: u64,
    pub deliveries_per_s: f64,
    pub delivery_ms: Quantiles,
    pub violations: u64,
    /// How many of each invariant.
    pub violations_of: BTreeMap<u8, u64>,
    /// Sends whose fate nobody knows.
    pub unresolved: u64,
    pub undelivered: u64,
    pub unread: u64,
    pub refused: u64,
    /// Of them, those that no change of a group's members explains.
    pub refused_wrongly: u64,
    /// Clients that had come in and were not there at the end, of runs whose clients are to stay.
    pub lost: u64,
    pub backlog_dropped: u64,
    pub retries: u64,
    /// Acknowledged messages that were sent once more, and answered.
    pub repeated: u64,
    pub duplicates: u64,
    pub pulls: u64,
    pub logins: u64,
    pub attempts_failed: u64,
    pub disconnects: u64,
    /// Members of groups who were removed, or invited back.
    pub membership_changes: u64,
    /// Members of the room; `null` in other scenarios.
    pub room_members: Option<u64>,
    /// Acknowledged messages that members never saw: what the server dropped, as it may.
    pub room_drops: Option<u64>,
    pub rounds_ms: Vec<f64>,
    pub payload: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Empty without pids.
    pub roles: BTreeMap<String, RoleFigures>,
    pub raw_write_us: Option<f64>,
    pub last_setback: Option<String>,
    /// Where the ledger of a checked run was kept, in the JSON without the folders above it; `null` when it is not needed any
    /// more.
    #[serde(serialize_with = "last_name")]
    pub ledger: Option<PathBuf>,
    pub violations_told: Vec<Violation>,
    pub seconds: Vec<SecondFigures>,
    /// Of runs that were asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slices: Option<Columns>,
    /// For the page: the whole distributions.
    #[serde(skip)]
    pub distributions: Distributions,
}

/// Latencies in full.
#[derive(Debug, Clone, Default)]
pub struct Distributions {
    /// From due to READY.
    pub handshake: Latency,
    /// From due to acknowledged.
    pub ack: Latency,
    /// From due to delivered.
    pub delivery: Latency,
}

impl Report {
    /// The figures of a run that counted `tally`.
    #[must_use]
    pub fn new(facts: Facts, tally: &Tally, samples: &BTreeMap<Phase, Sample>, seconds: &[Second]) -> Self {
        let at = |phase| samples.get(&phase).map(|sample| sample.at);
        let connecting = span(at(Phase::Begun), at(Phase::Connected));
        // A server that keeps up is done when the schedule is; one that does not is measured by when it was.
        let until = |last: Duration| facts.lasting.max(last.saturating_sub(tally.began));
        let is_room = facts.scenario == "room";
        let told_to_all = tally.acked.saturating_mul(tally.room_members);
        Self {
            scenario: facts.scenario,
            version: env!("CARGO_PKG_VERSION"),
            started_unix_ms: facts.started_unix_ms,
            processes: facts.processes,
            is_cut: tally.cut_by.is_some(),
            cut_by: tally.cut_by,
            connected: tally.connected,
            failed: tally.failed,
            connects_per_s: per(tally.connected, connecting),
            handshake_ms: Quantiles::of(&tally.handshake),
            sends: tally.sends,
            sends_acked: tally.acked,
            acked_per_s: per(tally.acked, until(tally.last_ack)),
            ack_ms: Quantiles::of(&tally.ack),
            deliveries: tally.deliveries,
            deliveries_per_s: per(tally.deliveries, until(tally.last_delivery)),
            delivery_ms: Quantiles::of(&tally.delivery),
            violations: tally.violations,
            violations_of: tally.violations_of.clone(),
            unresolved: tally.unresolved,
            undelivered: tally.undelivered,
            unread: tally.unread,
            refused: tally.refused,
            refused_wrongly: tally.refused_wrongly,
            lost: tally.lost,
            backlog_dropped: tally.backlog_dropped,
            retries: tally.retries,
            repeated: tally.repeated,
            duplicates: tally.duplicates,
            pulls: tally.pulls,
            logins: tally.logins,
            attempts_failed: tally.attempts_failed,
            disconnects: tally.disconnects,
            membership_changes: tally.membership_changes,
            room_members: is_room.then_some(tally.room_members),
            room_drops: (is_room && tally.cut_by.is_none())
                .then(|| told_to_all.saturating_sub(tally.deliveries)),
            rounds_ms: tally.rounds_ms.clone(),
            payload: facts.payload,
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
            roles: roles(&facts, tally, samples),
            raw_write_us: facts.raw_write_us,
            last_setback: tally.last_setback.clone(),
            ledger: facts.ledger,
            violations_told: tally.told(),
            seconds: seconds.iter().map(SecondFigures::of).collect(),
            slices: facts.slices.then(|| tally.slices.columns()),
            distributions: Distributions {
                handshake: tally.handshake.clone(),
                ack: tally.ack.clone(),
                delivery: tally.delivery.clone(),
            },
            command: facts.command,
        }
    }

    /// Whether the run has failed.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.violations > 0
            || self.unresolved > 0
            || self.refused_wrongly > 0
            || self.failed > 0
            || self.lost > 0
            || self.unread > 0
    }
}

fn last_name<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    let name = path.as_deref().and_then(Path::file_name);
    name.map(OsStr::to_string_lossy).serialize(serializer)
}

fn span(from: Option<Duration>, to: Option<Duration>) -> Duration {
    from.zip(to)
        .map_or(Duration::ZERO, |(from, to)| to.saturating_sub(from))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
fn per(count: u64, lasting: Duration) -> f64 {
    if lasting.is_zero() {
        return 0.0;
    }
    count as f64 / lasting.as_secs_f64()
}

fn roles(facts: &Facts, tally: &Tally, samples: &BTreeMap<Phase, Sample>) -> BTreeMap<String, RoleFigures> {
    let Some(begun) = samples.get(&Phase::Begun) else {
        return BTreeMap::new();
    };
    let connected = samples.get(&Phase::Connected);
    let load_from = samples.get(&Phase::Prepared).or(connected);
    let ran = samples.get(&Phase::Ran);
    // Messages leave more behind than connections do, so that memory is looked at before them.
    let held = if facts.scenario == "connect" {
        ran
    } else {
        load_from
    };
    // Of clients that are gone, memory says nothing.
    let held_clients = if tally.lost > 0 { 0 } else { tally.connected };
    let reconnects = tally.connected.saturating_mul(facts.rounds.into());
    begun
        .usage
        .iter()
        .map(|(role, begun)| {
            let first = &begun.sum;
            let same = |sample: Option<&Sample>| {
                let usage = sample?.usage.get(role)?;
                (usage.processes == begun.processes).then_some(usage.sum)
            };
            let (at_connected, at_load, at_end, at_held) =
                (same(connected), same(load_from), same(ran), same(held));
            let load_us = at_load
                .zip(at_end)
                .map(|(from, to)| to.cpu_us.saturating_sub(from.cpu_us));
            let connect_us = at_connected.map(|usage| usage.cpu_us.saturating_sub(first.cpu_us));
            let lives = ran.is_some_and(|sample| sample.usage.contains_key(role));
            let lasting = span(load_from.map(|sample| sample.at), ran.map(|sample| sample.at));
            let figures = RoleFigures {
                pids: begun.processes.iter().map(|(pid, _)| *pid).collect(),
                restarted: at_end.is_none() && lives,
                ended: !lives,
                cpu_us_per_connect: connect_us.and_then(|us| ratio(us, tally.connected)),
                cpu_us_per_send: load_us.and_then(|us| ratio(us, tally.acked)),
                cpu_us_per_delivery: load_us.and_then(|us| ratio(us, tally.deliveries)),
                cpu_us_per_reconnect: load_us.and_then(|us| ratio(us, reconnects)),
                cpu_percent: load_us
                    .filter(|_| !lasting.is_zero())
                    .map(|us| per(us, lasting) / 10_000.0),
                bytes_per_connection: at_held
                    .and_then(|held| grown(first.private_dirty, held.private_dirty))
                    .and_then(|bytes| ratio(bytes, held_clients)),
                rss_bytes_per_connection: at_held
                    .and_then(|held| grown(first.rss, held.rss))
                    .and_then(|bytes| ratio(bytes, held_clients)),
            };
            (role.clone(), figures)
        })
        .collect()
}

/// By how much memory grew; `None` when that is not known, or it shrank: then it says nothing of connections.
fn grown(from: Option<u64>, to: Option<u64>) -> Option<u64> {
    from.zip(to).and_then(|(from, to)| to.checked_sub(from))
}

#[expect(clippy::cast_precision_loss, reason = "sums of a run are far below 2^53")]
fn ratio(sum: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum as f64 / count as f64)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::procfs::{RoleUsage, Usage};

    fn sample(at_s: u64, cpu_us: u64, private_dirty: u64, started_ticks: u64) -> Sample {
        let usage = Usage {
            cpu_us,
            rss: Some(private_dirty * 2),
            private_dirty: Some(private_dirty),
            ..Usage::default()
        };
        let usage = RoleUsage {
            processes: vec![(7, started_ticks)],
            sum: usage,
        };
        Sample {
            at: Duration::from_secs(at_s),
            usage: BTreeMap::from([("gateway".to_owned(), usage)]),
        }
    }

    fn tally() -> Tally {
        let mut tally = Tally {
            connected: 100,
            logins: 100,
            sends: 1_000,
            acked: 1_000,
            deliveries: 2_000,
            began: Duration::from_secs(20),
            last_ack: Duration::from_secs(30),
            last_delivery: Duration::from_secs(40),
            ..Tally::default()
        };
        tally.ack.record(Duration::from_millis(5));
        tally
    }

    fn facts() -> Facts {
        Facts {
            scenario: "chat",
            lasting: Duration::from_secs(5),
            ..Facts::default()
        }
    }

    fn samples(end_started: u64) -> BTreeMap<Phase, Sample> {
        BTreeMap::from([
            (Phase::Begun, sample(10, 1_000, 1_000_000, 3)),
            (Phase::Connected, sample(12, 21_000, 1_090_000, 3)),
            (Phase::Prepared, sample(20, 50_000, 1_100_000, 3)),
            (Phase::Ran, sample(30, 150_000, 9_000_000, end_started)),
        ])
    }

    #[test]
    fn the_json_has_the_keys_that_scripts_rest_on() {
        let json = serde_json::to_value(Report::new(facts(), &tally(), &samples(3), &[])).unwrap();
        for key in [
            "scenario",
            "connected",
            "failed",
            "connects_per_s",
            "handshake_ms",
            "sends",
            "sends_acked",
            "acked_per_s",
            "ack_ms",
            "deliveries",
            "deliveries_per_s",
            "delivery_ms",
            "violations",
            "refused",
            "refused_wrongly",
            "lost",
            "roles",
            "raw_write_us",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert!(json["ack_ms"]["p50"].as_f64().unwrap() >= 5.0);
        assert!(json["ack_ms"]["p99"].is_number());
        assert!(json["handshake_ms"]["p50"].is_null());
        assert_eq!(json["connects_per_s"], 50.0);
        assert_eq!(
            json["acked_per_s"], 100.0,
            "by when the last was acknowledged, not by the schedule"
        );
    }

    #[test]
    fn cost_per_operation_is_the_difference_of_two_looks() {
        let report = Report::new(facts(), &tally(), &samples(3), &[]);
        let gateway = &report.roles["gateway"];
        assert_eq!(gateway.cpu_us_per_connect, Some(200.0));
        assert_eq!(gateway.cpu_us_per_send, Some(100.0));
        assert_eq!(gateway.cpu_us_per_delivery, Some(50.0));
        assert_eq!(gateway.cpu_us_per_reconnect, None);
        assert_eq!(gateway.bytes_per_connection, Some(1_000.0));
        assert_eq!(gateway.cpu_percent, Some(1.0));
        assert!(!gateway.restarted);
    }

    #[test]
    fn memory_that_nobody_may_see_or_that_clients_do_not_hold_is_not_told() {
        let bytes = |tally: &Tally, samples: &BTreeMap<Phase, Sample>| {
            let report = Report::new(facts(), tally, samples, &[]);
            report.roles["gateway"].bytes_per_connection
        };
        let (held, mut lost) = (tally(), tally());
        assert_eq!(bytes(&held, &samples(3)), Some(1_000.0));
        lost.lost = 1;
        assert_eq!(bytes(&lost, &samples(3)), None, "some are gone");
        for changed in [None, Some(999_999)] {
            let mut samples = samples(3);
            let usage = &mut samples.get_mut(&Phase::Prepared).unwrap().usage;
            usage.get_mut("gateway").unwrap().sum.private_dirty = changed;
            assert_eq!(bytes(&held, &samples), None, "{changed:?}");
        }
    }

    #[test]
    fn the_json_names_no_folder_of_this_machine() {
        let facts = Facts {
            ledger: Some("/home/ann/ledger".into()),
            ..facts()
        };
        let json = serde_json::to_value(Report::new(facts, &tally(), &samples(3), &[])).unwrap();
        assert_eq!(json["ledger"], "ledger");
    }

    #[test]
    fn a_process_that_was_replaced_has_no_cost() {
        let report = Report::new(facts(), &tally(), &samples(99), &[]);
        let gateway = &report.roles["gateway"];
        assert!(gateway.restarted && !gateway.ended);
        assert_eq!(gateway.cpu_us_per_send, None);
    }

    #[test]
    fn a_process_that_is_gone_at_the_end_was_not_restarted() {
        let mut samples = samples(3);
        samples.get_mut(&Phase::Ran).unwrap().usage.clear();
        let report = Report::new(facts(), &tally(), &samples, &[]);
        let gateway = &report.roles["gateway"];
        assert!(gateway.ended && !gateway.restarted, "{gateway:?}");
    }

    #[test]
    fn what_members_of_a_room_did_not_see_was_dropped() {
        let mut tally = tally();
        tally.room_members = 3;
        let facts = Facts {
            scenario: "room",
            ..facts()
        };
        let report = Report::new(facts, &tally, &BTreeMap::new(), &[]);
        assert_eq!(report.room_drops, Some(1_000));
        assert!(report.roles.is_empty());
    }
}
