//! The role as a process starts it: over links in memory, a lease, readiness, HTTP, and the way out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_app_service::auth::TokenRole;
use whimbrel_app_service::config::{AppConfig, AppServiceConfig, HttpConfig};
use whimbrel_app_service::{AppService, StartError};
use whimbrel_host::{HostParts, ManualClock};
use whimbrel_link::{ClusterSecret, Endpoint, LinkEvent};
use whimbrel_protocol::cluster::{self, Envelope, Kind, Role, Status};
use whimbrel_protocol::ids::Incarnation;
use whimbrel_registry::conformance::lease;
use whimbrel_registry::{MemoryRegistry, Registry, RegistryAt};
use whimbrel_store::{Epoch, MemoryStore};

use crate::http::{http, token};
use crate::world::{START_MS, identity};

fn endpoint(node: &str, role: Role) -> (Endpoint, tokio::sync::mpsc::Receiver<LinkEvent>) {
    Endpoint::new(identity(node, role, 0x77), ClusterSecret::from_bytes([1; 32]))
}

fn config(folder: &tempfile::TempDir) -> AppServiceConfig {
    let secret = folder.path().join("secret");
    // The bytes of the secret that the tokens of these tests are signed with.
    std::fs::File::create(&secret)
        .unwrap()
        .write_all(&[7; 32])
        .unwrap();
    AppServiceConfig {
        apps: vec![AppConfig {
            key: "demo".into(),
            secret_files: vec![secret],
            create_users_on_reference: true,
        }],
        http: HttpConfig {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            ..HttpConfig::default()
        },
        ..AppServiceConfig::default()
    }
}

#[tokio::test]
async fn a_role_is_known_serves_and_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new(Epoch([5; 16])));
    let registry = Arc::new(MemoryRegistry::new(Incarnation(1)));
    let host = HostParts::on_clock(Arc::new(ManualClock::new(START_MS)));
    let (router, mut events) = endpoint("router-1", Role::Router);
    let (mine, links) = endpoint("app-1", Role::AppService);
    Endpoint::connect_in_memory(&router, &mine);
    let handle = AppService::start(
        config(&folder),
        store,
        (mine, links),
        RegistryAt::Here(Arc::clone(&registry) as Arc<dyn Registry>),
        host.clone(),
    )
    .await
    .unwrap();

    let LinkEvent::Up(link) = events.recv().await.unwrap() else {
        unreachable!("a link comes up first")
    };
    let request = cluster::OpenSessionRequest {
        app_key: "demo".into(),
        uid: "ann".into(),
        device_id: "phone".into(),
        ..Default::default()
    };
    let body: Bytes = request.encode_to_vec().into();
    let ask = |id| Envelope {
        id,
        kind: Kind::OpenSession.into(),
        body: body.clone(),
        ..Default::default()
    };
    link.try_send(ask(7)).unwrap();
    let answer = answer(&mut events, 7).await;
    assert_eq!(answer.status(), Status::Ok, "{}", answer.detail);
    assert_ne!(
        cluster::OpenSessionResponse::decode(answer.body).unwrap().user_id,
        0
    );

    // The lease and readiness are the first things its task does.
    tokio::time::timeout(Duration::from_secs(20), async {
        while !host.health.is_ready() || registry.nodes(Some(Role::AppService)).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();

    let address = handle.http_address().unwrap();
    let (status, user) = http(address, "GET", "/v1/users/ann", &token(TokenRole::Server), "").await;
    assert_eq!((status, user["uid"].as_str()), (200, Some("ann")));

    host.drain.start();
    let report = handle.join().await;
    assert!(report.is_clean(), "{:?}", report.aborted);
    assert!(registry.nodes(Some(Role::AppService)).await.unwrap().is_empty());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    router.shut_down().await;
}

#[tokio::test]
async fn a_node_whose_name_a_later_process_has_in_the_registry_is_not_ready_and_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new(Epoch([5; 16])));
    let registry = Arc::new(MemoryRegistry::new(Incarnation(1)));
    let host = HostParts::on_clock(Arc::new(ManualClock::new(START_MS)));
    let mut config = config(&folder);
    config.service.lease_renewal_s = 1;
    let at = RegistryAt::Here(Arc::clone(&registry) as Arc<dyn Registry>);
    let links = endpoint("app-1", Role::AppService);
    let handle = AppService::start(config, store, links, at, host.clone())
        .await
        .unwrap();
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, async {
        while !host.health.is_ready() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let later = lease("app-1", Role::AppService, 0x78, 60_000);
    registry.put_node(later.clone()).await.unwrap();
    tokio::time::timeout(patience, host.drain.started())
        .await
        .unwrap();
    tokio::time::timeout(patience, async {
        while host.health.is_ready() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert!(handle.join().await.is_clean());
    assert_eq!(registry.nodes(None).await.unwrap(), [later]);
}

async fn answer(events: &mut tokio::sync::mpsc::Receiver<LinkEvent>, id: u64) -> Envelope {
    loop {
        match events.recv().await.unwrap() {
            LinkEvent::Frame(_, envelope) if envelope.response && envelope.id == id => return envelope,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_missing_secret_or_an_occupied_port_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let start = async |config| {
        let store = Arc::new(MemoryStore::new(Epoch([5; 16])));
        let registry = Arc::new(MemoryRegistry::new(Incarnation(1)));
        let links = endpoint("app-1", Role::AppService);
        AppService::start(
            config,
            store,
            links,
            RegistryAt::Here(registry),
            HostParts::on_system_clock(),
        )
        .await
    };
    let mut no_secret = config(&folder);
    no_secret.apps[0].secret_files = vec![folder.path().join("missing")];
    let Err(error @ StartError::Apps(_)) = start(no_secret).await else {
        unreachable!("it cannot start")
    };
    assert!(error.to_string().contains("missing"), "{error}");

    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut occupied = config(&folder);
    occupied.http.listen = Some(taken.local_addr().unwrap());
    let Err(error @ StartError::Bind(_)) = start(occupied).await else {
        unreachable!("it cannot start")
    };
    assert!(error.to_string().contains("http.listen"), "{error}");
}
