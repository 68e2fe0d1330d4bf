//! Scales that minimise a weighted squared error: the searches of llama.cpp's encoders
//! (`make_qx_quants`, `make_q3_quants`, `make_qkx2/3_quants`, `make_qp_quants` in ggml-quants.c).
//!
//! Given integers q, the scale that minimises `sum w (x - s q)^2` is `s = sum w x q / sum w q^2`,
//! and with an offset m the pair (s, m) solves a 2 x 2 system. Each search tries several
//! roundings to integers and keeps the best.
//!
//! `W` groups of `N` elements are fitted side by side, `x[i][lane]` being element i of a group:
//! within a group every sum runs in the order of the elements, as in libggml, so that the results
//! are equal to the last bit, and the compiler vectorises across the groups.

use crate::round::{nearest_int, signed_max};

/// Groups whose largest magnitude is below this are taken as zero.
pub(crate) const TINY: f32 = 1e-15;

/// Adding and subtracting this rounds to an integer, ties to even (see [`nearest_int`]).
const ROUND: f32 = 12_582_912.0;

/// `W` groups of `N` numbers, side by side.
pub(crate) type Lanes<T, const N: usize, const W: usize> = [[T; W]; N];

/// Group g, element i of consecutive groups becomes `[i][g]`.
#[inline]
pub(crate) fn transpose<const N: usize, const W: usize>(x: &[f32]) -> Lanes<f32, N, W> {
    assert_eq!(x.len(), N * W);
    std::array::from_fn(|i| std::array::from_fn(|g| x[N * g + i]))
}

#[inline]
fn clamp(v: f32, low: f32, high: f32) -> f32 {
    let v = if v > low { v } else { low };
    if v < high { v } else { high }
}

#[inline]
fn each<const W: usize>(f: impl FnMut(usize) -> f32) -> [f32; W] {
    std::array::from_fn(f)
}

/// x ~ scale * (q - n), q in 0..2n: the result for each group.
pub(crate) struct Signed<const N: usize, const W: usize> {
    pub(crate) scale: [f32; W],
    pub(crate) q: Lanes<u8, N, W>,
}

/// Fits x ~ scale * (q - n) for q in 0..2n: tries n at -9..=9 tenths more for the value of largest
/// magnitude.
pub(crate) fn fit_signed_lanes<const N: usize, const W: usize>(
    x: &Lanes<f32, N, W>,
    weights: &Lanes<f32, N, W>,
    n: i32,
) -> Signed<N, W> {
    let n = n as f32;
    let (mut amax, mut max) = ([0.0f32; W], [0.0f32; W]);
    for x in x {
        for g in 0..W {
            let larger = x[g].abs() > amax[g];
            amax[g] = if larger { x[g].abs() } else { amax[g] };
            max[g] = if larger { x[g] } else { max[g] };
        }
    }
    let sums = |inverse: &[f32; W]| {
        let (mut lx, mut l2) = ([0.0f32; W], [0.0f32; W]);
        for (x, w) in x.iter().zip(weights) {
            for g in 0..W {
                let l = clamp((inverse[g] * x[g] + ROUND) - ROUND, -n, n - 1.0);
                lx[g] += w[g] * x[g] * l;
                l2[g] += w[g] * l * l;
            }
        }
        (lx, l2)
    };
    let mut inverse = each(|g| -n / max[g]);
    let (lx, l2) = sums(&inverse);
    let mut scale: [f32; W] = each(|g| if l2[g] != 0.0 { lx[g] / l2[g] } else { 0.0 });
    let mut best: [f32; W] = each(|g| scale[g] * lx[g]);
    for tenths in (-9..=9).filter(|&t| t != 0) {
        let trial = each(|g| -(n + 0.1 * tenths as f32) / max[g]);
        let (lx, l2) = sums(&trial);
        for g in 0..W {
            if l2[g] > 0.0 && lx[g] * lx[g] > best[g] * l2[g] {
                inverse[g] = trial[g];
                scale[g] = lx[g] / l2[g];
                best[g] = scale[g] * lx[g];
            }
        }
    }
    let q = x.map(|x| {
        std::array::from_fn(|g| {
            let l = clamp((inverse[g] * x[g] + ROUND) - ROUND, -n, n - 1.0);
            if amax[g] < TINY { 0 } else { (l + n) as u8 }
        })
    });
    Signed { scale: each(|g| if amax[g] < TINY { 0.0 } else { scale[g] }), q }
}

