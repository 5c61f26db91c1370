//! A store that fails on purpose, a clock that stands still, nodes over them, and what their sinks were told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use whimbrel_app_service::committed::{CommitSink, Committed};
use whimbrel_app_service::env::{BoxFuture, Clock, Entropy, Env, Spawner, Timers};
use whimbrel_app_service::failure::Failure;
use whimbrel_app_service::keys::{ConversationKeys, MarkerKey, node_life};
use whimbrel_app_service::log::{Actor, AppOptions, Deadline, Log, LogEntry};
use whimbrel_app_service::reads::View;
use whimbrel_app_service::values::{decode, storage};
use whimbrel_protocol::client::{self, content::Content as Kind};
use whimbrel_protocol::ids::{AppKey, ConversationId, Incarnation, NodeId, OperationId, Seq, Uid};
use whimbrel_store::{
    Batch, Commit, Direction, Epoch, Grouping, KeyRange, MemoryStore, Readiness, ScanPage, Snapshot, Store,
    StoreError, Version,
};

/// A Tuesday in 2026.
pub const START_MS: u64 = 1_780_000_000_000;

/// Moves when told to, also backwards.
#[derive(Debug)]
pub struct TestClock {
    now_ms: AtomicU64,
    monotonic_us: AtomicU64,
}

impl TestClock {
    pub fn set_unix_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    pub fn advance(&self, by: Duration) {
        let us = u64::try_from(by.as_micros()).unwrap();
        self.monotonic_us.fetch_add(us, Ordering::Relaxed);
        self.now_ms.fetch_add(us / 1000, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.monotonic_us.load(Ordering::Relaxed))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Seeded(AtomicU64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.random_u64() % bound
    }
}

impl Entropy for Seeded {
    fn random_u64(&self) -> u64 {
        let state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Waiting takes no time but moves the clock.
struct TestTimers(Arc<TestClock>);

impl Timers for TestTimers {
    fn sleep(&self, wait: Duration) -> BoxFuture<()> {
        let clock = Arc::clone(&self.0);
        Box::pin(async move {
            clock.advance(wait);
            tokio::task::yield_now().await;
        })
    }
}

struct TestSpawner;

impl Spawner for TestSpawner {
    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) {
        drop(tokio::spawn(task));
    }
}

/// What the next commit meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Says conflict and applies nothing.
    Conflict,
    /// Applies, and says unknown.
    UnknownApplied,
    /// Says unknown and applies nothing.
    UnknownLost,
    /// Says unknown, and applies it right before the next commit, if it does not conflict by then.
    UnknownLate,
    OutOfSpace,
    NotReady,
}

/// A memory store with faults, a gate, and a random number of steps before each answer.
pub struct TestStore {
    inner: MemoryStore,
    faults: Mutex<VecDeque<Fault>>,
    /// Faults in a thousand commits.
    fault_permille: AtomicU64,
    late: Mutex<Vec<Batch>>,
    /// Whatever writes this key conflicts.
    cursed: Mutex<Option<Bytes>>,
    /// Whatever writes one of these keys hangs until it is let go.
    hanging: watch::Sender<Vec<Bytes>>,
    /// Reads of this key fail, so often.
    unreadable: Arc<Mutex<Option<(Bytes, usize)>>>,
    /// How many commits hang.
    hang: watch::Sender<usize>,
    random: Seeded,
    gate_open: watch::Sender<bool>,
    pub commits: AtomicU64,
}

impl TestStore {
    pub fn next_commit(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    pub fn fail_often(&self, permille: u64) {
        self.fault_permille.store(permille, Ordering::Relaxed);
    }

    pub fn curse(&self, key: Bytes) {
        *self.cursed.lock().unwrap() = Some(key);
    }

    /// From now on a commit that writes one of `keys` hangs, until there are none or others.
    pub fn hang(&self, keys: Vec<Bytes>) {
        self.hanging.send_replace(keys);
    }

    /// So many reads together with `key` fail.
    pub fn fail_reads(&self, key: Bytes, times: usize) {
        *self.unreadable.lock().unwrap() = Some((key, times));
    }

    /// Waits until so many commits hang.
    pub async fn hangs(&self, commits: usize) {
        let mut hang = self.hang.subscribe();
        hang.wait_for(|hang| *hang == commits).await.unwrap();
    }

    pub fn set_gate(&self, open: bool) {
        self.gate_open.send_replace(open);
    }

    async fn hang_up(&self, batch: &Batch) {
        let mut hanging = self.hanging.subscribe();
        let is_hung = |keys: &Vec<Bytes>| keys.iter().any(|key| batch.op(key).is_some());
        if is_hung(&hanging.borrow().clone()) {
            self.hang.send_modify(|hang| *hang += 1);
            hanging.wait_for(|keys| !is_hung(keys)).await.unwrap();
            self.hang.send_modify(|hang| *hang -= 1);
        }
    }

    fn fault(&self) -> Option<Fault> {
        let scripted = self.faults.lock().unwrap().pop_front();
        let random = || {
            let all = [
                Fault::Conflict,
                Fault::UnknownApplied,
                Fault::UnknownLost,
                Fault::UnknownLate,
            ];
            (self.random.below(1000) < self.fault_permille.load(Ordering::Relaxed))
                .then(|| all[usize::try_from(self.random.below(4)).unwrap()])
        };
        scripted.or_else(random)
    }

    async fn steps(&self) {
        for _ in 0..self.random.below(4) {
            tokio::task::yield_now().await;
        }
    }
}

fn lost_connection() -> StoreError {
    StoreError::backend("a commit", std::io::Error::other("the connection was lost"))
}

#[async_trait]
impl Store for TestStore {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.steps().await;
        Ok(Arc::new(TestSnapshot {
            inner: self.inner.snapshot().await?,
            unreadable: Arc::clone(&self.unreadable),
        }))
    }

