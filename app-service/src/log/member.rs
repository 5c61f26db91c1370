//! What a stored member row means: which seqs the user sees, and how many entries are unread.

use whimbrel_protocol::client;
use whimbrel_protocol::ids::{Rev, Seq};

use super::limits::INTERVALS_MAX;
use crate::values::storage::{Head, Interval, Member, RosterItem};

impl Member {
    /// Somebody who joins at the entry `joined`. `earlier` is the row they left behind, if they were here before; `head` is the
    /// head with that entry. They begin with nothing unread.
    pub(crate) fn joining(
        earlier: Option<&Self>,
        uid: &str,
        role: client::Role,
        joined: Seq,
        head: &Head,
    ) -> Self {
        let mut member = earlier.cloned().unwrap_or_default();
        uid.clone_into(&mut member.uid);
        member.set_role(role);
        member.current = true;
        member.joined_seq = joined.0;
        if head.history_for_newcomers {
            member.visible.clear();
        }
        let from_seq = if head.history_for_newcomers { 1 } else { joined.0 };
        member.visible.push(Interval { from_seq, to_seq: 0 });
        if member.visible.len() > INTERVALS_MAX {
            member.visible.remove(0);
        }
        member.read_seq = joined.0;
        member.read_counted = head.counted;
        member.own_counted_read = member.own_counted;
        member.end_counted = 0;
        member.end_rev = 0;
        member
    }

    /// The same user once they have left: the entry at `head.seq` tells of it and is the last they see.
    pub(crate) fn departed(&self, head: &Head) -> Self {
        let mut member = self.clone();
        member.current = false;
        if let Some(last) = member.visible.last_mut() {
            last.to_seq = head.seq;
        }
        member.end_counted = head.counted;
        member.end_rev = head.rev;
        member
    }

    /// The role they have, or had.
    #[must_use]
    pub fn client_role(&self) -> client::Role {
        role_of(self.role)
    }

    pub(crate) fn set_role(&mut self, role: client::Role) {
        self.role = number_of(role);
    }

    /// Whether the entry at `seq` is theirs to see.
    #[must_use]
    pub fn sees(&self, seq: Seq) -> bool {
        self.visible
            .iter()
            .any(|interval| interval.from_seq <= seq.0 && (interval.to_seq == 0 || seq.0 <= interval.to_seq))
    }

    /// The lowest seq they see at all; 0 when none.
    #[must_use]
    pub fn first_visible_seq(&self) -> Seq {
        Seq(self.visible.first().map_or(0, |interval| interval.from_seq))
    }

    /// The last seq they see: the head for a member, the end of their membership for who left.
    #[must_use]
    pub fn last_visible_seq(&self, head: &Head) -> Seq {
        if self.current {
            return Seq(head.seq);
        }
        Seq(self.visible.last().map_or(0, |interval| interval.to_seq))
    }

    /// The last rev they see.
    #[must_use]
    pub fn last_visible_rev(&self, head: &Head) -> Rev {
        Rev(if self.current { head.rev } else { self.end_rev })
    }

    /// Entries that count as unread, up to the last they see.
    #[must_use]
    pub fn counted(&self, head: &Head) -> u64 {
        if self.current {
            head.counted
        } else {
            self.end_counted
        }
    }

    /// Entries they have not read: exact, their own not among them.
    #[must_use]
    pub fn unread(&self, head: &Head) -> u64 {
        let after_read = self.counted(head).saturating_sub(self.read_counted);
        let own_after_read = self.own_counted.saturating_sub(self.own_counted_read);
        after_read.saturating_sub(own_after_read)
    }

    /// Their line in the roster; `None` for who left.
    pub(crate) fn roster_item(&self) -> Option<RosterItem> {
        self.current.then(|| RosterItem {
            uid: self.uid.clone(),
            role: self.role,
            joined_seq: self.joined_seq,
            first_visible_seq: self.visible.last().map_or(0, |interval| interval.from_seq),
        })
    }
}

/// The role of a stored number; what this version does not know is an ordinary member.
pub(crate) fn role_of(number: u32) -> client::Role {
    i32::try_from(number)
        .ok()
        .and_then(|number| client::Role::try_from(number).ok())
        .unwrap_or(client::Role::Member)
}

fn number_of(role: client::Role) -> u32 {
    u32::try_from(i32::from(role)).expect("roles are numbered from 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(seq: u64, counted: u64) -> Head {
        Head {
            seq,
            counted,
            ..Head::default()
        }
    }

    fn joined(at: u64, counted: u64) -> Member {
        Member::joining(None, "ann", client::Role::Member, Seq(at), &head(at, counted))
    }

    #[test]
    fn a_newcomer_sees_from_their_joining_on_and_has_nothing_unread() {
        let member = joined(5, 3);
        assert!(!member.sees(Seq(4)) && member.sees(Seq(5)) && member.sees(Seq(500)));
        assert_eq!(member.unread(&head(5, 3)), 0);
        assert_eq!(member.unread(&head(9, 7)), 4);
    }

    #[test]
    fn with_history_a_newcomer_sees_all_of_it_read() {
        let head = Head {
            history_for_newcomers: true,
            ..head(5, 3)
        };
        let member = Member::joining(None, "ann", client::Role::Member, Seq(5), &head);
        assert!(member.sees(Seq(1)));
        assert_eq!((member.first_visible_seq(), member.unread(&head)), (Seq(1), 0));
    }

    #[test]
    fn whoever_left_sees_and_counts_nothing_after() {
        let left = joined(5, 3).departed(&head(8, 6));
        let later = Head {
            rev: 4,
            ..head(100, 90)
        };
        assert!(left.sees(Seq(8)) && !left.sees(Seq(9)));
        assert_eq!(left.last_visible_seq(&later), Seq(8));
        assert_eq!(left.last_visible_rev(&later), Rev(0));
        assert_eq!(left.unread(&later), 3);
        assert_eq!(left.roster_item(), None);
    }

    #[test]
    fn the_gap_of_an_absence_stays_unseen_and_uncounted() {
        let left = joined(5, 3).departed(&head(8, 6));
        let back = Member::joining(Some(&left), "ann", client::Role::Member, Seq(20), &head(20, 17));
        assert!(back.sees(Seq(7)) && !back.sees(Seq(9)) && !back.sees(Seq(19)) && back.sees(Seq(20)));
        assert_eq!(back.unread(&head(21, 18)), 1);
    }

    #[test]
    fn coming_and_going_keeps_a_bounded_number_of_intervals() {
        let mut member = joined(1, 0);
        for at in 1..100 {
            member = member.departed(&head(at * 10, 0));
            member = Member::joining(
                Some(&member),
                "ann",
                client::Role::Member,
                Seq(at * 10 + 5),
                &head(at * 10 + 5, 0),
            );
        }
        assert_eq!(member.visible.len(), INTERVALS_MAX);
        assert!(member.sees(Seq(995)));
    }

    #[test]
    fn own_entries_are_never_unread() {
        let mut member = joined(1, 0);
        member.own_counted = 2;
        assert_eq!(member.unread(&head(6, 5)), 3);
    }
}
