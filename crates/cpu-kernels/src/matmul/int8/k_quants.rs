//! The k-quants and TQ2_0: 256 elements with scales of sub-blocks (ggml-common.h).

use super::nibbles::{joined, low_and_high};
use super::{CHUNK_LINES, Format, Int8Group, Scales};
use crate::simd::{Simd, Sixteen};
use blocks::DType;

/// f16 scale and minimum, eight scales and mins of 6 bits in 12 bytes, nibbles.
pub(super) struct Q4K;

impl Format for Q4K {
    const DTYPE: DType = DType::Q4_K;
    type Sums = Self;
    const SMALL: bool = true;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const LARGEST: i32 = 15;
    const MIN: bool = true;
    const SCALES: Scales = Scales::Integer;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        scales_and_mins(s, tile, group);
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        // 64 elements have 32 bytes: the low nibbles come first.
        let at = 16 + 32 * c;
        in_order::<S>(low_and_high(s, tile, at), low_and_high(s, tile, at + 16))
    }
}

/// The low nibbles of 16 bytes and of 16 more, then the high ones of both.
#[inline(always)]
fn in_order<S: Simd>(a: [S::I; 8], b: [S::I; 8]) -> [S::I; CHUNK_LINES] {
    let mut out = joined::<S>(a, b);
    for i in 0..4 {
        (out[4 + i], out[8 + i]) = (b[i], a[4 + i]);
    }
    out
}

/// As Q4_K, with 32 bytes between scales and nibbles whose bit `s` is the fifth of sub-block `s`.
pub(super) struct Q5K;

impl Format for Q5K {
    const DTYPE: DType = DType::Q5_K;
    type Sums = Self;
    const SMALL: bool = true;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const LARGEST: i32 = 31;
    const MIN: bool = true;
    const SCALES: Scales = Scales::Integer;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        scales_and_mins(s, tile, group);
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        let at = 48 + 32 * c;
        let mut out = in_order::<S>(low_and_high(s, tile, at), low_and_high(s, tile, at + 16));
        let one = s.splat_i(0x0101_0101);
        let high = [tile.load_4(s, 16), tile.load_4(s, 32)];
        for half in 0..2 {
            for i in 0..4 {
                let bits = s.shr(high[half][i], 2 * c as u32);
                let first = s.shl(s.and(bits, one), 4);
                let second = s.shl(s.and(s.shr(bits, 1), one), 4);
                out[half * 4 + i] = s.or(out[half * 4 + i], first);
                out[8 + half * 4 + i] = s.or(out[8 + half * 4 + i], second);
            }
        }
        out
    }
}

/// The first 16 bytes of Q4_K and Q5_K. The scale of sub-block `j < 4` is the low 6 bits of byte
/// `j` of the 12, its minimum those of byte `j + 4`; of `j >= 4` the low 4 bits are the nibbles of
/// byte `j + 4`, the upper two the top bits of bytes `j - 4` and `j`.
#[inline(always)]
fn scales_and_mins<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
    let [head, a, b, c] = tile.load_4(s, 0);
    factors(s, head, group);
    let six = s.splat_i(0x3f3f_3f3f);
    let four = s.splat_i(0x0f0f_0f0f);
    let top = s.splat_i(0x3030_3030);
    let scales = [s.and(a, six), s.or(s.and(c, four), s.and(s.shr(a, 2), top))];
    let mins = [s.and(b, six), s.or(s.and(s.shr(c, 4), four), s.and(s.shr(b, 2), top))];
    let byte = s.splat_i(0xff);
    for sub in 0..8 {
        let shift = (sub % 4 * 8) as u32;
        s.store_i(s.and(s.shr(scales[sub / 4], shift), byte), &mut group.scales[sub]);
    }
    for quad in 0..2 {
        let pairs = in_pairs(s, mins[quad]);
        s.store_i(pairs[0], &mut group.mins[2 * quad]);
        s.store_i(pairs[1], &mut group.mins[2 * quad + 1]);
    }
}

