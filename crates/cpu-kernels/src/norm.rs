//! Normalisation of rows.
//!
//! RMS: `out = x / sqrt(mean(x^2) + eps) * (offset + w)` (Zhang and Sennrich 2019; Gemma stores
//! `w - 1`, hence the offset). Layer: `out = (x - mean) / sqrt(var + eps) * w + b` (Ba et al.
//! 2016), the variance over n. Sums are in f64, in a
//! fixed order.

use crate::matmul::DisjointMut;
use crate::simd::{Op, Simd, dispatch};
use crate::{Isa, ThreadPool, elementwise};

/// A normalisation with its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Which.
    pub kind: NormKind<'a>,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// As long as what is normalised.
    pub weight: &'a [f32],
}

/// Kinds of normalisation.
#[derive(Clone, Copy, Debug)]
pub enum NormKind<'a> {
    /// By the root of the mean square.
    Rms {
        /// Added to the weight: 1 for Gemma, else 0.
        weight_offset: f32,
    },
    /// By mean and variance.
    Layer {
        /// Added at the end; as long as the weight, or `None` for zeros.
        bias: Option<&'a [f32]>,
    },
}

/// `out = norm(x)`, each row of `norm.weight.len()` elements.
///
/// # Panics
/// If lengths do not agree.
pub fn norm(pool: &ThreadPool, isa: Isa, norm: &Norm<'_>, x: &[f32], out: &mut [f32]) {
    let n = norm.check(x, out);
    let out = DisjointMut::new(out);
    for_rows(pool, x.len(), n, |range| {
        // SAFETY: chunks are disjoint.
        let out = unsafe { out.slice_mut(range.clone()) };
        dispatch(isa, Rows { norm, x: &x[range], out });
    });
}

/// `x = x + y`, `out = norm(x)`, in one pass over memory; the same results as one after the other.
///
/// # Panics
/// If lengths do not agree.
pub fn add_norm(
    pool: &ThreadPool,
    isa: Isa,
    norm: &Norm<'_>,
    x: &mut [f32],
    y: &[f32],
    out: &mut [f32],
) {
    let n = norm.check(x, out);
    assert_eq!(x.len(), y.len(), "as many elements to add");
    let (len, x, out) = (x.len(), DisjointMut::new(x), DisjointMut::new(out));
    for_rows(pool, len, n, |range| {
        // SAFETY: chunks are disjoint.
        let (x, out) = unsafe { (x.slice_mut(range.clone()), out.slice_mut(range.clone())) };
        dispatch(isa, AddRows { norm, x, y: &y[range], out });
    });
}

impl Norm<'_> {
    /// The length of a row.
    fn check(&self, x: &[f32], out: &[f32]) -> usize {
        let n = self.weight.len();
        assert_eq!(x.len(), out.len(), "the output is as long as the input");
        assert!(x.is_empty() || x.len().is_multiple_of(n), "whole rows");
        if let NormKind::Layer { bias: Some(bias) } = self.kind {
            assert_eq!(n, bias.len(), "as many biases as weights");
        }
        n
    }
}

/// Runs `body` on ranges of whole rows of `n` elements.
fn for_rows(pool: &ThreadPool, len: usize, n: usize, body: impl Fn(std::ops::Range<usize>) + Sync) {
    // About ten times what handing out a chunk costs.
    let step = (elementwise::CHUNK / n.max(1)).max(1) * n.max(1);
    pool.run(len.div_ceil(step), |chunk| body(chunk * step..len.min((chunk + 1) * step)));
}

struct Rows<'a> {
    norm: &'a Norm<'a>,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Op for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let n = self.norm.weight.len();
        for (x, out) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            row(self.norm, x, out);
        }
    }
}

struct AddRows<'a> {
    norm: &'a Norm<'a>,
    x: &'a mut [f32],
    y: &'a [f32],
    out: &'a mut [f32],
}

impl Op for AddRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.norm.weight.len();
        let inputs = self.x.chunks_exact_mut(n).zip(self.y.chunks_exact(n));
        for ((x, y), out) in inputs.zip(self.out.chunks_exact_mut(n)) {
            elementwise::add_here(s, x, y);
            row(self.norm, x, out);
        }
    }
}

