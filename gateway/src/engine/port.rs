//! The way into a reactor from other threads: bounded queues that are never waited for, and one wake for many.
//!
//! - *Replies* cannot be refused: a reactor asks only while it has room for the answer, so the queue of as many places
//!   never overflows.
//! - *Pushes* that find no room mark their sessions in a bitmap of one bit per slot: those clients will sync. Nothing grows
//!   and nothing is lost.
//! - *Room work* that finds no room is given back: an order is refused, a broadcast dropped and counted.
//! - *Moves* that find no room are turned away; so are *orders*, which are few and repeated by who gives them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};

use super::message::{Migrant, Order, PushPart, Reply};
use super::net::{Poller, Waker};
use super::rooms::RoomWork;
use super::slots::Place;

/// Questions of one reactor that may be unanswered, and so replies that may wait: two seconds of a busy gateway's
/// requests.
pub(crate) const REPLIES_MAX: usize = 8192;

/// Pushes that may wait for a reactor: some 20 ms of work. Behind that a sync is cheaper.
const PUSHES_MAX: usize = 2048;

/// Connections that may be on the way from one reactor to another: a handshake each, so these are 20 ms of work.
const MOVES_MAX: usize = 256;

/// Orders about rooms, and broadcasts, that may wait: a few ms of work. A broadcast holds its payload.
const ROOM_WORK_MAX: usize = 1024;

/// Orders that may wait.
const ORDERS_MAX: usize = 256;

/// One bit per slot: the session there has missed a push.
#[derive(Debug)]
struct Missed {
    any: AtomicBool,
    words: Box<[AtomicU64]>,
}

impl Missed {
    fn new(slots_max: usize) -> Self {
        let words = (0..slots_max.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self {
            any: AtomicBool::new(false),
            words,
        }
    }

    fn mark(&self, slot: u32) {
        if let Some(word) = self.words.get(slot as usize / 64) {
            word.fetch_or(1 << (slot % 64), Ordering::Relaxed);
            self.any.store(true, Ordering::Release);
        }
    }

    fn take(&self, mut each: impl FnMut(u32)) {
        if !self.any.swap(false, Ordering::Acquire) {
            return;
        }
        for (index, word) in (0_u32..).zip(&self.words) {
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                each(index * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}

/// Where other threads put what is for a reactor.
#[derive(Debug)]
pub(crate) struct Port {
    replies: SyncSender<(Place, Reply)>,
    pushes: SyncSender<PushPart>,
    moves: SyncSender<Migrant>,
    orders: SyncSender<Order>,
    rooms: SyncSender<RoomWork>,
    missed: Missed,
    waker: Waker,
    /// A wake is on its way, or the reactor has not looked since the last.
    woken: AtomicBool,
    /// Strangers are looked after in rounds, and nothing that is for them wakes the reactor before the next.
    rests: AtomicBool,
}

/// The reactor's ends of its queues.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(super) port: Arc<Port>,
    pub(super) replies: Receiver<(Place, Reply)>,
    pub(super) pushes: Receiver<PushPart>,
    pub(super) moves: Receiver<Migrant>,
    pub(super) orders: Receiver<Order>,
    pub(super) rooms: Receiver<RoomWork>,
}

impl Inbox {
    /// The queues of a reactor that `poller` belongs to; wakes come as `token`.
    ///
    /// # Errors
    /// When the system has no descriptor for the wakes.
    pub(super) fn new(poller: &Poller, token: mio::Token, slots_max: usize) -> io::Result<Self> {
        let (replies_in, replies) = mpsc::sync_channel(REPLIES_MAX);
        let (pushes_in, pushes) = mpsc::sync_channel(PUSHES_MAX);
        let (moves_in, moves) = mpsc::sync_channel(MOVES_MAX);
        let (orders_in, orders) = mpsc::sync_channel(ORDERS_MAX);
        let (rooms_in, rooms) = mpsc::sync_channel(ROOM_WORK_MAX);
        let port = Arc::new(Port {
            replies: replies_in,
            pushes: pushes_in,
            moves: moves_in,
            orders: orders_in,
            rooms: rooms_in,
            missed: Missed::new(slots_max),
            waker: poller.waker(token)?,
            woken: AtomicBool::new(false),
            rests: AtomicBool::new(false),
        });
        Ok(Self {
            port,
            replies,
            pushes,
            moves,
            orders,
            rooms,
        })
    }

    /// From now on a new arrival wakes again. To be called before the queues are emptied, so that none is overlooked.
    pub(super) fn rearm(&self) {
        self.port.woken.swap(false, Ordering::AcqRel);
    }

    /// From now on what is for strangers does not wake the reactor, or does again. To be called before the queues are
    /// emptied when it does, so that nothing is overlooked.
    pub(super) fn rest(&self, rests: bool) {
        self.port.rests.swap(rests, Ordering::AcqRel);
    }

    /// A queue had more than a turn's worth: the next turn comes at once.
    pub(super) fn call_again(&self) {
        self.port.woken.store(true, Ordering::Release);
    }

    /// Whether a wake has come since [`Inbox::rearm`].
    pub(super) fn is_woken(&self) -> bool {
        self.port.woken.load(Ordering::Acquire)
    }

    /// Every slot whose session missed a push.
    pub(super) fn take_missed(&self, each: impl FnMut(u32)) {
        self.port.missed.take(each);
    }
}

impl Port {
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "a reactor cannot be woken");
        }
    }

