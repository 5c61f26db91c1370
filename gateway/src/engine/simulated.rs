//! Clients' connections in memory, and reactors that wait for them on virtual time: what a simulation puts in place of the
//! kernel and of threads. Everything else of the engine is what production runs.
//!
//! A [`Network`] is what one life of a gateway listens on. Its owner connects ([`Network::connect`]), carries the bytes
//! between clients and [`Wire`]s as late as it likes, and breaks wires. A wire takes a bounded number of bytes that nobody
//! has carried away, as a kernel's socket does.
#![expect(
    clippy::disallowed_types,
    reason = "a simulated network is shared with the one who carries its bytes; production has none of it"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mio::Token;
use tokio::sync::Notify;

use super::net::{self, Change};
use super::reactor::Reactor;

/// Bytes written by the gateway that nobody has carried away: about what `TCP_NOTSENT_LOWAT` and a small window hold.
const UNCARRIED_BYTES_MAX: usize = 64 * 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half-way, so a poisoned value is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one life of a gateway listens on: a queue of connections per reactor.
#[derive(Debug, Clone, Default)]
pub struct Network(Arc<Mutex<Vec<Listener>>>);

impl Network {
    /// Nobody listens yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn listeners(&self, count: usize) -> Vec<net::Listener> {
        let mut listeners = lock(&self.0);
        *listeners = (0..count).map(|_| Listener::default()).collect();
        listeners
            .iter()
            .map(|listener| net::Listener::Simulated(listener.clone()))
            .collect()
    }

    /// A connection from `peer`; which reactor accepts it is the caller's choice, as it is the kernel's in production.
    /// `None` while nobody listens.
    #[must_use]
    pub fn connect(&self, peer: SocketAddr, reactor: usize) -> Option<Wire> {
        let listeners = lock(&self.0);
        let listener = listeners.get(reactor.checked_rem(listeners.len())?)?;
        // The network's own and the reactor's, until that closes it.
        if Arc::strong_count(&listener.backlog) < 2 {
            return None;
        }
        let wire = Wire(Arc::default());
        lock(&listener.backlog).push_back((Stream(Arc::clone(&wire.0)), peer));
        let mut waits = lock(&listener.poller.0.waits);
        if let Some(token) = waits.listener {
            waits.note(token, |change| change.readable = true);
            drop(waits);
            listener.poller.0.arrived.notify_one();
        }
        Some(wire)
    }
}

/// Where one reactor's connections come from.
#[derive(Debug, Clone, Default)]
pub(super) struct Listener {
    backlog: Arc<Mutex<VecDeque<(Stream, SocketAddr)>>>,
    poller: Poller,
}

impl Listener {
    pub(super) fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        lock(&self.backlog)
            .pop_front()
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    pub(super) fn poller(&self) -> Poller {
        self.poller.clone()
    }
}

