//! What an operator can set about a gateway. `deploy/config/gateway.toml` documents every key.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use whimbrel_host::RawFdLimit;
use whimbrel_host::config::{OutOfBounds, is_host_and_port};
use whimbrel_link::APP_KEYS_MAX;
use whimbrel_protocol::descriptor::STATEMENT_LIFE_MS;
use whimbrel_protocol::ids::AppKey;
use whimbrel_protocol::timing;
use whimbrel_registry::LEASE_TTL_MAX;

use crate::engine::{EngineLimits, HandshakeLimits};
use crate::session::SessionLimits;

/// Descriptors kept for what is not a client where the process is a gateway alone: standard streams, the runtime's and
/// the reactors' polls and wakes, a listener per reactor, a link per router and the health page take some fifty on 16 cores.
const RESERVED_DESCRIPTORS: u64 = 128;

/// Connections when the system sets no limit on descriptors: what 16 GiB hold at a kilobyte each, and then some.
const CONNECTIONS_MAX_UNLIMITED: usize = 4_000_000;

/// A lease outlives the loss of two renewals.
const RENEWALS_PER_LEASE: u64 = 3;
/// The registry refuses more.
const LEASE_TTL_MAX_MS: u64 = LEASE_TTL_MAX.as_secs() * 1_000;
/// As a router's: nobody waits longer for a process to leave, and who means more has mistaken the unit.
const WINDOW_MAX_MS: u64 = 10 * 60 * 1_000;
const GRACE_MAX_MS: u64 = 60 * 60 * 1_000;

/// The gateway's part of its configuration. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayConfig {
    /// Where clients connect. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients are told to connect to, `host:port` each, best first. Empty: the address listened on; of every address,
    /// 127.0.0.1, with a warning.
    pub advertise: Vec<String>,
    /// Only users of these apps are sent here. Empty: of every app.
    pub app_keys: Vec<String>,
    /// Reactor threads. 0: one per core.
    pub reactors: usize,
    /// User buckets. A multiple of the reactors spreads users evenly.
    pub buckets: NonZeroU32,
    /// Connections at most. 0: as many as RLIMIT_NOFILE allows.
    pub connections_max: usize,
    /// Descriptors of this process that connections leave to everything else in it, or half of all if that is less.
    pub reserved_descriptors: u64,
    /// Bounds of each login session.
    pub session: SessionConfig,
    /// Bounds before login.
    pub handshake: HandshakeConfig,
    /// Bounds on memory that all connections share.
    pub memory: MemoryConfig,
    /// How the gateway shows that it lives.
    pub lease: LeaseConfig,
    /// How it leaves.
    pub drain: DrainConfig,
    /// A new X25519 key is made, and the descriptor signed again, this often, milliseconds. Old keys are held until the
    /// descriptors that name them have ended.
    pub key_rotation_ms: u64,
}

/// Bounds of each login session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionConfig {
    /// A client pings when it has sent nothing for this long, milliseconds. One that is silent for 2.5 times is closed.
    pub heartbeat_ms: u32,
    /// Requests a client may have unanswered.
    pub requests_max: u16,
    /// The deadline of a request that names none, milliseconds.
    pub request_deadline_ms: u32,
    /// The longest deadline a request gets, milliseconds.
    pub request_deadline_max_ms: u32,
    /// Bytes waiting for a client at which pushes collapse into one SYNC_HINT and nothing more is read from it.
    pub outbound_collapse_bytes: usize,
    /// Bytes waiting for a client at which it is closed.
    pub outbound_close_bytes: usize,
}

/// Bounds before login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandshakeConfig {
    /// A hello is read and its login judged within this, milliseconds.
    pub within_ms: u64,
    /// Unfinished handshakes at once.
    pub unfinished_max: usize,
    /// Unfinished handshakes of one address (of one /64 for IPv6) at once. Whole cities can sit behind one address.
    pub unfinished_per_address_max: u32,
    /// Failed handshakes of one address; half of them are forgiven every minute. Beyond, it may begin 8 a second.
    pub failed_per_address_max: u32,
}

/// Bounds on memory that all connections share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryConfig {
    /// Bytes of unfinished hellos, records and frames.
    pub held_bytes_max: usize,
    /// Bytes waiting for clients.
    pub owed_bytes_max: usize,
}

/// How the gateway shows that it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseConfig {
    /// The lease is renewed this often, milliseconds.
    pub renew_ms: u32,
    /// It ends this long after its last renewal, milliseconds: at least three renewals, and at most 300,000.
    pub ttl_ms: u32,
}

