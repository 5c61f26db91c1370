//! What a reactor does when it is told to from outside: new keys, closing, announcing, draining, stopping.
//!
//! What concerns every session is done some slots at a time, so that it never stands before anybody's message.

use super::message::Order;
use super::pushes::place_of;
use super::reactor::Reactor;
use super::slots::Place;
use crate::session::Fault;

/// Connections asked to leave, or announced, in a turn.
const WALK_PER_TURN: u32 = 256;

/// Sessions in one announcement to the registry.
const ANNOUNCE_MAX: usize = 500;

/// Within so many milliseconds all reactors of all gateways begin to announce: when a registry returns that has lost everything
/// they all see it at the same moment.
const ANNOUNCE_SPREAD_MS: u64 = 500;

/// After an announcement that failed, in milliseconds.
const ANNOUNCE_AGAIN_MS: u64 = 1_000;

/// How long the clients of re-announced sessions may spread their syncs, in milliseconds: a gateway's worth of syncs at
/// once would be a storm of its own, and a few need not wait for one another.
const RESYNC_SPREAD_MS: std::ops::RangeInclusive<usize> = 500..=10_000;

/// Syncs a second of the sessions of one reactor, within that.
const RESYNCS_PER_S: usize = 1_000;

/// What is left unwritten this long after the order to stop is dropped, in milliseconds.
const STOP_WITHIN_MS: u64 = 1_000;

/// Sessions that are being announced to a registry that lost them.
#[derive(Debug, Default)]
pub(super) struct Announcement {
    /// The first slot that is not announced yet, while there is one.
    next: Option<u32>,
    /// After a failure.
    not_before_ms: u64,
    /// One chunk is on its way; the next waits for it.
    under_way: bool,
}

impl Announcement {
    /// When there is something to do about it.
    pub(super) fn due_at_ms(&self) -> Option<u64> {
        (self.next.is_some() && !self.under_way).then_some(self.not_before_ms)
    }
}

impl Reactor {
    pub(super) fn take_orders(&mut self) {
        while let Ok(order) = self.inbox.orders.try_recv() {
            match order {
                Order::Keys(keys) => self.tools.keys = keys,
                Order::Close { targets, reason } => {
                    for target in targets {
                        self.with(place_of(&target), |session, cx| {
                            let theirs = session.identity().is_some_and(|who| who.may_be(target.user_id));
                            if theirs {
                                session.handle_fault(cx, Fault::Ordered { reason });
                            }
                        });
                    }
                }
                Order::Announce => {
                    self.announcement.next = Some(0);
                    let turn = spread_ms(self.shared.incarnation.0, self.index);
                    self.announcement.not_before_ms = self.tools.now.monotonic_ms + turn;
                }
                Order::Drain { window_ms } => {
                    self.listener = None;
                    self.accept_ready = false;
                    self.accept_again_at_ms = None;
                    self.draining_window_ms = Some(window_ms);
                    self.drain_next = Some(0);
                }
                Order::Stop if self.stop_at_ms.is_none() => self.stop(),
                Order::Stop => {}
            }
        }
    }

