//! The end: what is left is written, within a time, and nothing is read any more.

use super::identity::Identity;
use super::limits::CLOSE_WITHIN_MS;
use super::live::Live;
use super::{Context, Session};

/// The last bytes of a session are being written.
#[derive(Debug)]
pub(crate) struct Closing {
    last: Last,
    deadline_ms: u64,
    has_written: bool,
}

#[derive(Debug)]
enum Last {
    /// There were no keys yet, or they were thrown away.
    Plain { bytes: Vec<u8>, from: usize },
    /// A CLOSE, and what was half written before it.
    Sealed(Box<Live>),
}

impl Closing {
    /// Writes an answer to a hello, then ends.
    pub(super) fn plain(cx: &Context<'_>, bytes: Vec<u8>) -> Session {
        Self::session(cx, Last::Plain { bytes, from: 0 })
    }

    /// Writes what `live` still has queued, then ends.
    pub(super) fn sealed(cx: &Context<'_>, live: Box<Live>) -> Session {
        Self::session(cx, Last::Sealed(live))
    }

    fn session(cx: &Context<'_>, last: Last) -> Session {
        let deadline_ms = cx.now.monotonic_ms.saturating_add(CLOSE_WITHIN_MS);
        Session::Closing(Box::new(Self {
            last,
            deadline_ms,
            has_written: false,
        }))
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// Whether the client was told anything.
    pub(super) fn has_written(&self) -> bool {
        self.has_written
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        match &self.last {
            Last::Plain { .. } => None,
            Last::Sealed(live) => Some(&live.talk.identity),
        }
    }

    pub(super) fn has_output(&self) -> bool {
        match &self.last {
            Last::Plain { bytes, from } => *from < bytes.len(),
            Last::Sealed(live) => !live.talk.outbound.is_empty(),
        }
    }

    /// Bytes charged for what is still to be written.
    #[cfg(feature = "fuzzing")]
    pub(super) fn owed(&self) -> usize {
        match &self.last {
            Last::Plain { .. } => 0,
            Last::Sealed(live) => live.talk.outbound.owed(),
        }
    }

    pub(super) fn poll_transmit(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        match &mut self.last {
            Last::Plain { bytes, from } => out.extend_from_slice(&bytes[*from..]),
            Last::Sealed(live) => live.poll_transmit(cx, out),
        }
    }

    pub(super) fn handle_written(&mut self, cx: &mut Context<'_>, burst: &[u8], written: usize) {
        self.has_written |= written > 0;
        match &mut self.last {
            Last::Plain { from, .. } => *from += written,
            Last::Sealed(live) => live.handle_written(cx, burst, written),
        }
    }

    pub(super) fn handle_timer(mut self: Box<Self>, cx: &mut Context<'_>) -> Session {
        if cx.now.monotonic_ms < self.deadline_ms {
            return Session::Closing(self);
        }
        self.release(cx);
        Session::Ended
    }

    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        if let Last::Sealed(live) = &mut self.last {
            live.release(cx);
        }
    }
}
