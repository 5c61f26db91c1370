//! Instead of routers and gateways: hands requests to nodes and pushes to inboxes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot;
use whimbrel_app_service::node::Node;
use whimbrel_app_service::service::Answer;
use whimbrel_link::{CallError, Caller};
use whimbrel_protocol::cluster::room_order_response::Outcome;
use whimbrel_protocol::cluster::{
    Envelope, Kind, PushRequest, PushResponse, PushesRequest, RoomBroadcast, RoomBroadcastResponse,
    RoomOrder, RoomOrderResponse,
};

/// The one gateway.
pub(crate) const GATEWAY: &str = "gateway-1";

/// Instead of routers and gateways.
#[derive(Default)]
pub(crate) struct Switch {
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    inboxes: Mutex<BTreeMap<u32, Vec<(u32, Bytes)>>>,
    /// Nodes that nobody reaches.
    cut: Mutex<BTreeSet<String>>,
    pub(crate) rooms: RoomGateways,
}

/// What gateways were told about rooms, and what they answer.
#[derive(Default)]
pub(crate) struct RoomGateways {
    pub(crate) orders: Mutex<Vec<(String, RoomOrder)>>,
    pub(crate) broadcasts: Mutex<Vec<(String, RoomBroadcast)>>,
    /// Answers to orders; done without one.
    pub(crate) outcome: Mutex<Option<Outcome>>,
    /// Answers to broadcasts, by gateway; nobody there without one.
    pub(crate) answers: Mutex<BTreeMap<String, RoomBroadcastResponse>>,
}

impl RoomGateways {
    fn order(&self, gateway: &str, order: RoomOrder) -> Vec<u8> {
        self.orders.lock().unwrap().push((gateway.to_owned(), order));
        let outcome = self.outcome.lock().unwrap().unwrap_or(Outcome::Done).into();
        RoomOrderResponse { outcome }.encode_to_vec()
    }

    fn broadcast(&self, gateway: &str, broadcast: RoomBroadcast) -> Vec<u8> {
        self.broadcasts
            .lock()
            .unwrap()
            .push((gateway.to_owned(), broadcast));
        let answers = self.answers.lock().unwrap();
        answers.get(gateway).copied().unwrap_or_default().encode_to_vec()
    }
}

impl Switch {
    pub(crate) fn connect(&self, name: &str, node: Arc<Node>) {
        self.nodes.lock().unwrap().insert(name.to_owned(), node);
    }

    pub(crate) fn disconnect(&self, name: &str) {
        self.nodes.lock().unwrap().remove(name);
    }

    pub(crate) fn open_inbox(&self, slot: u32) {
        self.inboxes.lock().unwrap().insert(slot, Vec::new());
    }

    pub(crate) fn close_inbox(&self, slot: u32) {
        self.inboxes.lock().unwrap().remove(&slot);
    }

    /// What was pushed to a session since the last time: methods and payloads.
    pub(crate) fn take_inbox(&self, slot: u32) -> Vec<(u32, Bytes)> {
        self.inboxes
            .lock()
            .unwrap()
            .get_mut(&slot)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub(crate) fn cut(&self, node: &str) {
        self.cut.lock().unwrap().insert(node.to_owned());
    }

    pub(crate) fn mend(&self) {
        self.cut.lock().unwrap().clear();
    }

    fn push(&self, request: &PushRequest) -> PushResponse {
        let mut inboxes = self.inboxes.lock().unwrap();
        let mut response = PushResponse::default();
        for target in &request.targets {
            match inboxes.get_mut(&target.slot) {
                Some(inbox) => {
                    inbox.push((request.method, request.payload.clone()));
                    response.accepted += 1;
                }
                None => response.gone.push(*target),
            }
        }
        response
    }
}

#[async_trait]
impl Caller for Switch {
    async fn call(&self, request: Envelope, deadline: Duration) -> Result<Envelope, CallError> {
        if self.cut.lock().unwrap().contains(&request.to_node) {
            return Err(CallError::UnknownNode);
        }
        let about_rooms = match request.kind() {
            Kind::RoomOrder => {
                let order = RoomOrder::decode(request.body.clone()).unwrap();
                Some(self.rooms.order(&request.to_node, order))
            }
            Kind::RoomBroadcast => {
                let broadcast = RoomBroadcast::decode(request.body.clone()).unwrap();
                Some(self.rooms.broadcast(&request.to_node, broadcast))
            }
            _ => None,
        };
        if let Some(body) = about_rooms {
            return Ok(Envelope {
                body: body.into(),
                ..Envelope::default()
            });
        }
        let pushes = match request.kind() {
            Kind::Push => Some(vec![PushRequest::decode(request.body.clone()).unwrap()]),
            Kind::Pushes => Some(PushesRequest::decode(request.body.clone()).unwrap().pushes),
            _ => None,
        };
        if let Some(pushes) = pushes {
            assert_eq!(request.to_node, GATEWAY);
            let mut sum = PushResponse::default();
            for push in &pushes {
                let one = self.push(push);
                sum.accepted += one.accepted;
                sum.gone.extend(one.gone);
            }
            let body = sum.encode_to_vec().into();
            return Ok(Envelope {
                body,
                ..Envelope::default()
            });
        }
        let node = self
            .nodes
            .lock()
            .unwrap()
            .get(&request.to_node)
            .cloned()
            .ok_or(CallError::UnknownNode)?;
        let answer = tokio::time::timeout(deadline, ask(&node, request)).await;
        match answer.map_err(|_| CallError::Deadline)? {
            Answer::Body(body) => Ok(Envelope {
                body,
                ..Envelope::default()
            }),
            Answer::Refused { .. } => Err(CallError::Unavailable { retry_after_ms: 0 }),
        }
    }
}

/// Asks a node, as a link does.
pub(crate) async fn ask(node: &Node, request: Envelope) -> Answer {
    let (tell, told) = oneshot::channel();
    node.service()
        .handle_request(request, move |answer| _ = tell.send(answer));
    // A node that is killed never answers.
    match told.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}
