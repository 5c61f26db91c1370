//! Who may take the next of a bounded number of places, so that few who ask much do not keep out those who ask little.
//!
//! While half of the places are free nobody is held to anything. Then the bound of each is a share of what is still free:
//! dynamic thresholds, after Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches"
//! (IEEE/ACM Transactions on Networking 6, 1998). The fewer are left, the fewer anybody may have, and whoever has none gets
//! the last one. `n` who take what they can end with about `places / (share + n)` each, and leave `share` times that free: a
//! large share leaves more to those who come, a small one serves those better who come with more than one thing.

/// Of what is free, one who asks for a place must have less than this part. With 6,144 places a hundred greedy askers get 32
/// each, all that they may ask at a time; a thousand of them get 6 each, and 320 places stay free for whoever has fewer.
const SHARE: usize = 64;

/// Whether one who has `own` of the `taken` places may have another, of `places` in all: for thousands of places and askers.
#[must_use]
pub const fn may_take(own: usize, taken: usize, places: usize) -> bool {
    may_take_with(SHARE, own, taken, places)
}

/// The same where who asks must have less than one `share`-th of what is free.
#[must_use]
pub const fn may_take_with(share: usize, own: usize, taken: usize, places: usize) -> bool {
    let free = places.saturating_sub(taken);
    free > 0 && (taken < places / 2 || own.saturating_mul(share) < free)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of askers who each take what they may; who has how many.
    fn greedy(askers: usize, each_max: usize, places: usize) -> (usize, usize) {
        let mut own = vec![0; askers];
        let mut taken = 0;
        loop {
            let before = taken;
            for own in &mut own {
                if *own < each_max && may_take(*own, taken, places) {
                    *own += 1;
                    taken += 1;
                }
            }
            if taken == before {
                return (taken, own.into_iter().max().unwrap_or(0));
            }
        }
    }

    #[test]
    fn few_get_what_they_want_and_many_leave_room() {
        assert_eq!(greedy(100, 32, 6_144), (100 * 32, 32));
        let (taken, most) = greedy(1_000, 32, 6_144);
        assert!(most <= 6 && taken < 5_900, "{taken} {most}");
        // Who comes now and has nothing is let in, and another after them.
        assert!(may_take(0, taken, 6_144) && may_take(1, taken + 1, 6_144));
    }

    #[test]
    fn the_last_place_is_for_who_has_none_and_there_is_no_other() {
        assert!(may_take(0, 99, 100) && !may_take(1, 99, 100));
        assert!(!may_take(0, 100, 100));
        assert!(may_take(0, 0, 1) && !may_take(0, 0, 0));
        assert!(may_take(31, 49, 100) && !may_take(31, 50, 100));
    }

    #[test]
    fn beside_one_who_takes_all_it_can_a_small_share_lets_others_have_several() {
        let most = |share| (0..256).find(|own| !may_take_with(share, *own, 128 + own, 256));
        assert_eq!((most(8), most(SHARE)), (Some(15), Some(2)));
    }

    #[test]
    fn so_many_that_each_has_one_still_find_the_last_places() {
        assert_eq!(greedy(200, 32, 100).0, 100);
    }
}
