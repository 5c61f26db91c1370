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
//!
//! Until a walk has served all, each round begins somewhere else than the one before, and comes to those before that place
//! at last. So what is too little for all goes round among them.

use super::pace::Member;

/// 2^32 over the golden ratio: its multiples are spread evenly, however many there are (Knuth, The Art of Computer
/// Programming, volume 3, section 6.4).
const SCATTER: u32 = 0x9E37_79B9;

/// See the module. Positions change as members come and go; every change but one's own is told.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: Vec<Member>,
    served: usize,
    cursor: usize,
    end: usize,
    /// Rounds since a walk last served all.
    rounds: u32,
    /// Those before the place at which this round began have not had their turn in it.
    untried: bool,
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
        (self.served, self.end) = (0, self.members.len());
        self.begin_round();
    }

    fn begin_round(&mut self) {
        let scattered = u64::from(self.rounds.wrapping_mul(SCATTER));
        // A fraction of what is left, so that it fits.
        let first = usize::try_from((scattered * self.left() as u64) >> u32::BITS).unwrap_or(0);
        self.cursor = self.served + first;
        self.untried = first > 0;
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

    /// Goes on with those before the place at which the round began, if it did not begin with the first.
    pub(super) fn wrap(&mut self) -> bool {
        let wraps = std::mem::take(&mut self.untried);
        if wraps {
            self.cursor = self.served;
        }
        wraps
    }

    /// Another round, over those who had to wait.
    pub(super) fn again(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
        self.begin_round();
    }

    /// The walk is over.
    pub(super) fn finish(&mut self) {
        self.rounds = match self.left() {
            0 => 0,
            _ => self.rounds.wrapping_add(1),
        };
        (self.served, self.cursor, self.end) = (0, 0, 0);
        self.untried = false;
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
