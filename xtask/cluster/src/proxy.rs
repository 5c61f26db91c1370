//! A TCP proxy that fails as networks do: cut, frozen, or slow. What it carries it does not look at.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Bytes read at once; two such buffers for each connection.
const READ_BYTES: usize = 16 * 1024;

/// How a line between two processes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// It carries.
    Whole,
    /// Connections have ended, and new ones end at once.
    Cut,
    /// Nothing is passed on, and nobody is told: what was sent comes when the line is whole again.
    Frozen,
    /// What is read of either side is held up this long before it is passed on.
    Slow(Duration),
}

#[derive(Debug, Clone, Copy)]
struct State {
    line: Line,
    /// How often it was cut: a connection from before the last time is none.
    cuts: u64,
}

/// A listener on a free loopback port that passes connections on to a server. Everything ends with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
}

impl Proxy {
    /// Listens, with its tasks in that runtime.
    ///
    /// # Errors
    /// The port's.
    pub fn listen(runtime: &Handle, to: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let line = Line::Whole;
        let (state, watched) = watch::channel(State { line, cuts: 0 });
        let _inside = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        runtime.spawn(accept(listener, to, watched));
        Ok(Self { address, state })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the line is like this.
    pub fn set(&self, line: Line) {
        self.state.send_modify(|state| {
            state.line = line;
            state.cuts += u64::from(line == Line::Cut);
        });
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, state: watch::Receiver<State>) {
    let mut ending = state.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The proxy is gone.
            _ = ending.wait_for(|_| false) => return,
        };
        match accepted {
            Ok((client, _)) => {
                tokio::spawn(carry(client, to, state.clone()));
            }
            // Descriptors have run out; whoever was not taken in is still there in a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One connection to its end.
async fn carry(client: TcpStream, to: SocketAddr, mut state: watch::Receiver<State>) {
    let began = *state.borrow();
    if began.line == Line::Cut {
        return;
    }
    let is_cut = |state: &State| state.cuts != began.cuts;
    let mut cut = state.clone();
    let both = async {
        let thawed = state.wait_for(|state| state.line != Line::Frozen).await;
        drop(thawed.map_err(io::Error::other)?);
        let server = TcpStream::connect(to).await?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let (up, down) = (
            pass(from_client, to_server, state.clone()),
            pass(from_server, to_client, state),
        );
        // Either side's end is that of its direction; an error ends both.
        tokio::try_join!(up, down).map(|_| ())
    };
    tokio::select! {
        // What a connection ends with is of no interest: both sides see its end.
        _ = both => {}
        _ = cut.wait_for(is_cut) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = from.read(&mut bytes).await?;
        let line = {
            let thawed = state.wait_for(|state| state.line != Line::Frozen).await;
            thawed.map_err(io::Error::other)?.line
        };
        if let Line::Slow(delay) = line {
            tokio::time::sleep(delay).await;
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..count]).await?;
    }
}