/// How it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainConfig {
    /// Clients pick a moment within this time to connect elsewhere, milliseconds.
    pub window_ms: u32,
    /// Who is still there after this long is closed, milliseconds: no less than the window.
    pub grace_ms: u32,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7100)),
            advertise: Vec::new(),
            app_keys: Vec::new(),
            reactors: 0,
            buckets: SessionLimits::default().buckets,
            connections_max: 0,
            reserved_descriptors: RESERVED_DESCRIPTORS,
            session: SessionConfig::default(),
            handshake: HandshakeConfig::default(),
            memory: MemoryConfig::default(),
            lease: LeaseConfig::default(),
            drain: DrainConfig::default(),
            key_rotation_ms: 24 * 3600 * 1000,
        }
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        let limits = SessionLimits::default();
        Self {
            heartbeat_ms: limits.heartbeat_ms,
            requests_max: limits.requests_max,
            request_deadline_ms: limits.request_deadline_ms,
            request_deadline_max_ms: limits.request_deadline_max_ms,
            outbound_collapse_bytes: limits.outbound_collapse_bytes,
            outbound_close_bytes: limits.outbound_close_bytes,
        }
    }
}

impl Default for HandshakeConfig {
    fn default() -> Self {
        Self {
            within_ms: timing::HANDSHAKE_WITHIN_MS,
            unfinished_max: 16_384,
            unfinished_per_address_max: 1_024,
            failed_per_address_max: 256,
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            held_bytes_max: 64 * 1024 * 1024,
            owed_bytes_max: 256 * 1024 * 1024,
        }
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            renew_ms: 3_000,
            ttl_ms: 10_000,
        }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            window_ms: 10_000,
            grace_ms: 30_000,
        }
    }
}

