//! A gateway on loopback, linked in memory to a router and service node in one that do what a script says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use whimbrel_gateway::{Gateway, GatewayConfig, GatewayHandle, GatewayKeys};
use whimbrel_host::{HostParts, ManualClock};
use whimbrel_link::{ClusterSecret, Endpoint, Identity, Link, LinkEvent};
use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::client::{Login, Response};
use whimbrel_protocol::cluster::{
    AuthenticateRequest, AuthenticateResponse, ClientRequest, ClientResponse, CloseSessions, Envelope, Kind,
    NodeLease, OpenSessionRequest, OpenSessionResponse, ProbeResponse, PushRequest, PushResponse, PushTarget,
    PushesRequest, Role, SessionHandle, SessionRecord, Status, UserKey,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::descriptor::{
    Certificate, IdentityKey, KnownTime, RootKey, RootPublicKey, verify_chain,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_protocol::keys::StaticPublicKey;
use whimbrel_protocol::{Suite, SystemEntropy};
use whimbrel_registry::RegistryAt;
use whimbrel_registry::{MemoryRegistry, Registry};

use super::client::login;
use super::socket::{PATIENCE, Socket};

/// Asks the script to echo the payload.
pub(crate) const ECHO: u32 = 1;
/// Asks it to push `uid NUL text` to that user.
pub(crate) const TELL: u32 = 2;
/// Asks it never to answer.
pub(crate) const IGNORE: u32 = 3;
/// Asks for an answer of 60 KiB.
pub(crate) const LARGE: u32 = 4;

/// Unix time at which manual clocks start.
pub(crate) const START_MS: u64 = 1_800_000_000_000;

/// How often the script was asked what.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) authenticate: AtomicUsize,
    pub(crate) open_session: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    /// Orders to close sessions of other gateways.
    pub(crate) closes: watch::Sender<Vec<CloseSessions>>,
    /// How many of them are still answered that there is no such gateway.
    pub(crate) closes_to_nobody: AtomicUsize,
}

type Pushes = mpsc::UnboundedSender<(Envelope, oneshot::Sender<Envelope>)>;

pub(crate) struct World {
    runtime: Runtime,
    gateway: Option<GatewayHandle>,
    pub(crate) host: HostParts,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) address: SocketAddr,
    pub(crate) key: StaticPublicKey,
    pub(crate) root: RootPublicKey,
    pub(crate) asked: Arc<Asked>,
    to_gateway: Pushes,
    manual_clock: Option<Arc<ManualClock>>,
}

/// What the steps of a login are paid for with when each is a round of its own, as on a slow machine: the gateway looks after
/// strangers every 5 ms once they have used up their allowance.
const LOGIN_ROUNDS: Duration = Duration::from_millis(25);

