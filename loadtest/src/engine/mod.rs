//! One reactor over all the clients of a process: sockets, logins, heartbeats, reconnects.
//!
//! The protocol is that of the `protocol` crate; what clients say to one another is the scenario's. There is one thread, no
//! task and no buffer per connection. The order of calls: [`Engine::turn`], then [`Engine::next`] until it gives nothing,
//! with requests made meanwhile; they go out, many in one write, when the next turn begins.

mod alarm;
mod dial;
mod seat;
mod sources;
mod timers;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use mio::{Events, Interest, Poll, Token, Waker};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use whimbrel_protocol::client::Login;
use whimbrel_protocol::client_session::{ClientSession, End, Event, Failure, OutgoingRequest, RequestError};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{RequestId, Retry};
use whimbrel_protocol::{Suite, SystemEntropy};

use self::alarm::Alarm;
pub use self::dial::dial;
use self::seat::{Line, LineState, Seat};
pub use self::sources::{SOURCES_MAX, Sources};
pub(crate) use self::timers::Timers;
use crate::clock;
use crate::deployment::{Deployment, DeploymentArgs};
use crate::directory::{Directory, Target};
use crate::listing::{Listing, Listings};
use crate::record::Device;
use crate::tally::Counter;
use crate::token::Signer;

/// How long TCP may take.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// The longest random wait after the first failure, and after any number of them (docs/protocol.md, section 7).
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(60);
/// Before the next gateway of a round, after one that did not let in.
const STAGGER: Duration = Duration::from_millis(250);

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 4096;

/// Bytes read at once.
const READ_LEN: usize = 64 * 1024;

/// A turn is never longer, so that whoever leads the run is heard.
const TURN_LONGEST: Duration = Duration::from_millis(200);

const WAKER: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);

/// A device's place in the engine, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeatId(pub u32);

impl SeatId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Something that happened to a device.
#[derive(Debug)]
pub struct Happening {
    /// Which one.
    pub seat: SeatId,
    /// When it was seen.
    pub at: Duration,
    /// What.
    pub what: What,
}

/// See [`Happening`].
#[derive(Debug)]
pub enum What {
    /// The hello goes out. One request made now travels in the record of the Confirm.
    Hello,
    /// The session is registered.
    Ready {
        /// Its epoch.
        epoch: u64,
    },
    /// A request's outcome.
    Response {
        /// Which request.
        id: RequestId,
        /// The method's answer.
        result: Result<Bytes, Failure>,
    },
    /// A push.
    Push {
        /// What it tells.
        method: u32,
        /// The message.
        payload: Bytes,
    },
    /// Something may have been missed.
    SyncHint {
        /// The longest wait before syncing, milliseconds.
        spread_ms: u32,
    },
    /// A session is over, or a hello came to nothing; its requests will not be answered.
    Lost {
        /// Its epoch.
        epoch: u64,
        /// It had been ready.
        was_ready: bool,
        /// Why.
        why: String,
        /// The reason of the gateway's CLOSE, if it was one: a number from the table of codes.
        closed_for: Option<u32>,
    },
}

/// How a device leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// With a CLOSE.
    Close,
    /// The connection ends without a word: FIN.
    Fin,
    /// The connection is reset: RST.
    Reset,
}

/// Why an attempt failed, and what next.
struct Setback {
    why: String,
    closed_for: Option<u32>,
    retry_after_ms: u32,
    /// It is of no use to try again.
    for_good: bool,
    /// No fault of anybody's: once more, at once.
    at_once: bool,
}

