//! Making room: whose connection ends when what all share has run short, so that others find a place.
//!
//! Two things can be used up by those who only begin: places for unfinished handshakes, and the bytes of unfinished
//! records and frames. Neither is refused to newcomers while somebody sits on his part in silence: of those who have for
//! longest, the one ends whose address, or who himself, holds most.
//!
//! What bounds each session and each address by itself is elsewhere; this is for when many of them act together.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use super::connection::Connection;
use super::reactor::Reactor;
use super::slots::{Place, Slots};
use crate::session::Fault;

/// Of so many that have waited for longest the one to end is chosen.
const CANDIDATES_MAX: usize = 32;

/// Places in a line that are looked at for them; those that have left it are among these.
const LOOKED_AT_MAX: usize = 256;

/// A client whose turn it has been for this long, in milliseconds, may have to make room for others: twice what the
/// slowest networks take to answer.
const SILENT_MS: u64 = 1_000;

/// An address that holds this many times as many places as the newcomer's makes room at once.
const GREEDY_TIMES: u32 = 4;

/// Below so many places a line is not tidied up.
const TIDY_MIN: usize = 256;

/// Connections in the order in which they joined, each with the number it was given. Who leaves is dropped when met, or
/// when the line is tidied up.
#[derive(Debug)]
pub(super) struct Line {
    places: VecDeque<(Place, u32)>,
    last_number: u32,
    tidy_at: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            places: VecDeque::new(),
            last_number: 0,
            tidy_at: TIDY_MIN,
        }
    }
}

impl Line {
    /// Joins at the end; gives its number, which is never 0. `stands` says who still stands here under his number.
    fn join(&mut self, place: Place, mut stands: impl FnMut(Place, u32) -> bool) -> u32 {
        if self.places.len() >= self.tidy_at {
            self.places.retain(|(place, number)| stands(*place, *number));
            self.tidy_at = TIDY_MIN.max(2 * self.places.len());
        }
        self.last_number = self.last_number.checked_add(1).unwrap_or(1);
        self.places.push_back((place, self.last_number));
        self.last_number
    }

    /// Some of those who stand here longest, the longest first.
    fn longest(&mut self, mut stands: impl FnMut(Place, u32) -> bool) -> Vec<Place> {
        while self
            .places
            .front()
            .is_some_and(|(place, number)| !stands(*place, *number))
        {
            self.places.pop_front();
        }
        let looked_at = self.places.iter().take(LOOKED_AT_MAX);
        looked_at
            .filter(|(place, number)| stands(*place, *number))
            .map(|(place, _)| *place)
            .take(CANDIDATES_MAX)
            .collect()
    }
}

/// Whether the next step of this handshake is the client's, and nothing of it has come.
fn is_silent(connection: &Connection) -> bool {
    connection.ticket.is_some() && !connection.readable && connection.session.is_unfinished()
}

/// Whether it is somebody in a handshake.
fn is_stranger(slots: &mut Slots<Connection>, place: Place) -> bool {
    slots
        .at(place)
        .is_some_and(|connection| connection.ticket.is_some() && connection.session.is_unfinished())
}

/// Whether it has held bytes of something unfinished ever since it was given this number.
fn is_holder(slots: &mut Slots<Connection>, place: Place, number: u32) -> bool {
    slots
        .at(place)
        .is_some_and(|connection| connection.holder_number == number && connection.session.held() > 0)
}

/// Whether only its end is waited for.
fn is_leaving(slots: &mut Slots<Connection>, place: Place) -> bool {
    slots
        .at(place)
        .is_some_and(|connection| connection.is_lingering())
}

impl Reactor {
    /// A handshake has begun here.
    pub(super) fn note_stranger(&mut self, place: Place) {
        let slots = &mut self.slots;
        self.strangers.join(place, |place, _| is_stranger(slots, place));
    }

    /// Only the end of this one is waited for.
    pub(super) fn note_leaving(&mut self, place: Place) {
        let slots = &mut self.slots;
        self.leaving.join(place, |place, _| is_leaving(slots, place));
    }

