//! A link over one TCP connection, from the first byte to the last: the shell around handshake, codec and queue.

// No bytes of a peer index anything; what is reckoned here is times and what was written.
#![deny(clippy::indexing_slicing)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};
use whimbrel_protocol::cluster::Envelope;
use whimbrel_protocol::record::{self, RECORD_LEN_MAX, RecordStep, SERVER_PLAINTEXT_MAX};
use whimbrel_protocol::{SessionKeys, Side, SystemEntropy};

use crate::codec::{self, Decoder};
use crate::endpoint::{Admission, Shared};
use crate::error::LinkError;
use crate::handshake::{
    self, ALREADY_LINKED, ANSWER_HEADER_LEN, Acceptor, Dialer, HELLO_HEADER_LEN, HelloHeader, SUPERSEDED,
};
use crate::identity::Identity;
use crate::link::{DownReason, Link, LinkEvent};

/// Bytes of envelopes taken for one write: a few records. More only delays what is urgent.
pub(crate) const BURST_BYTES: usize = 128 * 1024;
/// Scratch that has grown beyond this for one large envelope is given back.
const SCRATCH_KEEP_BYTES: usize = 512 * 1024;

/// Steps in which a silent peer is waited for: a standstill of this process counts as one of them.
const WAIT_STEPS: u32 = 4;

/// How long a refused peer may take to read why and close.
const LINGER: Duration = Duration::from_millis(500);
/// What a refused peer may have sent already: more than any hello.
const LINGER_BYTES: u64 = 4_096;

/// A connection whose ends know each other.
pub(crate) struct Connection {
    reader: Reader,
    pub(crate) writer: Writer,
}

/// Shakes hands on a connection this node made.
pub(crate) async fn dial(shared: &Shared, address: &str) -> Result<(Connection, Identity), LinkError> {
    let io = |source| LinkError::Io {
        peer: address.to_owned(),
        source,
    };
    let handshake = async {
        let stream = TcpStream::connect(address).await.map_err(io)?;
        let (mut read, mut write) = split(stream).map_err(io)?;
        let (dialer, hello) = Dialer::new(&shared.secret, &shared.identity, &mut SystemEntropy);
        write.write_all(&hello).await.map_err(io)?;
        let mut header = [0; ANSWER_HEADER_LEN];
        read.read_exact(&mut header).await.map_err(io)?;
        let (kind, len) = handshake::parse_answer_header(header, address)?;
        let mut body = vec![0; len];
        read.read_exact(&mut body).await.map_err(io)?;
        let (keys, peer) = dialer.finish(kind, &body, &shared.identity, address)?;
        let mut connection = Connection::new(read, write, keys);
        // The acceptor believes in us once this opens.
        connection.writer.append_keepalive();
        while connection.writer.write_burst(&[]).map_err(io)? == Written::Blocked {
            connection.writer.half.writable().await.map_err(io)?;
        }
        Ok((connection, peer))
    };
    within(shared.options.handshake_timeout, address, handshake).await
}

/// Shakes hands on a connection another node made.
pub(crate) async fn accept(
    shared: &Shared,
    stream: TcpStream,
    from: &str,
) -> Result<(Connection, Identity), LinkError> {
    let io = |source| LinkError::Io {
        peer: from.to_owned(),
        source,
    };
    let handshake = async {
        let (mut read, mut write) = split(stream).map_err(io)?;
        let mut header = [0; HELLO_HEADER_LEN];
        read.read_exact(&mut header).await.map_err(io)?;
        let header = match HelloHeader::parse(header, from) {
            Ok(header) => header,
            Err(away) => return Err(turn_away(&mut read, &mut write, &away.answer, away.error).await),
        };
        let mut message = vec![0; header.message_len];
        read.read_exact(&mut message).await.map_err(io)?;
        let (acceptor, hello) =
            match Acceptor::new(&header, &message, &shared.secret, from, &mut SystemEntropy) {
                Ok(accepted) => accepted,
                Err(away) => return Err(turn_away(&mut read, &mut write, &away.answer, away.error).await),
            };
        let peer = handshake::introduce(hello, &shared.identity, from)
            .and_then(|peer| shared.may_link(&peer, from).map(|()| peer));
        let peer = match peer {
            Ok(peer) => peer,
            Err(error) => {
                let refusal = match &error {
                    LinkError::AlreadyLinked { .. } => ALREADY_LINKED.to_owned(),
                    LinkError::EarlierLife { .. } => SUPERSEDED.to_owned(),
                    error => error.to_string(),
                };
                let (answer, _) = acceptor.answer(&shared.identity, Some(&refusal));
                return Err(turn_away(&mut read, &mut write, &answer, error).await);
            }
        };
        let (answer, keys) = acceptor.answer(&shared.identity, None);
        write.write_all(&answer).await.map_err(io)?;
        let mut connection = Connection::new(read, write, keys);
        let unreadable = |reason: DownReason| LinkError::Malformed {
            peer: from.to_owned(),
            reason: reason.to_string(),
        };
        while connection.reader.open_records().map_err(unreadable)? == 0 {
            connection.reader.fill().await.map_err(unreadable)?;
        }
        Ok((connection, peer))
    };
    within(shared.options.handshake_timeout, from, handshake).await
}

