//! Panels in the first-level cache times many queries, in register tiles.

use super::runs::Ahead;
use super::tile::Vector;
use crate::simd::Simd;

/// `sums[i * strides.1 + g] = sum_k panel[k * width + g] x[i * strides.0 + k]`, or with that added
/// to it unless `FRESH`, for `i` in `0..m`, `g` in `0..groups` and `k` in `0..depth`: one fused
/// multiply-add after the other for each lane, whatever else is computed beside it. Each step asks
/// for one more line of `ahead`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) fn sweep<S: Simd, const FRESH: bool>(
    s: S,
    panel: &[Vector],
    (width, groups): (usize, usize),
    depth: usize,
    x: &[f32],
    m: usize,
    sums: &mut [Vector],
    strides: (usize, usize),
    ahead: &mut Ahead<'_>,
) {
    let mut g = 0;
    while g < groups {
        let quad = S::MANY_REGISTERS && groups - g >= 4;
        let panel = &panel[g..];
        let mut i = 0;
        while i < m {
            let (x, sums) = (&x[i * strides.0..], &mut sums[i * strides.1 + g..]);
            i += match (quad, m - i) {
                // Eight are better taken as twice four than as six and two.
                (true, 6 | 7 | 9 | 10..) => {
                    tile::<S, FRESH, 4, 6>(s, panel, width, depth, x, sums, strides, ahead)
                }
                (true, 4..) => {
                    tile::<S, FRESH, 4, 4>(s, panel, width, depth, x, sums, strides, ahead)
                }
                (true, 2..) => {
                    tile::<S, FRESH, 4, 2>(s, panel, width, depth, x, sums, strides, ahead)
                }
                (true, _) => {
                    tile::<S, FRESH, 4, 1>(s, panel, width, depth, x, sums, strides, ahead)
                }
                (false, 6..) => {
                    tile::<S, FRESH, 1, 6>(s, panel, width, depth, x, sums, strides, ahead)
                }
                (false, 2..) => {
                    tile::<S, FRESH, 1, 2>(s, panel, width, depth, x, sums, strides, ahead)
                }
                (false, _) => {
                    tile::<S, FRESH, 1, 1>(s, panel, width, depth, x, sums, strides, ahead)
                }
            };
        }
        g += if quad { 4 } else { 1 };
    }
}

/// `G` groups by `M` queries in registers. Returns `M`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn tile<S: Simd, const FRESH: bool, const G: usize, const M: usize>(
    s: S,
    panel: &[Vector],
    width: usize,
    depth: usize,
    x: &[f32],
    sums: &mut [Vector],
    (x_stride, sums_stride): (usize, usize),
    ahead: &mut Ahead<'_>,
) -> usize {
    let mut rows = [&x[..depth]; M];
    for i in 0..M {
        rows[i] = &x[i * x_stride..][..depth];
    }
    let mut acc = [[s.splat_f(0.0); M]; G];
    if !FRESH {
        for i in 0..M {
            for g in 0..G {
                acc[g][i] = s.load_f(&sums[i * sums_stride + g].0);
            }
        }
    }
    for k in 0..depth {
        ahead.step();
        let lines = &panel[k * width..][..G];
        let mut w = [s.splat_f(0.0); G];
        for g in 0..G {
            w[g] = s.load_f(&lines[g].0);
        }
        for i in 0..M {
            let a = s.splat_f(rows[i][k]);
            for g in 0..G {
                acc[g][i] = s.fma(w[g], a, acc[g][i]);
            }
        }
    }
    for i in 0..M {
        for g in 0..G {
            s.store_f(acc[g][i], &mut sums[i * sums_stride + g].0);
        }
    }
    M
}
