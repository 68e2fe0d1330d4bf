//! x ~ scale * q for x >= 0, q in 0..=n: the scales of a super-block.

use super::TINY;
use crate::lanes::LANES;
use crate::round::nearest_int;

/// Fits x ~ scale * q for x >= 0, q in 0..=n: the largest element at n and up to 4 tenths less or
/// more, these roundings side by side; then one integer is moved at a time, five rounds at most.
#[inline(always)]
pub(crate) fn fit_positive<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    n: i32,
) -> (f32, [u8; N]) {
    let max = x.iter().fold(0.0f32, |m, &v| if m > v { m } else { v });
    if max < TINY || max.is_nan() {
        return (0.0, [0; N]);
    }
    // The first rounding is the plain one, whose numbers need no limit.
    let tenths: [i8; 9] = [0, -4, -3, -2, -1, 1, 2, 3, 4];
    let (mut trial, mut top) = ([1.0f32; LANES], [n; LANES]);
    for (trial, tenths) in trial.iter_mut().zip(tenths) {
        *trial = (0.1 * f32::from(tenths) + n as f32) / max;
    }
    top[0] = i32::MAX;
    let mut error = [0.0f32; LANES];
    for (x, w) in x.iter().zip(weights) {
        for t in 0..LANES {
            let scale = 1.0 / trial[t];
            let diff = x - scale * nearest_int(trial[t] * x).min(top[t]) as f32;
            error[t] += w * diff * diff;
        }
    }
    let mut best = 0;
    for t in 1..tenths.len() {
        if error[t] < error[best] {
            best = t;
        }
    }
    let inverse = trial[best];
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