/// Carries a link until it ends; tells the owner when it comes up and when it goes down.
pub(crate) async fn carry(shared: &Shared, connection: Connection, admission: Admission) {
    let Connection { mut reader, writer } = connection;
    let link = admission.link().clone();
    // To wait for room in the socket, while any thread may be writing.
    let half = Arc::clone(&writer.half);
    link.attach(writer);
    if shared.events.send(LinkEvent::Up(link.clone())).await.is_err() {
        link.detach();
        return;
    }
    link.meter().up();
    let reason = tokio::select! {
        reason = read_all(shared, &link, &mut reader) => reason,
        reason = write_all(shared, &link, half) => reason,
        reason = link.is_cut() => reason,
    };
    link.close();
    // With the last of its halves the socket's direction ends, which tells the peer.
    link.detach();
    link.meter().down();
    shared.tell_down(&link, reason).await;
    drop(admission);
}

async fn read_all(shared: &Shared, link: &Link, reader: &mut Reader) -> DownReason {
    loop {
        loop {
            match reader.decoder.next() {
                Ok(Some(envelope)) => {
                    link.meter().received(&envelope);
                    // A full event queue stops the reading, and the peer's queue fills: that is backpressure.
                    if shared
                        .events
                        .send(LinkEvent::Frame(link.id(), envelope))
                        .await
                        .is_err()
                    {
                        return DownReason::ShutDown;
                    }
                }
                Ok(None) => break,
                Err(error) => return DownReason::Unreadable(error.to_string()),
            }
        }
        let idle = shared.options.idle_timeout;
        let read = async {
            while reader.open_records()? == 0 {
                reader.fill().await?;
            }
            Ok(())
        };
        match awake_within(idle, read).await {
            Some(Ok(())) => {}
            Some(Err(reason)) => return reason,
            None => return DownReason::Silent(idle.as_millis()),
        }
    }
}

/// Writes what others leave: whoever flushes a link writes what the socket takes at once.
async fn write_all(shared: &Shared, link: &Link, half: Arc<OwnedWriteHalf>) -> DownReason {
    let options = &shared.options;
    loop {
        match link.write() {
            Ok(Written::All) => {}
            Ok(Written::Burst) => continue,
            Ok(Written::Blocked) => match awake_within(options.write_timeout, half.writable()).await {
                Some(Ok(())) => continue,
                Some(Err(error)) => return broken(&error),
                None => return DownReason::Stalled(options.write_timeout.as_millis()),
            },
            Err(error) => return broken(&error),
        }
        tokio::select! {
            () = link.filled() => {}
            () = tokio::time::sleep_until(link.last_write() + options.keepalive_interval) => {
                link.keep_alive(options.keepalive_interval);
            }
            () = link.end().cancelled() => {
                link.seal();
                if link.is_drained() {
                    return DownReason::ShutDown;
                }
            }
        }
    }
}

impl Connection {
    fn new(read: OwnedReadHalf, write: OwnedWriteHalf, keys: SessionKeys) -> Self {
        let SessionKeys { suite, send, receive } = keys;
        Self {
            reader: Reader {
                half: read,
                suite,
                key: receive,
                raw: BytesMut::with_capacity(RECORD_LEN_MAX),
                decoder: Decoder::default(),
            },
            writer: Writer {
                half: Arc::new(write),
                suite,
                key: send,
                plaintext: Vec::new(),
                sealed: Vec::new(),
                written: 0,
                last_write: Instant::now(),
            },
        }
    }
}

struct Reader {
    half: OwnedReadHalf,
    suite: whimbrel_protocol::Suite,
    key: record::DirectionKey,
    raw: BytesMut,
    decoder: Decoder,
}

impl Reader {
    /// Waits for bytes. Safe to drop while waiting.
    async fn fill(&mut self) -> Result<(), DownReason> {
        self.raw.reserve(RECORD_LEN_MAX);
        match self.half.read_buf(&mut self.raw).await {
            Ok(0) => Err(DownReason::PeerClosed),
            Ok(_) => Ok(()),
            Err(error) => Err(broken(&error)),
        }
    }

