//! The task over a registry in memory and gateways that accept at once, or never. Time is virtual.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use whimbrel_link::CallError;
use whimbrel_protocol::client;
use whimbrel_protocol::cluster::{
    Envelope, Kind, NodeLease, PushRequest, PushesRequest, Role, SessionHandle,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{MemoryRegistry, Put, Registered, RegistryError, RoomCounts, RoomKey, RoomOnGateway};

use super::*;
use crate::env::TokioTimers;

const FROZEN: &str = "g1";
const HEALTHY: &str = "g2";

struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Gateways: when they accepted each push, and the pushes.
#[derive(Default)]
struct Gates(Mutex<Vec<Instant>>, Mutex<Vec<PushRequest>>);

#[async_trait]
impl Caller for Gates {
    async fn call(&self, request: Envelope, deadline: Duration) -> Result<Envelope, CallError> {
        if request.to_node == FROZEN {
            tokio::time::sleep(deadline).await;
            return Err(CallError::Deadline);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let pushes = match request.kind() {
            Kind::Pushes => PushesRequest::decode(request.body).unwrap().pushes,
            _ => vec![PushRequest::decode(request.body).unwrap()],
        };
        let mut accepted = self.0.lock().unwrap();
        accepted.extend(pushes.iter().map(|_| Instant::now()));
        self.1.lock().unwrap().extend(pushes);
        Ok(Envelope::default())
    }
}

fn app() -> AppKey {
    AppKey::new("demo").unwrap()
}

fn job(user: u64) -> PushJob {
    PushJob {
        app: app(),
        users: vec![UserId(user)],
        payload: Payload::Messages(client::MessagesPush {
            conversation: Bytes::from_static(&[1; 16]),
            entries: Vec::new(),
        }),
        priority: Priority::Direct,
    }
}

fn notice(user: u64) -> PushJob {
    PushJob {
        payload: Payload::Notice(client::NoticePush::default()),
        ..job(user)
    }
}

/// How often the healthy gateway was told to have user 2 sync.
fn told_to_sync(gates: &Gates) -> usize {
    let pushes = gates.1.lock().unwrap();
    let told = pushes.iter().filter(|push| push.missed);
    told.filter(|push| push.targets.iter().any(|target| target.user_id == 2))
        .count()
}

/// A registry in which user 1 is on the gateway that is frozen, user 2 on the other.
async fn registry() -> Arc<MemoryRegistry> {
    let registry = MemoryRegistry::with_clock(Incarnation(1), Arc::new(Duration::default));
    for (user_id, gateway) in [(1, FROZEN), (2, HEALTHY)] {
        let lease = NodeLease {
            node: gateway.into(),
            role: Role::Gateway.into(),
            incarnation: 9,
            ttl_ms: 300_000,
            ..Default::default()
        };
        registry.put_node(lease).await.unwrap();
        let record = SessionRecord {
            app_key: "demo".into(),
            user_id,
            device_id: "phone".into(),
            login_epoch: 1,
            session: Some(SessionHandle {
                gateway: gateway.into(),
                incarnation: 9,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(registry.register(record).await.unwrap().accepted);
    }
    Arc::new(registry)
}

#[tokio::test(start_paused = true)]
async fn a_frozen_gateway_delays_no_push_to_another() {
    let gates = Arc::new(Gates::default());
    let clock = Arc::new(VirtualClock(Instant::now()));
    let (fanout, task) = Fanout::new(
        16_384,
        registry().await,
        Arc::clone(&gates) as _,
        clock,
        Arc::new(TokioTimers),
    );
    let task = tokio::spawn(task.run());
    for _ in 0..4_096 {
        fanout.push(job(1));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let pushed = Instant::now();
    fanout.push(job(2));
    tokio::time::sleep(Duration::from_secs(30)).await;
    let accepted = gates.0.lock().unwrap().clone();
    assert_eq!(accepted.len(), 1);
    let delay = accepted[0] - pushed;
    assert!(delay < Duration::from_millis(10), "{delay:?}");
    fanout.close();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_given_before_closing_is_sent() {
    let gates = Arc::new(Gates::default());
    let clock = Arc::new(VirtualClock(Instant::now()));
    let (fanout, task) = Fanout::new(
        16_384,
        registry().await,
        Arc::clone(&gates) as _,
        clock,
        Arc::new(TokioTimers),
    );
    for _ in 0..3_000 {
        fanout.push(job(2));
    }
    fanout.close();
    task.run().await;
    assert_eq!(gates.0.lock().unwrap().len(), 3_000);
}

#[tokio::test(start_paused = true)]
async fn whoever_misses_a_notice_for_want_of_room_is_asked_to_sync_once() {
    let gates = Arc::new(Gates::default());
    let (fanout, task) = Fanout::new(
        8,
        registry().await,
        Arc::clone(&gates) as _,
        Arc::new(VirtualClock(Instant::now())),
        Arc::new(TokioTimers),
    );
    // Nobody takes anything out yet: the last ones do not fit.
    (0..8).for_each(|_| fanout.push(job(2)));
    (0..3).for_each(|_| fanout.push(notice(2)));
    let task = tokio::spawn(task.run());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(gates.1.lock().unwrap().len(), 8 + 1);
    assert_eq!(told_to_sync(&gates), 1);
    // Messages alone ask for nothing: a notice follows them.
    (0..20).for_each(|_| fanout.push(job(2)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(told_to_sync(&gates), 1);
    fanout.close();
    task.await.unwrap();
}

/// Gateways that can all be frozen.
struct Frozen {
    gates: Gates,
    is_frozen: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Caller for Frozen {
    async fn call(&self, request: Envelope, deadline: Duration) -> Result<Envelope, CallError> {
        if self.is_frozen.load(std::sync::atomic::Ordering::SeqCst) {
            tokio::time::sleep(deadline).await;
            return Err(CallError::Deadline);
        }
        self.gates.call(request, deadline).await
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_misses_a_notice_on_a_frozen_gateway_is_asked_to_sync_once_it_is_back() {
    let gateways = Arc::new(Frozen {
        gates: Gates::default(),
        is_frozen: true.into(),
    });
    let (fanout, task) = Fanout::new(
        64,
        registry().await,
        Arc::clone(&gateways) as _,
        Arc::new(VirtualClock(Instant::now())),
        Arc::new(TokioTimers),
    );
    let task = tokio::spawn(task.run());
    fanout.push(notice(2));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(gateways.gates.1.lock().unwrap().len(), 0);
    gateways
        .is_frozen
        .store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(told_to_sync(&gateways.gates), 1);
    fanout.close();
    task.await.unwrap();
}

/// A registry that can be cut off.
struct CutOff {
    inner: Arc<MemoryRegistry>,
    is_cut: std::sync::atomic::AtomicBool,
}

impl CutOff {
    async fn new(is_cut: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: registry().await,
            is_cut: is_cut.into(),
        })
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, std::sync::atomic::Ordering::SeqCst);
    }

    fn inner(&self) -> Result<&MemoryRegistry, RegistryError> {
        if self.is_cut.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(RegistryError::Unavailable {
                reason: "cut off".to_owned(),
                retry_after_ms: 0,
            });
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl Registry for CutOff {
    async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError> {
        self.inner()?.put_node(lease).await
    }
    async fn remove_node(&self, node: &NodeId, incarnation: Incarnation) -> Result<(), RegistryError> {
        self.inner()?.remove_node(node, incarnation).await
    }
    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        self.inner()?.nodes(role).await
    }
    async fn register(&self, record: SessionRecord) -> Result<Registered, RegistryError> {
        self.inner()?.register(record).await
    }
    async fn unregister(&self, record: SessionRecord) -> Result<(), RegistryError> {
        self.inner()?.unregister(record).await
    }
    async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.inner()?.look_up(users).await
    }
    async fn announce(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.inner()?.announce(records).await
    }
    async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError> {
        self.inner()?.put_rooms(counts).await
    }
    async fn look_up_room(&self, room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        self.inner()?.look_up_room(room).await
    }
    fn life(&self) -> tokio::sync::watch::Receiver<Option<Incarnation>> {
        self.inner.life()
    }
}

/// A fan-out over that registry, and its task.
fn start(registry: &Arc<CutOff>, gates: &Arc<Gates>) -> (Fanout, tokio::task::JoinHandle<()>) {
    let (fanout, task) = Fanout::new(
        16,
        Arc::clone(registry) as _,
        Arc::clone(gates) as _,
        Arc::new(VirtualClock(Instant::now())),
        Arc::new(TokioTimers),
    );
    (fanout, tokio::spawn(task.run()))
}

#[tokio::test(start_paused = true)]
async fn while_the_registry_is_cut_off_pushes_go_where_users_were_last_seen() {
    let (registry, gates) = (CutOff::new(false).await, Arc::new(Gates::default()));
    let (fanout, task) = start(&registry, &gates);
    let accepted = async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        gates.0.lock().unwrap().len()
    };
    fanout.push(job(2));
    assert_eq!(accepted().await, 1);
    registry.cut(true);
    fanout.push(job(2));
    fanout.push(job(3));
    assert_eq!(
        accepted().await,
        2,
        "user 2 is where they were, user 3 was never seen"
    );
    // Once it answers its word counts: the user has gone.
    registry.cut(false);
    let user = UserKey {
        app_key: "demo".to_owned(),
        user_id: 2,
    };
    for record in registry.look_up(vec![user]).await.unwrap() {
        registry.unregister(record).await.unwrap();
    }
    fanout.push(job(2));
    assert_eq!(accepted().await, 2);
    registry.cut(true);
    fanout.push(job(2));
    assert_eq!(accepted().await, 2);
    fanout.close();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_has_a_notice_while_the_registry_is_cut_off_is_asked_to_sync_once_it_is_back() {
    let (registry, gates) = (CutOff::new(true).await, Arc::new(Gates::default()));
    let (fanout, task) = start(&registry, &gates);
    let pushed = async || {
        tokio::time::sleep(Duration::from_secs(10)).await;
        (gates.0.lock().unwrap().len(), told_to_sync(&gates))
    };
    fanout.push(notice(2));
    fanout.push(job(2));
    assert_eq!(pushed().await, (0, 0), "nobody knows where they are");
    registry.cut(false);
    assert_eq!(pushed().await, (1, 1));
    // Where they were last seen is known now; they may be elsewhere as well.
    registry.cut(true);
    fanout.push(notice(2));
    fanout.push(job(2));
    assert_eq!(pushed().await, (3, 1));
    registry.cut(false);
    assert_eq!(pushed().await, (4, 2));
    fanout.close();
    task.await.unwrap();
}
