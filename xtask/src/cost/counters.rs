//! What is counted of the calls to the store and the placement driver, and of the service nodes' commits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::page::{metrics, samples};

/// How TiKV counts its calls, and the test store after it: by method, as `kv_prewrite`. TiKV has more labels.
const STORE_CALLS: &str = "tikv_grpc_msg_duration_seconds_count";
/// How PD counts its calls, and the messages of streams, by method, as `Tso`: its gRPC server is etcd's.
const PD_CALLS: &str = "grpc_server_msg_received_total";
/// Among etcd's own services on that server.
const PD_SERVICE: &str = "pdpb.PD";
/// The store's calls to the placement driver, which no service node makes.
const OF_THE_STORE: [&str; 7] = [
    "StoreHeartbeat",
    "RegionHeartbeat",
    "AskSplit",
    "AskBatchSplit",
    "ReportSplit",
    "ReportBatchSplit",
    "AllocID",
];
/// Commits of conversations, by how they ended.
const COMMITS: &str = "whimbrel_commits_total";

/// Where to look.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters {
    pub(super) store: Option<SocketAddr>,
    pub(super) pd: Option<SocketAddr>,
    /// Pages that have the service nodes' metrics.
    pub(super) nodes: Vec<SocketAddr>,
}

/// What they said at a moment.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    at: Instant,
    calls: BTreeMap<String, u64>,
    /// Those that were committed.
    pub(super) commits: u64,
}

/// What was counted meanwhile.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Difference {
    pub(super) lasting: Duration,
    pub(super) calls: BTreeMap<String, u64>,
    pub(super) commits: u64,
}

impl Counters {
    /// Asks all of them.
    pub(super) fn read(&self) -> anyhow::Result<Reading> {
        let mut reading = Reading {
            at: Instant::now(),
            calls: BTreeMap::new(),
            commits: 0,
        };
        if let Some(store) = self.store {
            add(
                &mut reading.calls,
                store_calls(&metrics(store).context("the store")?),
            );
        }
        if let Some(pd) = self.pd {
            add(
                &mut reading.calls,
                pd_calls(&metrics(pd).context("the placement driver")?),
            );
        }
        for node in &self.nodes {
            reading.commits += commits(&metrics(*node).context("a service node")?);
        }
        Ok(reading)
    }
}

impl Reading {
    /// What was counted since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Difference {
        let calls = self.calls.iter().map(|(method, now)| {
            let then = earlier.calls.get(method).copied().unwrap_or(0);
            (method.clone(), now.saturating_sub(then))
        });
        Difference {
            lasting: self.at.saturating_duration_since(earlier.at),
            calls: calls.filter(|(_, count)| *count > 0).collect(),
            commits: self.commits.saturating_sub(earlier.commits),
        }
    }
}

impl Difference {
    /// The calls less those that would have been made anyway, of which `background` shows the rate. Noise may be below zero.
    pub(super) fn less(&self, background: &Self) -> BTreeMap<String, f64> {
        let mut calls: BTreeMap<_, _> = self
            .calls
            .iter()
            .map(|(method, count)| (method.clone(), float(*count)))
            .collect();
        for (method, per_s) in background.per_s() {
            *calls.entry(method).or_default() -= per_s * self.lasting.as_secs_f64();
        }
        calls
    }

    /// Calls a second.
    pub(super) fn per_s(&self) -> BTreeMap<String, f64> {
        let lasting = self.lasting.as_secs_f64();
        let calls = self.calls.iter().filter(|_| lasting > 0.0);
        calls
            .map(|(method, count)| (method.clone(), float(*count) / lasting))
            .collect()
    }
}

/// A share, unless it is one of nothing.
pub(super) fn per(sum: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| float(sum) / float(count))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// Counters are whole; a page has them as floating point numbers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter is not negative, and far below 2^53"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

fn add(to: &mut BTreeMap<String, u64>, calls: impl IntoIterator<Item = (String, u64)>) {
    for (method, count) in calls {
        *to.entry(method).or_default() += count;
    }
}

