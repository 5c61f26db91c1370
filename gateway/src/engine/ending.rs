//! The end of a connection: our last word and a little patience for it, the user's entry, the slot.

use std::sync::atomic::Ordering::Relaxed;

use super::reactor::Reactor;
use super::slots::Place;
use super::users;

/// For how long a peer's end is waited for after our last word, in milliseconds: a round trip of a slow network.
const LINGER_MS: u64 = 1_000;

impl Reactor {
    /// Everything is said: waits a little for the peer's end, so that it can read our last word.
    pub(super) fn take_leave(&mut self, place: Place) {
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        if connection.is_lingering() {
            if self.stop_at_ms.is_some() {
                self.end(place, "over");
            }
            return;
        }
        if !connection.session.has_said_why() || connection.read_closed || self.stop_at_ms.is_some() {
            let _unread = connection.read(&mut self.read_buffer);
            return self.end(place, "over");
        }
        if connection.registered {
            self.leave(place);
        }
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        connection.linger();
        connection.ticket = None;
        connection.armed = super::wheel::Tick::NEVER;
        let until_ms = self.tools.now.monotonic_ms.saturating_add(LINGER_MS);
        self.wheel.arm(place, until_ms, &mut connection.armed);
        self.note_leaving(place);
        self.enqueue(place);
    }

    /// A registered session is not one any more: its user's entry goes, and the registry is told.
    pub(super) fn leave(&mut self, place: Place) {
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        connection.registered = false;
        self.rooms.end(place);
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        if let Some(identity) = connection.session.identity() {
            self.users
                .remove(identity.app(), identity.user_id, users::Session::Local(place));
            self.upstream
                .ended(self.shared.record(identity, self.index, place));
        }
        self.shared.sessions.fetch_sub(1, Relaxed);
    }

    /// Drops a connection and everything that is its.
    pub(super) fn end(&mut self, place: Place, why: &'static str) {
        if self
            .slots
            .at(place)
            .is_some_and(|connection| connection.registered)
        {
            self.leave(place);
        }
        let Some(mut connection) = self.slots.remove(place) else {
            return;
        };
        // Whoever replays a hello and hangs up at the answer has cost as much as one who stays silent.
        if connection.session.owes_confirm()
            && let Some(ticket) = &connection.ticket
        {
            ticket.fail();
        }
        connection.session.release(&mut self.tools.lend());
        self.shared.connections.fetch_sub(1, Relaxed);
        tracing::trace!(reactor = self.index, slot = place.slot, why, "connection ends");
    }
}
