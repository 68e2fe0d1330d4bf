//! Q5_0, Q5_1 and Q8_0: blocks of 32 with one scale (ggml-common.h).

use super::nibbles::joined;
use super::{CHUNK_LINES, Format, Int8Group, Scales};
use crate::simd::{Simd, Sixteen, Tile};
use blocks::DType;

/// f16 scale, 32 signed bytes.
pub(super) struct Q8_0;

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    type Sums = Self;
    const SUB: usize = 32;
    const OFFSET: i32 = 128;
    const LARGEST: i32 = 255;
    const MIN: bool = false;
    const SCALES: Scales = Scales::PerBlock32;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        for b in 0..tile.len() / 34 {
            s.store_i(s.as_i(s.f16_pair(tile.load_1(s, b * 34))[0]), &mut group.scales[b]);
        }
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        let second = if T::PAIRS { 2 * c + 1 } else { (2 * c + 1).min(tile.len() / 34 - 1) };
        joined::<S>(flipped(s, tile, c * 68 + 2), flipped(s, tile, second * 34 + 2))
    }
}

/// 32 signed bytes at `at`, plus 128.
#[inline(always)]
fn flipped<S: Simd, T: Sixteen>(s: S, tile: T, at: usize) -> [S::I; 8] {
    let flip = s.splat_i(0x8080_8080_u32 as i32);
    let (a, b) = (tile.load_4(s, at), tile.load_4(s, at + 16));
    let mut out = [flip; 8];
    for i in 0..4 {
        out[i] = s.xor(a[i], flip);
        out[4 + i] = s.xor(b[i], flip);
    }
    out
}

/// f16 scale, 32 high bits, 16 bytes of nibbles.
pub(super) struct Q5_0;

impl Format for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    type Sums = super::nibbles::Q4_0;
    const SUB: usize = 32;
    const OFFSET: i32 = 16;
    const LARGEST: i32 = 31;
    const MIN: bool = false;
    const SCALES: Scales = Scales::PerBlock32;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        for b in 0..tile.len() / 22 {
            let at = b * 22;
            s.store_i(s.as_i(s.f16_pair(tile.load_1(s, at))[0]), &mut group.scales[b]);
            five_bits(s, tile, at + 2, group, b);
        }
    }
}

/// f16 scale, f16 minimum, 32 high bits, 16 bytes of nibbles.
pub(super) struct Q5_1;

impl Format for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    type Sums = Self;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const LARGEST: i32 = 31;
    const MIN: bool = true;
    const SCALES: Scales = Scales::PerBlock32;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        for b in 0..tile.len() / 24 {
            let at = b * 24;
            let [scale, min] = s.f16_pair(tile.load_1(s, at));
            s.store_i(s.as_i(scale), &mut group.scales[b]);
            s.store_i(s.as_i(min), &mut group.mins[b]);
            five_bits(s, tile, at + 4, group, b);
        }
    }
}

/// 32 high bits at `at`, then nibbles: element `j` of the first half has the low nibble of byte
/// `j`, of the second half the high nibble; bit `j` of the first word is the fifth bit of
/// element `j`.
#[inline(always)]
fn five_bits<S: Simd>(s: S, tile: Tile<'_>, at: usize, group: &mut Int8Group, b: usize) {
    let high = tile.load_1(s, at);
    let nibbles = tile.load_4(s, at + 4);
    let low = s.splat_i(0x0f0f_0f0f);
    for i in 0..4 {
        let first = s.or(s.and(nibbles[i], low), fifth(s, s.shr(high, 4 * i as u32)));
        let second =
            s.or(s.and(s.shr(nibbles[i], 4), low), fifth(s, s.shr(high, 16 + 4 * i as u32)));
        s.store_i(first, &mut group.lines[b * 8 + i]);
        s.store_i(second, &mut group.lines[b * 8 + 4 + i]);
    }
}

/// Bits 0 to 3 of each lane as bit 4 of its four bytes.
#[inline(always)]
fn fifth<S: Simd>(s: S, bits: S::I) -> S::I {
    let bits = s.and(bits, s.splat_i(15));
    // Bit j goes to 8j + 4, that is up by 7j + 4.
    let low = s.or(s.shl(bits, 4), s.shl(bits, 11));
    let high = s.or(s.shl(bits, 18), s.shl(bits, 25));
    s.and(s.or(low, high), s.splat_i(0x1010_1010))
}
