//! What is kept, doubted and verified.
//!
//! A server that begins anew, perhaps from a backup, may have lost the end of a log, and changes, and have written others in
//! their places. So after a full resync what is kept is doubted, and verified from its end down: the log is dense, so what
//! lies below the first entry that the server still has is as it was, but for changes, which are all taken in again.

use std::collections::BTreeSet;
use std::time::Duration;

use whimbrel_protocol::client::{Entry, PullResponse};

use super::{Inbox, PAGE_LIMIT, Want};

/// What is doubted of what is kept, after the server began anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Nothing is believed until the row says where the server's log ends.
    All,
    /// Looking downwards for the highest entry that the server still has.
    Entries { from_seq: u64, limit: u32 },
    /// The entries are right. Their changes are taken in again, and these, changed before, may not be any more.
    Changes { unconfirmed: BTreeSet<u64> },
}

/// Found after doubt: entries above `agreed` are not the server's any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The highest entry that the server still has.
    pub(crate) agreed: u64,
    /// Whether entries above it were shown.
    pub(crate) lost: bool,
}

impl Inbox {
    /// The server begins anew, perhaps from a backup: nothing that is kept is believed until it is verified.
    pub(crate) fn doubt(&mut self) {
        let Some(position) = self.position else { return };
        *self = Self {
            position: Some(position),
            pause: self.pause,
            doubt: Some(Doubt::All),
            ..Self::new()
        };
    }

    /// Whether something that is kept still has to be verified.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether it is not known yet which of the entries that are kept are the server's.
    pub(crate) fn is_unsettled(&self) -> bool {
        matches!(self.doubt, Some(Doubt::All | Doubt::Entries { .. }))
    }

    /// What became of the entries that were doubted, once it is known.
    pub(crate) fn take_settled(&mut self) -> Option<Settled> {
        self.settled.take()
    }

    /// These entries are kept as changed; whether the server still has them so is found out.
    pub(crate) fn expect_changes(&mut self, seqs: BTreeSet<u64>) {
        if let Some(Doubt::Changes { unconfirmed }) = &mut self.doubt {
            *unconfirmed = seqs;
            self.end_doubt();
        }
    }

    /// The server said how this entry is now. Whether a change of it was doubted.
    pub(crate) fn confirm(&mut self, seq: u64) -> bool {
        let doubted = match &mut self.doubt {
            Some(Doubt::Changes { unconfirmed }) => unconfirmed.remove(&seq),
            _ => false,
        };
        self.end_doubt();
        doubted
    }

    /// Takes in the answer to [`Want::Compare`]. `agrees` says of an entry whether it is kept the same.
    pub(crate) fn handle_compared(
        &mut self,
        asked_seq: u64,
        page: &PullResponse,
        now: Duration,
        mut agrees: impl FnMut(&Entry) -> bool,
    ) {
        let Some(Want::Compare { from_seq, limit }) = self.asking.filter(|_| self.is_unsettled()) else {
            return;
        };
        if asked_seq != from_seq {
            return;
        }
        self.asking = None;
        let descending = page
            .entries
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.seq > b.seq));
        let begins = page.entries.first().is_none_or(|entry| entry.seq <= from_seq);
        if !descending || !begins || (page.more && page.entries.is_empty()) {
            tracing::warn!(
                from_seq,
                "a page of a conversation is not descending from where it was asked"
            );
            self.pause.fail(now, 0, 0.5);
            return;
        }
        self.pause.succeed();
        self.observe(page.head_seq, page.head_rev);
        let (start, shown) = self
            .position
            .map_or((0, 0), |position| (position.start, position.shown));
        // The row was behind its log, as rows may be: the page says where that ends.
        let end = shown.min(page.head_seq);
        if limit == 1 && end > from_seq {
            self.doubt = Some(Doubt::Entries {
                from_seq: end,
                limit: 1,
            });
            return;
        }
        let lowest = page.entries.last().map_or(0, |entry| entry.seq);
        let mut kept_here = page.entries.iter().filter(|entry| entry.seq >= start);
        if let Some(agreed) = kept_here.find(|entry| agrees(entry)) {
            self.settle(agreed.seq, now);
        } else if page.more && lowest > start {
            self.doubt = Some(Doubt::Entries {
                from_seq: lowest - 1,
                limit: PAGE_LIMIT,
            });
        } else {
            self.settle(start.saturating_sub(1), now);
        }
    }

    /// Takes in the answer to [`Want::Recheck`]; gives the entries whose changes were doubted, as they are now.
    pub(crate) fn handle_rechecked(
        &mut self,
        from_seq: u64,
        page: PullResponse,
        now: Duration,
    ) -> Vec<Entry> {
        if self.asking != Some(Want::Recheck { from_seq }) {
            return Vec::new();
        }
        self.asking = None;
        let through = match page.entries.last() {
            Some(last) if page.more => last.seq,
            None if page.more => from_seq,
            _ => u64::MAX,
        };
        self.pause.succeed();
        self.observe(page.head_seq, page.head_rev);
        let Some(Doubt::Changes { unconfirmed }) = &mut self.doubt else {
            return Vec::new();
        };
        let answered: Vec<Entry> = page
            .entries
            .into_iter()
            .filter(|entry| unconfirmed.contains(&entry.seq))
            .collect();
        // What the server leaves out is not the user's to see any more, and stays as it was.
        let given: BTreeSet<u64> = answered.iter().map(|entry| entry.seq).collect();
        unconfirmed.retain(|seq| *seq > through || given.contains(seq));
        self.end_doubt();
        self.note_hole(true, now);
        answered
    }

    /// Entries up to `agreed` are the server's. Which changes of them are is found out by taking all in again.
    pub(super) fn settle(&mut self, agreed: u64, now: Duration) {
        let Some(position) = &mut self.position else {
            return;
        };
        let lost = agreed < position.shown && position.start <= position.shown;
        position.shown = agreed;
        position.start = position.start.min(agreed.saturating_add(1));
        position.rev = 0;
        self.believed_above = None;
        self.held.retain(|seq, _| *seq > agreed);
        self.doubt = Some(Doubt::Changes {
            unconfirmed: BTreeSet::new(),
        });
        self.settled = Some(Settled { agreed, lost });
        self.note_hole(true, now);
    }

    pub(super) fn end_doubt(&mut self) {
        let is_over = matches!(&self.doubt, Some(Doubt::Changes { unconfirmed }) if unconfirmed.is_empty());
        if is_over
            && self.settled.is_none()
            && self
                .position
                .is_some_and(|position| position.rev >= self.head_rev)
        {
            self.doubt = None;
        }
    }
}
