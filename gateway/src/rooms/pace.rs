//! A token bucket for each user bucket: it paces the bulk work for that bucket's users.
//!
//! A user bucket holds about one of a thousand users. Its fair share of a reactor that does nothing but deliver is some 150
//! deliveries a second; it may take a dozen times that before its members wait for their next token, so that only what is
//! lopsided is paced, and the slices keep the rest in proportion. Classic token bucket, refilled by whole milliseconds.

use crate::engine::Place;

/// Tokens a bucket gets, per millisecond.
const TOKENS_PER_MS: u64 = 2;

#[derive(Debug, Clone, Copy, Default)]
struct Tokens {
    left: u64,
    at_ms: u64,
}

/// Which user bucket a member is paced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PacedBy(pub(crate) u32);

/// The token buckets of one reactor.
#[derive(Debug)]
pub(super) struct Pace {
    buckets: Vec<Tokens>,
    tokens_max: u64,
}

impl Pace {
    /// Buckets that can save up so many tokens.
    pub(super) fn new(tokens_max: u64) -> Self {
        Self {
            buckets: Vec::new(),
            tokens_max,
        }
    }

    /// Makes sure that a bucket is there; a new one is full.
    pub(super) fn open(&mut self, bucket: PacedBy, now_ms: u64) {
        let len = bucket.0 as usize + 1;
        if self.buckets.len() < len {
            let full = Tokens {
                left: self.tokens_max,
                at_ms: now_ms,
            };
            self.buckets.resize(len, full);
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, bucket: PacedBy, now_ms: u64) -> bool {
        let Some(tokens) = self.buckets.get_mut(bucket.0 as usize) else {
            return true;
        };
        let gained = now_ms.saturating_sub(tokens.at_ms).saturating_mul(TOKENS_PER_MS);
        tokens.left = tokens.left.saturating_add(gained).min(self.tokens_max);
        tokens.at_ms = now_ms.max(tokens.at_ms);
        match tokens.left.checked_sub(1) {
            Some(left) => {
                tokens.left = left;
                true
            }
            None => false,
        }
    }
}

/// A session in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) bucket: PacedBy,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_runs_dry_and_fills_at_its_rate_and_no_further_than_its_bound() {
        let (mut pace, bucket, other) = (Pace::new(512), PacedBy(3), PacedBy(2));
        pace.open(bucket, 1_000);
        let taken = |pace: &mut Pace, now_ms| (0..10_000).take_while(|_| pace.take(bucket, now_ms)).count();
        assert_eq!(taken(&mut pace, 1_000), 512);
        assert_eq!(taken(&mut pace, 1_000), 0);
        assert!(pace.take(other, 1_000), "its neighbour is another's");
        assert_eq!(taken(&mut pace, 1_010), 20);
        assert_eq!(taken(&mut pace, 900_000), 512);
    }
}
