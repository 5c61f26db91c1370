//! Dialling a gateway, and carrying bytes between its socket and the driver.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use super::race::DialError;

/// Bytes read at once: a few records.
const READ_LEN: usize = 16 * 1024;

/// Connects to `host:port`.
pub(crate) async fn dial(endpoint: &str) -> Result<TcpStream, DialError> {
    let stream = TcpStream::connect(endpoint)
        .await
        .map_err(|error| classify(&error))?;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small frames may wait for others");
    }
    Ok(stream)
}

/// Tells "no network" from "refused".
pub(crate) fn classify(error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable => DialError::NoNetwork,
        io::ErrorKind::TimedOut => DialError::TimedOut,
        // Name resolution fails without an error of the system's; without a network it is the first thing to fail.
        _ if error.raw_os_error().is_none() => DialError::NoNetwork,
        _ => DialError::Refused,
    }
}

/// What a socket has to say.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Bytes.
    Bytes(Vec<u8>),
    /// It is over.
    Down,
}

/// The driver's end of a socket. Dropping it ends both tasks once what was written is out.
#[derive(Debug)]
pub(crate) struct Socket {
    writer: mpsc::UnboundedSender<Vec<u8>>,
    reading: Reading,
    writing: JoinHandle<()>,
}

/// Ends with its owner: a peer that never closes keeps no task alive.
#[derive(Debug)]
struct Reading(AbortHandle);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Socket {
    /// Reads into `heard`, which waits when the driver does: a client that cannot follow lets TCP slow the gateway.
    pub(crate) fn open<T: Send + 'static>(
        stream: TcpStream,
        heard: mpsc::Sender<T>,
        wrap: impl Fn(Heard) -> T + Send + 'static,
    ) -> Self {
        let (mut input, mut output) = stream.into_split();
        // Counts nothing itself: what waits here is what a session lets out, `client_session::requests::IN_FLIGHT_MAX` requests and
        // acknowledgements in their pace.
        let (writer, mut to_write) = mpsc::unbounded_channel::<Vec<u8>>();
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; READ_LEN];
            loop {
                let said = match input.read(&mut buffer).await {
                    Ok(len) if len > 0 => Heard::Bytes(buffer.get(..len).unwrap_or_default().to_vec()),
                    Ok(_) | Err(_) => Heard::Down,
                };
                let down = matches!(said, Heard::Down);
                if heard.send(wrap(said)).await.is_err() || down {
                    return;
                }
            }
        });
        let writing = tokio::spawn(async move {
            while let Some(bytes) = to_write.recv().await {
                // A socket that cannot be written to is soon seen by its reader.
                if output.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        Self {
            writer,
            reading: Reading(reading.abort_handle()),
            writing,
        }
    }

    pub(crate) fn write(&self, bytes: Vec<u8>) {
        // The writer is gone only when the socket is; its reader says so.
        let _gone = self.writer.send(bytes);
    }

    /// Ends reading; gives the task that still writes what was said last.
    pub(crate) fn finish(self) -> JoinHandle<()> {
        drop(self.reading);
        self.writing
    }
}