impl Setback {
    fn of(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            closed_for: None,
            retry_after_ms: 0,
            for_good: false,
            at_once: false,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    poll: Poll,
    events: Option<Events>,
    alarm: Alarm,
    seats: Vec<Seat>,
    timers: Timers,
    /// Seats that have something to write.
    dirty: Vec<SeatId>,
    happenings: VecDeque<Happening>,
    directory: Directory,
    listings: Listings,
    signer: Signer,
    user_prefix: String,
    sources: Sources,
    rng: StdRng,
    incoming: Box<[u8]>,
    outgoing: Vec<u8>,
    online: u64,
    /// Unix milliseconds of the server less the monotonic clock, learnt at logins.
    server_offset_ms: Option<u64>,
    last_setback: Option<String>,
    /// What is counted.
    pub counter: Counter,
}

impl Engine {
    /// An engine without devices. `listing` is the LBS's first answer.
    ///
    /// # Errors
    /// When none of the gateways is to be believed, or the system refuses what a reactor needs.
    pub fn new(
        args: &DeploymentArgs,
        deployment: &Deployment,
        listing: &Listing,
        user_prefix: &str,
        sources: Sources,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut directory = Directory::new(deployment.root, preferred_suites().to_vec());
        directory
            .take_list(listing)
            .with_context(|| format!("the LBS at {} gives no gateway to log in to", deployment.lbs))?;
        let poll = Poll::new().context("the system gives no epoll instance")?;
        let alarm = Alarm::new(poll.registry(), ALARM).context("the system gives no timer")?;
        let waker =
            Arc::new(Waker::new(poll.registry(), WAKER).context("the system gives no event descriptor")?);
        let listings = Listings::start(args, deployment, move || {
            // A wake that fails costs a turn's length.
            let _ = waker.wake();
        })?;
        Ok(Self {
            poll,
            events: Some(Events::with_capacity(EVENTS_MAX)),
            alarm,
            seats: Vec::new(),
            timers: Timers::default(),
            dirty: Vec::new(),
            happenings: VecDeque::new(),
            directory,
            listings,
            signer: Signer::new(&deployment.app_key, &deployment.secret),
            user_prefix: user_prefix.to_owned(),
            sources,
            rng: StdRng::seed_from_u64(seed),
            incoming: vec![0; READ_LEN].into_boxed_slice(),
            outgoing: Vec::new(),
            online: 0,
            server_offset_ms: None,
            last_setback: None,
            counter: Counter::default(),
        })
    }

    /// Adds a device, which stays out until it is told to come in.
    pub fn add_seat(&mut self, device: Device) -> SeatId {
        let id = SeatId(u32::try_from(self.seats.len()).expect("fewer seats than descriptors"));
        self.seats.push(Seat {
            device,
            epoch: 0,
            generation: 0,
            wanted: false,
            due: Duration::ZERO,
            dial_at: None,
            failures: 0,
            tried: Vec::new(),
            line: None,
        });
        id
    }

    /// A user's name.
    #[must_use]
    pub fn uid(&self, device: Device) -> String {
        uid(&self.user_prefix, device)
    }

    /// Has a device log in at `due`, and again whenever it loses its connection.
    pub fn come(&mut self, id: SeatId, due: Duration) {
        if let Some(seat) = self.seats.get_mut(id.index())
            && seat.line.is_none()
        {
            seat.wanted = true;
            seat.due = due;
            seat.dial_at = Some(due);
            self.timers.arm(id.0, due);
        }
    }

