//! Keys and values widened to f32: 16 positions a vector for keys, 16 elements for values.

use super::tile::Vector;
use crate::simd::{LANES, Simd, Tile};
use blocks::DType;

/// Elements of a Q8_0 or Q4_0 block, and the bytes of a Q8_0 block: a scale in f16 before them.
pub(super) const BLOCK: usize = 32;
pub(super) const BLOCK_BYTES: usize = 34;
/// Bytes of a Q4_0 block: a scale, then elements `i` and `i + 16` in the halves of byte `i`.
const Q4_0_BYTES: usize = 18;

/// Whether keys and values of a type are read as blocks of Q8_0.
pub(super) fn is_quantized(dtype: DType) -> bool {
    matches!(dtype, DType::Q8_0 | DType::Q4_0)
}

/// A tile of blocks of Q8_0: what a tile of Q8_0 is, and what one of Q4_0 becomes in `wide`, since
/// its elements (a half byte less 8) are bytes too.
#[inline(always)]
pub(super) fn as_q8_0<'a>(dtype: DType, tile: Tile<'a>, wide: &'a mut Vec<u8>) -> Tile<'a> {
    if dtype != DType::Q4_0 {
        return tile;
    }
    let len = tile.len() / Q4_0_BYTES * BLOCK_BYTES;
    wide.resize(LANES * len, 0);
    for (r, to) in wide.chunks_exact_mut(len).enumerate() {
        let (from, _) = tile.row(r).as_chunks::<Q4_0_BYTES>();
        for (from, to) in from.iter().zip(to.as_chunks_mut::<BLOCK_BYTES>().0) {
            to[..2].copy_from_slice(&from[..2]);
            for i in 0..16 {
                let byte = from[2 + i];
                to[2 + i] = (byte & 15).wrapping_sub(8);
                to[18 + i] = (byte >> 4).wrapping_sub(8);
            }
        }
    }
    Tile::new(wide, len, len)
}

