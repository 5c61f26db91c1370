//! A service node's committer over the store, where a node died amid a commit: its conversation waits for the lock's end, and nobody
//! is refused for it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libtest_mimic::Trial;
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
use whimbrel_store_tikv::limits::{LOCK_LIFE, PATIENCE_MIN};
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
    let ann = on.user("ann").await;
    let (chat, other) = (on.chat(&ann, "bob").await, on.chat(&ann, "cid").await);
    for conversation in [chat, other] {
        assert_eq!(on.say(&ann, conversation, on.operation()).await, Ok(1));
    }
    on.told.0.lock().unwrap().clear();

    let keys = ConversationKeys::new(&ann.app, chat);
    let primary = match primary {
        "head" => keys.head(),
        nowhere => Bytes::from([&keys.head()[..], nowhere.as_bytes()].concat()),
    };
    let endpoint = on.cluster.pd_address().to_string();
    let life = u64::try_from(LOCK_LIFE.as_millis()).unwrap();
    raw::lock(&endpoint, on.store.cluster(), &keys.head(), &primary, life).await;
    let begun = Instant::now();
    let operation = on.operation();
    let past = async {
        let seq = on.say(&ann, chat, operation).await;
        (seq, begun.elapsed())
    };
    let beside = on.say(&ann, other, on.operation());
    let ((seq, took), beside) = tokio::join!(past, beside);
    assert_eq!((seq, beside), (Ok(2), Ok(2)), "nobody is refused");
    assert!(took >= PATIENCE_MIN / 2, "the lock was in the way: {took:?}");
    assert_eq!(on.store.locks_pushed_out(), 1);

    assert_eq!(on.say(&ann, chat, operation).await, Ok(2), "it is the same one");
    assert_eq!(on.entries(&keys).await, 2);
    let told = on.told.0.lock().unwrap();
    let of_it = told.iter().flat_map(|committed| &committed.entries);
    let senders: Vec<_> = of_it.map(|entry| (entry.seq, &*entry.sender_uid)).collect();
    assert_eq!(senders, [(2, "ann"), (2, "ann")], "once in either conversation");
}
