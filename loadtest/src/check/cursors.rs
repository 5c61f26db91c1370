//! How a device's cursor of the conversation list moved.
//!
//! Cursors are opaque: which of two is the later one is known only of those that a device has held, in their order. So it is
//! seen when a device is sent back to one that it had left behind, or told to forget all it had; a cursor that nobody
//! ever held says nothing. Pure.
//!
//! All that a device has left are remembered, some 13 bytes each: of six million messages to pairs, twelve million in all.

use std::collections::BTreeSet;

/// What stands for the empty cursor, of a device that knows nothing.
pub const EMPTY: u64 = 0;

/// See the module. Cursors are hashes of their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursors {
    newest: u64,
    left: BTreeSet<u64>,
    /// How often the device was sent back.
    pub back: u64,
    /// How often it was told to forget all it had, though it had a cursor of this very server.
    pub resyncs: u64,
}

impl Cursors {
    /// An answer, or a notice, that a device has applied: it takes whoever is at `from` to `to`.
    pub fn take(&mut self, from: u64, to: u64, full_resync: bool) {
        if full_resync {
            self.resyncs += u64::from(from != EMPTY);
            self.left.clear();
            self.newest = to;
            return;
        }
        // What does not go on from where the device is, it has not applied.
        if from == to || from != self.newest {
            return;
        }
        if self.left.contains(&to) {
            self.back += 1;
            return;
        }
        self.left.insert(from);
        self.newest = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(steps: &[(u64, u64, bool)]) -> (u64, u64) {
        let mut cursors = Cursors::default();
        for (from, to, full) in steps {
            cursors.take(*from, *to, *full);
        }
        (cursors.back, cursors.resyncs)
    }

    #[test]
    fn a_cursor_that_moves_on_or_stays_is_right_and_so_is_a_late_answer() {
        assert_eq!(moved(&[(EMPTY, 1, false), (1, 1, false), (1, 2, false)]), (0, 0));
        assert_eq!(
            moved(&[(EMPTY, 1, true), (1, 2, false)]),
            (0, 0),
            "a new device has nothing to forget"
        );
        assert_eq!(
            moved(&[
                (EMPTY, 1, false),
                (1, 2, false),
                (2, 3, false),
                (1, 2, false),
                (1, 3, false)
            ]),
            (0, 0)
        );
    }

    #[test]
    fn a_cursor_that_goes_back_is_found() {
        assert_eq!(moved(&[(EMPTY, 1, false), (1, 2, false), (2, 1, false)]), (1, 0));
        assert_eq!(moved(&[(EMPTY, 1, false), (1, EMPTY, false)]), (1, 0));
        let twice = [
            (EMPTY, 1, false),
            (1, 2, false),
            (2, 1, false),
            (2, 3, false),
            (3, 1, false),
        ];
        assert_eq!(moved(&twice), (2, 0));
    }

    #[test]
    fn a_cursor_that_was_left_a_thousand_steps_ago_is_known() {
        let steps = (EMPTY..1_000).map(|at| (at, at + 1, false));
        let steps: Vec<_> = steps.chain([(1_000, 3, false)]).collect();
        assert_eq!(moved(&steps), (1, 0));
    }

    #[test]
    fn a_resync_without_cause_is_found_and_begins_anew() {
        assert_eq!(moved(&[(EMPTY, 9, false), (9, 3, true), (3, 2, true)]), (0, 2));
        assert_eq!(
            moved(&[(EMPTY, 1, false), (1, 2, false), (2, 1, true), (1, 2, false)]),
            (0, 1)
        );
    }
}
