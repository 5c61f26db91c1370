//! The configuration of an app-service node.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use whimbrel_host::config::OutOfBounds;
use whimbrel_store::Grouping;

use crate::service::DEADLINE_MAX;
use crate::user_lane::COMMIT_ROWS_MAX;

/// Everything an operator can set of this role. The store, the links and the registry have sections of their own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AppServiceConfig {
    /// The customers' apps served here.
    pub apps: Vec<AppConfig>,
    /// The HTTP API for customers' servers.
    pub http: HttpConfig,
    /// How much is taken on at a time.
    pub service: ServiceConfig,
    /// How changes to conversations are put together for the store.
    pub commits: CommitsConfig,
    /// Rows of conversation lists, and notices of them.
    pub rows: RowsConfig,
    /// Work that a crash left behind.
    pub sweep: SweepConfig,
}

/// One customer's tenant.
#[derive(Clone, Debug, Deserialize)]
pub struct AppConfig {
    /// Its app key: lower-case letters, digits, `-` and `_`.
    pub key: String,
    /// Files with the secrets that its server signs tokens with; two while changing over, both good.
    pub secret_files: Vec<PathBuf>,
    /// Whether naming an unknown uid makes that user; else only a login or the HTTP API does.
    #[serde(default = "yes")]
    pub create_users_on_reference: bool,
}

fn yes() -> bool {
    true
}

/// The HTTP API for customers' servers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct HttpConfig {
    /// Where it listens; port 0 takes a free one. Absent: no HTTP API on this node.
    pub listen: Option<SocketAddr>,
    /// Bytes of the largest request body.
    pub body_len_max: usize,
    /// Milliseconds a request may take.
    pub timeout_ms: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: None,
            body_len_max: 256 * 1024,
            timeout_ms: 15_000,
        }
    }
}

/// How much is taken on at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ServiceConfig {
    /// Requests in progress, of all priorities together; the lower ones may use only a part of it.
    pub requests_in_progress_max: usize,
    /// Milliseconds a request may take that names no deadline.
    pub default_deadline_ms: u32,
    /// Seconds between renewals of this node's lease in the registry; the lease lasts three times as long.
    pub lease_renewal_s: u64,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        // A request in progress holds some 10 KiB at most times: 4,096 of them stay under 64 MiB.
        Self {
            requests_in_progress_max: 4096,
            default_deadline_ms: 10_000,
            lease_renewal_s: 3,
        }
    }
}

/// How changes to conversations are put together for the store. 0 is what suits the store.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CommitsConfig {
    /// Groups of conversations whose commits are in flight at a time. A group that is split, since one of its conversations is in
    /// trouble, commits up to 16 of them at a time in its place.
    pub groups_in_flight: usize,
    /// Conversations in one group.
    pub group_conversations_max: usize,
}

/// Beyond, groups only queue in the store's client.
const GROUPS_IN_FLIGHT_MAX: usize = 64;
/// A group has no more mutations than that.
const GROUP_CONVERSATIONS_MAX: usize = 512;

impl CommitsConfig {
    /// What it says, and where it says nothing what the store advises.
    #[must_use]
    pub fn over(self, advice: Grouping) -> Grouping {
        let or = |given: usize, advised: usize| if given == 0 { advised } else { given };
        Grouping {
            in_flight: or(self.groups_in_flight, advice.in_flight),
            unrelated_max: or(self.group_conversations_max, advice.unrelated_max),
        }
    }
}

/// Rows of conversation lists, and notices of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct RowsConfig {
    /// User lanes that commit side by side; users are spread over them.
    pub lanes: usize,
    /// Rows rewritten in one commit.
    pub commit_rows_max: usize,
    /// Rows waiting in one lane; beyond, the work is left to its marker.
    pub queue_max: usize,
    /// Pushes waiting for their sessions to be looked up; beyond, they are dropped and clients sync.
    pub push_queue_max: usize,
}

impl Default for RowsConfig {
    fn default() -> Self {
        Self {
            lanes: 2,
            commit_rows_max: 256,
            queue_max: 100_000,
            push_queue_max: 16_384,
        }
    }
}

