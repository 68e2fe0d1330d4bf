//! Keys and values widened to f32: 16 positions a vector for keys, 16 elements for values.

use super::tile::Vector;
use crate::simd::{LANES, Simd, Tile};
use blocks::DType;

/// Elements of a Q8_0 block, and its bytes: a scale in f16 before them.
pub(super) const BLOCK: usize = 32;
pub(super) const BLOCK_BYTES: usize = 34;

/// Element `d` of 16 keys as vector `d * width` of the panel. What the panel has beyond a
/// multiple of 16 bytes of elements is left as it is.
#[inline(always)]
pub(super) fn keys<S: Simd>(
    s: S,
    dtype: DType,
    tile: Tile<'_>,
    panel: &mut [Vector],
    width: usize,
) {
    let whole = tile.len() / 16 * 16;
    whole_keys(s, dtype, tile, whole, panel, width);
    let rest = tile.len() - whole;
    if rest > 0 {
        let mut pad = [0u8; LANES * 16];
        for (r, to) in pad.chunks_exact_mut(16).enumerate() {
            to[..rest].copy_from_slice(&tile.row(r)[whole..]);
        }
        let done = whole / dtype.block_bytes();
        whole_keys(s, dtype, Tile::new(&pad, 16, 16), 16, &mut panel[done * width..], width);
    }
}

#[inline(always)]
fn whole_keys<S: Simd>(
    s: S,
    dtype: DType,
    tile: Tile<'_>,
    bytes: usize,
    panel: &mut [Vector],
    width: usize,
) {
    let columns = 16 / dtype.block_bytes();
    for (at, to) in (0..bytes).step_by(16).zip(panel.chunks_mut(columns * width)) {
        let lines = s.load_4(tile, at);
        match dtype {
            DType::F32 => {
                for i in 0..4 {
                    s.store_f(s.as_f(lines[i]), &mut to[i * width].0);
                }
            }
            DType::F16 => {
                for i in 0..4 {
                    let [low, high] = s.f16_pair(lines[i]);
                    s.store_f(low, &mut to[2 * i * width].0);
                    s.store_f(high, &mut to[(2 * i + 1) * width].0);
                }
            }
            _ => {
                let mask = s.splat_i(0xffff_0000_u32 as i32);
                for i in 0..4 {
                    s.store_f(s.as_f(s.shl(lines[i], 16)), &mut to[2 * i * width].0);
                    s.store_f(s.as_f(s.and(lines[i], mask)), &mut to[(2 * i + 1) * width].0);
                }
            }
        }
    }
}

/// The first `n` of 16 values, each `width` vectors of 16 elements.
#[inline(always)]
pub(super) fn values<S: Simd>(
    s: S,
    dtype: DType,
    tile: Tile<'_>,
    n: usize,
    panel: &mut [Vector],
    width: usize,
) {
    if dtype == DType::Q8_0 {
        return quantized_values(s, tile, n, panel, width);
    }
    let size = LANES * dtype.block_bytes();
    for (r, to) in panel.chunks_exact_mut(width).enumerate().take(n) {
        let row = tile.row(r);
        for (bytes, to) in row.chunks(size).zip(to) {
            let mut padded = [0u8; 64];
            let bytes = if bytes.len() == size {
                bytes
            } else {
                padded[..bytes.len()].copy_from_slice(bytes);
                &padded[..size]
            };
            let v = match dtype {
                DType::F32 => s.as_f(s.load_i(bytes.as_chunks().0.first().expect("64 bytes"))),
                DType::F16 => s.widen_f16(bytes.as_chunks().0.first().expect("32 bytes")),
                _ => s.widen_bf16(bytes.as_chunks().0.first().expect("32 bytes")),
            };
            s.store_f(v, &mut to.0);
        }
    }
}

#[inline(always)]
fn quantized_values<S: Simd>(
    s: S,
    tile: Tile<'_>,
    n: usize,
    panel: &mut [Vector],
    width: usize,
) {
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
