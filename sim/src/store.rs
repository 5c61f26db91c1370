//! The store all service nodes share: the memory backend, behind a network of its own.
//!
//! A commit travels to the store, is decided there, and its answer travels back; the process that asked may be frozen or
//! dead by then. Faults are those the trait allows: conflicts that need no reason on a networked backend, *Unknown* for
//! batches that were applied, never were, or will be a moment later, refusals, slow and failing reads. How many groups nodes have
//! in flight and how large these are is drawn from the seed too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::oneshot;
use whimbrel_store::{
    Batch, Commit, Direction, Epoch, Grouping, KeyRange, MemoryStore, Readiness, ScanPage, Snapshot, Store,
    StoreError, Version,
};

use crate::clock::ProcessClock;
use crate::dice::Dice;
use crate::plant::Plant;

/// The latest a batch may be applied after its commit was answered with Unknown, ms.
const LATE_MS: u64 = 3_000;

/// Groups that each node has in flight: one of these.
const IN_FLIGHT: [usize; 4] = [1, 2, Grouping::ONE_DISK.in_flight, 8];
/// Conversations of a group: one of these.
const UNRELATED: [usize; 4] = [1, 2, 16, Grouping::ONE_DISK.unrelated_max];

/// How the store behaves; in permille of calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Conflicts without a reason.
    pub(crate) conflicts: u64,
    /// Commits whose outcome is not told.
    pub(crate) unknowns: u64,
    /// Reads that fail.
    pub(crate) read_errors: u64,
    /// Commits and reads take up to so long, ms.
    pub(crate) slow_ms: u64,
    /// Nothing comes through.
    pub(crate) outage: bool,
}

/// The store itself. See the module.
pub(crate) struct SharedStore {
    inner: MemoryStore,
    plant: Option<Plant>,
    grouping: Grouping,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    weather: Weather,
    jobs: BTreeMap<(u64, u64), Job>,
    next_job: u64,
    commits: u64,
}

enum Job {
    Apply {
        batch: Batch,
        fate: Fate,
        reply: oneshot::Sender<Commit>,
        /// The process it comes from.
        process: Weak<()>,
    },
    Answer {
        commit: Commit,
        reply: oneshot::Sender<Commit>,
    },
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// What the store says.
    Told,
    /// As told, unless its process has died before it left.
    LostWithProcess,
    Conflict,
    UnknownApplied,
    UnknownLost,
    UnknownLate,
    Refused,
}

