//! The attempts at one group: what follows from how a commit ends.
//!
//! One group is with one [`Attempts`] until every job of it is answered, or it comes back to be split.

use std::time::Duration;

use whimbrel_protocol::code::Code;
use whimbrel_store::{Batch, Commit, Snapshot, StoreError};

use super::lanes::Expired;
use super::plan::{Plan, Planner};
use super::{Job, LaneWork, Outcome, Shared, UNKNOWN_PAUSE, too_late, undecided};
use crate::failure::Failure;
use crate::values::{decode, storage};

/// Attempts at a group before each of its conversations goes on alone.
const SPLIT_AFTER: u32 = 3;
/// Attempts before askers hear that their conversation is contended.
const ATTEMPTS_MAX: u32 = 20;
/// The first pause after a conflict; it doubles up to the longest.
const CONFLICT_PAUSE: Duration = Duration::from_micros(500);
/// The longest pause after a conflict.
const CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(50);
/// How long it is looked for how a commit ended: a store that reopens takes seconds. So long, too, those are tried again who may have been
/// heard already: whose deadline passes meanwhile cannot be told that nothing was done, and others wait behind them.
const UNKNOWN_WAIT_MAX: Duration = Duration::from_secs(10);

/// The attempts at one group.
pub(super) struct Attempts<'a> {
    shared: &'a Shared,
    attempt: u32,
    /// Set once a commit was answered with "unknown": since when, and why.
    unknown: Option<(Duration, StoreError)>,
}

/// What follows an attempt.
enum Next {
    /// All are answered.
    Done,
    /// Once more, after a pause.
    Again(Vec<LaneWork>, Duration),
    /// Each conversation by itself.
    Split(Vec<LaneWork>),
}

impl<'a> Attempts<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            attempt: 0,
            unknown: None,
        }
    }

    /// Until all are answered, or the group is better split.
    pub(super) async fn run(mut self, mut work: Vec<LaneWork>) -> Vec<LaneWork> {
        let mut unsettled = None;
        loop {
            if self.unknown.is_none() {
                work = self.drop_late(work);
            }
            if work.iter().all(|lane| lane.jobs.is_empty()) {
                return Vec::new();
            }
            self.attempt += 1;
            match self.once(work, &mut unsettled).await {
                Next::Done => return Vec::new(),
                Next::Split(work) => return work,
                Next::Again(again, pause) => {
                    work = again;
                    self.shared
                        .env
                        .timers
                        .sleep(self.shared.env.jittered(pause))
                        .await;
                }
            }
        }
    }

    /// One attempt. `unsettled` holds a plan of which it is unknown whether it was committed.
    async fn once(&mut self, work: Vec<LaneWork>, unsettled: &mut Option<Unsettled>) -> Next {
        let snapshot = match self.shared.store.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => return self.unreadable(work, &error.into()),
        };
        if let Some(earlier) = unsettled.take() {
            match earlier.is_committed(&*snapshot).await {
                Ok(true) => {
                    self.shared.finish(earlier.plan, work);
                    return Next::Done;
                }
                Ok(false) => {}
                Err(error) => {
                    *unsettled = Some(earlier);
                    return self.unreadable(work, &error);
                }
            }
        }
        let planner = Planner {
            snapshot: &*snapshot,
            owner: self.shared.life.incarnation(),
            commit_id: self.shared.env.entropy.random_u64(),
            now_ms: self.shared.env.clock.now_ms(),
            age_now_ms: self.shared.ages.now_ms(),
            members: &self.shared.members,
        };
        let mut plan = match planner.plan(&work).await {
            Ok(plan) => plan,
            Err(failure) => return self.unplanned(work, &failure),
        };
        if plan.batch.is_empty() {
            self.shared.finish(plan, work);
            return Next::Done;
        }
        if let Err(failure) = self
            .shared
            .life
            .ensure(&*self.shared.store, &self.shared.env)
            .await
        {
            return self.unreadable(work, &failure);
        }
        #[cfg(feature = "planted-faults")]
        let work = self.shared.acknowledge_early(&plan, work).await;
        let batch = std::mem::replace(&mut plan.batch, Batch::blind());
        let commit = self.shared.store.commit(batch).await;
        count(&commit, &work);
        if tracing::enabled!(tracing::Level::DEBUG) {
            tell(&commit, self.attempt, &work);
        }
        match commit {
            Commit::Committed => {
                self.shared.finish(plan, work);
                Next::Done
            }
            Commit::Conflict(keys) => self.conflicted(work, keys.len()),
            Commit::Unknown(error) => {
                tracing::warn!(%error, "a commit ended unknown: looking for its marker");
                *unsettled = Some(Unsettled { plan });
                self.wait_for_store(work, &Failure::from(error.clone()), error)
            }
            Commit::Refused(error) => self.refused(work, error),
        }
    }

    /// Those whose deadline has passed are told so: nothing of theirs was committed.
    fn drop_late(&self, work: Vec<LaneWork>) -> Vec<LaneWork> {
        let now = self.shared.env.clock.monotonic();
        let keep = |lane: LaneWork| {
            let (late, jobs): (Vec<Job>, Vec<Job>) =
                lane.jobs.into_iter().partition(|job| job.deadline.0 <= now);
            for job in late {
                job.answer(Outcome::Failure(too_late(Expired::Deadline)));
            }
            LaneWork {
                keys: lane.keys,
                jobs,
            }
        };
        work.into_iter()
            .map(keep)
            .filter(|lane| !lane.jobs.is_empty())
            .collect()
    }

    fn conflicted(&self, work: Vec<LaneWork>, conflicts: usize) -> Next {
        tracing::debug!(conflicts, attempt = self.attempt, "a commit conflicted");
        if self.attempt >= ATTEMPTS_MAX || self.has_waited() {
            let failure = Failure::later(
                Code::Overloaded,
                "this conversation is being written by another node, or one left it locked when it ended: try again",
                100,
            );
            return self.fail(work, &failure);
        }
        if self.attempt >= SPLIT_AFTER && work.len() > 1 && self.unknown.is_none() {
            return Next::Split(work);
        }
        let pause = CONFLICT_PAUSE.saturating_mul(1 << self.attempt.min(10));
        Next::Again(work, pause.min(CONFLICT_PAUSE_MAX))
    }

    fn refused(&self, work: Vec<LaneWork>, error: StoreError) -> Next {
        let is_too_large = matches!(
            error,
            StoreError::BatchTooManyOps { .. } | StoreError::BatchTooLarge { .. }
        );
        if is_too_large && work.len() > 1 && self.unknown.is_none() {
            return Next::Split(work);
        }
        self.fail(work, &error.into())
    }

    /// No plan could be made. If that is because of what one conversation holds, or it alone cannot be read, the others go on
    /// without it.
    fn unplanned(&mut self, work: Vec<LaneWork>, failure: &Failure) -> Next {
        let may_be_of_one = matches!(failure.code, Code::Internal | Code::Unavailable);
        if may_be_of_one && work.len() > 1 && self.unknown.is_none() {
            return Next::Split(work);
        }
        self.unreadable(work, failure)
    }

    /// The store cannot be read: at once the end, unless a commit of theirs may have been carried out.
    fn unreadable(&mut self, work: Vec<LaneWork>, failure: &Failure) -> Next {
        match self.unknown.clone() {
            None => self.fail(work, failure),
            Some((_, error)) => self.wait_for_store(work, failure, error),
        }
    }

    fn wait_for_store(&mut self, work: Vec<LaneWork>, failure: &Failure, error: StoreError) -> Next {
        let now = self.shared.env.clock.monotonic();
        self.unknown.get_or_insert((now, error));
        if self.has_waited() {
            return self.fail(work, failure);
        }
        Next::Again(work, UNKNOWN_PAUSE)
    }

    /// Whether a commit was unknown, and that so long ago that no more is tried.
    fn has_waited(&self) -> bool {
        let now = self.shared.env.clock.monotonic();
        let since = self.unknown.as_ref().map(|(since, _)| *since);
        since.is_some_and(|since| now.saturating_sub(since) >= UNKNOWN_WAIT_MAX)
    }

    fn fail(&self, work: Vec<LaneWork>, failure: &Failure) -> Next {
        let failure = match &self.unknown {
            None => failure.clone(),
            Some((_, error)) => {
                self.shared.sink.left_undecided();
                undecided(&error.to_string())
            }
        };
        for job in work.into_iter().flat_map(|lane| lane.jobs) {
            job.answer(Outcome::Failure(failure.clone()));
        }
        Next::Done
    }
}

