//! A small world: nodes over one store, a switch instead of links, and devices that behave as the SDK does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use whimbrel_app_service::auth::{App, AppSecret, Apps};
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_app_service::env::{BoxFuture, Clock, Entropy, Env, Spawner, TokioTimers};
use whimbrel_app_service::keys::MarkerKey;
use whimbrel_app_service::log::Actor;
use whimbrel_app_service::node::{Node, NodeParts};
use whimbrel_app_service::placement::Peer;
use whimbrel_app_service::service::Answer;
use whimbrel_link::{CallError, Caller};
use whimbrel_protocol::client::{self, ConversationRow};
use whimbrel_protocol::cluster::{
    self, Envelope, Kind, NodeLease, PushRequest, PushResponse, SessionHandle, SessionRecord,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, ConversationId, Incarnation, NodeId, OperationId, Uid, UserId};
use whimbrel_protocol::method::{Method, PushMethod};
use whimbrel_registry::{MemoryRegistry, Registry};
use whimbrel_store::{
    Batch, Commit, Direction, Epoch, MemoryStore, Op, Readiness, Snapshot, Store, StoreError,
};

/// When the world begins, unix milliseconds.
pub(crate) const START_MS: u64 = 1_790_000_000_000;
const GATEWAY: &str = "gateway-1";
/// Virtual time within which everything must come to rest.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn app() -> AppKey {
    AppKey::new("demo").unwrap()
}

pub(crate) fn secret() -> AppSecret {
    AppSecret::from_bytes(&[7; 32]).unwrap()
}

pub(crate) fn apps() -> Apps {
    let strict = App::new(AppKey::new("strict").unwrap(), vec![secret()], false).unwrap();
    Apps::new([App::new(app(), vec![secret()], true).unwrap(), strict]).unwrap()
}

struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// SplitMix64 from a seed.
pub(crate) struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn random_u64(&self) -> u64 {
        let value = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

/// A node's tasks, to be killed together.
#[derive(Default)]
struct Killable(Mutex<Vec<AbortHandle>>);

impl Spawner for Killable {
    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) {
        self.0.lock().unwrap().push(tokio::spawn(task).abort_handle());
    }
}

/// What happens to commits of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They never come back and are not applied.
    Hang,
    /// Refused, nothing applied.
    Refuse,
    /// Applied, but nobody learns of it; once.
    LoseAnswer,
    /// Not applied, and nobody learns of it; once.
    LoseCommit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kindred {
    /// Commits that rewrite users' rows.
    Rows,
    /// Commits that delete markers.
    Cleaning,
}

/// The memory store, with planted faults.
pub(crate) struct Faulty {
    inner: MemoryStore,
    fates: Mutex<BTreeMap<Kindred, Fate>>,
}

impl Faulty {
    pub(crate) fn plant(&self, kindred: Kindred, fate: Fate) {
        self.fates.lock().unwrap().insert(kindred, fate);
    }

    pub(crate) fn heal(&self) {
        self.fates.lock().unwrap().clear();
    }

    fn fate_of(&self, batch: &Batch) -> Option<Fate> {
        let kindred = kindred(batch)?;
        let mut fates = self.fates.lock().unwrap();
        let fate = fates.get(&kindred).copied();
        if matches!(fate, Some(Fate::LoseAnswer | Fate::LoseCommit)) {
            fates.remove(&kindred);
        }
        fate
    }
}

fn kindred(batch: &Batch) -> Option<Kindred> {
    // Second byte 0: the cluster's; else the app key's length, and behind the app key the space.
    let is_row = |key: &[u8]| key[1] > 0 && key[2 + usize::from(key[1])] == b'u';
    if batch.keys().any(|key| is_row(key)) {
        return Some(Kindred::Rows);
    }
    batch
        .iter()
        .all(|(_, op)| *op == Op::Delete)
        .then_some(Kindred::Cleaning)
}

fn lost() -> StoreError {
    StoreError::backend("committing", "planted")
}