/// Work that a crash left behind.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct SweepConfig {
    /// Seconds between looks for dead nodes' markers.
    pub interval_s: u64,
    /// Seconds after which a marker of this node that is still there is taken up again.
    pub own_age_s: u64,
    /// Hours after a node's end during which its markers are looked for again: a frozen process may wake and commit.
    pub late_hours: u64,
}

impl Default for SweepConfig {
    fn default() -> Self {
        Self {
            interval_s: 10,
            own_age_s: 60,
            late_hours: 24,
        }
    }
}

impl AppServiceConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// With the first value that cannot work.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let Self {
            apps: _,
            http,
            service,
            commits,
            rows,
            sweep,
        } = self;
        let within = OutOfBounds::unless_within::<u64>;
        let sized = OutOfBounds::unless_within::<usize>;
        sized(
            "app-service.http.body_len_max",
            http.body_len_max,
            1_024..=64 * 1_024 * 1_024,
        )?;
        within("app-service.http.timeout_ms", http.timeout_ms, 100..=600_000)?;
        // Each priority has a share of it, so that few would leave some of them none.
        sized(
            "app-service.service.requests_in_progress_max",
            service.requests_in_progress_max,
            16..=1_048_576,
        )?;
        within(
            "app-service.service.default_deadline_ms",
            service.default_deadline_ms.into(),
            100..=DEADLINE_MAX.as_secs() * 1_000,
        )?;
        within(
            "app-service.service.lease_renewal_s",
            service.lease_renewal_s,
            1..=60,
        )?;
        sized(
            "app-service.commits.groups_in_flight",
            commits.groups_in_flight,
            0..=GROUPS_IN_FLIGHT_MAX,
        )?;
        sized(
            "app-service.commits.group_conversations_max",
            commits.group_conversations_max,
            0..=GROUP_CONVERSATIONS_MAX,
        )?;
        sized("app-service.rows.lanes", rows.lanes, 1..=256)?;
        sized(
            "app-service.rows.commit_rows_max",
            rows.commit_rows_max,
            1..=COMMIT_ROWS_MAX,
        )?;
        sized("app-service.rows.queue_max", rows.queue_max, 1_024..=100_000_000)?;
        sized(
            "app-service.rows.push_queue_max",
            rows.push_queue_max,
            64..=16_777_216,
        )?;
        within("app-service.sweep.interval_s", sweep.interval_s, 1..=3_600)?;
        within("app-service.sweep.own_age_s", sweep.own_age_s, 1..=86_400)?;
        within("app-service.sweep.late_hours", sweep.late_hours, 1..=720)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What spoils a configuration, and what is said of it.
    type Case = (fn(&mut AppServiceConfig), &'static str);

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(AppServiceConfig::default().check(), Ok(()));
        let cases: &[Case] = &[
            (
                |config| config.rows.lanes = 0,
                "`app-service.rows.lanes` is 0, expected 1 to 256",
            ),
            // What the code never goes beyond.
            (
                |config| config.rows.commit_rows_max = 1_001,
                "`app-service.rows.commit_rows_max` is 1001, expected 1 to 1000",
            ),
            (
                |config| config.service.default_deadline_ms = 30_001,
                "`app-service.service.default_deadline_ms` is 30001, expected 100 to 30000",
            ),
        ];
        for (set, said) in cases {
            let mut config = AppServiceConfig::default();
            set(&mut config);
            let refused = config.check().map_err(|error| error.to_string());
            assert_eq!(refused, Err((*said).to_owned()));
        }
    }

    #[test]
    fn how_commits_are_put_together_is_the_stores_to_say_unless_the_operator_does() {
        let advice = Grouping {
            in_flight: 8,
            unrelated_max: 16,
        };
        let mut config = AppServiceConfig::default();
        assert_eq!(config.commits.over(advice), advice);
        config.commits.groups_in_flight = 3;
        assert_eq!(
            (config.check(), config.commits.over(advice).in_flight),
            (Ok(()), 3)
        );
        assert_eq!(config.commits.over(advice).unrelated_max, 16);
        config.commits.groups_in_flight = GROUPS_IN_FLIGHT_MAX + 1;
        assert_eq!(
            config.check().map_err(|error| error.key),
            Err("app-service.commits.groups_in_flight")
        );
    }
}
