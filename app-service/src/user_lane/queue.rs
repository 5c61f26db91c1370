//! What waits in one user lane: each (user, conversation) once, in the order of their first arrival.
//!
//! Pure but for its lock and its wake-up; the bound is handed in. Work for a row that waits already joins it, so a burst
//! of a hundred messages to one conversation rewrites each member's row once or twice.
//!
//! A row that was given up after a commit of unknown outcome may be up to date and its user untold. Whoever looks at it
//! next finds nothing to do, so the queue remembers such rows: their next work tells in any case.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use whimbrel_protocol::ids::{AppKey, ConversationId, UserId};

use crate::ticket::Ticket;

/// One row of somebody's conversation list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// The app.
    pub app: AppKey,
    /// Whose list.
    pub user: UserId,
    /// The row's conversation.
    pub conversation: ConversationId,
}

/// Whether a user is told of a row that turns out to be up to date already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tell {
    /// No: whoever brought it up to date has told them.
    #[default]
    IfChanged,
    /// Yes: that one may have died before telling.
    Always,
}

/// A row to bring up to date.
#[derive(Debug)]
pub(super) struct RowWork {
    /// Which.
    pub(super) key: RowKey,
    /// Whether to tell its user in any case.
    pub(super) tell: Tell,
    /// Those who wait for it to be durable.
    pub(super) tickets: Vec<Ticket>,
}

#[derive(Default)]
struct Waiting {
    order: VecDeque<RowKey>,
    // Only ever looked into by key: its order is never seen.
    work: HashMap<RowKey, (Tell, Vec<Ticket>)>,
    // The same. None of them waits.
    doubted: HashSet<RowKey>,
    closed: bool,
}

/// The queue of one lane.
pub(super) struct LaneQueue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    rows_max: usize,
}

impl LaneQueue {
    /// An empty queue of at most `rows_max` rows.
    #[must_use]
    pub(super) fn new(rows_max: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting::default()),
            wake: Notify::new(),
            rows_max,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds work; drops the ticket when the queue is full or closed.
    pub(super) fn submit(&self, key: RowKey, tell: Tell, ticket: Ticket) {
        // Dropped only after the lock is: the end of a job may come back here.
        let refused = {
            let mut waiting = self.waiting();
            let full = waiting.closed || waiting.order.len() >= self.rows_max;
            match waiting.work.get_mut(&key) {
                Some((known, tickets)) => {
                    *known = (*known).max(tell);
                    tickets.push(ticket);
                    None
                }
                None if full => Some(ticket),
                None => {
                    let doubted = waiting.doubted.remove(&key);
                    let tell = if doubted { Tell::Always } else { tell };
                    waiting.order.push_back(key.clone());
                    waiting.work.insert(key, (tell, vec![ticket]));
                    None
                }
            }
        };
        match refused {
            None => self.wake.notify_one(),
            Some(ticket) => {
                metrics::counter!("whimbrel_rows_refused_total").increment(1);
                drop(ticket);
            }
        }
    }

    /// Whether these rows' users were told is unknown: the next work for each tells them, also if it waits already.
    ///
    /// As many are remembered as may wait. Of the rest the marker's next look tells, or the client's next sync.
    pub(super) fn doubt(&self, rows: impl IntoIterator<Item = RowKey>) {
        let mut waiting = self.waiting();
        for key in rows {
            if let Some((tell, _)) = waiting.work.get_mut(&key) {
                *tell = Tell::Always;
            } else if waiting.doubted.len() < self.rows_max {
                waiting.doubted.insert(key);
            }
        }
    }

