//! Medians, and how sure their ratio is.

/// The median of at least one value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    (sorted[n / 2] + sorted[(n - 1) / 2]) / 2.0
}

/// A ratio of medians and its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    /// The 2.5th and 97.5th percentile of the bootstrap.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// `median(a) / median(b)` of values that were measured in pairs, with a 95 % percentile bootstrap
/// over pairs (Efron and Tibshirani 1993, chapter 13): rounds are drawn with replacement, so that
/// what slows both programs of a round stays together. The same seed gives the same interval.
pub(crate) fn ratio(a: &[f64], b: &[f64], seed: u64) -> Ratio {
    const DRAWS: usize = 10_000;
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut state = seed;
    // SplitMix64 (Steele, Lea and Flood 2014).
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut drawn: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let rounds: Vec<usize> = (0..n).map(|_| (random() % n as u64) as usize).collect();
            let of =
                |values: &[f64]| median(&rounds.iter().map(|&i| values[i]).collect::<Vec<_>>());
            of(a) / of(b)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    Ratio {
        value: median(a) / median(b),
        low: drawn[DRAWS / 40],
        high: drawn[DRAWS - 1 - DRAWS / 40],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drift_that_both_share_does_not_widen_the_interval() {
        let b = [10.0, 20.0, 30.0, 40.0, 50.0];
        let a = b.map(|x| 2.0 * x);
        let r = ratio(&a, &b, 1);
        assert_eq!((r.value, r.low, r.high), (2.0, 2.0, 2.0));
    }

    #[test]
    fn the_interval_holds_the_ratio_and_depends_on_the_seed_alone() {
        let a = [3.0, 2.9, 3.3, 3.1, 2.7, 3.05, 3.2, 2.95];
        let b = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.97, 1.01];
        let r = ratio(&a, &b, 7);
        assert!(r.low < r.value && r.value < r.high, "{r:?}");
        assert_eq!(r, ratio(&a, &b, 7));
    }
}
