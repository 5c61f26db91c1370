//! What a node takes from its surroundings: a clock that stands still, seeded randomness, waits that take no time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use whimbrel_app_service::env::{BoxFuture, Clock, Entropy, Spawner, Timers};

/// A Tuesday in 2026.
pub const START_MS: u64 = 1_780_000_000_000;

/// Moves when told to, also backwards.
#[derive(Debug)]
pub struct TestClock {
    now_ms: AtomicU64,
    monotonic_us: AtomicU64,
}

impl TestClock {
    pub fn new() -> Self {
        Self {
            now_ms: AtomicU64::new(START_MS),
            monotonic_us: AtomicU64::new(1_000_000),
        }
    }

    pub fn set_unix_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    pub fn advance(&self, by: Duration) {
        let us = u64::try_from(by.as_micros()).unwrap();
        self.monotonic_us.fetch_add(us, Ordering::Relaxed);
        self.now_ms.fetch_add(us / 1000, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.monotonic_us.load(Ordering::Relaxed))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Seeded(AtomicU64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.random_u64() % bound
    }
}

impl Entropy for Seeded {
    fn random_u64(&self) -> u64 {
        let state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Waiting takes no time but moves the clock.
pub struct TestTimers(pub Arc<TestClock>);

impl Timers for TestTimers {
    fn sleep(&self, wait: Duration) -> BoxFuture<()> {
        let clock = Arc::clone(&self.0);
        Box::pin(async move {
            clock.advance(wait);
            tokio::task::yield_now().await;
        })
    }
}

pub struct TestSpawner;

impl Spawner for TestSpawner {
    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) {
        drop(tokio::spawn(task));
    }
}
