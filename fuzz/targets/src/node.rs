//! A service node in one thread, over a store in memory, with a clock that moves only when nothing else does.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use tokio::runtime::Runtime;
use whimbrel_app_service::auth::{App, AppSecret, Apps};
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_app_service::env::{BoxFuture, Clock, Entropy, Env, Spawner, Timers};
use whimbrel_app_service::node::{Node, NodeParts};
use whimbrel_app_service::placement::Peer;
use whimbrel_app_service::rooms::ROOM_CONTENT_BYTES_MAX;
use whimbrel_app_service::service::Answer;
use whimbrel_link::{CallError, Caller};
use whimbrel_protocol::client::RoomPush;
use whimbrel_protocol::cluster::{
    Envelope, Kind, NodeLease, Role, RoomBroadcast, RoomCount, RoomCounts, RoomOrder, Status,
};
use whimbrel_protocol::ids::{AppKey, Incarnation, NodeId};
use whimbrel_protocol::method::PushMethod;
use whimbrel_registry::{MemoryRegistry, Registry as _};
use whimbrel_store::Epoch;

use crate::ailing::{Ailing, Health};

/// When the world begins, unix milliseconds.
pub(crate) const START_MS: u64 = 1_790_000_000_000;

/// Turns given to the node's tasks before time moves: many times what the longest request takes.
const TURNS_PER_INSTANT: usize = 80;

/// Turns for what follows an answer.
const TURNS_AFTER_ANSWER: usize = 32;

/// Instants after which a request that is not answered never will be. Deadlines are tens of seconds, and the node's own
/// clocks tick in milliseconds at the least.
const INSTANTS_MAX: usize = 4_000;

/// Requests a node of a run takes at once: few, so that a script meets the bound.
const REQUESTS_IN_PROGRESS_MAX: usize = 8;

/// The gateway's lease, ms: as long as one may be.
const LEASE_TTL_MS: u32 = 300_000;

/// The app's secret, for tokens.
pub(crate) fn secret() -> AppSecret {
    AppSecret::from_bytes(&[7; 32]).expect("32 bytes are a secret")
}

/// Whose tokens count.
pub(crate) fn apps() -> Apps {
    let app = App::new(app(), vec![secret()], true).expect("one secret is right");
    Apps::new([app]).expect("one app is there once")
}

/// The app that is served.
pub(crate) fn app() -> AppKey {
    AppKey::new("demo").expect("an app's key")
}

#[derive(Default)]
struct Time {
    now: Duration,
    sleepers: Vec<(Duration, Waker)>,
}

/// The clock and the timers over it.
#[derive(Clone, Default)]
struct Virtual(Arc<Mutex<Time>>);

impl Virtual {
    fn time(&self) -> MutexGuard<'_, Time> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance_to(&self, now: Duration) {
        let mut time = self.time();
        time.now = time.now.max(now);
        let now = time.now;
        let (due, rest) = std::mem::take(&mut time.sleepers)
            .into_iter()
            .partition(|(until, _)| *until <= now);
        time.sleepers = rest;
        drop(time);
        let due: Vec<(Duration, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Moves to when the next sleeper wakes.
    fn advance_to_next(&self) {
        let next = self.time().sleepers.iter().map(|(until, _)| *until).min();
        if let Some(next) = next {
            self.advance_to(next);
        }
    }
}

impl Clock for Virtual {
    fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.time().now.as_millis()).unwrap_or(u64::MAX / 2)
    }

    fn monotonic(&self) -> Duration {
        self.time().now
    }
}

struct Sleep {
    clock: Virtual,
    until: Duration,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut time = self.clock.time();
        if time.now >= self.until {
            return Poll::Ready(());
        }
        time.sleepers.push((self.until, cx.waker().clone()));
        Poll::Pending
    }
}