/// A configuration for tests: loopback, two reactors, no waiting at the end.
pub(crate) fn config() -> GatewayConfig {
    let mut config = GatewayConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        reactors: 2,
        connections_max: 2_000,
        ..GatewayConfig::default()
    };
    config.drain.window_ms = 0;
    config.drain.grace_ms = 0;
    config.lease.renew_ms = 50;
    config.lease.ttl_ms = 5_000;
    config.handshake.failed_per_address_max = 1_000_000;
    config
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: GatewayConfig) -> Self {
        Self::over(config, Arc::new(MemoryRegistry::new(Incarnation(7))))
    }

    /// A gateway whose time moves only when it is told to.
    pub(crate) fn on_manual_clock(config: GatewayConfig) -> (Self, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(START_MS));
        let host = HostParts::on_clock(Arc::<ManualClock>::clone(&clock));
        let mut world = Self::of(config, Arc::new(MemoryRegistry::new(Incarnation(7))), host);
        world.manual_clock = Some(Arc::clone(&clock));
        (world, clock)
    }

    pub(crate) fn over(config: GatewayConfig, registry: Arc<dyn Registry>) -> Self {
        Self::of(config, registry, HostParts::on_system_clock())
    }

    fn of(config: GatewayConfig, registry: Arc<dyn Registry>, host: HostParts) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let secret = ClusterSecret::generate();
        let node = NodeId::new("gateway-1").unwrap();
        let (ours, events) = Endpoint::new(identity("gateway-1", Role::Gateway, 11), secret.clone());
        let (theirs, router_events) = Endpoint::new(identity("router-1", Role::Router, 12), secret);
        let (root, keys) = certified(&node, host.clock.now_ms());
        let at = RegistryAt::Here(Arc::clone(&registry));
        let gateway = Gateway::start(config, keys, (ours.clone(), events), at, host.clone()).unwrap();
        Endpoint::connect_in_memory(&ours, &theirs);
        let asked = Arc::new(Asked::default());
        let (to_gateway, orders) = mpsc::unbounded_channel();
        let script = Script {
            registry: Arc::clone(&registry),
            asked: Arc::clone(&asked),
            link: None,
            pending: HashMap::new(),
            next_id: 1,
        };
        runtime.spawn(script.run(router_events, orders, theirs));
        let address = gateway.address();
        let descriptor = runtime.block_on(lease(&*registry)).descriptor;
        let described = verify_chain(&descriptor, &[root], KnownTime::Exactly(host.clock.now_ms())).unwrap();
        let (_, key) = described.choose(&Suite::ALL).unwrap();
        let gateway = Some(gateway);
        let world = Self {
            runtime,
            gateway,
            host,
            registry,
            address,
            key,
            root,
            asked,
            to_gateway,
            manual_clock: None,
        };
        world.until("the gateway is ready", |world| world.host.health.is_ready());
        world
    }

    pub(crate) fn gateway(&self) -> &GatewayHandle {
        self.gateway.as_ref().expect("it runs until the world ends")
    }

    /// Logs `uid` in from its phone.
    pub(crate) fn log_in(&self, uid: &str, login_epoch: u64) -> Socket {
        let socket = Socket::log_in(self.address, &self.key, &login(uid, "good", login_epoch));
        if let Some(clock) = &self.manual_clock {
            clock.advance(LOGIN_ROUNDS);
        }
        socket
    }

    /// Waits for something that comes by itself.
    pub(crate) fn until(&self, what: &str, is_so: impl FnMut(&Self) -> bool) {
        assert!(self.comes_within(PATIENCE, is_so), "in vain: {what}");
    }

    /// Whether something comes by itself in that time.
    pub(crate) fn comes_within(&self, patience: Duration, mut is_so: impl FnMut(&Self) -> bool) -> bool {
        let until = Instant::now() + patience;
        while !is_so(self) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The registered sessions of a user.
    pub(crate) fn sessions_of(&self, uid: &str) -> Vec<SessionRecord> {
        self.block_on(self.registry.look_up(vec![user(uid)])).unwrap()
    }

    fn tell(&self, envelope: Envelope) -> Envelope {
        let (answer, answered) = oneshot::channel();
        self.to_gateway.send((envelope, answer)).unwrap();
        self.block_on(answered).unwrap()
    }

    /// Pushes to targets of the gateway's life `incarnation`.
    pub(crate) fn push(&self, targets: Vec<PushTarget>, payload: &[u8], incarnation: u64) -> PushResponse {
        let push = PushRequest {
            targets,
            method: 1,
            payload: Bytes::copy_from_slice(payload),
            tracked: true,
            gateway_incarnation: incarnation,
            ..PushRequest::default()
        };
        let answer = self.tell(envelope(Kind::Push, push.encode_to_vec()));
        assert_eq!(answer.status, 0, "{}", answer.detail);
        PushResponse::decode(answer.body).unwrap()
    }

    /// Several pushes of the gateway's lives in one frame.
    pub(crate) fn push_together(&self, pushes: Vec<(Vec<PushTarget>, &'static [u8], u64)>) -> PushResponse {
        let push = |(targets, payload, gateway_incarnation)| PushRequest {
            targets,
            method: 1,
            payload: Bytes::from_static(payload),
            tracked: true,
            gateway_incarnation,
            ..PushRequest::default()
        };
        let pushes = pushes.into_iter().map(push).collect();
        let answer = self.tell(envelope(Kind::Pushes, PushesRequest { pushes }.encode_to_vec()));
        assert_eq!(answer.status, 0, "{}", answer.detail);
        PushResponse::decode(answer.body).unwrap()
    }

    /// Orders sessions closed.
    pub(crate) fn close(&self, targets: Vec<PushTarget>, reason: u32) {
        let order = CloseSessions {
            targets,
            gateway_incarnation: 11,
            reason,
        };
        assert_eq!(
            self.tell(envelope(Kind::CloseSessions, order.encode_to_vec()))
                .status,
            0
        );
    }

    /// The router says unasked whether it can serve.
    pub(crate) fn router_says(&self, ready: bool) {
        let told = ProbeResponse {
            ready,
            ..ProbeResponse::default()
        };
        let unasked = Envelope {
            response: true,
            ..envelope(Kind::Probe, told.encode_to_vec())
        };
        let (answer, _nobody_answers) = oneshot::channel();
        self.to_gateway.send((unasked, answer)).unwrap();
    }

    /// The descriptor that the gateway's lease carries now.
    pub(crate) fn descriptor(&self) -> Bytes {
        self.block_on(lease(&*self.registry)).descriptor
    }

    /// How loaded the gateway's lease says that it is.
    pub(crate) fn load_permille(&self) -> u32 {
        self.block_on(lease(&*self.registry)).load_permille
    }

    /// Sends anything at all.
    pub(crate) fn send_raw(&self, kind: Kind, body: &[u8]) -> Envelope {
        self.tell(envelope(kind, body.to_vec()))
    }

    /// Leaves, and says how.
    pub(crate) fn leave(mut self) -> whimbrel_gateway::DrainReport {
        self.host.drain.start();
        let gateway = self.gateway.take().expect("it runs until the world ends");
        self.runtime.block_on(gateway.join())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            self.host.drain.start();
            self.runtime.block_on(gateway.join());
        }
    }
}

