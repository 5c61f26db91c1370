//! One conversation's way from what arrives, in any order and any number of times, to what is shown: each entry once,
//! ascending, without holes, up to the head.
//!
//! Pure: entries, rows and answers come in with a monotonic `now`; what to show and what to ask come out. The owner
//! keeps `start`, `shown` and `rev` on disk in the same transaction as the entries it shows.
//!
//! What is pushed, or made from our own send, shows an entry as it was when it was committed; a change since then may
//! already have been taken in, without the entry. So an entry that may be older than the changes taken in is not
//! believed, but pulled.
//!
//! What happens when the server begins anew, perhaps from a backup, is in `inbox/doubt.rs`.
//!
//! A seq that a complete answer of the server leaves out is one the user may not see (members see the intervals of
//! their membership), so only such an answer, never a push, closes a hole that nothing fills.

mod doubt;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_protocol::client::{Entry, PullChangesResponse, PullResponse};
use whimbrel_protocol::timing::SEQ_HOLE_WAIT_MS;

use self::doubt::{Doubt, Settled};
use super::pause::Pause;

/// Entries held above a hole; further ones are dropped and pulled later. A page's worth and some.
const HELD_MAX: usize = 512;

/// Entries or changes asked for at once.
pub(crate) const PAGE_LIMIT: u32 = 100;

/// What a conversation wants to ask next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Entries from here up.
    Pull {
        /// The first.
        from_seq: u64,
    },
    /// Changes after this rev.
    Changes {
        /// The last rev taken in.
        after_rev: u64,
    },
    /// Entries from here down, to be compared with those kept: [`Inbox::handle_compared`].
    Compare {
        /// The highest.
        from_seq: u64,
        /// How many.
        limit: u32,
    },
    /// Entries from here up as they are now, changed or not: [`Inbox::handle_rechecked`].
    Recheck {
        /// The first.
        from_seq: u64,
    },
}

/// What must be kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The lowest seq from which everything up to `shown` is kept locally.
    pub(crate) start: u64,
    /// Everything up to here was shown.
    pub(crate) shown: u64,
    /// Every change up to here was taken in.
    pub(crate) rev: u64,
}

/// One conversation's state. See the module.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Unknown until the conversation's row said where the user's log begins.
    position: Option<Position>,
    head: u64,
    head_rev: u64,
    held: BTreeMap<u64, Entry>,
    /// Entries above this one were committed after the changes taken in; unknown after more were taken in.
    believed_above: Option<u64>,
    /// A complete answer covered everything up to here: what is missing below does not exist for this user.
    covered: u64,
    /// When the hole below `head` is believed; set while there is one.
    hole_due: Option<Duration>,
    asking: Option<Want>,
    /// The head when it was asked.
    head_asked: u64,
    /// The rev when it was asked.
    head_rev_asked: u64,
    pause: Pause,
    doubt: Option<Doubt>,
    settled: Option<Settled>,
}

impl Inbox {
    /// A conversation nothing is known of.
    pub(crate) fn new() -> Self {
        Self {
            position: None,
            head: 0,
            head_rev: 0,
            held: BTreeMap::new(),
            believed_above: None,
            covered: 0,
            hole_due: None,
            asking: None,
            head_asked: 0,
            head_rev_asked: 0,
            pause: Pause::default(),
            doubt: None,
            settled: None,
        }
    }

    /// A conversation as it was kept.
    pub(crate) fn restored(position: Position) -> Self {
        Self {
            position: Some(position),
            head: position.shown,
            head_rev: position.rev,
            ..Self::new()
        }
    }

    pub(crate) fn position(&self) -> Option<Position> {
        self.position
    }

    /// Decides where a conversation that is new here begins: at most `history_max` entries below its head.
    ///
    /// Everything asked from now on is at least as new as the row, so its rev is where changes begin. What was pushed
    /// before may be older, and is asked for again if anything has ever changed.
    pub(crate) fn place(&mut self, first_visible: u64, head: u64, head_rev: u64, history_max: u64) {
        if self.position.is_some() {
            return;
        }
        let start = match first_visible {
            0 => head.saturating_add(1),
            first => first.max(head.saturating_add(1).saturating_sub(history_max)),
        };
        let current = |seq: u64| seq > head || head_rev == 0;
        self.held.retain(|seq, _| *seq >= start && current(*seq));
        self.position = Some(Position {
            start,
            shown: start.saturating_sub(1),
            rev: head_rev,
        });
        self.observe(head, head_rev);
    }

    /// Older entries were fetched and are kept: the local log now begins at `start`.
    pub(crate) fn extend_down(&mut self, start: u64) {
        if let Some(position) = &mut self.position {
            position.start = position.start.min(start);
        }
    }

