//! Sixteen lanes in plain Rust: the reference that the other paths are tested against, and what processors other
//! than x86-64 run.

use super::{LANES, Line, Simd, Tile};

/// The portable path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

type I = [u32; LANES];
type F = [f32; LANES];

#[inline(always)]
fn map<A: Copy, B: Copy + Default>(a: [A; LANES], f: impl Fn(A) -> B) -> [B; LANES] {
    let mut out = [B::default(); LANES];
    for i in 0..LANES {
        out[i] = f(a[i]);
    }
    out
}

#[inline(always)]
fn zip<A: Copy + Default>(a: [A; LANES], b: [A; LANES], f: impl Fn(A, A) -> A) -> [A; LANES] {
    let mut out = [A::default(); LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

impl Simd for Portable {
    type I = I;
    type F = F;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat_i(self, v: i32) -> I {
        [v as u32; LANES]
    }
    #[inline(always)]
    fn load_i(self, from: &Line) -> I {
        let mut out = [0; LANES];
        for (lane, bytes) in out.iter_mut().zip(from.as_chunks::<4>().0) {
            *lane = u32::from_le_bytes(*bytes);
        }
        out
    }
    #[inline(always)]
    fn store_i(self, v: I, to: &mut Line) {
        for (bytes, lane) in to.as_chunks_mut::<4>().0.iter_mut().zip(v) {
            *bytes = lane.to_le_bytes();
        }
    }
    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor(self, a: I, b: I) -> I {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        zip(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn sub_bytes(self, a: I, b: I) -> I {
        // Bits that are borrowed do not leave their byte.
        const HIGH: u32 = 0x8080_8080;
        zip(a, b, |a, b| (a | HIGH).wrapping_sub(b & !HIGH) ^ ((a ^ !b) & HIGH))
    }
    #[inline(always)]
    fn max_i(self, a: I, b: I) -> I {
        let mut out = a;
        for (out, b) in out.iter_mut().zip(b) {
            *out = (*out as i32).max(b as i32) as u32;
        }
        out
    }
    #[inline(always)]
    fn largest(self, mut a: I) -> i32 {
        // Halves against each other, which become vectors.
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] = (a[i] as i32).max(a[i + half] as i32) as u32;
            }
        }
        a[0] as i32
    }
    #[inline(always)]
    fn store_bytes(self, v: I, to: &mut [u8; LANES]) {
        *to = map(v, |v| v as u8);
    }
    #[inline(always)]
    fn mul_i(self, a: I, b: I) -> I {
        zip(a, b, u32::wrapping_mul)
    }
    #[inline(always)]
    fn dot_16(self, mut acc: I, a: I, b: I) -> I {
        for i in 0..LANES {
            let (a, b) = (a[i] as i32, b[i] as i32);
            let low = (a << 16 >> 16) * (b << 16 >> 16);
            let sum = low.wrapping_add((a >> 16) * (b >> 16));
            acc[i] = acc[i].wrapping_add(sum as u32);
        }
        acc
    }
    #[inline(always)]
    fn shl(self, a: I, n: u32) -> I {
        map(a, |a| a << n)
    }
    #[inline(always)]
    fn shr(self, a: I, n: u32) -> I {
        map(a, |a| a >> n)
    }
    #[inline(always)]
    fn sar(self, a: I, n: u32) -> I {
        map(a, |a| (a as i32 >> n) as u32)
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], index: I) -> I {
        let mut bytes: Line = bytemuck::cast(index);
        for b in &mut bytes {
            *b = table[usize::from(*b & 15)];
        }
        bytemuck::cast(bytes)
    }
    #[inline(always)]
    fn dot<const WIDE: bool>(self, mut acc: I, w: I, a: I) -> I {
        for i in 0..LANES {
            let (w, a) = (w[i].to_le_bytes(), a[i].to_le_bytes());
            for (w, a) in w.into_iter().zip(a) {
                let product = i32::from(w) * i32::from(a as i8);
                acc[i] = acc[i].wrapping_add(product as u32);
            }
        }
        acc
    }

    #[inline(always)]
    fn splat_f(self, v: f32) -> F {
        [v; LANES]
    }
    #[inline(always)]
    fn load_f(self, from: &[f32; LANES]) -> F {
        *from
    }
    #[inline(always)]
    fn store_f(self, v: F, to: &mut [f32; LANES]) {
        *to = v;
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, mut c: F) -> F {
        // Two roundings: without the instruction, a fused multiply-add is a function call.
        for i in 0..LANES {
            c[i] += a[i] * b[i];
        }
        c
    }
    #[inline(always)]
    fn to_f(self, v: I) -> F {
        map(v, |v| v as i32 as f32)
    }
    #[inline(always)]
    fn to_i(self, v: F) -> I {
        // In operations that every vector unit has: there are no fractions from 2^23 on, and below, adding it
        // leaves none.
        const NO_FRACTIONS: f32 = 8_388_608.0;
        map(v, |v| {
            let size = v.abs();
            let near = if size < NO_FRACTIONS { size + NO_FRACTIONS - NO_FRACTIONS } else { size };
            near.copysign(v) as i32 as u32
        })
    }
    #[inline(always)]
    fn as_f(self, v: I) -> F {
        map(v, f32::from_bits)
    }
    #[inline(always)]
    fn as_i(self, v: F) -> I {
        map(v, f32::to_bits)
    }
    #[inline(always)]
    fn f16_pair(self, v: I) -> [F; 2] {
        [map(v, |v| f16_to_f32(v & 0xffff)), map(v, |v| f16_to_f32(v >> 16))]
    }
    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> F {
        let mut bits = [0; LANES];
        for (bits, b) in bits.iter_mut().zip(from.as_chunks::<2>().0) {
            *bits = u32::from(u16::from_le_bytes(*b));
        }
        map(bits, f16_to_f32)
    }
    #[inline(always)]
    fn widen_bf16(self, from: &[u8; 32]) -> F {
        let mut out = [0.0; LANES];
        for (out, b) in out.iter_mut().zip(from.as_chunks::<2>().0) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
        }
        out
    }
    #[inline(always)]
    fn widen_i8(self, from: &[u8; 16]) -> F {
        map(*from, |b| f32::from(b as i8))
    }

    #[inline(always)]
    fn gather_4(self, tile: Tile<'_>, at: usize) -> [I; 4] {
        let mut out = [[0; LANES]; 4];
        for r in 0..LANES {
            let words = tile.row(r)[at..at + 16].as_chunks::<4>().0;
            for i in 0..4 {
                out[i][r] = u32::from_le_bytes(words[i]);
            }
        }
        out
    }
    #[inline(always)]
    fn gather_1(self, tile: Tile<'_>, at: usize) -> I {
        let mut out = [0; LANES];
        for (r, lane) in out.iter_mut().enumerate() {
            let b = &tile.row(r)[at..at + 4];
            *lane = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
        out
    }
}

