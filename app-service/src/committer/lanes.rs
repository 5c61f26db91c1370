//! Lanes: a queue per conversation, and which of them go into the next group commit. Pure: jobs and the time come in, groups
//! go out.
//!
//! A conversation is in one group at a time, so what is decided for it is decided in order. Lanes that have waited longest
//! go first, a bounded part of each, so that a hot conversation delays others by one group at most. An idle lane is gone. How
//! many conversations a group has at most is the store's to say: what holds one of them up holds up its group.
//!
//! Order of calls: [`push`](Lanes::push) at any time; after a [`take`](Lanes::take), whoever settles the group gives every
//! conversation of it back by [`release`](Lanes::release).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::keys::ConversationKeys;

/// Mutations waiting in one lane: a second of a very busy group.
const LANE_JOBS_MAX: usize = 512;
/// Mutations waiting in all lanes: two seconds, the longest wait, at the rate a node reaches.
pub(super) const QUEUED_JOBS_MAX: usize = 32 * 1024;
/// Bytes waiting in all lanes.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Mutations of one conversation in one group.
const LANE_GROUP_JOBS_MAX: usize = 128;
/// Mutations in one group: beyond a few hundred, sharing an fsync gains nothing and waiting costs.
const GROUP_JOBS_MAX: usize = 512;
/// Keys written by one group, about: with the largest single mutation (a thousand) below the store's 16,384.
const GROUP_OPS_MAX: usize = 8 * 1024;
/// Bytes written by one group, about: with the largest single mutation far below the store's 8 MiB.
const GROUP_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A mutation that waits no longer than this; then its asker had better hear that the node is too busy.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(2);

/// How much a job takes of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) ops: usize,
    pub(super) bytes: usize,
}

/// Why a job cannot be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Its conversation's lane is full.
    Lane,
    /// All lanes together are.
    Node,
}

/// Why a queued job is not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// Its asker's deadline has passed.
    Deadline,
    /// It waited [`WAIT_MAX`].
    Wait,
}

/// What `take` gives.
#[derive(Debug)]
pub(super) struct Taken<J> {
    /// The next group, conversation by conversation, each in its order. Empty when nothing waits.
    pub(super) group: Vec<(ConversationKeys, Vec<J>)>,
    /// What is too late.
    pub(super) expired: Vec<(J, Expired)>,
    /// Whether more could be taken at once.
    pub(super) has_more: bool,
}

struct Queued<J> {
    job: J,
    cost: Cost,
    since: Duration,
    deadline: Duration,
}

struct Lane<J> {
    queue: VecDeque<Queued<J>>,
    is_busy: bool,
}

/// All lanes of a node.
pub(super) struct Lanes<J> {
    lanes: HashMap<ConversationKeys, Lane<J>>,
    /// Lanes with work that are not busy, the longest waiting first.
    ready: VecDeque<ConversationKeys>,
    queued_jobs: usize,
    queued_bytes: usize,
    /// Conversations in one group.
    group_conversations_max: usize,
}

impl<J> Lanes<J> {
    /// Groups have at most so many conversations, at least one.
    pub(super) fn new(group_conversations_max: usize) -> Self {
        Self {
            group_conversations_max: group_conversations_max.max(1),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            queued_jobs: 0,
            queued_bytes: 0,
        }
    }

    /// How many jobs wait.
    pub(super) fn queued_jobs(&self) -> usize {
        self.queued_jobs
    }

    /// Queues a job behind those of its conversation.
    ///
    /// # Errors
    /// The job, when a bound is reached.
    pub(super) fn push(
        &mut self,
        keys: &ConversationKeys,
        job: J,
        cost: Cost,
        now: Duration,
        deadline: Duration,
    ) -> Result<(), (J, Full)> {
        if self.queued_jobs >= QUEUED_JOBS_MAX || self.queued_bytes + cost.bytes > QUEUED_BYTES_MAX {
            return Err((job, Full::Node));
        }
        let lane = self.lanes.entry(keys.clone()).or_insert_with(|| Lane {
            queue: VecDeque::new(),
            is_busy: false,
        });
        if lane.queue.len() >= LANE_JOBS_MAX {
            return Err((job, Full::Lane));
        }
        if lane.queue.is_empty() && !lane.is_busy {
            self.ready.push_back(keys.clone());
        }
        lane.queue.push_back(Queued {
            job,
            cost,
            since: now,
            deadline,
        });
        self.queued_jobs += 1;
        self.queued_bytes += cost.bytes;
        Ok(())
    }