    /// Has a device leave and stay out.
    pub fn leave(&mut self, id: SeatId, how: Leave) {
        let Some(seat) = self.seats.get_mut(id.index()) else {
            return;
        };
        seat.wanted = false;
        seat.dial_at = None;
        let Some(mut line) = seat.line.take() else {
            return;
        };
        self.online -= u64::from(line.is_ready());
        match how {
            Leave::Close => {
                if let LineState::Open { session, .. } = &mut line.state {
                    session.close();
                }
                // The connection ends here whether or not the good-bye fits.
                let _ = line.flush(&mut self.outgoing);
            }
            Leave::Fin => {}
            Leave::Reset => {
                // If it cannot be set the connection ends with a FIN, which the server bears as well.
                let _ = socket2::SockRef::from(&line.stream).set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// Has a device stay as long as its connection does, and not come back.
    pub fn stay_out(&mut self, id: SeatId) {
        if let Some(seat) = self.seats.get_mut(id.index()) {
            seat.wanted = false;
            seat.dial_at = None;
        }
    }

    /// Has a seat's next login be newer than those of another seat of the same device.
    pub fn outrank(&mut self, id: SeatId, other: SeatId) {
        let epoch = self.seats.get(other.index()).map_or(0, |seat| seat.epoch);
        if let Some(seat) = self.seats.get_mut(id.index()) {
            seat.epoch = seat.epoch.max(epoch);
        }
    }

    /// Whether a device is in.
    #[must_use]
    pub fn is_ready(&self, id: SeatId) -> bool {
        let line = self.seats.get(id.index()).and_then(|seat| seat.line.as_deref());
        line.is_some_and(Line::is_ready)
    }

    /// Whether a device is in, or will be some day.
    #[must_use]
    pub fn is_wanted(&self, id: SeatId) -> bool {
        self.seats.get(id.index()).is_some_and(|seat| seat.wanted)
    }

    /// How many devices are to be in by now and are not.
    #[must_use]
    pub fn away(&self, now: Duration) -> u64 {
        let is_late = |seat: &&Seat| seat.wanted && seat.due <= now;
        let late = self.seats.iter().filter(is_late);
        let late = late.filter(|seat| !seat.line.as_deref().is_some_and(Line::is_ready));
        late.count() as u64
    }

    /// How many devices are in.
    #[must_use]
    pub const fn online(&self) -> u64 {
        self.online
    }

    /// Why the last attempt failed or the last session was lost.
    #[must_use]
    pub fn last_setback(&self) -> Option<&str> {
        self.last_setback.as_deref()
    }

    /// The server's clock at `now`, as the last login told it; this machine's before there was one.
    #[must_use]
    pub fn server_ms(&self, now: Duration) -> u64 {
        self.server_offset_ms
            .map_or_else(clock::unix_ms, |offset| offset.saturating_add(millis(now)))
    }

    /// Asks something in a device's name.
    ///
    /// # Errors
    /// When the device is out, or its session takes no more.
    pub fn request(
        &mut self,
        id: SeatId,
        request: OutgoingRequest,
        now: Duration,
    ) -> Result<RequestId, RequestError> {
        let line = self
            .seats
            .get_mut(id.index())
            .and_then(|seat| seat.line.as_deref_mut());
        let Some(line) = line else {
            return Err(RequestError::Ended);
        };
        let LineState::Open { session, .. } = &mut line.state else {
            return Err(RequestError::Ended);
        };
        let asked = session.request(request, now)?;
        if !line.dirty {
            line.dirty = true;
            self.dirty.push(id);
        }
        Ok(asked)
    }

    /// The next thing that happened.
    #[expect(
        clippy::should_implement_trait,
        reason = "an engine is no collection that runs out"
    )]
    pub fn next(&mut self) -> Option<Happening> {
        self.happenings.pop_front()
    }

    /// Writes what is to be written, waits until something happens or `until` has come, and takes it in.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn turn(&mut self, until: Duration) -> anyhow::Result<()> {
        self.flush();
        let now = clock::now();
        let until = self
            .timers
            .next()
            .map_or(until, |next| next.min(until))
            .min(now.saturating_add(TURN_LONGEST));
        let timeout = if until <= now || !self.happenings.is_empty() {
            Some(Duration::ZERO)
        } else {
            self.alarm.set(until).context("the timer cannot be set")?;
            None
        };
        let mut events = self
            .events
            .take()
            .unwrap_or_else(|| Events::with_capacity(EVENTS_MAX));
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            polled => polled.context("the system refuses to wait for sockets")?,
        }
        let now = clock::now();
        for event in &events {
            if event.token() != WAKER && event.token() != ALARM {
                self.handle_socket(event, now);
            }
        }
        self.events = Some(events);
        while let Some(listing) = self.listings.poll() {
            if let Err(error) = self.directory.take_list(&listing)
                && !listing.is_empty()
            {
                self.last_setback = Some(error.to_string());
            }
        }
        while let Some(seat) = self.timers.take(now) {
            self.handle_due(SeatId(seat), now);
        }
        Ok(())
    }

