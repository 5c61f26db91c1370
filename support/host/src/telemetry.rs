//! Logs to stderr and the recorder behind `/metrics`. Once per process.

use std::{
    io::IsTerminal,
    sync::{Mutex, OnceLock},
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// Upper ends of the buckets of every histogram of seconds: 50 us, where an idle hop lies, to 10 s, past every deadline.
const SECONDS_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0,
];

/// `[telemetry]` of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TelemetryConfig {
    /// What is logged: a level, or directives such as `info,whimbrel_link=debug`. The environment's `RUST_LOG` wins.
    pub log: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
        }
    }
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error(
        "{origin} = {value:?} is no log filter: {source}; expected a level (error, warn, info, debug, trace) or \
         directives such as info,whimbrel_link=debug"
    )]
    Filter {
        /// `telemetry.log` or `RUST_LOG`.
        origin: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else's metrics recorder is installed in this process.
    #[error("this process has a metrics recorder already, and not ours: {0}")]
    Recorder(String),
}

/// What [`init_telemetry`] started; a clone is the same.
#[derive(Clone)]
pub struct TelemetryGuard {
    prometheus: PrometheusHandle,
}

impl TelemetryGuard {
    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.prometheus.render()
    }

    /// Folds samples that wait into their histograms; without it they grow until somebody renders. Called every few seconds by
    /// [`serve_health`](crate::serve_health).
    pub fn run_upkeep(&self) {
        self.prometheus.run_upkeep();
    }
}

static INSTALLED: OnceLock<TelemetryGuard> = OnceLock::new();
static INSTALLING: Mutex<()> = Mutex::new(());

/// The guard of this process' telemetry, once it has started.
#[must_use]
pub fn installed() -> Option<TelemetryGuard> {
    INSTALLED.get().cloned()
}

/// Starts logs and metrics. A second call in one process changes nothing and gives the first one's guard.
///
/// # Errors
/// When the filter does not parse, or another metrics recorder is in place.
pub fn init_telemetry(config: &TelemetryConfig) -> Result<TelemetryGuard, TelemetryError> {
    let filter = filter(config, std::env::var("RUST_LOG").ok())?;
    let _one_at_a_time = INSTALLING
        .lock()
        .expect("nothing panics while telemetry is installed");
    if let Some(guard) = INSTALLED.get() {
        return Ok(guard.clone());
    }
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| TelemetryError::Recorder(error.to_string()))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would complain on standard error, and panic where that is what cannot be written.
        .log_internal_errors(false)
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        // A test's own subscriber came first: it has asked to see the logs.
        tracing::debug!("logs go to the subscriber that was there already");
    }
    let guard = TelemetryGuard { prometheus };
    Ok(INSTALLED.get_or_init(|| guard).clone())
}

fn filter(config: &TelemetryConfig, rust_log: Option<String>) -> Result<EnvFilter, TelemetryError> {
    let (origin, value) = match rust_log.filter(|text| !text.is_empty()) {
        Some(value) => ("RUST_LOG", value),
        None => ("telemetry.log", config.log.clone()),
    };
    EnvFilter::builder()
        .parse(&value)
        .map_err(|source| TelemetryError::Filter {
            origin,
            value,
            source,
        })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_environment_wins_over_the_file_unless_it_is_empty() {
        let config = TelemetryConfig {
            log: "warn".to_owned(),
        };
        assert_eq!(filter(&config, None).unwrap().to_string(), "warn");
        assert_eq!(filter(&config, Some(String::new())).unwrap().to_string(), "warn");
        assert_eq!(
            filter(&config, Some("debug".to_owned())).unwrap().to_string(),
            "debug"
        );
    }

    #[test]
    fn a_bad_filter_names_where_it_came_from() {
        let config = TelemetryConfig {
            log: "info,whimbrel=loud".to_owned(),
        };
        let error = filter(&config, None).unwrap_err().to_string();
        assert!(
            error.starts_with("telemetry.log = \"info,whimbrel=loud\" is no log filter"),
            "{error}"
        );
    }

    #[test]
    fn what_is_counted_is_rendered_and_a_second_start_is_the_first() {
        let first = init_telemetry(&TelemetryConfig::default()).unwrap();
        metrics::counter!("whimbrel_telemetry_test_total").increment(3);
        let second = init_telemetry(&TelemetryConfig {
            log: "debug".to_owned(),
        })
        .unwrap();
        for guard in [first, second] {
            assert!(guard.render().contains("whimbrel_telemetry_test_total 3"));
        }
    }
}
