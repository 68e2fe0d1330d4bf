//! The i-quants with code books of eights and fours: IQ1, IQ2 and IQ3 (ggml-common.h).
//!
//! Code books are too large for registers: codes are looked up row by row, which writes eight
//! elements at a time to a table `[row][k]`. Signs, shifts and scales are then applied to 16 rows
//! at once.

use super::low_bit::{byte_of, spread_bits};
use super::{Format, Int8Group, SPAN, Scales};
use crate::simd::{LANES, Line, Simd, Tile};
use blocks::{
    Block, BlockIq1M, BlockIq1S, BlockIq2S, BlockIq2Xs, BlockIq2Xxs, BlockIq3S, BlockIq3Xxs, DType,
    IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID,
};

/// Whether the type's codes are looked up row by row, so that interleaved rows would not do.
pub(in crate::matmul) const fn looks_up_rows(dtype: DType) -> bool {
    matches!(
        dtype,
        DType::IQ1_S
            | DType::IQ1_M
            | DType::IQ2_XXS
            | DType::IQ2_XS
            | DType::IQ2_S
            | DType::IQ3_XXS
            | DType::IQ3_S
    )
}

/// A block whose elements are rows of a code book of `N` each.
trait Coded<const N: usize>: Block {
    /// The code book's row for elements `N * i..N * (i + 1)`.
    fn entry(&self, i: usize) -> [u8; N];
}

impl Coded<8> for BlockIq2Xxs {
    #[inline(always)]
    fn entry(&self, i: usize) -> [u8; 8] {
        IQ2_XXS_GRID[usize::from(self.qs[i / 4][i % 4])]
    }
}

impl Coded<8> for BlockIq2Xs {
    #[inline(always)]
    fn entry(&self, i: usize) -> [u8; 8] {
        IQ2_XS_GRID[usize::from(self.qs[i].get() & 511)]
    }
}

impl Coded<8> for BlockIq2S {
    #[inline(always)]
    fn entry(&self, i: usize) -> [u8; 8] {
        let high = usize::from(self.qh[i / 4] >> (i % 4 * 2) & 3);
        IQ2_S_GRID[usize::from(self.qs[i]) | high << 8]
    }
}

impl Coded<4> for BlockIq3Xxs {
    #[inline(always)]
    fn entry(&self, i: usize) -> [u8; 4] {
        IQ3_XXS_GRID[usize::from(self.qs[i])]
    }
}

impl Coded<4> for BlockIq3S {
    #[inline(always)]
    fn entry(&self, i: usize) -> [u8; 4] {
        let high = usize::from(self.qh[i / 8] >> (i % 8) & 1);
        IQ3_S_GRID[usize::from(self.qs[i]) | high << 8]
    }
}

impl Coded<8> for BlockIq1S {
    #[inline(always)]
    fn entry(&self, i: usize) -> [u8; 8] {
        let high = usize::from(self.qh[i / 4].get() >> (i % 4 * 3) & 7);
        bytemuck::cast(IQ1_GRID[usize::from(self.qs[i]) | high << 8])
    }
}

impl Coded<8> for BlockIq1M {
    #[inline(always)]
    fn entry(&self, i: usize) -> [u8; 8] {
        let high = usize::from(self.qh[i / 2] >> (i % 2 * 4) & 7);
        bytemuck::cast(IQ1_GRID[usize::from(self.qs[i]) | high << 8])
    }
}

/// The code book's rows for one block of each of 16 rows.
struct Entries([[u8; SPAN]; LANES]);

impl Entries {
    #[inline(always)]
    fn of<const N: usize, B: Coded<N>>(tile: Tile<'_>) -> Self {
        let mut rows = [[0; SPAN]; LANES];
        for (r, row) in rows.iter_mut().enumerate() {
            let block: &B = bytemuck::from_bytes(tile.row(r));
            for (i, to) in row.as_chunks_mut::<N>().0.iter_mut().enumerate() {
                *to = block.entry(i);
            }
        }
        Entries(rows)
    }

    /// The four lines of elements `16 * i..16 * (i + 1)`.
    #[inline(always)]
    fn lines<S: Simd>(&self, s: S, i: usize) -> [S::I; 4] {
        s.load_4(Tile::new(self.0.as_flattened(), SPAN, SPAN), 16 * i)
    }
}

