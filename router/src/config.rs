//! What an operator can set on a router.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
