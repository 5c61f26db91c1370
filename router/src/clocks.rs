//! Whose wall clock is far off. Pure.
//!
//! Nothing between nodes rests on wall clocks, but a service node judges tokens and operation ids by its own, and a gateway
//! its descriptor: one whose clock is wrong by days refuses everybody for good, and sounds sure of it. So each node says with
//! every probe what time it has, and a node that differs much from most of them gets no work and is told so. There must be
//! three voices at least, and more than half of them must agree: else nobody can say who is wrong.

/// How far a clock may be from what most say, ms: far more than a probe takes or a kept clock drifts, far less than what
/// tokens and operation ids allow.
pub(crate) const AHEAD_MAX_MS: i64 = 60_000;
/// Voices without which nobody is judged.
const VOICES_MIN: usize = 3;

/// What most clocks say, as the median of their offsets to any common scale; `None` when they do not agree. Sorts them.
pub(crate) fn consensus(offsets_ms: &mut [i64]) -> Option<i64> {
    if offsets_ms.len() < VOICES_MIN {
        return None;
    }
    offsets_ms.sort_unstable();
    let median = offsets_ms[offsets_ms.len() / 2];
    let agree = offsets_ms
        .iter()
        .filter(|offset| ahead_ms(**offset, median) == 0)
        .count();
    (agree * 2 > offsets_ms.len()).then_some(median)
}

/// How far ahead of `median` a clock is, ms, when that is more than it may be; else 0.
pub(crate) fn ahead_ms(offset_ms: i64, median: i64) -> i64 {
    let ahead_ms = offset_ms.saturating_sub(median);
    if ahead_ms.unsigned_abs() > AHEAD_MAX_MS.unsigned_abs() {
        ahead_ms
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_those_who_agree_counts() {
        assert_eq!(consensus(&mut [5, 700_000, -3]), Some(5));
        assert_eq!(
            consensus(&mut [0, 9_000_000, -9_000_000, 12]),
            None,
            "half of them is no majority"
        );
        assert_eq!(consensus(&mut [0, 1]), None, "of two, either may be wrong");
        assert_eq!(consensus(&mut [0, 0, 0, i64::MAX, i64::MIN]), Some(0));
    }

    #[test]
    fn only_what_is_far_off_is_said() {
        assert_eq!(ahead_ms(AHEAD_MAX_MS, 0), 0);
        assert_eq!(ahead_ms(AHEAD_MAX_MS + 1, 0), AHEAD_MAX_MS + 1);
        assert_eq!(ahead_ms(-86_400_000, 0), -86_400_000);
        assert_eq!(ahead_ms(i64::MIN, i64::MAX), i64::MIN);
    }
}
