//! Every backend under the one suite.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use whimbrel_link::{CallError, Caller};
use whimbrel_protocol::cluster::{Envelope, RegistryRequest, Role};
use whimbrel_protocol::ids::Incarnation;
use whimbrel_registry::conformance::{self, Harness, lease};
use whimbrel_registry::{LinkRegistry, MemoryRegistry, Registry, RegistryError, serve};

/// A memory registry on a clock the suite moves.
#[derive(Default)]
struct Memory {
    now_ms: Arc<AtomicU64>,
    asked: Vec<Arc<MemoryRegistry>>,
}

impl Memory {
    fn registry(&self) -> MemoryRegistry {
        let now_ms = Arc::clone(&self.now_ms);
        let clock = move || Duration::from_millis(now_ms.load(Ordering::Relaxed));
        MemoryRegistry::with_clock(Incarnation(1), Arc::new(clock))
    }
}

#[async_trait]
impl Harness for Memory {
    async fn empty(&mut self) -> Arc<dyn Registry> {
        let registry = Arc::new(self.registry());
        self.asked.push(Arc::clone(&registry));
        registry
    }

    async fn pass(&mut self, time: Duration) {
        let mut left_ms = u64::try_from(time.as_millis()).unwrap();
        // Somebody asks every second, as nodes do.
        while left_ms > 0 {
            let step_ms = left_ms.min(1_000);
            left_ms -= step_ms;
            self.now_ms.fetch_add(step_ms, Ordering::Relaxed);
            for registry in &self.asked {
                registry.nodes(None).await.unwrap();
            }
        }
    }
}

/// A home reached without a network; it can be replaced by another life, or be gone.
struct Home(Mutex<Option<Arc<MemoryRegistry>>>);

#[async_trait]
impl Caller for Home {
    async fn call(&self, request: Envelope, _: Duration) -> Result<Envelope, CallError> {
        let home = self.0.lock().unwrap().clone();
        let home = home.ok_or(CallError::Unavailable { retry_after_ms: 7 })?;
        let response = serve(&*home, RegistryRequest::decode(request.body).unwrap()).await;
        Ok(Envelope {
            body: Bytes::from(response.encode_to_vec()),
            ..Envelope::default()
        })
    }
}

#[derive(Default)]
struct Remote(Memory);

#[async_trait]
impl Harness for Remote {
    async fn empty(&mut self) -> Arc<dyn Registry> {
        let registry = Arc::new(self.0.registry());
        self.0.asked.push(Arc::clone(&registry));
        let home = Home(Mutex::new(Some(registry)));
        Arc::new(LinkRegistry::new(Arc::new(home), None))
    }

    async fn pass(&mut self, time: Duration) {
        self.0.pass(time).await;
    }
}

#[tokio::test]
async fn the_memory_registry_conforms() {
    conformance::run(&mut Memory::default()).await;
}

#[tokio::test]
async fn a_registry_that_stood_still_ends_no_lease_by_that() {
    let memory = Memory::default();
    let registry = memory.registry();
    registry
        .put_node(lease("gateway-1", Role::Gateway, 1, 9_000))
        .await
        .unwrap();
    memory.now_ms.fetch_add(60_000, Ordering::Relaxed);
    assert_eq!(registry.nodes(None).await.unwrap().len(), 1);
    for _ in 0..9 {
        memory.now_ms.fetch_add(1_000, Ordering::Relaxed);
        registry.nodes(None).await.unwrap();
    }
    assert!(
        registry.nodes(None).await.unwrap().is_empty(),
        "not renewed after that either, it ends"
    );
}

#[tokio::test]
async fn the_registry_over_links_conforms() {
    conformance::run(&mut Remote::default()).await;
}

#[tokio::test]
async fn a_new_life_of_the_home_is_noticed_by_the_next_call() {
    let home = Arc::new(Home(Mutex::new(Some(Arc::new(MemoryRegistry::new(
        Incarnation(1),
    ))))));
    let caller: Arc<dyn Caller> = Arc::<Home>::clone(&home);
    let registry = LinkRegistry::new(caller, None);
    let mut life = registry.life();
    assert_eq!(*life.borrow(), None);
    registry
        .put_node(lease("g1", Role::Gateway, 1, 1_000))
        .await
        .unwrap();
    assert_eq!(*life.borrow_and_update(), Some(Incarnation(1)));
    registry.nodes(None).await.unwrap();
    assert!(!life.has_changed().unwrap());

    *home.0.lock().unwrap() = None;
    let error = registry.nodes(None).await.unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::Unavailable {
                retry_after_ms: 7,
                ..
            }
        ),
        "{error}"
    );

    *home.0.lock().unwrap() = Some(Arc::new(MemoryRegistry::new(Incarnation(2))));
    assert!(registry.nodes(None).await.unwrap().is_empty());
    assert!(life.has_changed().unwrap());
    assert_eq!(*life.borrow_and_update(), Some(Incarnation(2)));
}