    async fn commit(&self, batch: Batch) -> Commit {
        self.steps().await;
        let mut gate = self.gate_open.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
        self.commits.fetch_add(1, Ordering::Relaxed);
        let late: Vec<Batch> = self.late.lock().unwrap().drain(..).collect();
        for batch in late {
            let _late_answer = self.inner.commit(batch).await;
        }
        let cursed = self.cursed.lock().unwrap().clone();
        if let Some(key) = cursed.filter(|key| batch.op(key).is_some()) {
            return Commit::Conflict(vec![key]);
        }
        let fault = self.fault();
        if fault.is_none() {
            self.hang_up(&batch).await;
        }
        match fault {
            None => self.inner.commit(batch).await,
            Some(Fault::Conflict) => Commit::Conflict(batch.keys().cloned().collect()),
            Some(Fault::UnknownApplied) => match self.inner.commit(batch).await {
                Commit::Committed => Commit::Unknown(lost_connection()),
                other => other,
            },
            Some(Fault::UnknownLost) => Commit::Unknown(lost_connection()),
            Some(Fault::UnknownLate) => {
                self.late.lock().unwrap().push(batch);
                Commit::Unknown(lost_connection())
            }
            Some(Fault::OutOfSpace) => Commit::Refused(StoreError::OutOfSpace {
                place: "test".into(),
                free_bytes: 1,
                min_free_bytes: 2,
            }),
            Some(Fault::NotReady) => Commit::Refused(StoreError::NotReady {
                reason: "reopening".into(),
            }),
        }
    }

    fn readiness(&self) -> Readiness {
        self.inner.readiness()
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.inner.epoch().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A snapshot of [`TestStore`].
struct TestSnapshot {
    inner: Arc<dyn Snapshot>,
    unreadable: Arc<Mutex<Option<(Bytes, usize)>>>,
}

#[async_trait]
impl Snapshot for TestSnapshot {
    fn version(&self) -> Version {
        self.inner.version()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key).await
    }

    async fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if let Some((key, times)) = &mut *self.unreadable.lock().unwrap()
            && *times > 0
            && keys.contains(key)
        {
            *times -= 1;
            return Err(lost_connection());
        }
        self.inner.multi_get(keys).await
    }

    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
        direction: Direction,
    ) -> Result<ScanPage, StoreError> {
        self.inner.scan(range, limit, direction).await
    }
}

/// Remembers what was committed.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<Committed>>);

impl CommitSink for Recorder {
    fn committed(&self, committed: Committed) {
        self.0.lock().unwrap().push(committed);
    }
}

