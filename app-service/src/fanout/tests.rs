//! The task over a registry in memory and gateways that accept at once, or never. Time is virtual.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use whimbrel_link::CallError;
use whimbrel_protocol::client;
use whimbrel_protocol::cluster::{Envelope, NodeLease, Priority, Role, SessionHandle};
use whimbrel_protocol::ids::Incarnation;
use whimbrel_registry::MemoryRegistry;

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

/// Gateways, and when each accepted what.
#[derive(Default)]
struct Gates(Mutex<Vec<Instant>>);

#[async_trait]
impl Caller for Gates {
    async fn call(&self, request: Envelope, deadline: Duration) -> Result<Envelope, CallError> {
        if request.to_node == FROZEN {
            tokio::time::sleep(deadline).await;
            return Err(CallError::Deadline);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.0.lock().unwrap().push(Instant::now());
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
