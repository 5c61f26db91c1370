//! Who lost a place of late, by the device whose login took it. Pure: `now` is handed in.
//!
//! Whoever asked for that login may never have heard what it came to, and would find only itself when it comes again: so it is told once
//! more. To close a session twice is nothing; one that nobody closes gets no pushes and does not know.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use whimbrel_protocol::cluster::SessionRecord;

use crate::{RETOLD_FOR, RETOLD_LEN_MAX};

/// Devices for which something is remembered; beyond, the oldest is forgotten.
const DEVICES_MAX: usize = 16_384;

/// A user, and the device that logged in.
pub(crate) type By = ((String, u64), String);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Displaced {
    by: BTreeMap<By, Kept>,
    /// When each was to be forgotten as of then: one that lost more since is kept for longer.
    order: VecDeque<(Duration, By)>,
}

#[derive(Debug, Default)]
struct Kept {
    until: Duration,
    lost: VecDeque<SessionRecord>,
}

impl Displaced {
    /// This session has just lost its place to a login of `by`.
    pub(crate) fn remember(&mut self, now: Duration, by: &By, lost: SessionRecord) {
        let until = now.saturating_add(RETOLD_FOR);
        let kept = self.by.entry(by.clone()).or_default();
        kept.until = until;
        if kept.lost.len() == RETOLD_LEN_MAX {
            kept.lost.pop_front();
        }
        kept.lost.push_back(lost);
        self.order.push_back((until, by.clone()));
        if self.order.len() > DEVICES_MAX {
            self.forget_one();
        }
    }

    /// Who has lost a place to logins of `by` of late.
    pub(crate) fn of(&mut self, now: Duration, by: &By) -> impl Iterator<Item = &SessionRecord> {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_one();
        }
        self.by.get(by).into_iter().flat_map(|kept| &kept.lost)
    }

    fn forget_one(&mut self) {
        if let Some((until, by)) = self.order.pop_front()
            && self.by.get(&by).is_some_and(|kept| kept.until <= until)
        {
            self.by.remove(&by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::session;

    fn by(user: u64) -> By {
        (("demo".to_owned(), user), "phone".to_owned())
    }

    fn epochs(displaced: &mut Displaced, now_s: u64, user: u64) -> Vec<u64> {
        let now = Duration::from_secs(now_s);
        displaced
            .of(now, &by(user))
            .map(|lost| lost.login_epoch)
            .collect()
    }

    fn remember(displaced: &mut Displaced, now_s: u64, user: u64, epoch: u64) {
        let lost = session(("g1", 1), 1, user, "phone", epoch);
        displaced.remember(Duration::from_secs(now_s), &by(user), lost);
    }

    #[test]
    fn the_last_few_are_told_until_nobody_can_be_about_to_ask() {
        let mut displaced = Displaced::default();
        for epoch in 1..=6 {
            remember(&mut displaced, 10 + epoch, 7, epoch);
        }
        assert_eq!(epochs(&mut displaced, 17, 7), [3, 4, 5, 6]);
        assert_eq!(epochs(&mut displaced, 17, 8), []);
        assert_eq!(epochs(&mut displaced, 45, 7), [3, 4, 5, 6], "30 s after the last");
        assert_eq!(epochs(&mut displaced, 46, 7), []);
        assert!(displaced.by.is_empty() && displaced.order.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut displaced = Displaced::default();
        for user in 0..2 * DEVICES_MAX as u64 {
            remember(&mut displaced, 10, user, 1);
        }
        assert_eq!(
            (displaced.by.len(), displaced.order.len()),
            (DEVICES_MAX, DEVICES_MAX)
        );
    }
}
