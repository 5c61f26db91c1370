//! What a reactor needs of a network: the kernel's, by way of mio, or with the feature `simulation` one in memory.
//!
//! Both are edge-triggered alike: an event says that something may have changed, and comes once. Without the feature each
//! of these has one variant and costs nothing.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};

#[cfg(feature = "simulation")]
use super::simulated;

/// A client's connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Kernel(mio::net::TcpStream),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Stream),
}

impl Stream {
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.read(buffer),
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.read(buffer),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.write(bytes),
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.write(bytes),
        }
    }

    /// Ends the direction to the peer, behind what was written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.shutdown(std::net::Shutdown::Write),
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => {
                stream.finish();
                Ok(())
            }
        }
    }
}

/// Where clients' connections come from.
#[derive(Debug)]
pub(super) enum Listener {
    Kernel(mio::net::TcpListener),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Listener),
}

impl Listener {
    pub(super) fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Kernel(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Kernel(stream), peer))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Simulated(stream), peer))
            }
        }
    }

    /// What waits for this listener's connections, and for those of its reactor.
    pub(super) fn poller(&self) -> io::Result<Poller> {
        match self {
            Self::Kernel(_) => Ok(Poller::Kernel(Kernel::new()?)),
            #[cfg(feature = "simulation")]
            Self::Simulated(listener) => Ok(Poller::Simulated(listener.poller())),
        }
    }
}

/// The kernel's events. Those of the listener and of strangers, until they have confirmed, are kept apart from those of
/// sessions: a reactor can sleep through them until their next round.
#[derive(Debug)]
pub(super) struct Kernel {
    sessions: mio::Poll,
    strangers: mio::Poll,
    /// Strangers wake the reactor.
    is_watching: bool,
}

impl Kernel {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            sessions: mio::Poll::new()?,
            strangers: mio::Poll::new()?,
            is_watching: false,
        })
    }

    /// Waits for events of sessions, and for `Poller::watch`'s token.
    pub(super) fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        poll_once(&mut self.sessions, events, timeout)
    }
}

/// A poll that a signal interrupts has brought nothing.
fn poll_once(poll: &mut mio::Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}

/// What a reactor waits with.
#[derive(Debug)]
pub(super) enum Poller {
    Kernel(Kernel),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Poller),
}

impl Poller {
    /// From now on a waiting connection is an event, among those of strangers.
    pub(super) fn listen(&self, listener: &mut Listener, token: Token) -> io::Result<()> {
        match (self, listener) {
            (Self::Kernel(poll), Listener::Kernel(listener)) => {
                let registry = poll.strangers.registry();
                registry.register(listener, token, Interest::READABLE)
            }
            #[cfg(feature = "simulation")]
            (Self::Simulated(poller), Listener::Simulated(_)) => {
                poller.listen(token);
                Ok(())
            }
            #[cfg(feature = "simulation")]
            _ => Err(two_networks()),
        }
    }

    /// From now on what happens to a stranger's connection is an event among those of strangers.
    pub(super) fn register(&self, stream: &mut Stream, token: Token) -> io::Result<()> {
        match (self, stream) {
            (Self::Kernel(poll), Stream::Kernel(stream)) => {
                let registry = poll.strangers.registry();
                registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)
            }
            #[cfg(feature = "simulation")]
            (Self::Simulated(poller), Stream::Simulated(stream)) => {
                poller.register(stream, token);
                Ok(())
            }
            #[cfg(feature = "simulation")]
            _ => Err(two_networks()),
        }
    }

    /// Who was a stranger is none any more: what happens to the connection wakes the reactor. What happened before may be told
    /// once more.
    pub(super) fn promote(&self, stream: &mut Stream, token: Token) -> io::Result<()> {
        match (self, stream) {
            (Self::Kernel(poll), Stream::Kernel(stream)) => {
                poll.strangers.registry().deregister(stream)?;
                let registry = poll.sessions.registry();
                registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)
            }
            #[cfg(feature = "simulation")]
            (Self::Simulated(_), Stream::Simulated(_)) => Ok(()),
            #[cfg(feature = "simulation")]
            _ => Err(two_networks()),
        }
    }

    /// No events of a stranger's connection any more: it moves to another reactor.
    pub(super) fn deregister(&self, stream: &mut Stream) -> io::Result<()> {
        match (self, stream) {
            (Self::Kernel(poll), Stream::Kernel(stream)) => poll.strangers.registry().deregister(stream),
            #[cfg(feature = "simulation")]
            (Self::Simulated(_), Stream::Simulated(stream)) => {
                stream.deregister();
                Ok(())
            }
            #[cfg(feature = "simulation")]
            _ => Err(two_networks()),
        }
    }

    /// From now on strangers' events wake the reactor, as `token`, or do not. In a simulation they always do.
    pub(super) fn watch(&mut self, token: Token, is_watching: bool) -> io::Result<()> {
        match self {
            Self::Kernel(poll) => {
                if std::mem::replace(&mut poll.is_watching, is_watching) == is_watching {
                    return Ok(());
                }
                let strangers = poll.strangers.as_raw_fd();
                let registry = poll.sessions.registry();
                if is_watching {
                    registry.register(&mut SourceFd(&strangers), token, Interest::READABLE)
                } else {
                    registry.deregister(&mut SourceFd(&strangers))
                }
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Ok(()),
        }
    }

    /// Whether strangers' events wake the reactor.
    pub(super) fn is_watching(&self) -> bool {
        match self {
            Self::Kernel(poll) => poll.is_watching,
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => true,
        }
    }

    /// What has happened to strangers; waits for nothing. A simulation tells it with all the rest.
    pub(super) fn look_at_strangers(&mut self, events: &mut Events) -> io::Result<()> {
        match self {
            Self::Kernel(poll) => poll_once(&mut poll.strangers, events, Some(Duration::ZERO)),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => {
                events.clear();
                Ok(())
            }
        }
    }

    pub(super) fn waker(&self, token: Token) -> io::Result<Waker> {
        match self {
            Self::Kernel(poll) => Ok(Waker::Kernel(mio::Waker::new(poll.sessions.registry(), token)?)),
            #[cfg(feature = "simulation")]
            Self::Simulated(poller) => Ok(Waker::Simulated(poller.clone())),
        }
    }
}

#[cfg(feature = "simulation")]
fn two_networks() -> io::Error {
    io::Error::other("a reactor serves the kernel's network or a simulated one, not both")
}

/// Ends a reactor's wait, from any thread.
#[derive(Debug)]
pub(super) enum Waker {
    Kernel(mio::Waker),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Poller),
}

impl Waker {
    pub(super) fn wake(&self) -> io::Result<()> {
        match self {
            Self::Kernel(waker) => waker.wake(),
            #[cfg(feature = "simulation")]
            Self::Simulated(poller) => {
                poller.wake();
                Ok(())
            }
        }
    }
}

/// That something may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    /// With what.
    pub(super) token: Token,
    /// There may be something to read.
    pub(super) readable: bool,
    /// The peer has finished, or failed.
    pub(super) read_closed: bool,
    /// There may be room to write.
    pub(super) writable: bool,
}

impl Change {
    pub(super) fn of(event: &mio::event::Event) -> Self {
        let read_closed = event.is_read_closed() || event.is_error();
        Self {
            token: event.token(),
            readable: event.is_readable() || read_closed,
            read_closed,
            writable: event.is_writable(),
        }
    }
}
