//! What app-service takes from the world: time, randomness, waiting and tasks, each handed in.
//!
//! Nothing else in this crate asks the machine for them, so that a seeded, single-threaded executor with virtual time
//! replays a run exactly. The shell hands in [`Env::of_tokio`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;

pub use whimbrel_host::Clock;

/// A future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Where random numbers come from.
pub trait Entropy: Send + Sync {
    /// 64 random bits, fit for ids.
    fn random_u64(&self) -> u64;
}

/// Waiting.
pub trait Timers: Send + Sync {
    /// Ready after `wait`.
    fn sleep(&self, wait: Duration) -> BoxFuture<()>;
}

/// Starts tasks, and owns them.
pub trait Spawner: Send + Sync {
    /// Runs `task` beside the others. A task that panics must end the process.
    fn spawn(&self, name: &'static str, task: BoxFuture<()>);
}

/// The world, as this crate sees it. Clones share it.
#[derive(Clone)]
pub struct Env {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Waiting.
    pub timers: Arc<dyn Timers>,
    /// Tasks.
    pub spawner: Arc<dyn Spawner>,
}

impl Env {
    /// The real world: tokio's timers and the operating system's randomness, with this clock and this owner of tasks.
    #[must_use]
    pub fn of_tokio(clock: Arc<dyn Clock>, spawner: Arc<dyn Spawner>) -> Self {
        Self {
            clock,
            entropy: Arc::new(ThreadEntropy),
            timers: Arc::new(TokioTimers),
            spawner,
        }
    }

    /// A wait that two nodes will not choose alike: half of `up_to`, and a random part of the other half.
    #[must_use]
    pub fn jittered(&self, up_to: Duration) -> Duration {
        let half_us = u64::try_from(up_to.as_micros() / 2).unwrap_or(u64::MAX);
        Duration::from_micros(half_us + self.entropy.random_u64() % half_us.saturating_add(1))
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

/// The operating system's randomness, by way of a generator per thread.
#[derive(Debug, Clone, Copy)]
pub struct ThreadEntropy;

impl Entropy for ThreadEntropy {
    fn random_u64(&self) -> u64 {
        rand::rng().next_u64()
    }
}

impl Spawner for whimbrel_host::Spawner {
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) {
        Self::spawn(self, name, task);
    }
}

/// Tokio's timers.
#[derive(Debug, Clone, Copy)]
pub struct TokioTimers;

impl Timers for TokioTimers {
    fn sleep(&self, wait: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(wait))
    }
}
