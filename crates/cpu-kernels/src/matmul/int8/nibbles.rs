//! Formats of 4 bits without mins of sub-blocks: Q4_0, Q4_1, and those of a code book, IQ4_NL,
//! IQ4_XS and MXFP4 (ggml-common.h).

use super::{CHUNK_LINES, Format, Int8Group, Scales};
use crate::simd::{Simd, Sixteen, Tile};
use blocks::DType;

/// f16 scale, 16 bytes of nibbles minus 8.
pub(super) struct Q4_0;

impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    type Sums = Self;
    const SUB: usize = 32;
    const OFFSET: i32 = 8;
    const LARGEST: i32 = 15;
    const MIN: bool = false;
    const SCALES: Scales = Scales::PerBlock32;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        for b in 0..tile.len() / 18 {
            s.store_i(s.as_i(s.f16_pair(tile.load_1(s, b * 18))[0]), &mut group.scales[b]);
        }
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        let second = if T::PAIRS { 2 * c + 1 } else { (2 * c + 1).min(tile.len() / 18 - 1) };
        let first = low_and_high(s, tile, c * 36 + 2);
        joined::<S>(first, low_and_high(s, tile, second * 18 + 2))
    }
}

/// f16 scale, f16 minimum, 16 bytes of nibbles.
pub(super) struct Q4_1;

impl Format for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    type Sums = Self;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const LARGEST: i32 = 15;
    const MIN: bool = true;
    const SCALES: Scales = Scales::PerBlock32;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        for b in 0..tile.len() / 20 {
            let [scale, min] = s.f16_pair(tile.load_1(s, b * 20));
            s.store_i(s.as_i(scale), &mut group.scales[b]);
            s.store_i(s.as_i(min), &mut group.mins[b]);
            nibbles(s, tile, b * 20 + 4, group, b);
        }
    }
}

/// 16 bytes of nibbles at `at`: the low ones are elements 0 to 15 of sub-block `b`, the high ones
/// 16 to 31.
#[inline(always)]
fn nibbles<S: Simd>(s: S, tile: Tile<'_>, at: usize, group: &mut Int8Group, b: usize) {
    let lines = low_and_high(s, tile, at);
    for i in 0..8 {
        s.store_i(lines[i], &mut group.lines[b * 8 + i]);
    }
}

/// The low nibbles of 16 bytes at `at`, then the high ones.
#[inline(always)]
pub(super) fn low_and_high<S: Simd, T: Sixteen>(s: S, tile: T, at: usize) -> [S::I; 8] {
    let low = s.splat_i(0x0f0f_0f0f);
    let lines = tile.load_4(s, at);
    let mut out = [low; 8];
    for i in 0..4 {
        out[i] = s.and(lines[i], low);
        out[4 + i] = s.and(s.shr(lines[i], 4), low);
    }
    out
}

/// The lines of two sub-blocks of 32.
#[inline(always)]
pub(super) fn joined<S: Simd>(a: [S::I; 8], b: [S::I; 8]) -> [S::I; CHUNK_LINES] {
    [
        a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], //
        b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7],
    ]
}

/// Nibbles through a code book.
#[inline(always)]
fn coded<S: Simd>(s: S, mut lines: [S::I; CHUNK_LINES], book: &[u8; 16]) -> [S::I; CHUNK_LINES] {
    for line in &mut lines {
        *line = s.look_up(book, *line);
    }
    lines
}

/// [`nibbles`] through a code book.
#[inline(always)]
fn coded_nibbles<S: Simd>(
    s: S,
    tile: Tile<'_>,
    at: usize,
    group: &mut Int8Group,
    b: usize,
    book: &[u8; 16],
) {
    let low = s.splat_i(0x0f0f_0f0f);
    let lines = tile.load_4(s, at);
    for i in 0..4 {
        let (first, second) = (s.and(lines[i], low), s.and(s.shr(lines[i], 4), low));
        s.store_i(s.look_up(book, first), &mut group.lines[b * 8 + i]);
        s.store_i(s.look_up(book, second), &mut group.lines[b * 8 + 4 + i]);
    }
}