impl GatewayConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// With the first value that cannot work.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let unless = |fine: bool, key, value: &dyn Display, expected: &str| {
            if fine {
                return Ok(());
            }
            Err(OutOfBounds {
                key,
                value: value.to_string(),
                expected: expected.to_owned(),
            })
        };
        let within = OutOfBounds::unless_within::<u64>;
        if let Some(address) = self.advertise.iter().find(|address| !is_host_and_port(address)) {
            return Err(OutOfBounds {
                key: "gateway.advertise",
                value: format!("{address:?}"),
                expected: "\"host:port\", such as \"chat.example.com:7100\"".to_owned(),
            });
        }
        unless(
            self.app_keys.len() <= APP_KEYS_MAX,
            "gateway.app_keys",
            &format!("a list of {} apps", self.app_keys.len()),
            &format!("at most {APP_KEYS_MAX}"),
        )?;
        for key in &self.app_keys {
            if let Err(error) = AppKey::new(key) {
                return Err(OutOfBounds {
                    key: "gateway.app_keys",
                    value: format!("{key:?}"),
                    expected: format!("apps by their keys: {error}"),
                });
            }
        }
        let session = &self.session;
        unless(
            session.heartbeat_ms >= 1_000,
            "gateway.session.heartbeat_ms",
            &session.heartbeat_ms,
            "at least 1000",
        )?;
        unless(
            session.requests_max >= 1,
            "gateway.session.requests_max",
            &session.requests_max,
            "at least 1",
        )?;
        unless(
            session.outbound_close_bytes > session.outbound_collapse_bytes,
            "gateway.session.outbound_close_bytes",
            &session.outbound_close_bytes,
            &format!(
                "more than `gateway.session.outbound_collapse_bytes`, {}",
                session.outbound_collapse_bytes
            ),
        )?;
        let LeaseConfig { renew_ms, ttl_ms } = self.lease;
        within(
            "gateway.lease.renew_ms",
            renew_ms.into(),
            1..=LEASE_TTL_MAX_MS / RENEWALS_PER_LEASE,
        )?;
        unless(
            (RENEWALS_PER_LEASE * u64::from(renew_ms)..=LEASE_TTL_MAX_MS).contains(&u64::from(ttl_ms)),
            "gateway.lease.ttl_ms",
            &ttl_ms,
            &format!(
                "at least three times `gateway.lease.renew_ms`, {renew_ms}, and at most {LEASE_TTL_MAX_MS}, what the registry takes"
            ),
        )?;
        let DrainConfig { window_ms, grace_ms } = self.drain;
        within("gateway.drain.window_ms", window_ms.into(), 0..=WINDOW_MAX_MS)?;
        unless(
            (u64::from(window_ms)..=GRACE_MAX_MS).contains(&u64::from(grace_ms)),
            "gateway.drain.grace_ms",
            &grace_ms,
            &format!("at least `gateway.drain.window_ms`, {window_ms}, and at most {GRACE_MAX_MS}"),
        )?;
        // Descriptors live for two days, and name the keys of both.
        within(
            "gateway.key_rotation_ms",
            self.key_rotation_ms,
            60_000..=STATEMENT_LIFE_MS / 2,
        )?;
        unless(
            self.reactors <= usize::from(u16::MAX),
            "gateway.reactors",
            &self.reactors,
            "at most 65535; 0 is one per core",
        )
    }

    /// How many reactors to run.
    pub(crate) fn reactor_count(&self) -> usize {
        match self.reactors {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }

    /// The engine's bounds; connections stay below RLIMIT_NOFILE whatever is set.
    pub(crate) fn engine_limits(&self) -> EngineLimits {
        let limit = RawFdLimit::read();
        // Under a very low limit the rest has to do with half.
        let half = limit.soft.map_or(u64::MAX, |soft| soft / 2);
        let descriptors = limit.for_connections(self.reserved_descriptors).max(half);
        let descriptors = usize::try_from(descriptors)
            .unwrap_or(usize::MAX)
            .min(CONNECTIONS_MAX_UNLIMITED);
        let connections_max = match self.connections_max {
            0 => descriptors,
            set => set.min(descriptors),
        };
        let session = &self.session;
        EngineLimits {
            session: SessionLimits {
                buckets: self.buckets,
                outbound_collapse_bytes: session.outbound_collapse_bytes,
                outbound_close_bytes: session.outbound_close_bytes,
                handshake_within_ms: self.handshake.within_ms,
                heartbeat_ms: session.heartbeat_ms,
                requests_max: session.requests_max,
                request_deadline_ms: session.request_deadline_ms,
                request_deadline_max_ms: session.request_deadline_max_ms,
            },
            handshakes: HandshakeLimits {
                unfinished_per_address: self.handshake.unfinished_per_address_max,
                failed_per_address: self.handshake.failed_per_address_max,
                unfinished: self.handshake.unfinished_max,
            },
            connections_max,
            held_bytes_max: self.memory.held_bytes_max,
            owed_bytes_max: self.memory.owed_bytes_max,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// What spoils a configuration, and what is said of it.
    type Case = (fn(&mut GatewayConfig), &'static str);

    #[test]
    fn the_defaults_work() {
        assert_eq!(GatewayConfig::default().check(), Ok(()));
        assert!(GatewayConfig::default().engine_limits().connections_max > 100);
    }

    #[test]
    fn connections_leave_the_reserved_descriptors_to_others() {
        let of = |reserved_descriptors| {
            let config = GatewayConfig {
                reserved_descriptors,
                ..GatewayConfig::default()
            };
            config.engine_limits().connections_max
        };
        assert_eq!(of(100) - of(400), 300);
        assert!(of(u64::MAX) > 100, "a limit that is very low is shared");
    }

    #[test]
    fn a_value_that_cannot_work_is_named_with_its_sections_and_with_what_would() {
        let cases: &[Case] = &[
            (
                |config| config.lease.ttl_ms = 5_000,
                "`gateway.lease.ttl_ms` is 5000, expected at least three times `gateway.lease.renew_ms`, 3000, and at most 300000",
            ),
            (
                |config| config.lease.ttl_ms = 300_001,
                "`gateway.lease.ttl_ms` is 300001, ",
            ),
            (
                |config| config.lease.renew_ms = 0,
                "`gateway.lease.renew_ms` is 0, expected 1 to 100000",
            ),
            (
                |config| config.drain.grace_ms = 9_999,
                "`gateway.drain.grace_ms` is 9999, expected at least `gateway.drain.window_ms`, 10000, and at most 3600000",
            ),
            (
                |config| config.drain.grace_ms = 3_600_001,
                "`gateway.drain.grace_ms` is 3600001, ",
            ),
            (
                |config| config.drain.window_ms = 600_001,
                "`gateway.drain.window_ms` is 600001, expected 0 to 600000",
            ),
            (
                |config| config.key_rotation_ms = 1,
                "`gateway.key_rotation_ms` is 1, expected 60000 to 86400000",
            ),
            (
                |config| config.session.heartbeat_ms = 999,
                "`gateway.session.heartbeat_ms` is 999, ",
            ),
            (
                |config| config.session.requests_max = 0,
                "`gateway.session.requests_max` is 0, ",
            ),
            (
                |config| config.session.outbound_close_bytes = 1,
                "expected more than `gateway.session.outbound_collapse_bytes`, 262144",
            ),
            (|config| config.reactors = 65_536, "`gateway.reactors` is 65536, "),
            (
                |config| config.advertise = vec!["http://chat".to_owned()],
                "`gateway.advertise` is \"http://chat\", expected \"host:port\"",
            ),
            (
                |config| config.app_keys = vec!["Not an app".to_owned()],
                "`gateway.app_keys` is \"Not an app\", expected apps by their keys",
            ),
            (
                |config| config.app_keys = vec!["app".to_owned(); APP_KEYS_MAX + 1],
                "`gateway.app_keys` is a list of 33 apps, expected at most 32",
            ),
        ];
        for (set, said) in cases {
            let mut config = GatewayConfig::default();
            set(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let mut longest = GatewayConfig::default();
        longest.lease.ttl_ms = 300_000;
        longest.drain.window_ms = longest.drain.grace_ms;
        assert_eq!(longest.check(), Ok(()));
    }
}
