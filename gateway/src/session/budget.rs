//! A bound on bytes that many sessions share.
//!
//! Each reactor has its own share of the gateway's totals, so counting needs no atomics. Whoever takes bytes gives back
//! exactly as many: sessions note what they took, and [`super::Session::release`] returns the rest at the end.

use std::cell::Cell;

/// Bytes taken of a fixed number.
#[derive(Debug)]
pub(crate) struct Budget {
    used: Cell<usize>,
    max: usize,
}

impl Budget {
    /// Nothing taken of `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            used: Cell::new(0),
            max,
        }
    }

    /// Takes `bytes` if they are there.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        match self.used.get().checked_add(bytes) {
            Some(used) if used <= self.max => {
                self.used.set(used);
                true
            }
            _ => false,
        }
    }

    /// Takes `bytes` for one who may not have more than half of the bound: however many strangers never finish their
    /// hellos, those who are logged in find room, and however many do not read what waits for them, those who do.
    pub(crate) fn try_take_of_half(&self, bytes: usize) -> bool {
        self.used.get().saturating_add(bytes) <= self.max / 2 && self.try_take(bytes)
    }

    /// Whether half is taken.
    pub(crate) fn is_half_taken(&self) -> bool {
        self.used.get() >= self.max / 2
    }

    /// Takes `bytes` even over the bound: for what must be said, a CLOSE among it.
    pub(crate) fn take(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_add(bytes));
    }

    /// Gives `bytes` back.
    pub(crate) fn give(&self, bytes: usize) {
        debug_assert!(
            bytes <= self.used.get(),
            "gave back {bytes} of {} taken bytes",
            self.used.get()
        );
        self.used.set(self.used.get().saturating_sub(bytes));
    }

    /// Whether so many are left.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used.get().saturating_add(bytes) <= self.max
    }

    /// Whether three quarters are taken: high time to make room.
    pub(crate) fn is_short(&self) -> bool {
        self.used.get() >= self.max / 4 * 3
    }

    /// Bytes taken now.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_up_to_its_bound_and_again_after_giving_back() {
        let budget = Budget::new(10);
        assert!(budget.try_take(10));
        assert!(!budget.try_take(1));
        budget.give(4);
        assert!(budget.try_take(4));
        assert_eq!(budget.used(), 10);
    }

    #[test]
    fn who_may_have_half_leaves_the_other_half() {
        let budget = Budget::new(10);
        assert!(budget.try_take_of_half(5));
        assert!(!budget.try_take_of_half(1));
        assert!(budget.try_take(5));
    }

    #[test]
    fn what_must_be_said_may_go_over() {
        let budget = Budget::new(1);
        budget.take(3);
        assert!(!budget.try_take(1));
        budget.give(3);
        assert!(budget.try_take(1));
    }
}
