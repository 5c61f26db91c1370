//! One reactor over all the clients of a process: sockets, logins, heartbeats, reconnects.
//!
//! The protocol is that of the `protocol` crate; what clients say to one another is the scenario's. There is one thread, no
//! task and no buffer per connection. The order of calls: [`Engine::turn`], then [`Engine::next`] until it gives nothing,
//! with requests made meanwhile; they go out, many in one write, when the next turn begins.

mod alarm;
mod coming;
mod dial;
mod happening;
mod seat;
mod socket;
mod sources;
mod timers;
mod tokens;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mio::{Events, Poll, Waker};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use whimbrel_protocol::Suite;
use whimbrel_protocol::client_session::{OutgoingRequest, RequestError};
use whimbrel_protocol::frame::RequestId;

use self::alarm::Alarm;
pub use self::dial::dial;
pub use self::happening::{Happening, What};
use self::seat::{Line, LineState, Seat};
pub use self::sources::{SOURCES_MAX, Sources};
pub(crate) use self::timers::Timers;
use self::tokens::{ALARM, WAKER};
use crate::clock;
use crate::deployment::{Deployment, DeploymentArgs};
use crate::directory::Directory;
use crate::listing::{Listing, Listings};
use crate::record::Device;
use crate::tally::Counter;
use crate::token::Signer;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 4096;

/// Bytes read at once.
const READ_LEN: usize = 64 * 1024;

/// A turn is never longer, so that whoever leads the run is heard.
const TURN_LONGEST: Duration = Duration::from_millis(200);

/// A device's place in the engine, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeatId(pub u32);

impl SeatId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
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
        directory.take_list(listing).with_context(|| {
            format!(
                "the LBS at {} gives no gateway to log in to",
                deployment.lbs.join(", ")
            )
        })?;
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
}

/// The customer's name for a user of a run.
#[must_use]
pub fn uid(prefix: &str, device: Device) -> String {
    format!("{prefix}{:06}", device.user.0)
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
