//! A service node in one thread, over a store in memory, with a clock that moves only when nothing else does.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Runtime;
use whimbrel_app_service::auth::{App, AppSecret, Apps};
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_app_service::env::{BoxFuture, Clock, Entropy, Env, Spawner, Timers};
use whimbrel_app_service::node::{Node, NodeParts};
use whimbrel_app_service::placement::Peer;
use whimbrel_app_service::service::Answer;
use whimbrel_link::{CallError, Caller};
use whimbrel_protocol::cluster::Envelope;
use whimbrel_protocol::ids::{AppKey, Incarnation, NodeId};
use whimbrel_registry::MemoryRegistry;
use whimbrel_store::{Epoch, MemoryStore};

/// When the world begins, unix milliseconds.
pub(crate) const START_MS: u64 = 1_790_000_000_000;

/// Turns given to the node's tasks before time moves: many times what the longest request takes.
const TURNS_PER_INSTANT: usize = 80;

/// Turns for what follows an answer.
const TURNS_AFTER_ANSWER: usize = 32;

/// Instants after which a request that is not answered never will be. Deadlines are tens of seconds, and the node's own
/// clocks tick in milliseconds at the least.
const INSTANTS_MAX: usize = 4_000;

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

/// No gateway and no other node.
struct Alone;

#[async_trait]
impl Caller for Alone {
    async fn call(&self, _request: Envelope, _deadline: Duration) -> Result<Envelope, CallError> {
        Err(CallError::UnknownNode)
    }
}

/// A node and the thread it lives in.
pub(crate) struct World {
    runtime: Runtime,
    clock: Virtual,
    node: Arc<Node>,
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime without drivers needs nothing of the machine");
        let clock = Virtual::default();
        let monotonic = clock.clone();
        let env = Env {
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(Counted(AtomicU64::new(1))),
            timers: Arc::new(clock.clone()),
            spawner: Arc::new(OnThisThread),
        };
        let parts = NodeParts {
            me: Peer {
                node: NodeId::new("node-1").expect("a node's name"),
                incarnation: Incarnation(0x100),
                draining: false,
            },
            apps: apps(),
            store: Arc::new(MemoryStore::new(Epoch([5; 16]))),
            registry: Arc::new(MemoryRegistry::with_clock(
                Incarnation(1),
                Arc::new(move || monotonic.monotonic()),
            )),
            caller: Arc::new(Alone),
            env,
        };
        let node = runtime
            .block_on(Node::start(&AppServiceConfig::default(), parts))
            .expect("a store in memory takes a node's life");
        node.placement().update([]);
        Self {
            runtime,
            clock,
            node: Arc::new(node),
        }
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
