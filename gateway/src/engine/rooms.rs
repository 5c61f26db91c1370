//! Rooms in a reactor: orders carried out at once, broadcasts walked in slices behind everything that is urgent.
//!
//! PERFORMANCE: a broadcast's frame is encoded once. A member who has read everything so far gets it sealed into the
//! reactor's buffer and written at once, without a queue; only who has not is given a place in one, as far as its bounds
//! allow. Nothing is allocated per member.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use whimbrel_protocol::bucket::user_bucket;
use whimbrel_protocol::cluster::PushTarget;
use whimbrel_protocol::frame::{Frame, FrameError, Push, RequestId};
use whimbrel_protocol::ids::{AppKey, Uid};

use super::Reach;
use super::connection::Moved;
use super::pushes::place_of;
use super::reactor::Reactor;
use super::slots::Place;
use crate::rooms::{Due, JoinError, Offered, PacedBy, RoomName, Rooms};
use crate::session::{RoomPush, Session};

/// Members served in a slice.
pub(super) const SLICE_MEMBERS: usize = 64;

/// Time a slice may take: about as much as anybody's message may have to wait for it.
const SLICE_TIME: Duration = Duration::from_micros(500);

/// Members served between looks at the clock.
const LOOK_EVERY: usize = 8;

/// Orders and broadcasts taken in a turn, about 0.5 ms of work.
const WORK_PER_TURN: usize = 256;

/// Changes of members are told this often, in milliseconds; the desk gathers them for longer.
const TELL_EVERY_MS: u64 = 250;

/// A message for a room, encoded once for all who get it.
#[derive(Debug)]
pub(crate) struct RoomFrame {
    /// The frame.
    pub(crate) frame: Frame,
    /// Its bytes.
    pub(crate) encoded: Bytes,
    /// Bytes of its payload.
    pub(crate) payload_len: usize,
}

impl RoomFrame {
    /// The push `method` with this payload.
    ///
    /// # Errors
    /// When the payload is over a frame's bound.
    pub(crate) fn new(method: u32, payload: Bytes) -> Result<Self, FrameError> {
        let payload_len = payload.len();
        let frame = Frame::Push(Push {
            method,
            tracked: false,
            compressed: false,
            payload,
        });
        let mut encoded = Vec::new();
        frame.encode(&mut encoded)?;
        Ok(Self {
            frame,
            encoded: encoded.into(),
            payload_len,
        })
    }
}

type Settle = Box<dyn FnOnce(u32, u32) + Send + Sync>;

struct Receipt {
    taken: AtomicU32,
    dropped: AtomicU32,
    settle: Settle,
}

/// A broadcast on its way through the reactors. Whoever lets go of it last reports, without anybody waiting.
#[derive(Clone)]
pub(crate) struct BroadcastPart {
    name: Arc<RoomName>,
    frame: Arc<RoomFrame>,
    receipt: Option<Arc<Receipt>>,
}

impl BroadcastPart {
    /// A broadcast, cloned for each reactor; `settle` learns how many members it is taken and dropped for.
    pub(crate) fn new(
        name: &Arc<RoomName>,
        frame: &Arc<RoomFrame>,
        settle: impl FnOnce(u32, u32) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: Arc::clone(name),
            frame: Arc::clone(frame),
            receipt: Some(Arc::new(Receipt {
                taken: AtomicU32::new(0),
                dropped: AtomicU32::new(0),
                settle: Box::new(settle),
            })),
        }
    }

    fn count(&self, offered: Offered) {
        let Some(receipt) = &self.receipt else { return };
        match offered {
            Offered::Taken(members) => receipt.taken.fetch_add(members, Ordering::Relaxed),
            Offered::Dropped(members) => receipt.dropped.fetch_add(members, Ordering::Relaxed),
        };
    }
}

impl Drop for BroadcastPart {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take().and_then(Arc::into_inner) {
            (receipt.settle)(receipt.taken.into_inner(), receipt.dropped.into_inner());
        }
    }
}

