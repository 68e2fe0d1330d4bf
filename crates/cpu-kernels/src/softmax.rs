//! Softmax of rows: `exp(x - max) / sum exp(x - max)`, its logarithm and its normaliser.
//!
//! Sums are in f64. A row of nothing but -inf becomes NaN, as in PyTorch.

use crate::matmul::DisjointMut;
use crate::simd::{LANES, Op, Simd, dispatch, math};
use crate::{Isa, ThreadPool};

/// Softmax of each row of `cols` elements, in place.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn softmax(pool: &ThreadPool, isa: Isa, x: &mut [f32], cols: usize) {
    for_rows(pool, x, cols, |row| {
        let max = max(row);
        let sum = dispatch(isa, ExpMinus { row, max });
        let scale = (1.0 / sum) as f32;
        row.iter_mut().for_each(|v| *v *= scale);
    });
}

/// Logarithm of the softmax of each row of `cols` elements, in place.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn log_softmax(pool: &ThreadPool, x: &mut [f32], cols: usize) {
    for_rows(pool, x, cols, |row| {
        let lse = logsumexp(row);
        row.iter_mut().for_each(|v| *v = (f64::from(*v) - lse) as f32);
    });
}

/// `ln sum exp x` of one row; -inf for an empty one.
pub fn logsumexp(row: &[f32]) -> f64 {
    let max = max(row);
    if max == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let mut sum = 0.0;
    let mut block = [0.0; 1024];
    for chunk in row.chunks(1024) {
        let block = &mut block[..chunk.len()];
        block.copy_from_slice(chunk);
        sum += dispatch(Isa::active(), ExpMinus { row: block, max });
    }
    f64::from(max) + f64::ln(sum)
}

/// The largest element; NaN if there is one.
fn max(row: &[f32]) -> f32 {
    row.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b || a.is_nan() { a } else { b })
}

fn for_rows(pool: &ThreadPool, x: &mut [f32], cols: usize, body: impl Fn(&mut [f32]) + Sync) {
    if x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(cols), "whole rows");
    let rows = x.len() / cols;
    let x = DisjointMut::new(x);
    // SAFETY: rows are disjoint.
    pool.run(rows, |i| body(unsafe { x.slice_mut(i * cols..(i + 1) * cols) }));
}

/// Replaces `row` by `exp(row - max)` and returns the sum.
struct ExpMinus<'a> {
    row: &'a mut [f32],
    max: f32,
}

impl Op for ExpMinus<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let max = s.splat_f(self.max);
        let mut lanes = [0.0f64; LANES];
        let (chunks, rest) = self.row.as_chunks_mut::<LANES>();
        for chunk in chunks {
            s.store_f(math::exp(s, s.sub(s.load_f(chunk), max)), chunk);
            for i in 0..LANES {
                lanes[i] += f64::from(chunk[i]);
            }
        }
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let v = math::exp(s, s.sub(s.load_f(&last), max));
        s.store_f(v, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
        for (lane, v) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*v);
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_f64() {
        let pool = ThreadPool::new(2);
        for isa in Isa::supported() {
            for n in [1, 2, 15, 16, 17, 100, 3000] {
                let x: Vec<f32> =
                    (0..3 * n).map(|i| ((i * 7919) % 1009) as f32 * 0.05 - 20.0).collect();
                let (mut p, mut l) = (x.clone(), x.clone());
                softmax(&pool, isa, &mut p, n);
                log_softmax(&pool, &mut l, n);
                for (r, row) in x.chunks(n).enumerate() {
                    let lse = row.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln();
                    assert!((logsumexp(row) - lse).abs() < 1e-6);
                    for (i, &v) in row.iter().enumerate() {
                        let want = f64::from(v) - lse;
                        assert!((f64::from(l[r * n + i]) - want).abs() < 5e-6);
                        let p = f64::from(p[r * n + i]);
                        // `x - max` is rounded: up to 4e-6 for a difference of 50.
                        assert!((p - want.exp()).abs() < 5e-6 * want.exp() + 1e-30);
                    }
                }
            }
            softmax(&pool, isa, &mut [], 0);
        }
    }

    #[test]
    fn masked_and_extreme_entries() {
        let pool = ThreadPool::new(1);
        for isa in Isa::supported() {
            let mut x = [f32::NEG_INFINITY, 1e30, 1e30, f32::NEG_INFINITY];
            softmax(&pool, isa, &mut x, 4);
            assert_eq!(x, [0.0, 0.5, 0.5, 0.0]);
            let mut x = [f32::NAN, 0.0];
            softmax(&pool, isa, &mut x, 2);
            assert!(x.iter().all(|v| v.is_nan()));
            assert_eq!(logsumexp(&[]), f64::NEG_INFINITY);
        }
    }
}
