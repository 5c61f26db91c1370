//! The LBS over real HTTP, with a registry that does what the test says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::watch;
use whimbrel_host::{HostParts, ManualClock};
use whimbrel_lbs::{Lbs, LbsConfig, LbsHandle};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{
    NodeLease, Put, Registered, Registry, RegistryError, Role, RoomCounts, RoomKey, RoomOnGateway,
    SessionRecord, UserKey,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
const NOW_MS: u64 = 1_800_000_000_000;

/// Answers with these leases, or not at all. It says when it was asked.
struct Scripted {
    leases: Mutex<Option<Vec<NodeLease>>>,
    life: watch::Sender<Option<Incarnation>>,
    asked: watch::Sender<u64>,
}

#[async_trait]
impl Registry for Scripted {
    async fn put_node(&self, _lease: NodeLease) -> Result<Put, RegistryError> {
        unreachable!("the LBS only reads nodes")
    }

    async fn remove_node(&self, _node: &NodeId, _incarnation: Incarnation) -> Result<(), RegistryError> {
        unreachable!("the LBS only reads nodes")
    }

    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        assert_eq!(role, Some(Role::Gateway));
        self.asked.send_modify(|count| *count += 1);
        let leases = self.leases.lock().unwrap().clone();
        leases.ok_or(RegistryError::Unavailable {
            reason: "cut off".to_owned(),
            retry_after_ms: 1,
        })
    }

    async fn register(&self, _record: SessionRecord) -> Result<Registered, RegistryError> {
        unreachable!("the LBS only reads nodes")
    }

    async fn unregister(&self, _record: SessionRecord) -> Result<(), RegistryError> {
        unreachable!("the LBS only reads nodes")
    }

    async fn look_up(&self, _users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        unreachable!("the LBS only reads nodes")
    }

    async fn announce(&self, _records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        unreachable!("the LBS only reads nodes")
    }

    async fn put_rooms(&self, _counts: RoomCounts) -> Result<(), RegistryError> {
        unreachable!("the LBS only reads nodes")
    }

    async fn look_up_room(&self, _room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        unreachable!("the LBS only reads nodes")
    }

    fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.life.subscribe()
    }
}

struct Running {
    lbs: LbsHandle,
    registry: Arc<Scripted>,
    host: HostParts,
    client: reqwest::Client,
}

impl Running {
    async fn start(leases: &[NodeLease]) -> Self {
        let registry = Arc::new(Scripted {
            leases: Mutex::new(Some(leases.to_vec())),
            life: watch::Sender::new(Some(Incarnation(1))),
            asked: watch::Sender::new(0),
        });
        let config = LbsConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            refresh_interval: Duration::from_millis(5),
            ..LbsConfig::default()
        };
        let host = HostParts::on_clock(Arc::new(ManualClock::new(NOW_MS)));
        let shared: Arc<dyn Registry> = Arc::<Scripted>::clone(&registry);
        let lbs = Lbs::start(config, shared, host.clone()).await.unwrap();
        let running = Self {
            lbs,
            registry,
            host,
            client: reqwest::Client::new(),
        };
        running.refreshed().await;
        running
    }

    /// Waits until an answer that the registry gave after this call is what the LBS serves: the second refresh begins only
    /// when the first is taken in.
    async fn refreshed(&self) {
        let mut asked = self.registry.asked.subscribe();
        let from = *asked.borrow_and_update();
        tokio::time::timeout(PATIENCE, asked.wait_for(|count| *count >= from + 2))
            .await
            .unwrap()
            .unwrap();
    }

    async fn set_leases(&self, leases: Option<Vec<NodeLease>>) {
        *self.registry.leases.lock().unwrap() = leases;
        self.refreshed().await;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.lbs.address())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn nodes(&self, path: &str) -> Vec<String> {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{body}");
        let listed = body["gateways"].as_array().unwrap();
        let mut nodes: Vec<String> = listed
            .iter()
            .map(|gateway| gateway["node"].as_str().unwrap().to_owned())
            .collect();
        nodes.sort();
        nodes
    }
}

fn lease(node: &str) -> NodeLease {
    NodeLease {
        node: node.to_owned(),
        role: Role::Gateway.into(),
        descriptor: vec![0x01, 0xff, 0xfe, 0x80].into(),
        ttl_ms: 10_000,
        ..NodeLease::default()
    }
}

