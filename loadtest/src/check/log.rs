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
    /// Of each user's coming and going, ascending: so that no user's membership costs a walk through all changes.
    steps: HashMap<User, Vec<(u64, Step)>>,
}

/// What a change of the group does to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Joins,
    Goes,
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
                Body::Change { kind, users } => {
                    log.changes.push(*seq);
                    log.note_steps(entry, *kind, users);
                }
                Body::Other(_) => {}
            }
        }
        log.entries = entries;
        log
    }

    fn note_steps(&mut self, entry: &Entry, kind: ChangeKind, users: &[User]) {
        let (step, whose) = match kind {
            ChangeKind::Created => (Step::Joins, [&[entry.sender], users].concat()),
            ChangeKind::Invited => (Step::Joins, users.to_vec()),
            ChangeKind::Removed => (Step::Goes, users.to_vec()),
            ChangeKind::Left => (Step::Goes, vec![entry.sender]),
            _ => return,
        };
        for user in whose {
            let steps = self.steps.entry(user).or_default();
            // Whoever makes a group may be named among its members.
            if steps.last().is_none_or(|(seq, _)| *seq != entry.seq) {
                steps.push((entry.seq, step));
            }
        }
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
                let joined = |steps: &[(u64, Step)]| steps.iter().any(|(_, step)| *step == Step::Joins);
                let joined = self.steps.iter().filter(|(_, steps)| joined(steps));
                joined.map(|(user, _)| *user).collect()
            }
        };
        members.sort_unstable();
        members.dedup();
        members
    }

    /// `None` for who never was a member. Takes the time of what happened to this user.
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
        for (seq, step) in self.steps.get(&user)? {
            match (step, &mut membership) {
                (Step::Joins, None) => {
                    membership = Some(Membership {
                        intervals: vec![(if open_history { 1 } else { *seq }, u64::MAX)],
                        current: true,
                        joined_seq: *seq,
                        end_seq: u64::MAX,
                        gaps: Vec::new(),
                    });
                }
                (Step::Joins, Some(before)) => {
                    if !before.current {
                        before.gaps.push((before.end_seq, *seq));
                    }
                    if open_history {
                        before.intervals.clear();
                    }
                    before
                        .intervals
                        .push((if open_history { 1 } else { *seq }, u64::MAX));
                    before.current = true;
                    before.joined_seq = *seq;
                    before.end_seq = u64::MAX;
                }
                (Step::Goes, Some(before)) => {
                    before.current = false;
                    before.end_seq = *seq;
                    if let Some((_, to)) = before.intervals.last_mut() {
                        *to = *seq;
                    }
                }
                (Step::Goes, None) => {}
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
        let begun = self.intervals.partition_point(|(from, _)| *from <= seq);
        let last = begun.checked_sub(1).and_then(|at| self.intervals.get(at));
        last.is_some_and(|(_, to)| seq <= *to)
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn change(seq: u64, kind: ChangeKind, user: u64) -> (u64, Entry) {
        let entry = Entry {
            seq,
            time_ms: seq,
            sender: User(0),
            rest: 0,
            body: Body::Change {
                kind,
                users: vec![User(user)],
            },
        };
        (seq, entry)
    }

    fn group(open_history: bool) -> Talk {
        Talk::Group { open_history }
    }

    #[test]
    fn whoever_comes_and_goes_sees_what_was_between() {
        let log = Log::new(
            [
                change(1, ChangeKind::Created, 1),
                change(3, ChangeKind::Removed, 1),
                change(6, ChangeKind::Invited, 1),
                change(7, ChangeKind::Removed, 2),
                change(9, ChangeKind::Left, 1),
            ]
            .into(),
        );
        let seen = |talk: Talk| {
            let membership = log.membership(Some(&talk), User(1)).unwrap();
            let seen: Vec<u64> = (0..=10).filter(|seq| membership.sees(*seq)).collect();
            (seen, membership.gaps, membership.end_seq)
        };
        assert_eq!(
            seen(group(false)),
            (vec![1, 2, 3, 6, 7, 8, 9, 10], vec![(3, 6)], 9)
        );
        assert_eq!(seen(group(true)).0, (1..=10).collect::<Vec<_>>());
        let maker = log.membership(Some(&group(false)), User(0)).unwrap();
        assert_eq!((maker.current, maker.end_seq), (false, 9), "the maker left");
        assert_eq!(log.membership(Some(&group(false)), User(2)), None);
        assert_eq!(log.members(Some(&group(false))), [User(0), User(1)]);
    }

    #[test]
    fn memberships_are_known_in_time_linear_in_the_changes() {
        // Each user is brought in and taken out once: a walk through all changes for each would take 3.2 billion steps, minutes
        // in a test build.
        const USERS: u64 = 40_000;
        let changes = (1..=USERS).flat_map(|user| {
            [
                change(2 * user, ChangeKind::Invited, user),
                change(2 * user + 1, ChangeKind::Removed, user),
            ]
        });
        let log = Log::new(changes.collect());
        let talk = group(false);
        for user in log.members(Some(&talk)) {
            let membership = log.membership(Some(&talk), user).unwrap();
            assert_eq!(membership.end_seq, 2 * user.0 + 1);
        }
    }

    #[test]
    fn what_is_seen_is_known_without_a_walk_through_all_absences() {
        const TIMES: u64 = 40_000;
        let changes = (1..=TIMES).flat_map(|time| {
            [
                change(4 * time, ChangeKind::Invited, 1),
                change(4 * time + 1, ChangeKind::Removed, 1),
            ]
        });
        let log = Log::new(changes.collect());
        let membership = log.membership(Some(&group(false)), User(1)).unwrap();
        for time in 1..=TIMES {
            assert!(membership.sees(4 * time) && !membership.sees(4 * time + 2));
        }
    }
}
