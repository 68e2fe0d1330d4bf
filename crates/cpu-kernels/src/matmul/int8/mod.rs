//! Integer products: block types times activations rounded to int8.
//!
//! A weight is `scale_s * (u - offset)`, or `scale_s * u + min_s`, for each sub-block `s` of 32 or
//! 16 of k with unsigned bytes `u`. The products of a sub-block are summed exactly in 32-bit
//! integers, the offset being paid by the start of the sum. Where the scales of sub-blocks are
//! integers times one f32 (the k-quants), all of a block of 256 is summed exactly,
//! `d sum_s scale_s sum_k u x - dmin sum_s min_s sum_k x`; else sub-blocks are added in f32 in order.
//!
//! Integer sums are the same in whatever order they are formed. So a batch may go through other
//! instructions (`tiles`) than a single row and have the same bits.

mod activations;
mod direct;
mod grids;
mod k_quants;
mod low_bit;
mod nibbles;
mod nvfp4;
mod quants32;
mod sweep;
mod ternary;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;

use super::{DisjointMut, Job, PANEL_GROUPS, PANEL_ROWS, Piece, Scratch};
use crate::profile::Work;
#[cfg(target_arch = "x86_64")]
use crate::simd::dispatch_tiles;
use crate::simd::{LANES, Line, Op, Simd, Sixteen, Tile, dispatch};
use crate::{Isa, ThreadPool};
use activations::Quantized;
use blocks::DType;
pub(super) use grids::looks_up_rows;
use std::marker::PhantomData;

/// Columns of a panel.
const SPAN: usize = 256;

/// 16 rows by 256 columns. Line `i` has bytes `4i..4i + 4` of k, row `r` in lane `r`.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Int8Group {
    lines: [Line; SPAN / 4],
    /// Of each sub-block; the bits of f32, or integers.
    scales: [Line; 16],
    /// Of each sub-block, the bits of f32; or integers of 16 bits, two sub-blocks a lane.
    mins: [Line; 8],
    /// The factors of integer scales and mins, that of the mins negative.
    d: [[f32; LANES]; 2],
}

impl Default for Int8Group {
    fn default() -> Self {
        Int8Group {
            lines: [[0; 64]; SPAN / 4],
            scales: [[0; 64]; 16],
            mins: [[0; 64]; 8],
            d: [[0.0; LANES]; 2],
        }
    }
}

/// What the scales of sub-blocks are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scales {
    /// f32, with an activation scale for each 32 of k.
    PerBlock32,
    /// Integers times one f32, with an activation scale for all 256. Their products with the
    /// bytes of a weight (less the offset) are within -8192..8192.
    Integer,
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
    /// What scales are, and how many the activations have.
    const SCALES: Scales;
    /// Whether integer scales have 6 bits, no sign, and bytes at most 31: a product splits into
    /// two of a byte each.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const SMALL: bool = false;
    /// Whether bytes exceed 127.
    const WIDE: bool = false;

    /// Whether [`chunk`](Self::chunk) is there, by which few activations meet a weight without its
    /// being unpacked to memory first.
    const DIRECT: bool = false;

    /// The scales of the blocks of 16 rows, up to 256 of k: all of a group but its lines. Only where
    /// `DIRECT`.
    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        let _ = (s, tile, group);
        unreachable!("asked of formats that say they can");
    }

    /// The lines of 64 of k, from `64 * c` on; where the tile ends after 32 of them, the others are
    /// anything. Only where `DIRECT`.
    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        let _ = (s, tile, c);
        unreachable!("asked of formats that say they can");
    }

    /// Unpacks the blocks of 16 rows, up to 256 of k.
    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        Self::scales(s, tile, group);
        let chunks = tile.len() / Self::DTYPE.block_bytes() * Self::DTYPE.block_len();
        for c in 0..chunks.div_ceil(4 * CHUNK_LINES) {
            let lines = Self::chunk(s, tile, c);
            for i in 0..CHUNK_LINES {
                s.store_i(lines[i], &mut group.lines[c * CHUNK_LINES + i]);
            }
        }
    }
}

