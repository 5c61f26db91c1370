//! Whole paths: asker, routers and serving nodes as real endpoints, in memory and over loopback TCP.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use whimbrel_host::HostParts;
use whimbrel_link::{
    CallError, Caller as _, ClusterSecret, Endpoint, Handler, Identity, LinkEvent, LinkOptions, Readiness,
    Reply, Uplink,
};
use whimbrel_protocol::cluster::{Envelope, Kind, Priority, Role};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::conformance::lease;
use whimbrel_registry::{LinkRegistry, MemoryRegistry, Registry as _, follow_routers};
use whimbrel_router::{NodeHealth, Router, RouterConfig, RouterHandle, announce};

/// Whatever takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// The deadline of calls that must not depend on it.
const LONG: Duration = Duration::from_secs(15);

fn endpoint(node: &str, role: Role) -> (Endpoint, mpsc::Receiver<LinkEvent>) {
    let identity = Identity {
        node: NodeId::new(node).unwrap(),
        role,
        incarnation: Incarnation(1),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: whimbrel_link::Capacity::ORDINARY,
    };
    let options = LinkOptions {
        redial_max: Duration::from_millis(50),
        ..LinkOptions::default()
    };
    Endpoint::with_options(identity, ClusterSecret::from_bytes([7; 32]), options)
}

/// Hands every request to the test, or answers it with its own name while told to.
struct Served {
    name: String,
    answers: AtomicBool,
    answered: AtomicU64,
    held: mpsc::UnboundedSender<(Envelope, Reply)>,
}

impl Handler for Served {
    fn handle(&self, request: Envelope, reply: Reply) {
        if self.answers.load(Ordering::SeqCst) {
            self.answered.fetch_add(1, Ordering::SeqCst);
            reply.ok(Bytes::from(self.name.clone()));
        } else {
            self.held.send((request, reply)).unwrap();
        }
    }
}

impl Served {
    fn count(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }
}

/// A leaf node.
struct Leaf {
    name: String,
    endpoint: Endpoint,
    uplink: Uplink,
    served: Arc<Served>,
    held: mpsc::UnboundedReceiver<(Envelope, Reply)>,
}

impl Leaf {
    fn start(name: &str, role: Role, answers: bool) -> Self {
        let (endpoint, events) = endpoint(name, role);
        let (held_in, held) = mpsc::unbounded_channel();
        let name = name.to_owned();
        let served = Arc::new(Served {
            name: name.clone(),
            answers: answers.into(),
            answered: AtomicU64::new(0),
            held: held_in,
        });
        let handler: Arc<dyn Handler> = Arc::<Served>::clone(&served);
        let uplink = Uplink::start(endpoint.clone(), events, handler);
        uplink.set_readiness(Readiness {
            ready: true,
            ..Readiness::default()
        });
        Self {
            name,
            endpoint,
            uplink,
            served,
            held,
        }
    }

    async fn routers(&self, count: usize) {
        let mut routers = self.uplink.routers();
        tokio::time::timeout(PATIENCE, routers.wait_for(|linked| *linked == count))
            .await
            .unwrap()
            .unwrap();
    }

