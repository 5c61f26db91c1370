//! All chance of a run, from its seed. SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a few instructions, and any seed is as
//! good as any other.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::PoisonError;

use whimbrel_app_service::env::Entropy;

/// A source of chance.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another source, so that what draws from it does not change what is drawn here.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("a usize fits");
        usize::try_from(self.next() % bound.max(1)).expect("it is below a usize")
    }

    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (from, to) = range.into_inner();
        from + self.next() % (to.saturating_sub(from).saturating_add(1))
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.next() % 1_000 < permille
    }

    /// One of them, if there is any.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() {
            return None;
        }
        of.get(self.below(of.len()))
    }
}

/// Dice as the randomness of a service node.
#[derive(Debug)]
pub(crate) struct SharedDice(Mutex<Dice>);

impl SharedDice {
    pub(crate) fn new(dice: Dice) -> Self {
        Self(Mutex::new(dice))
    }
}

impl Entropy for SharedDice {
    fn random_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}
