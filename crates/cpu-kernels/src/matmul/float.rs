//! f32 products: f32, f16 and bf16 weights widened in a panel, block types and f64 decoded
//! first.
//!
//! Per output: a fused multiply-add for each k within a span of 64, from zero; spans added up in
//! order.

use super::rows::{Dot, F32, Family, Product, Step, Steps};
use super::{DisjointMut, Job, Piece, bf16};
use crate::simd::{LANES, Op, Simd, Tile, dispatch};
use crate::{KernelError, ThreadPool};
use blocks::DType;
use bytemuck::Zeroable;
use std::marker::PhantomData;

/// Columns of a panel.
pub(crate) const SPAN: usize = 64;

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

/// The product in f32; of `rounded` numbers if activations and weights are taken as bf16.
pub(super) fn run(pool: &ThreadPool, job: &Job<'_>, rounded: bool, out: &mut [f32]) {
    let mut x = Vec::new();
    let steps = Steps::cut(pool, job, (LANES, is_plain(job.dtype)), &mut x, |row, to| {
        let to: &mut [f32] = bytemuck::cast_slice_mut(to);
        to[..row.len()].copy_from_slice(row);
        to[row.len()..].fill(0.0);
        if rounded {
            to.iter_mut().for_each(|x| *x = bf16::rounded(*x));
        }
    });
    let product = &Product { job, steps, out: &DisjointMut::new(out) };
    product.for_pieces(pool, |piece| dispatch(job.isa, FloatPiece { product, rounded, piece }));
}

struct FloatPiece<'a> {
    product: &'a Product<'a>,
    rounded: bool,
    piece: Piece,
}

impl Op for FloatPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FloatPiece { product, rounded, piece } = self;
        match product.job.dtype {
            DType::F32 => product.piece::<S, Widened<F32>>(s, &piece),
            DType::F16 if rounded => product.piece::<S, Widened<RoundedF16>>(s, &piece),
            DType::F16 => product.piece::<S, Widened<F16>>(s, &piece),
            DType::BF16 => product.piece::<S, Widened<Bf16>>(s, &piece),
            _ => product.piece::<S, Decoded>(s, &piece),
        }
    }
}

/// Sixteen f16.
struct F16;

impl<S: Simd> Dot<S> for F16 {
    type Bytes = [u8; 32];
    #[inline(always)]
    fn load(s: S, from: &[u8; 32]) -> S::F {
        s.widen_f16(from)
    }
    #[inline(always)]
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
        s.fma(w, x, acc)
    }
}

/// Sixteen f16, rounded to bf16.
struct RoundedF16;

impl<S: Simd> Dot<S> for RoundedF16 {
    type Bytes = [u8; 32];
    #[inline(always)]
    fn load(s: S, from: &[u8; 32]) -> S::F {
        let mut wide = [0.0; LANES];
        s.store_f(s.widen_f16(from), &mut wide);
        s.load_f(&wide.map(bf16::rounded))
    }
    #[inline(always)]
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
        s.fma(w, x, acc)
    }
}

/// Sixteen bf16.
struct Bf16;

impl<S: Simd> Dot<S> for Bf16 {
    type Bytes = [u8; 32];
    #[inline(always)]
    fn load(s: S, from: &[u8; 32]) -> S::F {
        s.widen_bf16(from)
    }
    #[inline(always)]
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
        s.fma(w, x, acc)
    }
}

/// A plain type.
struct Widened<D>(PhantomData<D>);

impl<S: Simd, D: Dot<S>> Family<S> for Widened<D> {
    type Stored = D;
    const K: usize = LANES;

    #[inline(always)]
    fn unpack(
        s: S,
        job: &Job<'_>,
        row: usize,
        (k0, k): (usize, usize),
        pad: &mut Vec<u8>,
        to: &mut [Step],
    ) {
        let size = size_of::<D::Bytes>() / LANES;
        let bytes = job.source.row(row, k0 * size, k * size, pad);
        let whole = k / LANES;
        let (steps, rest) = bytes.split_at(whole * size_of::<D::Bytes>());
        for (from, to) in bytemuck::cast_slice(steps).iter().zip(&mut *to) {
            s.store_f(D::load(s, from), &mut to.0);
        }
        if !rest.is_empty() {
            let mut last = D::Bytes::zeroed();
            bytemuck::bytes_of_mut(&mut last)[..rest.len()].copy_from_slice(rest);
            s.store_f(D::load(s, &last), &mut to[whole].0);
        }
    }
}

/// Any other type.
struct Decoded;

impl<S: Simd> Family<S> for Decoded {
    type Stored = F32;
    const K: usize = LANES;

    #[inline(always)]
    fn unpack(
        _: S,
        job: &Job<'_>,
        row: usize,
        (k0, k): (usize, usize),
        pad: &mut Vec<u8>,
        to: &mut [Step],
    ) {
        let (len, size) = (job.dtype.block_len(), job.dtype.block_bytes());
        let bytes = job.source.row(row, k0 / len * size, k / len * size, pad);
        let to: &mut [f32] = bytemuck::cast_slice_mut(to);
        decode(job.dtype, bytes, &mut to[..k]);
        to[k..].fill(0.0);
    }
}

/// Decodes whole blocks whose lengths have been checked.
pub(crate) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    blocks::decode(dtype, bytes, out).expect("lengths have been checked");
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