    async fn held(&mut self) -> (Envelope, Reply) {
        tokio::time::timeout(PATIENCE, self.held.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

/// A router that listens.
struct Running {
    endpoint: Endpoint,
    address: String,
    host: HostParts,
    handle: RouterHandle,
}

impl Running {
    async fn start(name: &str, registry: Option<Arc<MemoryRegistry>>) -> Self {
        let (endpoint, events) = endpoint(name, Role::Router);
        let address = endpoint
            .listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap()
            .to_string();
        let host = HostParts::on_system_clock();
        let config = RouterConfig {
            drain_window: Duration::from_millis(300),
            ..RouterConfig::default()
        };
        let registry = registry.map(|registry| registry as _);
        let handle = Router::start(config, (endpoint.clone(), events), registry, host.clone());
        Self {
            endpoint,
            address,
            host,
            handle,
        }
    }
}

fn request() -> Envelope {
    Envelope {
        kind: Kind::ClientRequest.into(),
        priority: Priority::Direct.into(),
        to_role: Role::AppService.into(),
        affinity: 77,
        body: Bytes::from_static(b"hello"),
        ..Envelope::default()
    }
}

/// Asks until somebody answers: nodes become known to routers a moment after their links come up.
async fn until_served(asker: &Leaf, request: &Envelope) -> Envelope {
    let asked = async {
        loop {
            match asker.uplink.call(request.clone(), LONG).await {
                Ok(answer) => return answer,
                Err(CallError::Unavailable { .. } | CallError::UnknownNode) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap()
}

#[tokio::test]
async fn a_request_and_a_push_cross_one_router_in_memory() {
    let router = Running::start("router-1", None).await;
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    let app = Leaf::start("app-1", Role::AppService, true);
    for leaf in [&gateway, &app] {
        Endpoint::connect_in_memory(&leaf.endpoint, &router.endpoint);
    }
    assert_eq!(until_served(&gateway, &request()).await.body, "app-1");
    let push = Envelope {
        kind: Kind::Push.into(),
        to_node: "gateway-1".to_owned(),
        ..request()
    };
    assert_eq!(until_served(&app, &push).await.body, "gateway-1");
    let lost = Envelope {
        to_node: "gateway-9".to_owned(),
        ..push
    };
    assert_eq!(
        app.uplink.call(lost, LONG).await.unwrap_err(),
        CallError::UnknownNode
    );
}

#[tokio::test]
async fn a_request_on_a_node_that_dies_is_carried_out_by_another() {
    let router = Running::start("router-1", None).await;
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    let mut apps = [
        Leaf::start("app-1", Role::AppService, true),
        Leaf::start("app-2", Role::AppService, true),
    ];
    for leaf in [&gateway, &apps[0], &apps[1]] {
        leaf.endpoint.dial(router.address.clone());
    }
    // Until both nodes are known: they share what has no affinity.
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        seen.insert(
            until_served(
                &gateway,
                &Envelope {
                    affinity: 0,
                    ..request()
                },
            )
            .await
            .body,
        );
    }
    for app in &apps {
        app.served.answers.store(false, Ordering::SeqCst);
    }
    let uplink = gateway.uplink.clone();
    let call = tokio::spawn(async move { uplink.call(request(), LONG).await });
    let [one, two] = &mut apps;
    let (victim, other, stuck) = tokio::select! {
        stuck = one.held.recv() => (one, two, stuck),
        stuck = two.held.recv() => (two, one, stuck),
    };
    victim.endpoint.shut_down().await;
    let (again, reply) = other.held().await;
    assert_eq!(again.body, request().body);
    reply.ok(Bytes::from_static(b"done"));
    assert_eq!(call.await.unwrap().unwrap().body, "done");

    // When the second dies too, the asker learns that it may have been carried out.
    let uplink = gateway.uplink.clone();
    let call = tokio::spawn(async move { uplink.call(request(), LONG).await });
    let last = other.held().await;
    other.endpoint.shut_down().await;
    assert_eq!(call.await.unwrap().unwrap_err(), CallError::Lost);
    drop((stuck, last));
}

#[tokio::test]
async fn a_request_on_a_router_that_dies_goes_through_the_other() {
    let routers = [
        Running::start("router-1", None).await,
        Running::start("router-2", None).await,
    ];
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    let mut app = Leaf::start("app-1", Role::AppService, true);
    for leaf in [&gateway, &app] {
        for router in &routers {
            leaf.endpoint.dial(router.address.clone());
        }
        leaf.routers(2).await;
    }
    until_served(&gateway, &request()).await;
    app.served.answers.store(false, Ordering::SeqCst);
    let uplink = gateway.uplink.clone();
    let call = tokio::spawn(async move { uplink.call(request(), LONG).await });
    let (first, stuck) = app.held().await;
    // Which of the two had it shows in the reply's link.
    let had_it = routers
        .iter()
        .position(|router| format!("{stuck:?}").contains(router.name()))
        .unwrap();
    routers[had_it].endpoint.shut_down().await;
    let (again, reply) = app.held().await;
    assert_eq!((again.body, again.hops), (first.body, 2));
    reply.ok(Bytes::from_static(b"done"));
    assert_eq!(call.await.unwrap().unwrap().body, "done");
    assert_eq!(gateway.name, "gateway-1");
}

impl Running {
    fn name(&self) -> &str {
        self.endpoint.identity().node.as_str()
    }
}

#[tokio::test]
async fn the_registry_is_reached_at_its_home_through_any_router() {
    let home_registry = Arc::new(MemoryRegistry::new(Incarnation(5)));
    let home = Running::start("router-1", Some(Arc::clone(&home_registry))).await;
    let other = Running::start("router-2", None).await;
    other.endpoint.dial(home.address.clone());
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    gateway.endpoint.dial(other.address.clone());
    let registry = LinkRegistry::new(Arc::new(gateway.uplink.clone()), None);
    let put = async {
        while registry
            .put_node(lease("gateway-1", Role::Gateway, 1, 60_000))
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, put).await.unwrap();
    assert_eq!(home_registry.nodes(Some(Role::Gateway)).await.unwrap().len(), 1);
    assert_eq!(*registry.life().borrow(), Some(Incarnation(5)));

    // Linked with its home, a registry that names it asks it alone.
    gateway.endpoint.dial(home.address.clone());
    gateway.routers(2).await;
    let named = LinkRegistry::new(
        Arc::new(gateway.uplink.clone()),
        Some(&NodeId::new("router-1").unwrap()),
    );
    for _ in 0..10 {
        assert_eq!(named.nodes(None).await.unwrap().len(), 1);
    }
}

impl Running {
    /// Makes it known to a registry beside the cluster.
    fn announce(&self, registry: &Arc<MemoryRegistry>) {
        let registry = Arc::clone(registry);
        let (endpoint, drain) = (self.endpoint.clone(), self.host.drain.clone());
        let view = self.handle.view();
        tokio::spawn(announce(registry, endpoint, self.address.clone(), view, drain));
    }
}

#[tokio::test]
async fn nodes_find_the_routers_that_a_registry_beside_them_knows() {
    let registry = Arc::new(MemoryRegistry::new(Incarnation(5)));
    let first = Running::start("router-1", None).await;
    first.announce(&registry);
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    let app = Leaf::start("app-1", Role::AppService, true);
    for leaf in [&gateway, &app] {
        tokio::spawn(follow_routers(
            Arc::<MemoryRegistry>::clone(&registry),
            leaf.endpoint.clone(),
        ));
    }
    assert_eq!(until_served(&gateway, &request()).await.body, "app-1");
    // One that comes later is found, and one that leaves is not missed.
    let second = Running::start("router-2", None).await;
    second.announce(&registry);
    for leaf in [&gateway, &app] {
        leaf.routers(2).await;
    }
    first.host.drain.start();
    tokio::time::timeout(PATIENCE, first.handle.join()).await.unwrap();
    assert_eq!(until_served(&gateway, &request()).await.body, "app-1");
    let gone = async {
        while registry.nodes(Some(Role::Router)).await.unwrap().len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

/// Asks without end, from several tasks at once; every request must be served.
struct Traffic {
    served: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    askers: Vec<tokio::task::JoinHandle<()>>,
}

impl Traffic {
    fn start(asker: &Leaf) -> Self {
        let (served, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let spread = Envelope {
            affinity: 0,
            ..request()
        };
        let ask = || {
            let (uplink, request) = (asker.uplink.clone(), spread.clone());
            let (served, stop) = (Arc::clone(&served), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    uplink.call(request.clone(), LONG).await.unwrap();
                    served.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        };
        let askers = (0..8).map(|_| ask()).collect();
        Self { served, stop, askers }
    }

    async fn more(&self, count: u64) {
        let enough = self.served.load(Ordering::SeqCst) + count;
        let more = async {
            while self.served.load(Ordering::SeqCst) < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, more).await.unwrap();
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for asker in self.askers {
            asker.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_service_node_that_is_added_under_load_has_its_share_and_one_that_drains_fails_nothing() {
    let routers = [
        Running::start("router-1", None).await,
        Running::start("router-2", None).await,
    ];
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    let apps = [
        Leaf::start("app-1", Role::AppService, true),
        Leaf::start("app-2", Role::AppService, true),
    ];
    for leaf in [&gateway, &apps[0], &apps[1]] {
        for router in &routers {
            leaf.endpoint.dial(router.address.clone());
        }
        leaf.routers(2).await;
    }
    until_served(&gateway, &request()).await;
    let traffic = Traffic::start(&gateway);
    let added = Leaf::start("app-3", Role::AppService, true);
    for router in &routers {
        added.endpoint.dial(router.address.clone());
    }
    // At both routers, past its slow start.
    let whole = async {
        for router in &routers {
            loop {
                let seen = router.handle.view().look().await.unwrap();
                let app = seen.nodes.iter().find(|node| node.node == "app-3");
                if app.is_some_and(|app| app.health == NodeHealth::Ready) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), whole)
        .await
        .unwrap();
    let before = added.served.count();
    traffic.more(1_500).await;
    let share = added.served.count() - before;
    assert!((350..700).contains(&share), "{share} of 1500 and some");

    // It leaves as a service node does: says so, finishes what it has, and goes.
    added.uplink.set_readiness(Readiness {
        draining: true,
        ..Readiness::default()
    });
    added.served.answers.store(false, Ordering::SeqCst);
    let Leaf {
        mut held,
        endpoint,
        uplink,
        ..
    } = added;
    let refusing = tokio::spawn(async move {
        while let Some((_, reply)) = held.recv().await {
            reply.fail(whimbrel_protocol::cluster::Status::Unavailable, "draining", 0);
        }
    });
    traffic.more(300).await;
    endpoint.shut_down().await;
    traffic.more(300).await;
    traffic.end().await;
    refusing.abort();
    drop(uplink);
}

#[tokio::test]
async fn what_was_answered_before_a_standstill_is_answered_after_it() {
    let router = Running::start("router-1", None).await;
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    let mut app = Leaf::start("app-1", Role::AppService, true);
    for leaf in [&gateway, &app] {
        Endpoint::connect_in_memory(&leaf.endpoint, &router.endpoint);
    }
    until_served(&gateway, &request()).await;
    app.served.answers.store(false, Ordering::SeqCst);
    // More than a router or an uplink handles at once, with less time than the standstill takes.
    let calls: Vec<_> = (0..2_000)
        .map(|_| {
            let uplink = gateway.uplink.clone();
            tokio::spawn(async move { uplink.call(request(), Duration::from_millis(2_500)).await })
        })
        .collect();
    let mut replies = Vec::new();
    while replies.len() < calls.len() {
        replies.push(app.held().await.1);
    }
    for reply in replies {
        reply.ok(Bytes::from_static(b"done"));
    }
    // On the only thread there is.
    std::thread::sleep(Duration::from_secs(3));
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().body, "done");
    }
    let seen = router.handle.view().look().await.unwrap();
    let of_app = seen.nodes.iter().find(|node| node.node == "app-1").unwrap();
    assert_ne!(of_app.health, NodeHealth::Silent);
    // One that is answered by nobody still ends in time.
    let call = gateway.uplink.call(request(), Duration::from_millis(50)).await;
    assert_eq!(call.unwrap_err(), CallError::Deadline);
}

#[tokio::test]
async fn draining_a_router_under_traffic_fails_no_request() {
    let leaving = Running::start("router-1", None).await;
    let staying = Running::start("router-2", None).await;
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    let app = Leaf::start("app-1", Role::AppService, true);
    for leaf in [&gateway, &app] {
        leaf.endpoint.dial(leaving.address.clone());
        leaf.endpoint.dial(staying.address.clone());
        leaf.routers(2).await;
    }
    until_served(&gateway, &request()).await;
    let served = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let (uplink, served, stop) = (gateway.uplink.clone(), Arc::clone(&served), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    uplink.call(request(), LONG).await.unwrap();
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    leaving.host.drain.start();
    let report = tokio::time::timeout(PATIENCE, leaving.handle.join())
        .await
        .unwrap();
    assert_eq!(report.abandoned, 0);
    gateway.routers(1).await;
    let before = served.load(Ordering::SeqCst);
    assert!(before > 0);
    let more = async {
        while served.load(Ordering::SeqCst) < before + 100 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, more).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    for asker in askers {
        asker.await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_reply_and_a_missing_router_are_told_at_once() {
    let router = Running::start("router-1", None).await;
    let gateway = Leaf::start("gateway-1", Role::Gateway, true);
    let unavailable = gateway.uplink.call(request(), LONG).await.unwrap_err();
    assert!(matches!(unavailable, CallError::Unavailable { .. }));
    let mut app = Leaf::start("app-1", Role::AppService, true);
    for leaf in [&gateway, &app] {
        Endpoint::connect_in_memory(&leaf.endpoint, &router.endpoint);
    }
    until_served(&gateway, &request()).await;
    app.served.answers.store(false, Ordering::SeqCst);
    let uplink = gateway.uplink.clone();
    let call = tokio::spawn(async move { uplink.call(request(), LONG).await });
    drop(app.held().await);
    assert!(matches!(call.await.unwrap(), Err(CallError::Internal(_))));
    // A deadline is kept though nobody answers.
    let call = gateway.uplink.call(request(), Duration::from_millis(50)).await;
    assert_eq!(call.unwrap_err(), CallError::Deadline);
    gateway.endpoint.shut_down().await;
    assert!(matches!(
        gateway.uplink.call(request(), LONG).await,
        Err(CallError::Unavailable { .. })
    ));
}
