//! Pushes under load, tokens that run out, and a registry that forgets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use whimbrel_protocol::bucket::user_bucket;
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::cluster::{
    NodeLease, Role, RoomCounts, RoomKey, RoomOnGateway, SessionRecord, UserKey,
};
use whimbrel_protocol::frame::{Frame, Retry};
use whimbrel_protocol::ids::{AppKey, Incarnation, NodeId, Uid};
use whimbrel_registry::{MemoryRegistry, Put, Registered, Registry, RegistryError};

use crate::support::client::login;
use crate::support::socket::Socket;
use crate::support::world::{ECHO, START_MS, TELL, World, config, target_of};

#[test]
fn a_push_to_many_reaches_every_one_and_names_those_who_are_gone() {
    let world = World::new();
    let mut sockets: Vec<_> = (0..100)
        .map(|index| world.log_in(&format!("user-{index}"), 1))
        .collect();
    let targets: Vec<_> = (0..100)
        .map(|index| target_of(&world.sessions_of(&format!("user-{index}"))[0]))
        .collect();
    let home_of = |index: usize| {
        let (app, uid) = (
            AppKey::new("demo").unwrap(),
            Uid::new(&format!("user-{index}")).unwrap(),
        );
        user_bucket(&app, &uid, config().buckets) % 2
    };
    let homes: Vec<_> = (0..100).map(home_of).collect();
    let reactors: Vec<_> = targets.iter().map(|target| target.reactor).collect();
    assert_eq!(reactors, homes, "a user lives with the reactor of the bucket");
    assert!(homes.contains(&0) && homes.contains(&1));
    drop(sockets.drain(90..));
    world.until("ten are gone", |world| world.gateway().connections() == 90);
    let response = world.push(targets.clone(), b"to all", 11);
    assert_eq!(response.accepted, 90);
    assert_eq!(response.gone.len(), 10);
    assert!(response.gone.iter().all(|gone| targets[90..].contains(gone)));
    assert!(sockets.iter_mut().all(|socket| socket.next_push() == b"to all"));
}

#[test]
fn a_client_that_falls_behind_gets_one_hint_to_sync_and_goes_on() {
    let mut config = config();
    config.session.outbound_collapse_bytes = 150_000;
    let world = World::with(config);
    let (mut alice, mut bob) = (world.log_in("alice", 1), world.log_in("bob", 1));
    let mut large = b"bob\0".to_vec();
    large.resize(60_000, 7);
    // More than the kernel's buffers and the bound together hold.
    let mut told = 0;
    while told < 300 {
        assert_eq!(alice.ask(TELL, &large).code, 0);
        told += 1;
    }
    assert!(
        world.gateway().owed_bytes() <= 250_000,
        "{}",
        world.gateway().owed_bytes()
    );
    let (mut pushes, mut hints) = (0, 0);
    while hints == 0 {
        match bob.next() {
            Some(Frame::Push(_)) => pushes += 1,
            Some(Frame::SyncHint { .. }) => hints += 1,
            other => panic!("{other:?} came"),
        }
    }
    assert!(pushes < told, "{pushes} of {told} pushes came");
    bob.send(&[Frame::PushAck {
        through: bob.client.tracked,
    }]);
    assert_eq!(bob.ask(ECHO, b"synced").body, &b"synced"[..]);
    assert_eq!(alice.ask(TELL, b"bob\0after the hint").code, 0);
    while bob.next_push() != b"after the hint" {}
}

#[test]
fn a_push_without_acknowledgement_closes_after_ten_seconds_and_one_with_does_not() {
    let (world, clock) = World::on_manual_clock(config());
    let (mut alice, mut bob, mut carol) = (
        world.log_in("alice", 1),
        world.log_in("bob", 1),
        world.log_in("carol", 1),
    );
    alice.ask(TELL, b"bob\0one");
    alice.ask(TELL, b"carol\0one");
    assert_eq!(bob.next_push(), b"one");
    assert!(matches!(carol.next(), Some(Frame::Push(_))));
    // An answer behind the acknowledgement says that it has been taken in.
    assert_eq!(bob.ask(ECHO, b"acknowledged").code, 0);
    clock.advance(Duration::from_secs(9));
    assert_eq!(carol.ask(ECHO, b"still here").code, 0);
    clock.advance(Duration::from_secs(2));
    assert_eq!(carol.close_reason(), Some(CloseReason::AckOverdue.number()));
    assert_eq!(bob.ask(ECHO, b"still here").code, 0);
}

