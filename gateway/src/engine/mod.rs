//! The engine: reactors, each a thread with its own connections and whole user buckets.
//!
//! ```text
//!   kernel --accept--> any reactor --message 1 opened--> reactor of bucket CityHash(app, uid) mod N
//!                                                          |  ^
//!                                              Upstream    v  |  Port: replies, pushes, moves, orders
//!                                                        the shell (tokio): links, registry
//! ```
//! Reactors share no locks: what they share is counters, and bounded queues into each other ([`port`]). Clippy's
//! `disallowed-types` keeps locks and concurrent maps out of the whole crate but for the shell, which says where it
//! expects them. A panic in a reactor ends the process: half a gateway would keep its users from finding a whole one.

mod addresses;
mod connection;
mod ending;
mod listener;
mod making_room;
mod message;
mod net;
mod orders;
mod port;
mod pushes;
mod reactor;
mod reading;
mod rooms;
mod rounds;
mod serve;
#[cfg(feature = "simulation")]
pub(crate) mod simulated;
mod slots;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod stage;
mod thaw;
mod upstream;
mod users;
mod wheel;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use whimbrel_host::Clock;
use whimbrel_protocol::cluster::{PushResponse, PushTarget, SessionHandle, SessionRecord};
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::keys::KeyRing;
use crate::session::{Identity, Now, SessionLimits};
use addresses::Addresses;
use port::{Inbox, Port};
use reactor::Reactor;

pub(crate) use addresses::{HandshakeLimits, TurnedAway};
pub use listener::ListenError;
pub(crate) use message::{Asked, Brought, Order, PushPart, Reply};
pub(crate) use reactor::{ReactorReport, ReactorState};
pub(crate) use rooms::{BroadcastPart, Ordered, RoomFrame, RoomOrder};
#[cfg(feature = "fuzzing")]
pub(crate) use rooms::{bucket_of_ordered, obey};
pub(crate) use slots::Place;
pub(crate) use upstream::{Authenticate, Upstream};

/// The pause before an order is given again to a reactor that had no room for it: some of its turns.
const ORDER_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// What the whole engine is held to; reactors get equal shares of the bytes.
#[derive(Debug, Clone)]
pub(crate) struct EngineLimits {
    /// Bounds of each session.
    pub(crate) session: SessionLimits,
    /// Bounds before login.
    pub(crate) handshakes: HandshakeLimits,
    /// Connections in all states.
    pub(crate) connections_max: usize,
    /// Bytes of unfinished hellos, records, frames and held requests.
    pub(crate) held_bytes_max: usize,
    /// Bytes that wait for clients.
    pub(crate) owed_bytes_max: usize,
}

/// What every reactor knows, and the counters they share.
pub(crate) struct Shared {
    node: NodeId,
    incarnation: Incarnation,
    clock: Arc<dyn Clock>,
    limits: EngineLimits,
    addresses: Arc<Addresses>,
    connections: AtomicUsize,
    sessions: AtomicUsize,
    accept_errors: AtomicUsize,
    /// What each reactor held at the end of its last turn.
    holdings: Box<[Holdings]>,
}

/// Bytes a reactor holds.
#[derive(Debug, Default)]
struct Holdings {
    held: AtomicUsize,
    owed: AtomicUsize,
}

impl Shared {
    fn now(&self) -> Now {
        Now {
            monotonic_ms: u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX),
            unix_ms: self.clock.now_ms(),
        }
    }
}

impl Shared {
    /// The registry's record of a session.
    fn record(&self, identity: &Identity, reactor: u16, place: Place) -> SessionRecord {
        SessionRecord {
            app_key: identity.app().to_owned(),
            user_id: identity.user_id,
            device_id: identity.device().to_owned(),
            login_epoch: identity.login_epoch,
            session: Some(self.handle(reactor, place)),
            platform: identity.platform().to_owned(),
        }
    }

