//! Q1_0 and Q2_0: one and two bits with one scale a block (ggml-common.h).

use super::{Format, Int8Group, Scales};
use crate::simd::{Simd, Tile};
use blocks::DType;

/// 128 elements: f16 scale, 16 bytes of signs. Twice the bit, minus 1.
pub(super) struct Q1_0;

impl Format for Q1_0 {
    const DTYPE: DType = DType::Q1_0;
    type Sums = super::nibbles::Q4_0;
    const SUB: usize = 32;
    const OFFSET: i32 = 1;
    const LARGEST: i32 = 2;
    const MIN: bool = false;
    const SCALES: Scales = Scales::PerBlock32;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let two = s.splat_i(0x0202_0202);
        for b in 0..tile.len() / 18 {
            let scale = s.as_i(s.f16_pair(s.load_1(tile, b * 18))[0]);
            let words = s.load_4(tile, b * 18 + 2);
            for i in 0..4 {
                s.store_i(scale, &mut group.scales[b * 4 + i]);
                for byte in 0..4 {
                    let bits = spread_bits(s, byte_of(s, words[i], byte));
                    let at = b * 32 + i * 8 + byte * 2;
                    s.store_i(s.and(s.shl(bits, 1), two), &mut group.lines[at]);
                    s.store_i(s.and(s.shr(bits, 3), two), &mut group.lines[at + 1]);
                }
            }
        }
    }
}

/// 64 elements: f16 scale, 16 bytes of four elements each; minus 1.
pub(super) struct Q2_0;

impl Format for Q2_0 {
    const DTYPE: DType = DType::Q2_0;
    type Sums = super::nibbles::Q4_0;
    const SUB: usize = 32;
    const OFFSET: i32 = 1;
    const LARGEST: i32 = 3;
    const MIN: bool = false;
    const SCALES: Scales = Scales::PerBlock32;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let two = s.splat_i(0x0303_0303);
        for b in 0..tile.len() / 18 {
            let scale = s.as_i(s.f16_pair(s.load_1(tile, b * 18))[0]);
            s.store_i(scale, &mut group.scales[b * 2]);
            s.store_i(scale, &mut group.scales[b * 2 + 1]);
            let words = s.load_4(tile, b * 18 + 2);
            for i in 0..4 {
                for byte in 0..4 {
                    // The pair of bits j goes from 2j to 8j, that is up by 6j.
                    let n = byte_of(s, words[i], byte);
                    let low = s.or(n, s.shl(n, 6));
                    let high = s.or(s.shl(n, 12), s.shl(n, 18));
                    let line = s.and(s.or(low, high), two);
                    s.store_i(line, &mut group.lines[b * 16 + i * 4 + byte]);
                }
            }
        }
    }
}

/// Byte `i` of each lane, the rest zero.
#[inline(always)]
pub(super) fn byte_of<S: Simd>(s: S, v: S::I, i: usize) -> S::I {
    s.and(s.shr(v, 8 * i as u32), s.splat_i(0xff))
}

/// Spreads the 8 bits of each lane over its bytes: bit `j` becomes bit 0 of byte `j` and, from 4
/// on, bit 4 of byte `j - 4`. The other bits mean nothing.
#[inline(always)]
pub(super) fn spread_bits<S: Simd>(s: S, v: S::I) -> S::I {
    // Up by 7 for each byte: no two bits meet at the places that are read.
    s.or(s.or(v, s.shl(v, 7)), s.or(s.shl(v, 14), s.shl(v, 21)))
}
