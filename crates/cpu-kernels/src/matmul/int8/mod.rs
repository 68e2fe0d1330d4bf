//! Integer products: block types times activations rounded to int8.
//!
//! A weight is `scale_s * (u - offset)`, or `scale_s * u + min_s`, for each sub-block `s` of 32 or
//! 16 of k with unsigned bytes `u`. The products of a sub-block are summed exactly in 32-bit
//! integers, the offset being paid by the start of the sum; sub-blocks are added in f32 in order.

mod activations;
mod k_quants;
mod nibbles;
mod quants32;
mod sweep;

use super::{DisjointMut, Job, PANEL_GROUPS, Piece, Scratch};
use crate::ThreadPool;
use crate::simd::{LANES, Line, Op, Simd, Tile, dispatch};
use activations::ActivationBlock;
use blocks::DType;
use std::marker::PhantomData;

/// Columns of a panel.
const SPAN: usize = 256;

/// 16 rows by 256 columns. Line `i` has bytes `4i..4i + 4` of k, row `r` in lane `r`.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Int8Group {
    lines: [Line; SPAN / 4],
    scales: [[f32; LANES]; 16],
    mins: [[f32; LANES]; 16],
}

impl Default for Int8Group {
    fn default() -> Self {
        Int8Group {
            lines: [[0; 64]; SPAN / 4],
            scales: [[0.0; LANES]; 16],
            mins: [[0.0; LANES]; 16],
        }
    }
}

/// A block type with an integer kernel.
trait Format {
    const DTYPE: DType;
    /// k of a sub-block: 32 or 16.
    const SUB: usize;
    /// What is taken from the unsigned bytes.
    const OFFSET: i32;
    /// Whether sub-blocks have a minimum.
    const MIN: bool;
    /// Whether activations have a scale for each 32 of k, or for 256.
    const SCALE_32: bool;
    /// Whether bytes exceed 127.
    const WIDE: bool = false;

    /// Unpacks the blocks of 16 rows, up to 256 of k.
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group);
}

/// Runs the product if the type has an integer kernel; says whether it did.
pub(super) fn run(pool: &ThreadPool, job: &Job<'_>, out: &mut [f32]) -> bool {
    #[allow(clippy::wildcard_imports)]
    use {k_quants::*, nibbles::*, quants32::*};
    match job.dtype {
        DType::Q4_0 => run_format::<Q4_0>(pool, job, out),
        DType::Q4_1 => run_format::<Q4_1>(pool, job, out),
        DType::Q5_0 => run_format::<Q5_0>(pool, job, out),
        DType::Q5_1 => run_format::<Q5_1>(pool, job, out),
        DType::Q8_0 => run_format::<Q8_0>(pool, job, out),
        DType::IQ4_NL => run_format::<Iq4Nl>(pool, job, out),
        DType::IQ4_XS => run_format::<Iq4Xs>(pool, job, out),
        DType::MXFP4 => run_format::<Mxfp4>(pool, job, out),
        DType::TQ2_0 => run_format::<Tq2_0>(pool, job, out),
        DType::Q2_K => run_format::<Q2K>(pool, job, out),
        DType::Q3_K => run_format::<Q3K>(pool, job, out),
        DType::Q4_K => run_format::<Q4K>(pool, job, out),
        DType::Q5_K => run_format::<Q5K>(pool, job, out),
        DType::Q6_K => run_format::<Q6K>(pool, job, out),
        _ => return false,
    }
    true
}

fn run_format<F: Format>(pool: &ThreadPool, job: &Job<'_>, out: &mut [f32]) {
    let out = &DisjointMut::new(out);
    let acts = &*activations::quantize::<F>(pool, job);
    job.for_pieces(pool, 256, |piece| {
        dispatch(job.isa, Int8Piece { job, acts, piece, out, format: PhantomData::<F> });
    });
}

struct Int8Piece<'a, F> {
    job: &'a Job<'a>,
    /// `[span][activation]`
    acts: &'a [ActivationBlock],
    piece: Piece,
    out: &'a DisjointMut<'a, f32>,
    format: PhantomData<F>,
}

impl<F: Format> Op for Int8Piece<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Int8Piece { job, acts, piece, out, .. } = self;
        let n_groups = piece.rows.len().div_ceil(LANES);
        let mut own = Scratch::take();
        let scratch = &mut *own;
        let sums = &mut scratch.sums;
        sums.clear();
        sums.resize(piece.acts.len() * PANEL_GROUPS, [0.0; LANES]);
        let groups = &mut scratch.int8[..n_groups];
        let (len, size) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
        for (k0, acts) in (0..job.cols).step_by(SPAN).zip(acts.chunks(job.m)) {
            let span = SPAN.min(job.cols - k0);
            for (g, group) in groups.iter_mut().enumerate() {
                let row = piece.rows.start + g * LANES;
                let (at, bytes) = (k0 / len * size, span / len * size);
                let tile = job.tile(&piece, row, (at, bytes), &mut scratch.pad);
                F::unpack(s, tile, group);
            }
            sweep::sweep::<S, F>(s, groups, span / F::SUB, &acts[piece.acts.clone()], sums);
        }
        job.store(&piece, sums, out);
        own.give_back();
    }
}
