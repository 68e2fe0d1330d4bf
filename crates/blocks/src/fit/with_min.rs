//! x ~ scale * q + min, q in 0..=n, min <= 0.

use super::{byte, clamp};
use crate::lanes::{LANES, Lane, Lanes, each, mask, replace};
use crate::round::ROUND;

/// Which roundings [`fit_with_min`] tries: the largest element at `n + start + step * i`,
/// i in 0..=steps.
#[derive(Clone, Copy)]
pub(crate) struct Search {
    pub(crate) start: f32,
    pub(crate) step: f32,
    pub(crate) steps: u8,
    /// Minimise absolute instead of squared deviations.
    pub(crate) absolute: bool,
}

impl Search {
    /// The search used with an importance matrix.
    pub(crate) const FINE: Search = Search { start: -0.9, step: 0.05, steps: 36, absolute: false };
}

/// The result for each group.
pub(crate) struct WithMin {
    pub(crate) scale: Lane<f32>,
    pub(crate) min: Lane<f32>,
    /// The rounding of the best fit: q = inverse * (x - origin).
    inverse: Lane<f32>,
    origin: Lane<f32>,
    flat: Lane<bool>,
    n: f32,
}

impl WithMin {
    /// The numbers of group `g`, whose elements are `x`.
    #[inline(always)]
    pub(crate) fn levels<const N: usize>(&self, g: usize, x: &[f32; N]) -> [u8; N] {
        let mut q = [0; N];
        if !self.flat[g] {
            for i in 0..N {
                q[i] = byte(level(self.inverse[g], x[i], self.origin[g], self.n));
            }
        }
        q
    }
}

#[inline(always)]
fn level(inverse: f32, x: f32, min: f32, n: f32) -> f32 {
    (clamp(inverse * (x - min), 0.0, n) + ROUND) - ROUND
}

#[inline(always)]
fn deviation<const ABSOLUTE: bool>(l: f32, scale: f32, min: f32, x: f32) -> f32 {
    let diff = scale * l + min - x;
    if ABSOLUTE { diff.abs() } else { diff * diff }
}

/// Fits x ~ scale * q + min for q in 0..=n, min <= 0.
#[inline(always)]
pub(crate) fn fit_with_min<const N: usize>(
    x: &Lanes<f32, N>,
    weights: &Lanes<f32, N>,
    n: u8,
    search: Search,
) -> WithMin {
    if search.absolute {
        run::<N, true>(x, weights, n, search)
    } else {
        run::<N, false>(x, weights, n, search)
    }
}

/// [`fit_with_min`], with the choice of the deviation taken at compile time.
#[inline(always)]
fn run<const N: usize, const ABSOLUTE: bool>(
    x: &Lanes<f32, N>,
    weights: &Lanes<f32, N>,
    n: u8,
    search: Search,
) -> WithMin {
    let n = f32::from(n);
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (weights[0], [0.0f32; LANES]);
    for g in 0..LANES {
        sum_x[g] = sum_w[g] * x[0][g];
    }
    for (x, w) in x.iter().zip(weights).skip(1) {
        for g in 0..LANES {
            min[g] = if x[g] < min[g] { x[g] } else { min[g] };
            max[g] = if x[g] > max[g] { x[g] } else { max[g] };
            sum_w[g] += w[g];
            sum_x[g] += w[g] * x[g];
        }
    }
    for g in 0..LANES {
        min[g] = if min[g] > 0.0 { 0.0 } else { min[g] };
    }
    let (lowest, mut origin) = (min, min);
    let mut inverse = each(|g| n / (max[g] - min[g]));
    let mut scale = each(|g| 1.0 / inverse[g]);
    let mut best = [0.0f32; LANES];
    for (x, w) in x.iter().zip(weights) {
        for g in 0..LANES {
            let l = level(inverse[g], x[g], min[g], n);
            best[g] += w[g] * deviation::<ABSOLUTE>(l, scale[g], min[g], x[g]);
        }
    }
    let mut levels = [[0.0f32; LANES]; N];
    for i in 0..=search.steps {
        let top = search.start + search.step * f32::from(i) + n;
        let trial = each(|g| top / (max[g] - min[g]));
        let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for ((x, w), l) in x.iter().zip(weights).zip(&mut levels) {
            for g in 0..LANES {
                l[g] = level(trial[g], x[g], min[g], n);
                let wl = w[g] * l[g];
                sum_l[g] += wl;
                sum_l2[g] += wl * l[g];
                sum_xl[g] += wl * x[g];
            }
        }
        let mut det = [0.0f32; LANES];
        let (mut new_scale, mut new_min) = ([0.0f32; LANES], [0.0f32; LANES]);
        for g in 0..LANES {
            det[g] = sum_w[g] * sum_l2[g] - sum_l[g] * sum_l[g];
            new_scale[g] = (sum_w[g] * sum_xl[g] - sum_x[g] * sum_l[g]) / det[g];
            new_min[g] = (sum_l2[g] * sum_x[g] - sum_l[g] * sum_xl[g]) / det[g];
            let positive = new_min[g] > 0.0;
            new_scale[g] = if positive { sum_xl[g] / sum_l2[g] } else { new_scale[g] };
            new_min[g] = if positive { 0.0 } else { new_min[g] };
        }
        let mut error = [0.0f32; LANES];
        for ((x, w), l) in x.iter().zip(weights).zip(&levels) {
            for g in 0..LANES {
                error[g] += w[g] * deviation::<ABSOLUTE>(l[g], new_scale[g], new_min[g], x[g]);
            }
        }
        let mut better = [0; LANES];
        for g in 0..LANES {
            better[g] = mask(det[g] > 0.0) & mask(error[g] < best[g]);
        }
        replace(&better, &mut best, &error);
        replace(&better, &mut inverse, &trial);
        replace(&better, &mut origin, &min);
        replace(&better, &mut scale, &new_scale);
        replace(&better, &mut min, &new_min);
    }
    let mut flat = [false; LANES];
    for g in 0..LANES {
        flat[g] = max[g] <= lowest[g];
        scale[g] = if flat[g] { 0.0 } else { scale[g] };
        min[g] = if flat[g] { lowest[g] } else { min[g] };
    }
    WithMin { scale, min, inverse, origin, flat, n }
}