impl Timers for Virtual {
    fn sleep(&self, wait: Duration) -> BoxFuture<()> {
        let until = self.time().now.saturating_add(wait);
        Box::pin(Sleep {
            clock: self.clone(),
            until,
        })
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), always from the same seed.
struct Counted(AtomicU64);

impl Entropy for Counted {
    fn random_u64(&self) -> u64 {
        let value = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

struct OnThisThread;

impl Spawner for OnThisThread {
    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) {
        // The runtime owns it and ends it with the run.
        drop(tokio::spawn(task));
    }
}

/// The one gateway there is, by name.
pub(crate) const GATEWAY: &str = "gateway-1";
/// Its life.
pub(crate) const GATEWAY_LIFE: u64 = 0x200;

/// How the gateway answers what it is asked about rooms.
#[derive(Debug, Clone, Default)]
pub(crate) enum Manner {
    /// Not at all: no router knows it.
    #[default]
    Gone,
    /// With these bytes, whatever it was asked.
    Says(Bytes),
    /// With an error.
    Fails(CallError),
}

/// No other node, and a gateway that answers as it is told to. It reads what it is given as a gateway and its clients would.
#[derive(Clone, Default)]
struct Neighbours(Arc<Mutex<Manner>>);

#[async_trait]
impl Caller for Neighbours {
    async fn call(&self, request: Envelope, _deadline: Duration) -> Result<Envelope, CallError> {
        if request.to_node != GATEWAY {
            return Err(CallError::UnknownNode);
        }
        heard_by_the_gateway(&request);
        let manner = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match manner {
            Manner::Gone => Err(CallError::UnknownNode),
            Manner::Says(body) => Ok(Envelope {
                body,
                ..Envelope::default()
            }),
            Manner::Fails(error) => Err(error),
        }
    }
}

/// A node says to a gateway only what that understands, and to the members of a room only what a client does.
fn heard_by_the_gateway(request: &Envelope) {
    match request.kind() {
        Kind::RoomOrder => {
            let order = RoomOrder::decode(request.body.clone()).expect("an order parses");
            let session = order.session.expect("an order names its session");
            assert_eq!(order.gateway_incarnation, GATEWAY_LIFE);
            assert!(session.user_id != 0 && !order.room.is_empty() && order.room.len() <= 64);
        }
        Kind::RoomBroadcast => {
            let broadcast = RoomBroadcast::decode(request.body.clone()).expect("a broadcast parses");
            assert_eq!(broadcast.method, PushMethod::Room.number());
            let push = RoomPush::decode(broadcast.payload).expect("a client reads what it is pushed");
            assert_eq!(push.room, broadcast.room);
            assert!(
                !push.sender_uid.is_empty() && push.client_msg_id.len() == 16 && push.time_ms >= START_MS
            );
            let content = push.content.expect("a message has content");
            assert!(content.content.is_some() && content.encoded_len() <= ROOM_CONTENT_BYTES_MAX);
        }
        _ => {}
    }
}

/// A node and the thread it lives in.
pub(crate) struct World {
    runtime: Runtime,
    clock: Virtual,
    node: Arc<Node>,
    gateway: Neighbours,
    registry: Arc<MemoryRegistry>,
    store: Ailing,
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime without drivers needs nothing of the machine");
        let clock = Virtual::default();
        let monotonic = clock.clone();
        let mut config = AppServiceConfig::default();
        config.service.requests_in_progress_max = REQUESTS_IN_PROGRESS_MAX;
        let env = Env {
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(Counted(AtomicU64::new(1))),
            timers: Arc::new(clock.clone()),
            spawner: Arc::new(OnThisThread),
        };
        let gateway = Neighbours::default();
        let store = Ailing::new(Epoch([5; 16]));
        let registry = Arc::new(MemoryRegistry::with_clock(
            Incarnation(1),
            Arc::new(move || monotonic.monotonic()),
        ));
        let parts = NodeParts {
            me: Peer::ordinary(NodeId::new("node-1").expect("a node's name"), Incarnation(0x100)),
            apps: apps(),
            store: Arc::new(store.clone()),
            registry: Arc::<MemoryRegistry>::clone(&registry),
            caller: Arc::new(gateway.clone()),
            env,
        };
        let node = runtime
            .block_on(Node::start(&config, parts))
            .expect("a store in memory takes a node's life");
        node.placement().update([]);
        Self {
            runtime,
            clock,
            node: Arc::new(node),
            gateway,
            registry,
            store,
        }
    }

    /// From now on the store is so; the node says what it sees of it.
    pub(crate) fn store_is(&self, health: Health) {
        self.store.be(health);
        let service = self.node.service();
        let (serves, ready) = match health {
            Health::Well | Health::Silent | Health::LosesCommits | Health::LosesAnswers => (2.0, true),
            Health::Full => (1.0, true),
            Health::Gone => (0.0, false),
        };
        assert!((service.store_serves() - serves).abs() < f64::EPSILON);
        assert_eq!(service.not_ready().is_none(), ready);
    }

    /// How the store is.
    pub(crate) fn health(&self) -> Health {
        self.store.health()
    }

