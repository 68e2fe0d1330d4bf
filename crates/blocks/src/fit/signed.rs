//! x ~ scale * (q - n), q in 0..2n.

use super::{TINY, byte, clamp};
use crate::lanes::{LANES, Lane, Lanes, each, mask, replace, signed_maxima};
use crate::round::{ROUND, signed_max};

/// The result for each group.
pub(crate) struct Signed {
    pub(crate) scale: Lane<f32>,
    /// The rounding of the best fit: q - n = inverse * x.
    inverse: Lane<f32>,
    zero: Lane<bool>,
    n: f32,
}

impl Signed {
    /// The numbers of group `g`, whose elements are `x`; all 0 of a group that was taken as zero.
    #[inline(always)]
    pub(crate) fn levels<const N: usize>(&self, g: usize, x: &[f32; N]) -> [u8; N] {
        if self.zero[g] { [0; N] } else { levels(self.inverse[g], x, self.n) }
    }
}

#[inline(always)]
fn level(inverse: f32, x: f32, n: f32) -> f32 {
    clamp((inverse * x + ROUND) - ROUND, -n, n - 1.0)
}

#[inline(always)]
fn levels<const N: usize>(inverse: f32, x: &[f32; N], n: f32) -> [u8; N] {
    let mut q = [0; N];
    for i in 0..N {
        q[i] = byte(level(inverse, x[i], n) + n);
    }
    q
}

/// The tenths more than n at which the element of largest magnitude is tried.
const TENTHS: [i8; 18] = [-9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Fits x ~ scale * (q - n) for q in 0..2n: tries n at -9..=9 tenths more for the element of
/// largest magnitude.
#[inline(always)]
pub(crate) fn fit_signed<const N: usize>(
    x: &Lanes<f32, N>,
    weights: &Lanes<f32, N>,
    n: i32,
) -> Signed {
    let n = n as f32;
    let max = signed_maxima(x);
    let mut inverse = each(|g| -n / max[g]);
    let (lx, l2) = sums(x, weights, &inverse, n);
    let mut scale = each(|g| if l2[g] != 0.0 { lx[g] / l2[g] } else { 0.0 });
    let mut best = each(|g| scale[g] * lx[g]);
    for tenths in TENTHS {
        let trial = each(|g| -(n + 0.1 * f32::from(tenths)) / max[g]);
        let (lx, l2) = sums(x, weights, &trial, n);
        let new_scale = each(|g| lx[g] / l2[g]);
        let mut better = [0; LANES];
        for g in 0..LANES {
            better[g] = mask(l2[g] > 0.0) & mask(lx[g] * lx[g] > best[g] * l2[g]);
        }
        replace(&better, &mut inverse, &trial);
        replace(&better, &mut scale, &new_scale);
        replace(&better, &mut best, &each(|g| new_scale[g] * lx[g]));
    }
    let mut zero = [false; LANES];
    for g in 0..LANES {
        zero[g] = max[g].abs() < TINY;
        scale[g] = if zero[g] { 0.0 } else { scale[g] };
    }
    Signed { scale, inverse, zero, n }
}

/// The sums of `w x l` and `w l^2` for a rounding of each group.
#[inline(always)]
fn sums<const N: usize>(
    x: &Lanes<f32, N>,
    weights: &Lanes<f32, N>,
    inverse: &Lane<f32>,
    n: f32,
) -> (Lane<f32>, Lane<f32>) {
    let (mut lx, mut l2) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (x, w) in x.iter().zip(weights) {
        for g in 0..LANES {
            let l = level(inverse[g], x[g], n);
            lx[g] += w[g] * x[g] * l;
            l2[g] += w[g] * l * l;
        }
    }
    (lx, l2)
}

/// [`fit_signed`] of a single group, its roundings side by side: scale and numbers.
#[inline(always)]
pub(crate) fn fit_signed_one<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    n: i32,
) -> (f32, [u8; N]) {
    let n = n as f32;
    let max = signed_max(x);
    if max.abs() < TINY {
        return (0.0, [0; N]);
    }
    let mut best: Option<(f32, f32, f32)> = None;
    for tenths in [&[0][..], &TENTHS[..9], &TENTHS[9..]] {
        let mut trial = [1.0f32; LANES];
        for (trial, tenths) in trial.iter_mut().zip(tenths) {
            *trial = -(n + 0.1 * f32::from(*tenths)) / max;
        }
        let (mut lx, mut l2) = ([0.0f32; LANES], [0.0f32; LANES]);
        for (x, w) in x.iter().zip(weights) {
            for t in 0..LANES {
                let l = level(trial[t], *x, n);
                lx[t] += w * x * l;
                l2[t] += w * l * l;
            }
        }
        for t in 0..tenths.len() {
            best = match best {
                None => {
                    let scale = if l2[t] != 0.0 { lx[t] / l2[t] } else { 0.0 };
                    Some((trial[t], scale, scale * lx[t]))
                }
                Some((_, _, best)) if l2[t] > 0.0 && lx[t] * lx[t] > best * l2[t] => {
                    let scale = lx[t] / l2[t];
                    Some((trial[t], scale, scale * lx[t]))
                }
                kept => kept,
            };
        }
    }
    let (inverse, scale, _) = best.unwrap_or_default();
    (scale, levels(inverse, x, n))
}
