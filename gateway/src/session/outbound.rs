//! From frames to bytes: what waits for the client, unsealed until it can be written.
//!
//! PERFORMANCE: on the way of every message. Frames share payloads by reference; a burst expands the key once and seals
//! into the reactor's buffer. A sealed record is never dropped: what the socket did not take is kept, and goes first.

use std::collections::VecDeque;

use bytes::Bytes;
use whimbrel_protocol::frame::Frame;
use whimbrel_protocol::record::DirectionKey;
use whimbrel_protocol::suite::Suite;

use super::acks::Acks;
use super::budget::Budget;
use super::limits::{self, BURST_PLAINTEXT_MAX, FRAME_COST, RECORD_PLAINTEXT_TARGET, SessionLimits};

/// Queues kept for reuse by a reactor: as many sessions as are commonly written to in one turn.
const SPARE_QUEUES_MAX: usize = 256;

/// A queue with room for more frames than this is not kept for reuse.
const SPARE_QUEUE_FRAMES_MAX: usize = 64;

/// Sealed bytes a spare queue may still have room for.
const SPARE_UNSENT_BYTES_MAX: usize = 4 * 1024;

/// Drained queues, so that a busy session does not allocate for every message and an idle one owns no queue at all.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "sessions hold a pointer, and give it back as it is"
)]
pub(crate) struct SpareQueues(Vec<Box<Queue>>);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    frames: VecDeque<Frame>,
    frames_cost: usize,
    /// Sealed, or plain before there were keys; `unsent[unsent_from..]` is still to be written.
    unsent: Vec<u8>,
    unsent_from: usize,
    hinted: bool,
    collapsed_at_ms: Option<u64>,
    progress_at_ms: u64,
    /// Since when something has been waiting without a break.
    since_ms: u64,
}

impl Queue {
    fn owed(&self) -> usize {
        self.frames_cost
            .saturating_add(self.unsent.len())
            .saturating_sub(self.unsent_from)
    }
}

/// The sending half of an encrypted session.
#[derive(Debug)]
pub(crate) struct Outbound {
    key: DirectionKey,
    suite: Suite,
    queue: Option<Box<Queue>>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It waits for the client.
    Queued,
    /// The client is told to sync instead.
    Collapsed,
}

impl Outbound {
    /// Nothing to send yet.
    pub(crate) fn new(key: DirectionKey, suite: Suite) -> Self {
        Self {
            key,
            suite,
            queue: None,
        }
    }

