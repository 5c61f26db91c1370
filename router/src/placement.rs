//! Which node serves a key: [rendezvous hashing](whimbrel_registry::rendezvous) with weights and bounded load. Pure.
//!
//! Bounded load (Mirrokni, Thorup, Zadimoghaddam, 2018): a node that has more than its share of what is out
//! now, and then a quarter, is passed over, so that one hot conversation cannot drown a node. Placement is for speed
//! only; nothing rests on it.

use whimbrel_registry::rendezvous::draw;

/// How much over its share a node may have, permille.
const OVER_SHARE_PERMILLE: u64 = 1_250;
/// Below this many unanswered requests no node is busy, whatever its share: keys stay where they are.
const LOAD_FLOOR: u64 = 64;

/// A node that may be chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// The hash of its name.
    pub(crate) node_hash: u64,
    /// Its share, beside the others' weights; an ordinary node that is whole has 1,000. At least 1.
    pub(crate) weight: u32,
    /// What it has not yet answered.
    pub(crate) outstanding: usize,
    /// Full by its own word or ours: only for want of others.
    pub(crate) full: bool,
}

/// The index of the node that serves `key`; `None` when there are no candidates.
pub(crate) fn place(key: u64, candidates: &[Candidate]) -> Option<usize> {
    let total: u64 = candidates
        .iter()
        .map(|candidate| candidate.outstanding as u64)
        .sum();
    let weights: u64 = candidates
        .iter()
        .map(|candidate| u64::from(candidate.weight.max(1)))
        .sum();
    let has_room = |candidate: &Candidate| {
        !candidate.full && (candidate.outstanding as u64) < load_max(candidate, total, weights)
    };
    let best = |wanted: &dyn Fn(&Candidate) -> bool| {
        candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| wanted(candidate))
            .min_by(|(_, a), (_, b)| score(key, a).total_cmp(&score(key, b)))
            .map(|(index, _)| index)
    };
    best(&has_room)
        .or_else(|| best(&|candidate| !candidate.full))
        .or_else(|| best(&|_| true))
}

/// What `candidate` may have out, the new request included, when `total` is out already.
fn load_max(candidate: &Candidate, total: u64, weights: u64) -> u64 {
    let weight = u64::from(candidate.weight.max(1));
    let share = (total + 1) * weight * OVER_SHARE_PERMILLE;
    share.div_ceil(weights * 1_000).max(LOAD_FLOOR)
}

fn score(key: u64, candidate: &Candidate) -> f64 {
    draw(key, candidate.node_hash, candidate.weight)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;
    use whimbrel_registry::rendezvous::mix;

    use super::*;

    fn pool(nodes: usize) -> Vec<Candidate> {
        (0..nodes as u64)
            .map(|node| Candidate {
                node_hash: mix(node + 1_000),
                weight: 1_000,
                outstanding: 0,
                full: false,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn a_lost_node_moves_only_its_own_keys(nodes in 2_usize..12, lost in any::<prop::sample::Index>(), key: u64) {
            let whole = pool(nodes);
            let lost = lost.index(nodes);
            let before = place(key, &whole).unwrap();
            let mut rest = whole.clone();
            rest.remove(lost);
            let after = place(key, &rest).unwrap();
            if before != lost {
                prop_assert_eq!(rest[after].node_hash, whole[before].node_hash);
            }
        }

        #[test]
        fn a_growing_node_takes_keys_only_for_itself(nodes in 2_usize..12, key: u64, from in 1_u32..1_000) {
            let mut grown = pool(nodes);
            let mut growing = grown.clone();
            growing[0].weight = from;
            let before = place(key, &growing).unwrap();
            let after = place(key, &grown).unwrap();
            prop_assert!(after == before || after == 0);
            grown[0].full = true;
            prop_assert_ne!(place(key, &grown), Some(0));
        }

        #[test]
        fn no_node_gets_more_than_its_share_and_a_quarter(
            weights in prop::collection::vec(100_u32..=1_000, 2..10),
            keys in prop::collection::vec(0_u64..4, 1..3_000),
        ) {
            let mut candidates = pool(weights.len());
            for (candidate, weight) in candidates.iter_mut().zip(&weights) {
                candidate.weight = *weight;
            }
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (total, key) in keys.iter().enumerate() {
                let chosen = place(*key, &candidates).unwrap();
                let candidate = &mut candidates[chosen];
                candidate.outstanding += 1;
                let share = (total + 1) as f64 * f64::from(candidate.weight) / sum * 1.25;
                prop_assert!(candidate.outstanding as f64 <= (share + 1.0).max(LOAD_FLOOR as f64));
            }
        }
    }

    #[test]
    fn keys_spread_in_proportion_to_weight() {
        let mut candidates = pool(4);
        candidates[3].weight = 500;
        let mut counts = [0_usize; 4];
        for key in 0..35_000 {
            counts[place(mix(key), &candidates).unwrap()] += 1;
        }
        for (node, expected) in [10_000_i64, 10_000, 10_000, 5_000].into_iter().enumerate() {
            let difference = i64::try_from(counts[node]).unwrap() - expected;
            assert!(difference.abs() < 400, "{counts:?}");
        }
    }

    #[test]
    fn a_hot_key_stays_on_one_node_until_it_is_busy() {
        let mut candidates = pool(3);
        let home = place(42, &candidates).unwrap();
        for _ in 0..LOAD_FLOOR {
            assert_eq!(place(42, &candidates), Some(home));
            candidates[home].outstanding += 1;
        }
        assert_ne!(place(42, &candidates), Some(home));
    }

    #[test]
    fn full_nodes_serve_only_for_want_of_others() {
        let mut candidates = pool(2);
        candidates[0].full = true;
        assert!((0..100).all(|key| place(mix(key), &candidates) == Some(1)));
        candidates[1].full = true;
        assert!((0..100).any(|key| place(mix(key), &candidates) == Some(0)));
        assert_eq!(place(1, &[]), None);
    }
}
