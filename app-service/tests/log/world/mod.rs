//! A store that fails on purpose, a clock that stands still, nodes over them, and what their sinks were told.

mod env;
mod node;
mod store;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use whimbrel_app_service::env::{Clock as _, Entropy as _, Env};
use whimbrel_app_service::keys::{ConversationKeys, MarkerKey, node_life};
use whimbrel_app_service::log::{Actor, AppOptions, Deadline, Log, LogEntry};
use whimbrel_app_service::reads::View;
use whimbrel_app_service::values::{decode, storage};
use whimbrel_protocol::ids::{AppKey, ConversationId, Incarnation, NodeId, OperationId, Seq};
use whimbrel_store::{Direction, Grouping, Snapshot, Store};

pub use self::env::{START_MS, Seeded, TestClock};
use self::env::{TestSpawner, TestTimers};
pub use self::node::{Node, Recorder, app, text, wire};
pub use self::store::{Fault, TestStore};

/// One store, one clock and one source of randomness, for any number of nodes.
pub struct World {
    pub store: Arc<TestStore>,
    pub clock: Arc<TestClock>,
    pub random: Arc<Seeded>,
    pub env: Env,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let clock = Arc::new(TestClock::new());
        let store = Arc::new(TestStore::new(seed ^ 0x5707, Arc::clone(&clock)));
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
        self.store.stored().await.unwrap()
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