/// A session of `uid` on the gateway `gateway-2`, of incarnation 5.
pub(crate) fn elsewhere(uid: &str, device: &str, login_epoch: u64) -> SessionRecord {
    SessionRecord {
        app_key: "demo".to_owned(),
        user_id: user_id(uid),
        device_id: device.to_owned(),
        login_epoch,
        session: Some(SessionHandle {
            gateway: "gateway-2".to_owned(),
            incarnation: 5,
            ..SessionHandle::default()
        }),
        ..SessionRecord::default()
    }
}

/// The lease of that gateway.
pub(crate) fn lease_elsewhere() -> NodeLease {
    NodeLease {
        node: "gateway-2".to_owned(),
        role: Role::Gateway.into(),
        incarnation: 5,
        ttl_ms: 60_000,
        ..NodeLease::default()
    }
}

pub(crate) fn user(uid: &str) -> UserKey {
    UserKey {
        app_key: "demo".to_owned(),
        user_id: user_id(uid),
    }
}

pub(crate) fn user_id(uid: &str) -> u64 {
    city_hash(uid.as_bytes())
}

pub(crate) fn target_of(record: &SessionRecord) -> PushTarget {
    let handle = record.session.clone().unwrap();
    PushTarget {
        reactor: handle.reactor,
        slot: handle.slot,
        generation: handle.generation,
        user_id: record.user_id,
    }
}

fn identity(node: &str, role: Role, incarnation: u64) -> Identity {
    Identity {
        node: NodeId::new(node).unwrap(),
        role,
        incarnation: Incarnation(incarnation),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: whimbrel_link::Capacity::ORDINARY,
    }
}

fn certified(node: &NodeId, now_ms: u64) -> (RootPublicKey, GatewayKeys) {
    let (root, identity) = (
        RootKey::generate(&mut SystemEntropy),
        IdentityKey::generate(&mut SystemEntropy),
    );
    let certificate = Certificate {
        node: node.clone(),
        identity: identity.public(),
        not_before_ms: now_ms - 3_600_000,
        not_after_ms: now_ms + 30 * 24 * 3_600_000,
    };
    let certificate = root.certify(&certificate).unwrap().into();
    (
        root.public(),
        GatewayKeys {
            identity,
            certificate,
        },
    )
}

