//! What a device has to send into its conversation: one batch on its way, the others behind it. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use whimbrel_protocol::ids::OperationId;

use crate::wire;

/// Messages of one send (docs/protocol.md, section 11).
const BATCH_MAX: usize = 32;

/// Bytes of one send, with room below the protocol's 48 KiB for what surrounds each message.
const BATCH_BYTES_MAX: usize = 40 * 1024;

/// A message that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) operation: OperationId,
    pub(crate) order: u64,
    pub(crate) scheduled: Duration,
    /// When it was handed over, before any byte of it went out.
    pub(crate) begun: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Outgoing>,
    /// How many of the first are one batch: it stays that batch until it is answered.
    batch: usize,
    /// What the batch says that its sender has seen.
    seen_seq: u64,
    on_wire: bool,
    /// Not before then.
    pause_until: Option<Duration>,
    failures: u32,
}

impl Outbox {
    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        self.queue.push_back(outgoing);
    }

    /// Messages that are not answered.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The batch to send now, and what it says its sender has seen; `None` when there is none, or one is on its way.
    pub(crate) fn begin(
        &mut self,
        payload_len: usize,
        seen_seq: u64,
        now: Duration,
    ) -> Option<(Vec<Outgoing>, u64)> {
        if self.on_wire || self.queue.is_empty() || self.pause_until.is_some_and(|until| now < until) {
            return None;
        }
        self.pause_until = None;
        if self.batch == 0 {
            let fit = (BATCH_BYTES_MAX / payload_len.max(1)).clamp(1, BATCH_MAX);
            self.batch = self.queue.len().min(fit);
            self.seen_seq = seen_seq;
        }
        self.on_wire = true;
        Some((
            self.queue.iter().take(self.batch).copied().collect(),
            self.seen_seq,
        ))
    }

    /// The batch was answered, with whatever answer: it is done.
    pub(crate) fn answered(&mut self) -> Vec<Outgoing> {
        self.on_wire = false;
        self.failures = 0;
        let batch = std::mem::take(&mut self.batch).min(self.queue.len());
        self.queue.drain(..batch).collect()
    }

    /// The batch has no answer; the same one goes out again after a pause. `jitter` is a random number from 0 up to 1.
    pub(crate) fn failed(&mut self, retry_after: Duration, jitter: f64, now: Duration) {
        self.on_wire = false;
        let pause = wire::pause(self.failures, retry_after, jitter);
        self.failures = self.failures.saturating_add(1);
        self.pause_until = Some(now.saturating_add(pause));
    }

    /// The connection ended: the batch goes out again as soon as there is another.
    pub(crate) fn lost(&mut self) -> bool {
        self.pause_until = None;
        std::mem::take(&mut self.on_wire)
    }

    /// When there is something to try again.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.pause_until
            .filter(|_| !self.on_wire && !self.queue.is_empty())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn outgoing(order: u64) -> Outgoing {
        Outgoing {
            operation: OperationId::new(1, [u8::try_from(order).unwrap(); 10]),
            order,
            scheduled: Duration::ZERO,
            begun: Duration::ZERO,
        }
    }

    fn orders(batch: &[Outgoing]) -> Vec<u64> {
        batch.iter().map(|outgoing| outgoing.order).collect()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_batch_is_on_its_way_and_stays_itself_when_it_is_tried_again() {
        let mut outbox = Outbox::default();
        outbox.push(outgoing(1));
        outbox.push(outgoing(2));
        let (first, seen) = outbox.begin(64, 5, ms(0)).unwrap();
        assert_eq!((orders(&first), seen), (vec![1, 2], 5));
        outbox.push(outgoing(3));
        assert_eq!(outbox.begin(64, 6, ms(0)), None, "one at a time");
        outbox.failed(ms(0), 1.0, ms(0));
        assert_eq!(outbox.begin(64, 6, ms(249)), None);
        assert_eq!(outbox.due(), Some(ms(250)));
        let (again, seen) = outbox.begin(64, 6, ms(250)).unwrap();
        assert_eq!(
            (orders(&again), seen),
            (vec![1, 2], 5),
            "the same ids and content"
        );
        assert_eq!(orders(&outbox.answered()), [1, 2]);
        assert_eq!(orders(&outbox.begin(64, 7, ms(251)).unwrap().0), [3]);
    }

    #[test]
    fn a_new_connection_takes_the_batch_at_once() {
        let mut outbox = Outbox::default();
        outbox.push(outgoing(1));
        outbox.begin(64, 0, ms(0)).unwrap();
        assert!(outbox.lost());
        assert!(outbox.begin(64, 0, ms(1)).is_some());
    }

    #[test]
    fn batches_keep_the_bounds_of_a_send() {
        let mut outbox = Outbox::default();
        for order in 0..100 {
            outbox.push(outgoing(order));
        }
        assert_eq!(outbox.begin(100, 0, ms(0)).unwrap().0.len(), 32);
        outbox.answered();
        assert_eq!(outbox.begin(15_000, 0, ms(0)).unwrap().0.len(), 2);
        outbox.answered();
        assert_eq!(outbox.begin(60_000, 0, ms(0)).unwrap().0.len(), 1);
    }

    #[test]
    fn pauses_grow_to_their_bound_and_respect_the_server() {
        let mut outbox = Outbox::default();
        outbox.push(outgoing(1));
        for _ in 0..20 {
            outbox.failed(ms(0), 1.0, ms(0));
        }
        assert_eq!(outbox.due(), Some(wire::PAUSE_LONGEST));
        outbox.failed(ms(60_000), 0.0, ms(0));
        assert_eq!(outbox.due(), Some(ms(60_000)));
    }
}