// Compiled for the instructions of the caller; the loops are simple enough for the compiler.
#[inline(always)]
fn row(norm: &Norm<'_>, x: &[f32], out: &mut [f32]) {
    let &Norm { kind, eps, weight } = norm;
    let n = x.len() as f64;
    match kind {
        NormKind::Rms { weight_offset } => {
            let mean = sum(x, |x| x * x) / n;
            let scale = 1.0 / (mean as f32 + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * (weight_offset + w);
            }
        }
        NormKind::Layer { bias } => {
            let mean = sum(x, |x| x) / n;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
            let scale = (1.0 / (variance + f64::from(eps)).sqrt()) as f32;
            let mean = mean as f32;
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = (x - mean) * scale * w;
            }
            for (out, b) in out.iter_mut().zip(bias.unwrap_or_default()) {
                *out += b;
            }
        }
    }
}

/// Sums side by side, so that one addition need not wait for the last.
const SUMS: usize = 32;

/// `sum f(x)` in a fixed order.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0f64; SUMS];
    let (chunks, rest) = x.as_chunks::<SUMS>();
    for chunk in chunks {
        for i in 0..SUMS {
            sums[i] += f(f64::from(chunk[i]));
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f(f64::from(*x));
    }
    let mut half = SUMS / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_pytorch() {
        // torch.nn.functional.rms_norm / layer_norm of [1, 2, 3, 4], weight [1, 1, 2, 2]
        let pool = ThreadPool::new(1);
        let (x, w) = ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 2.0]);
        for isa in Isa::supported() {
            let mut out = [0.0; 4];
            let rms = |weight_offset| NormKind::Rms { weight_offset };
            norm(&pool, isa, &Norm { kind: rms(0.0), eps: 0.0, weight: &w }, &x, &mut out);
            let want = [0.365_148_4, 0.730_296_7, 2.190_890_2, 2.921_187];
            assert!(out.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
            let less = [0.0, 0.0, 1.0, 1.0];
            norm(&pool, isa, &Norm { kind: rms(1.0), eps: 0.0, weight: &less }, &x, &mut out);
            assert!(out.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
            let kind = NormKind::Layer { bias: Some(&[0.5; 4]) };
            norm(&pool, isa, &Norm { kind, eps: 1e-5, weight: &w }, &x, &mut out);
            let want = [-0.841_635_4, 0.052_788_2, 1.394_423_6, 3.183_270_8];
            assert!(out.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
        }
    }

    #[test]
    fn rows_do_not_depend_on_the_batch_or_threads() {
        let n = 70;
        let x: Vec<f32> = (0..n * 600).map(|i| (i as f32 * 0.37).sin()).collect();
        let w: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 * 0.01).collect();
        let rms = Norm { kind: NormKind::Rms { weight_offset: 0.0 }, eps: 1e-5, weight: &w };
        for isa in Isa::supported() {
            let mut batch = vec![0.0; x.len()];
            norm(&ThreadPool::new(3), isa, &rms, &x, &mut batch);
            let pool = ThreadPool::new(1);
            for (x, want) in x.chunks(n).zip(batch.chunks(n)) {
                let mut alone = vec![0.0; n];
                norm(&pool, isa, &rms, x, &mut alone);
                assert_eq!(alone, want);
            }
        }
    }

    #[test]
    fn the_fused_sum_is_the_sum() {
        let n = 70;
        let x: Vec<f32> = (0..n * 600).map(|i| (i as f32 * 0.37).sin()).collect();
        let y: Vec<f32> = (0..n * 600).map(|i| (i as f32 * 0.21).cos()).collect();
        let (w, b) = (vec![1.5; n], vec![0.25; n]);
        let pool = ThreadPool::new(2);
        for isa in Isa::supported() {
            for kind in [NormKind::Rms { weight_offset: 0.0 }, NormKind::Layer { bias: Some(&b) }] {
                let which = Norm { kind, eps: 1e-5, weight: &w };
                let (mut fused, mut out) = (x.clone(), vec![0.0; x.len()]);
                add_norm(&pool, isa, &which, &mut fused, &y, &mut out);
                let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
                let mut want = vec![0.0; x.len()];
                norm(&pool, isa, &which, &sum, &mut want);
                assert_eq!((fused, out), (sum, want));
            }
        }
    }
}
