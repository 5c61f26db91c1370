//! Listening: one socket per reactor on the same address, among which the kernel spreads the connections.
//!
//! Chosen over one listener in one reactor because accepting, reading a hello and opening message 1 are the greater part
//! of a handshake's CPU: so they are spread over the cores before anything is known of the user. The price is that
//! `SO_REUSEPORT` would let a second process of the same user share the port unnoticed; so the address is bound once
//! without it first, which fails as it should when somebody is there.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::connection::NOTSENT_LOWAT_BYTES;
use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel completes before they are accepted: a second's worth of a reconnect storm on one reactor.
const BACKLOG: i32 = 4096;

/// How long accepting rests after the system had no descriptor or memory left: an event for the waiting connections has
/// been and will not come again.
pub(super) const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Free ports that are tried for before listening fails.
const FREE_PORT_TRIES: usize = 8;

/// Accepts that failed since last nobody waited to be accepted. Without descriptors each connection that ends makes room for
/// one more, so that single accepts succeed all along: what has ended is told only when everybody has been taken in.
#[derive(Debug, Default)]
pub(super) struct AcceptTrouble {
    failed: u64,
}

impl AcceptTrouble {
    /// Accepting has failed; says whether that is news.
    pub(super) fn has_failed(&mut self) -> bool {
        self.failed += 1;
        self.failed == 1
    }

    /// Nobody waits any more; says how often accepting has failed, if it has.
    pub(super) fn is_over(&mut self) -> Option<u64> {
        let failed = std::mem::take(&mut self.failed);
        (failed > 0).then_some(failed)
    }
}

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for clients on {address}: {source}; is another gateway running there? Change `gateway.listen`, or end it"
)]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

/// `count` listeners on `address`; port 0 takes a free one, the same for all.
///
/// # Errors
/// When the address is in use, or not this machine's.
pub(super) fn listen(
    address: SocketAddr,
    count: usize,
) -> Result<(Vec<TcpListener>, SocketAddr), ListenError> {
    for _ in 0..FREE_PORT_TRIES {
        match listen_once(address, count) {
            // Somebody was given the same free port between our two looks at it.
            Err(error) if address.port() == 0 && error.source.kind() == io::ErrorKind::AddrInUse => {}
            listening => return listening,
        }
    }
    listen_once(address, count)
}

fn listen_once(address: SocketAddr, count: usize) -> Result<(Vec<TcpListener>, SocketAddr), ListenError> {
    let failed = |source| ListenError { address, source };
    let probe = bind(address, false).map_err(failed)?;
    let address = local_address(&probe).map_err(failed)?;
    drop(probe);
    let listeners = (0..count).map(|_| {
        let socket = bind(address, true)?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from_std(socket.into()))
    });
    Ok((listeners.collect::<io::Result<_>>().map_err(failed)?, address))
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier process that still linger do not keep a new one from the address.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Linux copies both to every accepted socket: two system calls less for each of them.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    socket.bind(&address.into())?;
    if !shared {
        // With SO_REUSEADDR two sockets may be bound as long as neither listens: only listening proves the place free.
        socket.listen(1)?;
    }
    Ok(socket)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    address
        .as_socket()
        .ok_or_else(|| io::Error::other("the socket has no internet address"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn trouble_is_news_once_and_counted_until_it_is_over() {
        let mut trouble = AcceptTrouble::default();
        assert_eq!(trouble.is_over(), None);
        assert!(trouble.has_failed());
        assert!(!trouble.has_failed() && !trouble.has_failed());
        assert_eq!(trouble.is_over(), Some(3));
        assert_eq!(trouble.is_over(), None);
        assert!(trouble.has_failed());
    }

    #[test]
    fn all_listeners_share_one_free_port() {
        let (listeners, address) = listen(loopback(), 3).unwrap();
        assert_ne!(address.port(), 0);
        assert!(
            listeners
                .iter()
                .all(|listener| listener.local_addr().unwrap() == address)
        );
    }

    #[test]
    fn accepted_sockets_have_the_options_that_bound_what_the_kernel_holds() {
        let (listeners, address) = listen(loopback(), 1).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT_BYTES);
    }

    #[test]
    fn a_port_in_use_is_named_with_the_cure_even_if_the_other_shares_it() {
        let (_listeners, address) = listen(loopback(), 2).unwrap();
        let error = listen(address, 2).unwrap_err().to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("listen"),
            "{error}"
        );
    }
}
