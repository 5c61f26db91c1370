//! The conversation list's way to the server's: when to sync, and which notices continue from where we are.
//!
//! A notice says "from cursor a to cursor b, these rows". One that begins at our cursor is applied; any other is held
//! for a moment, as notices may overtake each other, and then a sync settles it. While a sync is on its way all are
//! held: its answer may be older than they are, and the cursor must not go back.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use whimbrel_protocol::client::NoticePush;
use whimbrel_protocol::timing::SEQ_HOLE_WAIT_MS;

use super::pause::Pause;

/// Notices held out of order; beyond it a sync is cheaper than remembering.
const HELD_MAX: usize = 64;

/// The state of the conversation list. The cursor is kept on disk with the rows.
#[derive(Debug)]
pub(crate) struct ListSync {
    cursor: Bytes,
    held: VecDeque<NoticePush>,
    /// When to sync with cause.
    wanted_at: Option<Duration>,
    asking: bool,
    pause: Pause,
    /// Between syncs without cause.
    interval: Duration,
    /// When the last sync ended, and what spreads the next one without cause.
    synced: Option<(Duration, f64)>,
}

impl ListSync {
    /// From the cursor that was kept; empty on a new device.
    pub(crate) fn new(cursor: Bytes, interval: Duration) -> Self {
        Self {
            cursor,
            held: VecDeque::new(),
            wanted_at: None,
            asking: false,
            pause: Pause::default(),
            interval,
            synced: None,
        }
    }

    /// Syncs without cause are this far apart from now on, that which is next included.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// When to sync next, with cause or without.
    fn next_at(&self) -> Option<Duration> {
        let without_cause = self
            .synced
            .map(|(at, jitter)| at.saturating_add(self.interval.mul_f64(0.75 + 0.5 * jitter)));
        self.wanted_at.into_iter().chain(without_cause).min()
    }

    pub(crate) fn cursor(&self) -> &Bytes {
        &self.cursor
    }

    /// Whether a sync is on its way.
    pub(crate) fn is_asking(&self) -> bool {
        self.asking
    }

