//! The members of one room on one reactor, and how far a walk over them has come. Pure.
//!
//! ```text
//!   0        served      cursor        end        len
//!   | served | deferred  | to be tried | later    |
//! ```
//! A walk begins with everybody between cursor and end. Whoever is served moves to the front; whoever has to wait for a
//! token stays between `served` and `cursor` for another round; whoever joins meanwhile stands behind `end` and is not of
//! this walk. Members leave at any time in O(1): the hole is filled with the last of its part, the hole that leaves with
//! the last of the next part, and so on. So a walk skips nobody who stays, and serves nobody twice, even one who
//! leaves and joins again.

use super::pace::Member;

/// See the module. Positions change as members come and go; every change but one's own is told.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: Vec<Member>,
    served: usize,
    cursor: usize,
    end: usize,
}

impl Roster {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Adds a member; says where it is.
    pub(super) fn push(&mut self, member: Member) -> u32 {
        let position = u32::try_from(self.members.len()).expect("a room's members are bounded below 2^32");
        self.members.push(member);
        position
    }

    /// Takes the member at `position` out. `moved` is told of each other member that has another position now.
    pub(super) fn remove(&mut self, position: u32, mut moved: impl FnMut(Member, u32)) {
        let mut hole = position as usize;
        let last = self.members.len() - 1;
        for edge in [&mut self.served, &mut self.cursor, &mut self.end] {
            if hole < *edge {
                *edge -= 1;
                fill(&mut self.members, hole, *edge, &mut moved);
                hole = *edge;
            }
        }
        fill(&mut self.members, hole, last, &mut moved);
        self.members.pop();
    }

    /// A walk over all who are there begins.
    pub(super) fn begin(&mut self) {
        (self.served, self.cursor, self.end) = (0, 0, self.members.len());
    }

    /// Whose turn it is in this round.
    pub(super) fn current(&self) -> Option<Member> {
        (self.cursor < self.end).then(|| self.members[self.cursor])
    }

    /// The current one is served.
    pub(super) fn pass(&mut self, mut moved: impl FnMut(Member, u32)) {
        if self.served != self.cursor {
            self.members.swap(self.served, self.cursor);
            for position in [self.served, self.cursor] {
                moved(self.members[position], index(position));
            }
        }
        self.served += 1;
        self.cursor += 1;
    }

    /// The current one has to wait for another round.
    pub(super) fn defer(&mut self) {
        self.cursor += 1;
    }

    /// Members of this walk who are not served yet.
    pub(super) fn left(&self) -> usize {
        self.end - self.served
    }

    /// Another round, over those who had to wait.
    pub(super) fn again(&mut self) {
        self.cursor = self.served;
    }

    /// The walk is over.
    pub(super) fn finish(&mut self) {
        (self.served, self.cursor, self.end) = (0, 0, 0);
    }
}

/// Moves the member at `from` into the hole at `to`.
fn fill(members: &mut [Member], to: usize, from: usize, moved: &mut impl FnMut(Member, u32)) {
    if to != from {
        members[to] = members[from];
        moved(members[to], index(to));
    }
}

fn index(position: usize) -> u32 {
    u32::try_from(position).expect("a room's members are bounded below 2^32")
}
