//! The committer: many mutations, one commit.
//!
//! Each conversation has a lane; a few workers take groups of waiting mutations from many lanes, decide them, commit once,
//! and answer. While one group's commit is on its way to the disk, another of other conversations is decided; one that is
//! held up, by a lock that a dead node left say, holds up its own conversations and its worker, until the last of them is
//! settled. The other workers go on; as many such groups as there are workers hold up all. How many groups are in flight and how
//! many conversations each has at most is what the store advises ([`Grouping`]) or the configuration says; a group that is split
//! has up to [`SPLIT_AT_ONCE`] commits in flight in its worker's place. Two nodes that meet on one conversation conflict, read
//! again and stay correct: placement is speed, never safety.
//!
//! How a commit ends, and what follows:
//!
//! | the store says | the committer |
//! |---|---|
//! | committed | hands each conversation's part to the sink, then answers |
//! | conflict | reads and decides again; if it goes on, the group is split |
//! | unknown | looks for the group's marker at a new snapshot: there, it was committed; not there, decides again |
//! | refused | answers what the store said |
//!
//! A commit that ended unknown and arrives late conflicts with the new one, for both write the same keys after the older
//! snapshot. The conversations of a split group go on by themselves, side by side; a group is split as well where the read before
//! the commit fails, since it may be one conversation that cannot be read.
//!
//! An asker whose commit may have been carried out is never told that it was not.

mod attempts;
mod lanes;
mod life;
mod members_cache;
mod plan;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::sync::{Notify, oneshot, watch};
use tracing::{Level, Span};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{Incarnation, NodeId, Seq};
use whimbrel_store::{Grouping, Store};

use crate::committed::CommitSink;
use crate::env::{AgeClock, Env};
use crate::failure::Failure;
use crate::keys::ConversationKeys;
use crate::log::Deadline;
use crate::log::decision::{Actor, Answer, ReadPoint};
use crate::log::mutation::Mutation;
use attempts::Attempts;
use lanes::{Cost, Expired, Full, Lanes, QUEUED_JOBS_MAX};
use life::Life;
use members_cache::MembersCache;
use plan::{Plan, lock};

/// Conversations of a split group that are tried at once: beside one another, so that the one that made trouble holds up none,
/// and not all of the hundreds that a group may have.
const SPLIT_AT_ONCE: usize = 16;
/// The pause between looks at a store that does not say how a commit ended.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(50);

/// How a submitted mutation ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Answer(Answer),
    Failure(Failure),
    NeedsReadPoint(Seq),
}

/// A mutation on its way.
pub(super) struct Job {
    pub(super) actor: Actor,
    pub(super) mutation: Arc<Mutation>,
    pub(super) read_point: Option<ReadPoint>,
    deadline: Deadline,
    reply: oneshot::Sender<Outcome>,
    /// The request it is of: lines of the log about it stand under its trace id.
    span: Span,
}

impl Job {
    fn answer(self, outcome: Outcome) {
        // Whoever no longer listens asks again with the same id.
        drop(self.reply.send(outcome));
    }
}

/// One conversation's part of a group.
pub(super) struct LaneWork {
    pub(super) keys: ConversationKeys,
    pub(super) jobs: Vec<Job>,
}

/// The committer. Clones share it.
#[derive(Clone)]
pub(crate) struct Committer {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    env: Env,
    ages: AgeClock,
    life: Life,
    sink: Arc<dyn CommitSink>,
    lanes: Mutex<Lanes<Job>>,
    members: Mutex<MembersCache>,
    work: Notify,
    is_closing: AtomicBool,
    workers_alive: watch::Sender<usize>,
}

impl Committer {
    /// Writes this life of the node down, if the store takes writes, and starts the workers, one for each group in flight.
    pub(crate) async fn start(
        (store, grouping): (Arc<dyn Store>, Grouping),
        env: Env,
        node: &NodeId,
        owner: Incarnation,
        sink: Arc<dyn CommitSink>,
    ) -> Result<Self, Failure> {
        let workers = grouping.in_flight.max(1);
        let life = Life::new(node.clone(), owner);
        life.begin(&*store, &env).await?;
        let shared = Arc::new(Shared {
            store,
            ages: AgeClock::start(Arc::clone(&env.clock)),
            env,
            life,
            sink,
            lanes: Mutex::new(Lanes::new(grouping.unrelated_max)),
            members: Mutex::new(MembersCache::new()),
            work: Notify::new(),
            is_closing: AtomicBool::new(false),
            workers_alive: watch::Sender::new(workers),
        });
        for _ in 0..workers {
            let worker = Arc::clone(&shared);
            shared
                .env
                .spawner
                .spawn("committer", Box::pin(async move { worker.work().await }));
        }
        Ok(Self { shared })
    }

