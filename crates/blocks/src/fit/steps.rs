//! x ~ scale * (q - n), q in 0..2n, one integer moved at a time.

use super::TINY;
use crate::lanes::{LANES, Lane, Lanes, each, mask, replace, signed_maxima};
use crate::round::nearest_int;

/// Fits x ~ scale * (q - n) with weights x^2, moving one integer at a time, five rounds at most:
/// the scale of each group and its q, all 0 of a group that is taken as zero.
#[inline(always)]
pub(crate) fn fit_signed_by_steps<const N: usize>(
    x: &Lanes<f32, N>,
    n: i32,
) -> (Lane<f32>, Lanes<u8, N>) {
    let max = signed_maxima(x);
    let inverse = each(|g| -(n as f32) / max[g]);
    let mut l = [[0.0f32; LANES]; N];
    let (mut lx, mut l2) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (x, l) in x.iter().zip(&mut l) {
        for g in 0..LANES {
            l[g] = nearest_int(inverse[g] * x[g]).clamp(-n, n - 1) as f32;
            let w = x[g] * x[g];
            lx[g] += w * x[g] * l[g];
            l2[g] += w * l[g] * l[g];
        }
    }
    // A round that moves nothing in a group would not do so if it were repeated: the groups need
    // not end together.
    for _ in 0..5 {
        let mut changed = [0u32; LANES];
        for (x, l) in x.iter().zip(&mut l) {
            let mut better = [0; LANES];
            let (mut moved, mut moved_lx, mut moved_l2) =
                ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
            for g in 0..LANES {
                let (x, old) = (x[g], l[g]);
                let w = x * x;
                let less_lx = lx[g] - w * x * old;
                let less_l2 = l2[g] - w * old * old;
                let new = nearest_int(x * less_l2 / less_lx).clamp(-n, n - 1) as f32;
                let new_lx = less_lx + w * x * new;
                let new_l2 = less_l2 + w * new * new;
                better[g] = mask(less_lx > 0.0)
                    & mask(new != old)
                    & mask(new_l2 > 0.0)
                    & mask(new_lx * new_lx * l2[g] > lx[g] * lx[g] * new_l2);
                moved[g] = new;
                moved_lx[g] = new_lx;
                moved_l2[g] = new_l2;
                changed[g] |= better[g];
            }
            replace(&better, l, &moved);
            replace(&better, &mut lx, &moved_lx);
            replace(&better, &mut l2, &moved_l2);
        }
        if changed.iter().fold(0, |any, c| any | c) == 0 {
            break;
        }
    }
    let mut scale = [0.0f32; LANES];
    for g in 0..LANES {
        let fitted = max[g].abs() >= TINY && l2[g] > 0.0;
        scale[g] = if fitted { lx[g] / l2[g] } else { 0.0 };
    }
    let mut q = [[0u8; LANES]; N];
    for (q, l) in q.iter_mut().zip(&l) {
        for g in 0..LANES {
            q[g] = if max[g].abs() < TINY { 0 } else { (l[g] as i32 + n) as u8 };
        }
    }
    (scale, q)
}