fn store_calls(page: &str) -> Vec<(String, u64)> {
    let samples = samples(page, STORE_CALLS).into_iter();
    samples
        .map(|sample| (sample.label("type").to_owned(), whole(sample.value)))
        .collect()
}

fn pd_calls(page: &str) -> Vec<(String, u64)> {
    let of_clients = samples(page, PD_CALLS).into_iter().filter(|sample| {
        sample.label("grpc_service") == PD_SERVICE && !OF_THE_STORE.contains(&sample.label("grpc_method"))
    });
    of_clients
        .map(|sample| (format!("PD {}", sample.label("grpc_method")), whole(sample.value)))
        .collect()
}

fn commits(page: &str) -> u64 {
    let samples = samples(page, COMMITS).into_iter();
    let committed = samples.filter(|sample| sample.label("end") == "committed");
    committed.map(|sample| whole(sample.value)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<V>(of: impl IntoIterator<Item = (&'static str, V)>) -> BTreeMap<String, V> {
        of.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    fn difference(lasting_s: u64, calls: BTreeMap<String, u64>) -> Difference {
        Difference {
            lasting: Duration::from_secs(lasting_s),
            calls,
            commits: 0,
        }
    }

    #[test]
    fn a_real_tikvs_page_reads_as_the_test_stores_does() {
        let real = "\
tikv_grpc_msg_duration_seconds_bucket{type=\"kv_get\",priority=\"normal\",le=\"0.5\"} 3
tikv_grpc_msg_duration_seconds_count{type=\"kv_get\",priority=\"normal\"} 3
tikv_grpc_msg_duration_seconds_count{type=\"kv_get\",priority=\"low\"} 2
tikv_grpc_msg_duration_seconds_count{type=\"kv_commit\"} 1
";
        let mut calls = BTreeMap::new();
        add(&mut calls, store_calls(real));
        assert_eq!(calls, map([("kv_commit", 1), ("kv_get", 5)]));
    }

    #[test]
    fn of_the_placement_drivers_calls_only_those_of_its_clients_count() {
        let page = "\
grpc_server_msg_received_total{grpc_method=\"Tso\",grpc_service=\"pdpb.PD\",grpc_type=\"bidi_stream\"} 8
grpc_server_msg_received_total{grpc_method=\"RegionHeartbeat\",grpc_service=\"pdpb.PD\",grpc_type=\"bidi_stream\"} 100
grpc_server_msg_received_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 9
";
        assert_eq!(pd_calls(page), [("PD Tso".to_owned(), 8)]);
    }

    #[test]
    fn only_commits_that_were_carried_out_are_counted() {
        let page =
            "whimbrel_commits_total{end=\"committed\"} 12\nwhimbrel_commits_total{end=\"conflict\"} 5\n";
        assert_eq!(commits(page), 12);
        assert_eq!(commits(""), 0);
    }

    #[test]
    fn a_counter_that_is_new_counts_from_zero_and_one_that_stands_still_is_left_out() {
        let at = Instant::now();
        let reading = |after_s, calls, commits| Reading {
            at: at + Duration::from_secs(after_s),
            calls,
            commits,
        };
        let before = reading(0, map([("kv_get", 5), ("kv_scan", 4)]), 10);
        let after = reading(3, map([("kv_get", 9), ("kv_scan", 4), ("kv_commit", 2)]), 11);
        let since = after.since(&before);
        assert_eq!(since.calls, map([("kv_get", 4), ("kv_commit", 2)]));
        assert_eq!((since.commits, since.lasting), (1, Duration::from_secs(3)));
    }

    #[test]
    fn background_is_taken_off_by_its_rate_over_the_time_of_the_load() {
        let background = difference(10, map([("kv_get", 20), ("kv_scan", 5)]));
        let loaded = difference(4, map([("kv_get", 108), ("kv_commit", 50)]));
        let less = loaded.less(&background);
        assert_eq!(
            less,
            map([("kv_get", 100.0), ("kv_commit", 50.0), ("kv_scan", -2.0)])
        );
        assert!(difference(0, map([("kv_get", 1)])).per_s().is_empty());
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(per(6, 4), Some(1.5));
        assert_eq!(per(6, 0), None);
    }
}
