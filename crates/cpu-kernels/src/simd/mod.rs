//! Sixteen lanes of 32 bits, for every instruction set.
//!
//! A kernel is written once, as an [`Op`] over [`Simd`], and [`dispatch`] compiles it for each
//! instruction set. A value of a type that implements `Simd` is the proof that the processor has
//! the instructions, so the methods are safe. A lane is a row of a weight (or a position of a
//! cache), never a step along the sum: what one lane computes does not depend on its neighbours,
//! and no sum crosses lanes.
//!
//! An instruction set is one file with an implementation of `Simd`, a line in [`dispatch`] and one in
//! `Isa`. [`Isa::Portable`] is SSE2 on x86-64; other processors run plain Rust, which the compiler vectorises for
//! their baseline; a NEON path will be `neon.rs`, four registers a value, its `dot` the `usdot` (or
//! `sdot` of bytes less 128) of ARMv8.6.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
mod portable;
mod prefetch;
mod sixteen;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod tile;

use crate::{Isa, KernelError};
#[cfg(not(target_arch = "x86_64"))]
use portable::Portable;
pub(crate) use prefetch::{CACHE_LINE, prefetch, prefetch_near};
pub(crate) use sixteen::{Sixteen, Stream};
pub(crate) use tile::{LANES, Tile};

/// Bytes of sixteen lanes of 32 bits.
pub(crate) type Line = [u8; 64];

/// Operations on 16 lanes of 32 bits. `I` holds integers or bytes, `F` holds f32.
pub(crate) trait Simd: Copy {
    /// 16 lanes of integers, or 64 bytes.
    type I: Copy;
    /// 16 lanes of f32.
    type F: Copy;
    /// Whether there are 32 registers that hold all 16 lanes each.
    const MANY_REGISTERS: bool;
    /// Whether there are just 4.
    const FEW_REGISTERS: bool = false;
    /// Whether products of bytes are widened to 32 bits by another instruction than the one that multiplies, so
    /// that [`add_pairs`](Self::add_pairs) is there to be summed first.
    const PAIRS: bool = false;
    /// Whether the wide [`dot`](Self::dot) takes 128 from each byte of `w`.
    const SIGNED: bool = false;
    /// Whether this thread may use AMX's products of int8 tiles.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const TILES: bool = false;

