//! Pushes on their last hop: from the reactor's queue to its sessions.
//!
//! One-to-one pushes and those to a few are delivered at once. A large one is served slice by slice, in turn with others
//! like it, so that a broadcast to thousands never stands before anybody's message.

use std::collections::VecDeque;

use whimbrel_protocol::cluster::{PushResponse, PushTarget};

use super::message::PushPart;
use super::reactor::Reactor;
use super::slots::Place;
use crate::session::PushOutcome;

/// Pushes taken in a turn.
const PUSHES_PER_TURN: usize = 256;

/// Targets of a push up to which it is one-to-one or a small group's; a larger one is bulk.
const DIRECT_TARGETS_MAX: usize = 16;

/// Members of a bulk push served in a turn: 0.5 ms of work.
const BULK_SLICE: usize = 64;

/// Bulk pushes under way at once: to the largest groups, some 2 s of slices. Behind that a sync is cheaper, and without a
/// bound here the one of the queue they come from would never be felt.
const BULKS_MAX: usize = 64;

/// A large push under way.
#[derive(Debug)]
struct Bulk {
    part: PushPart,
    next: usize,
    tally: PushResponse,
}

impl Bulk {
    fn new(part: PushPart) -> Self {
        Self {
            part,
            next: 0,
            tally: PushResponse::default(),
        }
    }
}

/// Large pushes under way, the one whose turn it is first.
#[derive(Debug, Default)]
pub(super) struct Bulks(VecDeque<Bulk>);

impl Bulks {
    /// Takes on one more, or gives it back when there are too many.
    fn begin(&mut self, part: PushPart) -> Result<(), PushPart> {
        if self.0.len() >= BULKS_MAX {
            return Err(part);
        }
        self.0.push_back(Bulk::new(part));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Reactor {
    pub(super) fn take_pushes(&mut self) {
        for _ in 0..PUSHES_PER_TURN {
            let Ok(part) = self.inbox.pushes.try_recv() else {
                return;
            };
            if part.targets.len() > DIRECT_TARGETS_MAX {
                if let Err(part) = self.bulks.begin(part) {
                    self.inbox.port.defer(part);
                }
            } else {
                let mut push = Bulk::new(part);
                self.serve(&mut push, DIRECT_TARGETS_MAX);
                push.part.settle(push.tally);
            }
        }
        self.inbox.call_again();
    }

    /// One slice of the oldest bulk push; then it is the next one's turn.
    pub(super) fn serve_bulk(&mut self) {
        let Some(mut bulk) = self.bulks.0.pop_front() else {
            return;
        };
        self.serve(&mut bulk, BULK_SLICE);
        if bulk.next < bulk.part.targets.len() {
            self.bulks.0.push_back(bulk);
        } else {
            bulk.part.settle(bulk.tally);
        }
    }

    fn serve(&mut self, bulk: &mut Bulk, count: usize) {
        let end = bulk.part.targets.len().min(bulk.next + count);
        for target in &bulk.part.targets[bulk.next..end] {
            if self.deliver(target, &bulk.part) {
                bulk.tally.accepted += 1;
            } else {
                bulk.tally.gone.push(*target);
            }
        }
        bulk.next = end;
    }

    pub(super) fn take_missed(&mut self) {
        let mut missed = Vec::new();
        self.inbox.take_missed(|slot| missed.push(slot));
        for slot in missed {
            // Whoever has the slot now may sync once for nothing; nobody is shown anything of anybody else's.
            if let Some(place) = self.slots.place_of(slot) {
                self.with(place, |session, cx| session.handle_missed(cx, 0));
            }
        }
    }

    /// Delivers a push to the one session it is for, if that is still there.
    fn deliver(&mut self, target: &PushTarget, part: &PushPart) -> bool {
        let place = place_of(target);
        #[cfg(feature = "planted-faults")]
        let place = self.planted_place(place);
        let outcome = self.with(place, |session, cx| {
            session.handle_push(cx, target.user_id, part.brought.frame())
        });
        let delivered = outcome == Some(PushOutcome::Accepted);
        if delivered {
            self.metrics.pushes.increment(1);
        } else {
            self.metrics.pushes_gone.increment(1);
        }
        delivered
    }
}

#[cfg(feature = "planted-faults")]
impl Reactor {
    /// With [`Fault::PushToReusedSlot`](crate::planted::Fault::PushToReusedSlot): whoever is in the slot now.
    fn planted_place(&self, place: Place) -> Place {
        let now_there = self.slots.place_of(place.slot);
        now_there
            .filter(|_| crate::planted::is(crate::planted::Fault::PushToReusedSlot))
            .unwrap_or(place)
    }
}

/// The place a target names.
pub(super) fn place_of(target: &PushTarget) -> Place {
    Place {
        slot: target.slot,
        generation: target.generation,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::message::Brought;
    use super::*;

    #[test]
    fn bulk_pushes_beyond_the_bound_are_given_back() {
        let part = || {
            let targets = vec![vec![PushTarget::default(); DIRECT_TARGETS_MAX + 1]];
            PushPart::split(targets, &Brought::Missed { spread_ms: 0 }, |_| {})
                .pop()
                .unwrap()
        };
        let mut bulks = Bulks::default();
        assert!((0..BULKS_MAX).all(|_| bulks.begin(part()).is_ok()));
        assert!(bulks.begin(part()).is_err());
        bulks.0.pop_front();
        assert!(bulks.begin(part()).is_ok());
    }
}