    /// Bytes that wait, counted as the bounds count them.
    pub(crate) fn owed(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.owed())
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_none()
    }

    fn queue(&mut self, spares: &mut SpareQueues, now_ms: u64) -> &mut Queue {
        self.queue.get_or_insert_with(|| {
            let mut queue = spares.0.pop().unwrap_or_default();
            queue.progress_at_ms = now_ms;
            queue.since_ms = now_ms;
            queue
        })
    }

    /// Queues what must be said: answers and control.
    pub(crate) fn send(&mut self, frame: Frame, owed: &Budget, spares: &mut SpareQueues, now_ms: u64) {
        let cost = cost(&frame);
        owed.take(cost);
        let queue = self.queue(spares, now_ms);
        queue.frames_cost += cost;
        queue.frames.push_back(frame);
    }

    /// Queues bytes that are not a record: the answer to a hello.
    pub(crate) fn send_plain(
        &mut self,
        bytes: Vec<u8>,
        owed: &Budget,
        spares: &mut SpareQueues,
        now_ms: u64,
    ) {
        owed.take(bytes.len());
        let queue = self.queue(spares, now_ms);
        debug_assert!(
            queue.owed() == 0,
            "the answer to a hello comes before anything else"
        );
        queue.unsent = bytes;
        queue.unsent_from = 0;
    }

    /// Queues a push, or, when the session's or the gateway's bound is hit, drops all that wait for one SYNC_HINT.
    pub(crate) fn offer(
        &mut self,
        push: Frame,
        limits: &SessionLimits,
        owed: &Budget,
        spares: &mut SpareQueues,
        now_ms: u64,
    ) -> Offered {
        if self.queue.as_ref().is_some_and(|queue| queue.hinted) {
            return Offered::Collapsed;
        }
        let cost = cost(&push);
        let fits = self.owed().saturating_add(cost) <= limits.outbound_collapse_bytes;
        // Whoever has not read the last one yet leaves the rest of the room to those who have.
        let taken = fits
            && match &self.queue {
                Some(_) => owed.try_take_of_half(cost),
                None => owed.try_take(cost),
            };
        if !taken {
            self.collapse(owed, spares, now_ms);
            return Offered::Collapsed;
        }
        let queue = self.queue(spares, now_ms);
        queue.frames_cost += cost;
        queue.frames.push_back(push);
        Offered::Queued
    }

    /// Queues a push that nobody misses much, if the client is not behind: it may take no more than `owed_max` of what
    /// the session's own pushes may, so that it never costs one of these its place.
    pub(crate) fn offer_droppable(
        &mut self,
        push: &Frame,
        owed_max: usize,
        owed: &Budget,
        spares: &mut SpareQueues,
        now_ms: u64,
    ) -> bool {
        let is_behind = self
            .queue
            .as_ref()
            .is_some_and(|queue| queue.hinted || queue.collapsed_at_ms.is_some());
        let cost = cost(push);
        if is_behind || self.owed().saturating_add(cost) > owed_max || !owed.try_take_of_half(cost) {
            return false;
        }
        let queue = self.queue(spares, now_ms);
        queue.frames_cost += cost;
        queue.frames.push_back(push.clone());
        true
    }

    /// Appends an encoded frame to `out` as records of its own. Nothing may wait before it.
    pub(crate) fn seal_now(&mut self, encoded: &[u8], out: &mut Vec<u8>) {
        debug_assert!(self.is_empty(), "what waits goes first");
        self.key
            .sealer(self.suite)
            .seal(encoded, RECORD_PLAINTEXT_TARGET, out)
            .expect("a session ends long before 2^48 records");
    }

    /// Keeps sealed bytes that the socket did not take: they go first.
    pub(crate) fn keep(&mut self, unsent: &[u8], owed: &Budget, spares: &mut SpareQueues, now_ms: u64) {
        owed.take(unsent.len());
        self.queue(spares, now_ms).unsent.extend_from_slice(unsent);
    }

    /// Drops all pushes that wait and asks the client to sync instead: at once, for only it is behind.
    pub(crate) fn collapse(&mut self, owed: &Budget, spares: &mut SpareQueues, now_ms: u64) {
        let queue = self.queue(spares, now_ms);
        let mut freed = 0;
        queue.frames.retain(|frame| {
            let keep = !matches!(frame, Frame::Push(_));
            freed += if keep { 0 } else { cost(frame) };
            keep
        });
        queue.frames_cost -= freed;
        owed.give(freed);
        queue.collapsed_at_ms.get_or_insert(now_ms);
        self.hint(0, owed, spares, now_ms);
    }

    /// Asks the client to sync within `spread_ms`, once for all that is missed until the hint is on its way.
    pub(crate) fn hint(&mut self, spread_ms: u32, owed: &Budget, spares: &mut SpareQueues, now_ms: u64) {
        if !self.queue(spares, now_ms).hinted {
            self.send(Frame::SyncHint { spread_ms }, owed, spares, now_ms);
            self.queue(spares, now_ms).hinted = true;
        }
    }

    /// Drops everything that is not sealed: a CLOSE follows.
    pub(crate) fn drop_unsealed(&mut self, owed: &Budget) {
        if let Some(queue) = &mut self.queue {
            owed.give(std::mem::take(&mut queue.frames_cost));
            queue.frames.clear();
            queue.hinted = false;
        }
    }

    /// Appends the next burst to `out`: first what the socket did not take, then newly sealed records. `plaintext` is
    /// scratch. Everything appended must be written or given to [`Outbound::handle_written`].
    pub(crate) fn poll(
        &mut self,
        acks: &mut Acks,
        plaintext: &mut Vec<u8>,
        owed: &Budget,
        out: &mut Vec<u8>,
    ) {
        let Some(queue) = &mut self.queue else { return };
        out.extend_from_slice(&queue.unsent[queue.unsent_from..]);
        owed.give(queue.unsent.len() - queue.unsent_from);
        queue.unsent.clear();
        queue.unsent_from = 0;
        if out.len() >= BURST_PLAINTEXT_MAX || queue.frames.is_empty() {
            return;
        }
        plaintext.clear();
        while let Some(frame) = queue.frames.front() {
            if !plaintext.is_empty() && plaintext.len() + frame_len_max(frame) > BURST_PLAINTEXT_MAX {
                break;
            }
            frame
                .encode(plaintext)
                .expect("only frames within their bounds are queued");
            match frame {
                Frame::Push(push) if push.tracked => acks.handle_sent(),
                Frame::SyncHint { .. } => queue.hinted = false,
                _ => {}
            }
            let cost = cost(frame);
            queue.frames_cost -= cost;
            owed.give(cost);
            queue.frames.pop_front();
        }
        self.key
            .sealer(self.suite)
            .seal(plaintext, RECORD_PLAINTEXT_TARGET, out)
            .expect("a session ends long before 2^48 records");
    }

    /// `burst` was polled and `written` bytes of it were taken by the socket.
    pub(crate) fn handle_written(
        &mut self,
        burst: &[u8],
        written: usize,
        owed: &Budget,
        spares: &mut SpareQueues,
        now_ms: u64,
    ) {
        let Some(queue) = &mut self.queue else { return };
        let rest = &burst[written..];
        owed.take(rest.len());
        queue.unsent.extend_from_slice(rest);
        if written > 0 {
            queue.progress_at_ms = now_ms;
        }
        if rest.is_empty() && queue.frames.is_empty() {
            spares.keep(self.queue.take());
        }
    }

    /// Whether the client has been behind for longer than one may be when room is short.
    pub(crate) fn is_behind(&self, now_ms: u64) -> bool {
        self.queue
            .as_ref()
            .is_some_and(|queue| now_ms.saturating_sub(queue.since_ms) >= limits::BEHIND_MAX_MS)
    }

    /// When the client must have taken something, or all.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let queue = self.queue.as_ref()?;
        let stalled = queue.progress_at_ms.saturating_add(limits::STALL_MAX_MS);
        let undrained = queue
            .collapsed_at_ms
            .map(|at| at.saturating_add(limits::DRAIN_WITHIN_MS));
        Some(undrained.map_or(stalled, |undrained| undrained.min(stalled)))
    }

    /// Gives back what the budget was charged.
    pub(crate) fn release(&mut self, owed: &Budget, spares: &mut SpareQueues) {
        owed.give(self.owed());
        spares.keep(self.queue.take());
    }
}