    /// The next group. Its conversations are busy until they are released.
    pub(super) fn take(&mut self, now: Duration) -> Taken<J> {
        let mut taken = Taken {
            group: Vec::new(),
            expired: Vec::new(),
            has_more: false,
        };
        let mut room = Room::new(self.group_conversations_max);
        while room.conversations > 0 && !room.is_full() {
            let Some(keys) = self.ready.pop_front() else { break };
            let lane = self
                .lanes
                .get_mut(&keys)
                .expect("a ready lane exists until it is taken");
            let mut jobs = Vec::new();
            while jobs.len() < LANE_GROUP_JOBS_MAX && !room.is_full() {
                let Some(queued) = lane.queue.pop_front() else {
                    break;
                };
                self.queued_jobs -= 1;
                self.queued_bytes -= queued.cost.bytes;
                if queued.deadline <= now {
                    taken.expired.push((queued.job, Expired::Deadline));
                } else if now.saturating_sub(queued.since) >= WAIT_MAX {
                    taken.expired.push((queued.job, Expired::Wait));
                } else {
                    room.fill(queued.cost);
                    jobs.push(queued.job);
                }
            }
            if !jobs.is_empty() {
                lane.is_busy = true;
                room.conversations -= 1;
                taken.group.push((keys, jobs));
            } else if lane.queue.is_empty() {
                self.lanes.remove(&keys);
            } else {
                self.ready.push_front(keys);
            }
        }
        taken.has_more = !self.ready.is_empty();
        taken
    }

    /// A conversation's part of a group is settled.
    pub(super) fn release(&mut self, keys: &ConversationKeys) {
        let Some(lane) = self.lanes.get_mut(keys) else {
            return;
        };
        lane.is_busy = false;
        if lane.queue.is_empty() {
            self.lanes.remove(keys);
        } else {
            self.ready.push_back(keys.clone());
        }
    }
}

/// What a group may still take.
struct Room {
    conversations: usize,
    jobs: usize,
    ops: usize,
    bytes: usize,
}

impl Room {
    fn new(conversations: usize) -> Self {
        Self {
            conversations,
            jobs: GROUP_JOBS_MAX,
            ops: GROUP_OPS_MAX,
            bytes: GROUP_BYTES_MAX,
        }
    }

    /// The last job may go over the bound, by its own size: the largest is far below the store's own bounds.
    fn fill(&mut self, cost: Cost) {
        self.jobs -= 1;
        self.ops = self.ops.saturating_sub(cost.ops);
        self.bytes = self.bytes.saturating_sub(cost.bytes);
    }

    /// Whether not one more job goes in.
    fn is_full(&self) -> bool {
        self.jobs == 0 || self.ops == 0 || self.bytes == 0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind};

    const NOW: Duration = Duration::from_secs(100);
    const LATER: Duration = Duration::from_secs(1_000);

    fn lane(n: u8) -> ConversationKeys {
        let id = ConversationId::from_parts(ConversationKind::Group, [n; 15]);
        ConversationKeys::new(&AppKey::new("demo").unwrap(), id)
    }

    fn push(lanes: &mut Lanes<u32>, n: u8, job: u32) {
        let cost = Cost { ops: 4, bytes: 100 };
        lanes.push(&lane(n), job, cost, NOW, LATER).unwrap();
    }

    #[test]
    fn a_group_takes_from_many_lanes_each_in_order() {
        let mut lanes = Lanes::new(usize::MAX);
        for (n, job) in [(1, 10), (2, 20), (1, 11), (2, 21)] {
            push(&mut lanes, n, job);
        }
        let taken = lanes.take(NOW);
        assert_eq!(taken.group, [(lane(1), vec![10, 11]), (lane(2), vec![20, 21])]);
        assert_eq!(lanes.queued_jobs(), 0);
    }

    #[test]
    fn a_busy_conversation_is_in_no_second_group() {
        let mut lanes = Lanes::new(usize::MAX);
        push(&mut lanes, 1, 10);
        let first = lanes.take(NOW);
        push(&mut lanes, 1, 11);
        push(&mut lanes, 2, 20);
        assert_eq!(lanes.take(NOW).group, [(lane(2), vec![20])]);
        lanes.release(&first.group[0].0);
        assert_eq!(lanes.take(NOW).group, [(lane(1), vec![11])]);
    }

