//! Messages to rooms, as one member's session sees them: untracked, droppable, and never in the way of anything else.

use crate::engine::RoomFrame;

use super::{Context, Session};

/// Of the bytes that may wait for a client before its pushes collapse, what messages to rooms may take: one part in four.
/// Who is further behind than that does not get them.
const SHARE_OF_QUEUE: usize = 4;

/// What became of a message to a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoomPush {
    /// It is sealed, and must be written now; what cannot be goes to [`Session::handle_unwritten`].
    Sealed,
    /// It waits for the client.
    Queued,
    /// Dropped: the client has too much to read already, or all clients together have.
    Behind,
    /// Dropped: longer than the client takes.
    TooLarge,
    /// Dropped: the session is ending.
    Gone,
}

impl Session {
    /// A message for a room that this session is in. One that has read everything, and whose socket is `writable`, gets it
    /// sealed into `out`.
    pub(crate) fn handle_room_push(
        &mut self,
        cx: &mut Context<'_>,
        frame: &RoomFrame,
        writable: bool,
        out: &mut Vec<u8>,
    ) -> RoomPush {
        let Self::Ready(state) = self else {
            return RoomPush::Gone;
        };
        let talk = &mut state.live.talk;
        if !talk.fits(frame.payload_len) {
            return RoomPush::TooLarge;
        }
        if writable && talk.outbound.is_empty() {
            talk.outbound.seal_now(&frame.encoded, out);
            return RoomPush::Sealed;
        }
        let owed_max = cx.limits.outbound_collapse_bytes / SHARE_OF_QUEUE;
        let now_ms = cx.now.monotonic_ms;
        if !talk
            .outbound
            .offer_droppable(&frame.frame, owed_max, cx.owed, cx.spares, now_ms)
        {
            return RoomPush::Behind;
        }
        talk.note_owing(now_ms);
        RoomPush::Queued
    }

    /// Of what was just sealed the socket did not take this.
    pub(crate) fn handle_unwritten(&mut self, cx: &mut Context<'_>, unsent: &[u8]) {
        let now_ms = cx.now.monotonic_ms;
        if let Self::Ready(state) = self {
            state.live.talk.outbound.keep(unsent, cx.owed, cx.spares, now_ms);
            state.live.talk.note_owing(now_ms);
        }
    }
}