/// The f16 factors of scales and mins in a word.
#[inline(always)]
fn factors<S: Simd>(s: S, word: S::I, group: &mut Int8Group) {
    let [d, dmin] = s.f16_pair(word);
    s.store_f(d, &mut group.d[0]);
    s.store_f(s.sub(s.splat_f(0.0), dmin), &mut group.d[1]);
}

/// Four bytes a lane, without sign, as pairs of 16 bits: the lower two, then the upper two.
#[inline(always)]
fn in_pairs<S: Simd>(s: S, bytes: S::I) -> [S::I; 2] {
    let byte = s.splat_i(0xff);
    let first = s.or(s.and(bytes, byte), s.shl(s.and(s.shr(bytes, 8), byte), 16));
    let second = s.or(s.and(s.shr(bytes, 16), byte), s.shl(s.shr(bytes, 24), 16));
    [first, second]
}

/// Low nibbles in 128 bytes, upper two bits in 64, 16 signed scales, f16 scale; minus 32.
pub(super) struct Q6K;

impl Format for Q6K {
    const DTYPE: DType = DType::Q6_K;
    type Sums = Self;
    const SUB: usize = 16;
    const OFFSET: i32 = 32;
    const LARGEST: i32 = 63;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        s.store_f(s.f16_pair(tile.load_1(s, 206))[1], &mut group.d[0]);
        let scales = tile.load_4(s, 192);
        for quad in 0..4 {
            store_signed_bytes(s, scales[quad], group, quad);
        }
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        // 128 elements have 64 bytes of nibbles and 32 of upper bits: bits 2q of byte l belong to
        // element 32q + l, whose nibble is the low one of byte 32q + l, and from 64 on the high
        // one of byte 32q + l - 64.
        let (low, high, shift) = (c / 2 * 64, 128 + c / 2 * 32, (c % 2 * 4) as u32);
        let first = six_bits(s, tile, [low, low + 32], high, shift);
        in_order::<S>(first, six_bits(s, tile, [low + 16, low + 48], high + 16, shift))
    }
}

/// Four signed bytes a lane as the scales of sub-blocks `4 * quad..4 * quad + 4`.
#[inline(always)]
fn store_signed_bytes<S: Simd>(s: S, bytes: S::I, group: &mut Int8Group, quad: usize) {
    for i in 0..4 {
        let up = s.shl(bytes, 24 - 8 * i as u32);
        s.store_i(s.sar(up, 24), &mut group.scales[4 * quad + i]);
    }
}

/// Nibbles `shift` bits up in 16 bytes at `low[0]`, below the two bits `shift` up in those at `high`; then nibbles of
/// those at `low[1]`, below the next two bits. (As loops over arrays of arrays, compilers kept all of it in memory.)
#[inline(always)]
fn six_bits<S: Simd, T: Sixteen>(
    s: S,
    tile: T,
    low: [usize; 2],
    high: usize,
    shift: u32,
) -> [S::I; 8] {
    let (four, top) = (s.splat_i(0x0f0f_0f0f), s.splat_i(0x3030_3030));
    let (a, b, high) = (tile.load_4(s, low[0]), tile.load_4(s, low[1]), tile.load_4(s, high));
    let mut out = [four; 8];
    for i in 0..4 {
        let bits = s.shr(high[i], shift);
        out[i] = s.or(s.and(s.shr(a[i], shift), four), s.and(s.shl(bits, 4), top));
        out[4 + i] = s.or(s.and(s.shr(b[i], shift), four), s.and(s.shl(bits, 2), top));
    }
    out
}

/// 16 bytes of scale and minimum nibbles, 64 bytes of 2 bits, f16 scale and minimum.
pub(super) struct Q2K;

impl Format for Q2K {
    const DTYPE: DType = DType::Q2_K;
    type Sums = Self;
    const SMALL: bool = true;
    const SUB: usize = 16;
    const OFFSET: i32 = 0;
    const LARGEST: i32 = 3;
    const MIN: bool = true;
    const SCALES: Scales = Scales::Integer;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        factors(s, tile.load_1(s, 80), group);
        let bytes = tile.load_4(s, 0);
        let four = s.splat_i(15);
        for sub in 0..16 {
            let shift = (sub % 4 * 8) as u32;
            s.store_i(s.and(s.shr(bytes[sub / 4], shift), four), &mut group.scales[sub]);
        }
        for quad in 0..4 {
            let pairs = in_pairs(s, s.and(s.shr(bytes[quad], 4), s.splat_i(0x0f0f_0f0f)));
            s.store_i(pairs[0], &mut group.mins[2 * quad]);
            s.store_i(pairs[1], &mut group.mins[2 * quad + 1]);
        }
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        two_bits(s, tile, 16, c)
    }
}

