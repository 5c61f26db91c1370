//! Endpoints over real loopback sockets and in memory, and what strangers and broken networks do to them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod another_version;
mod dialing;
mod strangers;
mod traffic;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use whimbrel_protocol::cluster::{Envelope, Kind, Priority, Role, Status};
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::error::LinkError;
use crate::identity::{ClusterSecret, Identity};
use crate::link::{DownReason, Link, LinkEvent, SendError};
use crate::options::LinkOptions;
use crate::{Endpoint, Reply, tcp};

/// Whatever takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

type Events = mpsc::Receiver<LinkEvent>;

fn identity(node: &str, incarnation: u64) -> Identity {
    Identity {
        node: NodeId::new(node).unwrap(),
        role: Role::Router,
        incarnation: Incarnation(incarnation),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: crate::Capacity::ORDINARY,
    }
}

fn quick() -> LinkOptions {
    LinkOptions {
        keepalive_interval: Duration::from_millis(50),
        idle_timeout: Duration::from_secs(1),
        redial_min: Duration::from_millis(5),
        redial_max: Duration::from_millis(20),
        believe_refusals_after: Duration::from_millis(800),
        ..LinkOptions::default()
    }
}

fn endpoint_with(node: &str, options: LinkOptions) -> (Endpoint, Events) {
    Endpoint::with_options(identity(node, 1), ClusterSecret::from_bytes([7; 32]), options)
}

fn endpoint(node: &str) -> (Endpoint, Events) {
    endpoint_with(node, LinkOptions::default())
}

async fn listen(endpoint: &Endpoint) -> SocketAddr {
    endpoint.listen("127.0.0.1:0".parse().unwrap()).await.unwrap()
}

async fn next(events: &mut Events) -> LinkEvent {
    tokio::time::timeout(PATIENCE, events.recv())
        .await
        .expect("an event in time")
        .expect("the endpoint lives")
}

async fn up(events: &mut Events) -> Link {
    match next(events).await {
        LinkEvent::Up(link) => link,
        other => panic!("expected a link to come up, got {other:?}"),
    }
}

async fn frame(events: &mut Events) -> Envelope {
    match next(events).await {
        LinkEvent::Frame(_, envelope) => envelope,
        other => panic!("expected a frame, got {other:?}"),
    }
}

async fn down(events: &mut Events) -> DownReason {
    match next(events).await {
        LinkEvent::Down(_, reason) => reason,
        other => panic!("expected the link to go down, got {other:?}"),
    }
}

fn envelope(id: u64, body_len: usize) -> Envelope {
    let body = Bytes::from(vec![u8::try_from(id % 251).unwrap(); body_len]);
    Envelope {
        id,
        body,
        priority: Priority::Direct.into(),
        ..Envelope::default()
    }
}
