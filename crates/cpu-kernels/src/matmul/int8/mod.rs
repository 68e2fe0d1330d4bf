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
mod sums;
mod sweep;
mod ternary;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;

use super::run::Limits;
use super::{DisjointMut, Job, PANEL_GROUPS, Piece, Scratch};
use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::simd::dispatch_tiles;
use crate::simd::{LANES, Line, Op, Simd, Sixteen, Tile, dispatch};
use activations::ActivationBlock;
pub(super) use activations::{Quantized, Rounding};
use blocks::DType;
use direct::Direct;
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
    /// Itself, or the format [like](sums::alike) it whose code forms its sums as well.
    type Sums: Format;
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
    /// The largest of the unsigned bytes.
    const LARGEST: i32;
    /// Whether bytes exceed 127.
    const WIDE: bool = Self::LARGEST > 127;

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

/// The product of one block type.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// What it takes activations as.
    pub(super) rounding: Rounding,
    piece: PieceFn,
    /// Whether it takes weights as a stream.
    direct: fn(&Job<'_>) -> bool,
    /// The same sums by tiles, for [`TILED`] activations or more.
    #[cfg(target_arch = "x86_64")]
    tiled: Option<PieceFn>,
}

type PieceFn = fn(&Job<'_>, &Quantized, Piece, &DisjointMut<'_, f32>);
type UnpackFn = fn(Isa, Tile<'_>, &mut Int8Group);
type SweepFn = fn(Isa, &[Int8Group], usize, &[ActivationBlock], &mut [[f32; LANES]]);

impl Kernel {
    /// That of a type, if it has one.
    pub(super) fn find(dtype: DType) -> Option<Self> {
        #[allow(clippy::wildcard_imports)]
        use {grids::*, k_quants::*, low_bit::*, nibbles::*, nvfp4::*, quants32::*, ternary::*};
        Some(match dtype {
            DType::Q4_0 => Self::of::<Q4_0>(),
            DType::Q4_1 => Self::of::<Q4_1>(),
            DType::Q5_0 => Self::of::<Q5_0>(),
            DType::Q5_1 => Self::of::<Q5_1>(),
            DType::Q8_0 => Self::of::<Q8_0>(),
            DType::IQ4_NL => Self::of::<Iq4Nl>(),
            DType::IQ4_XS => Self::of::<Iq4Xs>(),
            DType::MXFP4 => Self::of::<Mxfp4>(),
            DType::TQ2_0 => Self::of::<Tq2_0>(),
            DType::Q2_K => Self::of::<Q2K>(),
            DType::Q3_K => Self::of::<Q3K>(),
            DType::Q4_K => Self::of::<Q4K>(),
            DType::Q5_K => Self::of::<Q5K>(),
            DType::Q6_K => Self::of::<Q6K>(),
            DType::NVFP4 => Self::of::<Nvfp4>(),
            DType::Q1_0 => Self::of::<Q1_0>(),
            DType::Q2_0 => Self::of::<Q2_0>(),
            DType::TQ1_0 => Self::of::<Tq1_0>(),
            DType::IQ1_S => Self::of::<Iq1S>(),
            DType::IQ1_M => Self::of::<Iq1M>(),
            DType::IQ2_XXS => Self::of::<Iq2Xxs>(),
            DType::IQ2_XS => Self::of::<Iq2Xs>(),
            DType::IQ2_S => Self::of::<Iq2S>(),
            DType::IQ3_XXS => Self::of::<Iq3Xxs>(),
            DType::IQ3_S => Self::of::<Iq3S>(),
            _ => return None,
        })
    }

    fn of<F: Format>() -> Self {
        Kernel {
            rounding: Rounding::of::<F>(),
            piece: |job, acts, piece, out| {
                let work = Int8Piece { job, acts, piece, out };
                match direct::fits::<F>(job) {
                    true => dispatch(job.isa, Direct { work, format: PhantomData::<F> }),
                    false => work.by_panels(unpack::<F>, sweep::sweep::<F>),
                }
            },
            direct: direct::fits::<F>,
            #[cfg(target_arch = "x86_64")]
            tiled: match tiles::fit::<F>() {
                true => Some(|job, acts, piece, out| {
                    let work = Int8Piece { job, acts, piece, out };
                    dispatch_tiles(tiles::TiledPiece { work, format: PhantomData::<F> });
                }),
                false => None,
            },
        }
    }

    /// The product by tiles, where they are there and of use.
    fn by_tiles(&self, job: &Job<'_>) -> Option<PieceFn> {
        #[cfg(target_arch = "x86_64")]
        return self.tiled.filter(|_| job.isa == Isa::Amx && job.m >= TILED);
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// The pieces it can be cut into.
    pub(super) fn limits(&self, job: &Job<'_>) -> Limits {
        let limits = Limits::panels(MAX_ACTS);
        #[cfg(target_arch = "x86_64")]
        if self.by_tiles(job).is_some() {
            return Limits { rows: [LANES, tiles::ROWS], ..limits };
        }
        match (self.direct)(job) {
            true => Limits { rows: [LANES, direct::ROWS], ..limits },
            false => limits,
        }
    }

    /// Computes a piece.
    pub(super) fn run(
        &self,
        job: &Job<'_>,
        acts: &Quantized,
        piece: Piece,
        out: &DisjointMut<'_, f32>,
    ) {
        self.by_tiles(job).unwrap_or(self.piece)(job, acts, piece, out);
    }
}

/// Activations from which on tiles are faster, though of their sixteen rows some stay empty.
const TILED: usize = 8;

/// Activation rows that a panel meets once it is unpacked: enough that unpacking is a small part,
/// few enough that one span of them stays in the second-level cache.
const MAX_ACTS: usize = 512;

/// What one thread computes of a product.
struct Int8Piece<'a> {
    job: &'a Job<'a>,
    acts: &'a Quantized,
    piece: Piece,
    out: &'a DisjointMut<'a, f32>,
}

impl Int8Piece<'_> {
    /// Unpacks 256 of k of all rows at a time, and multiplies them with all activations. Formats
    /// lend what differs, and have the loop in common.
    fn by_panels(self, unpack: UnpackFn, sweep: SweepFn) {
        let Int8Piece { job, acts, piece, out } = self;
        let n_groups = piece.rows.len().div_ceil(LANES);
        let mut own = Scratch::take();
        let scratch = &mut *own;
        let sums = scratch.sums.zeroed(piece.acts.len() * PANEL_GROUPS);
        let groups = &mut scratch.int8[..n_groups];
        let (len, size) = (job.dtype.block_len(), job.dtype.block_bytes());
        for (k0, acts) in (0..job.cols).step_by(SPAN).zip(acts.spans()) {
            let span = SPAN.min(job.cols - k0);
            let bytes = (k0 / len * size, span / len * size);
            for (row, group) in piece.rows.clone().step_by(LANES).zip(&mut *groups) {
                unpack(job.isa, job.tile(&piece, row, bytes, &mut scratch.pad), group);
            }
            sweep(job.isa, groups, span, &acts[piece.acts.clone()], sums);
        }
        job.store(&piece, sums, out);
        own.give_back();
    }
}

/// Unpacks the blocks of 16 rows, up to 256 of k.
fn unpack<F: Format>(isa: Isa, tile: Tile<'_>, group: &mut Int8Group) {
    dispatch(isa, Unpack { tile, group, format: PhantomData::<F> });
}

struct Unpack<'a, F> {
    tile: Tile<'a>,
    group: &'a mut Int8Group,
    format: PhantomData<F>,
}

impl<F: Format> Op for Unpack<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        F::unpack(s, self.tile, self.group);
    }
}