/// Lines of 64 elements from `64 * c` on, of two bits each in 64 bytes at `at`: 128 elements have 32 bytes, bits 2q of
/// byte l belong to element 32q + l.
#[inline(always)]
fn two_bits<S: Simd, T: Sixteen>(s: S, tile: T, at: usize, c: usize) -> [S::I; CHUNK_LINES] {
    let (two, at, shift) = (s.splat_i(0x0303_0303), at + c / 2 * 32, (c % 2 * 4) as u32);
    let (a, b) = (tile.load_4(s, at), tile.load_4(s, at + 16));
    let mut out = [two; CHUNK_LINES];
    for i in 0..4 {
        out[i] = s.and(s.shr(a[i], shift), two);
        out[4 + i] = s.and(s.shr(b[i], shift), two);
        out[8 + i] = s.and(s.shr(a[i], shift + 2), two);
        out[12 + i] = s.and(s.shr(b[i], shift + 2), two);
    }
    out
}

/// 32 bytes of third bits, 64 bytes of 2 bits, 16 scales of 6 bits minus 32 in 12 bytes, f16
/// scale; minus 4.
pub(super) struct Q3K;

impl Format for Q3K {
    const DTYPE: DType = DType::Q3_K;
    type Sums = Q6K;
    const SUB: usize = 16;
    const OFFSET: i32 = 4;
    const LARGEST: i32 = 7;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        s.store_f(s.f16_pair(tile.load_1(s, 106))[1], &mut group.d[0]);
        let (low, high) = ([tile.load_1(s, 96), tile.load_1(s, 100)], tile.load_1(s, 104));
        let (four, two) = (s.splat_i(0x0f0f_0f0f), s.splat_i(0x0303_0303));
        for quad in 0..4 {
            // Of sub-block `sub`: nibble sub / 8 of byte sub % 8, and bits 2 * (sub / 4) of byte 8 + sub % 4.
            let nibbles = s.and(s.shr(low[quad % 2], (quad / 2 * 4) as u32), four);
            let top = s.shl(s.and(s.shr(high, 2 * quad as u32), two), 4);
            let scales = s.sub_bytes(s.or(nibbles, top), s.splat_i(0x2020_2020));
            store_signed_bytes(s, scales, group, quad);
        }
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        // Bit `s` of byte l of the 32 belongs to element 32s + l.
        let mut out = two_bits(s, tile, 32, c);
        let (third, up) = (s.splat_i(0x0404_0404), 2 * c as u32);
        let (a, b) = (tile.load_4(s, 0), tile.load_4(s, 16));
        for i in 0..4 {
            let (a, b) = (s.shl(s.shr(a[i], up), 1), s.shl(s.shr(b[i], up), 1));
            out[i] = s.or(out[i], s.and(s.shl(a, 1), third));
            out[4 + i] = s.or(out[4 + i], s.and(s.shl(b, 1), third));
            out[8 + i] = s.or(out[8 + i], s.and(a, third));
            out[12 + i] = s.or(out[12 + i], s.and(b, third));
        }
        out
    }
}

/// 64 bytes of 2 bits, f16 scale; minus 1.
pub(super) struct Tq2_0;

impl Format for Tq2_0 {
    const DTYPE: DType = DType::TQ2_0;
    type Sums = Self;
    const SUB: usize = 32;
    const OFFSET: i32 = 1;
    const LARGEST: i32 = 3;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        s.store_f(s.f16_pair(tile.load_1(s, 62))[1], &mut group.d[0]);
        for sub in 0..8 {
            s.store_i(s.splat_i(1), &mut group.scales[sub]);
        }
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        two_bits(s, tile, 0, c)
    }
}
