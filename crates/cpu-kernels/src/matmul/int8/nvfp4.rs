//! NVFP4: E2M1 with an 8-bit float for each 16 (ggml-common.h).

use super::nibbles::E2M1_BOOK;
use super::{Format, Int8Group, Scales};
use crate::simd::{Simd, Tile};
use blocks::DType;

/// 64 elements: four scales in UE4M3, then 8 bytes for each 16 whose low nibbles come first.
pub(super) struct Nvfp4;

impl Format for Nvfp4 {
    const DTYPE: DType = DType::NVFP4;
    type Sums = Self;
    const SUB: usize = 16;
    const OFFSET: i32 = 12;
    const LARGEST: i32 = 24;
    const MIN: bool = false;
    const SCALES: Scales = Scales::PerBlock32;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, tile: Tile<'_>, group: &mut Int8Group) {
        let low = s.splat_i(0x0f0f_0f0f);
        for b in 0..tile.len() / 36 {
            let scales = halves_of_ue4m3(s, s.load_1(tile, b * 36));
            for sub in 0..4 {
                s.store_i(s.as_i(scales[sub]), &mut group.scales[b * 4 + sub]);
            }
            for half in 0..2 {
                let lines = s.load_4(tile, b * 36 + 4 + 16 * half);
                for i in 0..4 {
                    let (first, second) = (s.and(lines[i], low), s.and(s.shr(lines[i], 4), low));
                    let at = b * 16 + half * 8 + i / 2 * 4 + i % 2;
                    s.store_i(s.look_up(&E2M1_BOOK, first), &mut group.lines[at]);
                    s.store_i(s.look_up(&E2M1_BOOK, second), &mut group.lines[at + 2]);
                }
            }
        }
    }
}

/// [`blocks::ue4m3_half`] of the four bytes of each lane.
#[inline(always)]
fn halves_of_ue4m3<S: Simd>(s: S, bytes: S::I) -> [S::F; 4] {
    // An f16 has one bit of exponent more and a bias larger by 8: with the exponent and the
    // mantissa 7 bits up it is the number over 2^8, subnormal ones included.
    let places = s.splat_i(0x3f80_3f80);
    let even = s.f16_pair(s.and(s.shl(bytes, 7), places));
    let odd = s.f16_pair(s.and(s.shr(bytes, 1), places));
    let scale = s.splat_f(128.0);
    let mut out = [even[0], odd[0], even[1], odd[1]];
    for (i, out) in out.iter_mut().enumerate() {
        // 0 where the byte is 0x7f, else 1.
        let rest = s.and(s.xor(s.shr(bytes, 8 * i as u32), s.splat_i(0x7f)), s.splat_i(0xff));
        let counts = s.and(s.shr(s.add_i(rest, s.splat_i(0xff)), 8), s.splat_i(1));
        *out = s.mul(s.mul(*out, scale), s.to_f(counts));
    }
    out
}
