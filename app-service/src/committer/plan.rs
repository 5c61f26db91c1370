//! What one group commit does: reads what its mutations look at, decides them in order, and writes the batch.
//!
//! All of it is of one snapshot, and every conversation's part starts from its head, which every change rewrites: a
//! change by another node in between makes the commit conflict.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use whimbrel_protocol::ids::{Incarnation, Rev, Seq, UserId};
use whimbrel_store::limits::MULTI_GET_MAX;
use whimbrel_store::{Batch, Direction, Snapshot};

use super::members_cache::MembersCache;
use super::{Job, LaneWork, Outcome};
use crate::committed::{Changed, Committed, Members};
use crate::failure::Failure;
use crate::keys::{Consumer, ConversationKeys, MarkerKey, MarkerSubject};
use crate::log::decision::{Ask, Refusal};
use crate::log::limits::{OPERATION_HORIZON_MS, OPERATION_SLACK_MS};
use crate::log::state::{ReadSet, State};
use crate::reads::{self, load_roster};
use crate::values::{ValueError, encode, storage};

/// Expired operations dropped with one commit of their conversation: enough to keep up with any rate of new ones, few enough
/// not to be felt.
const EXPIRED_DROPPED_MAX: usize = 64;

/// A group commit, ready.
pub(super) struct Plan {
    pub(super) commit_id: u64,
    pub(super) batch: Batch,
    /// In the order of the work: what each of its jobs is told once the batch is committed.
    pub(super) outcomes: Vec<Vec<Outcome>>,
    pub(super) committed: Vec<Committed>,
    /// Members to know from now on.
    pub(super) rosters: Vec<(ConversationKeys, u64, Arc<Members>)>,
}

/// What plans are made with.
pub(super) struct Planner<'a> {
    pub(super) snapshot: &'a dyn Snapshot,
    pub(super) owner: Incarnation,
    /// Random: this attempt's own.
    pub(super) commit_id: u64,
    pub(super) now_ms: u64,
    /// The same for what is thrown away: see [`AgeClock`](crate::env::AgeClock).
    pub(super) age_now_ms: u64,
    pub(super) members: &'a Mutex<MembersCache>,
}