/// Magnitudes are below 64: with a sign they are stored plus this.
const SIGNED: i32 = 64;

/// Stores two lines of an eight, negated where the eight's sign bit, 0 to 7 of each lane, is set.
#[inline(always)]
fn store_signed<S: Simd>(s: S, eight: [S::I; 2], signs: S::I, to: &mut [Line]) {
    let one = s.splat_i(0x0101_0101);
    let bits = spread_bits(s, signs);
    for (i, bits) in [bits, s.shr(bits, 4)].into_iter().enumerate() {
        let negative = s.and(bits, one);
        // 64 + v is v ^ 64, and 64 - v is (v ^ 63) + 1. No byte carries.
        let flip = s.add_i(s.xor(negative, one), s.splat_i(0x3f3f_3f3f));
        s.store_i(s.add_i(s.xor(eight[i], flip), negative), &mut to[i]);
    }
}

/// Adds to each byte of 7 sign bits the eighth, which makes their number even.
#[inline(always)]
fn complete_signs<S: Simd>(s: S, seven: S::I) -> S::I {
    // Bit 0 of each byte becomes its parity; what comes from the byte above stays above.
    let v = s.xor(seven, s.and(s.shr(seven, 4), s.splat_i(0x0f0f_0f0f)));
    let v = s.xor(v, s.shr(v, 2));
    let v = s.xor(v, s.shr(v, 1));
    s.or(seven, s.shl(s.and(v, s.splat_i(0x0101_0101)), 7))
}

/// Four times 7 bits of signs, below the scale of 4 bits, as four bytes of 8.
#[inline(always)]
fn packed_signs<S: Simd>(s: S, word: S::I) -> S::I {
    let mut seven = s.and(word, s.splat_i(0x7f));
    for i in 1..4 {
        seven = s.or(seven, s.and(s.shl(word, i), s.splat_i(0x7f << (8 * i))));
    }
    complete_signs(s, seven)
}

/// `2 * bits + 1`, `bits` being the lowest `n` of the word shifted down.
#[inline(always)]
fn odd_scale<S: Simd>(s: S, word: S::I, shift: usize, n: u32) -> S::I {
    let bits = s.and(s.shr(word, shift as u32), s.splat_i((1 << n) - 1));
    s.add_i(s.shl(bits, 1), s.splat_i(1))
}

/// Stores the f16 in the lower half of each lane times `unit` as the factor of integer scales.
#[inline(always)]
fn store_factor<S: Simd>(s: S, word: S::I, unit: f32, group: &mut Int8Group) {
    s.store_f(s.mul(s.f16_pair(word)[0], s.splat_f(unit)), &mut group.d[0]);
}

/// f16 scale; for each 32, four codes of 8 bits, then in 32 bits four times 7 signs and the scale.
pub(super) struct Iq2Xxs;

impl Format for Iq2Xxs {
    const DTYPE: DType = DType::IQ2_XXS;
    type Sums = Self;
    const SUB: usize = 32;
    const OFFSET: i32 = SIGNED;
    const LARGEST: i32 = 127;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let entries = Entries::of::<8, BlockIq2Xxs>(tile);
        store_factor(s, s.load_1(tile, 0), 0.125, group);
        for pair in 0..4 {
            let [_, first, _, second] = s.load_4(tile, 2 + 16 * pair);
            for (sub, word) in [(2 * pair, first), (2 * pair + 1, second)] {
                s.store_i(odd_scale(s, word, 28, 4), &mut group.scales[sub]);
                signed_32(s, &entries, packed_signs(s, word), group, sub);
            }
        }
    }
}

/// Stores 32 elements with four bytes of signs.
#[inline(always)]
fn signed_32<S: Simd>(s: S, entries: &Entries, signs: S::I, group: &mut Int8Group, sub: usize) {
    for half in 0..2 {
        let [a, b, c, d] = entries.lines(s, 2 * sub + half);
        let to = &mut group.lines[sub * 8 + half * 4..][..4];
        store_signed(s, [a, b], byte_of(s, signs, 2 * half), &mut to[..2]);
        store_signed(s, [c, d], byte_of(s, signs, 2 * half + 1), &mut to[2..]);
    }
}