    /// Whether nothing is on its way or wanted that would change the list.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.is_some() && !self.asking && self.wanted_at.is_none() && self.held.is_empty()
    }

    /// Syncs at `at`, or earlier when that was wanted already.
    pub(crate) fn want_at(&mut self, at: Duration) {
        self.wanted_at = Some(self.wanted_at.map_or(at, |before| before.min(at)));
    }

    /// Syncs as soon as possible, whatever failed before.
    pub(crate) fn want_now(&mut self, now: Duration) {
        self.pause.cut_short();
        self.want_at(now);
    }

    /// Something else was answered: a pause that runs is shortened.
    pub(crate) fn hasten(&mut self, now: Duration, jitter: f64) {
        self.pause.hasten(now, jitter);
    }

    /// Takes in a notice; gives those whose rows are to be applied now, in order. The cursor has moved past them.
    pub(crate) fn handle_notice(&mut self, notice: NoticePush, now: Duration) -> Vec<NoticePush> {
        if notice.to_cursor == self.cursor {
            return Vec::new();
        }
        self.held.push_back(notice);
        if self.held.len() > HELD_MAX {
            self.held.pop_front();
        }
        if self.asking {
            return Vec::new();
        }
        let applied = self.take_chain();
        if !self.held.is_empty() {
            self.want_at(now.saturating_add(Duration::from_millis(SEQ_HOLE_WAIT_MS)));
        }
        applied
    }

    /// Whether to sync now; it counts as asked.
    pub(crate) fn poll_want(&mut self, now: Duration) -> bool {
        let wanted = self.next_at().is_some_and(|at| at <= now) && !self.asking && self.pause.is_over(now);
        if wanted {
            self.asking = true;
            self.wanted_at = None;
        }
        wanted
    }

    /// When [`ListSync::poll_want`] may next say yes.
    pub(crate) fn due(&self) -> Option<Duration> {
        let at = self.next_at().filter(|_| !self.asking)?;
        Some(at.max(self.pause.until()))
    }

    /// Takes in where a page of a sync has brought us; gives the notices that go on from there. `jitter` is a random
    /// number from 0 up to 1 and spreads the next sync without cause.
    pub(crate) fn handle_synced(
        &mut self,
        cursor: Bytes,
        more: bool,
        now: Duration,
        jitter: f64,
    ) -> Vec<NoticePush> {
        self.asking = false;
        self.pause.succeed();
        self.cursor = cursor;
        if more {
            self.wanted_at = Some(now);
            return Vec::new();
        }
        self.drop_known();
        let applied = self.take_chain();
        if !self.held.is_empty() {
            // Either older than the sync, or newer and its predecessor is late or lost. One more sync tells.
            self.held.clear();
            self.want_at(now.saturating_add(Duration::from_millis(SEQ_HOLE_WAIT_MS)));
        }
        self.synced = Some((now, jitter.clamp(0.0, 1.0)));
        applied
    }

    /// The sync that was on its way was refused.
    pub(crate) fn handle_failed(&mut self, now: Duration, retry_after_ms: u32, jitter: f64) {
        self.asking = false;
        self.pause.fail(now, retry_after_ms, jitter);
        self.want_at(now);
    }

    /// The sync that was on its way was lost with its connection.
    pub(crate) fn handle_lost(&mut self, now: Duration) {
        self.asking = false;
        self.want_at(now);
    }

    /// Forgets the notices that lead to where we are: what they say is known.
    fn drop_known(&mut self) {
        let mut known = self.cursor.clone();
        while let Some(index) = self.held.iter().position(|held| held.to_cursor == known) {
            let Some(notice) = self.held.remove(index) else {
                break;
            };
            known = notice.from_cursor;
        }
    }

    fn take_chain(&mut self) -> Vec<NoticePush> {
        let mut chain = Vec::new();
        while let Some(index) = self.held.iter().position(|held| held.from_cursor == self.cursor) {
            let Some(notice) = self.held.remove(index) else {
                break;
            };
            // A notice that goes nowhere would be taken for ever.
            if notice.to_cursor != self.cursor {
                self.cursor = notice.to_cursor.clone();
                chain.push(notice);
            }
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn cursor(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[n])
    }

    fn notice(from: u8, to: u8) -> NoticePush {
        NoticePush {
            from_cursor: cursor(from),
            to_cursor: cursor(to),
            rows: Vec::new(),
        }
    }

    fn list() -> ListSync {
        ListSync::new(cursor(1), Duration::from_secs(300))
    }

    #[test]
    fn a_notice_that_begins_where_we_are_is_applied_without_a_sync() {
        let mut list = list();
        assert_eq!(list.handle_notice(notice(1, 2), ms(0)), [notice(1, 2)]);
        assert_eq!(list.cursor(), &cursor(2));
        assert_eq!(list.due(), None);
        assert!(list.handle_notice(notice(1, 2), ms(0)).is_empty(), "again");
        assert_eq!(list.due(), None);
    }

    #[test]
    fn notices_that_overtook_each_other_are_applied_in_order() {
        let mut list = list();
        assert!(list.handle_notice(notice(2, 3), ms(0)).is_empty());
        assert_eq!(
            list.handle_notice(notice(1, 2), ms(10)),
            [notice(1, 2), notice(2, 3)]
        );
        assert_eq!(list.cursor(), &cursor(3));
    }

    #[test]
    fn a_lost_notice_leads_to_a_sync_after_a_moment() {
        let mut list = list();
        list.handle_notice(notice(2, 3), ms(0));
        assert!(!list.poll_want(ms(299)));
        assert_eq!(list.due(), Some(ms(300)));
        assert!(list.poll_want(ms(300)));
        assert!(!list.poll_want(ms(300)), "one at a time");
        assert!(list.handle_synced(cursor(5), false, ms(400), 0.0).is_empty());
        assert_eq!(list.cursor(), &cursor(5));
    }

    #[test]
    fn notices_during_a_sync_go_on_from_its_end() {
        let mut list = list();
        list.want_now(ms(0));
        assert!(list.poll_want(ms(0)));
        assert!(list.handle_notice(notice(4, 5), ms(1)).is_empty());
        assert!(list.handle_notice(notice(5, 6), ms(2)).is_empty());
        assert_eq!(list.handle_synced(cursor(5), false, ms(3), 0.5), [notice(5, 6)]);
        assert_eq!(list.cursor(), &cursor(6));
        assert_eq!(
            list.due(),
            Some(ms(300_003)),
            "the next one is the one without cause"
        );
    }

    #[test]
    fn a_notice_behind_a_hole_is_not_forgotten_because_another_went_on_from_the_sync() {
        let mut list = list();
        list.want_now(ms(0));
        assert!(list.poll_want(ms(0)));
        assert!(list.handle_notice(notice(5, 6), ms(1)).is_empty());
        // From 6 to 7 is late, or lost.
        assert!(list.handle_notice(notice(7, 8), ms(2)).is_empty());
        assert_eq!(list.handle_synced(cursor(5), false, ms(3), 0.5), [notice(5, 6)]);
        assert_eq!(list.due(), Some(ms(303)), "a sync brings what is behind the hole");
    }

    #[test]
    fn a_notice_newer_than_the_sync_it_overtook_is_applied_after_it() {
        let mut list = list();
        list.want_now(ms(0));
        assert!(list.poll_want(ms(0)));
        assert!(list.handle_notice(notice(1, 2), ms(1)).is_empty());
        assert_eq!(list.handle_synced(cursor(1), false, ms(3), 0.5), [notice(1, 2)]);
        assert_eq!(list.cursor(), &cursor(2));
        assert_eq!(list.due(), Some(ms(300_003)));
    }

    #[test]
    fn pages_follow_each_other_at_once_and_failures_pause() {
        let mut list = list();
        list.want_now(ms(0));
        assert!(list.poll_want(ms(0)));
        list.handle_synced(cursor(2), true, ms(5), 0.0);
        assert!(list.poll_want(ms(5)));
        list.handle_failed(ms(6), 2_000, 0.0);
        assert!(!list.poll_want(ms(2_005)));
        assert!(list.poll_want(ms(2_006)));
        list.handle_lost(ms(2_007));
        assert!(list.poll_want(ms(2_007)));
    }

    #[test]
    fn the_next_sync_without_cause_moves_with_the_interval() {
        let mut list = list();
        list.want_now(ms(0));
        assert!(list.poll_want(ms(0)));
        list.handle_synced(cursor(5), false, ms(0), 0.5);
        assert_eq!(list.due(), Some(ms(300_000)));
        list.set_interval(Duration::from_secs(1_200));
        assert!(!list.poll_want(ms(300_000)));
        assert_eq!(list.due(), Some(ms(1_200_000)));
        list.set_interval(Duration::from_secs(300));
        assert!(list.poll_want(ms(300_000)), "and back");
    }

    #[test]
    fn held_notices_are_bounded() {
        let mut list = list();
        for n in 10..250 {
            list.handle_notice(notice(n, n + 1), ms(0));
        }
        assert_eq!(list.held.len(), HELD_MAX);
    }
}