impl SharedStore {
    pub(crate) fn new(mut dice: Dice, plant: Option<Plant>) -> Arc<Self> {
        let mut epoch = [0; 16];
        let halves = epoch.chunks_exact_mut(8);
        halves.for_each(|half| half.copy_from_slice(&dice.next().to_be_bytes()));
        // From a copy: what is drawn otherwise stays as it was.
        let in_flight = dice.clone().pick(&IN_FLIGHT).copied();
        let unrelated = dice.clone().fork().pick(&UNRELATED).copied();
        let grouping = Grouping {
            in_flight: in_flight.unwrap_or(Grouping::ONE_DISK.in_flight),
            unrelated_max: unrelated.unwrap_or(Grouping::ONE_DISK.unrelated_max),
        };
        Arc::new(Self {
            inner: MemoryStore::new(Epoch(epoch)),
            plant,
            grouping,
            state: Mutex::new(State {
                dice,
                weather: Weather::default(),
                jobs: BTreeMap::new(),
                next_job: 0,
                commits: 0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Batches applied so far.
    pub(crate) fn commits(&self) -> u64 {
        self.state().commits
    }

    /// When there is something to do next.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.state().jobs.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// Decides and answers what has become due; says whether there was anything.
    pub(crate) fn pump(&self, now_ms: u64) -> bool {
        let mut any = false;
        loop {
            let job = {
                let mut state = self.state();
                match state.jobs.first_entry() {
                    Some(first) if first.key().0 <= now_ms => first.remove(),
                    _ => return any,
                }
            };
            any = true;
            match job {
                Job::Apply { fate, process, .. }
                    if fate == Fate::LostWithProcess && process.strong_count() == 0 => {}
                Job::Apply {
                    batch, fate, reply, ..
                } => self.apply(now_ms, batch, fate, reply),
                // Whoever asked may be dead.
                Job::Answer { commit, reply } => drop(reply.send(commit)),
            }
        }
    }

    fn apply(&self, now_ms: u64, batch: Batch, fate: Fate, reply: oneshot::Sender<Commit>) {
        let lost = || Commit::Unknown(StoreError::backend("committing", "the answer was lost"));
        let commit = match fate {
            Fate::Told | Fate::LostWithProcess => self.commit_now(batch),
            Fate::Conflict => Commit::Conflict(batch.keys().take(1).cloned().collect()),
            Fate::UnknownApplied => {
                drop(self.commit_now(batch));
                lost()
            }
            Fate::UnknownLost => lost(),
            Fate::UnknownLate => {
                let (late, _nobody) = oneshot::channel();
                let mut state = self.state();
                let at_ms = now_ms + state.dice.within(1..=LATE_MS);
                let job = Job::Apply {
                    batch,
                    fate: Fate::UnknownApplied,
                    reply: late,
                    process: Weak::new(),
                };
                state.push(at_ms, job);
                lost()
            }
            Fate::Refused => Commit::Refused(StoreError::NotReady {
                reason: "the store cannot be reached".to_owned(),
            }),
        };
        let mut state = self.state();
        let delay_ms = state.delay_ms();
        state.push(now_ms + delay_ms, Job::Answer { commit, reply });
    }

    fn commit_now(&self, batch: Batch) -> Commit {
        let batch = match self.plant {
            Some(plant) => plant.distort(batch),
            None => batch,
        };
        let commit = self.inner.commit(batch).now_or_never();
        let commit = commit.expect("the memory store answers at once");
        self.state().commits += u64::from(commit.is_committed());
        commit
    }

    /// Lets time pass before a read, or fails it.
    async fn breathe(&self) -> Result<(), StoreError> {
        let (wait_ms, fails) = {
            let mut state = self.state();
            let wait_ms = state.read_delay_ms();
            let permille = state.weather.read_errors;
            let fails = state.weather.outage || state.dice.chance(permille);
            (wait_ms, fails)
        };
        if wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        if fails {
            return Err(StoreError::backend("reading", "the store cannot be reached"));
        }
        Ok(())
    }
}

impl State {
    fn push(&mut self, at_ms: u64, job: Job) {
        let number = self.next_job;
        self.next_job += 1;
        self.jobs.insert((at_ms, number), job);
    }

    fn delay_ms(&mut self) -> u64 {
        match self.weather.slow_ms {
            0 => self.dice.within(0..=2),
            slow_ms => self.dice.within(0..=slow_ms),
        }
    }

    /// Most reads take no time, so that a run is not all waiting.
    fn read_delay_ms(&mut self) -> u64 {
        match self.weather.slow_ms {
            0 if self.dice.chance(200) => self.dice.within(1..=2),
            0 => 0,
            slow_ms if self.dice.chance(300) => self.dice.within(0..=slow_ms),
            _ => 0,
        }
    }

    fn fate(&mut self) -> Fate {
        let weather = self.weather;
        if weather.outage {
            return if self.dice.chance(500) {
                Fate::Refused
            } else {
                Fate::UnknownLost
            };
        }
        if self.dice.chance(weather.conflicts) {
            return Fate::Conflict;
        }
        if self.dice.chance(weather.unknowns) {
            return [Fate::UnknownApplied, Fate::UnknownLost, Fate::UnknownLate][self.dice.below(3)];
        }
        if self.dice.chance(500) {
            Fate::LostWithProcess
        } else {
            Fate::Told
        }
    }
}

/// The store as one process reaches it.
pub(crate) struct NodeStore {
    pub(crate) shared: Arc<SharedStore>,
    pub(crate) clock: Arc<ProcessClock>,
    /// Gone when the process is.
    pub(crate) process: Arc<()>,
}

#[async_trait]
impl Store for NodeStore {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.shared.breathe().await?;
        let inner = self.shared.inner.snapshot().await?;
        let shared = Arc::clone(&self.shared);
        Ok(Arc::new(NodeSnapshot { inner, shared }))
    }

    async fn commit(&self, batch: Batch) -> Commit {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.shared.state();
            let fate = state.fate();
            let at_ms = self.clock.world_ms() + 1 + state.delay_ms();
            let process = Arc::downgrade(&self.process);
            let job = Job::Apply {
                batch,
                fate,
                reply,
                process,
            };
            state.push(at_ms, job);
        }
        if self.shared.plant == Some(Plant::AckBeforeCommit) {
            return Commit::Committed;
        }
        let lost = |_| Commit::Unknown(StoreError::backend("committing", "the store is gone"));
        answer.await.unwrap_or_else(lost)
    }

    fn readiness(&self) -> Readiness {
        self.shared.inner.readiness()
    }

    fn grouping(&self) -> Grouping {
        self.shared.grouping
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.shared.breathe().await?;
        self.shared.inner.epoch().await
    }

    async fn close(&self) {}
}

struct NodeSnapshot {
    inner: Arc<dyn Snapshot>,
    shared: Arc<SharedStore>,
}

#[async_trait]
impl Snapshot for NodeSnapshot {
    fn version(&self) -> Version {
        self.inner.version()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.shared.breathe().await?;
        if self.shared.plant.is_some_and(|plant| plant.hides(key)) {
            return Ok(None);
        }
        self.inner.get(key).await
    }

    async fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.shared.breathe().await?;
        let mut values = self.inner.multi_get(keys).await?;
        if let Some(plant) = self.shared.plant {
            for (key, value) in keys.iter().zip(&mut values) {
                if plant.hides(key) {
                    *value = None;
                }
            }
        }
        Ok(values)
    }

    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
        direction: Direction,
    ) -> Result<ScanPage, StoreError> {
        self.shared.breathe().await?;
        if self.shared.plant.is_some_and(|plant| plant.hides(range.start())) {
            return Ok(ScanPage {
                entries: Vec::new(),
                next: None,
            });
        }
        self.inner.scan(range, limit, direction).await
    }
}