impl std::fmt::Debug for BroadcastPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BroadcastPart").field(&self.name).finish()
    }
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// The session is in the room, which has so many members on this reactor.
    In(u32),
    /// It is not, or not any more; or it has asked to be in it since the order was asked for.
    Out,
    /// The session is gone.
    Gone,
    /// A bound was hit.
    Refused(JoinError),
}

/// The order to put a session into a room, or to take it out.
pub(crate) struct RoomOrder {
    /// The room.
    pub(crate) name: Arc<RoomName>,
    /// The session, and whose it must be.
    pub(crate) session: PushTarget,
    /// Out instead of in.
    pub(crate) leave: bool,
    /// The session's request that it carries out, if that is known.
    pub(crate) asked_by: Option<RequestId>,
    /// Learns what became of it.
    pub(crate) done: Box<dyn FnOnce(Ordered) + Send>,
}

/// What a reactor does for rooms.
pub(crate) enum RoomWork {
    /// See [`RoomOrder`].
    Order(RoomOrder),
    /// See [`BroadcastPart`].
    Broadcast(BroadcastPart),
}

impl Reach {
    /// How many reactors there are.
    pub(crate) fn reactors(&self) -> usize {
        self.ports.len()
    }

    /// Hands a broadcast to a reactor, which has about so many members of the room.
    pub(crate) fn broadcast(&self, reactor: usize, part: BroadcastPart, members: u32) {
        let Some(port) = self.ports.get(reactor) else {
            return;
        };
        if let Err(RoomWork::Broadcast(part)) = port.room(RoomWork::Broadcast(part)) {
            crate::metrics::room_drops(reactor, "queue").increment(members.into());
            part.count(Offered::Dropped(members));
        }
    }

    /// Gives an order to the reactor of its session; gives it back when that has no room for it.
    ///
    /// # Errors
    /// With the order.
    pub(crate) fn order_room(&self, order: RoomOrder) -> Result<(), RoomOrder> {
        let Some(port) = self.ports.get(order.session.reactor as usize) else {
            (order.done)(Ordered::Gone);
            return Ok(());
        };
        match port.room(RoomWork::Order(order)) {
            Err(RoomWork::Order(order)) => Err(order),
            _ => Ok(()),
        }
    }
}

impl Reactor {
    pub(super) fn take_room_work(&mut self) {
        for _ in 0..WORK_PER_TURN {
            match self.inbox.rooms.try_recv() {
                Ok(RoomWork::Order(order)) => {
                    let ordered = self.carry_out(&order);
                    (order.done)(ordered);
                }
                Ok(RoomWork::Broadcast(part)) => {
                    let now_ms = self.tools.now.monotonic_ms;
                    let offered = self.rooms.offer(&part.name, Arc::clone(&part.frame), now_ms);
                    match offered {
                        Offered::Taken(_) => self.metrics.room_broadcasts.increment(1),
                        Offered::Dropped(members) => self.metrics.room_drops.queue.increment(members.into()),
                    }
                    part.count(offered);
                }
                Err(_) => return,
            }
        }
        self.inbox.call_again();
    }

    /// An order touches exactly the session it names: the slot's use and the user must be those of the handle.
    fn carry_out(&mut self, order: &RoomOrder) -> Ordered {
        let place = place_of(&order.session);
        let buckets = self.tools.limits.buckets;
        let found = self.slots.at(place).filter(|connection| connection.registered);
        let theirs = found.and_then(|connection| bucket_of_ordered(&connection.session, order, buckets));
        let Some(bucket) = theirs else {
            return Ordered::Gone;
        };
        // Of the buckets of this gateway every so-manyth is this reactor's.
        let reactors = u32::try_from(self.peers.len()).unwrap_or(u32::MAX).max(1);
        let paced_by = PacedBy(bucket / reactors);
        obey(
            &mut self.rooms,
            order,
            place,
            paced_by,
            self.tools.now.monotonic_ms,
        )
    }

