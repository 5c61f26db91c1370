//! A crowd: many connections that do the same bad thing, each again and again until the time is up.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use whimbrel_protocol::SessionKeys;
use whimbrel_protocol::answer::{Answer, AnswerStep};
use whimbrel_protocol::client::LoginAnswer;
use whimbrel_protocol::frame::Frame;
use whimbrel_protocol::record::CLIENT_PLAINTEXT_MAX;

use crate::attacks::{Attack, Reaches};
use crate::door::Door;

/// Connections from one address: within what a gateway bears of one, so that the attack is felt and not just turned away.
const CONNECTIONS_PER_ADDRESS: usize = 200;
/// Between the end of a connection and its next attempt.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long a crowd gathers before those who are in begin, and between two looks.
const GATHERED_WITHIN: Duration = Duration::from_secs(20);
const GATHERED_EVERY: Duration = Duration::from_millis(100);
/// A gateway that does not take or give anything for this long is given up by its attacker.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a crowd did and got.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Connections that the kernel completed.
    pub(crate) opened: u64,
    /// Those of them whose login was accepted.
    pub(crate) answered: u64,
    /// Those of them that became sessions.
    pub(crate) ready: u64,
    /// Those of them that ended before their time.
    pub(crate) ended: u64,
    /// Attackers of the crowd that got as far as their attack begins, once or more often.
    pub(crate) attackers: usize,
}

/// What the members of a crowd share.
pub(crate) struct Shared {
    pub(crate) door: Arc<Door>,
    /// What an attack needs once: a recorded hello, a conversation.
    pub(crate) prepared: Bytes,
    over: AtomicBool,
    /// How far an attacker must get, and who has.
    reaches: Reaches,
    reached: Box<[AtomicBool]>,
    /// The second byte of its addresses: a crowd's own, so that none pays for what another has done.
    network: u8,
    opened: AtomicU64,
    answered: AtomicU64,
    ready: AtomicU64,
    ended: AtomicU64,
}

/// See the module.
pub(crate) struct Crowd {
    runtime: Handle,
    door: Arc<Door>,
    connections: usize,
    network: u8,
    members: std::sync::Mutex<JoinSet<()>>,
    shared: std::sync::OnceLock<Arc<Shared>>,
}