/// The f16 with these bits, in operations that every vector unit has and that no subnormal number
/// slows down.
#[inline(always)]
fn f16_to_f32(bits: u32) -> f32 {
    const REBIAS: u32 = (127 - 15) << 23;
    let (sign, exponent) = (bits << 16 & 0x8000_0000, bits & 0x7c00);
    // An infinite or NaN exponent moves from the top of the one type to that of the other.
    let rebias = if exponent == 0x7c00 { 2 * REBIAS } else { REBIAS };
    let normal = ((bits & 0x7fff) << 13) + rebias;
    let subnormal = ((bits & 0x03ff) as i32 as f32 * (1.0 / 16_777_216.0)).to_bits();
    f32::from_bits(sign | if exponent == 0 { subnormal } else { normal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_widens() {
        for bits in 0..=u16::MAX {
            let want = half::f16::from_bits(bits).to_f32();
            let got = f16_to_f32(u32::from(bits));
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn products_of_bytes_at_their_ends() {
        for w in [0u8, 1, 127, 128, 255] {
            for a in [-127i8, -1, 0, 1, 127] {
                let words = [u32::from_le_bytes([w, 255, 0, w]); LANES];
                let acts = [u32::from_le_bytes([a as u8, 127, 0x81, a as u8]); LANES];
                let got = Portable.dot::<true>([7; LANES], words, acts);
                let want = 7 + 2 * i32::from(w) * i32::from(a) + 255 * 127;
                assert_eq!(got, [want as u32; LANES]);
            }
        }
    }
}