    /// Opens the whole records that are there into the decoder; how many.
    fn open_records(&mut self) -> Result<usize, DownReason> {
        let unreadable = |error: record::RecordError| DownReason::Unreadable(error.to_string());
        let mut opened = 0;
        let mut opener = self.key.opener(self.suite);
        // Nodes are equals: both directions have the larger bound.
        while let RecordStep::Complete { len } =
            record::next_record(&self.raw, Side::Server).map_err(unreadable)?
        {
            let record = self.raw.get_mut(..len).expect("a complete record is there whole");
            let plaintext = opener.open_in_place(record).map_err(unreadable)?;
            let plaintext = record.get(plaintext).expect("a plaintext lies in its record");
            self.decoder.feed(plaintext);
            self.raw.advance(len);
            opened += 1;
        }
        Ok(opened)
    }
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// There is nothing more to write.
    All,
    /// A burst is written; there may be another.
    Burst,
    /// The socket takes no more now.
    Blocked,
}

/// The sealing, writing half. It never waits, so that any thread may use it for a moment.
pub(crate) struct Writer {
    half: Arc<OwnedWriteHalf>,
    suite: whimbrel_protocol::Suite,
    key: record::DirectionKey,
    plaintext: Vec<u8>,
    sealed: Vec<u8>,
    /// So much of `sealed` is written.
    written: usize,
    last_write: Instant,
}

impl Writer {
    /// Whether something sealed is not written yet: nothing more is to be taken from the queue.
    pub(crate) fn is_behind(&self) -> bool {
        self.written < self.sealed.len()
    }

    /// When something was last written.
    pub(crate) fn last_write(&self) -> Instant {
        self.last_write
    }

    /// What no node of this version would send.
    #[cfg(test)]
    pub(crate) fn append_raw(&mut self, bytes: &[u8]) {
        self.plaintext.extend_from_slice(bytes);
    }

    pub(crate) fn append_keepalive(&mut self) {
        codec::append_keepalive(&mut self.plaintext);
    }

    /// Seals what was appended and `burst`, and writes what the socket takes. After an error the connection must end.
    pub(crate) fn write_burst(&mut self, burst: &[Envelope]) -> io::Result<Written> {
        for envelope in burst {
            codec::append(envelope, &mut self.plaintext);
        }
        if !self.plaintext.is_empty() {
            self.key
                .sealer(self.suite)
                .seal(&self.plaintext, SERVER_PLAINTEXT_MAX, &mut self.sealed)
                .map_err(io::Error::other)?;
            self.plaintext.clear();
            self.plaintext.shrink_to(SCRATCH_KEEP_BYTES);
        }
        if !self.is_behind() {
            return Ok(Written::All);
        }
        while let Some(rest) = self.sealed.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.half.try_write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Blocked),
                Err(error) => return Err(error),
            }
        }
        self.last_write = Instant::now();
        self.written = 0;
        self.sealed.clear();
        self.sealed.shrink_to(SCRATCH_KEEP_BYTES);
        Ok(Written::Burst)
    }
}

fn split(stream: TcpStream) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    Ok(stream.into_split())
}

fn broken(error: &io::Error) -> DownReason {
    DownReason::Broken(error.to_string())
}

/// Sends the last answer of a connection that is refused; the refusal stands whether or not it arrives.
///
/// What the peer has sent is read first to its end: closing over unread bytes resets a connection, and the reset would
/// overtake the answer.
async fn turn_away(
    read: &mut OwnedReadHalf,
    write: &mut OwnedWriteHalf,
    answer: &[u8],
    error: LinkError,
) -> LinkError {
    let said = async {
        write.write_all(answer).await?;
        write.shutdown().await?;
        tokio::io::copy(&mut read.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    match timeout(LINGER, said).await {
        Ok(Ok(_)) => {}
        Ok(Err(unsaid)) => tracing::debug!(%unsaid, "the reason of a refusal could not be sent"),
        Err(_) => tracing::debug!("a refused peer did not close its end"),
    }
    error
}

/// What `work` gives, unless it takes longer than `bound` of the time in which this process ran. The bound is waited for in
/// steps, of which a standstill (a stopped process, a suspended machine) counts as one: a peer is not judged by time in
/// which nobody here could hear it, or in which it stood still with us.
async fn awake_within<T>(bound: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    for _ in 0..WAIT_STEPS {
        if let Ok(done) = timeout(bound / WAIT_STEPS, &mut work).await {
            return Some(done);
        }
    }
    None
}

async fn within<T>(
    bound: Duration,
    peer: &str,
    handshake: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(bound, handshake).await.unwrap_or_else(|_| {
        Err(LinkError::TimedOut {
            peer: peer.to_owned(),
            timeout_ms: bound.as_millis(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(4);

    #[tokio::test(start_paused = true)]
    async fn silence_is_judged_at_its_bound() {
        let start = Instant::now();
        assert_eq!(awake_within(BOUND, std::future::pending::<()>()).await, None);
        assert!(start.elapsed() >= BOUND && start.elapsed() < BOUND + Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_is_not_held_against_the_peer() {
        let work = async {
            // As after SIGCONT: all timers are late, and the peer's next sign of life comes a keep-alive later.
            tokio::time::advance(BOUND * 10).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            "heard"
        };
        assert_eq!(awake_within(BOUND, work).await, Some("heard"));
    }
}