    #[test]
    fn a_group_has_no_more_conversations_than_it_may_and_the_rest_is_the_next() {
        let mut lanes = Lanes::new(2);
        for (n, job) in [(1, 10), (2, 20), (3, 30), (1, 11), (4, 40), (5, 50)] {
            push(&mut lanes, n, job);
        }
        let first = lanes.take(NOW);
        assert_eq!(first.group, [(lane(1), vec![10, 11]), (lane(2), vec![20])]);
        assert!(first.has_more);
        push(&mut lanes, 1, 12);
        // Beside the first, which is stuck.
        let second = lanes.take(NOW);
        assert_eq!(second.group, [(lane(3), vec![30]), (lane(4), vec![40])]);
        assert!(second.has_more);
        let third = lanes.take(NOW);
        assert_eq!(third.group, [(lane(5), vec![50])]);
        assert!(!third.has_more);
        for (keys, _) in first.group {
            lanes.release(&keys);
        }
        assert_eq!(lanes.take(NOW).group, [(lane(1), vec![12])]);
    }

    #[test]
    fn what_is_too_late_takes_no_conversations_place() {
        let mut lanes = Lanes::new(1);
        let soon = NOW + Duration::from_millis(1);
        lanes.push(&lane(1), 10, Cost::default(), NOW, soon).unwrap();
        push(&mut lanes, 2, 20);
        let taken = lanes.take(soon);
        assert_eq!(taken.expired, [(10, Expired::Deadline)]);
        assert_eq!(taken.group, [(lane(2), vec![20])]);
    }

    #[test]
    fn idle_lanes_leave_nothing_behind() {
        let mut lanes = Lanes::new(usize::MAX);
        for n in 0..50 {
            push(&mut lanes, n, 1);
        }
        for (keys, _) in lanes.take(NOW).group {
            lanes.release(&keys);
        }
        assert!(lanes.lanes.is_empty() && lanes.ready.is_empty());
        assert_eq!(lanes.queued_bytes, 0);
    }

    #[test]
    fn what_is_too_late_is_not_started_and_frees_its_lane() {
        let mut lanes = Lanes::new(usize::MAX);
        let cost = Cost::default();
        lanes
            .push(&lane(1), 1, cost, NOW, NOW + Duration::from_millis(10))
            .unwrap();
        lanes.push(&lane(1), 2, cost, NOW, LATER).unwrap();
        let taken = lanes.take(NOW + WAIT_MAX);
        assert!(taken.group.is_empty());
        assert_eq!(taken.expired, [(1, Expired::Deadline), (2, Expired::Wait)]);
        assert!(lanes.lanes.is_empty());
        push(&mut lanes, 1, 3);
        assert_eq!(lanes.take(NOW).group, [(lane(1), vec![3])]);
    }

    #[test]
    fn a_hot_lane_is_bounded_and_lets_others_pass() {
        let mut lanes = Lanes::new(usize::MAX);
        for job in 0..u32::try_from(LANE_JOBS_MAX).unwrap() {
            push(&mut lanes, 1, job);
        }
        let refused = lanes.push(&lane(1), 9, Cost::default(), NOW, LATER);
        assert_eq!(refused, Err((9, Full::Lane)));
        push(&mut lanes, 2, 20);
        let taken = lanes.take(NOW);
        assert_eq!(taken.group[0].1.len(), LANE_GROUP_JOBS_MAX);
        assert_eq!(taken.group[1], (lane(2), vec![20]));
    }

    #[test]
    fn groups_are_bounded_in_keys_and_bytes() {
        for cost in [
            Cost {
                ops: GROUP_OPS_MAX / 2,
                bytes: 1,
            },
            Cost {
                ops: 1,
                bytes: GROUP_BYTES_MAX / 2,
            },
        ] {
            let mut lanes = Lanes::new(usize::MAX);
            for n in 0..5 {
                lanes.push(&lane(n), n, cost, NOW, LATER).unwrap();
            }
            let taken = lanes.take(NOW);
            assert_eq!(taken.group.len(), 2);
            assert!(taken.has_more);
        }
    }

    #[test]
    fn all_lanes_together_are_bounded_in_bytes() {
        let mut lanes = Lanes::new(usize::MAX);
        let cost = Cost {
            ops: 1,
            bytes: QUEUED_BYTES_MAX / 2,
        };
        lanes.push(&lane(1), 1, cost, NOW, LATER).unwrap();
        lanes.push(&lane(2), 2, cost, NOW, LATER).unwrap();
        assert_eq!(lanes.push(&lane(3), 3, cost, NOW, LATER), Err((3, Full::Node)));
        lanes.take(NOW);
        lanes.push(&lane(3), 3, cost, NOW, LATER).unwrap();
    }
}
