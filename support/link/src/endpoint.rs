//! The owner of all links of a node: it listens, dials, admits peers and ends everything it started.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::backoff::Backoff;
use crate::error::LinkError;
use crate::handshake;
use crate::identity::{ClusterSecret, Identity, LinkId};
use crate::link::{DownReason, Link, LinkEvent};
use crate::options::LinkOptions;
use crate::peers::{Peers, Refused};
use crate::refusals::{Dialled, Refusals};
use crate::told::Told;
use crate::{memory, meter, task, tcp};

/// The pause after accepting failed: out of descriptors, most likely, and trying at once changes nothing.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The pause of a dialler that finds its peer linked by another way, until it looks whether that still is so.
const LINKED_ELSEWHERE_PAUSE: Duration = Duration::from_secs(5);

/// All links of a node. Clones are the same endpoint. Must be used within a tokio runtime.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) shared: Arc<Shared>,
}

/// What the endpoint's tasks share.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) secret: ClusterSecret,
    pub(crate) options: LinkOptions,
    pub(crate) events: mpsc::Sender<LinkEvent>,
    /// One link per node, by name: the guard against two processes of one name, and two links of one pair.
    peers: Mutex<Peers>,
    next_link: AtomicU64,
    handshakes: Mutex<Handshakes>,
    told: Mutex<Told>,
    refusals: Mutex<Refusals>,
    /// Ends listening, dialling and, after their queues are written, all links.
    stop: CancellationToken,
    /// Ends what is still there after that.
    kill: CancellationToken,
    /// Ends dialling alone.
    dial_no_more: CancellationToken,
    /// A later process has this node's name, by all that is known here.
    taken_over: CancellationToken,
    /// Whose word is enough for that.
    heeded: OnceLock<NodeId>,
    tasks: TaskTracker,
}

impl Endpoint {
    /// An endpoint without links, and where its events come out. The receiver must be read: while it is full, links
    /// stop reading.
    #[must_use]
    pub fn new(identity: Identity, secret: ClusterSecret) -> (Self, mpsc::Receiver<LinkEvent>) {
        Self::with_options(identity, secret, LinkOptions::default())
    }

    /// The same with other bounds and times.
    #[must_use]
    pub fn with_options(
        identity: Identity,
        secret: ClusterSecret,
        options: LinkOptions,
    ) -> (Self, mpsc::Receiver<LinkEvent>) {
        let (events, receiver) = mpsc::channel(options.event_queue_len);
        let stop = CancellationToken::new();
        let shared = Shared {
            identity,
            secret,
            events,
            peers: Mutex::default(),
            next_link: AtomicU64::new(1),
            handshakes: Mutex::default(),
            told: Mutex::default(),
            refusals: Mutex::default(),
            dial_no_more: stop.child_token(),
            stop,
            kill: CancellationToken::new(),
            taken_over: CancellationToken::new(),
            heeded: OnceLock::new(),
            tasks: TaskTracker::new(),
            options,
        };
        (
            Self {
                shared: Arc::new(shared),
            },
            receiver,
        )
    }

