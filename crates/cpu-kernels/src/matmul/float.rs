//! f32 products: f32, f16 and bf16 weights widened in a panel, block types and f64 decoded
//! first.
//!
//! Per output: a fused multiply-add for each k within a span of 64, from zero; spans added up in
//! order.

use super::{DisjointMut, Job, Layout, PANEL_GROUPS, PANEL_ROWS, Piece, Scratch, Source};
use crate::simd::{LANES, Op, Simd, Tile, dispatch};
use crate::{KernelError, ThreadPool};
use blocks::DType;

/// Columns of a panel.
pub(crate) const SPAN: usize = 64;

/// Columns decoded at once: a multiple of every block length.
const DECODED: usize = 256;

/// 16 rows by 64 columns in f32: entry `k` has column `k` of all rows.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct FloatGroup(pub(crate) [[f32; LANES]; SPAN]);

impl Default for FloatGroup {
    fn default() -> Self {
        FloatGroup([[0.0; LANES]; SPAN])
    }
}

/// `Ok` if weights of this type can be multiplied.
pub(crate) fn check_dtype(dtype: DType) -> Result<(), KernelError> {
    if dtype.is_float() || dtype.is_quantized() {
        Ok(())
    } else {
        Err(KernelError::UnsupportedDType { what: "weights", dtype })
    }
}

/// Types that [`unpack`] reads.
pub(crate) fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

pub(super) fn run(pool: &ThreadPool, job: &Job<'_>, out: &mut [f32]) {
    let out = &DisjointMut::new(out);
    job.for_pieces(pool, PANEL_ROWS, 128, |piece| {
        dispatch(job.isa, FloatPiece { job, piece, out })
    });
}

struct FloatPiece<'a> {
    job: &'a Job<'a>,
    piece: Piece,
    out: &'a DisjointMut<'a, f32>,
}

impl Op for FloatPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FloatPiece { job, piece, out } = self;
        let row0 = piece.rows.start;
        let n_groups = piece.rows.len().div_ceil(LANES);
        let mut own = Scratch::take();
        let scratch = &mut *own;
        {
            let sums = scratch.sums.zeroed(piece.acts.len() * PANEL_GROUPS);
            let groups = &mut scratch.float[..n_groups];
            let (x, m) = (&job.x[piece.acts.start * job.cols..], piece.acts.len());
            if is_plain(job.dtype) {
                let size = job.dtype.block_bytes();
                for k0 in (0..job.cols).step_by(SPAN) {
                    let span = SPAN.min(job.cols - k0);
                    for (g, group) in groups.iter_mut().enumerate() {
                        let row = row0 + g * LANES;
                        let (at, bytes) = (k0 * size, span * size);
                        let tile = job.tile(&piece, row, (at, bytes), &mut scratch.pad);
                        unpack(s, job.dtype, tile, group);
                    }
                    sweep(s, groups, span, &x[k0..], job.cols, m, sums, PANEL_GROUPS);
                }
            } else {
                scratch.decoded.resize(n_groups * LANES * DECODED, 0.0);
                let decoded = &mut scratch.decoded[..];
                for k0 in (0..job.cols).step_by(DECODED) {
                    let n = DECODED.min(job.cols - k0);
                    decode_rows(job, &piece, k0, n, decoded, &mut scratch.pad);
                    let rows = Source {
                        bytes: bytemuck::cast_slice(decoded),
                        stride: DECODED * 4,
                        rows: n_groups * LANES,
                        layout: Layout::Rows,
                    };
                    for k1 in (0..n).step_by(SPAN) {
                        let span = SPAN.min(n - k1);
                        for (g, group) in groups.iter_mut().enumerate() {
                            let tile = rows.tile(g * LANES, k1 * 4, span * 4, &mut scratch.pad);
                            unpack(s, DType::F32, tile, group);
                        }
                        let x = &x[k0 + k1..];
                        sweep(s, groups, span, x, job.cols, m, sums, PANEL_GROUPS);
                    }
                }
            }
            job.store(&piece, sums, out);
        }
        own.give_back();
    }
}

/// Columns `k0..k0 + n` of the piece's rows, decoded into rows of [`DECODED`].
fn decode_rows(
    job: &Job<'_>,
    piece: &Piece,
    k0: usize,
    n: usize,
    decoded: &mut [f32],
    buffer: &mut Vec<u8>,
) {
    let (len, size) = (job.dtype.block_len(), job.dtype.block_bytes());
    for (row, to) in piece.rows.clone().zip(decoded.chunks_mut(DECODED)) {
        let bytes = job.source.row(row, k0 / len * size, n / len * size, buffer);
        decode(job.dtype, bytes, &mut to[..n]);
    }
}

/// Decodes whole blocks whose lengths have been checked.
pub(crate) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    crate::codec::decode(dtype, bytes, out).expect("lengths have been checked");
}

