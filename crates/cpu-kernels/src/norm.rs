//! Normalisation of rows.
//!
//! RMS: `out = x / sqrt(mean(x^2) + eps) * (offset + w)` (Zhang and Sennrich 2019; Gemma stores
//! `w - 1`, hence the offset). Layer: `out = (x - mean) / sqrt(var + eps) * w + b` (Ba et al.
//! 2016), the variance over n. Sums are in f64, in eight lanes.

use crate::matmul::DisjointMut;
use crate::simd::{Op, Simd, dispatch};
use crate::{Isa, ThreadPool};

/// RMS norm of each row of `weight.len()` elements. `weight_offset` is 1 for Gemma, else 0.
///
/// # Panics
/// If lengths do not agree.
pub fn rms_norm(
    pool: &ThreadPool,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    weight_offset: f32,
    out: &mut [f32],
) {
    check(x, weight, out);
    for_rows(pool, x, weight.len(), out, |x, out| {
        dispatch(Isa::active(), Rms { x, weight, eps, weight_offset, out });
    });
}

/// Layer norm of each row of `weight.len()` elements.
///
/// # Panics
/// If lengths do not agree.
pub fn layer_norm(
    pool: &ThreadPool,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    check(x, weight, out);
    assert_eq!(weight.len(), bias.len(), "as many biases as weights");
    for_rows(pool, x, weight.len(), out, |x, out| {
        dispatch(Isa::active(), Layer { x, weight, bias, eps, out });
    });
}

fn check(x: &[f32], weight: &[f32], out: &[f32]) {
    assert_eq!(x.len(), out.len(), "the output is as long as the input");
    assert!(x.is_empty() || x.len().is_multiple_of(weight.len()), "whole rows");
}

/// Runs `body` on each pair of rows of `n` elements.
fn for_rows(
    pool: &ThreadPool,
    x: &[f32],
    n: usize,
    out: &mut [f32],
    body: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    if n == 0 {
        return;
    }
    let out = DisjointMut::new(out);
    // Some 16,384 elements a chunk: about ten times what handing out a chunk costs.
    let step = (16_384 / n).max(1) * n;
    pool.run(x.len().div_ceil(step), |chunk| {
        let range = chunk * step..x.len().min((chunk + 1) * step);
        // SAFETY: chunks are disjoint.
        let out = unsafe { out.slice_mut(range.clone()) };
        for (x, out) in x[range].chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            body(x, out);
        }
    });
}

struct Rms<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    weight_offset: f32,
    out: &'a mut [f32],
}

impl Op for Rms<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mean = sum_squares(self.x, 0.0) / self.x.len() as f64;
        let scale = 1.0 / (mean as f32 + self.eps).sqrt();
        for ((out, x), w) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * scale * (self.weight_offset + w);
        }
    }
}

struct Layer<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for Layer<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let n = self.x.len() as f64;
        let mean = sum(self.x) / n;
        let variance = sum_squares(self.x, mean) / n;
        let scale = (1.0 / (variance + f64::from(self.eps)).sqrt()) as f32;
        let mean = mean as f32;
        let parameters = self.weight.iter().zip(self.bias);
        for ((out, x), (w, b)) in self.out.iter_mut().zip(self.x).zip(parameters) {
            *out = (x - mean) * scale * w + b;
        }
    }
}

#[inline(always)]
fn sum(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for i in 0..8 {
            lanes[i] += f64::from(chunk[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*x);
    }
    lanes.iter().sum()
}

/// `sum (x - mean)^2`
#[inline(always)]
fn sum_squares(x: &[f32], mean: f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for i in 0..8 {
            let v = f64::from(chunk[i]) - mean;
            lanes[i] += v * v;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        let v = f64::from(*x) - mean;
        *lane += v * v;
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_pytorch() {
        // torch.nn.functional.rms_norm / layer_norm of [1, 2, 3, 4], weight [1, 1, 2, 2]
        let pool = ThreadPool::new(1);
        let (x, w) = ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 2.0]);
        let mut out = [0.0; 4];
        rms_norm(&pool, &x, &w, 0.0, 0.0, &mut out);
        let want = [0.365_148_4, 0.730_296_7, 2.190_890_2, 2.921_187];
        assert!(out.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
        rms_norm(&pool, &x, &[0.0, 0.0, 1.0, 1.0], 0.0, 1.0, &mut out);
        assert!(out.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
        layer_norm(&pool, &x, &w, &[0.5; 4], 1e-5, &mut out);
        let want = [-0.841_635_4, 0.052_788_2, 1.394_423_6, 3.183_270_8];
        assert!(out.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
    }

    #[test]
    fn rows_do_not_depend_on_the_batch_or_threads() {
        let n = 70;
        let x: Vec<f32> = (0..n * 600).map(|i| (i as f32 * 0.37).sin()).collect();
        let w: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 * 0.01).collect();
        let mut batch = vec![0.0; x.len()];
        rms_norm(&ThreadPool::new(3), &x, &w, 1e-5, 0.0, &mut batch);
        let pool = ThreadPool::new(1);
        for (x, want) in x.chunks(n).zip(batch.chunks(n)) {
            let mut alone = vec![0.0; n];
            rms_norm(&pool, x, &w, 1e-5, 0.0, &mut alone);
            assert_eq!(alone, want);
        }
    }
}