    /// Who this endpoint is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Accepts links on `address` until shut down; with port 0 the answer names the port.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, LinkError> {
        let failed = |source| LinkError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        self.shared.spawn(accept_all(Arc::clone(&self.shared), listener));
        Ok(bound)
    }

    /// Keeps a link to `address` (host:port): dials, and dials again after jittered pauses, until shut down or told to
    /// give up.
    pub fn dial(&self, address: String) -> Dialing {
        let given_up = self.shared.dial_no_more.child_token();
        let dialing = Dialing {
            given_up: given_up.clone(),
        };
        self.shared
            .spawn(dial_again(Arc::clone(&self.shared), address, given_up));
        dialing
    }

    /// Gives up all that is dialled, and what will be. Links that are up stay. For a process that leaves because its name was taken: it
    /// must not come in again meanwhile and drive out the one that has the name.
    pub fn dial_no_more(&self) {
        self.shared.dial_no_more.cancel();
    }

    /// Whether a node of this name is linked.
    #[must_use]
    pub fn is_linked(&self, node: &NodeId) -> bool {
        self.shared.peers().is_linked(node)
    }

    /// Names are kept by this router, as its registry's home: its word alone is enough that a later process has this node's name
    /// ([`taken_over`](Self::taken_over)). Only the first that is named counts; to be called before anything is dialled.
    pub fn heed(&self, keeper: NodeId) {
        let _first = self.shared.heeded.set(keeper);
    }

    /// Returns once a later process has this node's name by the word of the router that is heeded, or of all that are
    /// dialled: for [`LinkOptions::believe_refusals_after`] no link was up, and the last answer of each address was that. A single one may be
    /// wrong: it may have begun after the later process came. Where a registry can be asked beside the links, its word stands above this.
    pub async fn taken_over(&self) {
        self.shared.taken_over.cancelled().await;
    }

    /// Whether it is worth asking a registry who holds the names: a peer was refused for an earlier life of its name since
    /// [`learn_holders`](Self::learn_holders) was called last, or such a one was named by that call. For a life that is refused again and again, and
    /// never named, that is so once in five minutes after a while.
    #[must_use]
    pub fn has_refused_lives(&self) -> bool {
        self.shared.peers().has_refused(Instant::now())
    }

    /// Which life holds which name, by a registry. One that is named by two calls in succession is not refused for an earlier life any more;
    /// when it comes again it takes the name from whichever has it here. Links that are up stay as they are.
    ///
    /// Between two calls there must be time for a lease to be renewed: a process that has just come is linked before its first lease is in the
    /// registry, which still names the life before it.
    pub fn learn_holders(&self, holders: impl IntoIterator<Item = (NodeId, Incarnation)>) {
        let holders: BTreeSet<_> = holders.into_iter().collect();
        self.shared.peers().learn_holders(&holders, Instant::now());
    }

    /// Links two endpoints of this process.
    pub fn connect_in_memory(a: &Self, b: &Self) {
        let admissions = a
            .shared
            .admit(b.shared.identity.clone(), "memory")
            .and_then(|of_a| {
                b.shared
                    .admit(a.shared.identity.clone(), "memory")
                    .map(|of_b| (of_a, of_b))
            });
        match admissions {
            Ok((of_a, of_b)) => {
                let (link_a, link_b) = (of_a.link().clone(), of_b.link().clone());
                a.shared.spawn(memory::carry(Arc::clone(&a.shared), of_a, link_b));
                b.shared.spawn(memory::carry(Arc::clone(&b.shared), of_b, link_a));
            }
            Err(error) => note_refusal(&error, None),
        }
    }

    /// Returns once the endpoint has been told to shut down.
    pub async fn stopping(&self) {
        self.shared.stop.cancelled().await;
    }

    /// Returns once the endpoint has been told to shut down and all its tasks have ended.
    pub(crate) async fn stopped(&self) {
        self.shared.stop.cancelled().await;
        self.shared.tasks.wait().await;
    }

    /// Stops listening and dialling, writes what is queued, ends all links and waits for their tasks; takes at most
    /// about the flush timeout.
    pub async fn shut_down(&self) {
        let shared = &self.shared;
        shared.stop.cancel();
        shared.tasks.close();
        if tokio::time::timeout(shared.options.flush_timeout, shared.tasks.wait())
            .await
            .is_err()
        {
            shared.kill.cancel();
            shared.tasks.wait().await;
        }
    }
}

/// An address that is dialled. Dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Dialing {
    given_up: CancellationToken,
}

impl Dialing {
    /// Dials no more. A link that is up stays until it ends by itself: who works is not cut off for what others say of it.
    pub fn give_up(&self) {
        self.given_up.cancel();
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.tasks
            .spawn(async move { kill.run_until_cancelled(task::guarded("link", work)).await });
    }

    /// Whether `peer` may have a link.
    pub(crate) fn may_link(&self, peer: &Identity, address: &str) -> Result<(), LinkError> {
        self.peers()
            .judge(peer)
            .map_err(|refused| refusal(refused, peer, address))
    }

    /// Takes the peer's name for a new link, and ends the link of an earlier life; dropping the admission frees it.
    pub(crate) fn admit(self: &Arc<Self>, peer: Identity, address: &str) -> Result<Admission, LinkError> {
        let mut peers = self.peers();
        peers
            .judge(&peer)
            .map_err(|refused| refusal(refused, &peer, address))?;
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        let end = self.stop.child_token();
        let link = Link::new(id, self.identity.role, peer, &self.options, end);
        let taken_over = peers.admit(link.clone());
        drop(peers);
        if let Some(earlier) = taken_over {
            earlier.cut(DownReason::Superseded);
        }
        Ok(Admission {
            shared: Arc::clone(self),
            link,
        })
    }

