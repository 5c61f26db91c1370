//! This machine's clocks.
//!
//! Latency is measured on the monotonic clock, counted since the machine started, which every process here shares: a time
//! that one worker wrote into a payload means the same to another.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Monotonic time since the machine started.
#[must_use]
pub fn now() -> Duration {
    duration_of(clock_gettime(ClockId::Monotonic))
}

/// Processor time that this thread has used.
#[must_use]
pub fn thread_cpu() -> Duration {
    duration_of(clock_gettime(ClockId::ThreadCPUTime))
}

/// Unix milliseconds.
#[must_use]
pub fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

fn duration_of(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}