    fn stop(&mut self) {
        self.listener = None;
        self.accept_ready = false;
        self.accept_again_at_ms = None;
        self.stop_at_ms = Some(self.tools.now.monotonic_ms + STOP_WITHIN_MS);
        self.report.closed_at_stop = self.slots.len();
        for slot in 0..self.slots.slot_count() {
            if let Some(place) = self.slots.place_of(slot) {
                self.with(place, |session, cx| session.handle_fault(cx, Fault::Draining));
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.stop_at_ms.is_some_and(|at_ms| {
            (self.slots.len() == 0 && self.questions == 0) || self.tools.now.monotonic_ms >= at_ms
        })
    }

    /// Goes on with whatever concerns every session.
    pub(super) fn walk(&mut self) {
        if let (Some(from), Some(window_ms)) = (self.drain_next, self.draining_window_ms) {
            let to = from.saturating_add(WALK_PER_TURN);
            for slot in from..to.min(self.slots.slot_count()) {
                let Some(place) = self.slots.place_of(slot) else {
                    continue;
                };
                self.with(place, |session, cx| {
                    if session.is_unfinished() {
                        session.handle_fault(cx, Fault::Draining);
                    } else {
                        session.handle_drain(cx, window_ms);
                    }
                });
            }
            self.drain_next = (to < self.slots.slot_count()).then_some(to);
        }
        if self.tools.owed.is_half_taken() {
            self.relieve();
        }
        if let Some(from) = self.announcement.next
            && self.may_announce()
        {
            self.announce(from);
        }
    }

    /// Half of the bytes that may wait for clients do: closes those who have not caught up for long, so that they cannot
    /// get everybody else refused.
    fn relieve(&mut self) {
        let (from, now) = (self.relieve_next, self.tools.now);
        let to = from.saturating_add(WALK_PER_TURN).min(self.slots.slot_count());
        for slot in from..to {
            if let Some(place) = self.slots.place_of(slot)
                && let Some(connection) = self.slots.at(place)
                && let Some(fault) = connection.session.behind(now)
            {
                self.with(place, |session, cx| session.handle_fault(cx, fault));
            }
        }
        self.relieve_next = if to < self.slots.slot_count() { to } else { 0 };
    }

    pub(super) fn may_announce(&self) -> bool {
        self.announcement.next.is_some()
            && !self.announcement.under_way
            && self.announcement.not_before_ms <= self.tools.now.monotonic_ms
    }

    fn announce(&mut self, from: u32) {
        let mut sessions = Vec::new();
        let mut slot = from;
        while slot < self.slots.slot_count() && sessions.len() < ANNOUNCE_MAX {
            if let Some(place) = self.slots.place_of(slot)
                && let Some(connection) = self.slots.at(place)
                && connection.registered
                && let Some(identity) = connection.session.identity()
            {
                let record = self.shared.record(identity, self.index, place);
                sessions.push((place, record));
            }
            slot += 1;
        }
        self.announcement.next = (slot < self.slots.slot_count()).then_some(slot);
        if sessions.is_empty() {
            return;
        }
        let places = sessions.iter().map(|(place, _)| *place).collect();
        let nobody = Place {
            slot: u32::MAX,
            generation: 0,
        };
        let lost = super::Reply::Announced { places, done: false };
        match self.ask(nobody, lost) {
            Some(asked) => {
                self.announcement.under_way = true;
                self.upstream.announce(sessions, asked);
            }
            None => self.announce_again(from),
        }
    }

    fn announce_again(&mut self, from: u32) {
        self.announcement.not_before_ms = self.tools.now.monotonic_ms + ANNOUNCE_AGAIN_MS;
        self.announcement.next = Some(self.announcement.next.map_or(from, |next| next.min(from)));
    }

    pub(super) fn handle_announced(&mut self, places: &[Place], done: bool) {
        self.announcement.under_way = false;
        if !done {
            let from = places.iter().map(|place| place.slot).min().unwrap_or(0);
            return self.announce_again(from);
        }
        let spread_ms = resync_spread_ms(self.slots.len());
        for place in places {
            self.with(*place, |session, cx| session.handle_missed(cx, spread_ms));
        }
    }
}

/// Over how long so many sessions spread their syncs.
fn resync_spread_ms(sessions: usize) -> u32 {
    let spread_ms = sessions.saturating_mul(1_000) / RESYNCS_PER_S;
    let spread_ms = spread_ms.clamp(*RESYNC_SPREAD_MS.start(), *RESYNC_SPREAD_MS.end());
    u32::try_from(spread_ms).unwrap_or(u32::MAX)
}

/// When a reactor's turn to announce comes: as good as by chance, and the same for the same reactor of the same life.
fn spread_ms(incarnation: u64, reactor: u16) -> u64 {
    // The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    let mut mixed = incarnation ^ (u64::from(reactor) << 48);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % ANNOUNCE_SPREAD_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sessions_sync_soon_and_many_do_not_storm() {
        assert_eq!([0, 100, 500].map(resync_spread_ms), [500; 3]);
        assert_eq!(resync_spread_ms(4_000), 4_000);
        assert_eq!([10_000, 250_000, usize::MAX].map(resync_spread_ms), [10_000; 3]);
    }

    #[test]
    fn reactors_of_many_gateways_do_not_announce_at_once() {
        // Gateways that were started in the same second, with two reactors each.
        let lives = (0..50_u64).map(|nth| 1_796_000_000_000 + nth * 20);
        let turns = lives.flat_map(|life| [spread_ms(life, 0), spread_ms(life, 1)]);
        let mut tenths = [0; 10];
        for turn in turns {
            let tenth = turn * 10 / ANNOUNCE_SPREAD_MS;
            tenths[usize::try_from(tenth).unwrap_or(usize::MAX)] += 1;
        }
        assert!(tenths.iter().all(|count| (2..=25).contains(count)), "{tenths:?}");
    }
}
