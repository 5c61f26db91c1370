//! What became of the messages that were due in each tenth of a second: fine enough to say when a fault was felt and until when,
//! and how many were answered in time outside of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;

/// How long a slice is.
pub const EVERY: Duration = Duration::from_millis(100);
/// An acknowledgement that took no longer came in time.
pub const IN_TIME: Duration = Duration::from_secs(5);
/// Slices of a run: those of a day. What is further from the first is left out.
const SLICES_MAX: usize = 864_000;

/// Of the messages due in one slice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// How many.
    pub offered: u32,
    /// Those acknowledged.
    pub acked: u32,
    /// Of them, those in time.
    pub in_time: u32,
    /// Those refused for good.
    pub refused: u32,
    /// The longest time to an acknowledgement, milliseconds.
    pub ack_max_ms: u32,
    /// The longest time to a delivery, milliseconds.
    pub delivery_max_ms: u32,
}

/// All slices, without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slices {
    /// Of the first one, how many lie before it since the machine started.
    first: u64,
    all: Vec<Slice>,
}

/// The same as columns, for a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Columns {
    /// When the first slice began, milliseconds on this machine's monotonic clock.
    pub from_ms: u64,
    /// How long each is, milliseconds.
    pub every_ms: u64,
    /// See [`Slice`].
    pub offered: Vec<u32>,
    /// See [`Slice`].
    pub acked: Vec<u32>,
    /// See [`Slice`].
    pub in_time: Vec<u32>,
    /// See [`Slice`].
    pub refused: Vec<u32>,
    /// See [`Slice`].
    pub ack_max_ms: Vec<u32>,
    /// See [`Slice`].
    pub delivery_max_ms: Vec<u32>,
}

fn number(due: Duration) -> u64 {
    u64::try_from(due.as_millis() / EVERY.as_millis()).unwrap_or(u64::MAX)
}

fn ms(took: Duration) -> u32 {
    u32::try_from(took.as_millis()).unwrap_or(u32::MAX)
}

impl Slices {
    /// A message became due at `due`.
    pub fn offered(&mut self, due: Duration) {
        self.count(due, |slice| slice.offered += 1);
    }

    /// It was acknowledged.
    pub fn acked(&mut self, due: Duration, took: Duration) {
        self.count(due, |slice| {
            slice.acked += 1;
            slice.in_time += u32::from(took <= IN_TIME);
            slice.ack_max_ms = slice.ack_max_ms.max(ms(took));
        });
    }

    /// It was refused for good.
    pub fn refused(&mut self, due: Duration) {
        self.count(due, |slice| slice.refused += 1);
    }

    /// It was delivered.
    pub fn delivered(&mut self, due: Duration, took: Duration) {
        self.count(due, |slice| {
            slice.delivery_max_ms = slice.delivery_max_ms.max(ms(took));
        });
    }

    fn count(&mut self, due: Duration, count: impl FnOnce(&mut Slice)) {
        if let Some(slice) = self.slice(number(due)) {
            count(slice);
        }
    }

    fn slice(&mut self, number: u64) -> Option<&mut Slice> {
        if self.all.is_empty() {
            self.first = number;
        }
        let before = usize::try_from(self.first.saturating_sub(number)).ok()?;
        if before > 0 {
            if self.all.len() + before > SLICES_MAX {
                return None;
            }
            self.all
                .splice(0..0, std::iter::repeat_n(Slice::default(), before));
            self.first = number;
        }
        let index = usize::try_from(number - self.first).ok()?;
        if index >= SLICES_MAX {
            return None;
        }
        if index >= self.all.len() {
            self.all.resize(index + 1, Slice::default());
        }
        self.all.get_mut(index)
    }

    /// Takes in those of another process.
    pub fn merge(&mut self, other: &Self) {
        for (number, theirs) in (other.first..).zip(&other.all) {
            if let Some(slice) = self.slice(number) {
                slice.offered += theirs.offered;
                slice.acked += theirs.acked;
                slice.in_time += theirs.in_time;
                slice.refused += theirs.refused;
                slice.ack_max_ms = slice.ack_max_ms.max(theirs.ack_max_ms);
                slice.delivery_max_ms = slice.delivery_max_ms.max(theirs.delivery_max_ms);
            }
        }
    }

    /// As columns.
    #[must_use]
    pub fn columns(&self) -> Columns {
        let every_ms = u64::from(ms(EVERY));
        let column = |of: fn(&Slice) -> u32| self.all.iter().map(of).collect();
        Columns {
            from_ms: self.first * every_ms,
            every_ms,
            offered: column(|slice| slice.offered),
            acked: column(|slice| slice.acked),
            in_time: column(|slice| slice.in_time),
            refused: column(|slice| slice.refused),
            ack_max_ms: column(|slice| slice.ack_max_ms),
            delivery_max_ms: column(|slice| slice.delivery_max_ms),
        }
    }
}

/// Now, on the clock that slices are counted by, milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(clock::now().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_message_counts_where_it_was_due_however_late_its_answer_is() {
        let mut slices = Slices::default();
        slices.offered(MS(1_050));
        slices.offered(MS(1_250));
        slices.acked(MS(1_250), MS(10));
        slices.delivered(MS(1_250), MS(30));
        slices.acked(MS(1_050), IN_TIME + MS(1));
        let columns = slices.columns();
        assert_eq!((columns.from_ms, columns.every_ms), (1_000, 100));
        assert_eq!(columns.offered, [1, 0, 1]);
        assert_eq!(columns.acked, [1, 0, 1]);
        assert_eq!(columns.in_time, [0, 0, 1]);
        assert_eq!(columns.ack_max_ms, [5_001, 0, 10]);
        assert_eq!(columns.delivery_max_ms, [0, 0, 30]);
    }

    #[test]
    fn two_processes_count_as_one_whichever_began_first() {
        let (mut one, mut two) = (Slices::default(), Slices::default());
        one.offered(MS(500));
        two.offered(MS(300));
        two.refused(MS(300));
        two.offered(MS(500));
        one.merge(&two);
        assert_eq!(one.columns().from_ms, 300);
        assert_eq!(one.columns().offered, [1, 0, 2]);
        assert_eq!(one.columns().refused, [1, 0, 0]);
        let before = one.clone();
        one.merge(&Slices::default());
        assert_eq!(one, before);
    }

    #[test]
    fn what_is_a_day_away_is_left_out() {
        let mut slices = Slices::default();
        slices.offered(MS(0));
        slices.offered(MS(100 * 864_000));
        assert_eq!(slices.columns().offered, [1]);
    }
}