    /// A session's handle: only the one use of the one slot of this life of this gateway fits it.
    fn handle(&self, reactor: u16, place: Place) -> SessionHandle {
        SessionHandle {
            gateway: self.node.as_str().to_owned(),
            incarnation: self.incarnation.0,
            reactor: u32::from(reactor),
            slot: place.slot,
            generation: place.generation,
        }
    }
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The clients' port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Threads, or descriptors for events.
    #[error("cannot set up a reactor: {0}")]
    Reactor(#[from] io::Error),
}

/// Sockets that clients can connect to, though nobody accepts yet.
pub(crate) struct Listeners {
    listeners: Vec<net::Listener>,
    address: SocketAddr,
}

impl Listeners {
    /// Where they listen.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What the engine is started with.
pub(crate) struct EngineParts {
    /// This gateway.
    pub(crate) node: NodeId,
    /// This life of it.
    pub(crate) incarnation: Incarnation,
    /// Bounds.
    pub(crate) limits: EngineLimits,
    /// What time it is.
    pub(crate) clock: Arc<dyn Clock>,
    /// The first keys.
    pub(crate) keys: Arc<KeyRing>,
}

/// Running reactors. Dropping it leaves them running; see [`Engine::stop`].
pub(crate) struct Engine {
    address: SocketAddr,
    ports: Arc<[Arc<Port>]>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<ReactorReport>>,
}

impl Engine {
    /// Listens for clients of `reactors` reactors.
    ///
    /// # Errors
    /// When the address is in use, or not this machine's.
    pub(crate) fn listen(address: SocketAddr, reactors: usize) -> Result<Listeners, EngineError> {
        let (listeners, address) = listener::listen(address, reactors)?;
        let listeners = listeners.into_iter().map(net::Listener::Kernel).collect();
        Ok(Listeners { listeners, address })
    }

    /// The same on a simulated network; `address` is only what clients are told.
    #[cfg(feature = "simulation")]
    pub(crate) fn listen_simulated(
        network: &simulated::Network,
        address: SocketAddr,
        reactors: usize,
    ) -> Listeners {
        let listeners = network.listeners(reactors);
        Listeners { listeners, address }
    }