    /// A slice of the broadcasts under way.
    pub(super) fn serve_rooms(&mut self) {
        let now_ms = self.tools.now.monotonic_ms;
        if self.rooms.due_at_ms().is_none_or(|at_ms| at_ms > now_ms) {
            return;
        }
        let until = self.shared.clock.monotonic() + SLICE_TIME;
        for served in 1..=SLICE_MEMBERS {
            let Some(due) = self.rooms.next(now_ms) else { break };
            self.serve_member(due);
            if served % LOOK_EVERY == 0 && self.shared.clock.monotonic() >= until {
                break;
            }
        }
        self.rooms.end_slice();
        let drops = self.rooms.take_drops();
        self.metrics.room_drops.paced.increment(drops.paced);
        self.metrics.room_drops.late.increment(drops.late);
    }

    fn serve_member(&mut self, due: Due) {
        let drops = &self.metrics.room_drops;
        let (Some(frame), Some(connection)) = (self.rooms.front(due.room), self.slots.at(due.place)) else {
            return drops.gone.increment(1);
        };
        self.burst.clear();
        let mut cx = self.tools.lend();
        let outcome =
            connection
                .session
                .handle_room_push(&mut cx, frame, connection.writable, &mut self.burst);
        match outcome {
            RoomPush::Sealed => {
                let moved = connection.write(&self.burst);
                let written = match moved {
                    Moved::Bytes(written) => written,
                    Moved::Blocked => 0,
                    Moved::Gone => {
                        drops.gone.increment(1);
                        return self.end(due.place, "peer_gone");
                    }
                };
                self.metrics.room_deliveries.increment(1);
                if written < self.burst.len() {
                    connection
                        .session
                        .handle_unwritten(&mut cx, &self.burst[written..]);
                    self.after(due.place);
                }
            }
            RoomPush::Queued => {
                self.metrics.room_deliveries.increment(1);
                self.after(due.place);
            }
            RoomPush::Behind => drops.slow.increment(1),
            RoomPush::TooLarge => drops.too_large.increment(1),
            RoomPush::Gone => drops.gone.increment(1),
        }
    }

    /// When something about rooms is due.
    pub(super) fn rooms_due_at_ms(&self) -> Option<u64> {
        let counts = self.rooms.has_changes().then_some(self.tell_rooms_at_ms);
        self.rooms.due_at_ms().into_iter().chain(counts).min()
    }

    /// Tells the desk of rooms that have other numbers of members.
    pub(super) fn tell_rooms(&mut self) {
        let now_ms = self.tools.now.monotonic_ms;
        if !self.rooms.has_changes() || self.tell_rooms_at_ms > now_ms {
            return;
        }
        self.tell_rooms_at_ms = now_ms.saturating_add(TELL_EVERY_MS);
        if let Err(changes) = self.upstream.room_counts(self.index, self.rooms.take_changes()) {
            self.rooms.put_back(changes);
        }
        self.metrics.note_memberships(self.rooms.memberships());
    }
}

/// The user bucket of the session at an order's place, if its user and app are the order's too.
pub(crate) fn bucket_of_ordered(session: &Session, order: &RoomOrder, buckets: NonZeroU32) -> Option<u32> {
    let who = session
        .identity()
        .filter(|who| who.user_id == order.session.user_id && who.app() == &*order.name.app)?;
    let app = AppKey::new(who.app()).ok()?;
    Some(user_bucket(&app, &Uid::new(who.uid()).ok()?, buckets))
}

/// Carries out an order for the session at `place`, which is the order's.
pub(crate) fn obey<B>(
    rooms: &mut Rooms<B>,
    order: &RoomOrder,
    place: Place,
    paced_by: PacedBy,
    now_ms: u64,
) -> Ordered {
    if order.leave {
        rooms.leave(&order.name, place, order.asked_by);
        return Ordered::Out;
    }
    match rooms.join(&order.name, place, paced_by, order.asked_by, now_ms) {
        Ok(members) => Ordered::In(members),
        Err(error) => Ordered::Refused(error),
    }
}