impl Planner<'_> {
    /// Reads and decides `work`. A mutation or a conversation that fails does not spoil the others.
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub(super) async fn plan(&self, work: &[LaneWork]) -> Result<Plan, Failure> {
        let reads: Vec<ReadSet> = work.iter().map(read_set).collect();
        let values = self.read_all(work, &reads).await?;
        let mut plan = Plan {
            commit_id: self.commit_id,
            batch: Batch::at(self.snapshot),
            outcomes: Vec::with_capacity(work.len()),
            committed: Vec::new(),
            rosters: Vec::new(),
        };
        let mut rest = &values[..];
        for (lane, reads) in work.iter().zip(&reads) {
            let len = 1 + reads.members.len() + reads.operations.len() + reads.entries.len();
            let (own, others) = rest.split_at(len);
            rest = others;
            let outcomes = match State::load(reads, own) {
                Ok(state) => self.plan_lane(lane, state, &mut plan).await?,
                Err(error) => fail_all(lane, &error),
            };
            plan.outcomes.push(outcomes);
        }
        Ok(plan)
    }

    async fn read_all(&self, work: &[LaneWork], reads: &[ReadSet]) -> Result<Vec<Option<Bytes>>, Failure> {
        let keys: Vec<Bytes> = work
            .iter()
            .zip(reads)
            .flat_map(|(lane, reads)| reads.keys(&lane.keys))
            .collect();
        let mut values = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(MULTI_GET_MAX) {
            values.extend(self.snapshot.multi_get(chunk).await?);
        }
        Ok(values)
    }

    async fn plan_lane(
        &self,
        lane: &LaneWork,
        mut state: State,
        plan: &mut Plan,
    ) -> Result<Vec<Outcome>, Failure> {
        let outcomes = lane
            .jobs
            .iter()
            .map(|job| self.decide(lane, &mut state, job))
            .collect();
        match self.write_lane(&lane.keys, &mut state, plan).await? {
            Ok(()) => Ok(outcomes),
            Err(error) => Ok(fail_all(lane, &error)),
        }
    }

    fn decide(&self, lane: &LaneWork, state: &mut State, job: &Job) -> Outcome {
        let (decided, changes) = job.mutation.decide(&Ask {
            conversation: lane.keys.conversation(),
            state,
            actor: &job.actor,
            now_ms: self.now_ms,
            read_point: job.read_point,
        });
        state.apply(changes);
        match decided {
            Ok(answer) => Outcome::Answer(answer),
            Err(Refusal::Failure(failure) | Refusal::Standing(failure)) => Outcome::Failure(failure),
            Err(Refusal::NeedsReadPoint(seq)) => Outcome::NeedsReadPoint(seq),
        }
    }

    /// Adds one conversation's changes to the plan; on a damaged value, nothing of them.
    async fn write_lane(
        &self,
        keys: &ConversationKeys,
        state: &mut State,
        plan: &mut Plan,
    ) -> Result<Result<(), ValueError>, Failure> {
        let mut rosters = None;
        if state.written.for_everyone() {
            let before = self.roster_before(keys, state).await?;
            match Rosters::after(before, state) {
                Ok(after) => rosters = Some(after),
                Err(error) => return Ok(Err(error)),
            }
        }
        let followed = rosters.as_ref().map(|rosters| &*rosters.recipients);
        let readers = match self.readers(keys, state, followed) {
            Ok(readers) => readers,
            Err(error) => return Ok(Err(error)),
        };
        self.drop_expired(keys, state, &mut plan.batch).await?;
        put_state(&mut plan.batch, keys, state);
        if let Some(rosters) = rosters {
            let committed = self.for_everyone(keys, state, &rosters);
            let marker = storage::Marker {
                first_seq: state.first_new_seq().map_or(0, |seq| seq.0),
                time_ms: self.now_ms,
                removed_user_ids: rosters.removed.iter().map(|user| user.0).collect(),
                commit_id: self.commit_id,
            };
            plan.batch.put(committed.marker.encode(), encode(&marker));
            plan.rosters
                .push((keys.clone(), committed.info_version, rosters.members));
            plan.committed.push(committed);
        }
        for committed in readers {
            let marker = storage::Marker {
                time_ms: self.now_ms,
                commit_id: self.commit_id,
                ..Default::default()
            };
            plan.batch.put(committed.marker.encode(), encode(&marker));
            plan.committed.push(committed);
        }
        Ok(Ok(()))
    }

    /// The members as the snapshot has them.
    async fn roster_before(&self, keys: &ConversationKeys, state: &State) -> Result<Arc<Members>, Failure> {
        let Some(head) = &state.loaded_head else {
            return Ok(Arc::default());
        };
        let known = lock(self.members).find(keys, head.info_version);
        if let Some(members) = known {
            return Ok(members);
        }
        let members = Arc::new(load_roster(self.snapshot, keys, head).await?);
        // True of this snapshot whether the commit succeeds or not.
        lock(self.members).keep(keys, head.info_version, Arc::clone(&members));
        Ok(members)
    }

    fn for_everyone(&self, keys: &ConversationKeys, state: &State, rosters: &Rosters) -> Committed {
        let head = state.head.clone().unwrap_or_default();
        let (seq, rev) = (Seq(head.seq), Rev(head.rev));
        Committed {
            app: keys.app().clone(),
            conversation: keys.conversation(),
            entries: state.written_entries().map(|entry| entry.entry.clone()).collect(),
            head_seq: seq,
            head_rev: rev,
            info_version: head.info_version,
            changed: state.written.changed,
            recipients: Arc::clone(&rosters.recipients),
            marker: self.marker(keys, MarkerSubject::Everyone { seq, rev }),
            only_user: None,
        }
    }

    /// Who has read more and is not told by the way of all members.
    fn readers(
        &self,
        keys: &ConversationKeys,
        state: &State,
        followed: Option<&Members>,
    ) -> Result<Vec<Committed>, ValueError> {
        let head = state.head.clone().unwrap_or_default();
        let is_followed = |user: UserId| followed.is_some_and(|members| members.by_id(user).is_some());
        let readers = state.written.readers.iter().filter(|user| !is_followed(**user));
        readers
            .filter_map(|user| Some((*user, state.member(*user)?)))
            .map(|(user, member)| {
                let recipient = crate::committed::Recipient {
                    user,
                    uid: reads::stored_uid(&member.uid)?,
                    role: member.client_role(),
                    first_visible_seq: member.first_visible_seq(),
                    last_visible_seq: if member.current {
                        Seq(u64::MAX)
                    } else {
                        member.last_visible_seq(&head)
                    },
                };
                let read_seq = Seq(member.read_seq);
                Ok(Committed {
                    app: keys.app().clone(),
                    conversation: keys.conversation(),
                    entries: Vec::new(),
                    head_seq: Seq(head.seq),
                    head_rev: Rev(head.rev),
                    info_version: head.info_version,
                    changed: Changed {
                        read: true,
                        ..Changed::default()
                    },
                    recipients: Arc::new(Members {
                        list: vec![recipient],
                    }),
                    marker: self.marker(keys, MarkerSubject::OneUser { user, read_seq }),
                    only_user: Some(user),
                })
            })
            .collect()
    }

    fn marker(&self, keys: &ConversationKeys, subject: MarkerSubject) -> MarkerKey {
        MarkerKey {
            owner: self.owner,
            consumer: Consumer::Rows,
            app: keys.app().clone(),
            conversation: keys.conversation(),
            subject,
        }
    }

    /// Drops operations that nobody may ask about any more, a day's worth at a time. A commit that only remembers refusals does
    /// it too: in a conversation where nothing else happens they would pile up.
    async fn drop_expired(
        &self,
        keys: &ConversationKeys,
        state: &mut State,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let remembers = state.written.head || !state.written.operations.is_empty();
        let Some(head) = state.head.as_mut().filter(|_| remembers) else {
            return Ok(());
        };
        let horizon_ms = self.age_now_ms.saturating_sub(OPERATION_HORIZON_MS);
        let is_due =
            head.oldest_operation_ms != 0 && head.oldest_operation_ms + OPERATION_SLACK_MS < horizon_ms;
        if !is_due {
            return Ok(());
        }
        // Half the slack is left between what is dropped and what may still be asked about.
        let range = keys.operations_before(horizon_ms - OPERATION_SLACK_MS / 2);
        let page = self
            .snapshot
            .scan(range, EXPIRED_DROPPED_MAX, Direction::Forward)
            .await?;
        let last_ms = page
            .entries
            .last()
            .and_then(|(key, _)| ConversationKeys::operation_time_ms(key));
        head.oldest_operation_ms = match last_ms.filter(|_| page.has_more()) {
            Some(last_ms) => last_ms,
            None => horizon_ms - OPERATION_SLACK_MS / 2,
        };
        state.written.head = true;
        for (key, _) in page.entries {
            batch.delete(key);
        }
        Ok(())
    }
}

