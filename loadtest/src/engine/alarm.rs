//! Wakes the reactor at a moment, to the microsecond.
//!
//! epoll's own timeout counts whole milliseconds, rounded up, which would put up to one of them on every send of an idle
//! system. A timerfd (timerfd_create(2)) does not.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    set_to: Option<Duration>,
}

impl Alarm {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set_to: None })
    }

    /// Wakes at `moment` of the monotonic clock, instead of at whatever it was set to. Setting it also forgets an expiry
    /// that nobody has read, so the next one is an edge of its own.
    pub(super) fn set(&mut self, moment: Duration) -> io::Result<()> {
        if self.set_to == Some(moment) {
            return Ok(());
        }
        let mut time = Timespec::default();
        // A time of zero would switch it off.
        let moment_at_least = moment.max(Duration::from_nanos(1));
        time.tv_sec = i64::try_from(moment_at_least.as_secs()).unwrap_or(i64::MAX);
        time.tv_nsec = moment_at_least.subsec_nanos().into();
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: time,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        self.set_to = Some(moment);
        Ok(())
    }
}
