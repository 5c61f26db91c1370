//! A service node whose clock is far from most nodes': it says so, and that it is not ready.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_app_service::AppService;
use whimbrel_app_service::config::AppServiceConfig;
use whimbrel_app_service::env::ThreadEntropy;
use whimbrel_host::{HostParts, Readiness};
use whimbrel_link::{ClusterSecret, Endpoint, LinkEvent};
use whimbrel_protocol::cluster::{Envelope, Kind, Probe, ProbeResponse, Role};
use whimbrel_protocol::ids::Incarnation;
use whimbrel_registry::{MemoryRegistry, Registry, RegistryAt};
use whimbrel_store::{Epoch, MemoryStore, Store};

use crate::world::{World, apps, identity};

/// Whatever takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_node_whose_clock_is_far_off_is_not_ready_until_it_is_right() {
    let secret = ClusterSecret::from_bytes([1; 32]);
    let (ours, events) = Endpoint::new(identity("app-1", Role::AppService, 9), secret.clone());
    let (router, mut at_router) = Endpoint::new(identity("router-1", Role::Router, 2), secret);
    let (env, _) = World::new(1).env();
    let host = HostParts::on_clock(env.clock);
    let registry = Arc::new(MemoryRegistry::new(Incarnation(1)));
    let handle = AppService::start_with(
        (AppServiceConfig::default(), apps()),
        Arc::new(MemoryStore::new(Epoch([5; 16]))) as Arc<dyn Store>,
        (ours.clone(), events),
        RegistryAt::Here(registry as Arc<dyn Registry>),
        host.clone(),
        Arc::new(ThreadEntropy),
    )
    .await
    .unwrap();
    Endpoint::connect_in_memory(&ours, &router);
    let link = loop {
        if let Some(LinkEvent::Up(link)) = at_router.recv().await {
            break link;
        }
    };
    let says = |clock_ahead_ms| {
        let probe = Envelope {
            id: 5,
            kind: Kind::Probe.into(),
            body: Bytes::from(Probe { clock_ahead_ms }.encode_to_vec()),
            ..Envelope::default()
        };
        link.try_send(probe).unwrap();
    };
    let until = async |what: &str, is_so: &dyn Fn(&Readiness) -> bool| {
        let so = async {
            while !host
                .health
                .snapshot()
                .iter()
                .any(|(_, readiness)| is_so(readiness))
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, so).await.expect(what);
    };
    until("it is ready", &|readiness| *readiness == Readiness::Ready).await;
    says(-90_000);
    until("it says that its clock is behind", &|readiness| {
        matches!(readiness, Readiness::NotReady(why) if why.contains("clock is 90 s behind that of most nodes"))
    })
    .await;
    // And routers hear it, unasked.
    let told = async {
        loop {
            if let Some(LinkEvent::Frame(_, told)) = at_router.recv().await
                && let Ok(told) = ProbeResponse::decode(told.body)
                && !told.ready
                && told.reason.contains("90 s behind")
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .expect("routers are told");
    says(0);
    until("it is ready again", &|readiness| *readiness == Readiness::Ready).await;
    host.drain.start();
    assert!(handle.join().await.is_clean());
}
