//! What an operator can set on a router.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use whimbrel_host::config::OutOfBounds;

/// The router's settings; every key has a default that suits one datacentre.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterConfig {
    /// Requests that may be unanswered at once. Beyond each priority's share new ones are refused as overloaded.
    pub pending_max: usize,
    /// How long a request waits for its answer when its asker does not say.
    #[serde(with = "humantime_serde")]
    pub deadline_default: Duration,
    /// How often each node is probed.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    /// A node that leaves a probe unanswered this long gets no work, and what it has is sent elsewhere.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Duration,
    /// While draining, how long requests are still switched, so that askers can move to other routers.
    #[serde(with = "humantime_serde")]
    pub drain_window: Duration,
    /// While draining, how long unanswered requests are waited for at most.
    #[serde(with = "humantime_serde")]
    pub drain_grace: Duration,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            // About 1 KiB each with its envelope: 64 MiB at worst, seconds of work for the nodes behind.
            pending_max: 65_536,
            deadline_default: Duration::from_secs(10),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(2),
            drain_window: Duration::from_secs(2),
            drain_grace: Duration::from_secs(10),
        }
    }
}

impl RouterConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// With the first value that cannot work.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let (minute, milliseconds) = (Duration::from_secs(60), Duration::from_millis);
        // Each priority has a share of it, so that few would leave some of them none.
        OutOfBounds::unless_within("router.pending_max", self.pending_max, 64..=16_777_216)?;
        // Who names a deadline gets no more either.
        OutOfBounds::unless_lasting(
            "router.deadline_default",
            self.deadline_default,
            milliseconds(100)..=minute,
        )?;
        // More often is a load of its own.
        OutOfBounds::unless_lasting(
            "router.probe_interval",
            self.probe_interval,
            milliseconds(50)..=minute,
        )?;
        OutOfBounds::unless_lasting(
            "router.probe_timeout",
            self.probe_timeout,
            milliseconds(50)..=minute,
        )?;
        OutOfBounds::unless_lasting(
            "router.drain_window",
            self.drain_window,
            Duration::ZERO..=10 * minute,
        )?;
        OutOfBounds::unless_lasting(
            "router.drain_grace",
            self.drain_grace,
            Duration::ZERO..=60 * minute,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(RouterConfig::default().check(), Ok(()));
        let refused = |config: RouterConfig| config.check().map_err(|error| error.key);
        let probing = RouterConfig {
            probe_interval: Duration::ZERO,
            ..RouterConfig::default()
        };
        assert_eq!(refused(probing), Err("router.probe_interval"));
        let pending = RouterConfig {
            pending_max: 0,
            ..RouterConfig::default()
        };
        assert_eq!(refused(pending), Err("router.pending_max"));
        let waiting = RouterConfig {
            deadline_default: Duration::from_secs(61),
            ..RouterConfig::default()
        };
        assert_eq!(refused(waiting), Err("router.deadline_default"));
    }
}