/// Widens 16 rows of up to 64 elements to f32, interleaved. Columns past the tile's end, up to
/// the next whole load, are zero.
#[inline(always)]
pub(crate) fn unpack<S: Simd>(s: S, dtype: DType, tile: Tile<'_>, group: &mut FloatGroup) {
    let whole = tile.len() / 16 * 16;
    unpack_whole(s, dtype, tile, whole, &mut group.0);
    let rest = tile.len() - whole;
    if rest > 0 {
        let mut pad = [0u8; LANES * 16];
        for (r, to) in pad.chunks_exact_mut(16).enumerate() {
            to[..rest].copy_from_slice(&tile.row(r)[whole..]);
        }
        let columns = whole / dtype.block_bytes();
        unpack_whole(s, dtype, Tile::new(&pad, 16, 16), 16, &mut group.0[columns..]);
    }
}

#[inline(always)]
fn unpack_whole<S: Simd>(
    s: S,
    dtype: DType,
    tile: Tile<'_>,
    bytes: usize,
    columns: &mut [[f32; LANES]],
) {
    match dtype {
        DType::F32 => {
            for (at, columns) in (0..bytes).step_by(16).zip(columns.as_chunks_mut::<4>().0) {
                let lines = s.load_4(tile, at);
                for (line, column) in lines.into_iter().zip(columns) {
                    s.store_f(s.as_f(line), column);
                }
            }
        }
        DType::F16 => {
            for (at, columns) in (0..bytes).step_by(16).zip(columns.as_chunks_mut::<8>().0) {
                let lines = s.load_4(tile, at);
                for (line, columns) in lines.into_iter().zip(columns.as_chunks_mut::<2>().0) {
                    let [low, high] = s.f16_pair(line);
                    s.store_f(low, &mut columns[0]);
                    s.store_f(high, &mut columns[1]);
                }
            }
        }
        DType::BF16 => {
            let high = s.splat_i(0xffff_0000_u32 as i32);
            for (at, columns) in (0..bytes).step_by(16).zip(columns.as_chunks_mut::<8>().0) {
                let lines = s.load_4(tile, at);
                for (line, columns) in lines.into_iter().zip(columns.as_chunks_mut::<2>().0) {
                    s.store_f(s.as_f(s.shl(line, 16)), &mut columns[0]);
                    s.store_f(s.as_f(s.and(line, high)), &mut columns[1]);
                }
            }
        }
        _ => unreachable!("only plain types are widened"),
    }
}

/// `sums[i * sums_stride + g] += sum_k groups[g][k] x[i * x_stride + k]` for `i` in `0..m` and `k`
/// in `0..span`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sweep<S: Simd>(
    s: S,
    groups: &[FloatGroup],
    span: usize,
    x: &[f32],
    x_stride: usize,
    m: usize,
    sums: &mut [[f32; LANES]],
    sums_stride: usize,
) {
    let mut g = 0;
    while g < groups.len() {
        let quad = S::MANY_REGISTERS && groups.len() - g >= 4;
        let mut i = 0;
        while i < m {
            let (x, sums) = (&x[i * x_stride..], &mut sums[i * sums_stride + g..]);
            let strides = (x_stride, sums_stride);
            i += match (quad, m - i) {
                (true, 6..) => tile::<S, 4, 6>(s, &groups[g..], span, x, sums, strides),
                (true, 2..) => tile::<S, 4, 2>(s, &groups[g..], span, x, sums, strides),
                (true, _) => tile::<S, 4, 1>(s, &groups[g..], span, x, sums, strides),
                (false, 6..) => tile::<S, 1, 6>(s, &groups[g..], span, x, sums, strides),
                (false, 2..) => tile::<S, 1, 2>(s, &groups[g..], span, x, sums, strides),
                (false, _) => tile::<S, 1, 1>(s, &groups[g..], span, x, sums, strides),
            };
        }
        g += if quad { 4 } else { 1 };
    }
}

/// `G` groups by `M` activations in registers. Returns `M`.
#[inline(always)]
fn tile<S: Simd, const G: usize, const M: usize>(
    s: S,
    groups: &[FloatGroup],
    span: usize,
    x: &[f32],
    sums: &mut [[f32; LANES]],
    (x_stride, sums_stride): (usize, usize),
) -> usize {
    let mut columns = [&groups[0].0[..span]; G];
    for g in 0..G {
        columns[g] = &groups[g].0[..span];
    }
    let mut rows = [&x[..span]; M];
    for i in 0..M {
        rows[i] = &x[i * x_stride..][..span];
    }
    let mut acc = [[s.splat_f(0.0); M]; G];
    for k in 0..span {
        let mut w = [s.splat_f(0.0); G];
        for g in 0..G {
            w[g] = s.load_f(&columns[g][k]);
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
            let sum = &mut sums[i * sums_stride + g];
            s.store_f(s.add(s.load_f(sum), acc[g][i]), sum);
        }
    }
    M
}