const GATEWAYS: &str = "/v1/gateways?app_key=demo";

#[tokio::test]
async fn a_client_is_told_of_live_gateways_with_their_exact_descriptors() {
    let draining = NodeLease {
        draining: true,
        ..lease("g3")
    };
    let running = Running::start(&[lease("g1"), lease("g2"), draining]).await;
    let (status, body) = running.get(GATEWAYS).await;
    assert_eq!(status, 200);
    assert_eq!(body["server_time_ms"], NOW_MS);
    assert_eq!(body["refresh_after_s"], 300);
    assert_eq!(body["gateways"][0]["descriptor"], "Af_-gA");
    assert_eq!(running.nodes(GATEWAYS).await, ["g1", "g2"]);
    assert_eq!(running.nodes(&format!("{GATEWAYS}&exclude=g1")).await, ["g2"]);
    assert_eq!(running.nodes(&format!("{GATEWAYS}&limit=1")).await.len(), 1);
}

#[tokio::test]
async fn a_gateway_that_drains_or_ends_leaves_the_answer() {
    let running = Running::start(&[lease("g1"), lease("g2")]).await;
    running
        .set_leases(Some(vec![
            lease("g1"),
            NodeLease {
                draining: true,
                ..lease("g2")
            },
        ]))
        .await;
    assert_eq!(running.nodes(GATEWAYS).await, ["g1"]);
}

#[tokio::test]
async fn a_registry_that_is_gone_leaves_the_last_good_answer() {
    let running = Running::start(&[lease("g1")]).await;
    running.set_leases(None).await;
    assert_eq!(running.nodes(GATEWAYS).await, ["g1"]);
    assert!(running.host.health.is_ready());
    running.set_leases(Some(vec![lease("g2")])).await;
    assert_eq!(running.nodes(GATEWAYS).await, ["g2"]);
}

#[tokio::test]
async fn no_live_gateway_is_503_with_a_time_to_ask_again() {
    let running = Running::start(&[]).await;
    let response = running.client.get(running.url(GATEWAYS)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["retry-after"], "2");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "no_gateway");
    assert_eq!(running.get("/readyz").await.0, 503);
    running.set_leases(Some(vec![lease("g1")])).await;
    assert_eq!(running.nodes(GATEWAYS).await, ["g1"]);
    assert_eq!(running.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn nonsense_gets_a_4xx_that_says_what_is_wrong() {
    let running = Running::start(&[lease("g1")]).await;
    for (path, status, code) in [
        ("/v1/gateways", 400, "app_key_missing"),
        ("/v1/gateways?app_key=", 400, "app_key_invalid"),
        ("/v1/gateways?app_key=%00%ff", 400, "app_key_invalid"),
        (
            "/v1/gateways?app_key=demo&limit=1000000000000000000000",
            400,
            "limit_out_of_range",
        ),
        ("/v1/gateways?app_key=demo&exclude=%20", 400, "exclude_invalid"),
        ("/v1/gateways/", 404, "not_found"),
        ("/", 404, "not_found"),
    ] {
        let (got, body) = running.get(path).await;
        assert_eq!(
            (got, body["error"]["code"].as_str()),
            (status, Some(code)),
            "{path}"
        );
        assert!(
            body["error"]["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{path}"
        );
    }
    let posted = running.client.post(running.url(GATEWAYS)).send().await.unwrap();
    assert_eq!(posted.status().as_u16(), 405);
    assert_eq!(posted.headers()["allow"], "GET,HEAD");
    assert_eq!(
        running.nodes(GATEWAYS).await,
        ["g1"],
        "others are served as before"
    );
}

#[tokio::test]
async fn a_drain_ends_it_cleanly() {
    let running = Running::start(&[lease("g1")]).await;
    running.nodes(GATEWAYS).await;
    running.host.drain.start();
    let report = running.lbs.join(PATIENCE).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn an_occupied_port_is_named_with_the_key_to_change() {
    let running = Running::start(&[]).await;
    let config = LbsConfig {
        listen: running.lbs.address(),
        ..LbsConfig::default()
    };
    let registry: Arc<dyn Registry> = Arc::<Scripted>::clone(&running.registry);
    let error = Lbs::start(config, registry, running.host.clone())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("`lbs.listen`"), "{error}");
}