async fn lease(registry: &dyn Registry) -> NodeLease {
    loop {
        if let Some(lease) = registry.nodes(Some(Role::Gateway)).await.unwrap().pop() {
            return lease;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn envelope(kind: Kind, body: Vec<u8>) -> Envelope {
    Envelope {
        kind: kind.into(),
        body: body.into(),
        ..Envelope::default()
    }
}

/// Router and service node in one.
struct Script {
    registry: Arc<dyn Registry>,
    asked: Arc<Asked>,
    link: Option<Link>,
    pending: HashMap<u64, oneshot::Sender<Envelope>>,
    next_id: u64,
}

impl Script {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<LinkEvent>,
        mut orders: mpsc::UnboundedReceiver<(Envelope, oneshot::Sender<Envelope>)>,
        _endpoint: Endpoint,
    ) {
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(LinkEvent::Up(link)) => self.link = Some(link),
                    Some(LinkEvent::Frame(_, envelope)) if envelope.response => {
                        if let Some(answer) = self.pending.remove(&envelope.id) {
                            let _nobody_waits = answer.send(envelope);
                        }
                    }
                    Some(LinkEvent::Frame(_, envelope)) => self.handle(envelope).await,
                    Some(LinkEvent::Down(..)) => self.link = None,
                    None => return,
                },
                Some((envelope, answer)) = orders.recv() => self.send(envelope, Some(answer)),
            }
        }
    }

    fn send(&mut self, envelope: Envelope, answer: Option<oneshot::Sender<Envelope>>) {
        let Some(link) = &self.link else { return };
        if envelope.response {
            return link.try_send(envelope).unwrap();
        }
        let id = self.next_id;
        self.next_id += 1;
        if let Some(answer) = answer {
            self.pending.insert(id, answer);
        }
        link.try_send(Envelope { id, ..envelope }).unwrap();
    }

    fn answer(&self, id: u64, body: Vec<u8>) {
        self.answer_with(id, Status::Ok, body);
    }

    fn answer_with(&self, id: u64, status: Status, body: Vec<u8>) {
        let Some(link) = &self.link else { return };
        let answer = Envelope {
            id,
            status: status.into(),
            response: true,
            body: body.into(),
            ..Envelope::default()
        };
        let _gone = link.try_send(answer);
    }

    async fn handle(&mut self, envelope: Envelope) {
        let id = envelope.id;
        match envelope.kind() {
            Kind::Authenticate => {
                self.asked.authenticate.fetch_add(1, SeqCst);
                let request = AuthenticateRequest::decode(envelope.body).unwrap();
                let login = Login::decode(request.login).unwrap();
                let code = match login.token.as_str() {
                    "expired" => Code::TokenExpired.number(),
                    "slow" => return,
                    _ => 0,
                };
                let token_expires_ms = login
                    .token
                    .strip_prefix("until ")
                    .map_or(0, |at| at.parse().unwrap());
                let user_id = if login.token == "new" {
                    0
                } else {
                    user_id(&login.uid)
                };
                let judged = AuthenticateResponse {
                    code,
                    user_id,
                    token_expires_ms,
                    ..Default::default()
                };
                self.answer(id, judged.encode_to_vec());
            }
            Kind::OpenSession => {
                self.asked.open_session.fetch_add(1, SeqCst);
                let request = OpenSessionRequest::decode(envelope.body).unwrap();
                let opened = OpenSessionResponse {
                    user_id: user_id(&request.uid),
                    ..Default::default()
                };
                self.answer(id, opened.encode_to_vec());
            }
            Kind::ClientRequest => {
                self.asked.requests.fetch_add(1, SeqCst);
                let request = ClientRequest::decode(envelope.body).unwrap();
                assert_eq!(
                    request.user_id,
                    user_id(&request.uid),
                    "a request carries its user"
                );
                let body = match request.method {
                    ECHO => request.payload,
                    TELL => self.deliver(&request.payload).await,
                    LARGE => Bytes::from(vec![7; 60 * 1024]),
                    IGNORE => return,
                    method => panic!("the script knows no method {method}"),
                };
                let payload = Response {
                    body,
                    ..Response::default()
                }
                .encode_to_vec()
                .into();
                self.answer(id, ClientResponse { payload }.encode_to_vec());
            }
            Kind::CloseSessions => {
                let order = CloseSessions::decode(envelope.body).unwrap();
                self.asked.closes.send_modify(|closes| closes.push(order));
                let left = self.asked.closes_to_nobody.load(SeqCst);
                self.asked.closes_to_nobody.store(left.saturating_sub(1), SeqCst);
                let status = if left > 0 { Status::UnknownNode } else { Status::Ok };
                self.answer_with(id, status, Vec::new());
            }
            kind => panic!("a gateway asked for {kind:?}"),
        }
    }

    /// Pushes `uid NUL text` to all of the user's sessions.
    async fn deliver(&mut self, payload: &[u8]) -> Bytes {
        let (uid, text) = payload.split_at(payload.iter().position(|byte| *byte == 0).unwrap());
        let uid = std::str::from_utf8(uid).unwrap();
        let sessions = self.registry.look_up(vec![user(uid)]).await.unwrap();
        let push = PushRequest {
            targets: sessions.iter().map(target_of).collect(),
            method: 1,
            payload: Bytes::copy_from_slice(&text[1..]),
            tracked: true,
            gateway_incarnation: 11,
            ..PushRequest::default()
        };
        self.send(envelope(Kind::Push, push.encode_to_vec()), None);
        Bytes::new()
    }
}
