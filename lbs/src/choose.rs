//! Which gateways, in which order: the least loaded of two random ones, again and again, without replacement.
//!
//! Two random choices keep the load nearly even although every LBS and every client acts alone on numbers a second old;
//! always naming the least loaded would send the whole second's clients to one gateway. (Mitzenmacher, "The Power of Two
//! Choices in Randomized Load Balancing", 1996.)

use rand::{Rng, RngExt};

/// How full a gateway says it is; smaller is emptier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Load {
    /// 0 idle to 1000 full.
    pub(crate) permille: u32,
    /// Decides between gateways equally full, as all are when they are nearly idle.
    pub(crate) connections: u64,
}

/// Up to `limit` different indices into `loads`, best first.
pub(crate) fn choose(loads: &[Load], limit: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut pool: Vec<(usize, Load)> = loads.iter().copied().enumerate().collect();
    let mut chosen = Vec::with_capacity(limit.min(pool.len()));
    while chosen.len() < limit && !pool.is_empty() {
        let place = lighter_of_two(&pool, rng);
        let (index, _) = pool.swap_remove(place);
        chosen.push(index);
    }
    chosen
}

fn lighter_of_two(pool: &[(usize, Load)], rng: &mut impl Rng) -> usize {
    let first = rng.random_range(0..pool.len());
    if pool.len() == 1 {
        return first;
    }
    // Another one: drawn from one place fewer, and moved past the first.
    let drawn = rng.random_range(0..pool.len() - 1);
    let second = if drawn >= first { drawn + 1 } else { drawn };
    if pool[second].1 < pool[first].1 {
        second
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn loads() -> impl Strategy<Value = Vec<Load>> {
        let load = (0_u32..=1000, 0_u64..20_000).prop_map(|(permille, connections)| Load {
            permille,
            connections,
        });
        prop::collection::vec(load, 0..40)
    }

    proptest! {
        #[test]
        fn as_many_as_asked_for_and_there_are_and_none_twice(loads in loads(), limit in 0_usize..20, seed: u64) {
            let chosen = choose(&loads, limit, &mut SmallRng::seed_from_u64(seed));
            prop_assert_eq!(chosen.len(), limit.min(loads.len()));
            prop_assert!(chosen.iter().all(|index| *index < loads.len()));
            prop_assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
        }

        #[test]
        fn the_one_heaviest_gateway_is_named_last_or_not_at_all(loads in loads(), limit in 1_usize..40, seed: u64) {
            let chosen = choose(&loads, limit, &mut SmallRng::seed_from_u64(seed));
            let heaviest = loads.iter().max().copied();
            let alone = heaviest.is_some_and(|top| loads.iter().filter(|load| **load == top).count() == 1);
            if alone && loads.len() > 1 {
                let place = chosen.iter().position(|index| Some(loads[*index]) == heaviest);
                prop_assert!(place.is_none_or(|place| place + 1 == loads.len()));
            }
        }
    }

    #[test]
    fn equal_gateways_are_named_first_equally_often() {
        let loads = [Load {
            permille: 5,
            connections: 9,
        }; 4];
        let mut rng = SmallRng::seed_from_u64(7);
        let mut firsts = [0_u32; 4];
        for _ in 0..4_000 {
            firsts[choose(&loads, 1, &mut rng)[0]] += 1;
        }
        assert!(
            firsts.iter().all(|count| (850..=1_150).contains(count)),
            "{firsts:?}"
        );
    }

    #[test]
    fn an_emptier_gateway_is_named_first_more_often_and_never_always() {
        let loads = [100, 200, 300, 400].map(|permille| Load {
            permille,
            connections: 0,
        });
        let mut rng = SmallRng::seed_from_u64(7);
        let mut firsts = [0_u32; 4];
        for _ in 0..6_000 {
            firsts[choose(&loads, 1, &mut rng)[0]] += 1;
        }
        // Of the six pairs the emptiest wins three, the next two, the next one.
        for (count, expected) in firsts.into_iter().zip([3_000_u32, 2_000, 1_000, 0]) {
            assert!(count.abs_diff(expected) < 200, "{firsts:?}");
        }
    }
}
