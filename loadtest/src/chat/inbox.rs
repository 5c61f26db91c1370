//! How far a device has come in its conversation: up to where it has everything, what came ahead, and when to pull.
//! Pure; docs/protocol.md, section 11, "Receiving".

use std::collections::BTreeSet;
use std::time::Duration;

use whimbrel_protocol::timing::SEQ_HOLE_WAIT_MS;

/// Before a pull that failed is tried again.
const PULL_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Everything up to here is there.
    have: u64,
    ahead: BTreeSet<u64>,
    /// The highest that is known to exist.
    head: u64,
    pull_at: Option<Duration>,
    pulling: bool,
}

impl Inbox {
    /// Of a device that has everything up to `have`.
    pub(crate) fn starting_at(have: u64) -> Self {
        Self {
            have,
            head: have,
            ..Self::default()
        }
    }

    pub(crate) const fn have(&self) -> u64 {
        self.have
    }

    /// Takes an entry in: whether it is new.
    pub(crate) fn take(&mut self, seq: u64, now: Duration) -> bool {
        if seq <= self.have || !self.ahead.insert(seq) {
            return false;
        }
        self.head = self.head.max(seq);
        self.advance();
        if self.ahead.is_empty() {
            if self.head <= self.have {
                self.pull_at = None;
            }
        } else {
            // The one before it is perhaps under way on another path.
            let wait = now.saturating_add(Duration::from_millis(SEQ_HOLE_WAIT_MS));
            self.pull_at.get_or_insert(wait);
        }
        true
    }

    /// A row says that the conversation goes up to `head`: what is missing has perhaps been pushed while nobody was there.
    pub(crate) fn learn_head(&mut self, head: u64, at_once: bool, now: Duration) {
        self.head = self.head.max(head);
        if self.have < self.head {
            let wait = Duration::from_millis(if at_once { 0 } else { SEQ_HOLE_WAIT_MS });
            let at = now.saturating_add(wait);
            self.pull_at = Some(self.pull_at.map_or(at, |before| before.min(at)));
        }
    }

    /// From where to pull, if it is time.
    pub(crate) fn begin_pull(&mut self, now: Duration) -> Option<u64> {
        if self.pulling || self.pull_at.is_none_or(|at| now < at) {
            return None;
        }
        self.pull_at = None;
        if self.have >= self.head {
            return None;
        }
        self.pulling = true;
        Some(self.have.saturating_add(1))
    }

    /// A page has come, whose entries were taken in already: nothing else is visible up to `through`.
    pub(crate) fn pulled(&mut self, through: u64, head: u64, now: Duration) {
        self.pulling = false;
        self.have = self.have.max(through);
        self.head = self.head.max(head);
        self.ahead = self.ahead.split_off(&self.have.saturating_add(1));
        self.advance();
        self.pull_at = (self.have < self.head).then_some(now);
    }

    /// No page came.
    pub(crate) fn pull_failed(&mut self, now: Duration) {
        self.pulling = false;
        self.pull_at = Some(now.saturating_add(PULL_AGAIN_AFTER));
    }

    /// The connection ended: the sync that follows the next one tells how far to go.
    pub(crate) fn lost(&mut self) {
        self.pulling = false;
        self.pull_at = None;
    }

    pub(crate) const fn due(&self) -> Option<Duration> {
        if self.pulling { None } else { self.pull_at }
    }

    fn advance(&mut self) {
        while self.ahead.first() == Some(&self.have.saturating_add(1)) {
            self.ahead.pop_first();
            self.have = self.have.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn entries_are_new_once_and_in_any_order() {
        let mut inbox = Inbox::starting_at(10);
        assert!(!inbox.take(10, ms(0)));
        assert!(inbox.take(12, ms(0)));
        assert!(!inbox.take(12, ms(0)));
        assert!(inbox.take(11, ms(0)));
        assert!(!inbox.take(12, ms(0)));
        assert_eq!(inbox.have(), 12);
        assert_eq!(inbox.due(), None, "the hole closed by itself");
    }

    #[test]
    fn a_hole_is_pulled_after_its_wait() {
        let mut inbox = Inbox::starting_at(0);
        inbox.take(3, ms(100));
        assert_eq!(inbox.begin_pull(ms(399)), None);
        assert_eq!(inbox.begin_pull(ms(400)), Some(1));
        assert_eq!(inbox.begin_pull(ms(900)), None, "one pull at a time");
        assert!(inbox.take(1, ms(901)));
        // Entry 2 is not this user's to see.
        inbox.pulled(3, 3, ms(901));
        assert_eq!((inbox.have(), inbox.due()), (3, None));
    }

    #[test]
    fn pages_follow_one_another_up_to_the_head() {
        let mut inbox = Inbox::starting_at(0);
        inbox.learn_head(5, true, ms(0));
        assert_eq!(inbox.begin_pull(ms(0)), Some(1));
        inbox.pulled(2, 5, ms(1));
        assert_eq!(inbox.begin_pull(ms(1)), Some(3));
        inbox.pull_failed(ms(2));
        assert_eq!(inbox.begin_pull(ms(400)), None);
        assert_eq!(inbox.begin_pull(ms(502)), Some(3));
        inbox.pulled(5, 5, ms(503));
        assert_eq!(inbox.due(), None);
    }

    #[test]
    fn a_head_that_pushes_bring_meanwhile_is_not_pulled() {
        let mut inbox = Inbox::starting_at(0);
        inbox.learn_head(1, false, ms(0));
        inbox.take(1, ms(5));
        assert_eq!(inbox.due(), None);
        assert_eq!(inbox.begin_pull(ms(1_000)), None);
    }
}
