//! Sixteen lanes in plain Rust. The reference that the other paths are tested against.

use super::{LANES, Line, Simd, Tile};
use half::f16;

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
        map(index, |i| {
            let b = i.to_le_bytes();
            u32::from_le_bytes([
                table[usize::from(b[0] & 15)],
                table[usize::from(b[1] & 15)],
                table[usize::from(b[2] & 15)],
                table[usize::from(b[3] & 15)],
            ])
        })
    }
    #[inline(always)]
    fn dot<const WIDE: bool>(self, mut acc: I, w: I, a: I) -> I {
        for i in 0..LANES {
            let (w, a) = (w[i], a[i]);
            // Byte b of both: zero-extended, and sign-extended by a shift up and down.
            let mut sum = (w & 0xff) as i32 * ((a << 24) as i32 >> 24);
            sum += (w >> 8 & 0xff) as i32 * ((a << 16) as i32 >> 24);
            sum += (w >> 16 & 0xff) as i32 * ((a << 8) as i32 >> 24);
            sum += (w >> 24) as i32 * (a as i32 >> 24);
            acc[i] = acc[i].wrapping_add(sum as u32);
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
        map(v, |v| v.round_ties_even() as i32 as u32)
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
        [
            map(v, |v| f16::from_bits(v as u16).to_f32()),
            map(v, |v| f16::from_bits((v >> 16) as u16).to_f32()),
        ]
    }

    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> F {
        let mut out = [0.0; LANES];
        for (out, b) in out.iter_mut().zip(from.as_chunks::<2>().0) {
            *out = f16::from_le_bytes(*b).to_f32();
        }
        out
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
