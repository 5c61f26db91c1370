//! One reactor: a thread that owns connections and whole user buckets, and does everything for them.
//!
//! Readiness is edge-triggered: what an event announces is remembered until it is used up, and lists, not events, decide
//! whose turn it is. Each turn is budgeted: answers and one-to-one pushes first, then a slice of bulk pushes, then a few
//! handshakes, so that neither a broadcast nor a reconnect storm stands before anybody's message. Whoever is still a
//! stranger wakes nobody while strangers are looked after in [`rounds`](super::rounds).
//!
//! PERFORMANCE: nothing here waits, locks, or allocates per message beyond what the session's queue needs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::{Events, Token};
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::cluster::AuthenticateResponse;

use super::addresses::FAILURE_HALF_LIFE_MS;
use super::connection::{Connection, Moved};
use super::listener::AcceptTrouble;
use super::making_room::Line;
use super::net::{Change, Listener, Poller};
use super::orders::Announcement;
use super::port::{Inbox, Port};
use super::pushes::Bulks;
use super::reading::{PARTIAL_BYTES, READ_BYTES, READS_PER_TURN};
use super::rooms::RoomFrame;
use super::rounds::Rounds;
use super::slots::{Place, Slots};
use super::thaw::Thaw;
use super::users::Users;
use super::wheel::Wheel;
use super::{Shared, Upstream};
use crate::keys::KeyRing;
use crate::metrics::ReactorMetrics;
use crate::rooms::{RoomLimits, Rooms};
use crate::session::{Budget, Context, Event, Now, Session, SessionLimits, SpareQueues, Unanswered};

pub(super) const WAKER: Token = Token(usize::MAX);
pub(super) const LISTENER: Token = Token(usize::MAX - 1);
const STRANGERS: Token = Token(usize::MAX - 2);

/// Events fetched at once; more wait in the kernel.
const EVENTS_MAX: usize = 1024;

/// Events of strangers fetched at once.
const STRANGERS_EVENTS_MAX: usize = 256;

/// Turns after a standstill besides those that reading from everybody takes: one poll may not report all at once.
const TURNS_AFTER_THAW: usize = 2;

/// Replies taken in a turn, about 5 ms of work.
const REPLIES_PER_TURN: usize = 1024;

/// Bursts written to one connection in its turn, 32 KiB each.
const BURSTS_PER_TURN: usize = 4;

/// What sessions are lent, call by call.
pub(super) struct Tools {
    pub(super) now: Now,
    pub(super) limits: SessionLimits,
    pub(super) keys: Arc<KeyRing>,
    pub(super) held: Budget,
    pub(super) owed: Budget,
    pub(super) spares: SpareQueues,
    pub(super) plaintext: Vec<u8>,
    pub(super) entropy: SystemEntropy,
    /// What this turn's inputs have cost.
    pub(super) work: u32,
    pub(super) events: Vec<Event>,
}

impl Tools {
    pub(super) fn lend(&mut self) -> Context<'_> {
        Context {
            now: self.now,
            limits: &self.limits,
            keys: &self.keys,
            held: &self.held,
            owed: &self.owed,
            spares: &mut self.spares,
            plaintext: &mut self.plaintext,
            entropy: &mut self.entropy,
            work: &mut self.work,
            events: &mut self.events,
        }
    }
}

/// What a reactor holds at the end of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReactorState {
    /// Connections in any state.
    pub(crate) connections: usize,
    /// Bytes of unfinished hellos, records, frames and held requests.
    pub(crate) held_bytes: usize,
    /// Bytes that wait for clients.
    pub(crate) owed_bytes: usize,
}

/// How a reactor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReactorReport {
    /// Sessions that were still there when the order to stop came.
    pub(crate) closed_at_stop: usize,
}