    /// Queues a mutation behind those of its conversation and waits for how it ends.
    pub(crate) async fn submit(
        &self,
        keys: ConversationKeys,
        (actor, mutation, read_point): (Actor, Arc<Mutation>, Option<ReadPoint>),
        deadline: Deadline,
    ) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let cost = Cost {
            ops: mutation.ops(),
            bytes: mutation.bytes(),
        };
        let job = Job {
            actor,
            mutation,
            read_point,
            deadline,
            reply,
            span: if tracing::enabled!(Level::DEBUG) {
                Span::current()
            } else {
                Span::none()
            },
        };
        let shared = &self.shared;
        let now = shared.env.clock.monotonic();
        let pushed = {
            let mut lanes = lock(&shared.lanes);
            // Under the lock: a worker that finds the lanes empty and the committer closing has seen the last job.
            if shared.is_closing.load(Ordering::Acquire) {
                return Outcome::Failure(closing());
            }
            lanes.push(&keys, job, cost, now, deadline.0)
        };
        match pushed {
            Ok(()) => shared.work.notify_one(),
            Err((_, full)) => return Outcome::Failure(overloaded(&keys, full)),
        }
        outcome
            .await
            .unwrap_or_else(|_| Outcome::Failure(undecided("the node stopped")))
    }

    /// Takes nothing more, finishes what is queued, and ends.
    pub(crate) async fn close(&self) {
        {
            let _lanes = lock(&self.shared.lanes);
            self.shared.is_closing.store(true, Ordering::Release);
        }
        self.shared.work.notify_waiters();
        self.shared.work.notify_one();
        let mut alive = self.shared.workers_alive.subscribe();
        // The sender lives in `shared`, which this holds.
        drop(alive.wait_for(|alive| *alive == 0).await);
    }

    /// How full the queues are, 0 to 1000.
    pub(crate) fn load_permille(&self) -> u32 {
        let queued = lock(&self.shared.lanes).queued_jobs();
        u32::try_from(queued * 1000 / QUEUED_JOBS_MAX).unwrap_or(1000)
    }
}

impl Shared {
    async fn work(&self) {
        loop {
            let (taken, is_closing, nothing_waits) = {
                let mut lanes = lock(&self.lanes);
                (
                    lanes.take(self.env.clock.monotonic()),
                    self.is_closing.load(Ordering::Acquire),
                    lanes.queued_jobs() == 0,
                )
            };
            for (job, expired) in taken.expired {
                job.answer(Outcome::Failure(too_late(expired)));
            }
            if taken.has_more {
                self.work.notify_one();
            }
            if taken.group.is_empty() {
                // What waits behind conversations that are still busy is taken once these are given back.
                if is_closing && nothing_waits {
                    break;
                }
                self.work.notified().await;
                continue;
            }
            let work = taken
                .group
                .into_iter()
                .map(|(keys, jobs)| LaneWork { keys, jobs })
                .collect();
            self.settle(work).await;
        }
        self.workers_alive.send_modify(|alive| *alive -= 1);
        // The next one that waits learns of the end too.
        self.work.notify_one();
    }

    /// Answers every job of a group, and gives each conversation back as soon as its own are.
    async fn settle(&self, work: Vec<LaneWork>) {
        let all: Vec<ConversationKeys> = work.iter().map(|lane| lane.keys.clone()).collect();
        let split = Attempts::new(self).run(work).await;
        let alone: HashSet<ConversationKeys> = split.iter().map(|lane| lane.keys.clone()).collect();
        self.release(all.iter().filter(|keys| !alone.contains(*keys)));
        let one = |lane: LaneWork| async move {
            let keys = lane.keys.clone();
            let rest = Attempts::new(self).run(vec![lane]).await;
            debug_assert!(rest.is_empty(), "one conversation is not split");
            self.release([&keys]);
        };
        stream::iter(split).for_each_concurrent(SPLIT_AT_ONCE, one).await;
    }