    /// While the node stands aside, what it is asked is refused with the reason.
    pub(crate) fn stands_aside(&self, request: Envelope) {
        let service = self.node.service();
        let why = "another node has another store";
        service.stand_aside(Some(why.to_owned()));
        assert_eq!(service.aside().as_deref(), Some(why));
        let refused = self.ask(request);
        assert!(
            matches!(&refused, Answer::Refused { status: Status::Unavailable, detail, .. } if detail == why),
            "{refused:?}"
        );
        service.stand_aside(None);
        assert_eq!(service.aside(), None);
    }

    /// From now on the gateway answers so.
    pub(crate) fn gateway_answers(&self, manner: Manner) {
        *self.gateway.0.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// The gateway tells the registry of itself and of its members in these rooms.
    pub(crate) fn gateway_tells(&self, rooms: Vec<RoomCount>) {
        let lease = NodeLease {
            node: GATEWAY.to_owned(),
            role: Role::Gateway.into(),
            incarnation: GATEWAY_LIFE,
            ttl_ms: LEASE_TTL_MS,
            ..NodeLease::default()
        };
        let counts = RoomCounts {
            gateway: GATEWAY.to_owned(),
            incarnation: GATEWAY_LIFE,
            counts: rooms,
            // One after another: each holds.
            order: 0,
        };
        let told = self.runtime.block_on(async {
            self.registry.put_node(lease).await?;
            self.registry.put_rooms(counts).await
        });
        told.expect("what a gateway says is right");
    }

    /// Asks all of these before any is answered; says what each was answered.
    pub(crate) fn ask_at_once(&self, requests: Vec<Envelope>) -> Vec<Answer> {
        let (tell, told) = std::sync::mpsc::channel();
        let count = requests.len();
        self.runtime.block_on(async {
            for request in requests {
                let tell = tell.clone();
                self.node
                    .service()
                    .handle_request(request, move |answer| drop(tell.send(answer)));
            }
            assert!(self.node.service().load_permille() <= 1_000);
            self.until_idle().await;
        });
        let answers: Vec<Answer> = told.try_iter().collect();
        assert_eq!(answers.len(), count, "every request is answered, once");
        answers
    }

    /// The node drains: what it is asked then is refused, and it comes to rest.
    pub(crate) fn drain(&self, request: Envelope) {
        let service = self.node.service();
        assert_eq!(service.not_ready(), None);
        service.drain();
        assert!(service.is_draining() && service.not_ready().is_some());
        let refused = self.ask(request);
        assert!(
            matches!(refused, Answer::Refused { status: Status::Unavailable, retry_after_ms, .. } if retry_after_ms > 0),
            "{refused:?}"
        );
        self.runtime.block_on(self.until_idle());
        assert_eq!(service.load_permille(), 0, "nothing is in progress");
    }

    /// Lets time pass until no request is in progress.
    async fn until_idle(&self) {
        let mut idle = std::pin::pin!(self.node.service().idle());
        for _ in 0..INSTANTS_MAX * TURNS_PER_INSTANT {
            let is_idle = std::future::poll_fn(|cx| Poll::Ready(idle.as_mut().poll(cx).is_ready()));
            if is_idle.await {
                return;
            }
            for _ in 0..TURNS_PER_INSTANT {
                tokio::task::yield_now().await;
            }
            self.clock.advance_to_next();
        }
        unreachable!("every request comes to its end");
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(crate) fn advance(&self, by: Duration) {
        let until = self.clock.monotonic().saturating_add(by);
        self.clock.advance_to(until);
        self.runtime.block_on(async {
            for _ in 0..TURNS_AFTER_ANSWER {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Asks the node, as a link does, and waits for its answer in virtual time.
    pub(crate) fn ask(&self, request: Envelope) -> Answer {
        let node = Arc::clone(&self.node);
        let clock = self.clock.clone();
        self.runtime
            .block_on(async move {
                let (tell, mut told) = tokio::sync::oneshot::channel();
                node.service()
                    .handle_request(request, move |answer| drop(tell.send(answer)));
                for _ in 0..INSTANTS_MAX {
                    for _ in 0..TURNS_PER_INSTANT {
                        match told.try_recv() {
                            Ok(answer) => {
                                // What follows an answer, rows and notices, is done before the next request.
                                for _ in 0..TURNS_AFTER_ANSWER {
                                    tokio::task::yield_now().await;
                                }
                                return Some(answer);
                            }
                            Err(tokio::sync::oneshot::error::TryRecvError::Closed) => return None,
                            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => {
                                tokio::task::yield_now().await
                            }
                        }
                    }
                    clock.advance_to_next();
                }
                None
            })
            .expect("every request is answered")
    }
}
