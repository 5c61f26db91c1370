//! What an uplink says of its node's clock, by what the routers say of it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use whimbrel_link::{Capacity, ClusterSecret, Endpoint, Handler, Identity, Link, LinkEvent, Reply, Uplink};
use whimbrel_protocol::cluster::{Envelope, Kind, Probe, Role};
use whimbrel_protocol::ids::{Incarnation, NodeId};

/// Whatever takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Nobody;

impl Handler for Nobody {
    fn handle(&self, _request: Envelope, _reply: Reply) {}
}

fn endpoint(node: &str, role: Role) -> (Endpoint, mpsc::Receiver<LinkEvent>) {
    let identity = Identity {
        node: NodeId::new(node).unwrap(),
        role,
        incarnation: Incarnation(1),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: Capacity::ORDINARY,
    };
    Endpoint::new(identity, ClusterSecret::from_bytes([7; 32]))
}

/// A router that does nothing but probe.
struct Judge {
    endpoint: Endpoint,
    events: mpsc::Receiver<LinkEvent>,
    link: Link,
}

impl Judge {
    async fn of(node: &Endpoint, name: &str) -> Self {
        let (endpoint, mut events) = endpoint(name, Role::Router);
        Endpoint::connect_in_memory(node, &endpoint);
        loop {
            if let LinkEvent::Up(link) = next(&mut events).await {
                return Self {
                    endpoint,
                    events,
                    link,
                };
            }
        }
    }

    /// Probes, says how far the node's clock is ahead, and waits for the answer.
    async fn says(&mut self, clock_ahead_ms: i64) {
        let probe = Envelope {
            id: 5,
            kind: Kind::Probe.into(),
            body: Bytes::from(Probe { clock_ahead_ms }.encode_to_vec()),
            ..Envelope::default()
        };
        self.link.try_send(probe).unwrap();
        loop {
            if let LinkEvent::Frame(_, answer) = next(&mut self.events).await
                && answer.id == 5
            {
                return;
            }
        }
    }
}

async fn next(events: &mut mpsc::Receiver<LinkEvent>) -> LinkEvent {
    let event = tokio::time::timeout(PATIENCE, events.recv()).await;
    event.expect("an event in time").expect("the endpoint lives")
}

#[tokio::test]
async fn a_clock_is_wrong_when_all_routers_that_judge_it_say_so_and_in_the_direction_they_say() {
    let (node, events) = endpoint("app-1", Role::AppService);
    let uplink = Uplink::start(node.clone(), events, Arc::new(Nobody));
    let mut one = Judge::of(&node, "router-1").await;
    let mut other = Judge::of(&node, "router-2").await;
    assert_eq!(uplink.clock_fault(), None, "nobody has judged it");

    one.says(-90_400).await;
    let behind =
        "this machine's clock is 90 s behind that of most nodes: set it right, and keep it so by NTP";
    assert_eq!(
        uplink.clock_fault().as_deref(),
        Some(behind),
        "the only one that judges"
    );
    other.says(0).await;
    assert_eq!(uplink.clock_fault(), None, "they do not agree");
    one.says(120_000).await;
    other.says(70_000).await;
    let ahead = uplink.clock_fault().unwrap();
    assert!(ahead.contains("is 70 s ahead of that of most nodes"), "{ahead}");

    // What a router said goes with it.
    other.endpoint.shut_down().await;
    let gone = async {
        while !uplink.clock_fault().is_some_and(|fault| fault.contains("120 s")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("one is left");
    one.says(0).await;
    assert_eq!(uplink.clock_fault(), None);
}
