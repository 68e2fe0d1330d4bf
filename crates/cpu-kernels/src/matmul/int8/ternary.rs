//! TQ1_0: ternary digits, five a byte (ggml-common.h).

use super::{Format, Int8Group, Scales};
use crate::simd::{Simd, Tile};
use blocks::DType;

/// 32 bytes whose digit `k` is element `32k + i`, 16 bytes with `160 + 16k + i`, 4 bytes with
/// `240 + 4k + i`, f16 scale; minus 1. A byte is a fraction of 256 in base 3: multiplying by 3
/// carries the next digit out of it.
pub(super) struct Tq1_0;

impl Format for Tq1_0 {
    const DTYPE: DType = DType::TQ1_0;
    type Sums = super::k_quants::Tq2_0;
    const SUB: usize = 32;
    const OFFSET: i32 = 1;
    const LARGEST: i32 = 3;
    const MIN: bool = false;
    const SCALES: Scales = Scales::Integer;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        s.store_f(s.f16_pair(s.load_1(tile, 50))[1], &mut group.d[0]);
        for sub in 0..8 {
            s.store_i(s.splat_i(1), &mut group.scales[sub]);
        }
        for part in 0..2 {
            let bytes = s.load_4(tile, 16 * part);
            for i in 0..4 {
                digits(s, bytes[i], group, part * 4 + i, 8, 5);
            }
        }
        let bytes = s.load_4(tile, 32);
        for i in 0..4 {
            digits(s, bytes[i], group, 40 + i, 4, 5);
        }
        digits(s, s.load_1(tile, 48), group, 60, 1, 4);
    }
}

/// Stores digit `k < n` of four bytes a lane in line `at + k * step`.
#[inline(always)]
fn digits<S: Simd>(s: S, bytes: S::I, group: &mut Int8Group, at: usize, step: usize, n: usize) {
    let byte = s.splat_i(0x00ff_00ff);
    // Two bytes a register, with room for the digit above each.
    let (mut even, mut odd) = (s.and(bytes, byte), s.and(s.shr(bytes, 8), byte));
    for k in 0..n {
        even = s.add_i(even, s.shl(even, 1));
        odd = s.add_i(odd, s.shl(odd, 1));
        let line =
            s.or(s.shr(s.and(even, s.splat_i(0x0300_0300)), 8), s.and(odd, s.splat_i(0x0300_0300)));
        s.store_i(line, &mut group.lines[at + k * step]);
        (even, odd) = (s.and(even, byte), s.and(odd, byte));
    }
}