impl Crowd {
    /// So many attackers, from addresses of 127.`network`.
    pub(crate) fn new(runtime: &Handle, door: &Arc<Door>, connections: usize, network: u8) -> Self {
        Self {
            network,
            runtime: runtime.clone(),
            door: Arc::clone(door),
            connections,
            members: std::sync::Mutex::default(),
            shared: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// Begins an attack that goes on until its end.
    pub(crate) fn begin(&self, attack: &'static Attack) -> anyhow::Result<()> {
        let prepared = (attack.prepare)(&self.door, self.connections).context("preparing the attack")?;
        let shared = Arc::new(Shared {
            door: Arc::clone(&self.door),
            prepared,
            over: AtomicBool::new(false),
            reaches: attack.reaches,
            reached: (0..self.connections).map(|_| AtomicBool::new(false)).collect(),
            network: self.network,
            opened: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        });
        let Ok(mut members) = self.members.lock() else {
            bail!("a crowd begins once");
        };
        for index in 0..self.connections {
            let shared = Arc::clone(&shared);
            members.spawn_on(member(attack, index, shared), &self.runtime);
        }
        // Set once, here.
        let _first = self.shared.set(shared);
        Ok(())
    }

    /// Whether enough of them have got as far as their attack begins.
    pub(crate) fn attacks(&self) -> bool {
        let shared = self.shared.get();
        shared.is_some_and(|shared| is_enough(shared.attackers(), self.connections))
    }

    /// Ends it, and says what came of it.
    pub(crate) fn end(self, attack: &Attack) -> anyhow::Result<Tally> {
        let Ok(mut members) = self.members.into_inner() else {
            bail!("a member of the crowd panicked");
        };
        let shared = self.shared.get().context("the crowd has begun")?;
        shared.over.store(true, Relaxed);
        self.runtime.block_on(members.shutdown());
        let tally = Tally {
            opened: shared.opened.load(Relaxed),
            answered: shared.answered.load(Relaxed),
            ready: shared.ready.load(Relaxed),
            ended: shared.ended.load(Relaxed),
            attackers: shared.attackers(),
        };
        // Some are turned away, and that is well; but an attack that too few got to begin proves nothing.
        ensure!(
            is_enough(tally.attackers, self.connections),
            "of a crowd of {} only {} got as far as {:?}: {tally:?}",
            self.connections,
            tally.attackers,
            attack.reaches
        );
        Ok(tally)
    }
}

/// A quarter of a crowd: those who are in flood the gateway that the others are still to get into.
fn is_enough(attackers: usize, crowd: usize) -> bool {
    4 * attackers > crowd
}

async fn member(attack: &'static Attack, index: usize, shared: Arc<Shared>) {
    while !shared.is_over() {
        // Whatever ends an attempt, the next one follows; what counts is what the users notice.
        let _ended = (attack.once)(index, Arc::clone(&shared)).await;
        shared.ended.fetch_add(1, Relaxed);
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

impl Shared {
    /// Whether the attack has been ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    fn attackers(&self) -> usize {
        self.reached.iter().filter(|one| one.load(Relaxed)).count()
    }

    /// Waits until half of the crowd has got as far as the attack begins, or for as long as an attack takes to get there. An
    /// attack that takes all the time its own attackers have would else keep the rest of them out.
    pub(crate) async fn gathered(&self) {
        let half = async {
            while 2 * self.attackers() < self.reached.len() {
                tokio::time::sleep(GATHERED_EVERY).await;
            }
        };
        // Whoever is in by then begins.
        let _all = tokio::time::timeout(GATHERED_WITHIN, half).await;
    }

    /// An attacker has got so far.
    fn note(&self, index: usize, far: Reaches) {
        if far == self.reaches
            && let Some(one) = self.reached.get(index)
        {
            one.store(true, Relaxed);
        }
    }

    /// A connection from an address of this crowd.
    pub(crate) async fn connect(&self, index: usize) -> anyhow::Result<TcpStream> {
        let nth = u16::try_from(index / CONNECTIONS_PER_ADDRESS)?;
        let [high, low] = nth.to_be_bytes();
        // Not where the users come from.
        let from = Ipv4Addr::new(127, self.network, high + 100, low + 1);
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let stream = socket.connect(self.door.gateway).await?;
        stream.set_nodelay(true)?;
        self.opened.fetch_add(1, Relaxed);
        self.note(index, Reaches::Connection);
        Ok(stream)
    }

    /// Up to the answer of a good login.
    pub(crate) async fn provisional(&self, index: usize) -> anyhow::Result<Rogue> {
        let (initiator, hello) = self.door.hello(&format!("rogue-{index}"))?;
        let mut stream = self.connect(index).await?;
        stream.write_all(&hello).await?;
        let mut received = Vec::new();
        let answer = async {
            loop {
                if let AnswerStep::Complete { answer, .. } = Answer::parse(&received)? {
                    let Answer::Accept(message) = answer else {
                        bail!("refused");
                    };
                    return Ok(message.to_vec());
                }
                ensure!(stream.read_buf(&mut received).await? > 0, "hung up");
            }
        };
        let message = tokio::time::timeout(PATIENCE, answer).await??;
        let (keys, answer) = initiator.finish(&message)?;
        let answer = LoginAnswer::decode(&*answer)?;
        ensure!(answer.code == 0, "refused with code {}", answer.code);
        self.answered.fetch_add(1, Relaxed);
        self.note(index, Reaches::Answer);
        Ok(Rogue { stream, keys })
    }

    /// A session that is in.
    pub(crate) async fn session(&self, index: usize) -> anyhow::Result<Rogue> {
        let mut rogue = self.provisional(index).await?;
        let confirm = rogue.seal(&[Frame::Confirm])?;
        rogue.stream.write_all(&confirm).await?;
        // READY is the first that comes.
        let mut ready = [0; 64];
        let read = tokio::time::timeout(PATIENCE, rogue.stream.read(&mut ready)).await??;
        ensure!(read > 0, "hung up");
        self.ready.fetch_add(1, Relaxed);
        self.note(index, Reaches::Session);
        Ok(rogue)
    }
}

/// A session in bad hands.
pub(crate) struct Rogue {
    pub(crate) stream: TcpStream,
    keys: SessionKeys,
}

impl Rogue {
    /// Records with these frames.
    pub(crate) fn seal(&mut self, frames: &[Frame]) -> anyhow::Result<Vec<u8>> {
        let (mut plaintext, mut records) = (Vec::new(), Vec::new());
        for frame in frames {
            frame.encode(&mut plaintext)?;
        }
        self.keys
            .sealer()
            .seal(&plaintext, CLIENT_PLAINTEXT_MAX, &mut records)?;
        Ok(records)
    }

    /// Waits until the gateway has had enough.
    pub(crate) async fn until_closed(&mut self) -> anyhow::Result<()> {
        until_closed(&mut self.stream).await
    }
}

/// Waits until the gateway has had enough.
pub(crate) async fn until_closed(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// A number that is another for every call.
pub(crate) fn next_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Relaxed)
}