/// Lines of 64 of k.
const CHUNK_LINES: usize = 16;

/// Runs the product if the type has an integer kernel; says whether it did.
pub(super) fn run(pool: &ThreadPool, job: &Job<'_>, out: &mut [f32]) -> bool {
    #[allow(clippy::wildcard_imports)]
    use {grids::*, k_quants::*, low_bit::*, nibbles::*, nvfp4::*, quants32::*, ternary::*};
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
        DType::NVFP4 => run_format::<Nvfp4>(pool, job, out),
        DType::Q1_0 => run_format::<Q1_0>(pool, job, out),
        DType::Q2_0 => run_format::<Q2_0>(pool, job, out),
        DType::TQ1_0 => run_format::<Tq1_0>(pool, job, out),
        DType::IQ1_S => run_format::<Iq1S>(pool, job, out),
        DType::IQ1_M => run_format::<Iq1M>(pool, job, out),
        DType::IQ2_XXS => run_format::<Iq2Xxs>(pool, job, out),
        DType::IQ2_XS => run_format::<Iq2Xs>(pool, job, out),
        DType::IQ2_S => run_format::<Iq2S>(pool, job, out),
        DType::IQ3_XXS => run_format::<Iq3Xxs>(pool, job, out),
        DType::IQ3_S => run_format::<Iq3S>(pool, job, out),
        _ => return false,
    }
    true
}

fn run_format<F: Format>(pool: &ThreadPool, job: &Job<'_>, out: &mut [f32]) {
    let out = &DisjointMut::new(out);
    let read = || Work { bytes: size_of_val(job.x), operations: 0 };
    let scope = pool.profile().scope("quantize activations", "", read);
    let acts = &activations::quantize::<F>(pool, job);
    drop(scope);
    let work = |piece| Int8Piece { job, acts, piece, out, format: PhantomData::<F> };
    #[cfg(target_arch = "x86_64")]
    if job.isa == Isa::Amx && job.m >= LANES && tiles::fit::<F>() {
        job.for_pieces(pool, tiles::ROWS, MAX_ACTS, |piece| {
            dispatch_tiles(tiles::TiledPiece(work(piece)));
        });
        return;
    }
    let max_rows = if direct::fits::<F>(job) { direct::ROWS } else { PANEL_ROWS };
    job.for_pieces(pool, max_rows, MAX_ACTS, |piece| dispatch(job.isa, work(piece)));
}

/// Activation rows that a panel meets once it is unpacked: enough that unpacking is a small part,
/// few enough that one span of them stays in the second-level cache.
const MAX_ACTS: usize = 512;

struct Int8Piece<'a, F> {
    job: &'a Job<'a>,
    acts: &'a Quantized,
    piece: Piece,
    out: &'a DisjointMut<'a, f32>,
    format: PhantomData<F>,
}

impl<F: Format> Op for Int8Piece<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if direct::fits::<F>(self.job) {
            return direct::run(s, &self);
        }
        let Int8Piece { job, acts, piece, out, .. } = self;
        let n_groups = piece.rows.len().div_ceil(LANES);
        let mut own = Scratch::take();
        let scratch = &mut *own;
        let sums = scratch.sums.zeroed(piece.acts.len() * PANEL_GROUPS);
        let groups = &mut scratch.int8[..n_groups];
        let (len, size) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
        for (k0, acts) in (0..job.cols).step_by(SPAN).zip(acts.spans()) {
            let span = SPAN.min(job.cols - k0);
            for (g, group) in groups.iter_mut().enumerate() {
                let row = piece.rows.start + g * LANES;
                let (at, bytes) = (k0 / len * size, span / len * size);
                let tile = job.tile(&piece, row, (at, bytes), &mut scratch.pad);
                F::unpack(s, tile, group);
            }
            let acts = &acts[piece.acts.clone()];
            sweep::sweep::<S, F>(s, groups, span / F::SUB, acts, sums);
        }
        job.store(&piece, sums, out);
        own.give_back();
    }
}