/// The non-linear code book of 4 bits, plus 128.
const IQ4_BOOK: [u8; 16] = {
    let values: [i16; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let mut book = [0; 16];
    let mut i = 0;
    while i < 16 {
        book[i] = (values[i] + 128) as u8;
        i += 1;
    }
    book
};

/// f16 scale, 16 bytes of nibbles through the code book.
pub(super) struct Iq4Nl;

impl Format for Iq4Nl {
    const DTYPE: DType = DType::IQ4_NL;
    type Sums = super::quants32::Q8_0;
    const SUB: usize = 32;
    const OFFSET: i32 = 128;
    const LARGEST: i32 = 255;
    const MIN: bool = false;
    const SCALES: Scales = Scales::PerBlock32;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        Q4_0::scales(s, tile, group);
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        coded(s, Q4_0::chunk(s, tile, c), &IQ4_BOOK)
    }
}

/// 256 elements: f16 scale, eight scales of 6 bits minus 32 (two high bits each in a u16, then
/// nibbles in 4 bytes), eight times 16 bytes of nibbles through the code book.
pub(super) struct Iq4Xs;

impl Format for Iq4Xs {
    const DTYPE: DType = DType::IQ4_XS;
    type Sums = Self;
    const SUB: usize = 32;
    const OFFSET: i32 = 128;
    const LARGEST: i32 = 255;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    const DIRECT: bool = true;

    #[inline(always)]
    fn scales<S: Simd, T: Sixteen>(s: S, tile: T, group: &mut Int8Group) {
        let head = tile.load_1(s, 0);
        s.store_f(s.f16_pair(head)[0], &mut group.d[0]);
        let low = tile.load_1(s, 4);
        for b in 0..8 {
            let bits = s.and(s.shr(low, 4 * b as u32), s.splat_i(15));
            let high = s.and(s.shr(head, 16 + 2 * b as u32), s.splat_i(3));
            let sub = s.add_i(s.or(bits, s.shl(high, 4)), s.splat_i(-32));
            s.store_i(sub, &mut group.scales[b]);
        }
    }

    #[inline(always)]
    fn chunk<S: Simd, T: Sixteen>(s: S, tile: T, c: usize) -> [S::I; CHUNK_LINES] {
        let at = 8 + 32 * c;
        let lines = joined::<S>(low_and_high(s, tile, at), low_and_high(s, tile, at + 16));
        coded(s, lines, &IQ4_BOOK)
    }
}

/// Twice the values of E2M1, plus 12.
pub(super) const E2M1_BOOK: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// An exponent of 8 bits (scale 2^(e - 127)), 16 bytes of E2M1.
pub(super) struct Mxfp4;

impl Format for Mxfp4 {
    const DTYPE: DType = DType::MXFP4;
    type Sums = Q4_0;
    const SUB: usize = 32;
    const OFFSET: i32 = 12;
    const LARGEST: i32 = 24;
    const MIN: bool = false;
    const SCALES: Scales = Scales::PerBlock32;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        for b in 0..tile.len() / 17 {
            let e = s.and(tile.load_1(s, b * 17), s.splat_i(0xff));
            // Half of 2^(e - 127), for the doubled values: bits (e - 1) << 23. That is negative or
            // zero for e < 2, where the results 2^-127 and 2^-128 are subnormal.
            let normal = s.as_f(s.shl(s.add_i(e, s.splat_i(-1)), 23));
            let subnormal = s.as_f(s.shl(e, 22));
            let smallest = s.splat_f(f32::from_bits(0x0020_0000));
            let scale = s.max(s.max(normal, subnormal), smallest);
            s.store_i(s.as_i(scale), &mut group.scales[b]);
            coded_nibbles(s, tile, b * 17 + 1, group, b, &E2M1_BOOK);
        }
    }
}