impl Recorder {
    pub fn take(&self) -> Vec<Committed> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// One service node.
pub struct Node {
    pub log: Log,
    pub sink: Arc<Recorder>,
    pub incarnation: Incarnation,
}

pub struct World {
    pub store: Arc<TestStore>,
    pub clock: Arc<TestClock>,
    pub random: Arc<Seeded>,
    pub env: Env,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let clock = Arc::new(TestClock {
            now_ms: AtomicU64::new(START_MS),
            monotonic_us: AtomicU64::new(1_000_000),
        });
        let store = Arc::new(TestStore {
            inner: MemoryStore::new(Epoch([7; 16])),
            faults: Mutex::default(),
            fault_permille: AtomicU64::new(0),
            late: Mutex::default(),
            cursed: Mutex::default(),
            hanging: watch::Sender::default(),
            unreadable: Arc::default(),
            hang: watch::Sender::default(),
            random: Seeded::new(seed ^ 0x5707),
            gate_open: watch::Sender::new(true),
            commits: AtomicU64::new(0),
        });
        let random = Arc::new(Seeded::new(seed));
        let env = Env {
            clock: Arc::<TestClock>::clone(&clock),
            entropy: Arc::<Seeded>::clone(&random),
            timers: Arc::new(TestTimers(Arc::clone(&clock))),
            spawner: Arc::new(TestSpawner),
        };
        Self {
            store,
            clock,
            random,
            env,
        }
    }

    pub async fn node(&self, name: &str) -> Node {
        self.node_with(name, self.store.grouping()).await
    }

    /// A node that puts commits together in this way.
    pub async fn node_with(&self, name: &str, grouping: Grouping) -> Node {
        let sink = Arc::new(Recorder::default());
        let incarnation = Incarnation(self.random.random_u64());
        let log = Log::start(
            (self.shared_store(), grouping),
            self.env.clone(),
            &NodeId::new(name).unwrap(),
            incarnation,
            Arc::<Recorder>::clone(&sink),
            Arc::new(|app: &AppKey| AppOptions {
                create_users_on_reference: app.as_str() == "demo",
            }),
        )
        .await
        .unwrap();
        Node {
            log,
            sink,
            incarnation,
        }
    }

    pub fn shared_store(&self) -> Arc<dyn Store> {
        Arc::<TestStore>::clone(&self.store)
    }

    pub fn deadline(&self) -> Deadline {
        Deadline::after(&self.env, Duration::from_secs(3_600))
    }

    pub fn operation(&self) -> OperationId {
        self.operation_at(self.clock.now_ms())
    }

    pub fn operation_at(&self, at_ms: u64) -> OperationId {
        let random = [
            self.random.random_u64().to_be_bytes(),
            self.random.random_u64().to_be_bytes(),
        ]
        .concat();
        OperationId::new(at_ms, *random.first_chunk().unwrap())
    }

    pub fn operation_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.operation().as_bytes())
    }

    pub async fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.store.inner.snapshot().await.unwrap()
    }

    /// The whole log as stored.
    pub async fn entries(&self, conversation: ConversationId) -> Vec<LogEntry> {
        let keys = ConversationKeys::new(&app(), conversation);
        let snapshot = self.snapshot().await;
        let mut all = Vec::new();
        let mut rest = Some(keys.entries(Seq(1), Seq(u64::MAX)));
        while let Some(range) = rest {
            let page = snapshot.scan(range, 1_000, Direction::Forward).await.unwrap();
            all.extend(
                page.entries
                    .iter()
                    .map(|(_, value)| LogEntry::decode(value).unwrap()),
            );
            rest = page.next;
        }
        all
    }

    pub async fn view(&self, actor: &Actor, conversation: ConversationId) -> View {
        let keys = ConversationKeys::new(&actor.app, conversation);
        View::load(&*self.snapshot().await, keys, actor.user)
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn life(&self, owner: Incarnation) -> Option<storage::NodeLife> {
        let value = self.snapshot().await.get(&node_life(owner)).await.unwrap();
        value.map(|value| decode(&value).unwrap())
    }

    pub async fn markers(&self, owner: Incarnation) -> Vec<MarkerKey> {
        let snapshot = self.snapshot().await;
        let mut all = Vec::new();
        for range in MarkerKey::ranges_of(owner) {
            let page = snapshot.scan(range, 4_000, Direction::Forward).await.unwrap();
            all.extend(
                page.entries
                    .iter()
                    .map(|(key, _)| MarkerKey::decode(key).unwrap()),
            );
        }
        all
    }
}

