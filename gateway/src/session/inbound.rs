//! From bytes to frames: cuts records, opens them in place, and keeps what is unfinished within bounds.
//!
//! PERFORMANCE: on the way of every message. A burst expands the key once; a record that arrived whole is never copied.

use whimbrel_protocol::Side;
use whimbrel_protocol::frame::{FrameReader, FrameView};
use whimbrel_protocol::record::{DirectionKey, RecordStep, next_record};
use whimbrel_protocol::suite::Suite;
use whimbrel_protocol::timing;

use super::budget::Budget;
use super::fault::Fault;

/// The receiving half of an encrypted session. What it holds is the client's, a token perhaps: `Debug` shows how much.
pub(crate) struct Inbound {
    key: DirectionKey,
    suite: Suite,
    frames: FrameReader,
    /// The beginning of a record whose end has not come.
    partial: Vec<u8>,
    /// Bytes of the shared budget that `partial` and the frame reader hold.
    taken: usize,
    heard_at_ms: u64,
    record_since_ms: Option<u64>,
    frame_since_ms: Option<u64>,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound")
            .field("suite", &self.suite)
            .field("partial_bytes", &self.partial.len())
            .field("held_bytes", &self.taken)
            .field("heard_at_ms", &self.heard_at_ms)
            .field("deadline_ms", &self.deadline_ms())
            .finish_non_exhaustive()
    }
}

impl Inbound {
    /// Ready for the peer's first record.
    pub(crate) fn new(key: DirectionKey, suite: Suite, now_ms: u64) -> Self {
        Self {
            key,
            suite,
            frames: FrameReader::new(),
            partial: Vec::new(),
            taken: 0,
            heard_at_ms: now_ms,
            record_since_ms: None,
            frame_since_ms: None,
        }
    }

    /// The bytes that belong before those read next; they are the caller's to put there.
    pub(crate) fn take_partial(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// Opens every whole record in `bytes` and hands each frame to `on_frame`; keeps the rest.
    ///
    /// # Errors
    /// With the first thing that cannot be: nothing behind it is looked at.
    pub(crate) fn handle(
        &mut self,
        now_ms: u64,
        held: &Budget,
        bytes: &mut [u8],
        mut on_frame: impl FnMut(FrameView<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut rest = bytes;
        let mut whole_records = false;
        let mut whole_frames = false;
        if let RecordStep::Complete { .. } = next_record(rest, Side::Client)? {
            let mut opener = self.key.opener(self.suite);
            while let RecordStep::Complete { len } = next_record(rest, Side::Client)? {
                let (record, behind) = rest.split_at_mut(len);
                let range = opener.open_in_place(record)?;
                let mut plaintext = &record[range];
                while let Some(frame) = self.frames.next(&mut plaintext)? {
                    whole_frames = true;
                    on_frame(frame)?;
                }
                whole_records = true;
                rest = behind;
            }
            self.heard_at_ms = now_ms;
        }
        self.partial = rest.to_vec();
        note_unfinished(
            &mut self.record_since_ms,
            !self.partial.is_empty(),
            whole_records,
            now_ms,
        );
        note_unfinished(
            &mut self.frame_since_ms,
            !self.frames.is_between_frames(),
            whole_frames,
            now_ms,
        );
        self.count(held)
    }

    /// Brings what the budget was charged in line with what is held.
    fn count(&mut self, held: &Budget) -> Result<(), Fault> {
        let holds = if self.frames.is_between_frames() {
            0
        } else {
            self.frames.allocated_bytes()
        };
        let holds = holds.saturating_add(self.partial.capacity());
        if holds < self.taken {
            held.give(self.taken - holds);
        } else if !held.try_take(holds - self.taken) {
            return Err(Fault::OutOfMemoryBudget);
        }
        self.taken = holds;
        Ok(())
    }

    /// Bytes of the shared budget that it holds.
    pub(crate) fn held(&self) -> usize {
        self.taken
    }

    /// When something authentic last came.
    pub(crate) fn heard_at_ms(&self) -> u64 {
        self.heard_at_ms
    }

    /// When what has begun must have ended.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let since = self
            .record_since_ms
            .into_iter()
            .chain(self.frame_since_ms)
            .min()?;
        Some(since.saturating_add(timing::PARTIAL_MAX_MS))
    }

    /// Gives back what the budget was charged; nothing may be handed in afterwards.
    pub(crate) fn release(&mut self, held: &Budget) {
        held.give(std::mem::take(&mut self.taken));
        self.partial = Vec::new();
        self.record_since_ms = None;
        self.frame_since_ms = None;
    }
}

/// Keeps the time at which the thing that is unfinished now began.
fn note_unfinished(since_ms: &mut Option<u64>, unfinished: bool, one_ended: bool, now_ms: u64) {
    *since_ms = match *since_ms {
        _ if !unfinished => None,
        Some(since) if !one_ended => Some(since),
        _ => Some(now_ms),
    };
}