    /// The last event of a link.
    pub(crate) async fn tell_down(&self, link: &Link, reason: DownReason) {
        match reason {
            DownReason::ShutDown | DownReason::PeerClosed => {
                tracing::info!(peer = %link.peer(), %reason, "link down")
            }
            _ => tracing::warn!(peer = %link.peer(), %reason, "link down"),
        }
        // Nobody to tell is fine: the owner is gone.
        let _ = self.events.send(LinkEvent::Down(link.id(), reason)).await;
    }

    /// The error's label, if it was logged not long ago.
    fn told_lately(&self, error: &LinkError, from: IpAddr) -> Option<&'static str> {
        let who = error.node().map_or_else(|| from.to_string(), str::to_owned);
        // Nothing under the lock panics half-way, so a poisoned map is whole.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.lately(error.label(), who, Instant::now())
            .then_some(error.label())
    }

    /// Takes in what came of dialling an address: the name of who refused this process for a later one of its name, if that is what came.
    fn note_answer(&self, dialled: Dialled, refused_by: Option<&NodeId>) {
        let is_any_linked = self.peers().is_any_linked();
        let all_refuse_for =
            self.refusals()
                .note(dialled, refused_by.is_some(), is_any_linked, Instant::now());
        let is_heeded = refused_by.is_some_and(|by| self.heeded.get() == Some(by));
        if is_heeded || all_refuse_for.is_some_and(|long| long >= self.options.believe_refusals_after) {
            self.taken_over.cancel();
        }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        // Nothing under the lock panics half-way, so poisoned refusals are whole.
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handshakes(&self) -> MutexGuard<'_, Handshakes> {
        // Nothing under the lock panics half-way, so a poisoned count is whole.
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one handshake with `address`, if there is one.
    fn begin_handshake(&self, address: IpAddr) -> Option<HandshakePlace<'_>> {
        let (max, of_one) = (
            self.options.handshakes_max,
            self.options.handshakes_per_address_max,
        );
        let begun = self.handshakes().begin(address, max, of_one);
        begun.then_some(HandshakePlace {
            shared: self,
            address,
        })
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        // Nothing under the lock panics half-way, so poisoned peers are whole.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handshakes under way, by the address they come from.
#[derive(Debug, Default)]
struct Handshakes {
    under_way: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Handshakes {
    /// Counts one more, unless it is one too many of all, of which there may be `max`, or of its address.
    fn begin(&mut self, address: IpAddr, max: usize, per_address_max: usize) -> bool {
        let of_address = self.by_address.get(&address).copied().unwrap_or(0);
        if self.under_way >= max || of_address >= per_address_max {
            return false;
        }
        self.under_way += 1;
        self.by_address.insert(address, of_address + 1);
        true
    }

    fn end(&mut self, address: IpAddr) {
        self.under_way -= 1;
        if let Some(of_address) = self.by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

/// One of the places for handshakes; dropping it frees it.
struct HandshakePlace<'a> {
    shared: &'a Shared,
    address: IpAddr,
}

impl Drop for HandshakePlace<'_> {
    fn drop(&mut self) {
        self.shared.handshakes().end(self.address);
    }
}

/// A peer's name, taken for one link.
pub(crate) struct Admission {
    pub(crate) shared: Arc<Shared>,
    link: Link,
}

impl Admission {
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.link.close();
        self.shared.peers().free(&self.link.peer().node, self.link.id());
    }
}

fn refusal(refused: Refused, peer: &Identity, address: &str) -> LinkError {
    let (node, peer) = (peer.node.to_string(), address.to_owned());
    match refused {
        Refused::AlreadyLinked => LinkError::AlreadyLinked { peer, node },
        Refused::Superseded => LinkError::EarlierLife { peer, node },
    }
}

async fn accept_all(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, from)) => shared.spawn(accept_one(Arc::clone(&shared), stream, from)),
            Err(error) => {
                tracing::warn!(%error, "accepting a link failed; is the limit of open files too low?");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn accept_one(shared: Arc<Shared>, mut stream: TcpStream, from: SocketAddr) {
    let address = from.ip().to_canonical();
    let from = from.to_string();
    let admitted = {
        let Some(_place) = shared.begin_handshake(address) else {
            meter::refused("busy_here");
            // A courtesy: a full socket buffer loses nothing but a hint.
            let _ = stream.write_all(&handshake::busy()).await;
            return;
        };
        tcp::accept(&shared, stream, &from)
            .await
            .and_then(|(connection, peer)| shared.admit(peer, &from).map(|admission| (connection, admission)))
    };
    match admitted {
        Ok((connection, admission)) => {
            tracing::info!(peer = %admission.link().peer(), %from, "link up");
            tcp::carry(&shared, connection, admission).await;
        }
        Err(error) => note_refusal(&error, shared.told_lately(&error, address)),
    }
}

/// A node that is dialled this long in vain without ever having been there is worth a warning.
const START_GRACE: Duration = Duration::from_secs(5);

/// The answers of one address; dropping it forgets them.
struct Answers<'a> {
    shared: &'a Shared,
    dialled: Dialled,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.shared.refusals().end(self.dialled);
    }
}