/// See the module.
pub(super) struct Reactor {
    pub(super) index: u16,
    pub(super) shared: Arc<Shared>,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) poll: Poller,
    pub(super) inbox: Inbox,
    pub(super) peers: Arc<[Arc<Port>]>,
    pub(super) listener: Option<Listener>,
    pub(super) accept_ready: bool,
    pub(super) accept_again_at_ms: Option<u64>,
    pub(super) accept_trouble: AcceptTrouble,
    pub(super) slots: Slots<Connection>,
    pub(super) users: Users,
    pub(super) wheel: Wheel,
    thaw: Thaw,
    pub(super) rounds: Rounds,
    /// Word has come from strangers that was not looked at.
    strangers_call: bool,
    strangers_events: Events,
    pub(super) tools: Tools,
    pub(super) metrics: ReactorMetrics,
    /// Questions without an answer yet.
    pub(super) questions: usize,
    /// Whether some of them wait to be sent.
    pub(super) asked: bool,
    pub(super) ready: VecDeque<Place>,
    /// The same for those whose last turn took more than their share.
    pub(super) greedy: VecDeque<Place>,
    /// The same for those whose handshake is not finished.
    pub(super) hellos: VecDeque<Place>,
    /// Judged logins whose answers are to be sealed.
    pub(super) judged: VecDeque<(Place, Result<AuthenticateResponse, Unanswered>)>,
    dirty: Vec<Place>,
    pub(super) bulks: Bulks,
    pub(super) rooms: Rooms<Arc<RoomFrame>>,
    /// Changes of rooms are told then, if there are any.
    pub(super) tell_rooms_at_ms: u64,
    pub(super) read_buffer: Box<[u8]>,
    pub(super) burst: Vec<u8>,
    due: Vec<Place>,
    forgive_at_ms: u64,
    pub(super) draining_window_ms: Option<u32>,
    pub(super) drain_next: Option<u32>,
    /// The first slot not looked at yet for who is behind, while room is short.
    pub(super) relieve_next: u32,
    /// Those in a handshake, and those who hold bytes of something unfinished.
    pub(super) strangers: Line,
    pub(super) holders: Line,
    /// Those of whom only the end is waited for.
    pub(super) leaving: Line,
    pub(super) announcement: Announcement,
    pub(super) stop_at_ms: Option<u64>,
    pub(super) report: ReactorReport,
}

impl Reactor {
    pub(super) fn new(
        index: u16,
        shared: Arc<Shared>,
        upstream: Arc<dyn Upstream>,
        (poll, inbox): (Poller, Inbox),
        peers: Arc<[Arc<Port>]>,
        mut listener: Listener,
        keys: Arc<KeyRing>,
    ) -> io::Result<Self> {
        poll.listen(&mut listener, LISTENER)?;
        let now = shared.now();
        let share = |total: usize| total / peers.len().max(1);
        let tools = Tools {
            now,
            limits: shared.limits.session.clone(),
            keys,
            held: Budget::new(share(shared.limits.held_bytes_max)),
            owed: Budget::new(share(shared.limits.owed_bytes_max)),
            spares: SpareQueues::default(),
            plaintext: Vec::new(),
            entropy: SystemEntropy,
            work: 0,
            events: Vec::new(),
        };
        Ok(Self {
            index,
            metrics: ReactorMetrics::new(index),
            shared,
            upstream,
            poll,
            inbox,
            peers,
            listener: Some(listener),
            accept_ready: true,
            accept_again_at_ms: None,
            accept_trouble: AcceptTrouble::default(),
            slots: Slots::new(),
            users: Users::default(),
            wheel: Wheel::new(now.monotonic_ms),
            thaw: Thaw::new(now.monotonic_ms),
            rounds: Rounds::new(now.monotonic_ms),
            strangers_call: true,
            strangers_events: Events::with_capacity(STRANGERS_EVENTS_MAX),
            tools,
            questions: 0,
            asked: false,
            ready: VecDeque::new(),
            greedy: VecDeque::new(),
            hellos: VecDeque::new(),
            judged: VecDeque::new(),
            dirty: Vec::new(),
            bulks: Bulks::default(),
            rooms: Rooms::new(RoomLimits::default()),
            tell_rooms_at_ms: now.monotonic_ms,
            read_buffer: vec![0; PARTIAL_BYTES + READ_BYTES].into_boxed_slice(),
            burst: Vec::new(),
            due: Vec::new(),
            forgive_at_ms: now.monotonic_ms + FAILURE_HALF_LIFE_MS,
            draining_window_ms: None,
            drain_next: None,
            relieve_next: 0,
            strangers: Line::default(),
            holders: Line::default(),
            leaving: Line::default(),
            announcement: Announcement::default(),
            stop_at_ms: None,
            report: ReactorReport::default(),
        })
    }