/// f16 scale; for each eight, a code of 9 bits and 7 signs; a nibble of scale for each 16.
pub(super) struct Iq2Xs;

impl Format for Iq2Xs {
    const DTYPE: DType = DType::IQ2_XS;
    type Sums = Self;
    const SUB: usize = 16;
    const OFFSET: i32 = SIGNED;
    const LARGEST: i32 = 127;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let entries = Entries::of::<8, BlockIq2Xs>(tile);
        nibble_scales_16(s, tile, 66, group);
        for part in 0..4 {
            // A word has two codes, for one sub-block.
            let words = s.load_4(tile, 2 + 16 * part);
            for i in 0..4 {
                let seven = s.and(s.shr(words[i], 9), s.splat_i(0x007f_007f));
                let signs = complete_signs(s, seven);
                let sub = part * 4 + i;
                let [a, b, c, d] = entries.lines(s, sub);
                let to = &mut group.lines[sub * 4..][..4];
                store_signed(s, [a, b], byte_of(s, signs, 0), &mut to[..2]);
                store_signed(s, [c, d], byte_of(s, signs, 2), &mut to[2..]);
            }
        }
    }
}

/// An f16 at 0 and 16 nibbles at `at` as scales of IQ2.
#[inline(always)]
fn nibble_scales_16<S: Simd>(s: S, tile: Tile<'_>, at: usize, group: &mut Int8Group) {
    store_factor(s, s.load_1(tile, 0), 0.125, group);
    for half in 0..2 {
        let word = s.load_1(tile, at + 4 * half);
        for i in 0..8 {
            s.store_i(odd_scale(s, word, 4 * i, 4), &mut group.scales[half * 8 + i]);
        }
    }
}

/// f16 scale, 32 bytes of codes, 32 of signs, 8 of the codes' upper 2 bits; a nibble of scale for
/// each 16.
pub(super) struct Iq2S;

impl Format for Iq2S {
    const DTYPE: DType = DType::IQ2_S;
    type Sums = Iq2Xs;
    const SUB: usize = 16;
    const OFFSET: i32 = SIGNED;
    const LARGEST: i32 = 127;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let entries = Entries::of::<8, BlockIq2S>(tile);
        nibble_scales_16(s, tile, 74, group);
        for part in 0..2 {
            let signs = s.load_4(tile, 34 + 16 * part);
            for i in 0..4 {
                signed_32(s, &entries, signs[i], group, part * 4 + i);
            }
        }
    }
}

/// f16 scale, 64 codes of fours; for each 32, in 32 bits, four times 7 signs and the scale.
pub(super) struct Iq3Xxs;

impl Format for Iq3Xxs {
    const DTYPE: DType = DType::IQ3_XXS;
    type Sums = Iq2Xxs;
    const SUB: usize = 32;
    const OFFSET: i32 = SIGNED;
    const LARGEST: i32 = 127;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let entries = Entries::of::<4, BlockIq3Xxs>(tile);
        store_factor(s, s.load_1(tile, 0), 0.25, group);
        for part in 0..2 {
            let words = s.load_4(tile, 66 + 16 * part);
            for i in 0..4 {
                let sub = part * 4 + i;
                s.store_i(odd_scale(s, words[i], 28, 4), &mut group.scales[sub]);
                signed_32(s, &entries, packed_signs(s, words[i]), group, sub);
            }
        }
    }
}

/// f16 scale, 64 codes of fours, 8 bytes of their ninth bits, 32 of signs; a nibble of scale for
/// each 32.
pub(super) struct Iq3S;

impl Format for Iq3S {
    const DTYPE: DType = DType::IQ3_S;
    type Sums = Iq2Xxs;
    const SUB: usize = 32;
    const OFFSET: i32 = SIGNED;
    const LARGEST: i32 = 127;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let entries = Entries::of::<4, BlockIq3S>(tile);
        store_factor(s, s.load_1(tile, 0), 1.0, group);
        let scales = s.load_1(tile, 106);
        for part in 0..2 {
            let signs = s.load_4(tile, 74 + 16 * part);
            for i in 0..4 {
                let sub = part * 4 + i;
                s.store_i(odd_scale(s, scales, 4 * sub, 4), &mut group.scales[sub]);
                signed_32(s, &entries, signs[i], group, sub);
            }
        }
    }
}

