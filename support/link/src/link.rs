//! One link as both its users and its tasks see it: a peer, an out-queue, what writes it out, and whether it is still up.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use whimbrel_protocol::cluster::{Envelope, Role};

use crate::identity::{Identity, LinkId};
use crate::meter::Meter;
use crate::options::{ENVELOPE_LEN_MAX, LinkOptions};
use crate::queue::OutQueue;
use crate::tcp::{BURST_BYTES, Writer, Written};

/// What an endpoint tells its owner. For one link: `Up`, then frames in the order the peer's queue gave them, then
/// `Down`, each once.
#[derive(Debug)]
pub enum LinkEvent {
    /// A peer is there.
    Up(Link),
    /// It said something.
    Frame(LinkId, Envelope),
    /// It is gone; nothing more comes from this link.
    Down(LinkId, DownReason),
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The peer closed it.
    #[error("the peer closed the link")]
    PeerClosed,
    /// The peer said nothing for the idle timeout.
    #[error("the peer has been silent for {0} ms: it is frozen or cut off")]
    Silent(u128),
    /// The peer took nothing for the write timeout.
    #[error("the peer has taken no byte for {0} ms: it is frozen or cut off")]
    Stalled(u128),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// What came was not what a peer of this version and secret sends.
    #[error("the peer sent something unreadable: {0}")]
    Unreadable(String),
    /// A later process of the peer's name has a link.
    #[error("a later process of that name has taken the peer's place")]
    Superseded,
    /// This endpoint shuts down.
    #[error("this endpoint is shutting down")]
    ShutDown,
}

/// Why an envelope was not taken. It comes back with the error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SendError {
    /// The queue is full for its priority.
    #[error("the link's queue is full")]
    Full(Box<Envelope>),
    /// The link is down.
    #[error("the link is down")]
    Closed(Box<Envelope>),
    /// No link carries so much at once.
    #[error("the envelope is over the bound of {ENVELOPE_LEN_MAX} bytes")]
    TooLarge(Box<Envelope>),
}

impl SendError {
    /// The envelope that was not taken.
    #[must_use]
    pub fn into_envelope(self) -> Envelope {
        match self {
            Self::Full(envelope) | Self::Closed(envelope) | Self::TooLarge(envelope) => *envelope,
        }
    }
}

/// A link that is, or was, up. Clones are the same link.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    id: LinkId,
    peer: Identity,
    out: Mutex<Out>,
    /// What writes to the peer's socket, while there is one. Taken before `out` where both are.
    writer: Mutex<Option<Attached>>,
    /// Wakes the task that empties the queue.
    filled: Notify,
    /// Ends the link's tasks.
    end: CancellationToken,
    /// Ends them at once, and why.
    cut: CancellationToken,
    cut_for: OnceLock<DownReason>,
    meter: Meter,
}

struct Out {
    queue: OutQueue,
    open: bool,
}

/// A writer, and room for what it is given.
struct Attached {
    writer: Writer,
    burst: Vec<Envelope>,
}

impl Link {
    pub(crate) fn new(
        id: LinkId,
        own: Role,
        peer: Identity,
        options: &LinkOptions,
        end: CancellationToken,
    ) -> Self {
        let meter = Meter::new(own, peer.role);
        let queue = OutQueue::new(options.queue_len_max, options.queue_bytes_max);
        let out = Mutex::new(Out { queue, open: true });
        Self(Arc::new(Shared {
            id,
            peer,
            out,
            writer: Mutex::new(None),
            filled: Notify::new(),
            end,
            cut: CancellationToken::new(),
            cut_for: OnceLock::new(),
            meter,
        }))
    }

    /// Its name within this endpoint.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.0.id
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Identity {
        &self.0.peer
    }

    /// Queues an envelope and has it written soon, or gives it back at once. Never waits.
    ///
    /// # Errors
    /// When the link is down, its queue is full for the envelope's priority, or the envelope is over the bound.
    pub fn try_send(&self, envelope: Envelope) -> Result<(), SendError> {
        self.queue(envelope)?;
        self.0.filled.notify_one();
        Ok(())
    }

