//! Whose sessions are where, within one reactor.
//!
//! A reactor owns whole user buckets, so all of a user's sessions on this gateway are here, and nobody else ever looks.

use std::collections::HashMap;

use super::slots::Place;

/// Sessions of one user on this gateway. The registry's bound is of the same size; this one holds without it.
pub(crate) const SESSIONS_PER_USER_MAX: usize = 32;

/// How to reach a session of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// In a slot of this reactor.
    Local(Place),
}

/// Nearly every user has one session here, and needs no list.
#[derive(Debug)]
enum Sessions {
    One(Session),
    #[expect(
        clippy::box_collection,
        reason = "one word instead of three in nearly every entry"
    )]
    Many(Box<Vec<Session>>),
}

/// A user: the app's number in this reactor, and the user's id in the app.
type UserKey = (u32, u64);

/// The users of this reactor's buckets.
#[derive(Debug, Default)]
pub(crate) struct Users {
    apps: HashMap<Box<str>, u32>,
    sessions: HashMap<UserKey, Sessions>,
}

impl Users {
    /// Adds a session. Gives the user's oldest one back when there are now too many.
    pub(crate) fn insert(&mut self, app: &str, user_id: u64, session: Session) -> Option<Session> {
        let app = match self.apps.get(app) {
            Some(app) => *app,
            // Only apps whose tokens were judged good come here, so there are as many as customers.
            None => {
                let number = u32::try_from(self.apps.len()).expect("fewer customers than 2^32");
                self.apps.insert(app.into(), number);
                number
            }
        };
        let Some(sessions) = self.sessions.get_mut(&(app, user_id)) else {
            self.sessions.insert((app, user_id), Sessions::One(session));
            return None;
        };
        match sessions {
            Sessions::One(first) => {
                *sessions = Sessions::Many(Box::new(vec![*first, session]));
                None
            }
            Sessions::Many(list) => {
                list.push(session);
                (list.len() > SESSIONS_PER_USER_MAX).then(|| list.remove(0))
            }
        }
    }

    /// Forgets a session.
    pub(crate) fn remove(&mut self, app: &str, user_id: u64, session: Session) {
        let Some(app) = self.apps.get(app) else { return };
        let key = (*app, user_id);
        let emptied = match self.sessions.get_mut(&key) {
            None => false,
            Some(Sessions::One(only)) => *only == session,
            Some(Sessions::Many(list)) => {
                list.retain(|other| *other != session);
                list.is_empty()
            }
        };
        if emptied {
            self.sessions.remove(&key);
        }
    }

    /// Users with a session here.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.sessions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(slot: u32) -> Session {
        Session::Local(Place { slot, generation: 1 })
    }

    #[test]
    fn a_user_with_too_many_sessions_loses_the_oldest() {
        let mut users = Users::default();
        for slot in 0..32 {
            assert_eq!(users.insert("demo", 7, session(slot)), None);
        }
        assert_eq!(users.insert("demo", 7, session(99)), Some(session(0)));
        assert_eq!(
            users.insert("other", 7, session(1)),
            None,
            "another app's user of the same id"
        );
    }

    #[test]
    fn nothing_is_kept_of_users_who_left() {
        let mut users = Users::default();
        (0..3).for_each(|slot| {
            users.insert("demo", 7, session(slot));
        });
        users.insert("demo", 8, session(9));
        users.remove("demo", 8, session(5));
        assert_eq!(users.len(), 2, "another session of the user is not this one");
        (0..3).for_each(|slot| users.remove("demo", 7, session(slot)));
        users.remove("demo", 8, session(9));
        assert_eq!(users.len(), 0);
    }
}