#[async_trait]
impl Store for Faulty {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.inner.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Commit {
        match self.fate_of(&batch) {
            None => self.inner.commit(batch).await,
            Some(Fate::Hang) => std::future::pending().await,
            Some(Fate::Refuse) => Commit::Refused(StoreError::NotReady {
                reason: "planted".into(),
            }),
            Some(Fate::LoseAnswer) => {
                assert!(self.inner.commit(batch).await.is_committed());
                Commit::Unknown(lost())
            }
            Some(Fate::LoseCommit) => Commit::Unknown(lost()),
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

/// Instead of routers and gateways.
#[derive(Default)]
pub(crate) struct Switch {
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    inboxes: Mutex<BTreeMap<u32, Vec<(u32, Bytes)>>>,
    /// Nodes that nobody reaches.
    cut: Mutex<BTreeSet<String>>,
}

impl Switch {
    pub(crate) fn cut(&self, node: &str) {
        self.cut.lock().unwrap().insert(node.to_owned());
    }

    pub(crate) fn mend(&self) {
        self.cut.lock().unwrap().clear();
    }

    fn push(&self, request: &PushRequest) -> PushResponse {
        let mut inboxes = self.inboxes.lock().unwrap();
        let mut response = PushResponse::default();
        for target in &request.targets {
            match inboxes.get_mut(&target.slot) {
                Some(inbox) => {
                    inbox.push((request.method, request.payload.clone()));
                    response.accepted += 1;
                }
                None => response.gone.push(*target),
            }
        }
        response
    }
}

#[async_trait]
impl Caller for Switch {
    async fn call(&self, request: Envelope, deadline: Duration) -> Result<Envelope, CallError> {
        if self.cut.lock().unwrap().contains(&request.to_node) {
            return Err(CallError::UnknownNode);
        }
        if request.kind() == Kind::Push {
            assert_eq!(request.to_node, GATEWAY);
            let body = self
                .push(&PushRequest::decode(request.body).unwrap())
                .encode_to_vec()
                .into();
            return Ok(Envelope {
                body,
                ..Envelope::default()
            });
        }
        let node = self
            .nodes
            .lock()
            .unwrap()
            .get(&request.to_node)
            .cloned()
            .ok_or(CallError::UnknownNode)?;
        let answer = tokio::time::timeout(deadline, ask(&node, request)).await;
        match answer.map_err(|_| CallError::Deadline)? {
            Answer::Body(body) => Ok(Envelope {
                body,
                ..Envelope::default()
            }),
            Answer::Refused { .. } => Err(CallError::Unavailable { retry_after_ms: 0 }),
        }
    }
}

/// Asks a node, as a link does.
pub(crate) async fn ask(node: &Node, request: Envelope) -> Answer {
    let (tell, told) = oneshot::channel();
    node.service()
        .handle_request(request, move |answer| _ = tell.send(answer));
    // A node that is killed never answers.
    match told.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}

/// A node that runs.
pub(crate) struct Live {
    pub(crate) node: Arc<Node>,
    pub(crate) peer: Peer,
    tasks: Arc<Killable>,
}

pub(crate) struct World {
    pub(crate) store: Arc<Faulty>,
    pub(crate) registry: Arc<MemoryRegistry>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) config: AppServiceConfig,
    pub(crate) entropy: Arc<Seeded>,
    clock: Arc<PausedClock>,
    slots: AtomicU32,
    lives: AtomicU64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let clock = Arc::new(PausedClock(tokio::time::Instant::now()));
        let monotonic = Arc::clone(&clock);
        let registry =
            MemoryRegistry::with_clock(Incarnation(1), Arc::new(move || Clock::monotonic(&*monotonic)));
        Self {
            store: Arc::new(Faulty {
                inner: MemoryStore::new(Epoch([5; 16])),
                fates: Mutex::default(),
            }),
            registry: Arc::new(registry),
            switch: Arc::default(),
            config: AppServiceConfig::default(),
            entropy: Arc::new(Seeded(AtomicU64::new(seed))),
            clock,
            slots: AtomicU32::new(1),
            lives: AtomicU64::new(0x100),
        }
    }

    pub(crate) fn random(&self, below: u64) -> u64 {
        self.entropy.random_u64() % below
    }

    pub(crate) fn env(&self) -> (Env, impl Fn()) {
        let (env, tasks) = self.killable();
        (env, move || {
            tasks.0.lock().unwrap().drain(..).for_each(|task| task.abort())
        })
    }