    /// Up to `rows_max` rows, oldest first; waits for one. `None` once closed and empty.
    pub(super) async fn take(&self, rows_max: usize) -> Option<Vec<RowWork>> {
        loop {
            {
                let mut waiting = self.waiting();
                let take = waiting.order.len().min(rows_max);
                if take > 0 {
                    let keys: Vec<RowKey> = waiting.order.drain(..take).collect();
                    let taken = keys.into_iter().filter_map(|key| {
                        let (tell, tickets) = waiting.work.remove(&key)?;
                        Some(RowWork { key, tell, tickets })
                    });
                    return Some(taken.collect());
                }
                if waiting.closed {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Takes no more; what waits is still given out.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.wake.notify_one();
    }

    /// Rows waiting.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.waiting().order.len()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::ticket::Outcome;
    use whimbrel_protocol::ids::ConversationKind;

    fn key(user: u64) -> RowKey {
        RowKey {
            app: AppKey::new("demo").unwrap(),
            user: UserId(user),
            conversation: ConversationId::from_parts(ConversationKind::Group, [1; 15]),
        }
    }

    fn tickets(count: usize) -> (Vec<Ticket>, Arc<AtomicUsize>) {
        let lost = Arc::new(AtomicUsize::new(0));
        let issue = |_| {
            let lost = Arc::clone(&lost);
            let end = move |outcome| {
                lost.fetch_add(usize::from(outcome == Outcome::Lost), Ordering::Relaxed);
            };
            Ticket::issue(1, end).next().unwrap()
        };
        ((0..count).map(issue).collect(), Arc::clone(&lost))
    }

    #[tokio::test]
    async fn work_for_one_row_joins_and_keeps_its_place() {
        let queue = LaneQueue::new(10);
        let (mut tickets, lost) = tickets(3);
        queue.submit(key(1), Tell::IfChanged, tickets.pop().unwrap());
        queue.submit(key(2), Tell::IfChanged, tickets.pop().unwrap());
        queue.submit(key(1), Tell::Always, tickets.pop().unwrap());
        let taken = queue.take(10).await.unwrap();
        let seen: Vec<_> = taken
            .iter()
            .map(|work| (work.key.user.0, work.tell, work.tickets.len()))
            .collect();
        assert_eq!(seen, [(1, Tell::Always, 2), (2, Tell::IfChanged, 1)]);
        drop(taken);
        assert_eq!(lost.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn the_next_work_for_a_doubted_row_tells_whether_it_waits_or_is_yet_to_come() {
        let queue = LaneQueue::new(2);
        let (mut tickets, _) = tickets(5);
        let mut submit = |user| queue.submit(key(user), Tell::IfChanged, tickets.pop().unwrap());
        submit(1);
        // The fourth finds no room.
        queue.doubt([1, 2, 3, 4].map(key));
        submit(2);
        let tells = |work: Vec<RowWork>| work.iter().map(|work| work.tell).collect::<Vec<_>>();
        assert_eq!(tells(queue.take(10).await.unwrap()), [Tell::Always; 2]);
        submit(2);
        submit(4);
        assert_eq!(tells(queue.take(10).await.unwrap()), [Tell::IfChanged; 2]);
        submit(3);
        assert_eq!(tells(queue.take(10).await.unwrap()), [Tell::Always]);
    }

    #[tokio::test]
    async fn a_full_queue_loses_new_rows_but_takes_more_for_those_it_has() {
        let queue = LaneQueue::new(1);
        let (mut tickets, lost) = tickets(3);
        queue.submit(key(1), Tell::IfChanged, tickets.pop().unwrap());
        queue.submit(key(2), Tell::IfChanged, tickets.pop().unwrap());
        assert_eq!(lost.load(Ordering::Relaxed), 1);
        queue.submit(key(1), Tell::IfChanged, tickets.pop().unwrap());
        assert_eq!((lost.load(Ordering::Relaxed), queue.len()), (1, 1));
    }

    #[tokio::test]
    async fn a_closed_queue_gives_out_what_waits_and_then_ends() {
        let queue = LaneQueue::new(10);
        let (mut tickets, lost) = tickets(2);
        queue.submit(key(1), Tell::IfChanged, tickets.pop().unwrap());
        queue.close();
        queue.submit(key(2), Tell::IfChanged, tickets.pop().unwrap());
        assert_eq!(lost.load(Ordering::Relaxed), 1);
        assert_eq!(queue.take(10).await.unwrap().len(), 1);
        assert!(queue.take(10).await.is_none());
    }
}
