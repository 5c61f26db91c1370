//! What happened, event by event: as a hash that two runs of a seed must share, and as text for who replays one.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use xxhash_rust::xxh3::Xxh3;

/// Everything that happened so far.
pub(crate) struct Trace {
    hash: Xxh3,
    events: u64,
    printed: bool,
    line: String,
}

impl Trace {
    pub(crate) fn new(printed: bool) -> Self {
        Self {
            hash: Xxh3::new(),
            events: 0,
            printed,
            line: String::new(),
        }
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, now_ms: u64, event: fmt::Arguments<'_>) {
        self.line.clear();
        writeln!(self.line, "{now_ms:>8} {event}").expect("a String takes everything");
        self.hash.update(self.line.as_bytes());
        self.events += 1;
        if self.printed {
            // Whoever has closed the pipe has seen enough.
            drop(std::io::stdout().write_all(self.line.as_bytes()));
        }
    }

    /// How many events there were, and what they come to.
    pub(crate) fn sum(&self) -> (u64, u64) {
        (self.events, self.hash.digest())
    }
}

/// Notes an event of a world.
macro_rules! note {
    ($trace:expr, $now_ms:expr, $($event:tt)+) => {
        $trace.note($now_ms, format_args!($($event)+))
    };
}
pub(crate) use note;
