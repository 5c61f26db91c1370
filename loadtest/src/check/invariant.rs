//! What the system promises, and what a broken promise is called.

use std::fmt;

/// What the system promises. Numbered as in the design; 0 is the condition for checking the others: whatever was asked has its
/// answer when all is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// 0: every send and every change is answered.
    Answered = 0,
    /// 1: acknowledged means present exactly once.
    PresentOnce = 1,
    /// 2: seqs are dense, never reused, the same for all.
    OneLog = 2,
    /// 3: the same operation id gets the same answer.
    OneAnswer = 3,
    /// 4: acknowledged before another is sent means before it in the log.
    AckOrder = 4,
    /// 5: each sender's order is kept.
    SenderOrder = 5,
    /// 6: every member's client reaches the head.
    ReachesHead = 6,
    /// 7: cursors never go back, unread follows from log and cursor.
    Cursors = 7,
    /// 8: nothing after a removal reaches the removed.
    Removal = 8,
    /// 9: the device policy holds at rest.
    DevicePolicy = 9,
    /// 10: no byte of one user ever reaches another.
    Foreign = 10,
}

impl Invariant {
    /// All of them, in their order.
    pub const ALL: [Self; 11] = [
        Self::Answered,
        Self::PresentOnce,
        Self::OneLog,
        Self::OneAnswer,
        Self::AckOrder,
        Self::SenderOrder,
        Self::ReachesHead,
        Self::Cursors,
        Self::Removal,
        Self::DevicePolicy,
        Self::Foreign,
    ];
}

/// What the invariant of this number says.
#[must_use]
pub const fn promise(number: u8) -> &'static str {
    match number {
        0 => "every send and every change is answered",
        1 => "acknowledged means present exactly once",
        2 => "seqs are dense, never reused, the same for all",
        3 => "the same operation id gets the same answer",
        4 => "acknowledged before another is sent means before it in the log",
        5 => "each sender's order is kept",
        6 => "every member's client reaches the head",
        7 => "cursors never go back, unread follows from log and cursor",
        8 => "nothing after a removal reaches the removed",
        9 => "the device policy holds at rest",
        10 => "no byte of one user ever reaches another",
        _ => "no invariant of this version",
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// How: who, where, what was there and what should have been.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "({}, {:?}) {}",
            self.invariant as u8, self.invariant, self.what
        )
    }
}