/// What a reactor waits with: events, and wakes.
#[derive(Debug, Clone, Default)]
pub(super) struct Poller(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    waits: Mutex<Waits>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waits {
    changes: BTreeMap<Token, Change>,
    listener: Option<Token>,
    woken: bool,
}

impl Waits {
    fn note(&mut self, token: Token, set: impl FnOnce(&mut Change)) {
        set(self.changes.entry(token).or_insert(Change {
            token,
            readable: false,
            read_closed: false,
            writable: false,
        }));
    }
}

impl Poller {
    pub(super) fn listen(&self, token: Token) {
        lock(&self.0.waits).listener = Some(token);
    }

    pub(super) fn register(&self, stream: &mut Stream, token: Token) {
        let mut pipe = lock(&stream.0);
        pipe.registered = Some((self.clone(), token));
        let closed = pipe.is_finished();
        let readable = closed || !pipe.inbound.is_empty();
        drop(pipe);
        self.note(token, |change| {
            change.readable |= readable;
            change.read_closed |= closed;
            change.writable = true;
        });
    }

    pub(super) fn wake(&self) {
        lock(&self.0.waits).woken = true;
        self.0.arrived.notify_one();
    }

    fn note(&self, token: Token, set: impl FnOnce(&mut Change)) {
        lock(&self.0.waits).note(token, set);
        self.0.arrived.notify_one();
    }

    /// Waits as mio's poll does; with no patience it lets the process's other tasks go on.
    async fn wait(&self, timeout: Option<Duration>) -> Vec<Change> {
        if timeout == Some(Duration::ZERO) {
            tokio::task::yield_now().await;
            return self.take();
        }
        let sleep = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(sleep);
        loop {
            {
                let waits = lock(&self.0.waits);
                if waits.woken || !waits.changes.is_empty() {
                    drop(waits);
                    return self.take();
                }
            }
            tokio::select! {
                biased;
                () = self.0.arrived.notified() => {}
                () = &mut sleep => return self.take(),
            }
        }
    }

    fn take(&self) -> Vec<Change> {
        let mut waits = lock(&self.0.waits);
        waits.woken = false;
        std::mem::take(&mut waits.changes).into_values().collect()
    }
}

/// The two directions of a connection.
#[derive(Debug, Default)]
struct Pipe {
    inbound: VecDeque<u8>,
    outbound: Vec<u8>,
    /// The client has finished, orderly.
    finished: bool,
    /// The connection is broken.
    broken: bool,
    /// The gateway has let go of it, or writes nothing any more.
    released: bool,
    /// The gateway has found no room to write.
    awaits_room: bool,
    registered: Option<(Poller, Token)>,
}

impl Pipe {
    fn is_finished(&self) -> bool {
        self.finished || self.broken
    }
}

/// The gateway's end of a connection.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Mutex<Pipe>>);

impl Stream {
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut pipe = lock(&self.0);
        if pipe.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if pipe.inbound.is_empty() {
            return if pipe.finished {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        let len = pipe.inbound.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(pipe.inbound.drain(..len)) {
            *to = from;
        }
        Ok(len)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = lock(&self.0);
        if pipe.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = UNCARRIED_BYTES_MAX.saturating_sub(pipe.outbound.len());
        let taken = &bytes[..room.min(bytes.len())];
        pipe.outbound.extend_from_slice(taken);
        pipe.awaits_room |= taken.len() < bytes.len();
        if taken.is_empty() && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken.len())
    }

    /// Nothing more will be written.
    pub(super) fn finish(&mut self) {
        lock(&self.0).released = true;
    }

    pub(super) fn deregister(&mut self) {
        lock(&self.0).registered = None;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut pipe = lock(&self.0);
        pipe.released = true;
        pipe.registered = None;
    }
}

/// The network's end of a connection.
#[derive(Debug, Clone)]
pub struct Wire(Arc<Mutex<Pipe>>);

impl Wire {
    /// Bytes of the client have come.
    pub fn deliver(&self, bytes: &[u8]) {
        self.change(|pipe| pipe.inbound.extend(bytes), |change| change.readable = true);
    }

    /// The client has finished; what came before is still to be read.
    pub fn finish(&self) {
        self.change(
            |pipe| pipe.finished = true,
            |change| {
                change.readable = true;
                change.read_closed = true;
            },
        );
    }

    /// The connection is reset; what was on the way is lost.
    pub fn break_off(&self) {
        self.change(
            |pipe| pipe.broken = true,
            |change| {
                change.readable = true;
                change.read_closed = true;
                change.writable = true;
            },
        );
    }

    /// Carries away what the gateway has written.
    pub fn take(&self, out: &mut Vec<u8>) {
        let mut pipe = lock(&self.0);
        out.append(&mut pipe.outbound);
        if std::mem::take(&mut pipe.awaits_room)
            && let Some((poller, token)) = pipe.registered.clone()
        {
            drop(pipe);
            poller.note(token, |change| change.writable = true);
        }
    }

    /// Whether the gateway has closed it, or its half of it.
    #[must_use]
    pub fn is_released(&self) -> bool {
        lock(&self.0).released
    }

    fn change(&self, apply: impl FnOnce(&mut Pipe), set: impl FnOnce(&mut Change)) {
        let mut pipe = lock(&self.0);
        apply(&mut pipe);
        if let Some((poller, token)) = pipe.registered.clone() {
            drop(pipe);
            poller.note(token, set);
        }
    }
}

impl Reactor {
    /// Runs until it is ordered to stop, as a task on virtual time; see [`Reactor::run`].
    pub(super) async fn run_simulated(mut self) {
        let net::Poller::Simulated(poller) = &self.poll else {
            tracing::error!("a reactor of the kernel's network needs a thread");
            return;
        };
        let poller = poller.clone();
        loop {
            let timeout = self.patience();
            let changes = poller.wait(timeout).await;
            self.wake_up(timeout);
            for change in changes {
                self.note(change);
            }
            if let Err(error) = self.turn() {
                tracing::error!(%error, "a reactor failed");
                return;
            }
            if self.is_done() {
                return;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::reactor::LISTENER;
    use super::*;

    fn accepted() -> (Wire, Stream, Poller) {
        let network = Network::new();
        let mut listeners = network.listeners(1);
        let Some(net::Listener::Simulated(listener)) = listeners.pop() else {
            unreachable!("a simulated network has simulated listeners")
        };
        let wire = network.connect(([10, 0, 0, 1], 1).into(), 7).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let poller = listener.poller();
        poller.listen(LISTENER);
        poller.register(&mut stream, Token(5));
        (wire, stream, poller)
    }

    #[test]
    fn nobody_connects_to_a_listener_that_is_closed() {
        let network = Network::new();
        let listeners = network.listeners(1);
        assert!(network.connect(([10, 0, 0, 1], 1).into(), 0).is_some());
        drop(listeners);
        assert!(network.connect(([10, 0, 0, 1], 1).into(), 0).is_none());
    }

    #[test]
    fn a_connection_brings_events_once_and_blocks_when_there_is_nothing() {
        let (wire, mut stream, poller) = accepted();
        assert!(poller.take().pop().unwrap().writable);
        let mut buffer = [0; 8];
        assert_eq!(
            stream.read(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        wire.deliver(b"abc");
        assert!(poller.take().pop().unwrap().readable);
        assert!(poller.take().is_empty());
        assert_eq!(stream.read(&mut buffer).unwrap(), 3);
        wire.finish();
        assert!(poller.take().pop().unwrap().read_closed);
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        drop(stream);
        assert!(wire.is_released());
    }

    #[test]
    fn a_full_wire_blocks_until_it_is_emptied_and_says_so_then() {
        let (wire, mut stream, poller) = accepted();
        poller.take();
        let bytes = vec![1; UNCARRIED_BYTES_MAX + 1];
        assert_eq!(stream.write(&bytes).unwrap(), UNCARRIED_BYTES_MAX);
        assert!(stream.write(&bytes).is_err());
        let mut out = Vec::new();
        wire.take(&mut out);
        assert_eq!(out.len(), UNCARRIED_BYTES_MAX);
        assert!(poller.take().pop().unwrap().writable);
        wire.break_off();
        assert!(stream.write(&bytes).is_err());
    }
}
