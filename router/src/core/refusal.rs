//! What a router answers by itself: that it does not pass a request on, and why.

use std::borrow::Cow;

use whimbrel_protocol::cluster::Status;

/// What is told to whoever finds nobody fit: probes find a node that has come back within about this time.
pub(super) const UNAVAILABLE_RETRY_AFTER_MS: u32 = 1_000;
/// What is told to whoever is refused for want of room: queues drain in tenths of seconds.
const OVERLOADED_RETRY_AFTER_MS: u32 = 300;

/// An answer that is the router's own.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) detail: Cow<'static, str>,
    pub(super) retry_after_ms: u32,
}

impl Refusal {
    pub(super) fn of(status: Status, detail: &'static str) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after_ms: 0,
        }
    }

    pub(super) fn unavailable(detail: &'static str) -> Self {
        Self {
            retry_after_ms: UNAVAILABLE_RETRY_AFTER_MS,
            ..Self::of(Status::Unavailable, detail)
        }
    }

    pub(super) fn overloaded(detail: &'static str) -> Self {
        Self {
            retry_after_ms: OVERLOADED_RETRY_AFTER_MS,
            ..Self::of(Status::Overloaded, detail)
        }
    }
}