/// Elements of IQ1 are -1, 0 or 1, and an eighth more or less. Eight times that is stored plus
/// this.
const SHIFTED: i32 = 9;

/// Stores lines of -1, 0 and 1; `up` is all ones in the lanes whose shift is upwards.
#[inline(always)]
fn store_shifted<S: Simd>(s: S, lines: &[S::I], up: S::I, to: &mut [Line]) {
    let two = s.splat_i(0x0303_0303);
    let shift = s.and(up, s.splat_i(0x0202_0202));
    for (line, to) in lines.iter().zip(to) {
        // Of 3, 0 and 1, which are the low bits: 0, 1 and 2.
        let digit = s.and(s.add_i(s.and(*line, two), s.splat_i(0x0101_0101)), two);
        s.store_i(s.or(s.shl(digit, 3), shift), to);
    }
}

/// f16 scale, 32 bytes of codes; for each 32, in 16 bits, the upper 3 bits of its codes, the scale
/// of 3 bits and whether the shift is downwards.
pub(super) struct Iq1S;

impl Format for Iq1S {
    const DTYPE: DType = DType::IQ1_S;
    type Sums = super::k_quants::Tq2_0;
    const SUB: usize = 32;
    const OFFSET: i32 = SHIFTED;
    const LARGEST: i32 = 18;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let entries = Entries::of::<8, BlockIq1S>(tile);
        store_factor(s, s.load_1(tile, 0), 0.125, group);
        let words = s.load_4(tile, 34);
        for sub in 0..8 {
            let (word, low) = (words[sub / 2], 16 * (sub % 2));
            s.store_i(odd_scale(s, word, low + 12, 3), &mut group.scales[sub]);
            let up = s.sar(s.shl(s.xor(word, s.splat_i(-1)), 16 - low as u32), 31);
            for half in 0..2 {
                let lines = entries.lines(s, 2 * sub + half);
                store_shifted(s, &lines, up, &mut group.lines[sub * 8 + half * 4..][..4]);
            }
        }
    }
}

/// 32 bytes of codes; for each eight a nibble, of which 3 bits are the upper ones of its code and
/// the fourth says whether the shift is downwards; four 16-bit words of four 3-bit scales, whose
/// upper nibbles are an f16 scale.
pub(super) struct Iq1M;

impl Format for Iq1M {
    const DTYPE: DType = DType::IQ1_M;
    type Sums = super::k_quants::Q6K;
    const SUB: usize = 16;
    const OFFSET: i32 = SHIFTED;
    const LARGEST: i32 = 18;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let entries = Entries::of::<8, BlockIq1M>(tile);
        let words = [s.load_1(tile, 48), s.load_1(tile, 52)];
        let mut bits = s.splat_i(0);
        for (i, word) in words.into_iter().enumerate() {
            let nibbles = s.or(
                s.and(s.shr(word, 12), s.splat_i(0x0f)),
                s.and(s.shr(word, 24), s.splat_i(0xf0)),
            );
            bits = s.or(bits, s.shl(nibbles, 8 * i as u32));
        }
        store_factor(s, bits, 0.125, group);
        let nibbles = s.load_4(tile, 32);
        for sub in 0..16 {
            let shift = sub / 4 % 2 * 16 + sub % 4 * 3;
            s.store_i(odd_scale(s, words[sub / 8], shift, 3), &mut group.scales[sub]);
            let lines = entries.lines(s, sub);
            for eight in 0..2 {
                let nibble = (2 * sub + eight) % 8;
                let down = s.xor(nibbles[sub / 4], s.splat_i(-1));
                let up = s.sar(s.shl(down, 28 - 4 * nibble as u32), 31);
                let to = &mut group.lines[sub * 4 + eight * 2..][..2];
                store_shifted(s, &lines[2 * eight..][..2], up, to);
            }
        }
    }
}
