//! The weights of a whole vocabulary, `w_i = exp((l_i - max l) / T)`, and a draw from them.
//!
//! One pass over the logits, in which the compiler does several at once: the exponential is a few
//! additions and products without branches. Weights are summed block by block, so that a draw adds the
//! sums of blocks and looks into one.

/// Weights that are summed together.
const BLOCK: usize = 64;

/// e^x for x up to 0, within two units of the last place; 0 below -708, where f64 is about to end.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` by its Taylor series, whose rest at degree 13 is
/// below 2^-57; `2^n` by adding to the exponent. The same on every machine, as the system's need not be.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    /// 1.5 * 2^52: adding it rounds to an integer and leaves that in the low bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts; products of the first with integers up to 2^11 are exact.
    const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    const LOWEST: f64 = -708.0;
    /// 1 / n!, from degree 13 down to 2.
    const SERIES: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
    ];
    let bounded = if x > LOWEST { x } else { LOWEST };
    let shifted = bounded * std::f64::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (bounded - n * LN2[0]) - n * LN2[1];
    let mut tail = SERIES[0];
    for coefficient in &SERIES[1..] {
        tail = tail * r + coefficient;
    }
    // The small terms first, so that 1 takes one rounding.
    let series = 1.0 + (r + r * r * tail);
    let power = f64::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 52));
    if x >= LOWEST { power } else { 0.0 }
}

/// One weight a token, and their sums by blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weights {
    values: Vec<f64>,
    sums: Vec<f64>,
}

impl Weights {
    /// Computes all weights of a row whose largest logit is `max`.
    pub(crate) fn fill(&mut self, logits: &[f32], max: f64, temperature: f64) {
        self.values.resize(logits.len(), 0.0);
        self.sums.resize(logits.len().div_ceil(BLOCK), 0.0);
        let blocks = self.values.chunks_mut(BLOCK).zip(logits.chunks(BLOCK));
        for (sum, (values, logits)) in self.sums.iter_mut().zip(blocks) {
            for (value, &logit) in values.iter_mut().zip(logits) {
                *value = exp((f64::from(logit) - max) / temperature);
            }
            *sum = total(values);
        }
    }

    /// The weight of each token.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// The sum of all.
    pub(crate) fn total(&self) -> f64 {
        total(&self.sums)
    }

    /// The token at which the cumulative probability, by ascending id, passes `u` from [0, 1).
    pub(crate) fn quantile(&self, u: f64) -> u32 {
        let target = u * self.total();
        let mut cumulative = 0.0;
        for (block, &sum) in self.sums.iter().enumerate() {
            if target < cumulative + sum {
                let start = block * BLOCK;
                let end = self.values.len().min(start + BLOCK);
                for (token, weight) in (start..end).zip(&self.values[start..end]) {
                    cumulative += weight;
                    if target < cumulative {
                        return token as u32;
                    }
                }
                return self.last_before(end);
            }
            cumulative += sum;
        }
        // Rounding may leave a hair between the sum and the target.
        self.last_before(self.values.len())
    }

    /// The last token before `end` that can be drawn; the row has one with weight 1.
    fn last_before(&self, end: usize) -> u32 {
        let last = self.values[..end].iter().rposition(|&w| w > 0.0);
        last.or(self.values.iter().position(|&w| w > 0.0)).unwrap_or(0) as u32
    }
}

/// The sum of all weights of a row at temperature 1, without keeping them.
pub(crate) fn sum_of_weights(logits: &[f32], max: f64) -> f64 {
    let mut values = [0.0; BLOCK];
    let blocks = logits.chunks(BLOCK).map(|logits| {
        for (value, &logit) in values.iter_mut().zip(logits) {
            *value = exp(f64::from(logit) - max);
        }
        total(&values[..logits.len()])
    });
    blocks.sum()
}

/// The sum, in eight lanes.
fn total(values: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let mut chunks = values.chunks_exact(8);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    let rest: f64 = chunks.remainder().iter().sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_system() {
        let mut worst: f64 = 0.0;
        for i in 0..2_000_000 {
            let x = -f64::from(i) * 3.54e-4 / 1.000_001;
            let (got, want) = (exp(x), x.exp());
            worst = worst.max((got - want).abs() / want);
        }
        assert!(worst < 5e-16, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!((exp(f64::NEG_INFINITY), exp(-708.1), exp(-1e300)), (0.0, 0.0, 0.0));
        assert!(exp(-708.0) > 0.0);
    }

    #[test]
    fn a_draw_is_that_of_the_cumulative_sum() {
        let noise = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6;
        for n in [1, 2, 63, 64, 65, 1000] {
            let logits: Vec<f32> = (0..n).map(noise).collect();
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let mut weights = Weights::default();
            weights.fill(&logits, f64::from(max), 0.7);
            let total: f64 = weights.values().iter().sum();
            assert!((weights.total() - total).abs() < 1e-12 * total);
            for i in 0..1000 {
                let u = (f64::from(i) + 0.5) / 1000.0;
                let mut cumulative = 0.0;
                let want = weights.values().iter().position(|w| {
                    cumulative += w;
                    u * total < cumulative
                });
                assert_eq!(Some(weights.quantile(u) as usize), want, "{n}: {u}");
            }
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_not() {
        let none = f32::NEG_INFINITY;
        let mut weights = Weights::default();
        weights.fill(&[none, 1.0, none, 1.0, none], 1.0, 1.0);
        for (u, token) in [(0.0, 1), (0.49, 1), (0.5, 3), (1.0 - f64::EPSILON / 2.0, 3), (1.0, 3)] {
            assert_eq!(weights.quantile(u), token, "{u}");
        }
    }
}
