//! Products of bf16: weights of 16 bits with activations rounded to bf16, ties to even.
//!
//! The product of two bf16 is exact in f32, so processors differ in the order and rounding of sums
//! alone. One of three ways is taken for all sizes of batch:
//! - AMX's tiles ([`tiles`], and [`interleaved`] where weights lie so);
//! - the dot products of AVX512_BF16, along [`rows`](super::rows);
//! - f32 products of the same numbers.

#[cfg(target_arch = "x86_64")]
mod groups;
#[cfg(target_arch = "x86_64")]
pub(super) mod interleaved;
#[cfg(target_arch = "x86_64")]
pub(super) mod tiles;

use super::rows::{Dot, Elements, Family, RowProduct, Step, Steps};
use super::{DisjointMut, Job, Piece};
use crate::simd::{Bf16Dot, Bf16Op, LANES, Op, Simd, dispatch_bf16};
use blocks::DType;

/// Elements of a step.
const K: usize = 2 * LANES;

/// What activations are cut into for a weight of type F16 or BF16.
pub(super) fn steps(job: &Job<'_>) -> Steps {
    Steps::new(job, Elements::Bf16, job.dtype == DType::BF16)
}

/// A piece of the product by dot products, with activations cut into [`steps`].
pub(super) fn run(job: &Job<'_>, x: &[Step], piece: Piece, out: &DisjointMut<'_, f32>) {
    let product = &RowProduct { job, steps: steps(job), x, out };
    dispatch_bf16(Bf16Piece { product, piece });
}

struct Bf16Piece<'a> {
    product: &'a RowProduct<'a>,
    piece: Piece,
}

impl Bf16Op for Bf16Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Bf16Dot>(self, s: S) {
        self.product.piece::<S, Pairs>(s, &self.piece);
    }
}

/// Rows of bf16, two a lane.
struct Pairs;

impl<S: Bf16Dot> Dot<S> for Pairs {
    type Bytes = [u8; 64];
    #[inline(always)]
    fn load(s: S, from: &[u8; 64]) -> S::F {
        s.as_f(s.load_i(from))
    }
    #[inline(always)]
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
        s.dot_bf16(acc, w, x)
    }
}

impl<S: Bf16Dot> Family<S> for Pairs {
    type Stored = Pairs;
    const K: usize = K;

    #[inline(always)]
    fn unpack(
        s: S,
        job: &Job<'_>,
        row: usize,
        k: (usize, usize),
        pad: &mut Vec<u8>,
        to: &mut [Step],
    ) {
        unpack(s, job, row, k, pad, to);
    }
}

/// Elements `k0..k0 + k` of a row as bf16; what is missing in the last step becomes zeros.
#[inline(always)]
fn unpack<S: Simd>(
    s: S,
    job: &Job<'_>,
    row: usize,
    (k0, k): (usize, usize),
    pad: &mut Vec<u8>,
    to: &mut [Step],
) {
    let bytes = job.source.row(row, 2 * k0, 2 * k, pad);
    let to: &mut [u8] = bytemuck::cast_slice_mut(to);
    to[bytes.len()..].fill(0);
    if job.dtype == DType::BF16 {
        return to[..bytes.len()].copy_from_slice(bytes);
    }
    let (whole, rest) = bytes.as_chunks();
    let (to, last) = to.as_chunks_mut().0.split_at_mut(whole.len());
    for (from, to) in whole.iter().zip(to) {
        *to = rounded_f16(s, from);
    }
    if let Some(last) = last.first_mut().filter(|_| !rest.is_empty()) {
        let mut half = [0; 2 * LANES];
        half[..rest.len()].copy_from_slice(rest);
        *last = rounded_f16(s, &half);
    }
}

/// Sixteen f16 as bf16.
#[inline(always)]
fn rounded_f16<S: Simd>(s: S, half: &[u8; 2 * LANES]) -> [u8; 2 * LANES] {
    let mut wide = [0.0; LANES];
    s.store_f(s.widen_f16(half), &mut wide);
    bytemuck::cast(wide.map(round))
}

/// The nearest bf16, ties to even.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // What is not a number stays so, whatever its lower bits.
    (if x.is_nan() { bits >> 16 | 0x40 } else { nearest }) as u16
}

/// The nearest bf16 as f32.
#[inline(always)]
pub(super) fn rounded(x: f32) -> f32 {
    f32::from_bits(u32::from(round(x)) << 16)
}

/// Rounds a row of activations; what is missing in the last step becomes zeros.
pub(super) struct Round<'a> {
    pub(super) row: &'a [f32],
    pub(super) to: &'a mut [Step],
}

impl Op for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let to: &mut [u16] = bytemuck::cast_slice_mut(self.to);
        for (to, &x) in to.iter_mut().zip(self.row) {
            *to = round(x);
        }
        to[self.row.len()..].fill(0);
    }
}
