//! Frames on their way to gateways: each gateway has places and a queue of its own, so that one that is frozen keeps
//! nobody else's pushes waiting. Pure.
//!
//! What is refused here, or has waited too long, is given back: its clients find the hole, or are asked to sync.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::plan::GatewayPush;

/// Frames a gateway has been sent and has not yet accepted. Gateways accept in a millisecond or so, a busy one in twenty:
/// these keep it busy.
pub(super) const IN_FLIGHT_MAX: usize = 512;
/// Frames that wait for a place at one gateway: what one node commits in half a second of its fastest.
pub(super) const WAITING_MAX: usize = 8_192;
/// Bytes of payload that wait at one gateway: a frozen one holds no more memory than this.
pub(super) const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a frame waits for a place. Beyond, its clients have pulled or synced.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(2);

/// The gateways that have something on its way.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    queues: BTreeMap<String, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    in_flight: usize,
    /// Each with the moment it came.
    waiting: VecDeque<(Duration, GatewayPush)>,
    waiting_bytes: usize,
}

/// What becomes of a frame.
#[derive(Debug, PartialEq)]
pub(super) enum Offered {
    /// It goes now; its end is told by [`Gateways::handle_end`].
    Goes(GatewayPush),
    /// It waits for a place.
    Waits,
    /// Its gateway has too much to take already.
    Full(GatewayPush),
}

impl Gateways {
    /// Takes a frame for its gateway.
    pub(super) fn offer(&mut self, frame: GatewayPush, now: Duration) -> Offered {
        let queue = match self.queues.get_mut(&frame.envelope.to_node) {
            Some(queue) => queue,
            None => self.queues.entry(frame.envelope.to_node.clone()).or_default(),
        };
        if queue.in_flight < IN_FLIGHT_MAX {
            queue.in_flight += 1;
            return Offered::Goes(frame);
        }
        let bytes = queue.waiting_bytes.saturating_add(frame.envelope.body.len());
        if queue.waiting.len() >= WAITING_MAX || bytes > WAITING_BYTES_MAX {
            return Offered::Full(frame);
        }
        queue.waiting_bytes = bytes;
        queue.waiting.push_back((now, frame));
        Offered::Waits
    }

    /// A frame of `gateway` was accepted, refused or given up. Gives the one that goes in its place, and those that waited too
    /// long.
    pub(super) fn handle_end(
        &mut self,
        gateway: &str,
        now: Duration,
    ) -> (Option<GatewayPush>, Vec<GatewayPush>) {
        let mut late = Vec::new();
        let Some(queue) = self.queues.get_mut(gateway) else {
            return (None, late);
        };
        while let Some((came, frame)) = queue.waiting.pop_front() {
            queue.waiting_bytes -= frame.envelope.body.len();
            if now.saturating_sub(came) <= WAIT_MAX {
                return (Some(frame), late);
            }
            late.push(frame);
        }
        queue.in_flight -= 1;
        if queue.in_flight == 0 {
            self.queues.remove(gateway);
        }
        (None, late)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use whimbrel_protocol::cluster::Envelope;

    use super::*;

    fn frame(gateway: &str, bytes: usize) -> GatewayPush {
        GatewayPush {
            envelope: Envelope {
                to_node: gateway.to_owned(),
                body: Bytes::from(vec![0; bytes]),
                ..Envelope::default()
            },
            sessions: Vec::new(),
            untold: Vec::new(),
        }
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Gateways of which `g1` has all its places taken.
    fn stuck() -> Gateways {
        let mut gateways = Gateways::default();
        for _ in 0..IN_FLIGHT_MAX {
            assert_eq!(
                gateways.offer(frame("g1", 1), s(0)),
                Offered::Goes(frame("g1", 1))
            );
        }
        gateways
    }

    #[test]
    fn a_gateway_whose_places_are_taken_leaves_the_others_theirs() {
        let mut gateways = stuck();
        assert_eq!(gateways.offer(frame("g1", 2), s(0)), Offered::Waits);
        assert_eq!(
            gateways.offer(frame("g2", 3), s(0)),
            Offered::Goes(frame("g2", 3))
        );
    }

    #[test]
    fn what_waits_goes_in_order_as_places_become_free() {
        let mut gateways = stuck();
        for bytes in [2, 3] {
            assert_eq!(gateways.offer(frame("g1", bytes), s(0)), Offered::Waits);
        }
        assert_eq!(gateways.handle_end("g1", s(1)), (Some(frame("g1", 2)), vec![]));
        assert_eq!(gateways.handle_end("g1", s(1)), (Some(frame("g1", 3)), vec![]));
        for _ in 0..IN_FLIGHT_MAX {
            assert_eq!(gateways.handle_end("g1", s(1)), (None, vec![]));
        }
        assert!(gateways.queues.is_empty(), "nothing is left of a gateway at rest");
    }

    #[test]
    fn what_waited_too_long_is_dropped_and_counted() {
        let mut gateways = stuck();
        for (bytes, came) in [(2, 0), (3, 1), (4, 3)] {
            assert_eq!(gateways.offer(frame("g1", bytes), s(came)), Offered::Waits);
        }
        assert_eq!(
            gateways.handle_end("g1", s(4)),
            (Some(frame("g1", 4)), vec![frame("g1", 2), frame("g1", 3)])
        );
    }

    #[test]
    fn waiting_frames_and_their_bytes_are_bounded() {
        let mut gateways = stuck();
        for _ in 0..WAITING_MAX {
            assert_eq!(gateways.offer(frame("g1", 1), s(0)), Offered::Waits);
        }
        assert_eq!(
            gateways.offer(frame("g1", 1), s(0)),
            Offered::Full(frame("g1", 1))
        );

        let mut gateways = stuck();
        let most = WAITING_BYTES_MAX - 1;
        assert_eq!(gateways.offer(frame("g1", most), s(0)), Offered::Waits);
        assert_eq!(
            gateways.offer(frame("g1", 2), s(0)),
            Offered::Full(frame("g1", 2))
        );
        assert_eq!(gateways.offer(frame("g1", 1), s(0)), Offered::Waits);
        gateways.handle_end("g1", s(0));
        assert_eq!(
            gateways.offer(frame("g1", most), s(0)),
            Offered::Waits,
            "bytes that left make room"
        );
    }
}
