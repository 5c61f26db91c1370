//! A small world: nodes over one store, a switch instead of links, and devices that behave as the SDK does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use whimbrel_app_service::auth::{App, AppSecret, Apps};
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_app_service::env::{BoxFuture, Clock, Entropy, Env, Spawner, TokioTimers};
use whimbrel_app_service::fanout::Fanout;
use whimbrel_app_service::keys::MarkerKey;
use whimbrel_app_service::log::Actor;
use whimbrel_app_service::markers::{Markers, Redo, Sweeper, SweeperParts};
use whimbrel_app_service::node::{Node, NodeParts};
use whimbrel_app_service::placement::Peer;
use whimbrel_app_service::user_lane::{LaneParts, Lanes};
use whimbrel_link::{Caller, Capacity, Identity};
use whimbrel_protocol::client;
use whimbrel_protocol::cluster::{NodeLease, Role, SessionHandle, SessionRecord};
use whimbrel_protocol::ids::{AppKey, ConversationId, Incarnation, NodeId, OperationId, Uid};
use whimbrel_registry::{MemoryRegistry, Registry};
use whimbrel_store::{Direction, Store};

use crate::device::Device;
use crate::faulty::Faulty;
use crate::switch::{GATEWAY, Switch};

/// When the world begins, unix milliseconds.
pub(crate) const START_MS: u64 = 1_790_000_000_000;
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
pub(crate) struct Seeded(pub(crate) AtomicU64);

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
        let entropy = Arc::new(Seeded(AtomicU64::new(seed)));
        let store = Faulty::new(Arc::clone(&entropy));
        Self {
            store: Arc::new(store),
            registry: Arc::new(registry),
            switch: Arc::default(),
            config: AppServiceConfig::default(),
            entropy,
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
        let life = Incarnation(self.lives.fetch_add(1, Ordering::Relaxed));
        let peer = Peer::ordinary(NodeId::new(name).unwrap(), life);
        let parts = NodeParts {
            me: peer.clone(),
            apps: apps(),
            store: Arc::clone(&self.store) as Arc<dyn Store>,
            registry: Arc::clone(&self.registry) as Arc<dyn Registry>,
            caller: Arc::clone(&self.switch) as Arc<dyn Caller>,
            env,
        };
        let node = Arc::new(Node::start(&self.config, parts).await.unwrap());
        self.switch.connect(name, Arc::clone(&node));
        Live { node, peer, tasks }
    }

    /// A sweeper that knows of others what this node knows.
    pub(crate) async fn sweeper(&self, live: &Live) -> Sweeper {
        let (env, _) = self.killable();
        let store = || Arc::clone(&self.store) as Arc<dyn Store>;
        let caller = || Arc::clone(&self.switch) as Arc<dyn Caller>;
        let placement = live.node.placement().clone();
        let registry = Arc::clone(&self.registry) as Arc<dyn Registry>;
        let (clock, timers) = (Arc::clone(&env.clock), Arc::clone(&env.timers));
        let (fanout, telling) = Fanout::new(1_000, registry, caller(), clock, timers);
        env.spawner.spawn("fanout", Box::pin(telling.run()));
        let lanes = LaneParts {
            store: store(),
            epoch: self.store.epoch().await.unwrap(),
            env: env.clone(),
            fanout,
            caller: caller(),
            placement: placement.clone(),
        };
        let lanes = Lanes::start(&self.config.rows, lanes);
        Sweeper::new(SweeperParts {
            store: store(),
            env: env.clone(),
            placement,
            redo: Redo::new(store(), lanes),
            markers: Markers::start(store(), env),
            config: self.config.sweep.clone(),
            stop: CancellationToken::new(),
        })
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
        self.switch.disconnect(live.peer.node.as_str());
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
        self.switch.open_inbox(slot);
        let lease = NodeLease {
            node: GATEWAY.into(),
            role: Role::Gateway.into(),
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
        self.switch.close_inbox(device.slot);
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

/// A node of these tests' cluster.
pub(crate) fn identity(node: &str, role: Role, life: u64) -> Identity {
    Identity {
        node: NodeId::new(node).unwrap(),
        role,
        incarnation: Incarnation(life),
        cluster: "test".into(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: Capacity::ORDINARY,
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