fn until(seconds: u64) -> String {
    format!("until {}", START_MS + seconds * 1000)
}

#[test]
fn a_token_that_runs_out_is_asked_for_again_and_a_new_one_goes_on() {
    let (world, clock) = World::on_manual_clock(config());
    let mut alice = Socket::log_in(world.address, &world.key, &login("alice", &until(60), 1));
    clock.advance(Duration::from_secs(59));
    assert_eq!(alice.ask(ECHO, b"before").code, 0);
    clock.advance(Duration::from_secs(2));
    assert!(matches!(
        alice.next(),
        Some(Frame::Reauth {
            within_ms: 30_000,
            ..
        })
    ));
    alice.send(&[Frame::Reauth {
        within_ms: 0,
        payload: Bytes::from(until(120)),
    }]);
    world.until("it is judged", |world| {
        world.asked.authenticate.load(Ordering::SeqCst) == 2
    });
    assert_eq!(alice.ask(ECHO, b"after").code, 0);
    clock.advance(Duration::from_secs(40));
    assert_eq!(alice.ask(ECHO, b"long after").code, 0);
    clock.advance(Duration::from_secs(20));
    assert!(
        matches!(alice.next(), Some(Frame::Reauth { .. })),
        "the new one runs out as well"
    );
    clock.advance(Duration::from_secs(31));
    let expired = CloseReason::TokenExpired.number();
    assert_eq!(
        alice.next(),
        Some(Frame::Close {
            reason: expired,
            retry: Retry::NewToken
        })
    );
}

#[test]
fn a_new_token_that_is_no_good_closes_the_session() {
    let world = World::new();
    let mut alice = world.log_in("alice", 1);
    alice.send(&[Frame::Reauth {
        within_ms: 0,
        payload: Bytes::from_static(b"expired"),
    }]);
    assert_eq!(alice.close_reason(), Some(CloseReason::TokenExpired.number()));
}

/// A registry that can lose everything, and that can be out of reach of renewals.
pub(crate) struct Forgetful {
    inner: watch::Sender<Arc<MemoryRegistry>>,
    life: watch::Sender<Option<Incarnation>>,
    takes_no_lease: AtomicBool,
    /// Renewals that were refused.
    refused: AtomicUsize,
    /// The first answer to a renewal is lost, and the call repeated on its way.
    repeats: bool,
}

impl Forgetful {
    pub(crate) fn new() -> Self {
        Self::over(MemoryRegistry::new(Incarnation(1)))
    }

    fn over(registry: MemoryRegistry) -> Self {
        Self {
            inner: watch::channel(Arc::new(registry)).0,
            life: watch::channel(Some(Incarnation(1))).0,
            takes_no_lease: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            repeats: false,
        }
    }

    pub(crate) fn forget(&self) {
        self.inner
            .send_replace(Arc::new(MemoryRegistry::new(Incarnation(2))));
        self.life.send_replace(Some(Incarnation(2)));
    }

    fn now(&self) -> Arc<MemoryRegistry> {
        Arc::clone(&self.inner.borrow())
    }
}

#[async_trait]
impl Registry for Forgetful {
    async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError> {
        if self.takes_no_lease.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(RegistryError::Unavailable {
                reason: "cut off by the test".to_owned(),
                retry_after_ms: 10,
            });
        }
        if self.repeats {
            self.now().put_node(lease.clone()).await?;
        }
        self.now().put_node(lease).await
    }
    async fn remove_node(&self, node: &NodeId, incarnation: Incarnation) -> Result<(), RegistryError> {
        self.now().remove_node(node, incarnation).await
    }
    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        self.now().nodes(role).await
    }
    async fn register(&self, record: SessionRecord) -> Result<Registered, RegistryError> {
        self.now().register(record).await
    }
    async fn unregister(&self, record: SessionRecord) -> Result<(), RegistryError> {
        self.now().unregister(record).await
    }
    async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.now().look_up(users).await
    }
    async fn announce(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.now().announce(records).await
    }
    async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError> {
        self.now().put_rooms(counts).await
    }
    async fn look_up_room(&self, room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        self.now().look_up_room(room).await
    }
    fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.life.subscribe()
    }
}