    fn killable(&self) -> (Env, Arc<Killable>) {
        let tasks = Arc::new(Killable::default());
        let env = Env {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            entropy: Arc::clone(&self.entropy) as Arc<dyn Entropy>,
            timers: Arc::new(TokioTimers),
            spawner: Arc::clone(&tasks) as Arc<dyn Spawner>,
        };
        (env, tasks)
    }

    /// A new life of the node of this name, knowing of no other.
    pub(crate) async fn start(&self, name: &str) -> Live {
        let (env, tasks) = self.killable();
        let peer = Peer {
            node: NodeId::new(name).unwrap(),
            incarnation: Incarnation(self.lives.fetch_add(1, Ordering::Relaxed)),
            draining: false,
        };
        let parts = NodeParts {
            me: peer.clone(),
            apps: apps(),
            store: Arc::clone(&self.store) as Arc<dyn Store>,
            registry: Arc::clone(&self.registry) as Arc<dyn Registry>,
            caller: Arc::clone(&self.switch) as Arc<dyn Caller>,
            env,
        };
        let node = Arc::new(Node::start(&self.config, parts).await.unwrap());
        self.switch
            .nodes
            .lock()
            .unwrap()
            .insert(name.to_owned(), Arc::clone(&node));
        Live { node, peer, tasks }
    }

    /// A node that is alone and knows it.
    pub(crate) async fn start_alone(&self) -> Live {
        let live = self.start("node-1").await;
        live.node.placement().update([]);
        live
    }

    /// The end of a process, at any await.
    pub(crate) fn kill(&self, live: Live) {
        live.tasks
            .0
            .lock()
            .unwrap()
            .drain(..)
            .for_each(|task| task.abort());
        self.switch.nodes.lock().unwrap().remove(live.peer.node.as_str());
        drop(live);
    }

    pub(crate) fn operation(&self) -> Bytes {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.entropy.random_u64().to_be_bytes());
        Bytes::copy_from_slice(OperationId::new(self.clock.now_ms(), random).as_bytes())
    }

    /// A device of this user, here and up to date.
    pub(crate) async fn device(&self, live: &Live, uid: &str) -> Device {
        let uid = Uid::new(uid).unwrap();
        let users = live.node.log().users();
        let user = users
            .resolve_or_create(&app(), std::slice::from_ref(&uid))
            .await
            .unwrap()[0];
        let slot = self.slots.fetch_add(1, Ordering::Relaxed);
        let handle = SessionHandle {
            gateway: GATEWAY.into(),
            incarnation: 9,
            slot,
            ..Default::default()
        };
        let record = SessionRecord {
            app_key: "demo".into(),
            user_id: user.0,
            device_id: format!("device-{slot}"),
            login_epoch: 1,
            session: Some(handle),
            ..Default::default()
        };
        self.switch.inboxes.lock().unwrap().insert(slot, Vec::new());
        let lease = NodeLease {
            node: GATEWAY.into(),
            role: cluster::Role::Gateway.into(),
            incarnation: 9,
            ttl_ms: 300_000,
            ..Default::default()
        };
        self.registry.put_node(lease).await.unwrap();
        assert!(self.registry.register(record).await.unwrap().accepted);
        let actor = Actor {
            app: app(),
            user,
            uid,
        };
        let mut device = Device {
            actor,
            slot,
            ..Device::nowhere()
        };
        device.sync(live).await;
        device
    }

    /// The device's connection breaks without the registry learning of it.
    pub(crate) fn disconnect(&self, device: &Device) {
        self.switch.inboxes.lock().unwrap().remove(&device.slot);
    }

    pub(crate) async fn markers_of(&self, life: Incarnation) -> usize {
        let snapshot = self.store.snapshot().await.unwrap();
        let mut count = 0;
        for range in MarkerKey::ranges_of(life) {
            count += snapshot
                .scan(range, 4096, Direction::Forward)
                .await
                .unwrap()
                .entries
                .len();
        }
        count
    }