fn read_set(lane: &LaneWork) -> ReadSet {
    let mut reads = ReadSet::default();
    for job in &lane.jobs {
        job.mutation.reads(&job.actor, &mut reads);
    }
    reads
}

fn fail_all(lane: &LaneWork, error: &ValueError) -> Vec<Outcome> {
    let failure = Failure::from(error.clone());
    lane.jobs
        .iter()
        .map(|_| Outcome::Failure(failure.clone()))
        .collect()
}

fn put_state(batch: &mut Batch, keys: &ConversationKeys, state: &State) {
    let written = &state.written;
    if let Some(head) = state.head.as_ref().filter(|_| written.head) {
        if state.loaded_head.is_some() {
            batch.put(keys.head(), encode(head));
        } else {
            batch.insert(keys.head(), encode(head));
        }
    }
    for user in &written.members {
        if let Some(member) = state.member(*user) {
            batch.put(keys.member(*user), encode(member));
        }
    }
    for user in &written.roster {
        match state.member(*user).and_then(storage::Member::roster_item) {
            Some(item) => batch.put(keys.roster_item(*user), encode(&item)),
            None => batch.delete(keys.roster_item(*user)),
        };
    }
    for entry in state.written_entries() {
        batch.put(keys.entry(entry.seq()), entry.encode());
    }
    for (rev, seq) in &written.revs {
        match seq {
            Some(seq) => batch.put(keys.rev(*rev), encode(&storage::Changed { seq: seq.0 })),
            None => batch.delete(keys.rev(*rev)),
        };
    }
    for key in &written.operations {
        if let Some(operation) = state.operation(*key) {
            #[cfg(feature = "planted-faults")]
            if crate::planted::is(crate::planted::Fault::DedupOff) {
                batch.put(keys.operation(key.id, key.user), encode(operation));
                continue;
            }
            batch.insert(keys.operation(key.id, key.user), encode(operation));
        }
    }
}

/// Members around a commit.
struct Rosters {
    /// After it.
    members: Arc<Members>,
    /// Before or after it.
    recipients: Arc<Members>,
    /// Before, or for a moment within, and not after it.
    removed: Vec<UserId>,
}

impl Rosters {
    fn after(before: Arc<Members>, state: &State) -> Result<Self, ValueError> {
        let head = state.head.clone().unwrap_or_default();
        if !head.peers.is_empty() {
            let both = Arc::new(reads::direct_members(&head)?);
            return Ok(Self {
                members: Arc::clone(&both),
                recipients: both,
                removed: Vec::new(),
            });
        }
        if state.written.roster.is_empty() {
            return Ok(Self {
                members: Arc::clone(&before),
                recipients: before,
                removed: Vec::new(),
            });
        }
        let mut members: std::collections::BTreeMap<_, _> = before
            .list
            .iter()
            .map(|member| (member.user, member.clone()))
            .collect();
        let mut gone = Vec::new();
        for user in &state.written.roster {
            let Some(member) = state.member(*user) else {
                continue;
            };
            if let Some(item) = member.roster_item() {
                members.insert(*user, reads::recipient(*user, &item)?);
            } else {
                members.remove(user);
                gone.push(crate::committed::Recipient {
                    user: *user,
                    uid: reads::stored_uid(&member.uid)?,
                    role: member.client_role(),
                    first_visible_seq: Seq(member.visible.last().map_or(0, |interval| interval.from_seq)),
                    last_visible_seq: member.last_visible_seq(&head),
                });
            }
        }
        let members = Arc::new(Members {
            list: members.into_values().collect(),
        });
        if gone.is_empty() {
            return Ok(Self {
                members: Arc::clone(&members),
                recipients: members,
                removed: Vec::new(),
            });
        }
        let removed = gone.iter().map(|recipient| recipient.user).collect();
        let mut list = members.list.clone();
        list.extend(gone);
        list.sort_unstable_by_key(|recipient| recipient.user);
        Ok(Self {
            members,
            recipients: Arc::new(Members { list }),
            removed,
        })
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while holding these; and if it did, the process ends.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