pub fn app() -> AppKey {
    AppKey::new("demo").unwrap()
}

pub fn text(id: OperationId, text: &str) -> client::OutgoingMessage {
    client::OutgoingMessage {
        client_msg_id: Bytes::copy_from_slice(id.as_bytes()),
        content: Some(client::Content {
            content: Some(Kind::Text(client::Text { text: text.into() })),
        }),
        options: None,
    }
}

pub fn wire(conversation: ConversationId) -> Bytes {
    Bytes::copy_from_slice(conversation.as_bytes())
}

impl Node {
    pub async fn user(&self, uid: &str) -> Actor {
        let uid = Uid::new(uid).unwrap();
        let user = self
            .log
            .users()
            .resolve_or_create(&app(), std::slice::from_ref(&uid))
            .await
            .unwrap()[0];
        Actor {
            app: app(),
            user,
            uid,
        }
    }

    pub async fn direct(&self, world: &World, actor: &Actor, uid: &str) -> ConversationId {
        let request = client::OpenDirectRequest { uid: uid.into() };
        let opened = self
            .log
            .open_direct(actor, &request, world.deadline())
            .await
            .unwrap();
        ConversationId::from_wire(&opened.conversation).unwrap()
    }

    pub async fn group(&self, world: &World, actor: &Actor, others: &[&str]) -> ConversationId {
        self.group_with(world, actor, others, false).await
    }

    pub async fn group_with(
        &self,
        world: &World,
        actor: &Actor,
        others: &[&str],
        history: bool,
    ) -> ConversationId {
        let request = client::CreateGroupRequest {
            operation_id: world.operation_bytes(),
            name: "team".into(),
            member_uids: others.iter().map(|uid| (*uid).to_owned()).collect(),
            history_for_newcomers: history,
        };
        let created = self
            .log
            .create_group(actor, &request, world.deadline())
            .await
            .unwrap();
        ConversationId::from_wire(&created.conversation).unwrap()
    }

    pub async fn send_batch(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        messages: Vec<client::OutgoingMessage>,
    ) -> Result<Vec<client::Accepted>, Failure> {
        let request = client::SendRequest {
            conversation: wire(conversation),
            messages,
            seen_seq: 0,
        };
        Ok(self.log.send(actor, request, world.deadline()).await?.accepted)
    }

    /// Sends one text under a new id; its seq.
    pub async fn say(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        words: &str,
    ) -> Result<u64, Failure> {
        let message = text(world.operation(), words);
        Ok(self.send_batch(world, actor, conversation, vec![message]).await?[0].seq)
    }

    pub async fn read(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        seq: u64,
    ) -> Result<(u64, u64), Failure> {
        let request = client::MarkReadRequest {
            conversation: wire(conversation),
            read_seq: seq,
        };
        let read = self.log.mark_read(actor, &request, world.deadline()).await?;
        Ok((read.read_seq, read.unread))
    }

    pub async fn recall(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        seq: u64,
    ) -> Result<u64, Failure> {
        let request = client::RecallRequest {
            operation_id: world.operation_bytes(),
            conversation: wire(conversation),
            seq,
        };
        Ok(self.log.recall(actor, &request, world.deadline()).await?.rev)
    }

    pub async fn invite(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        uids: &[&str],
    ) -> Result<u64, Failure> {
        let request = client::InviteRequest {
            operation_id: world.operation_bytes(),
            conversation: wire(conversation),
            uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
        };
        Ok(self.log.invite(actor, &request, world.deadline()).await?.seq)
    }

    pub async fn remove(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        uids: &[&str],
    ) -> Result<u64, Failure> {
        let request = client::RemoveMembersRequest {
            operation_id: world.operation_bytes(),
            conversation: wire(conversation),
            uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
        };
        Ok(self
            .log
            .remove_members(actor, &request, world.deadline())
            .await?
            .seq)
    }

    pub async fn leave(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
    ) -> Result<u64, Failure> {
        let request = client::LeaveRequest {
            operation_id: world.operation_bytes(),
            conversation: wire(conversation),
        };
        Ok(self.log.leave(actor, &request, world.deadline()).await?.seq)
    }
}