/// Under the trace id of each mutation: how an attempt at a commit ended that did not commit.
fn tell(commit: &Commit, attempt: u32, work: &[LaneWork]) {
    let jobs = work.iter().flat_map(|lane| &lane.jobs);
    match commit {
        // Told with what became of each.
        Commit::Committed => {}
        Commit::Conflict(keys) => jobs.for_each(|job| {
            tracing::debug!(parent: &job.span, attempt, keys = keys.len(), "the commit conflicted");
        }),
        Commit::Unknown(error) => jobs.for_each(|job| {
            tracing::debug!(parent: &job.span, attempt, %error, "the commit ended unknown");
        }),
        Commit::Refused(error) => jobs.for_each(|job| {
            tracing::debug!(parent: &job.span, attempt, %error, "the store refused the commit");
        }),
    }
}

/// For the operator: how commits end, and how many mutations share one.
fn count(commit: &Commit, work: &[LaneWork]) {
    let end = match commit {
        Commit::Committed => "committed",
        Commit::Conflict(_) => "conflict",
        Commit::Unknown(_) => "unknown",
        Commit::Refused(_) => "refused",
    };
    metrics::counter!("whimbrel_commits_total", "end" => end).increment(1);
    let jobs: usize = work.iter().map(|lane| lane.jobs.len()).sum();
    metrics::histogram!("whimbrel_commit_mutations").record(u32::try_from(jobs).unwrap_or(u32::MAX));
}

/// A plan whose commit was answered with "unknown".
struct Unsettled {
    plan: Plan,
}

impl Unsettled {
    /// Whether it was committed before `snapshot`: its markers are this life's own. When the sweeper was first, and the marker is gone
    /// with the work it stood for, a new plan finds what its operations' records say, as a client's repeated request does. Plans without
    /// markers only create what a new plan will find.
    async fn is_committed(&self, snapshot: &dyn Snapshot) -> Result<bool, Failure> {
        let Some(committed) = self.plan.committed.first() else {
            return Ok(false);
        };
        let value = snapshot.get(&committed.marker.encode()).await?;
        let marker: Option<storage::Marker> = value.as_ref().map(decode).transpose()?;
        Ok(marker.is_some_and(|marker| marker.commit_id == self.plan.commit_id))
    }
}