#[test]
fn a_registry_that_lost_everything_is_told_again_and_the_clients_sync() {
    let registry = Arc::new(Forgetful::new());
    let world = World::over(config(), Arc::<Forgetful>::clone(&registry));
    let mut sockets: Vec<_> = (0..20)
        .map(|index| world.log_in(&format!("user-{index}"), 1))
        .collect();
    registry.forget();
    for (index, socket) in sockets.iter_mut().enumerate() {
        assert!(matches!(socket.next(), Some(Frame::SyncHint { spread_ms }) if spread_ms > 0));
        assert_eq!(world.sessions_of(&format!("user-{index}")).len(), 1);
    }
    assert_eq!(sockets[0].ask(TELL, b"user-1\0found again").code, 0);
    assert_eq!(sockets[1].next_push(), b"found again");
}

#[test]
fn a_gateway_whose_lease_had_ended_announces_its_sessions_again() {
    let registry = Arc::new(Forgetful::new());
    let mut config = config();
    config.lease.renew_ms = 50;
    // Renewals are late on a busy machine, by less than that.
    config.lease.ttl_ms = 3_000;
    let world = World::over(config, Arc::<Forgetful>::clone(&registry));
    let mut alice = world.log_in("alice", 1);
    registry.takes_no_lease.store(true, Ordering::Relaxed);
    let patience = Instant::now() + Duration::from_secs(20);
    while !world.sessions_of("alice").is_empty() {
        assert!(
            Instant::now() < patience,
            "the registry keeps sessions of a gateway without a lease"
        );
        std::thread::yield_now();
    }
    registry.takes_no_lease.store(false, Ordering::Relaxed);
    assert!(matches!(alice.next(), Some(Frame::SyncHint { .. })));
    assert_eq!(world.sessions_of("alice").len(), 1);
}

#[test]
fn a_gateway_whose_clock_stood_still_learns_from_its_renewal_that_its_lease_had_ended() {
    announces_after_a_suspension(|registry| Arc::new(registry));
}

#[test]
fn a_gateway_whose_clock_stood_still_learns_it_though_the_first_answer_is_lost() {
    announces_after_a_suspension(|registry| {
        Arc::new(Forgetful {
            repeats: true,
            ..Forgetful::over(registry)
        })
    });
}

fn announces_after_a_suspension(over: impl FnOnce(MemoryRegistry) -> Arc<dyn Registry>) {
    // The registry's clock goes on while the gateway's machine is suspended; the gateway's own does not.
    let skipped = Arc::new(AtomicU64::new(0));
    let (began, passed) = (Instant::now(), Arc::clone(&skipped));
    let clock = move || began.elapsed() + Duration::from_millis(passed.load(Ordering::Relaxed));
    let registry = MemoryRegistry::with_clock(Incarnation(1), Arc::new(clock));
    let mut config = config();
    config.lease.renew_ms = 1_000;
    config.lease.ttl_ms = 4_000;
    let world = World::over(config, over(registry));
    let mut alice = world.log_in("alice", 1);
    assert_eq!(world.sessions_of("alice").len(), 1);
    skipped.fetch_add(4_500, Ordering::Relaxed);
    assert!(matches!(alice.next(), Some(Frame::SyncHint { .. })));
    assert_eq!(world.sessions_of("alice").len(), 1);
}

#[test]
fn a_gateway_that_could_not_renew_for_a_while_has_its_sessions_sync_though_its_lease_went_on() {
    let registry = Arc::new(Forgetful::new());
    let mut config = config();
    config.lease.ttl_ms = 300_000;
    let world = World::over(config, Arc::<Forgetful>::clone(&registry));
    let mut alice = world.log_in("alice", 1);
    registry.takes_no_lease.store(true, Ordering::Relaxed);
    world.until("two renewals are refused", |_| {
        registry.refused.load(Ordering::Relaxed) >= 2
    });
    assert_eq!(world.sessions_of("alice").len(), 1, "the lease goes on");
    registry.takes_no_lease.store(false, Ordering::Relaxed);
    // While the registry was out of reach, nobody could look up whom to push to.
    assert!(matches!(alice.next(), Some(Frame::SyncHint { .. })));
    assert_eq!(world.sessions_of("alice").len(), 1);
}
