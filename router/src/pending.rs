//! What is out: which request went where, for whom, and until when. Pure.
//!
//! Askers choose ids that are unique on their own link only, so each request gets an id of the router's for its way to
//! the node. A retry takes a new one: an answer that comes late from the first node finds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use whimbrel_link::LinkId;
use whimbrel_protocol::cluster::{Envelope, Priority};
use whimbrel_protocol::ids::TraceId;

/// Permille of the table each priority may fill: refusing starts with what matters least.
const SHARES_PERMILLE: [usize; 5] = [1_000, 900, 800, 600, 500];

/// A request as its asker knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Who waits,
    pub(crate) by: LinkId,
    /// for the answer to which of its requests; 0: for none.
    pub(crate) id: u64,
    /// What its answer is said to be of, whatever the node that answers says.
    kind: i32,
    priority: i32,
    /// For the log.
    pub(crate) trace: TraceId,
}

impl Asked {
    pub(crate) fn of(by: LinkId, request: &Envelope) -> Self {
        Self {
            by,
            id: request.id,
            kind: request.kind,
            priority: request.priority,
            trace: TraceId(request.trace_id),
        }
    }

    /// The frame of its answer.
    pub(crate) fn answer(&self) -> Envelope {
        Envelope {
            id: self.id,
            response: true,
            kind: self.kind,
            priority: self.priority,
            ..Envelope::default()
        }
    }
}

/// One request that is out.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Who waits for the answer to what.
    pub(crate) asked: Asked,
    /// Who has it.
    pub(crate) target: LinkId,
    pub(crate) deadline_at: Duration,
    /// How long the target was given.
    pub(crate) given: Duration,
    /// The request as it came, while it may be sent to another node; `None` for the addressed and the retried.
    pub(crate) kept: Option<Box<Envelope>>,
}

/// All requests that are out, by the router's id.
#[derive(Debug)]
pub(crate) struct PendingTable {
    entries: BTreeMap<u64, Pending>,
    deadlines: BTreeSet<(Duration, u64)>,
    next_id: u64,
    len_max: usize,
}

impl PendingTable {
    pub(crate) fn new(len_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 1,
            len_max,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How full it is, permille.
    pub(crate) fn load_permille(&self) -> u32 {
        u32::try_from(self.entries.len() * 1_000 / self.len_max.max(1))
            .unwrap_or(1_000)
            .min(1_000)
    }

    /// Whether a request of this priority may come in.
    pub(crate) fn has_room(&self, priority: i32) -> bool {
        let least = SHARES_PERMILLE.len() - 1;
        let lane = usize::try_from(priority).unwrap_or(least).min(least);
        debug_assert_eq!(Priority::History as usize, least, "one share for each priority");
        self.entries.len() < (self.len_max * SHARES_PERMILLE[lane]).div_ceil(1_000)
    }

    /// An id that no other request or probe has.
    pub(crate) fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(crate) fn insert(&mut self, id: u64, pending: Pending) {
        self.deadlines.insert((pending.deadline_at, id));
        self.entries.insert(id, pending);
    }

    /// Takes out what was sent to `target` under `id`; an answer of anybody else takes nothing.
    pub(crate) fn remove_of(&mut self, id: u64, target: LinkId) -> Option<Pending> {
        if self.entries.get(&id)?.target != target {
            return None;
        }
        self.remove(id)
    }

    /// Takes out everything `target` has, oldest first.
    pub(crate) fn remove_all_of_target(&mut self, target: LinkId) -> Vec<Pending> {
        self.remove_where(|pending| pending.target == target)
    }

    /// Takes out everything `asker` waits for.
    pub(crate) fn remove_all_of_asker(&mut self, asker: LinkId) -> Vec<Pending> {
        self.remove_where(|pending| pending.asked.by == asker)
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes out one request whose time is up.
    pub(crate) fn pop_expired(&mut self, now: Duration) -> Option<Pending> {
        let (at, id) = self.deadlines.first().copied()?;
        if at > now {
            return None;
        }
        self.remove(id)
    }

    fn remove(&mut self, id: u64) -> Option<Pending> {
        let pending = self.entries.remove(&id)?;
        self.deadlines.remove(&(pending.deadline_at, id));
        Some(pending)
    }

    fn remove_where(&mut self, wanted: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let ids: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, pending)| wanted(pending))
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn pending(asker: u64, target: u64, deadline_s: u64) -> Pending {
        Pending {
            asked: Asked::of(
                LinkId(asker),
                &Envelope {
                    id: asker * 100,
                    ..Envelope::default()
                },
            ),
            target: LinkId(target),
            deadline_at: Duration::from_secs(deadline_s),
            given: Duration::from_secs(deadline_s),
            kept: None,
        }
    }

    fn table(entries: &[(u64, u64, u64)]) -> PendingTable {
        let mut table = PendingTable::new(10);
        for (asker, target, deadline_s) in entries {
            let id = table.new_id();
            table.insert(id, pending(*asker, *target, *deadline_s));
        }
        table
    }

    #[test]
    fn only_who_has_a_request_can_answer_it_and_only_once() {
        let mut table = table(&[(1, 7, 5)]);
        assert!(table.remove_of(1, LinkId(8)).is_none());
        assert_eq!(table.remove_of(1, LinkId(7)).unwrap().asked.id, 100);
        assert!(table.remove_of(1, LinkId(7)).is_none());
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn deadlines_come_in_order() {
        let mut table = table(&[(1, 7, 5), (2, 7, 3), (3, 7, 9)]);
        assert_eq!(table.next_deadline(), Some(Duration::from_secs(3)));
        let now = Duration::from_secs(5);
        assert_eq!(table.pop_expired(now).unwrap().asked.by, LinkId(2));
        assert_eq!(table.pop_expired(now).unwrap().asked.by, LinkId(1));
        assert!(table.pop_expired(now).is_none());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn all_of_a_target_or_asker_come_out_oldest_first() {
        let mut table = table(&[(1, 7, 5), (2, 8, 5), (3, 7, 4), (2, 7, 5)]);
        let out: Vec<_> = table
            .remove_all_of_target(LinkId(7))
            .iter()
            .map(|out| out.asked.by.0)
            .collect();
        assert_eq!(out, [1, 3, 2]);
        assert_eq!(table.remove_all_of_asker(LinkId(2)).len(), 1);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_matters_least_is_refused_first() {
        let mut table = table(&[(1, 7, 5); 5]);
        assert!(!table.has_room(Priority::History.into()) && table.has_room(Priority::Room.into()));
        for _ in 0..4 {
            let id = table.new_id();
            table.insert(id, pending(1, 7, 5));
        }
        assert!(!table.has_room(Priority::Direct.into()) && table.has_room(Priority::Control.into()));
        assert!(!table.has_room(-1));
        assert_eq!(table.load_permille(), 900);
    }
}