    fn splat_i(self, v: i32) -> Self::I;
    fn load_i(self, from: &Line) -> Self::I;
    fn store_i(self, v: Self::I, to: &mut Line);
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bytes less bytes.
    fn sub_bytes(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger, signed.
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The largest lane, signed.
    fn largest(self, a: Self::I) -> i32;
    /// The low byte of each lane.
    fn store_bytes(self, v: Self::I, to: &mut [u8; LANES]);
    /// The low 32 bits of products.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each lane of `acc` plus the sum of the two products of 16-bit halves, all signed.
    fn dot_16(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    fn shl(self, a: Self::I, n: u32) -> Self::I;
    /// Logical shift to the right.
    fn shr(self, a: Self::I, n: u32) -> Self::I;
    /// Arithmetic shift to the right.
    fn sar(self, a: Self::I, n: u32) -> Self::I;
    /// Each byte of `index`, 0 to 15, replaced by `table[byte]`.
    fn look_up(self, table: &[u8; 16], index: Self::I) -> Self::I;
    /// Each lane of `acc` plus the sum of the 4 products of unsigned bytes of `w` with signed
    /// bytes of `a`. The bytes of `a` are at least -127. Unless `WIDE`, those of `w` are at
    /// most 127. If `WIDE` and [`SIGNED`](Self::SIGNED), the bytes of `w` count 128 less.
    fn dot<const WIDE: bool>(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I;
    /// Each half of 16 bits of `sums` plus the sum of its two products of unsigned bytes of `w`, at most 127, with
    /// signed bytes of `a`, at least -127. Sums wrap. Only if [`PAIRS`](Self::PAIRS).
    #[inline(always)]
    fn add_pairs(self, sums: Self::I, w: Self::I, a: Self::I) -> Self::I {
        let _ = (sums, w, a);
        unreachable!("asked of instruction sets that say they can");
    }
    /// The low half of each lane, in both halves. Only if [`PAIRS`](Self::PAIRS).
    #[inline(always)]
    fn twice(self, v: Self::I) -> Self::I {
        let _ = v;
        unreachable!("asked of instruction sets that say they can");
    }

    fn splat_f(self, v: f32) -> Self::F;
    fn load_f(self, from: &[f32; LANES]) -> Self::F;
    fn store_f(self, v: Self::F, to: &mut [f32; LANES]);
    /// [`store_f`](Self::store_f) of what nobody reads soon: past the caches, where the processor can and
    /// `to` is a line of memory. Before other threads may read it comes [`fence`](Self::fence).
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    #[inline(always)]
    fn store_past(self, v: Self::F, to: &mut [f32; LANES]) {
        self.store_f(v, to);
    }
    /// What went past the caches is there before whatever is written after this.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    #[inline(always)]
    fn fence(self) {}
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` if one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` if one is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, fused where the instruction set can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Integers to f32.
    fn to_f(self, v: Self::I) -> Self::F;
    /// f32 to integers, ties to even. Within the range of i32.
    fn to_i(self, v: Self::F) -> Self::I;
    /// The bits of integers read as f32.
    fn as_f(self, v: Self::I) -> Self::F;
    /// The bits of f32 read as integers.
    fn as_i(self, v: Self::F) -> Self::I;
    /// Two f16 a lane, low half first.
    fn f16_pair(self, v: Self::I) -> [Self::F; 2];
    /// 16 f16 in a row.
    fn widen_f16(self, from: &[u8; 32]) -> Self::F;
    /// 16 bf16 in a row.
    fn widen_bf16(self, from: &[u8; 32]) -> Self::F;
    /// 16 signed bytes in a row.
    fn widen_i8(self, from: &[u8; 16]) -> Self::F;

    /// [`load_4`](Self::load_4) of rows that are apart.
    fn gather_4(self, tile: Tile<'_>, at: usize) -> [Self::I; 4];
    /// [`load_1`](Self::load_1) of rows that are apart.
    fn gather_1(self, tile: Tile<'_>, at: usize) -> Self::I;

    /// 16 bytes at `at` of each of 16 rows, as four lines: line `i` has bytes `4i..4i+4` of row
    /// `r` in lane `r`.
    #[inline(always)]
    fn load_4(self, tile: Tile<'_>, at: usize) -> [Self::I; 4] {
        match tile.lines(at, 16) {
            None => self.gather_4(tile, at),
            Some((lines, 0)) => {
                // No closure: it might not be inlined, and be compiled without the instructions.
                let lines = &lines[..4];
                let (a, b) = (self.load_i(&lines[0]), self.load_i(&lines[1]));
                [a, b, self.load_i(&lines[2]), self.load_i(&lines[3])]
            }
            Some((lines, shift)) => {
                let lines = &lines[..5];
                let mut out = [self.load_i(&lines[0]); 4];
                for i in 0..4 {
                    let next = self.load_i(&lines[i + 1]);
                    let low = self.shr(self.load_i(&lines[i]), shift);
                    out[i] = self.or(low, self.shl(next, 32 - shift));
                }
                out
            }
        }
    }

    /// 4 bytes at `at` of each of 16 rows.
    #[inline(always)]
    fn load_1(self, tile: Tile<'_>, at: usize) -> Self::I {
        match tile.lines(at, 4) {
            None => self.gather_1(tile, at),
            Some((lines, 0)) => self.load_i(&lines[0]),
            Some((lines, shift)) => {
                let low = self.shr(self.load_i(&lines[0]), shift);
                self.or(low, self.shl(self.load_i(&lines[1]), 32 - shift))
            }
        }
    }
}

/// Lanes that can also be pairs of bf16.
pub(crate) trait Bf16Dot: Simd {
    /// Each lane of `acc` plus the two products of its bf16 in `a` and `b`.
    fn dot_bf16(self, acc: Self::F, a: Self::F, b: Self::F) -> Self::F;
}

/// As [`Op`], for products of bf16.
pub(crate) trait Bf16Op {
    /// What it returns.
    type Output;
    fn run<S: Bf16Dot>(self, s: S) -> Self::Output;
}

/// Whether [`dispatch_bf16`] can run with the instructions of `isa` on this processor.
pub(crate) fn has_bf16(isa: Isa) -> bool {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => avx512::has_bf16(),
        _ => false,
    }
}

/// Runs `op` where [`has_bf16`].
pub(crate) fn dispatch_bf16<O: Bf16Op>(op: O) -> O::Output {
    #[cfg(target_arch = "x86_64")]
    return avx512::run_bf16(op);
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no instruction set here has bf16 products, as `has_bf16` says")
}

/// A kernel, compiled for each instruction set. Implementations mark `run` and all it calls
/// `#[inline(always)]`, or the instructions would not be used.
pub(crate) trait Op {
    /// What it returns.
    type Output;
    /// Whether it multiplies bytes, or prepares for it: AVX2 with and without VNNI differ in nothing
    /// else, and what does not is compiled once for both.
    const DOTS: bool = false;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs `op` with the instructions of `isa`.
pub(crate) fn dispatch<O: Op>(isa: Isa, op: O) -> O::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Portable => op.run(sse2::Sse2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Vnni if O::DOTS => avx2::run_vnni(op),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx2Vnni => avx2::run(op),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => avx512::run::<false, O>(op),
        #[cfg(not(target_arch = "x86_64"))]
        _ => op.run(Portable),
    }
}

/// Runs `op` with AVX-512 and AMX's tiles, on a processor that has [`Isa::Amx`].
#[cfg(target_arch = "x86_64")]
pub(crate) fn dispatch_tiles<O: Op>(op: O) -> O::Output {
    avx512::run::<true, O>(op)
}

/// `Ok` if this processor has `isa`.
pub(crate) fn check(isa: Isa) -> Result<(), KernelError> {
    if isa.is_supported() { Ok(()) } else { Err(KernelError::UnsupportedIsa { isa }) }
}

#[cfg(test)]
mod tests;
