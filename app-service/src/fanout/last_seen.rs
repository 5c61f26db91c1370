//! Where users were when the registry last said so: the view that pushes go by while it cannot be reached. Pure.
//!
//! Never a cache: while the registry answers, its answer is taken. A view that is too old harms nobody, for a gateway compares
//! incarnation, slot, generation and user; whoever came since is found by the sync that gateways order once the registry is back.

use std::collections::BTreeMap;
use std::sync::Arc;

use whimbrel_protocol::cluster::SessionRecord;
use whimbrel_protocol::ids::{AppKey, UserId};

/// Users remembered with their sessions, in each of two halves: those whom a service node pushes to within minutes. Some 300 bytes a
/// session.
const USERS_PER_HALF: usize = 32_768;

pub(super) type User = (AppKey, UserId);

/// The users who were pushed to last. When the newer half is full it becomes the older one, which is forgotten.
#[derive(Debug, Default)]
pub(super) struct LastSeen {
    newer: BTreeMap<User, Vec<Arc<SessionRecord>>>,
    older: BTreeMap<User, Vec<Arc<SessionRecord>>>,
}

impl LastSeen {
    /// The registry says that a user has these sessions.
    pub(super) fn learn(&mut self, user: User, sessions: &[Arc<SessionRecord>]) {
        self.older.remove(&user);
        if sessions.is_empty() {
            self.newer.remove(&user);
            return;
        }
        if self.newer.len() >= USERS_PER_HALF && !self.newer.contains_key(&user) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(user, sessions.to_vec());
    }

    /// The sessions a user had.
    pub(super) fn of(&self, user: &User) -> Option<&[Arc<SessionRecord>]> {
        self.newer
            .get(user)
            .or_else(|| self.older.get(user))
            .map(Vec::as_slice)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn user(id: u64) -> User {
        (AppKey::new("demo").unwrap(), UserId(id))
    }

    #[test]
    fn the_last_word_counts_and_nobody_is_remembered_who_has_left() {
        let mut last_seen = LastSeen::default();
        let sessions = [1, 2].map(|_| Arc::new(SessionRecord::default()));
        last_seen.learn(user(1), &sessions);
        last_seen.learn(user(1), &sessions[..1]);
        assert_eq!(last_seen.of(&user(1)).unwrap().len(), 1);
        last_seen.learn(user(1), &[]);
        assert_eq!(last_seen.of(&user(1)), None);
    }

    #[test]
    fn those_pushed_to_last_are_remembered_within_the_bound() {
        let mut last_seen = LastSeen::default();
        let sessions = [Arc::new(SessionRecord::default())];
        let last = 3 * USERS_PER_HALF as u64;
        for id in 0..last {
            last_seen.learn(user(id), &sessions);
            // One that is pushed to again and again.
            last_seen.learn(user(0), &sessions);
        }
        assert!(last_seen.newer.len() + last_seen.older.len() <= 2 * USERS_PER_HALF);
        for id in [0, last - 1, last - USERS_PER_HALF as u64] {
            assert!(last_seen.of(&user(id)).is_some(), "{id}");
        }
        assert_eq!(last_seen.of(&user(1)), None);
    }
}
