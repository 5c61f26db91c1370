//! Rendezvous hashing: which node a key belongs to, so that all who know the same nodes agree without a word. Pure.
//!
//! Weighted rendezvous (Schindelhauer and Schomaker, 2005; unweighted: Thaler and Ravishankar, 1998): each node draws a number
//! from the hash of key and node, scaled by its weight, and the least wins. A node that leaves moves only its own keys, one
//! that comes takes keys only for itself.
//!
//! Only the draw is here. Which nodes take part, and what else counts, is for those who place: the router for requests,
//! app-service for users and for what dead nodes left.

/// The weight of an ordinary node that shall have a full share.
pub const FULL_WEIGHT_PERMILLE: u32 = 1_000;

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every bit of the input reaches every bit of the output.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What the node with this hash of its name (CityHash) draws for `key`; the least of all wins. Exponentially distributed with the weight
/// (at least 1; of an ordinary node [`FULL_WEIGHT_PERMILLE`]) as its rate, so that nodes win in proportion.
#[must_use]
pub fn draw(key: u64, node_hash: u64, weight_permille: u32) -> f64 {
    // 53 bits, in the middle of their steps so that neither 0 nor 1 occurs.
    let bits = mix(key ^ mix(node_hash)) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let uniform = (bits as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(weight_permille.max(1))
}

#[cfg(test)]
mod tests {
    use whimbrel_protocol::bucket::city_hash;

    use super::*;

    #[test]
    fn nodes_win_in_proportion_to_their_weight() {
        let nodes = [("a", 1_000), ("b", 1_000), ("c", 500)];
        let mut wins = [0_u32; 3];
        for key in 0..25_000 {
            let draw = |index: &usize| {
                let (name, weight) = nodes[*index];
                draw(mix(key), city_hash(name.as_bytes()), weight)
            };
            let winner = (0..3).min_by(|a, b| draw(a).total_cmp(&draw(b)));
            wins[winner.unwrap_or(0)] += 1;
        }
        for (won, expected) in wins.into_iter().zip([10_000, 10_000, 5_000]) {
            assert!(won.abs_diff(expected) < 400, "{wins:?}");
        }
    }

    #[test]
    fn the_finaliser_is_the_published_one() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }
}