    /// Waits until no marker of these lives is left.
    pub(crate) async fn settle(&self, lives: &[Incarnation]) {
        let rest = async {
            loop {
                let mut left = 0;
                for life in lives {
                    left += self.markers_of(*life).await;
                }
                if left == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // What was told is on its way for less than this.
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        tokio::time::timeout(PATIENCE, rest)
            .await
            .expect("markers are worked off in time");
    }
}

pub(crate) fn wire(conversation: ConversationId) -> Bytes {
    Bytes::copy_from_slice(conversation.as_bytes())
}

pub(crate) fn outgoing(id: Bytes, text: &str) -> client::OutgoingMessage {
    let content = client::content::Content::Text(client::Text { text: text.into() });
    client::OutgoingMessage {
        client_msg_id: id,
        content: Some(client::Content {
            content: Some(content),
        }),
        options: None,
    }
}

impl Live {
    pub(crate) fn life(&self) -> Incarnation {
        self.peer.incarnation
    }

    /// Knows of these nodes besides itself.
    pub(crate) fn meets(&self, others: &[&Self]) {
        self.node
            .placement()
            .update(others.iter().map(|other| other.peer.clone()));
    }

    pub(crate) async fn request(&self, actor: &Actor, method: u32, payload: Bytes) -> client::Response {
        let request = cluster::ClientRequest {
            app_key: actor.app.as_str().into(),
            uid: actor.uid.as_str().into(),
            user_id: actor.user.0,
            device_id: "device".into(),
            session: None,
            method,
            payload,
        };
        let envelope = Envelope {
            kind: Kind::ClientRequest.into(),
            priority: cluster::Priority::Direct.into(),
            body: request.encode_to_vec().into(),
            ..Default::default()
        };
        let Answer::Body(body) = ask(&self.node, envelope).await else {
            return client::Response {
                code: Code::Unavailable.number(),
                ..Default::default()
            };
        };
        let response = cluster::ClientResponse::decode(body).unwrap();
        client::Response::decode(response.payload).unwrap()
    }

    /// Calls a method; the code when it fails.
    pub(crate) async fn call<R: Message + Default>(
        &self,
        actor: &Actor,
        method: Method,
        request: &impl Message,
    ) -> Result<R, Code> {
        let response = self
            .request(actor, method.number(), request.encode_to_vec().into())
            .await;
        match response.code {
            0 => Ok(R::decode(response.body).unwrap()),
            code => Err(Code::from_number(code).unwrap()),
        }
    }

    pub(crate) async fn direct(&self, from: &Actor, to: &str) -> ConversationId {
        let request = client::OpenDirectRequest { uid: to.into() };
        let opened: client::Conversation = self.call(from, Method::OpenDirect, &request).await.unwrap();
        ConversationId::from_wire(&opened.conversation).unwrap()
    }

    pub(crate) async fn group(&self, world: &World, owner: &Actor, members: &[&str]) -> ConversationId {
        let request = client::CreateGroupRequest {
            operation_id: world.operation(),
            name: "team".into(),
            member_uids: members.iter().map(|&uid| uid.into()).collect(),
            history_for_newcomers: false,
        };
        let made: client::GroupChangeResponse =
            self.call(owner, Method::CreateGroup, &request).await.unwrap();
        ConversationId::from_wire(&made.conversation).unwrap()
    }

    pub(crate) async fn invite(
        &self,
        world: &World,
        by: &Actor,
        group: ConversationId,
        uid: &str,
    ) -> Result<u64, Code> {
        let request = client::InviteRequest {
            operation_id: world.operation(),
            conversation: wire(group),
            uids: vec![uid.into()],
        };
        self.call(by, Method::Invite, &request)
            .await
            .map(|changed: client::GroupChangeResponse| changed.seq)
    }

    pub(crate) async fn remove(
        &self,
        world: &World,
        by: &Actor,
        group: ConversationId,
        uid: &str,
    ) -> Result<u64, Code> {
        let request = client::RemoveMembersRequest {
            operation_id: world.operation(),
            conversation: wire(group),
            uids: vec![uid.into()],
        };
        self.call(by, Method::RemoveMembers, &request)
            .await
            .map(|changed: client::GroupChangeResponse| changed.seq)
    }

    pub(crate) async fn rename(&self, world: &World, by: &Actor, group: ConversationId, name: &str) {
        let request = client::RenameGroupRequest {
            operation_id: world.operation(),
            conversation: wire(group),
            name: name.into(),
        };
        let _: client::GroupChangeResponse = self.call(by, Method::RenameGroup, &request).await.unwrap();
    }

    pub(crate) async fn send(
        &self,
        world: &World,
        from: &Actor,
        to: ConversationId,
        text: &str,
    ) -> Result<u64, Code> {
        let request = client::SendRequest {
            conversation: wire(to),
            messages: vec![outgoing(world.operation(), text)],
            seen_seq: 0,
        };
        let sent: client::SendResponse = self.call(from, Method::Send, &request).await?;
        Ok(sent.accepted[0].seq)
    }

    pub(crate) async fn mark_read(&self, who: &Actor, conversation: ConversationId, read_seq: u64) -> u64 {
        let request = client::MarkReadRequest {
            conversation: wire(conversation),
            read_seq,
        };
        let marked: client::MarkReadResponse = self.call(who, Method::MarkRead, &request).await.unwrap();
        marked.unread
    }

    pub(crate) async fn sync_page(&self, who: &Actor, cursor: Bytes, limit: u32) -> client::SyncResponse {
        self.call(who, Method::Sync, &client::SyncRequest { cursor, limit })
            .await
            .unwrap()
    }
}

/// A device as the SDK would have it: it applies notices that fit its cursor and syncs when they do not.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) actor: Actor,
    pub(crate) slot: u32,
    pub(crate) cursor: Bytes,
    pub(crate) rows: BTreeMap<ConversationId, ConversationRow>,
    /// Seqs that were pushed, by conversation, in order of arrival.
    pub(crate) pushed: BTreeMap<ConversationId, Vec<u64>>,
    pub(crate) notices: usize,
    /// Notices that did not fit: each asks for a sync.
    pub(crate) holes: usize,
}

impl Device {
    fn nowhere() -> Self {
        let actor = Actor {
            app: app(),
            user: UserId(0),
            uid: Uid::new("nobody").unwrap(),
        };
        Self {
            actor,
            slot: 0,
            cursor: Bytes::new(),
            rows: BTreeMap::new(),
            pushed: BTreeMap::new(),
            notices: 0,
            holes: 0,
        }
    }

