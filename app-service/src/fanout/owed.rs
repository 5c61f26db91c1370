//! Users who were not told of something, since there was no room or no way: they are asked to sync once there is. Pure.
//!
//! One word stands for all that a user missed, so what is kept does not grow with what is dropped.

use std::collections::BTreeSet;

use super::last_seen::User;

/// Users that are owed a word at most, some 60 bytes each. Beyond, a user's next sync of their own makes up for it: a
/// node that owes so many at once has been cut off from everything, and its clients as a rule with it.
const USERS_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Owed(BTreeSet<User>);

impl Owed {
    /// Notes one. Says whether there was room.
    pub(super) fn add(&mut self, user: User) -> bool {
        let has_room = self.0.len() < USERS_MAX || self.0.contains(&user);
        if has_room {
            self.0.insert(user);
        }
        has_room
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes up to `count` users of one app, beginning behind `after`, so that those for whom it goes on failing keep nobody
    /// waiting.
    pub(super) fn take(&mut self, after: Option<&User>, count: usize) -> Vec<User> {
        use std::ops::Bound::{Excluded, Unbounded};
        let behind = after.and_then(|after| self.0.range((Excluded(after), Unbounded)).next());
        let Some(first) = behind.or_else(|| self.0.first()).cloned() else {
            return Vec::new();
        };
        let same_app = self.0.range(&first..).take_while(|(app, _)| *app == first.0);
        let taken: Vec<User> = same_app.take(count).cloned().collect();
        for user in &taken {
            self.0.remove(user);
        }
        taken
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::ids::{AppKey, UserId};

    use super::*;

    fn user(app: &str, id: u64) -> User {
        (AppKey::new(app).unwrap(), UserId(id))
    }

    #[test]
    fn each_is_told_once_in_turn_and_one_app_at_a_time() {
        let mut owed = Owed::default();
        for (app, id) in [("a", 1), ("b", 7), ("a", 2), ("a", 1), ("a", 3)] {
            assert!(owed.add(user(app, id)));
        }
        let first = owed.take(None, 2);
        assert_eq!(first, [user("a", 1), user("a", 2)]);
        // Those two failed, and come again after the others.
        first.iter().for_each(|user| assert!(owed.add(user.clone())));
        assert_eq!(owed.take(first.last(), 2), [user("a", 3)]);
        assert_eq!(owed.take(Some(&user("a", 3)), 2), [user("b", 7)]);
        assert_eq!(owed.take(Some(&user("b", 7)), 9), first);
        assert!(owed.is_empty() && owed.take(None, 9).is_empty());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut owed = Owed::default();
        assert!((0..USERS_MAX as u64).all(|id| owed.add(user("a", id))));
        assert!(!owed.add(user("a", USERS_MAX as u64)));
        assert!(owed.add(user("a", 5)), "one that is owed already");
    }
}