    /// Starts a reactor for each listener: a thread each, on a simulated network a task of the current runtime.
    ///
    /// # Errors
    /// When the system has no threads or descriptors.
    pub(crate) fn start(
        Listeners { listeners, address }: Listeners,
        parts: EngineParts,
        upstream: &Arc<dyn Upstream>,
    ) -> Result<Self, EngineError> {
        let EngineParts {
            node,
            incarnation,
            limits,
            clock,
            keys,
        } = parts;
        let reactors = listeners.len();
        let mut inboxes = Vec::with_capacity(reactors);
        for listener in &listeners {
            let poller = listener.poller()?;
            let inbox = Inbox::new(&poller, reactor::WAKER, limits.connections_max)?;
            inboxes.push((poller, inbox));
        }
        let ports: Arc<[Arc<Port>]> = inboxes.iter().map(|(_, inbox)| Arc::clone(&inbox.port)).collect();
        let shared = Arc::new(Shared {
            node,
            incarnation,
            clock,
            addresses: Addresses::new(limits.handshakes),
            limits,
            connections: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            accept_errors: AtomicUsize::new(0),
            holdings: (0..reactors).map(|_| Holdings::default()).collect(),
        });
        let mut threads = Vec::with_capacity(reactors);
        for (index, (inbox, listener)) in (0..).zip(inboxes.into_iter().zip(listeners)) {
            let (shared, upstream) = (Arc::clone(&shared), Arc::clone(upstream));
            let (ports, keys) = (Arc::clone(&ports), Arc::clone(&keys));
            #[cfg(feature = "simulation")]
            if matches!(listener, net::Listener::Simulated(_)) {
                let reactor = Reactor::new(index, shared, upstream, inbox, ports, listener, keys)?;
                tokio::spawn(reactor.run_simulated());
                continue;
            }
            let reactor = Reactor::new(index, shared, upstream, inbox, ports, listener, keys)?;
            let thread = std::thread::Builder::new().name(format!("reactor-{index}"));
            threads.push(thread.spawn(move || run_or_abort(index, reactor))?);
        }
        Ok(Self {
            address,
            ports,
            shared,
            threads,
        })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A way to the reactors that can be shared.
    pub(crate) fn reach(&self) -> Reach {
        Reach {
            ports: Arc::clone(&self.ports),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Whether there are threads for [`Engine::stop`] to wait for; on a simulated network there are none.
    pub(crate) fn has_threads(&self) -> bool {
        !self.threads.is_empty()
    }

    /// Closes every session and waits for the reactors to end: a second or so. Blocks.
    pub(crate) fn stop(self) -> ReactorReport {
        for port in self.ports.iter() {
            // A reactor that never hears of it would keep the process for ever.
            while !port.order(Order::Stop) {
                std::thread::sleep(ORDER_AGAIN_AFTER);
            }
        }
        self.threads
            .into_iter()
            .fold(ReactorReport::default(), |sum, thread| {
                let report = thread
                    .join()
                    .expect("a reactor that panics takes the process along");
                ReactorReport {
                    closed_at_stop: sum.closed_at_stop + report.closed_at_stop,
                }
            })
    }
}

/// The way to running reactors.
#[derive(Clone)]
pub(crate) struct Reach {
    ports: Arc<[Arc<Port>]>,
    shared: Arc<Shared>,
}

impl Reach {
    /// Delivers a push to its targets; `settle` learns what became of it once every reactor has taken its part.
    pub(crate) fn push(
        &self,
        targets: Vec<PushTarget>,
        brought: &Brought,
        settle: impl FnOnce(PushResponse) + Send + Sync + 'static,
    ) {
        let (by_reactor, strays) = self.by_reactor(targets);
        let (ports, targets): (Vec<_>, Vec<_>) = by_reactor.into_iter().unzip();
        let settle = move |mut response: PushResponse| {
            response.gone.extend(strays);
            settle(response);
        };
        let parts = PushPart::split(targets, brought, settle);
        ports
            .into_iter()
            .zip(parts)
            .for_each(|(port, part)| port.push(part));
    }

    /// This life of the gateway.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// Closes sessions of this life; those that are gone are left alone. Says whether every reactor had room for the
    /// order.
    pub(crate) fn close(&self, incarnation: u64, targets: Vec<PushTarget>, reason: u32) -> bool {
        if incarnation != self.shared.incarnation.0 {
            return true;
        }
        let (by_reactor, _) = self.by_reactor(targets);
        let order = |(port, targets): (&Arc<Port>, _)| port.order(Order::Close { targets, reason });
        let refused = by_reactor
            .into_iter()
            .filter_map(|part| (!order(part)).then_some(()))
            .count();
        refused == 0
    }

    /// Gives an order to every reactor, once each; waits for those that have no room for it now.
    pub(crate) async fn order_all(&self, order: &Order) {
        for port in self.ports.iter() {
            while !port.order(order.clone()) {
                tokio::time::sleep(ORDER_AGAIN_AFTER).await;
            }
        }
    }

    /// Connections in all states.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Relaxed)
    }

    /// Registered sessions.
    pub(crate) fn sessions(&self) -> usize {
        self.shared.sessions.load(Relaxed)
    }

    /// Accepts that failed.
    pub(crate) fn accept_errors(&self) -> usize {
        self.shared.accept_errors.load(Relaxed)
    }

    /// Handshakes that are not finished.
    pub(crate) fn unfinished_handshakes(&self) -> usize {
        self.shared.addresses.unfinished()
    }

    /// Bytes of unfinished hellos, records, frames and held requests.
    pub(crate) fn held_bytes(&self) -> usize {
        self.shared.holdings.iter().map(|of| of.held.load(Relaxed)).sum()
    }

    /// Bytes that wait for clients.
    pub(crate) fn owed_bytes(&self) -> usize {
        self.shared.holdings.iter().map(|of| of.owed.load(Relaxed)).sum()
    }

    /// How full the gateway is, in thousandths of the connections it may have.
    pub(crate) fn load_permille(&self) -> u32 {
        let max = self.shared.limits.connections_max.max(1);
        u32::try_from(self.connections().saturating_mul(1000) / max)
            .unwrap_or(1000)
            .min(1000)
    }

    /// The targets of each reactor that has any, and those of reactors that do not exist.
    #[expect(clippy::type_complexity, reason = "a pair of two lists, used once")]
    fn by_reactor(&self, targets: Vec<PushTarget>) -> (Vec<(&Arc<Port>, Vec<PushTarget>)>, Vec<PushTarget>) {
        let mut parts: Vec<Vec<PushTarget>> = self.ports.iter().map(|_| Vec::new()).collect();
        let mut strays = Vec::new();
        for target in targets {
            match parts.get_mut(target.reactor as usize) {
                Some(part) => part.push(target),
                None => strays.push(target),
            }
        }
        let parts = self.ports.iter().zip(parts).filter(|(_, part)| !part.is_empty());
        (parts.collect(), strays)
    }
}

/// Runs a reactor; if it panics or fails, so does the process, loudly and at once.
fn run_or_abort(index: u16, reactor: Reactor) -> ReactorReport {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reactor.run()));
    match outcome {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => {
            tracing::error!(reactor = index, %error, "a reactor failed; the process ends");
            std::process::abort();
        }
        Err(_) => {
            tracing::error!(reactor = index, "a reactor panicked; the process ends");
            std::process::abort();
        }
    }
}