    /// Syncs to the end, in pages of 2.
    pub(crate) async fn sync(&mut self, live: &Live) {
        loop {
            let page = live.sync_page(&self.actor, self.cursor.clone(), 2).await;
            if page.full_resync {
                self.rows.clear();
            }
            self.apply_rows(page.rows);
            self.cursor = page.cursor;
            if !page.more {
                return;
            }
        }
    }

    fn apply_rows(&mut self, rows: Vec<ConversationRow>) {
        for row in rows {
            self.rows
                .insert(ConversationId::from_wire(&row.conversation).unwrap(), row);
        }
    }

    /// Takes what was pushed. Gives back whether it must sync.
    pub(crate) fn receive(&mut self, world: &World) -> bool {
        let taken = world
            .switch
            .inboxes
            .lock()
            .unwrap()
            .get_mut(&self.slot)
            .map(std::mem::take);
        let mut hole = false;
        for (method, payload) in taken.unwrap_or_default() {
            match PushMethod::from_number(method).unwrap() {
                PushMethod::Messages => {
                    let push = client::MessagesPush::decode(payload).unwrap();
                    let conversation = ConversationId::from_wire(&push.conversation).unwrap();
                    let seqs = push.entries.iter().map(|entry| entry.seq);
                    self.pushed.entry(conversation).or_default().extend(seqs);
                }
                PushMethod::Notice => {
                    let notice = client::NoticePush::decode(payload).unwrap();
                    self.notices += 1;
                    if notice.from_cursor == self.cursor {
                        self.apply_rows(notice.rows);
                        self.cursor = notice.to_cursor;
                    } else {
                        hole = true;
                        self.holes += 1;
                    }
                }
            }
        }
        hole
    }

    /// Takes what was pushed, and syncs only if that asks for it.
    pub(crate) async fn follow(&mut self, world: &World, live: &Live) {
        if self.receive(world) {
            self.sync(live).await;
        }
    }

    pub(crate) fn row(&self, conversation: ConversationId) -> &ConversationRow {
        self.rows
            .get(&conversation)
            .expect("the device has a row of the conversation")
    }

    /// The same user on a device that has nothing.
    pub(crate) async fn fresh(&self, live: &Live) -> Self {
        let mut fresh = Self {
            actor: self.actor.clone(),
            ..Self::nowhere()
        };
        fresh.sync(live).await;
        fresh
    }
}