    /// Takes in what the row says. `certain`: pushes on their way cannot fill the hole, do not wait for them.
    pub(crate) fn handle_head(&mut self, head: u64, head_rev: u64, certain: bool, now: Duration) {
        self.observe(head, head_rev);
        if self.doubt == Some(Doubt::All)
            && let Some(position) = self.position
        {
            let from_seq = position.shown.min(self.head);
            if from_seq < position.start {
                self.settle(from_seq, now);
            } else {
                // Most often nothing was lost, and the last entry says so.
                self.doubt = Some(Doubt::Entries { from_seq, limit: 1 });
            }
        }
        self.note_hole(certain, now);
    }

    /// Takes in an entry that was pushed, or made from our own send. Gives it back when it may change one that was
    /// shown, as [`Inbox::handle_changes`] does: the owner compares revs.
    pub(crate) fn handle_pushed(&mut self, entry: Entry, now: Duration) -> Option<Entry> {
        self.head = self.head.max(entry.seq);
        let changed = if self.is_believed(&entry) {
            self.take(entry)
        } else {
            None
        };
        self.note_hole(false, now);
        // While entries are doubted, it may be another one than the one that is kept.
        changed.filter(|_| !self.is_unsettled())
    }

    /// Takes in the answer to [`Want::Pull`].
    pub(crate) fn handle_pulled(&mut self, from_seq: u64, page: PullResponse, now: Duration) {
        if self.asking != Some(Want::Pull { from_seq }) {
            return;
        }
        self.asking = None;
        let last = page.entries.last().map_or(0, |entry| entry.seq);
        let ascending = page
            .entries
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.seq < b.seq));
        let begins = page.entries.first().is_none_or(|entry| entry.seq >= from_seq);
        if !ascending || !begins || (page.more && page.entries.is_empty()) {
            tracing::warn!(
                from_seq,
                "a page of a conversation is not ascending from where it was asked"
            );
            self.pause.fail(now, 0, 0.5);
            return;
        }
        self.pause.succeed();
        self.observe(page.head_seq.max(last), page.head_rev);
        for entry in page.entries {
            // What was shown already came again; a change of it comes with its rev.
            let _shown_before = self.take(entry);
        }
        self.covered = self
            .covered
            .max(if page.more { last } else { last.max(page.head_seq) });
        // A head known before the question that a complete answer does not reach is not visible to the user: asking
        // again would not end. One learnt since may just be newer than the answer.
        if !page.more && self.head > self.covered && self.head == self.head_asked {
            self.head = self
                .covered
                .max(self.held.last_key_value().map_or(0, |(seq, _)| *seq));
        }
        self.hole_due = None;
        self.note_hole(true, now);
    }

    /// Takes in the answer to [`Want::Changes`]; gives the entries that were shown and may look different now.
    pub(crate) fn handle_changes(
        &mut self,
        after_rev: u64,
        page: PullChangesResponse,
        now: Duration,
    ) -> Vec<Entry> {
        if self.asking != Some(Want::Changes { after_rev }) {
            return Vec::new();
        }
        self.asking = None;
        if page.more && page.next_after_rev <= after_rev {
            tracing::warn!(after_rev, "a page of changes does not go forward");
            self.pause.fail(now, 0, 0.5);
            return Vec::new();
        }
        self.pause.succeed();
        let rev = if page.more {
            page.next_after_rev
        } else {
            page.head_rev.max(page.next_after_rev)
        };
        // A rev known before the question that a complete answer does not reach is not the user's to see: asking again
        // would not end. One learnt since may just be newer than the answer.
        if !page.more && (rev > self.head_rev || self.head_rev == self.head_rev_asked) {
            self.head_rev = rev;
        }
        if let Some(position) = &mut self.position
            && rev > position.rev
        {
            position.rev = rev;
            self.believed_above = None;
        }
        let mut changed = Vec::new();
        for entry in page.entries {
            self.head = self.head.max(entry.seq);
            changed.extend(self.take(entry));
        }
        self.end_doubt();
        self.note_hole(false, now);
        changed
    }

    /// The request that was on its way will not be answered.
    pub(crate) fn handle_failed(&mut self, now: Duration, retry_after_ms: u32, jitter: f64) {
        self.asking = None;
        self.pause.fail(now, retry_after_ms, jitter);
    }

    /// Something else was answered: a pause that runs is shortened. Whether one ran.
    pub(crate) fn hasten(&mut self, now: Duration, jitter: f64) -> bool {
        let runs = !self.pause.is_over(now);
        self.pause.hasten(now, jitter);
        runs
    }

    /// The request that was on its way was lost with its connection: it is made again at once.
    pub(crate) fn handle_lost(&mut self) {
        self.asking = None;
    }

    /// Nothing more can be had from the server: what is shown is all there is.
    pub(crate) fn give_up(&mut self) {
        if self.is_doubted() {
            // Should the user be let in again, it is verified then.
            return self.doubt();
        }
        self.asking = None;
        self.hole_due = None;
        if let Some(position) = self.position {
            self.head = position.shown;
            self.head_rev = position.rev;
            self.held.clear();
        }
    }

    /// What is to be asked now; it counts as asked.
    pub(crate) fn poll_want(&mut self, now: Duration) -> Option<Want> {
        let position = self.position?;
        if self.asking.is_some() || !self.pause.is_over(now) {
            return None;
        }
        self.asking = match &self.doubt {
            Some(Doubt::All) => None,
            Some(Doubt::Entries { from_seq, limit }) => Some(Want::Compare {
                from_seq: *from_seq,
                limit: *limit,
            }),
            _ if self.hole_due.is_some_and(|due| due <= now) => Some(Want::Pull {
                from_seq: position.shown.saturating_add(1),
            }),
            _ if self.hole_due.is_some() => None,
            _ if position.rev < self.head_rev => Some(Want::Changes {
                after_rev: position.rev,
            }),
            Some(Doubt::Changes { unconfirmed }) => unconfirmed
                .first()
                .map(|from_seq| Want::Recheck { from_seq: *from_seq }),
            None => None,
        };
        self.head_asked = self.head;
        self.head_rev_asked = self.head_rev;
        self.asking
    }

    /// When [`Inbox::poll_want`] may next have something.
    pub(crate) fn due(&self) -> Option<Duration> {
        let position = self.position?;
        if self.asking.is_some() {
            return None;
        }
        let due = match (&self.doubt, self.hole_due) {
            (Some(Doubt::All), _) => return None,
            (Some(Doubt::Entries { .. }), _) => Duration::ZERO,
            (_, Some(due)) => due,
            _ if position.rev < self.head_rev => Duration::ZERO,
            (Some(Doubt::Changes { unconfirmed }), None) if !unconfirmed.is_empty() => Duration::ZERO,
            _ => return None,
        };
        Some(due.max(self.pause.until()))
    }

    /// Takes what can be shown now, ascending.
    pub(crate) fn take_ready(&mut self) -> Vec<Entry> {
        let is_unsettled = self.is_unsettled();
        let Some(position) = self.position.as_mut().filter(|_| !is_unsettled) else {
            return Vec::new();
        };
        let mut ready = Vec::new();
        while let Some(first) = self.held.first_entry() {
            let seq = *first.key();
            if seq > position.shown.saturating_add(1) && seq > self.covered {
                break;
            }
            position.shown = position.shown.max(seq);
            ready.push(first.remove());
        }
        position.shown = position.shown.max(self.covered);
        if position.shown >= self.head {
            self.hole_due = None;
        }
        ready
    }

    /// Whether everything known of is shown.
    pub(crate) fn is_at_head(&self) -> bool {
        self.position
            .is_some_and(|position| position.shown >= self.head && position.rev >= self.head_rev)
            && !self.is_doubted()
    }

    /// What the server said its log was like at one moment.
    fn observe(&mut self, head: u64, head_rev: u64) {
        self.head = self.head.max(head);
        self.head_rev = self.head_rev.max(head_rev);
        if self.position.is_some_and(|position| head_rev >= position.rev) {
            self.believed_above = Some(self.believed_above.map_or(head, |above| above.min(head)));
        }
    }

    /// Whether no change of this entry can have been taken in without it.
    fn is_believed(&self, entry: &Entry) -> bool {
        let Some(position) = self.position else {
            return true;
        };
        entry.seq <= position.shown
            || position.rev == 0
            || self.believed_above.is_some_and(|above| entry.seq > above)
    }

    /// Holds an entry that is not shown yet; gives back one that was.
    fn take(&mut self, entry: Entry) -> Option<Entry> {
        match self.position {
            Some(position) if entry.seq <= position.shown => {
                return (entry.seq >= position.start).then_some(entry);
            }
            _ => {}
        }
        match self.held.get(&entry.seq) {
            Some(held) if held.rev > entry.rev => {}
            // The entry as the server has it, over one made from our own send.
            _ => drop(self.held.insert(entry.seq, entry)),
        }
        if self.held.len() > HELD_MAX {
            self.held.pop_last();
        }
        None
    }

    fn note_hole(&mut self, certain: bool, now: Duration) {
        let Some(position) = self.position.filter(|_| !self.is_unsettled()) else {
            return;
        };
        let filled = self.held.contains_key(&position.shown.saturating_add(1));
        if position.shown >= self.head || (filled && !certain && self.reaches_head(position.shown)) {
            return;
        }
        let due = if certain {
            now
        } else {
            now.saturating_add(Duration::from_millis(SEQ_HOLE_WAIT_MS))
        };
        self.hole_due = Some(self.hole_due.map_or(due, |before| before.min(due)));
    }

    /// Whether what is held goes from `shown` to the head without a hole.
    fn reaches_head(&self, shown: u64) -> bool {
        let above = self.held.range(shown.saturating_add(1)..);
        above
            .zip(shown.saturating_add(1)..)
            .all(|((seq, _), expected)| *seq == expected)
            && self
                .held
                .last_key_value()
                .is_some_and(|(last, _)| *last >= self.head)
    }
}
