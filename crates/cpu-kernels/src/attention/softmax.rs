//! Softmax in parts: the weights of one tile, and how what was summed up over two tiles becomes one.
//!
//! Scores are in units of ln 2, so that weights are powers of two.

use super::tile::{RECORD_HEAD, Vector};
use crate::simd::{LANES, Simd, math};
use std::ops::Range;

/// Turns the scores of the positions `seen` of a tile into `2^(score - max)`, and writes the
/// maximum and the sums of weights (position modulo 16 a lane) to the head of `record`. Scores in
/// the vectors of `seen` that are not seen themselves are lost.
#[inline(always)]
pub(super) fn weigh<S: Simd>(
    s: S,
    softcap: Option<f32>,
    seen: Range<usize>,
    scores: &mut [Vector],
    record: &mut [Vector],
) {
    let vectors = seen.start / LANES..seen.end.div_ceil(LANES);
    let begin = vectors.start * LANES;
    let scores = &mut scores[vectors];
    if let Some(cap) = softcap {
        for v in scores.iter_mut() {
            s.store_f(capped(s, cap, s.load_f(&v.0)), &mut v.0);
        }
    }
    let flat: &mut [f32] = bytemuck::cast_slice_mut(scores);
    flat[..seen.start - begin].fill(f32::NEG_INFINITY);
    flat[seen.end - begin..].fill(f32::NEG_INFINITY);
    let mut top = s.splat_f(f32::NEG_INFINITY);
    for v in scores.iter() {
        top = s.max(top, s.load_f(&v.0));
    }
    let max = s.splat_f(largest(s, top));
    let mut sums = s.splat_f(0.0);
    for v in scores.iter_mut() {
        let weight = math::exp2_nonpositive(s, s.sub(s.load_f(&v.0), max));
        s.store_f(weight, &mut v.0);
        sums = s.add(sums, weight);
    }
    s.store_f(max, &mut record[0].0);
    s.store_f(sums, &mut record[1].0);
}

/// `cap * tanh(score / cap)` in units of ln 2 for a score that is not.
#[inline(always)]
fn capped<S: Simd>(s: S, cap: f32, score: S::F) -> S::F {
    // tanh y = 1 - 2 / (e^2y + 1)
    let e = math::exp(s, s.mul(score, s.splat_f(2.0 / cap)));
    let (one, two) = (s.splat_f(1.0), s.splat_f(2.0));
    let tanh = s.sub(one, s.div(two, s.add(e, one)));
    s.mul(tanh, s.splat_f(cap * std::f32::consts::LOG2_E))
}

/// The largest lane; a NaN may or may not win.
#[inline(always)]
fn largest<S: Simd>(s: S, v: S::F) -> f32 {
    let mut lanes = [0.0; LANES];
    s.store_f(v, &mut lanes);
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] = if lanes[i] > lanes[i + n] { lanes[i] } else { lanes[i + n] };
        }
        n /= 2;
    }
    lanes[0]
}

/// Puts what was summed up over later positions, `more`, to what `record` has of earlier ones.
#[inline(always)]
pub(super) fn absorb<S: Simd>(s: S, record: &mut [Vector], more: &[Vector]) {
    let (max, other) = (s.load_f(&record[0].0), s.load_f(&more[0].0));
    let top = s.max(max, other);
    let (keep, add) =
        (math::exp2_nonpositive(s, s.sub(max, top)), math::exp2_nonpositive(s, s.sub(other, top)));
    s.store_f(top, &mut record[0].0);
    for (to, from) in record[1..].iter_mut().zip(&more[1..]) {
        let scaled = s.mul(s.load_f(&to.0), keep);
        s.store_f(s.fma(s.load_f(&from.0), add, scaled), &mut to.0);
    }
}

/// The weighted mean that a record stands for.
#[inline(always)]
pub(super) fn finish(record: &[Vector], out: &mut [f32]) {
    let sum: f32 = record[1].0.iter().sum();
    let acc: &[f32] = bytemuck::cast_slice(&record[RECORD_HEAD..]);
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = acc / sum;
    }
}