    /// After an input: who has begun to hold bytes joins the line, and who has finished leaves it.
    pub(super) fn note_holder(&mut self, place: Place) {
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        let holds = connection.session.held() > 0;
        if holds == (connection.holder_number != 0) {
            return;
        }
        connection.holder_number = 0;
        if !holds {
            return;
        }
        let slots = &mut self.slots;
        let number = self
            .holders
            .join(place, |place, number| is_holder(slots, place, number));
        if let Some(connection) = self.slots.at(place) {
            connection.holder_number = number;
        }
    }

    /// All places for connections or for handshakes are taken: ends the one that can best be spared for `newcomer`. Says
    /// whether there is a place now.
    pub(super) fn make_room_for(&mut self, newcomer: SocketAddr) -> bool {
        let slots = &mut self.slots;
        if self.shared.connections.load(Relaxed) > self.shared.limits.connections_max
            && let Some(place) = self.leaving.longest(|place, _| is_leaving(slots, place)).first()
        {
            self.end(*place, "made_room");
            return true;
        }
        let now_ms = self.tools.now.monotonic_ms;
        let addresses = &self.shared.addresses;
        let bearable = GREEDY_TIMES.saturating_mul(addresses.unfinished_of(newcomer.ip()).saturating_add(1));
        let slots = &mut self.slots;
        let longest = self.strangers.longest(|place, _| is_stranger(slots, place));
        let mut chosen: Option<(u32, Place)> = None;
        for place in longest {
            let Some(connection) = self.slots.at(place).filter(|it| is_silent(it)) else {
                continue;
            };
            let Some(since_ms) = connection.session.awaited_since_ms(&self.tools.limits) else {
                continue;
            };
            let Some(ticket) = &connection.ticket else {
                continue;
            };
            let held = ticket.unfinished_of_address();
            let may_go = now_ms.saturating_sub(since_ms) >= SILENT_MS || held >= bearable;
            if may_go && chosen.is_none_or(|(most, _)| held > most) {
                chosen = Some((held, place));
            }
        }
        let Some((_, place)) = chosen else { return false };
        self.end_for_others(place);
        true
    }

    /// The bytes of unfinished things have run short: ends those that can best be spared until they have not.
    pub(super) fn relieve_held(&mut self) {
        while self.tools.held.is_short() {
            let slots = &mut self.slots;
            let longest = self
                .holders
                .longest(|place, number| is_holder(slots, place, number));
            let largest = longest
                .into_iter()
                .filter_map(|place| Some((self.slots.at(place)?.session.held(), place)))
                // Of equals the one who stands there longest.
                .reduce(|most, next| if next.0 > most.0 { next } else { most });
            let Some((_, place)) = largest else { return };
            self.end_for_others(place);
        }
    }

    /// Tells the client, if the kernel takes it at once, and ends.
    fn end_for_others(&mut self, place: Place) {
        self.with(place, |session, cx| session.handle_fault(cx, Fault::MadeRoom));
        self.flush_one(place);
        self.end(place, "made_room");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slot: u32) -> Place {
        Place { slot, generation: 1 }
    }

    #[test]
    fn who_stands_longest_comes_first_and_who_has_left_is_not_met() {
        let mut line = Line::default();
        for slot in 0..10 {
            line.join(place(slot), |_, _| true);
        }
        let odd = |place: Place, _| place.slot % 2 == 1;
        let longest: Vec<u32> = line.longest(odd).iter().map(|place| place.slot).collect();
        assert_eq!(longest, [1, 3, 5, 7, 9]);
        assert_eq!(line.places.len(), 9, "what has left the front is dropped");
    }

    #[test]
    fn a_line_that_nobody_stands_in_for_long_stays_short() {
        let mut line = Line::default();
        for slot in 0..100_000 {
            line.join(place(slot), |stands, _| stands.slot + 10 > slot);
        }
        assert!(line.places.len() <= TIDY_MIN, "{}", line.places.len());
    }

    #[test]
    fn who_comes_back_stands_at_the_end() {
        let mut line = Line::default();
        let first = line.join(place(1), |_, _| true);
        let second = line.join(place(2), |_, _| true);
        let again = line.join(place(1), |_, _| true);
        let numbers = [again, second];
        assert!(!numbers.contains(&first));
        let longest = line.longest(|_, number| numbers.contains(&number));
        assert_eq!(longest, [place(2), place(1)]);
    }
}