/// [`fit_signed_lanes`] for a single group.
pub(crate) fn fit_signed<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    n: i32,
) -> (f32, [u8; N]) {
    let fit = fit_signed_lanes(&x.map(|v| [v]), &weights.map(|w| [w]), n);
    (fit.scale[0], fit.q.map(|q| q[0]))
}

/// Fits x ~ scale * (q - n) with weights x^2, moving one integer at a time, five rounds at most.
pub(crate) fn fit_signed_by_steps<const N: usize>(x: &[f32; N], n: i32) -> (f32, [u8; N]) {
    let max = signed_max(x);
    if max.abs() < TINY {
        return (0.0, [0; N]);
    }
    let inverse = -(n as f32) / max;
    let mut l = x.map(|v| nearest_int(inverse * v).clamp(-n, n - 1));
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for (&x, &l) in x.iter().zip(&l) {
        let (w, l) = (x * x, l as f32);
        lx += w * x * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&x, l) in x.iter().zip(&mut l) {
            let (w, old) = (x * x, *l as f32);
            let mut new_lx = lx - w * x * old;
            if new_lx > 0.0 {
                let mut new_l2 = l2 - w * old * old;
                let new = nearest_int(x * new_l2 / new_lx).clamp(-n, n - 1);
                if new != *l {
                    new_lx += w * x * new as f32;
                    new_l2 += w * new as f32 * new as f32;
                    if new_l2 > 0.0 && new_lx * new_lx * l2 > lx * lx * new_l2 {
                        (*l, lx, l2) = (new, new_lx, new_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if l2 > 0.0 { lx / l2 } else { 0.0 }, l.map(|l| (l + n) as u8))
}

/// Which roundings [`fit_with_min_lanes`] tries: the largest element at `n + start + step * i`,
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

/// x ~ scale * q + min, q in 0..=n, min <= 0: the result for each group.
pub(crate) struct WithMin<const N: usize, const W: usize> {
    pub(crate) scale: [f32; W],
    pub(crate) min: [f32; W],
    pub(crate) q: Lanes<u8, N, W>,
}

/// Fits x ~ scale * q + min for q in 0..=n, min <= 0.
pub(crate) fn fit_with_min_lanes<const N: usize, const W: usize>(
    x: &Lanes<f32, N, W>,
    weights: &Lanes<f32, N, W>,
    n: u8,
    search: Search,
) -> WithMin<N, W> {
    if search.absolute {
        search_min::<N, W, true>(x, weights, n, search)
    } else {
        search_min::<N, W, false>(x, weights, n, search)
    }
}

/// [`fit_with_min_lanes`], with the choice of the deviation taken at compile time.
fn search_min<const N: usize, const W: usize, const ABSOLUTE: bool>(
    x: &Lanes<f32, N, W>,
    weights: &Lanes<f32, N, W>,
    n: u8,
    search: Search,
) -> WithMin<N, W> {
    let n = f32::from(n);
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x: [f32; W] = each(|g| sum_w[g] * x[0][g]);
    for (x, w) in x.iter().zip(weights).skip(1) {
        for g in 0..W {
            min[g] = if x[g] < min[g] { x[g] } else { min[g] };
            max[g] = if x[g] > max[g] { x[g] } else { max[g] };
            sum_w[g] += w[g];
            sum_x[g] += w[g] * x[g];
        }
    }
    min = each(|g| if min[g] > 0.0 { 0.0 } else { min[g] });
    let flat: [bool; W] = std::array::from_fn(|g| max[g] <= min[g]);
    let level =
        |inverse: f32, x: f32, min: f32| (clamp(inverse * (x - min), 0.0, n) + ROUND) - ROUND;
    let deviation = |l: f32, scale: f32, min: f32, x: f32| {
        let diff = scale * l + min - x;
        if ABSOLUTE { diff.abs() } else { diff * diff }
    };

    // The rounding of the best fit is kept as the numbers it came from.
    let mut inverse: [f32; W] = each(|g| n / (max[g] - min[g]));
    let mut origin = min;
    let mut scale: [f32; W] = each(|g| 1.0 / inverse[g]);
    let mut best = [0.0f32; W];
    for (x, w) in x.iter().zip(weights) {
        for g in 0..W {
            let l = level(inverse[g], x[g], min[g]);
            best[g] += w[g] * deviation(l, scale[g], min[g], x[g]);
        }
    }
    let mut levels = [[0.0f32; W]; N];
    for i in 0..=search.steps {
        let trial: [f32; W] =
            each(|g| (search.start + search.step * f32::from(i) + n) / (max[g] - min[g]));
        let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0f32; W], [0.0f32; W], [0.0f32; W]);
        for ((x, w), l) in x.iter().zip(weights).zip(&mut levels) {
            for g in 0..W {
                l[g] = level(trial[g], x[g], min[g]);
                sum_l[g] += w[g] * l[g];
                sum_l2[g] += w[g] * l[g] * l[g];
                sum_xl[g] += w[g] * l[g] * x[g];
            }
        }
        let det: [f32; W] = each(|g| sum_w[g] * sum_l2[g] - sum_l[g] * sum_l[g]);
        let mut new_scale: [f32; W] =
            each(|g| (sum_w[g] * sum_xl[g] - sum_x[g] * sum_l[g]) / det[g]);
        let mut new_min: [f32; W] =
            each(|g| (sum_l2[g] * sum_x[g] - sum_l[g] * sum_xl[g]) / det[g]);
        for g in 0..W {
            let positive = new_min[g] > 0.0;
            new_scale[g] = if positive { sum_xl[g] / sum_l2[g] } else { new_scale[g] };
            new_min[g] = if positive { 0.0 } else { new_min[g] };
        }
        let mut error = [0.0f32; W];
        for ((x, w), l) in x.iter().zip(weights).zip(&levels) {
            for g in 0..W {
                error[g] += w[g] * deviation(l[g], new_scale[g], new_min[g], x[g]);
            }
        }
        for g in 0..W {
            if det[g] > 0.0 && error[g] < best[g] {
                best[g] = error[g];
                inverse[g] = trial[g];
                origin[g] = min[g];
                scale[g] = new_scale[g];
                min[g] = new_min[g];
            }
        }
    }
    let q = x.map(|x| {
        std::array::from_fn(|g| if flat[g] { 0 } else { level(inverse[g], x[g], origin[g]) as u8 })
    });
    WithMin {
        scale: each(|g| if flat[g] { 0.0 } else { scale[g] }),
        min: each(|g| if flat[g] { origin[g] } else { min[g] }),
        q,
    }
}

/// [`fit_with_min_lanes`] for a single group, with the fine search: scale, minimum, numbers.
pub(crate) fn fit_with_min<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    n: u8,
) -> (f32, f32, [u8; N]) {
    let fit = fit_with_min_lanes(&x.map(|v| [v]), &weights.map(|w| [w]), n, Search::FINE);
    (fit.scale[0], fit.min[0], fit.q.map(|q| q[0]))
}

/// Fits x ~ scale * q for x >= 0, q in 0..=n: the scales of a super-block.
pub(crate) fn fit_positive<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    n: i32,
) -> (f32, [u8; N]) {
    let max = x.iter().fold(0.0f32, |m, &v| if m > v { m } else { v });
    if max < TINY || max.is_nan() {
        return (0.0, [0; N]);
    }
    let error = |inverse: f32, top: i32| {
        let scale = 1.0 / inverse;
        x.iter().zip(weights).fold(0.0f32, |error, (&x, &w)| {
            let diff = x - scale * nearest_int(inverse * x).min(top) as f32;
            error + w * diff * diff
        })
    };
    let mut inverse = n as f32 / max;
    let mut best = error(inverse, i32::MAX);
    for tenths in (-4..=4).filter(|&t| t != 0) {
        let trial = (0.1 * tenths as f32 + n as f32) / max;
        let error = error(trial, n);
        if error < best {
            best = error;
            inverse = trial;
        }
    }
    let mut q = x.map(|v| nearest_int(inverse * v).min(n) as u8);
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for i in 0..N {
        let (w, l) = (weights[i], f32::from(q[i]));
        lx += w * x[i] * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let (w, old) = (weights[i], f32::from(q[i]));
            let mut new_lx = lx - w * x[i] * old;
            let mut new_l2 = l2 - w * old * old;
            if new_lx > 0.0 && new_l2 > 0.0 {
                let new = nearest_int(x[i] * new_l2 / new_lx).min(n);
                if new != i32::from(q[i]) {
                    new_lx += w * x[i] * new as f32;
                    new_l2 += w * new as f32 * new as f32;
                    if new_lx * new_lx * l2 > lx * lx * new_l2 {
                        (q[i], lx, l2) = (new as u8, new_lx, new_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if l2 > 0.0 { lx / l2 } else { 0.0 }, q)
}