    /// The same for a caller with several envelopes: they are written by its [`flush`](Self::flush), which must follow.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub(crate) fn queue(&self, envelope: Envelope) -> Result<(), SendError> {
        // Only a large body makes counting worth its while; texts are bounded by far less than the margin.
        if envelope.body.len() > ENVELOPE_LEN_MAX / 2 && envelope.encoded_len() > ENVELOPE_LEN_MAX {
            return Err(SendError::TooLarge(Box::new(envelope)));
        }
        let mut out = self.out();
        if !out.open {
            return Err(SendError::Closed(Box::new(envelope)));
        }
        out.queue.push(envelope).map_err(|envelope| {
            self.0.meter.full();
            SendError::Full(envelope)
        })
    }

    /// Writes what is queued, from the caller's thread: waking another for it would cost more than the write. Never waits: what
    /// the socket does not take now, and all of it when another thread is just writing, is left to the link's task.
    pub(crate) fn flush(&self) {
        if self.is_queue_empty() {
            return;
        }
        let written = match self.0.writer.try_lock() {
            Ok(mut attached) => attached.as_mut().map(|attached| self.write_burst(attached)),
            Err(_) => None,
        };
        // An error is found by the task, too, which ends the link.
        if !matches!(written, Some(Ok(Written::All | Written::Burst))) || !self.is_queue_empty() {
            self.0.filled.notify_one();
        }
    }

    /// Writes a burst of what is queued.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn write(&self) -> io::Result<Written> {
        match self.writer().as_mut() {
            Some(attached) => self.write_burst(attached),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn write_burst(&self, attached: &mut Attached) -> io::Result<Written> {
        let Attached { writer, burst } = attached;
        if !writer.is_behind() {
            self.take(BURST_BYTES, burst);
        }
        let written = writer.write_burst(burst);
        burst.clear();
        written
    }

    /// Says a sign of life, unless something was written within `interval`.
    pub(crate) fn keep_alive(&self, interval: Duration) {
        if let Some(attached) = self.writer().as_mut()
            && attached.writer.last_write().elapsed() >= interval
        {
            attached.writer.append_keepalive();
        }
    }

    /// When something was last written; now, without a writer.
    pub(crate) fn last_write(&self) -> Instant {
        let writer = self.writer();
        writer
            .as_ref()
            .map_or_else(Instant::now, |attached| attached.writer.last_write())
    }

    /// From now on this writes what is queued.
    pub(crate) fn attach(&self, writer: Writer) {
        let burst = Vec::new();
        *self.writer() = Some(Attached { writer, burst });
    }

    /// Lets go of the writer.
    pub(crate) fn detach(&self) {
        *self.writer() = None;
    }

    fn writer(&self) -> MutexGuard<'_, Option<Attached>> {
        // A writer that panicked amid a record has left a counter behind that the peer does not accept: the link ends.
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_queue_empty(&self) -> bool {
        self.out().queue.is_empty()
    }

    /// Moves waiting envelopes out, most urgent first, until about `bytes` are taken.
    pub(crate) fn take(&self, bytes: usize, out: &mut Vec<Envelope>) {
        let start = out.len();
        self.out().queue.take(bytes, out);
        for envelope in out.iter().skip(start) {
            self.0.meter.sent(envelope);
        }
    }

    /// Returns when something may have been queued since the last `take`.
    pub(crate) async fn filled(&self) {
        self.0.filled.notified().await;
    }

    /// Whether nothing waits, neither to be taken nor to be written.
    pub(crate) fn is_drained(&self) -> bool {
        let is_behind = self
            .writer()
            .as_ref()
            .is_some_and(|attached| attached.writer.is_behind());
        !is_behind && self.is_queue_empty()
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// Takes nothing more; what waits is still sent.
    pub(crate) fn seal(&self) {
        self.out().open = false;
    }

    /// Takes nothing more and forgets what waits.
    pub(crate) fn close(&self) {
        let mut out = self.out();
        out.open = false;
        out.queue.clear();
    }

    /// Ends the link at once, whatever waits.
    pub(crate) fn cut(&self, reason: DownReason) {
        self.close();
        // The first reason stands.
        let _ = self.0.cut_for.set(reason);
        self.0.cut.cancel();
    }

    /// Returns when the link has been cut, with the reason.
    pub(crate) async fn is_cut(&self) -> DownReason {
        self.0.cut.cancelled().await;
        self.0.cut_for.get().cloned().unwrap_or(DownReason::ShutDown)
    }

    /// Ends when the link shall end.
    pub(crate) fn end(&self) -> &CancellationToken {
        &self.0.end
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        // Nothing under the lock panics half-way, so a poisoned queue is whole.
        self.0.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {}", self.0.id, self.0.peer)
    }
}
