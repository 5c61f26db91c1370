//! One connection as its reactor keeps it: socket, session, and what is known of both.

use std::io;

use super::addresses::HandshakeTicket;
use super::net::Stream;
use super::wheel::Tick;
use crate::session::Session;

/// Unsent bytes the kernel may hold for one connection. Without it the kernel took 3.9 MB for a client that does not read,
/// and no bound of ours ever fired.
pub(crate) const NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;

/// Reads of what a peer still sends after our last word, some 30 KiB each: what was on its way, and no more.
const LINGER_READS: u8 = 16;

/// A socket and its session.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) stream: Stream,
    pub(super) session: Session,
    /// Until the handshake is finished.
    pub(super) ticket: Option<Box<HandshakeTicket>>,
    pub(super) armed: Tick,
    /// There may be something to read: events come only once.
    pub(super) readable: bool,
    /// The peer has finished: reading goes on until the end is read.
    pub(super) read_closed: bool,
    /// The kernel may take more.
    pub(super) writable: bool,
    /// On the list of those to be read.
    pub(super) in_ready: bool,
    /// On the list of those to be written.
    pub(super) in_dirty: bool,
    /// One of its last turns took more than one's share: so many times it is still read after the others.
    pub(super) greed: u8,
    /// Registered under its user; whoever ends it must say so.
    pub(super) registered: bool,
    /// The last word is said: so many times it is still read, to the peer's end.
    pub(super) lingers_reads: u8,
    /// Its number in the line of those who hold bytes of something unfinished; 0 when it holds none.
    pub(super) holder_number: u32,
}

/// How a read or write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// Not now.
    Blocked,
    /// The peer is gone.
    Gone,
}

impl Connection {
    /// A connection of which nothing is known yet.
    pub(super) fn new(stream: Stream, session: Session, ticket: Option<Box<HandshakeTicket>>) -> Self {
        Self {
            stream,
            session,
            ticket,
            armed: Tick::NEVER,
            readable: false,
            read_closed: false,
            writable: true,
            in_ready: false,
            in_dirty: false,
            greed: 0,
            registered: false,
            lingers_reads: 0,
            holder_number: 0,
        }
    }

    /// Nothing more will be written. Closing outright would reset a connection on which something came unread, and the
    /// reset overtakes the last word.
    pub(super) fn linger(&mut self) {
        // A peer that is gone already needs no end.
        let _gone = self.stream.finish();
        self.lingers_reads = LINGER_READS;
    }

    /// Whether only the peer's end is waited for.
    pub(super) fn is_lingering(&self) -> bool {
        self.lingers_reads > 0
    }

    /// Reads once into `buffer`. A short read has emptied the socket, and the next bytes bring an event.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Moved {
        let space = buffer.len();
        let moved = settle(|| self.stream.read(buffer));
        match moved {
            Moved::Bytes(0) => return Moved::Gone,
            Moved::Bytes(read) => self.readable = read == space || self.read_closed,
            Moved::Blocked => self.readable = false,
            Moved::Gone => {}
        }
        moved
    }

    /// Writes once. A short write has filled the socket, and room brings an event.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Moved {
        let moved = settle(|| self.stream.write(bytes));
        match moved {
            Moved::Bytes(written) => self.writable = written == bytes.len(),
            Moved::Blocked => self.writable = false,
            Moved::Gone => {}
        }
        moved
    }
}

fn settle(mut io: impl FnMut() -> io::Result<usize>) -> Moved {
    loop {
        match io() {
            Ok(moved) => return Moved::Bytes(moved),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Moved::Blocked,
                io::ErrorKind::Interrupted => {}
                _ => return Moved::Gone,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(
        feature = "simulation",
        ignore = "a simulated socket is larger than a descriptor"
    )]
    fn a_connection_at_rest_is_small() {
        // With the session's own state, its texts, its user's entry and its place on the wheel: below 768 bytes.
        assert!(size_of::<Connection>() <= 64, "{}", size_of::<Connection>());
    }
}
