//! A raw TCP connection to the gateway.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use socket2::{Domain, Socket, Type};
use whimbrel_protocol::answer::{Answer, AnswerStep};

use crate::table::Gets;

/// The gateway answers or closes within this: far above what it takes, far below the limits that rows about patience
/// are for.
pub(crate) const REACTS_WITHIN: Duration = Duration::from_secs(6);

/// See the module.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
}

/// What a look at a connection shows.
#[derive(Debug)]
pub(crate) enum Seen {
    Bytes,
    Closed,
    Nothing,
}

impl Peer {
    pub(crate) fn connect(to: SocketAddr, from: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket
            .bind(&SocketAddr::from((from, 0)).into())
            .with_context(|| format!("coming from {from}"))?;
        socket.connect_timeout(&to.into(), REACTS_WITHIN)?;
        socket.set_tcp_nodelay(true)?;
        let stream = TcpStream::from(socket);
        stream.set_write_timeout(Some(REACTS_WITHIN))?;
        Ok(Self { stream })
    }

    /// Sends, as far as the gateway still listens; whether it does shows in what can be read.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Says that nothing more will come.
    pub(crate) fn send_end(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Appends what comes next to `received`.
    pub(crate) fn look(&mut self, received: &mut Vec<u8>, within: Duration) -> anyhow::Result<Seen> {
        // Zero would mean for ever.
        self.stream
            .set_read_timeout(Some(within.max(Duration::from_micros(100))))?;
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(Seen::Closed),
            Ok(len) => {
                received.extend_from_slice(chunk.get(..len).unwrap_or_default());
                Ok(Seen::Bytes)
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(Seen::Closed),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(Seen::Nothing),
                _ => Err(error.into()),
            },
        }
    }

    /// Everything until the gateway closes, which it must.
    pub(crate) fn rest(&mut self) -> anyhow::Result<Vec<u8>> {
        let deadline = Instant::now() + REACTS_WITHIN;
        let mut received = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.look(&mut received, left)? {
                Seen::Closed => return Ok(received),
                Seen::Bytes | Seen::Nothing if !left.is_zero() => {}
                _ => bail!(
                    "the gateway keeps the connection; it sent {} bytes",
                    received.len()
                ),
            }
        }
    }

    /// What a hello, or what should be one, gets: an answer and the end, or just the end.
    pub(crate) fn verdict(&mut self) -> anyhow::Result<Gets> {
        let received = self.rest()?;
        if received.is_empty() {
            return Ok(Gets::Silence);
        }
        let AnswerStep::Complete { answer, consumed } = Answer::parse(&received)? else {
            bail!("the answer was cut short: {received:?}");
        };
        ensure!(consumed == received.len(), "something stands behind the answer");
        Ok(match answer {
            Answer::Reject(reject) => Gets::Reject(reject.reason),
            Answer::StaleKey(_) => Gets::StaleKey,
            answer => bail!("unexpected {answer:?}"),
        })
    }
}