impl SpareQueues {
    fn keep(&mut self, queue: Option<Box<Queue>>) {
        let Some(mut queue) = queue else { return };
        if self.0.len() >= SPARE_QUEUES_MAX || queue.frames.capacity() > SPARE_QUEUE_FRAMES_MAX {
            return;
        }
        queue.frames.clear();
        queue.frames_cost = 0;
        queue.unsent.clear();
        queue.unsent.shrink_to(SPARE_UNSENT_BYTES_MAX);
        queue.unsent_from = 0;
        queue.hinted = false;
        queue.collapsed_at_ms = None;
        self.0.push(queue);
    }
}

fn payload(frame: &Frame) -> Option<&Bytes> {
    match frame {
        Frame::Response(response) => Some(&response.payload),
        Frame::Push(push) => Some(&push.payload),
        _ => None,
    }
}

fn cost(frame: &Frame) -> usize {
    FRAME_COST + payload(frame).map_or(0, Bytes::len)
}

fn frame_len_max(frame: &Frame) -> usize {
    whimbrel_protocol::frame::HEAD_LEN_MAX + 4 + payload(frame).map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_protocol::frame::Push;

    fn outbound() -> Outbound {
        Outbound::new(DirectionKey::from_parts([7; 32], 0), Suite::AesGcm)
    }

    fn push(len: usize) -> Frame {
        Frame::Push(Push {
            method: 1,
            tracked: true,
            compressed: false,
            payload: Bytes::from(vec![0; len]),
        })
    }

    #[test]
    fn pushes_over_the_bound_become_one_hint_and_give_their_bytes_back() {
        let (owed, mut spares, mut outbound) = (Budget::new(1 << 20), SpareQueues::default(), outbound());
        let limits = SessionLimits {
            outbound_collapse_bytes: 10_000,
            ..SessionLimits::default()
        };
        let mut offer = |len| outbound.offer(push(len), &limits, &owed, &mut spares, 5);
        assert_eq!(offer(4_000), Offered::Queued);
        assert_eq!(offer(4_000), Offered::Queued);
        assert_eq!(offer(4_000), Offered::Collapsed);
        assert_eq!(
            offer(10),
            Offered::Collapsed,
            "the hint covers what comes before it is sent"
        );
        assert_eq!(owed.used(), FRAME_COST);
        assert_eq!(outbound.deadline_ms(), Some(5 + limits::DRAIN_WITHIN_MS));
    }

    #[test]
    fn every_byte_charged_is_given_back_however_writes_end() {
        let (owed, mut spares, mut outbound) = (Budget::new(1 << 20), SpareQueues::default(), outbound());
        let (mut acks, mut plaintext, limits) = (Acks::default(), Vec::new(), SessionLimits::default());
        for len in [10, 5_000, 65_536, 3] {
            outbound.offer(push(len), &limits, &owed, &mut spares, 0);
        }
        let mut turns = 0;
        while !outbound.is_empty() {
            let mut burst = Vec::new();
            outbound.poll(&mut acks, &mut plaintext, &owed, &mut burst);
            let written = burst.len().min(7_000);
            outbound.handle_written(&burst, written, &owed, &mut spares, turns);
            assert_eq!(owed.used(), outbound.owed());
            turns += 1;
        }
        assert_eq!(owed.used(), 0);
        assert!(turns > 9, "{turns}");
        outbound.offer(push(9), &limits, &owed, &mut spares, 0);
        outbound.release(&owed, &mut spares);
        assert_eq!(owed.used(), 0);
    }
}
