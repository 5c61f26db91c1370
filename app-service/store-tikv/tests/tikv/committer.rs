//! A service node's committer over the store, where a node died amid a commit: its conversation waits for the lock's end, and nobody
//! is refused for it.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use libtest_mimic::Trial;
use tikv_client::{Timestamp, TimestampExt as _};
use whimbrel_app_service::committed::{CommitSink, Committed};
use whimbrel_app_service::env::Env;
use whimbrel_app_service::failure::Failure;
use whimbrel_app_service::keys::ConversationKeys;
use whimbrel_app_service::log::{Actor, AppOptions, Deadline, Log};
use whimbrel_host::{SystemClock, Tasks};
use whimbrel_protocol::client::{self, content::Content as Kind};
use whimbrel_protocol::ids::{AppKey, ConversationId, Incarnation, NodeId, OperationId, Seq, Uid};
use whimbrel_store::{Direction, Store};
use whimbrel_store_tikv::TikvStore;
use whimbrel_store_tikv::limits::{COMMIT_TIME_MAX, LOCK_LIFE, PATIENCE_MIN};
use whimbrel_tikv_cluster::{Binaries, Cluster, Options};

use crate::{Test, config, open, raw, trial};

/// As long as a client may give a request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

pub(crate) fn trials(binaries: &Binaries) -> Vec<Trial> {
    let with = |name: &str, test: Test<Node>| {
        let binaries = binaries.clone();
        trial(format!("committer::{name}"), move || async move {
            test(Node::on(binaries).await).await;
        })
    };
    vec![
        with("a_send_is_acknowledged_once_past_a_dead_lock", |on| {
            Box::pin(acknowledged_once_past_a_dead_lock(on, "head"))
        }),
        with("a_send_is_acknowledged_once_past_an_orphaned_lock", |on| {
            Box::pin(acknowledged_once_past_a_dead_lock(on, "nowhere"))
        }),
    ]
}

/// Counts what was told of commits.
#[derive(Default)]
struct Told(Mutex<Vec<Committed>>);

impl CommitSink for Told {
    fn committed(&self, committed: Committed) {
        self.0.lock().unwrap().push(committed);
    }
}

/// A service node's log over the store.
struct Node {
    cluster: Cluster,
    store: Arc<TikvStore>,
    log: Log,
    told: Arc<Told>,
    env: Env,
    _tasks: Tasks,
}

impl Node {
    async fn on(binaries: Binaries) -> Self {
        let cluster = Cluster::start(binaries, Options::default()).unwrap();
        let store = open(config(vec![cluster.pd_address().to_string()])).await;
        let tasks = Tasks::new();
        let env = Env::of_tokio(Arc::new(SystemClock::new()), Arc::new(tasks.spawner()));
        let told = Arc::new(Told::default());
        let log = Log::start(
            (Arc::clone(&store) as Arc<dyn Store>, store.grouping()),
            env.clone(),
            &NodeId::new("one").unwrap(),
            Incarnation(rand::random()),
            Arc::clone(&told) as Arc<dyn CommitSink>,
            Arc::new(|_| AppOptions {
                create_users_on_reference: true,
            }),
        )
        .await
        .unwrap();
        Self {
            log,
            cluster,
            store,
            told,
            env,
            _tasks: tasks,
        }
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(&self.env, REQUEST_TIME_MAX)
    }

    async fn user(&self, uid: &str) -> Actor {
        let (app, uid) = (AppKey::new("demo").unwrap(), Uid::new(uid).unwrap());
        let users = self.log.users();
        let found = users.resolve_or_create(&app, std::slice::from_ref(&uid)).await;
        Actor {
            user: found.unwrap()[0],
            app,
            uid,
        }
    }

    async fn chat(&self, actor: &Actor, with: &str) -> ConversationId {
        let request = client::OpenDirectRequest { uid: with.into() };
        let opened = self.log.open_direct(actor, &request, self.deadline()).await;
        ConversationId::from_wire(&opened.unwrap().conversation).unwrap()
    }

    fn operation(&self) -> OperationId {
        OperationId::new(self.env.clock.now_ms(), rand::random())
    }