    /// Runs until it is ordered to stop.
    ///
    /// # Errors
    /// When the system's poll fails, which leaves nothing to go on with.
    pub(super) fn run(mut self) -> io::Result<ReactorReport> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            let patience = self.patience();
            self.wait_and_turn(&mut events, patience)?;
            if self.is_done() {
                return Ok(self.report);
            }
        }
    }

    /// Waits for events for as long as may be, and takes a turn.
    pub(super) fn wait_and_turn(
        &mut self,
        events: &mut Events,
        patience: Option<Duration>,
    ) -> io::Result<()> {
        match &mut self.poll {
            Poller::Kernel(poll) => poll.wait(events, patience)?,
            #[cfg(feature = "simulation")]
            Poller::Simulated(_) => return Err(io::Error::other("a simulated reactor is a task")),
        }
        self.wake_up(patience);
        for event in &*events {
            self.note(Change::of(event));
        }
        self.turn()
    }

    /// What time it is after waiting for `timeout` at most, and whether that is about when it should be.
    pub(super) fn wake_up(&mut self, timeout: Option<Duration>) {
        self.tools.now = self.shared.now();
        let turns = self.slots.len() / READS_PER_TURN + TURNS_AFTER_THAW;
        self.thaw.handle_wake(self.tools.now.monotonic_ms, timeout, turns);
    }

    /// # Errors
    /// When the system's poll fails.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        self.tools.work = 0;
        self.inbox.rearm();
        let is_round = self.rounds.is_open(self.tools.now.monotonic_ms);
        if is_round {
            self.inbox.rest(false);
            self.look_at_strangers()?;
        }
        self.take_orders();
        self.take_replies();
        self.take_pushes();
        self.take_missed();
        self.take_room_work();
        self.read_some();
        self.send_questions();
        self.relieve_held();
        self.flush();
        self.serve_bulk();
        self.serve_rooms();
        self.flush();
        if is_round {
            self.take_moves();
            if self.accept_some() > 0 {
                // Most who have come have said something already.
                self.strangers_call = true;
                self.look_at_strangers()?;
            }
            self.shake_hands();
            self.flush();
        }
        self.fire_timers();
        self.walk();
        self.flush();
        self.tell_rooms();
        self.send_questions();
        self.end_round(is_round)?;
        let state = ReactorState {
            connections: self.slots.len(),
            held_bytes: self.tools.held.used(),
            owed_bytes: self.tools.owed.used(),
        };
        self.metrics.note(&state);
        let holdings = &self.shared.holdings[usize::from(self.index)];
        holdings.held.store(state.held_bytes, Relaxed);
        holdings.owed.store(state.owed_bytes, Relaxed);
        Ok(())
    }

    /// Takes notice of what strangers have done, if they have called or could not.
    fn look_at_strangers(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.strangers_call) && self.poll.is_watching() {
            return Ok(());
        }
        let mut events = std::mem::replace(&mut self.strangers_events, Events::with_capacity(0));
        let looked = self.poll.look_at_strangers(&mut events);
        let mut count = 0;
        for event in &events {
            self.note(Change::of(event));
            count += 1;
        }
        self.strangers_events = events;
        self.strangers_call = count == STRANGERS_EVENTS_MAX;
        looked
    }

    /// Decides whether strangers wake this reactor from now on.
    fn end_round(&mut self, was_round: bool) -> io::Result<()> {
        let now_ms = self.tools.now.monotonic_ms;
        if was_round {
            self.rounds.end_round(now_ms, self.strangers_wait());
        } else {
            self.rounds.end_turn();
        }
        let is_open = self.rounds.is_open(now_ms);
        self.inbox.rest(!is_open);
        self.poll.watch(STRANGERS, is_open)
    }

    /// Whether there is something to be done for strangers that needs no event.
    fn strangers_wait(&self) -> bool {
        !self.hellos.is_empty() || !self.judged.is_empty() || self.accept_ready || self.strangers_call
    }

    /// How long to wait for events: not at all while there is work.
    pub(super) fn patience(&self) -> Option<Duration> {
        let now_ms = self.tools.now.monotonic_ms;
        let is_open = self.rounds.is_open(now_ms);
        let busy = !self.ready.is_empty()
            || !self.greedy.is_empty()
            || self.thaw.holds_timers()
            || !self.bulks.is_empty()
            || !self.dirty.is_empty()
            || (is_open && self.strangers_wait())
            || self.inbox.is_woken()
            || self.drain_next.is_some()
            || self.may_announce();
        if busy {
            return Some(Duration::ZERO);
        }
        let alarms = [
            (!is_open).then_some(self.rounds.opens_at_ms()),
            self.accept_again_at_ms,
            self.stop_at_ms,
            self.announcement.due_at_ms(),
            self.rooms_due_at_ms(),
            (self.index == 0).then_some(self.forgive_at_ms),
        ];
        let alarm = alarms
            .into_iter()
            .flatten()
            .map(|at_ms| at_ms.saturating_sub(now_ms))
            .min();
        let wait_ms = self.wheel.next_in_ms(now_ms).into_iter().chain(alarm).min();
        wait_ms.map(Duration::from_millis)
    }

    pub(super) fn note(&mut self, change: Change) {
        match change.token {
            WAKER => {}
            STRANGERS => self.strangers_call = true,
            // Word of a listener that is closed already would have it wait for nothing, without pause.
            LISTENER => {
                self.accept_ready = self.listener.is_some() && self.accept_again_at_ms.is_none();
            }
            token => {
                let place = Place::of(token);
                let Some(connection) = self.slots.at(place) else {
                    return;
                };
                connection.readable |= change.readable;
                connection.read_closed |= change.read_closed;
                connection.writable |= change.writable;
                if connection.writable && connection.session.has_output() && !connection.in_dirty {
                    connection.in_dirty = true;
                    self.dirty.push(place);
                }
                self.enqueue(place);
            }
        }
    }

    /// Gives one input to a session and sees to what follows.
    pub(super) fn with<R>(
        &mut self,
        place: Place,
        input: impl FnOnce(&mut Session, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let connection = self.slots.at(place)?;
        let result = input(&mut connection.session, &mut self.tools.lend());
        self.after(place);
        Some(result)
    }

    /// What follows an input: the session's events, its clock, its output, its end.
    pub(super) fn after(&mut self, place: Place) {
        while !self.tools.events.is_empty() {
            let mut events = std::mem::take(&mut self.tools.events);
            events.drain(..).for_each(|event| self.handle_event(place, event));
            if self.tools.events.is_empty() {
                self.tools.events = events;
            }
        }
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        if connection.session.is_over() {
            return self.take_leave(place);
        }
        if connection.registered && !connection.session.is_ready() {
            self.leave(place);
        }
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        if let Some(deadline_ms) = connection.session.deadline_ms(&self.tools.limits) {
            self.wheel.arm(place, deadline_ms, &mut connection.armed);
        }
        if connection.writable && !connection.in_dirty && connection.session.has_output() {
            connection.in_dirty = true;
            self.dirty.push(place);
        }
        self.enqueue(place);
    }

    /// Writes what is to be written.
    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for place in dirty.drain(..) {
            self.flush_one(place);
        }
        // Those with more than their turn's worth have put themselves on the list again.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    pub(super) fn flush_one(&mut self, place: Place) {
        let Some(connection) = self.slots.at(place) else {
            return;
        };
        connection.in_dirty = false;
        for _ in 0..BURSTS_PER_TURN {
            if !connection.writable || !connection.session.has_output() {
                break;
            }
            self.burst.clear();
            let mut cx = self.tools.lend();
            connection.session.poll_transmit(&mut cx, &mut self.burst);
            match connection.write(&self.burst) {
                Moved::Bytes(written) => connection.session.handle_written(&mut cx, &self.burst, written),
                Moved::Blocked => connection.session.handle_written(&mut cx, &self.burst, 0),
                Moved::Gone => return self.end(place, "peer_gone"),
            }
        }
        self.after(place);
    }

    fn take_replies(&mut self) {
        for _ in 0..REPLIES_PER_TURN {
            let Ok((place, reply)) = self.inbox.replies.try_recv() else {
                return;
            };
            self.questions -= 1;
            self.handle_reply(place, reply);
        }
        self.inbox.call_again();
    }

    /// Sends what was asked of the cluster: at once for many, from this thread, for to wake another costs more than to send.
    fn send_questions(&mut self) {
        if std::mem::take(&mut self.asked) {
            self.upstream.flush();
        }
    }

    /// A judged login waits for its turn: sealing its answer costs elliptic curves.
    pub(super) fn queue_judged(&mut self, place: Place, result: Result<AuthenticateResponse, Unanswered>) {
        self.judged.push_back((place, result));
    }

    fn fire_timers(&mut self) {
        let now_ms = self.tools.now.monotonic_ms;
        let mut due = std::mem::take(&mut self.due);
        while !self.thaw.holds_timers()
            && let Some(tick) = self.wheel.turn(now_ms, &mut due)
        {
            for place in due.drain(..) {
                let Some(connection) = self.slots.at(place) else {
                    continue;
                };
                if connection.armed != tick {
                    continue;
                }
                connection.armed = super::wheel::Tick::NEVER;
                if connection.is_lingering() {
                    self.end(place, "over");
                    continue;
                }
                self.with(place, Session::handle_timer);
            }
        }
        self.due = due;
        if self.accept_again_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.accept_again_at_ms = None;
            self.accept_ready = self.listener.is_some();
        }
        if self.index == 0 && self.forgive_at_ms <= now_ms {
            self.forgive_at_ms = now_ms + FAILURE_HALF_LIFE_MS;
            self.shared.addresses.forgive();
        }
    }
}
