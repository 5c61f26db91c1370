//! What every role's process needs around its role: configuration, telemetry, health, tasks, drain, clocks.
//!
//! A role's crate takes [`HostParts`] and knows nothing of files, signals or exporters; the binary makes them. Nothing
//! here knows a role, a message or the cluster: that is business, and lives with the roles.
#![forbid(unsafe_code)]

pub mod bind;
pub mod clock;
pub mod config;
pub mod drain;
mod exposure;
pub mod fair;
pub mod health;
pub mod http;
pub mod limits;
mod shares;
mod sparing;
pub mod tasks;
pub mod telemetry;

use std::sync::Arc;

pub use bind::{BindError, bind_tcp, loopback_of};
pub use clock::{Clock, ManualClock, SystemClock};
pub use drain::Drain;
pub use exposure::warn_if_exposed;
pub use health::{Health, Readiness, fold_metrics, serve_health, serve_pages};
pub use limits::RawFdLimit;
pub use sparing::Sparing;
pub use tasks::{ShutDownReport, Spawner, Tasks};
pub use telemetry::{TelemetryConfig, TelemetryError, TelemetryGuard, init_telemetry};

/// What a role is handed by its process, shared by all roles of one process.
#[derive(Clone)]
pub struct HostParts {
    /// Where the role says whether it is ready.
    pub health: Health,
    /// When it must leave.
    pub drain: Drain,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl HostParts {
    /// Parts for a process that lives in real time.
    #[must_use]
    pub fn on_system_clock() -> Self {
        Self::on_clock(Arc::new(SystemClock::new()))
    }

    /// Parts whose time is `clock`'s.
    #[must_use]
    pub fn on_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            health: Health::new(),
            drain: Drain::new(),
            clock,
        }
    }
}
