//! What a service node's log says of clients' requests: each at debug, faults of this server at error, and at info those that failed for
//! a reason of the cluster's or took long, so many a second. What a client did wrong is the client's, and told at debug.

use std::time::Duration;

use whimbrel_host::Sparing;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::TraceId;

use crate::failure::Failure;

/// A request that takes longer keeps a person waiting.
const SLOW: Duration = Duration::from_secs(1);

/// Lines of each kind, bounded apart.
#[derive(Debug, Default)]
pub(super) struct Told {
    failed: Sparing,
    slow: Sparing,
}

impl Told {
    /// A request ended.
    pub(super) fn ended(
        &self,
        trace: TraceId,
        method: u32,
        (begun, now): (Duration, Duration),
        failure: Option<&Failure>,
    ) {
        let took = now.saturating_sub(begun);
        if let Some(Failure {
            code: Code::Internal,
            message,
            ..
        }) = failure
        {
            tracing::error!(%trace, method, ?took, error = message, "a request failed by a fault of this server");
            return;
        }
        if let Some(failure) = failure.filter(|failure| failure.is_transient()) {
            if tracing::enabled!(tracing::Level::INFO)
                && let Some(left_out) = self.failed.allows(now)
            {
                let code = failure.code.number();
                tracing::info!(%trace, method, ?took, code, error = failure.message, left_out, "a request failed");
            }
            return;
        }
        if took >= SLOW
            && tracing::enabled!(tracing::Level::INFO)
            && let Some(left_out) = self.slow.allows(now)
        {
            tracing::info!(%trace, method, ?took, left_out, "a request took long");
            return;
        }
        let code = failure.map_or(0, |failure| failure.code.number());
        tracing::debug!(method, ?took, code, "a request is answered");
    }
}
