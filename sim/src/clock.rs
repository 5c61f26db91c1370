//! What time it is: in the world, and as each process knows it.

use std::time::Duration;

use tokio::time::Instant;
use whimbrel_host::Clock;

/// When the world begins, unix milliseconds.
pub(crate) const START_UNIX_MS: u64 = 1_800_000_000_000;

/// The clock of one process, on the paused time of its runtime: to be asked within that runtime only.
#[derive(Debug)]
pub(crate) struct ProcessClock {
    started: Instant,
    begun_ms: u64,
    skew_ms: u64,
}

impl ProcessClock {
    /// Of a process that begins at `begun_ms` of the world, with a machine's clock so much ahead. To be called within
    /// the process's runtime.
    pub(crate) fn start(begun_ms: u64, skew_ms: u64) -> Self {
        Self {
            started: Instant::now(),
            begun_ms,
            skew_ms,
        }
    }

    /// The world's time, ms.
    pub(crate) fn world_ms(&self) -> u64 {
        self.begun_ms + u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// The moment of the process's own time that is `world_ms`.
    pub(crate) fn instant(&self, world_ms: u64) -> Instant {
        self.started + Duration::from_millis(world_ms.saturating_sub(self.begun_ms))
    }
}

impl Clock for ProcessClock {
    fn now_ms(&self) -> u64 {
        START_UNIX_MS + self.skew_ms + self.world_ms()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}