    fn flush(&mut self) {
        let now = clock::now();
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.flush_seat(id, now);
        }
        self.dirty = dirty;
    }

    fn flush_seat(&mut self, id: SeatId, now: Duration) {
        let line = self
            .seats
            .get_mut(id.index())
            .and_then(|seat| seat.line.as_deref_mut());
        let Some(line) = line else {
            return;
        };
        line.dirty = false;
        match line.flush(&mut self.outgoing) {
            Ok(written) => {
                self.counter.tally.bytes_out += written;
                if let Some(due) = line.due() {
                    self.timers.arm(id.0, due);
                }
            }
            Err(error) => self.end_line(id, Setback::of(format!("cannot write: {error}")), now),
        }
    }

    fn handle_socket(&mut self, event: &mio::event::Event, now: Duration) {
        let Some((id, generation)) = split_token(event.token()) else {
            return;
        };
        let line = match self.seats.get_mut(id.index()) {
            Some(seat) if seat.generation == generation => seat.line.as_deref_mut(),
            _ => return,
        };
        let Some(line) = line else {
            return;
        };
        if let LineState::Dialing { target, .. } = &line.state {
            if let Some(error) = line.stream.take_error().ok().flatten() {
                let node = target.node.clone();
                return self.dial_failed(id, &node, &error, now);
            }
            if event.is_writable() && line.stream.peer_addr().is_ok() {
                let target = target.clone();
                self.say_hello(id, &target, now);
            }
            return;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read_seat(id, event.is_read_closed() || event.is_error(), now);
        }
        if event.is_writable() {
            self.flush_seat(id, now);
        }
    }

    /// Reads until there is no more: the kernel tells once.
    fn read_seat(&mut self, id: SeatId, until_end: bool, now: Duration) {
        loop {
            let seat = self.seats.get_mut(id.index());
            let Some(line) = seat.and_then(|seat| seat.line.as_deref_mut()) else {
                return;
            };
            let count = match line.read(&mut self.incoming) {
                Ok(None) => break,
                Ok(Some(0)) => {
                    return self.end_line(id, Setback::of("the gateway closed the connection"), now);
                }
                Ok(Some(count)) => count,
                Err(error) => return self.end_line(id, Setback::of(format!("cannot read: {error}")), now),
            };
            self.counter.tally.bytes_in += count as u64;
            if let LineState::Open { session, .. } = &mut line.state {
                session.handle_bytes(self.incoming.get(..count).unwrap_or_default(), now);
            }
            self.drain_events(id, now);
            if count < self.incoming.len() && !until_end {
                break;
            }
        }
        self.mark_dirty(id);
    }

    fn mark_dirty(&mut self, id: SeatId) {
        let seat = self.seats.get_mut(id.index());
        if let Some(line) = seat.and_then(|seat| seat.line.as_deref_mut())
            && !line.dirty
        {
            line.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Passes on what a session tells.
    fn drain_events(&mut self, id: SeatId, now: Duration) {
        loop {
            let Some(seat) = self.seats.get_mut(id.index()) else {
                return;
            };
            let Some(LineState::Open {
                session,
                ready,
                leave_at,
            }) = seat.line.as_deref_mut().map(|line| &mut line.state)
            else {
                return;
            };
            let Some(event) = session.poll_event() else {
                return;
            };
            let what = match event {
                Event::Connected { server_time_ms, .. } => {
                    self.server_offset_ms = Some(server_time_ms.saturating_sub(millis(now)));
                    continue;
                }
                Event::Ready => {
                    *ready = true;
                    seat.failures = 0;
                    seat.tried.clear();
                    self.online += 1;
                    self.counter.login(now.saturating_sub(seat.due));
                    What::Ready { epoch: seat.epoch }
                }
                Event::Response { id, result } => What::Response { id, result },
                Event::Push { method, payload } => What::Push { method, payload },
                Event::SyncHint { spread_ms } => What::SyncHint { spread_ms },
                Event::Reauth { .. } => {
                    let uid = uid(&self.user_prefix, seat.device);
                    let token = self.signer.sign(&uid, clock::unix_ms());
                    // A session that is ending has no use for it.
                    let _ = session.reauthenticate(&token, now);
                    continue;
                }
                Event::GoAway {
                    delay_window_ms,
                    refresh_directory,
                } => {
                    let window = Duration::from_millis(delay_window_ms.into());
                    *leave_at = Some(now + window.mul_f64(self.rng.random_range(0.0..1.0)));
                    if refresh_directory {
                        self.listings.ask();
                    }
                    continue;
                }
                Event::Ended(end) => {
                    let setback = self.judge_end(&end);
                    return self.end_line(id, setback, now);
                }
            };
            self.happenings.push_back(Happening {
                seat: id,
                at: now,
                what,
            });
        }
    }

    /// What the end of a session means for the next attempt.
    fn judge_end(&mut self, end: &End) -> Setback {
        let mut setback = Setback::of(match end {
            End::Closed { reason, .. } => format!("the gateway closed the session for reason {reason}"),
            End::LoginRefused { refusal, .. } => format!("the login was {refusal}"),
            End::Rejected(reject) => format!("the gateway rejected the hello: {:?}", reject.reason),
            End::Faulty(fault) => format!("the gateway broke the protocol: {fault}"),
            other => format!("{other:?}"),
        });
        match end {
            End::Closed { retry, reason } => {
                setback.closed_for = Some(*reason);
                match retry {
                    Retry::Never => setback.for_good = true,
                    Retry::After { ms } => setback.retry_after_ms = *ms,
                    Retry::NewToken => {}
                    Retry::NewDirectory => self.listings.ask(),
                }
            }
            End::LoginRefused { refusal, .. } => {
                setback.retry_after_ms = refusal.retry_after_ms;
                let wrong_for_all = [
                    Code::TokenInvalid,
                    Code::TokenMismatch,
                    Code::UnknownApp,
                    Code::UserDisabled,
                ];
                setback.for_good = refusal
                    .known_code()
                    .is_some_and(|code| wrong_for_all.contains(&code));
            }
            End::Rejected(reject) => {
                setback.retry_after_ms = reject.retry_after_ms;
                self.listings.ask();
            }
            End::StaleKey { descriptor } => match self.directory.take_current(descriptor) {
                Ok(()) => setback.at_once = true,
                Err(error) => setback.why = format!("the gateway's new descriptor is not believed: {error}"),
            },
            _ => self.listings.ask(),
        }
        setback
    }

    /// Takes a connection down, and plans the next one if the device is wanted.
    fn end_line(&mut self, id: SeatId, setback: Setback, now: Duration) {
        let Some(seat) = self.seats.get_mut(id.index()) else {
            return;
        };
        let Some(line) = seat.line.take() else {
            return;
        };
        let was_ready = line.is_ready();
        let had_hello = matches!(line.state, LineState::Open { .. });
        drop(line);
        if was_ready {
            self.online -= 1;
            if seat.wanted {
                self.counter.disconnected();
            }
        } else if !setback.at_once {
            self.counter.attempt_failed();
        }
        if had_hello {
            self.happenings.push_back(Happening {
                seat: id,
                at: now,
                what: What::Lost {
                    epoch: seat.epoch,
                    was_ready,
                    why: setback.why.clone(),
                    closed_for: setback.closed_for,
                },
            });
        }
        self.last_setback = Some(setback.why);
        if setback.for_good {
            seat.wanted = false;
        }
        if !seat.wanted {
            return;
        }
        let others = !was_ready && setback.retry_after_ms == 0 && seat.tried.len() < self.directory.len();
        let pause = if setback.at_once {
            Duration::ZERO
        } else if others {
            STAGGER
        } else {
            seat.tried.clear();
            seat.failures = seat.failures.saturating_add(1);
            let longest = PAUSE_FIRST
                .saturating_mul(1 << (seat.failures - 1).min(10))
                .min(PAUSE_LONGEST);
            let drawn = longest.mul_f64(self.rng.random_range(0.0..1.0));
            drawn.max(Duration::from_millis(setback.retry_after_ms.into()))
        };
        let at = now.saturating_add(pause);
        if was_ready {
            // A login of its own, due when the client means to make it.
            seat.due = at;
        }
        seat.dial_at = Some(at);
        self.timers.arm(id.0, at);
    }

    fn handle_due(&mut self, id: SeatId, now: Duration) {
        let Some(seat) = self.seats.get_mut(id.index()) else {
            return;
        };
        if let Some(at) = seat.dial_at {
            if at <= now {
                seat.dial_at = None;
                self.dial(id, now);
            } else {
                self.timers.arm(id.0, at);
            }
            return;
        }
        let Some(line) = seat.line.as_deref_mut() else {
            return;
        };
        match &mut line.state {
            LineState::Dialing { target, until } => {
                if *until <= now {
                    let node = target.node.clone();
                    return self.dial_failed(id, &node, &io::ErrorKind::TimedOut.into(), now);
                }
            }
            LineState::Open {
                session, leave_at, ..
            } => {
                if leave_at.is_some_and(|at| at <= now) {
                    session.close();
                    // The connection ends here whether or not the good-bye fits.
                    let _ = line.flush(&mut self.outgoing);
                } else {
                    session.handle_timeout(now);
                }
                self.drain_events(id, now);
            }
        }
        self.flush_seat(id, now);
    }

    fn dial(&mut self, id: SeatId, now: Duration) {
        let Some(seat) = self.seats.get_mut(id.index()) else {
            return;
        };
        let Some(target) = self.directory.pick(now, &seat.tried) else {
            return;
        };
        seat.tried.push(target.node.clone());
        seat.generation = seat.generation.wrapping_add(1) & GENERATION_MASK;
        let token = token_of(id, seat.generation);
        let source = self.sources.of(id.0, target.address);
        let dialed = dial(target.address, source).and_then(|mut stream| {
            self.poll
                .registry()
                .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match dialed {
            Ok(stream) => {
                let until = now.saturating_add(DIAL_WITHIN);
                seat.line = Some(Box::new(Line {
                    stream,
                    state: LineState::Dialing { target, until },
                    unsent: Vec::new(),
                    dirty: false,
                }));
                self.timers.arm(id.0, until);
            }
            Err(error) => {
                let failures = seat.failures.saturating_add(1);
                seat.failures = failures;
                self.counter.attempt_failed();
                self.last_setback = Some(format!(
                    "cannot dial {} at {}: {error}",
                    target.node, target.address
                ));
                let pause = PAUSE_FIRST.mul_f64(self.rng.random_range(0.0..1.0));
                seat.dial_at = Some(now.saturating_add(pause));
                self.timers.arm(id.0, now.saturating_add(pause));
            }
        }
    }

    fn dial_failed(&mut self, id: SeatId, node: &str, error: &io::Error, now: Duration) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.directory.set_aside(node, now);
        }
        self.listings.ask();
        self.end_line(id, Setback::of(format!("cannot dial {node}: {error}")), now);
    }

    /// TCP is there: the hello, and whatever the scenario wants to ask first.
    fn say_hello(&mut self, id: SeatId, target: &Target, now: Duration) {
        let Some(seat) = self.seats.get_mut(id.index()) else {
            return;
        };
        seat.epoch = clock::unix_ms().max(seat.epoch.saturating_add(1));
        let uid = uid(&self.user_prefix, seat.device);
        let login = Login {
            app_key: self.signer.app_key().to_owned(),
            token: self.signer.sign(&uid, clock::unix_ms()),
            uid,
            device_id: format!("load-{}", seat.device.number),
            login_epoch: seat.epoch,
            platform: "loadtest".to_owned(),
            ..Login::default()
        };
        match ClientSession::start(target.suite, &target.key, &login, now, &mut SystemEntropy) {
            Ok(session) => {
                if let Some(line) = seat.line.as_deref_mut() {
                    line.state = LineState::Open {
                        session,
                        ready: false,
                        leave_at: None,
                    };
                }
                self.happenings.push_back(Happening {
                    seat: id,
                    at: now,
                    what: What::Hello,
                });
                self.mark_dirty(id);
            }
            Err(error) => {
                let mut setback = Setback::of(format!("no hello can be made for {}: {error}", target.node));
                setback.for_good = true;
                self.end_line(id, setback, now);
            }
        }
    }
}

/// The customer's name for a user of a run.
#[must_use]
pub fn uid(prefix: &str, device: Device) -> String {
    format!("{prefix}{:06}", device.user.0)
}

/// Generations fit beside the seat in a token, and stay clear of the reserved ones.
const GENERATION_MASK: u32 = 0x7fff_ffff;

const fn token_of(id: SeatId, generation: u32) -> Token {
    Token((generation as usize) << 32 | id.0 as usize)
}

fn split_token(token: Token) -> Option<(SeatId, u32)> {
    let seat = u32::try_from(token.0 & 0xffff_ffff).ok()?;
    let generation = u32::try_from(token.0 >> 32).ok()?;
    Some((SeatId(seat), generation))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// AES where the processor helps, ChaCha elsewhere.
fn preferred_suites() -> &'static [Suite] {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    let has_aes = std::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has_aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    let has_aes = false;
    if has_aes {
        &[Suite::AesGcm, Suite::ChaChaPoly]
    } else {
        &[Suite::ChaChaPoly, Suite::AesGcm]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_seats_and_their_connections_apart() {
        for (seat, generation) in [(0, 0), (59_999, 1), (u32::MAX, GENERATION_MASK)] {
            let token = token_of(SeatId(seat), generation);
            assert_eq!(split_token(token), Some((SeatId(seat), generation)));
            assert!(token != WAKER && token != ALARM);
        }
    }
}
