//! Wall clocks as the core judges them. Pure.

use std::time::Duration;

use super::{Action, Core};
use crate::clocks;

impl Core {
    /// The router's own clock, now and then: every node's is judged by what most of all say.
    pub(crate) fn handle_clock(&mut self, now: Duration, utc_ms: u64, out: &mut Vec<Action>) {
        let own = clock_ms(now, utc_ms);
        let mut voices: Vec<i64> = self.nodes.iter().filter_map(|node| node.clock_ms).collect();
        voices.push(own);
        let median = clocks::consensus(&mut voices);
        let own_ahead_ms = median.map_or(0, |median| clocks::ahead_ms(own, median));
        if std::mem::replace(&mut self.own_ahead_ms, own_ahead_ms) == 0 && own_ahead_ms != 0 {
            tracing::warn!(
                ahead_ms = own_ahead_ms,
                "this machine's clock is not that of most nodes; nothing here goes by it, but correct it"
            );
        }
        for (_, node) in self.nodes.iter_mut() {
            let known = node.clock_ms.zip(median);
            let ahead_ms = known.map_or(0, |(clock, median)| clocks::ahead_ms(clock, median));
            if ahead_ms != 0 && node.health.clock_ahead_ms() == 0 {
                tracing::warn!(node = %node.identity, ahead_ms, "the node's clock is far from that of most: it gets no work");
            }
            node.health.handle_clock(now, ahead_ms);
        }
        self.tell_changes(now, out);
    }
}

/// A wall clock on the scale of a monotonic one, ms.
pub(super) fn clock_ms(now: Duration, utc_ms: u64) -> i64 {
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    i64::try_from(utc_ms).unwrap_or(i64::MAX).saturating_sub(now_ms)
}
