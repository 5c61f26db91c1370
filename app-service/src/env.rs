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

/// How far the wall clock may run ahead of the monotonic one before it is not believed in what cannot be taken back: more
/// than clocks are corrected by while a process runs, less than any age at which something is thrown away.
const WALL_AHEAD_MAX_MS: u64 = 3_600_000;

/// Unix time by which old things are thrown away. A wall clock that jumps ahead, by a wrong hand or a wrong server, makes
/// nothing old: it counts for at most an hour more than what has passed since the start.
#[derive(Clone)]
pub struct AgeClock {
    clock: Arc<dyn Clock>,
    start_ms: u64,
    start: Duration,
}

impl AgeClock {
    /// Believes what `clock` shows now.
    #[must_use]
    pub fn start(clock: Arc<dyn Clock>) -> Self {
        let (start_ms, start) = (clock.now_ms(), clock.monotonic());
        Self {
            clock,
            start_ms,
            start,
        }
    }

    /// What time it is at most, unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let passed = self.clock.monotonic().saturating_sub(self.start);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let latest_ms = self
            .start_ms
            .saturating_add(passed_ms)
            .saturating_add(WALL_AHEAD_MAX_MS);
        self.clock.now_ms().min(latest_ms)
    }
}

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
