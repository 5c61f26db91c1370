//! What a router's log says of requests: each at debug under its trace id, and those that a person may have noticed at info, so many
//! a second.

use std::time::Duration;

use whimbrel_host::Sparing;
use whimbrel_protocol::ids::TraceId;

use super::refusal::Refusal;
use crate::pending::Pending;

/// A node that takes longer keeps a person waiting.
const SLOW: Duration = Duration::from_secs(1);

/// Lines of each kind, bounded apart.
#[derive(Debug, Default)]
pub(super) struct Told {
    refused: Sparing,
    elsewhere: Sparing,
    slow: Sparing,
}

impl Told {
    /// A request was not passed on, or what it was passed on to is gone.
    pub(super) fn refused(&self, now: Duration, trace: TraceId, refusal: &Refusal) {
        if tracing::enabled!(tracing::Level::INFO)
            && let Some(left_out) = self.refused.allows(now)
        {
            let (status, detail) = (refusal.status.as_str_name(), &*refusal.detail);
            tracing::info!(%trace, status, detail, left_out, "a request is refused");
        }
    }

    /// A request goes to a second node, since the first did not serve it.
    pub(super) fn goes_elsewhere(&self, now: Duration, trace: TraceId, refusal: &Refusal) {
        if tracing::enabled!(tracing::Level::INFO)
            && let Some(left_out) = self.elsewhere.allows(now)
        {
            let detail = &*refusal.detail;
            tracing::info!(%trace, detail, left_out, "a request goes to another node");
        }
    }

    /// A node answered.
    pub(super) fn answered(&self, now: Duration, pending: &Pending) {
        let trace = pending.asked.trace;
        if !trace.is_some() {
            return;
        }
        // What is left of the time that was given says how much was taken.
        let took = pending
            .given
            .saturating_sub(pending.deadline_at.saturating_sub(now));
        if took < SLOW {
            tracing::debug!(%trace, ?took, "a request is answered");
        } else if tracing::enabled!(tracing::Level::INFO)
            && let Some(left_out) = self.slow.allows(now)
        {
            tracing::info!(%trace, ?took, left_out, "a request took long");
        }
    }
}