    /// Something for strangers has come.
    fn wake_for_strangers(&self) {
        // A read that writes: either it is told that the reactor does not rest any more, or the reactor, which says so first, finds
        // what has come.
        if !self.rests.fetch_or(false, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// Hands in the answer to a question of the connection at `place`.
    pub(crate) fn reply(&self, place: Place, reply: Reply) {
        let for_a_stranger = matches!(reply, Reply::Authenticated(_) | Reply::Opened(_));
        match self.replies.try_send((place, reply)) {
            Ok(()) if for_a_stranger => self.wake_for_strangers(),
            Ok(()) => self.wake(),
            Err(TrySendError::Full(_)) => {
                tracing::error!("a reactor's replies overflow: more answers than questions")
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Hands in work for rooms; gives it back without room. A reactor that has ended has nobody in any room.
    pub(super) fn room(&self, work: RoomWork) -> Result<(), RoomWork> {
        match self.rooms.try_send(work) {
            Ok(()) => {
                self.wake();
                Ok(())
            }
            Err(TrySendError::Full(work)) => Err(work),
            Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Hands in pushes; without room, their sessions are marked to sync, which serves them as well.
    pub(crate) fn push(&self, part: PushPart) {
        let refused = match self.pushes.try_send(part) {
            Ok(()) => None,
            Err(TrySendError::Full(part)) => Some(part),
            Err(TrySendError::Disconnected(_)) => return,
        };
        if let Some(part) = refused {
            self.defer(part);
        }
        self.wake();
    }

    /// Marks the sessions of a push that finds no room: they will sync.
    pub(super) fn defer(&self, part: PushPart) {
        metrics::counter!(crate::metrics::PUSHES_DEFERRED).increment(part.targets.len() as u64);
        part.targets
            .iter()
            .for_each(|target| self.missed.mark(target.slot));
        part.settle_all_accepted();
    }

    /// Hands over a connection.
    ///
    /// # Errors
    /// Gives it back when there is no room.
    pub(crate) fn hand_over(&self, migrant: Migrant) -> Result<(), Migrant> {
        self.moves.try_send(migrant).map_err(|error| match error {
            TrySendError::Full(migrant) | TrySendError::Disconnected(migrant) => migrant,
        })?;
        self.wake_for_strangers();
        Ok(())
    }

    /// Hands in an order; says whether there was room. A reactor that has ended has carried out every order.
    pub(crate) fn order(&self, order: Order) -> bool {
        let taken = !matches!(self.orders.try_send(order), Err(TrySendError::Full(_)));
        self.wake();
        taken
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::cluster::{PushResponse, PushTarget};

    use super::super::message::{Brought, lost};
    use super::super::net::Kernel;
    use super::*;

    fn push(port: &Port, slots: &[u32], settle: impl FnOnce(PushResponse) + Send + Sync + 'static) {
        let target = |slot: &u32| PushTarget {
            slot: *slot,
            ..PushTarget::default()
        };
        let targets = vec![slots.iter().map(target).collect()];
        PushPart::split(targets, &Brought::Missed { spread_ms: 0 }, settle)
            .into_iter()
            .for_each(|part| port.push(part));
    }

    #[test]
    fn pushes_without_room_mark_their_sessions_and_count_as_accepted() {
        let poller = Poller::Kernel(Kernel::new().unwrap());
        let inbox = Inbox::new(&poller, mio::Token(0), 1_000).unwrap();
        (0..PUSHES_MAX).for_each(|_| push(&inbox.port, &[1], |_| {}));
        let (tell, told) = mpsc::channel();
        push(&inbox.port, &[5, 70], move |response| {
            tell.send(response).unwrap()
        });
        assert_eq!(told.try_recv().unwrap().accepted, 2);
        let mut missed = Vec::new();
        inbox.take_missed(|slot| missed.push(slot));
        assert_eq!(missed, [5, 70], "those that had room are not marked");
    }

    #[test]
    fn many_arrivals_make_one_wake_and_none_is_overlooked() {
        let mut poller = Poller::Kernel(Kernel::new().unwrap());
        let inbox = Inbox::new(&poller, mio::Token(9), 10).unwrap();
        let mut events = mio::Events::with_capacity(8);
        let mut wakes = |poller: &mut Poller| {
            #[cfg_attr(
                not(feature = "simulation"),
                expect(irrefutable_let_patterns, reason = "one variant")
            )]
            let Poller::Kernel(poll) = poller else { return 0 };
            poll.wait(&mut events, Some(std::time::Duration::ZERO)).unwrap();
            events.iter().count()
        };
        (0..5).for_each(|_| assert!(inbox.port.order(Order::Announce)));
        assert_eq!(wakes(&mut poller), 1);
        assert!(inbox.port.order(Order::Announce));
        assert_eq!(wakes(&mut poller), 0, "the reactor has not looked yet");
        inbox.rearm();
        assert!(inbox.port.order(Order::Announce));
        assert_eq!(wakes(&mut poller), 1);
        assert_eq!(inbox.orders.try_iter().count(), 7);
    }

    #[test]
    fn a_reactor_that_rests_is_woken_for_sessions_only_and_finds_what_strangers_wait_for() {
        let mut poller = Poller::Kernel(Kernel::new().unwrap());
        let inbox = Inbox::new(&poller, mio::Token(9), 10).unwrap();
        let place = Place {
            slot: 1,
            generation: 1,
        };
        let mut events = mio::Events::with_capacity(8);
        let mut is_woken = |inbox: &Inbox, poller: &mut Poller| {
            #[cfg_attr(
                not(feature = "simulation"),
                expect(irrefutable_let_patterns, reason = "one variant")
            )]
            let Poller::Kernel(poll) = poller else {
                return false;
            };
            inbox.rearm();
            poll.wait(&mut events, Some(std::time::Duration::ZERO)).unwrap();
            !events.is_empty()
        };
        inbox.rest(true);
        inbox.port.reply(place, Reply::Opened(Err(lost())));
        inbox.port.reply(place, Reply::Authenticated(Err(lost())));
        assert!(!is_woken(&inbox, &mut poller));
        inbox.port.reply(place, Reply::Reauthenticated(Err(lost())));
        assert!(is_woken(&inbox, &mut poller));
        inbox.rest(false);
        inbox.port.reply(place, Reply::Opened(Err(lost())));
        assert!(is_woken(&inbox, &mut poller));
        assert_eq!(inbox.replies.try_iter().count(), 4);
    }

    #[test]
    fn an_order_without_room_is_refused_and_one_to_a_reactor_that_has_ended_is_not_given_for_ever() {
        let poller = Poller::Kernel(Kernel::new().unwrap());
        let inbox = Inbox::new(&poller, mio::Token(0), 10).unwrap();
        let port = Arc::clone(&inbox.port);
        (0..ORDERS_MAX).for_each(|_| assert!(port.order(Order::Announce)));
        assert!(!port.order(Order::Stop));
        drop(inbox);
        assert!(port.order(Order::Stop));
    }

    #[test]
    fn every_marked_slot_is_taken_once_and_unknown_slots_are_harmless() {
        let missed = Missed::new(200);
        for slot in [0, 63, 64, 199, 199, 100_000] {
            missed.mark(slot);
        }
        let mut slots = Vec::new();
        missed.take(|slot| slots.push(slot));
        assert_eq!(slots, [0, 63, 64, 199]);
        missed.take(|slot| slots.push(slot));
        assert_eq!(slots.len(), 4);
    }
}