async fn dial_again(shared: Arc<Shared>, address: String, given_up: CancellationToken) {
    let options = &shared.options;
    let answers = Answers {
        shared: &shared,
        dialled: shared.refusals().begin(),
    };
    let mut backoff = Backoff::new(options.redial_min, options.redial_max);
    let mut last_failure = None;
    let (began, mut was_up) = (Instant::now(), false);
    while !given_up.is_cancelled() {
        let dialled = tokio::select! {
            dialled = tcp::dial(&shared, &address) => dialled,
            () = given_up.cancelled() => return,
        };
        let admitted = dialled.and_then(|(connection, peer)| {
            shared
                .admit(peer, &address)
                .map(|admission| (connection, admission))
        });
        let mut pause = backoff.pause(&mut rand::rng());
        let refused_by = match &admitted {
            Err(LinkError::Superseded { by, .. }) => Some(by),
            _ => None,
        };
        shared.note_answer(answers.dialled, refused_by);
        match admitted {
            Ok((connection, admission)) => {
                tracing::info!(peer = %admission.link().peer(), %address, "link up");
                (last_failure, was_up) = (None, true);
                let since = Instant::now();
                tcp::carry(&shared, connection, admission).await;
                if since.elapsed() > options.redial_max {
                    backoff.reset();
                }
            }
            // At the start of a deployment nodes come up in any order.
            Err(error) if error.is_passing() && !was_up && began.elapsed() < START_GRACE => {
                meter::refused(error.label());
                tracing::info!(%error, "no link yet");
            }
            Err(error) => {
                note_refusal(&error, last_failure);
                last_failure = Some(error.label());
                // Whoever made that link dials again at once when it goes down. And who refuses this process may learn better: its
                // registry knows who holds the name.
                if matches!(
                    error,
                    LinkError::AlreadyLinked { .. } | LinkError::Superseded { .. }
                ) {
                    pause = LINKED_ELSEWHERE_PAUSE.min(pause * 16);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = given_up.cancelled() => return,
        }
    }
}

/// Counts a link that was not made and logs it, the same failure of one address only once.
fn note_refusal(error: &LinkError, last: Option<&'static str>) {
    meter::refused(error.label());
    match error {
        error if last == Some(error.label()) => tracing::debug!(%error, "still no link"),
        LinkError::AlreadyLinked { .. } => tracing::debug!(%error, "no second link"),
        error if error.is_passing() => tracing::warn!(%error, "no link"),
        error => tracing::error!(%error, "no link"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_hold_all_places_for_handshakes() {
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut handshakes = Handshakes::default();
        let held = (0..64).filter(|_| handshakes.begin(greedy, 4, 2)).count();
        assert_eq!(held, 2);
        assert!(handshakes.begin(other, 4, 2));
        assert!(handshakes.begin(other, 4, 2));
        let third = IpAddr::from([10, 0, 0, 3]);
        assert!(!handshakes.begin(third, 4, 2), "all together are bounded as well");
        handshakes.end(greedy);
        assert!(handshakes.begin(third, 4, 2));
        for address in [greedy, other, other, third] {
            handshakes.end(address);
        }
        assert!(handshakes.by_address.is_empty(), "nothing is kept of who is done");
    }
}