    /// Sends one text; its seq.
    async fn say(
        &self,
        actor: &Actor,
        conversation: ConversationId,
        operation: OperationId,
    ) -> Result<u64, Failure> {
        let message = client::OutgoingMessage {
            client_msg_id: Bytes::copy_from_slice(operation.as_bytes()),
            content: Some(client::Content {
                content: Some(Kind::Text(client::Text { text: "hello".into() })),
            }),
            options: None,
        };
        let request = client::SendRequest {
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            messages: vec![message],
            seen_seq: 0,
        };
        Ok(self.log.send(actor, request, self.deadline()).await?.accepted[0].seq)
    }

    /// Whether it has pushed out so many transactions: whoever waited may go on a moment before it is
    /// counted.
    async fn has_pushed_out(&self, transactions: u64) -> bool {
        let counted = async {
            while self.store.locks_pushed_out() < transactions {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(COMMIT_TIME_MAX, counted).await;
        in_time.is_ok() && self.store.locks_pushed_out() == transactions
    }

    /// What the log of the conversation holds.
    async fn entries(&self, keys: &ConversationKeys) -> usize {
        let snapshot = self.store.snapshot().await.unwrap();
        let range = keys.entries(Seq(1), Seq(u64::MAX));
        let page = snapshot.scan(range, 100, Direction::Forward).await.unwrap();
        page.entries.len()
    }
}

/// A node died when it had locked the conversation's head: with its primary lock there, or before it had come to that one.
async fn acknowledged_once_past_a_dead_lock(on: Node, primary: &str) {
    const ROUNDS_MAX: usize = 6;
    let ann = on.user("ann").await;
    for round in 0..ROUNDS_MAX {
        if Box::pin(on.pushes_out_a_dead_lock(&ann, primary, round)).await {
            return;
        }
    }
    panic!("in none of {ROUNDS_MAX} rounds was the one lock pushed out while it lived");
}

impl Node {
    /// In conversations of its own. Whether the lock was pushed out before its life was over: others may end
    /// it then.
    async fn pushes_out_a_dead_lock(&self, ann: &Actor, primary: &str, round: usize) -> bool {
        let chat = self.chat(ann, &format!("bob-{round}")).await;
        let other = self.chat(ann, &format!("cid-{round}")).await;
        for conversation in [chat, other] {
            assert_eq!(self.say(ann, conversation, self.operation()).await, Ok(1));
        }
        self.told.0.lock().unwrap().clear();
        let before = self.store.locks_pushed_out();

        let keys = ConversationKeys::new(&ann.app, chat);
        let primary = match primary {
            "head" => keys.head(),
            nowhere => Bytes::from([&keys.head()[..], nowhere.as_bytes()].concat()),
        };
        let endpoint = self.cluster.pd_address().to_string();
        let life = u64::try_from(LOCK_LIFE.as_millis()).unwrap();
        let started = raw::lock(&endpoint, self.store.cluster(), &keys.head(), &primary, life).await;
        let operation = self.operation();
        let past = async {
            let seq = self.say(ann, chat, operation).await;
            (seq, raw::now(&endpoint).await)
        };
        let beside = self.say(ann, other, self.operation());
        let ((seq, ended), beside) = tokio::join!(past, beside);
        assert_eq!((seq, beside), (Ok(2), Ok(2)), "nobody is refused");
        let physical = |version| Timestamp::from_version(version).physical;
        let took = u64::try_from(physical(ended) - physical(started)).unwrap();
        let took = Duration::from_millis(took);
        assert!(took >= PATIENCE_MIN, "the lock was in the way: {took:?}");
        let is_pushed_out = took < LOCK_LIFE && self.has_pushed_out(before + 1).await;

        assert_eq!(self.say(ann, chat, operation).await, Ok(2), "it is the same one");
        assert_eq!(self.entries(&keys).await, 2);
        let told = self.told.0.lock().unwrap();
        let of_it = told.iter().flat_map(|committed| &committed.entries);
        let senders: Vec<_> = of_it.map(|entry| (entry.seq, &*entry.sender_uid)).collect();
        assert_eq!(senders, [(2, "ann"), (2, "ann")], "once in either conversation");
        is_pushed_out
    }
}