/// A plain element type: how it is widened, 16 at a time.
trait Element {
    const BYTES: usize;
    /// The columns in the first 16 bytes of 16 rows, which [`Simd::load_4`] gives as `lines`.
    fn columns<S: Simd>(s: S, lines: [S::I; 4], to: &mut [Vector], width: usize);
    /// 16 elements in a row: the first of `from`, which has at least as many bytes.
    fn row<S: Simd>(s: S, from: &[u8]) -> S::F;
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn columns<S: Simd>(s: S, lines: [S::I; 4], to: &mut [Vector], width: usize) {
        for i in 0..4 {
            s.store_f(s.as_f(lines[i]), &mut to[i * width].0);
        }
    }
    #[inline(always)]
    fn row<S: Simd>(s: S, from: &[u8]) -> S::F {
        s.as_f(s.load_i(from.first_chunk().expect("64 bytes")))
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn columns<S: Simd>(s: S, lines: [S::I; 4], to: &mut [Vector], width: usize) {
        for i in 0..4 {
            let [low, high] = s.f16_pair(lines[i]);
            s.store_f(low, &mut to[2 * i * width].0);
            s.store_f(high, &mut to[(2 * i + 1) * width].0);
        }
    }
    #[inline(always)]
    fn row<S: Simd>(s: S, from: &[u8]) -> S::F {
        s.widen_f16(from.first_chunk().expect("32 bytes"))
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn columns<S: Simd>(s: S, lines: [S::I; 4], to: &mut [Vector], width: usize) {
        let mask = s.splat_i(0xffff_0000_u32 as i32);
        for i in 0..4 {
            s.store_f(s.as_f(s.shl(lines[i], 16)), &mut to[2 * i * width].0);
            s.store_f(s.as_f(s.and(lines[i], mask)), &mut to[(2 * i + 1) * width].0);
        }
    }
    #[inline(always)]
    fn row<S: Simd>(s: S, from: &[u8]) -> S::F {
        s.widen_bf16(from.first_chunk().expect("32 bytes"))
    }
}

/// Element `d` of 16 keys as vector `d * width` of the panel, and zeros up to the next multiple of
/// 16 bytes of elements.
#[inline(always)]
pub(super) fn keys<S: Simd>(
    s: S,
    dtype: DType,
    tile: Tile<'_>,
    panel: &mut [Vector],
    width: usize,
) {
    match dtype {
        DType::F32 => keys_as::<S, F32>(s, tile, panel, width),
        DType::F16 => keys_as::<S, F16>(s, tile, panel, width),
        _ => keys_as::<S, Bf16>(s, tile, panel, width),
    }
}

#[inline(always)]
fn keys_as<S: Simd, E: Element>(s: S, tile: Tile<'_>, panel: &mut [Vector], width: usize) {
    let whole = tile.len() / 16;
    let step = 16 / E::BYTES * width;
    for i in 0..whole {
        E::columns(s, s.load_4(tile, 16 * i), &mut panel[i * step..], width);
    }
    let rest = tile.len() % 16;
    if rest > 0 {
        let mut pad = [0u8; LANES * 16];
        for (r, to) in pad.chunks_exact_mut(16).enumerate() {
            to[..rest].copy_from_slice(&tile.row(r)[16 * whole..]);
        }
        let lines = s.load_4(Tile::new(&pad, 16, 16), 0);
        E::columns(s, lines, &mut panel[whole * step..], width);
    }
}

/// The first `n` of 16 values, each `width` vectors of 16 elements, the last of them completed
/// with zeros.
#[inline(always)]
pub(super) fn values<S: Simd>(
    s: S,
    dtype: DType,
    tile: Tile<'_>,
    n: usize,
    panel: &mut [Vector],
    width: usize,
) {
    match dtype {
        DType::F32 => values_as::<S, F32>(s, tile, n, panel, width),
        DType::F16 => values_as::<S, F16>(s, tile, n, panel, width),
        DType::BF16 => values_as::<S, Bf16>(s, tile, n, panel, width),
        _ => quantized_values(s, tile, n, panel, width),
    }
}

#[inline(always)]
fn values_as<S: Simd, E: Element>(
    s: S,
    tile: Tile<'_>,
    n: usize,
    panel: &mut [Vector],
    width: usize,
) {
    let size = LANES * E::BYTES;
    let whole = tile.len() / size;
    for r in 0..n {
        let (row, to) = (tile.row(r), &mut panel[r * width..][..width]);
        for i in 0..whole {
            s.store_f(E::row(s, &row[i * size..]), &mut to[i].0);
        }
        if whole < width {
            let mut pad = [0u8; 64];
            pad[..row.len() - whole * size].copy_from_slice(&row[whole * size..]);
            s.store_f(E::row(s, &pad), &mut to[whole].0);
        }
    }
}

#[inline(always)]
fn quantized_values<S: Simd>(s: S, tile: Tile<'_>, n: usize, panel: &mut [Vector], width: usize) {
    for (block, at) in (0..tile.len()).step_by(BLOCK_BYTES).enumerate() {
        let mut scale = Vector::default();
        s.store_f(scales(s, tile, at), &mut scale.0);
        for (r, to) in panel.chunks_exact_mut(width).enumerate().take(n) {
            let scale = s.splat_f(scale.0[r]);
            let elements = &tile.row(r)[at + 2..at + BLOCK_BYTES];
            for (bytes, to) in elements.as_chunks().0.iter().zip(&mut to[2 * block..]) {
                s.store_f(s.mul(s.widen_i8(bytes), scale), &mut to.0);
            }
        }
    }
}

/// The scales of the blocks at byte `at` of 16 rows.
#[inline(always)]
pub(super) fn scales<S: Simd>(s: S, tile: Tile<'_>, at: usize) -> S::F {
    let mut bytes = [0u8; 2 * LANES];
    for (r, to) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        to.copy_from_slice(&tile.row(r)[at..at + 2]);
    }
    s.widen_f16(&bytes)
}
