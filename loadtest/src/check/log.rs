//! One conversation's log as all devices together saw it, and what of it each user may see.

use std::collections::{BTreeMap, HashMap};

use whimbrel_protocol::client::ChangeKind;

use super::history::{Body, Entry, Talk};
use super::names::User;

/// Entries by seq, with what is counted in them.
#[derive(Debug, Default)]
pub struct Log {
    entries: BTreeMap<u64, Entry>,
    /// Of all messages, ascending.
    messages: Vec<u64>,
    /// Of each user's messages, ascending.
    messages_of: HashMap<User, Vec<u64>>,
    /// Of all changes of the group, ascending.
    changes: Vec<u64>,
}

/// What a user may see of a log, and where they stand in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// From and to, both seen.
    intervals: Vec<(u64, u64)>,
    /// Whether they are a member at the log's end.
    pub current: bool,
    /// The entry by which they last joined; 0 in a direct conversation.
    pub joined_seq: u64,
    /// The last seq they may see.
    pub end_seq: u64,
    /// Times they were out and came back from: the entries that removed them and that brought them back.
    pub gaps: Vec<(u64, u64)>,
}

impl Log {
    /// The log of these entries.
    #[must_use]
    pub fn new(entries: BTreeMap<u64, Entry>) -> Self {
        let mut log = Self::default();
        for (seq, entry) in &entries {
            match &entry.body {
                Body::Text { .. } => {
                    log.messages.push(*seq);
                    log.messages_of.entry(entry.sender).or_default().push(*seq);
                }
                Body::Change { .. } => log.changes.push(*seq),
                Body::Other(_) => {}
            }
        }
        log.entries = entries;
        log
    }

    /// Its entries by seq.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<u64, Entry> {
        &self.entries
    }

    /// The changes of the group, in order.
    pub fn changes(&self) -> impl Iterator<Item = &Entry> {
        self.changes.iter().filter_map(|seq| self.entries.get(seq))
    }

    /// The last seq; 0 when there is none.
    #[must_use]
    pub fn head_seq(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    /// Everybody who ever was a member.
    #[must_use]
    pub fn members(&self, talk: Option<&Talk>) -> Vec<User> {
        let mut members = match talk {
            None => Vec::new(),
            Some(Talk::Direct(users)) => users.to_vec(),
            Some(Talk::Group { .. }) => {
                let named = self.changes().flat_map(|entry| match &entry.body {
                    Body::Change {
                        kind: ChangeKind::Created,
                        users,
                    } => [&[entry.sender], users.as_slice()].concat(),
                    Body::Change {
                        kind: ChangeKind::Invited,
                        users,
                    } => users.clone(),
                    _ => Vec::new(),
                });
                named.collect()
            }
        };
        members.sort_unstable();
        members.dedup();
        members
    }

    /// `None` for who never was a member.
    #[must_use]
    pub fn membership(&self, talk: Option<&Talk>, user: User) -> Option<Membership> {
        match talk? {
            Talk::Direct(users) => users.contains(&user).then(|| Membership {
                intervals: vec![(1, u64::MAX)],
                current: true,
                joined_seq: 0,
                end_seq: self.head_seq(),
                gaps: Vec::new(),
            }),
            Talk::Group { open_history } => self.group_membership(*open_history, user),
        }
    }

    fn group_membership(&self, open_history: bool, user: User) -> Option<Membership> {
        let mut membership: Option<Membership> = None;
        for entry in self.changes() {
            let Body::Change { kind, users } = &entry.body else {
                continue;
            };
            let named = || users.contains(&user);
            let joins = match kind {
                ChangeKind::Created => entry.sender == user || named(),
                ChangeKind::Invited => named(),
                _ => false,
            };
            let goes = match kind {
                ChangeKind::Removed => named(),
                ChangeKind::Left => entry.sender == user,
                _ => false,
            };
            if joins {
                let before = membership.take();
                let mut gaps = before
                    .as_ref()
                    .map(|before| before.gaps.clone())
                    .unwrap_or_default();
                gaps.extend(
                    before
                        .as_ref()
                        .filter(|before| !before.current)
                        .map(|before| (before.end_seq, entry.seq)),
                );
                let earlier = before.map(|before| before.intervals);
                let mut intervals = earlier.filter(|_| !open_history).unwrap_or_default();
                intervals.push((if open_history { 1 } else { entry.seq }, u64::MAX));
                membership = Some(Membership {
                    intervals,
                    current: true,
                    joined_seq: entry.seq,
                    end_seq: u64::MAX,
                    gaps,
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

    /// Messages of others than `user` after `read_seq`, up to and with `head_seq`.
    #[must_use]
    pub fn unread(&self, user: User, read_seq: u64, head_seq: u64) -> u64 {
        let within = |seqs: &[u64]| {
            let up_to = |end: u64| seqs.partition_point(|seq| *seq <= end);
            up_to(head_seq).saturating_sub(up_to(read_seq))
        };
        let own = self.messages_of.get(&user).map_or(0, |own| within(own));
        let unread = within(&self.messages).saturating_sub(own);
        u64::try_from(unread).expect("a count of entries in memory")
    }
}

impl Membership {
    /// Whether they may see this entry.
    #[must_use]
    pub fn sees(&self, seq: u64) -> bool {
        self.intervals
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&seq))
    }

    /// The entry that brought them back from the absence in which this one was written; `None` when they were a member.
    #[must_use]
    pub fn back_from(&self, seq: u64) -> Option<u64> {
        let next = self.gaps.partition_point(|(_, back)| *back <= seq);
        let gap = self.gaps.get(next).filter(|(gone, _)| *gone < seq);
        gap.map(|(_, back)| *back)
    }

    /// The lowest seq they may see.
    #[must_use]
    pub fn first_visible_seq(&self) -> u64 {
        self.intervals.first().map_or(0, |(from, _)| *from)
    }
}
