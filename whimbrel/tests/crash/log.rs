//! One conversation's log as all devices together saw it, and what of it each user may see.

use std::collections::BTreeMap;

use whimbrel_sdk::GroupChangeKind;

use crate::history::{Body, Entry, Talk, User};

/// Entries by seq.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) entries: BTreeMap<u64, Entry>,
}

/// What a user may see of a log, and where they stand in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// From and to, both seen.
    intervals: Vec<(u64, u64)>,
    /// Whether they are a member at the log's end.
    pub(crate) current: bool,
    /// The entry by which they last joined; 0 in a direct conversation.
    pub(crate) joined_seq: u64,
    /// The last seq they may see.
    pub(crate) end_seq: u64,
}

impl Log {
    pub(crate) fn head_seq(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    /// `None` for who never was a member.
    pub(crate) fn membership(&self, talk: &Talk, user: &User) -> Option<Membership> {
        match talk {
            Talk::Direct(users) => users.contains(user).then(|| Membership {
                intervals: vec![(1, u64::MAX)],
                current: true,
                joined_seq: 0,
                end_seq: self.head_seq(),
            }),
            Talk::Group { open_history } => self.group_membership(*open_history, user),
        }
    }

    fn group_membership(&self, open_history: bool, user: &User) -> Option<Membership> {
        let mut membership: Option<Membership> = None;
        for entry in self.entries.values() {
            let Body::Change { kind, users } = &entry.body else {
                continue;
            };
            let named = users.contains(user);
            let joins = match kind {
                GroupChangeKind::Created => named || entry.sender == *user,
                GroupChangeKind::Invited => named,
                _ => false,
            };
            let goes = match kind {
                GroupChangeKind::Removed => named,
                GroupChangeKind::Left => entry.sender == *user,
                _ => false,
            };
            if joins {
                let earlier = membership.take().map(|before| before.intervals);
                let mut intervals = earlier.filter(|_| !open_history).unwrap_or_default();
                intervals.push((if open_history { 1 } else { entry.seq }, u64::MAX));
                membership = Some(Membership {
                    intervals,
                    current: true,
                    joined_seq: entry.seq,
                    end_seq: u64::MAX,
                });
            }
            if let Some(membership) = membership.as_mut().filter(|_| goes) {
                membership.current = false;
                membership.end_seq = entry.seq;
                if let Some((_, to)) = membership.intervals.last_mut() {
                    *to = entry.seq;
                }
            }
        }
        let mut membership = membership?;
        membership.end_seq = membership.end_seq.min(self.head_seq());
        Some(membership)
    }

    /// Messages of others after `read_seq`, as far as the user may see.
    pub(crate) fn unread(&self, membership: &Membership, user: &User, read_seq: u64) -> u64 {
        if read_seq >= membership.end_seq {
            return 0;
        }
        let unread = self.entries.range(read_seq + 1..=membership.end_seq);
        let of_others =
            unread.filter(|(_, entry)| matches!(entry.body, Body::Text(_)) && entry.sender != *user);
        u64::try_from(of_others.count()).expect("a count of entries in memory")
    }
}

impl Membership {
    pub(crate) fn sees(&self, seq: u64) -> bool {
        self.intervals
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&seq))
    }

    pub(crate) fn first_visible_seq(&self) -> u64 {
        self.intervals.first().map_or(0, |(from, _)| *from)
    }
}
