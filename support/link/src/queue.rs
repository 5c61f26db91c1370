//! The out-queue of a link: bounded in envelopes and bytes, ordered by priority. Pure.
//!
//! Within a priority the order is kept; a higher priority goes first. Each priority may fill only its share of the
//! bounds, so that a flood of history pages leaves room for messages, and messages leave room for control: refusing
//! happens here, before anything is accepted.

use std::collections::VecDeque;

use whimbrel_protocol::cluster::{Envelope, Kind, Priority};

/// What an envelope weighs beyond its body and texts, in bytes: the fields themselves and the queue's slot.
const ENVELOPE_OVERHEAD: usize = 256;

/// The priorities, and how many permille of a queue's bounds each may fill.
const SHARES_PERMILLE: [usize; 5] = [1_000, 900, 800, 600, 500];

/// Where an envelope stands: a response with what it answers, so that pages of history hold up neither an acknowledgement nor the
/// answer to a probe. It may fill the whole queue, since the work is already done.
fn lane(envelope: &Envelope) -> (usize, usize) {
    if envelope.response {
        let lane = match (
            Kind::try_from(envelope.kind),
            Priority::try_from(envelope.priority),
        ) {
            (Ok(Kind::Probe), _) => Priority::Control,
            // Of a node of before: it says neither, and 0 would be the highest.
            (Ok(Kind::Unspecified), _) | (_, Err(_)) => Priority::Direct,
            (_, Ok(priority)) => priority,
        };
        return (lane as usize, SHARES_PERMILLE[0]);
    }
    let lane = usize::try_from(envelope.priority).unwrap_or(SHARES_PERMILLE.len());
    let lane = lane.min(SHARES_PERMILLE.len() - 1);
    (lane, SHARES_PERMILLE[lane])
}

fn weight(envelope: &Envelope) -> usize {
    ENVELOPE_OVERHEAD
        + envelope.body.len()
        + envelope.detail.len()
        + envelope.to_node.len()
        + envelope.from_node.len()
        + envelope.app_key.len()
}

/// Envelopes on their way out of one link.
#[derive(Debug)]
pub(crate) struct OutQueue {
    lanes: [VecDeque<Envelope>; SHARES_PERMILLE.len()],
    len: usize,
    bytes: usize,
    len_max: usize,
    bytes_max: usize,
}

impl OutQueue {
    pub(crate) fn new(len_max: usize, bytes_max: usize) -> Self {
        Self {
            lanes: Default::default(),
            len: 0,
            bytes: 0,
            len_max,
            bytes_max,
        }
    }

    /// Takes the envelope in, or gives it back when its priority's share is used up.
    pub(crate) fn push(&mut self, envelope: Envelope) -> Result<(), Box<Envelope>> {
        let (lane, share) = lane(&envelope);
        let weight = weight(&envelope);
        let bytes_after = self.bytes.saturating_add(weight);
        let fits_len = self.len < (self.len_max * share).div_ceil(1_000);
        // An envelope larger than the whole bound still passes through an empty queue.
        let fits_bytes = self.len == 0 || bytes_after <= (self.bytes_max / 1_000).saturating_mul(share);
        if !fits_len || !fits_bytes {
            return Err(Box::new(envelope));
        }
        self.len += 1;
        self.bytes = bytes_after;
        self.lanes[lane].push_back(envelope);
        Ok(())
    }