    /// What waits for these conversations may be taken, by any worker.
    fn release<'a>(&self, conversations: impl IntoIterator<Item = &'a ConversationKeys>) {
        let mut lanes = lock(&self.lanes);
        for keys in conversations {
            lanes.release(keys);
        }
        drop(lanes);
        self.work.notify_one();
    }
}

impl Shared {
    /// The plan is durable: the world first, then the askers.
    fn finish(&self, plan: Plan, work: Vec<LaneWork>) {
        if tracing::enabled!(Level::DEBUG) {
            tell(&plan, &work);
        }
        {
            let mut known = lock(&self.members);
            for (keys, info_version, members) in plan.rosters {
                known.keep(&keys, info_version, members);
            }
        }
        for committed in plan.committed {
            self.sink.committed(committed);
        }
        for (lane, outcomes) in work.into_iter().zip(plan.outcomes) {
            for (job, outcome) in lane.jobs.into_iter().zip(outcomes) {
                job.answer(outcome);
            }
        }
    }
}

/// Each mutation of a commit, under its request's trace id.
fn tell(plan: &Plan, work: &[LaneWork]) {
    for (lane, outcomes) in work.iter().zip(&plan.outcomes) {
        let conversation = lane.keys.conversation();
        for (job, outcome) in lane.jobs.iter().zip(outcomes) {
            let operation = job.mutation.operation();
            let span = &job.span;
            match outcome {
                Outcome::Answer(answer) => {
                    let seq = answer.seq();
                    tracing::debug!(parent: span, %conversation, ?operation, ?seq, "committed");
                }
                Outcome::Failure(failure) => {
                    let code = failure.code.number();
                    tracing::debug!(parent: span, %conversation, ?operation, code, "decided: refused");
                }
                Outcome::NeedsReadPoint(seq) => {
                    tracing::debug!(parent: span, %conversation, ?operation, ?seq, "decided: to be read first");
                }
            }
        }
    }
}

#[cfg(feature = "planted-faults")]
impl Shared {
    /// With [`Fault::AckBeforeCommit`](crate::planted::Fault::AckBeforeCommit): tells the askers what is only planned, and
    /// waits before it is committed.
    async fn acknowledge_early(&self, plan: &Plan, mut work: Vec<LaneWork>) -> Vec<LaneWork> {
        if !crate::planted::is(crate::planted::Fault::AckBeforeCommit) {
            return work;
        }
        for (lane, outcomes) in work.iter_mut().zip(&plan.outcomes) {
            for (job, outcome) in lane.jobs.iter_mut().zip(outcomes) {
                let told = std::mem::replace(&mut job.reply, oneshot::channel().0);
                drop(told.send(outcome.clone()));
            }
        }
        self.env.timers.sleep(crate::planted::COMMIT_LATE).await;
        work
    }
}

fn closing() -> Failure {
    Failure::later(
        Code::Unavailable,
        "this node is shutting down: the next attempt finds another",
        100,
    )
}

fn overloaded(keys: &ConversationKeys, full: Full) -> Failure {
    match full {
        Full::Lane => Failure::later(
            Code::Overloaded,
            format!(
                "too many operations wait for conversation {}: try again",
                keys.conversation()
            ),
            200,
        ),
        Full::Node => Failure::later(
            Code::Overloaded,
            "too many operations wait on this node: try again",
            500,
        ),
    }
}

fn too_late(expired: Expired) -> Failure {
    match expired {
        Expired::Deadline => Failure::new(
            Code::DeadlineExceeded,
            "the deadline passed before the operation was started",
        ),
        Expired::Wait => Failure::later(
            Code::Overloaded,
            "the operation waited 2 s and was not started: the node is too busy",
            500,
        ),
    }
}

fn undecided(why: &str) -> Failure {
    Failure::later(
        Code::DeadlineExceeded,
        format!(
            "whether the operation was carried out is not known yet ({why}): a retry with the same id tells"
        ),
        1_000,
    )
}
