//! Reading: whose turn it is, how much of a turn a connection may take, and what is read behind our last word.
//!
//! PERFORMANCE: nothing here waits, locks, or allocates per message.

use super::connection::Moved;
use super::reactor::Reactor;
use super::slots::Place;

/// Bytes read from one connection in its turn: one record of the largest size. The work that lies in them is bounded by
/// it: some thousand of the smallest frames.
pub(super) const READ_BYTES: usize = 17 * 1024;

/// Room for what was left of the last read: at most one record less a byte.
pub(super) const PARTIAL_BYTES: usize = 20 * 1024;

/// Connections read in a turn.
pub(super) const READS_PER_TURN: usize = 256;

/// What reading may cost in a turn, in frames: some 4 ms. Whoever is not read yet stays at the head of the list.
pub(super) const WORK_PER_TURN: u32 = 16 * 1024;

/// What a connection's turn may cost, in frames, before it is read after all others: a hundred times what one that chats
/// sends at once.
const GREEDY_WORK: u32 = 512;

/// So many reads a connection is read after all others, though they bring little: what a flood brings comes unevenly.
const GREEDY_READS: u8 = 16;

/// What reading from those may cost in a turn, in frames: some 1 ms.
const GREEDY_WORK_PER_TURN: u32 = 4 * 1024;

/// What reading once costs before a frame is looked at, in frames: the system call.
const READ_WORK: u32 = 8;

/// Bytes that cost as much as a frame: opening them.
const BYTES_PER_WORK: u32 = 512;

/// Hellos opened and logins answered in a turn: each is up to 50 us of elliptic curves.
pub(super) const HANDSHAKES_PER_TURN: usize = 10;

impl Reactor {
    /// Puts a connection on the list of those to be read, if there is something to read and somebody to take it.
    pub(super) fn enqueue(&mut self, place: Place) {
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        let wanted = connection.is_lingering() || connection.session.wants_bytes(&self.tools.limits);
        if connection.in_ready || !connection.readable || !wanted {
            return;
        }
        connection.in_ready = true;
        if connection.session.is_unfinished() {
            self.hellos.push_back(place);
        } else if connection.greed > 0 {
            self.greedy.push_back(place);
        } else {
            self.ready.push_back(place);
        }
    }

    pub(super) fn read_some(&mut self) {
        // Who turns out to be greedy in this turn has had it.
        let greedy = self.greedy.len();
        for _ in 0..READS_PER_TURN.min(self.ready.len()) {
            if self.tools.work >= WORK_PER_TURN {
                break;
            }
            let Some(place) = self.ready.pop_front() else {
                break;
            };
            self.read_one(place);
        }
        let most = self.tools.work.saturating_add(GREEDY_WORK_PER_TURN);
        for _ in 0..greedy {
            if self.tools.work >= most {
                return;
            }
            let Some(place) = self.greedy.pop_front() else {
                return;
            };
            self.read_one(place);
        }
    }

    /// Hellos, judged logins and confirmations: what costs elliptic curves is counted.
    pub(super) fn shake_hands(&mut self) {
        for _ in 0..HANDSHAKES_PER_TURN {
            let mut any = false;
            if let Some((place, result)) = self.judged.pop_front() {
                any = true;
                self.rounds.note_step();
                self.with(place, |session, cx| session.handle_authenticated(cx, result));
            }
            if let Some(place) = self.hellos.pop_front() {
                any = true;
                self.rounds.note_step();
                self.read_one(place);
            }
            if !any {
                return;
            }
        }
    }

    /// Handshakes whose next step could be taken now.
    pub(super) fn handshakes_waiting(&self) -> usize {
        self.hellos.len() + self.judged.len()
    }

    fn read_one(&mut self, place: Place) {
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        connection.in_ready = false;
        if connection.is_lingering() {
            return self.linger_on(place);
        }
        if !connection.readable || !connection.session.wants_bytes(&self.tools.limits) {
            return;
        }
        let partial = connection.session.take_partial();
        let start = partial.len();
        self.read_buffer[..start].copy_from_slice(&partial);
        drop(partial);
        let moved = connection.read(&mut self.read_buffer[start..start + READ_BYTES]);
        let len = match moved {
            Moved::Bytes(read) => start + read,
            Moved::Blocked => start,
            Moved::Gone => return self.end(place, "peer_gone"),
        };
        let work_before = self.tools.work;
        if len > 0 {
            connection
                .session
                .handle_bytes(&mut self.tools.lend(), &mut self.read_buffer[..len]);
        }
        let opened = u32::try_from(len).unwrap_or(u32::MAX) / BYTES_PER_WORK;
        self.tools.work = self.tools.work.saturating_add(READ_WORK + opened);
        connection.greed = if self.tools.work - work_before > GREEDY_WORK {
            GREEDY_READS
        } else {
            connection.greed.saturating_sub(1)
        };
        self.after(place);
        self.note_holder(place);
    }

    /// What comes after our last word is thrown away, up to the peer's end.
    fn linger_on(&mut self, place: Place) {
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        self.tools.work = self.tools.work.saturating_add(READ_WORK);
        match connection.read(&mut self.read_buffer) {
            Moved::Bytes(_) => {
                connection.lingers_reads -= 1;
                if !connection.is_lingering() {
                    return self.end(place, "over");
                }
                self.enqueue(place);
            }
            Moved::Blocked => {}
            Moved::Gone => self.end(place, "over"),
        }
    }
}