    /// Moves envelopes out, most urgent first, until about `bytes` are taken.
    pub(crate) fn take(&mut self, bytes: usize, out: &mut Vec<Envelope>) {
        let mut taken = 0;
        for lane in &mut self.lanes {
            while taken < bytes
                && let Some(envelope) = lane.pop_front()
            {
                let weight = weight(&envelope);
                taken += weight;
                self.bytes -= weight;
                self.len -= 1;
                out.push(envelope);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        for lane in &mut self.lanes {
            *lane = VecDeque::new();
        }
        self.len = 0;
        self.bytes = 0;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn envelope(id: u64, priority: Priority) -> Envelope {
        Envelope {
            id,
            priority: priority.into(),
            ..Envelope::default()
        }
    }

    fn drain(queue: &mut OutQueue) -> Vec<u64> {
        let mut out = Vec::new();
        queue.take(usize::MAX, &mut out);
        out.iter().map(|envelope| envelope.id).collect()
    }

    #[test]
    fn urgent_goes_first_and_order_is_kept_within_a_priority() {
        let mut queue = OutQueue::new(10, 1 << 20);
        for (id, priority) in [
            (1, Priority::History),
            (2, Priority::Direct),
            (3, Priority::Group),
            (4, Priority::Direct),
            (5, Priority::Control),
        ] {
            queue.push(envelope(id, priority)).unwrap();
        }
        assert_eq!(drain(&mut queue), [5, 2, 4, 3, 1]);
        assert!(queue.is_empty());
    }

    fn answer(id: u64, kind: Kind, priority: impl Into<i32>) -> Envelope {
        Envelope {
            id,
            response: true,
            kind: kind.into(),
            priority: priority.into(),
            ..Envelope::default()
        }
    }

    #[test]
    fn an_answer_goes_as_what_it_answers() {
        let mut queue = OutQueue::new(10, 1 << 20);
        for answer in [
            answer(1, Kind::ClientRequest, Priority::History),
            answer(2, Kind::ClientRequest, Priority::Room),
            answer(3, Kind::ClientRequest, Priority::Direct),
            // Of a node of before, which says neither; and of one that says what nobody knows.
            answer(4, Kind::Unspecified, Priority::Control),
            answer(5, Kind::ClientRequest, 77),
            answer(6, Kind::Registry, Priority::Control),
            answer(7, Kind::Probe, Priority::Control),
        ] {
            queue.push(answer).unwrap();
        }
        assert_eq!(drain(&mut queue), [6, 7, 3, 4, 5, 2, 1]);
    }

    #[test]
    fn an_answer_of_any_priority_may_fill_the_queue() {
        for priority in [Priority::Control, Priority::Direct, Priority::History] {
            let mut queue = OutQueue::new(10, 1 << 20);
            for id in 0..10 {
                queue.push(answer(id, Kind::ClientRequest, priority)).unwrap();
            }
            assert!(queue.push(answer(10, Kind::ClientRequest, priority)).is_err());
        }
    }

    #[test]
    fn a_flood_of_one_priority_leaves_room_for_the_next_higher() {
        let mut queue = OutQueue::new(10, 1 << 20);
        let mut accepted = [0; 5];
        for (lane, priority) in [
            (4, Priority::History),
            (3, Priority::Room),
            (2, Priority::Group),
            (1, Priority::Direct),
            (0, Priority::Control),
        ] {
            while queue.push(envelope(1, priority)).is_ok() {
                accepted[lane] += 1;
            }
        }
        assert_eq!(accepted, [1, 1, 2, 1, 5]);
    }

    #[test]
    fn bytes_are_bounded_and_freed() {
        let mut queue = OutQueue::new(1_000, 10_000);
        let big = Envelope {
            body: Bytes::from(vec![0; 4_000]),
            ..Envelope::default()
        };
        assert!(queue.push(big.clone()).is_ok());
        assert!(queue.push(big.clone()).is_ok());
        assert!(queue.push(big.clone()).is_err());
        drain(&mut queue);
        assert!(queue.push(big).is_ok());
        queue.clear();
        assert!(queue.is_empty());
    }

    #[test]
    fn one_envelope_over_the_byte_bound_still_passes_alone() {
        let mut queue = OutQueue::new(10, 1_000);
        let huge = Envelope {
            body: Bytes::from(vec![0; 5_000]),
            ..Envelope::default()
        };
        assert!(queue.push(huge.clone()).is_ok());
        assert!(queue.push(huge).is_err());
    }

    #[test]
    fn an_unknown_priority_is_the_least() {
        let mut queue = OutQueue::new(10, 1 << 20);
        queue
            .push(Envelope {
                id: 1,
                priority: -7,
                ..Envelope::default()
            })
            .unwrap();
        queue
            .push(Envelope {
                id: 2,
                priority: 77,
                ..Envelope::default()
            })
            .unwrap();
        queue.push(envelope(3, Priority::Room)).unwrap();
        assert_eq!(drain(&mut queue), [3, 1, 2]);
    }
}
