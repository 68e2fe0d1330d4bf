//! Sixteen lanes in four SSE2 registers, which every x86-64 processor has. What is rare goes through plain Rust.

use super::portable::Portable;
use super::{LANES, Line, Simd, Tile};
use std::arch::x86_64::*;

/// What [`Isa::Portable`](crate::Isa::Portable) is on x86-64.
#[derive(Clone, Copy)]
pub(crate) struct Sse2;

// Every method below has the same reason to be sound: SSE2 is part of x86-64, and what goes through
// memory is a whole array or checked by `Tile`.

type I = [__m128i; 4];
type F = [__m128; 4];

macro_rules! each {
    ($f:expr, $a:expr) => {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { [$f($a[0]), $f($a[1]), $f($a[2]), $f($a[3])] }
    };
    ($f:expr, $a:expr, $b:expr) => {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { [$f($a[0], $b[0]), $f($a[1], $b[1]), $f($a[2], $b[2]), $f($a[3], $b[3])] }
    };
}

impl Simd for Sse2 {
    type I = I;
    type F = F;
    const MANY_REGISTERS: bool = false;
    const FEW_REGISTERS: bool = true;
    const PAIRS: bool = true;

    #[inline(always)]
    fn splat_i(self, v: i32) -> I {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { [_mm_set1_epi32(v); 4] }
    }
    #[inline(always)]
    fn load_i(self, from: &Line) -> I {
        bytemuck::cast(*from)
    }
    #[inline(always)]
    fn store_i(self, v: I, to: &mut Line) {
        *to = bytemuck::cast(v);
    }
    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        each!(_mm_and_si128, a, b)
    }
    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        each!(_mm_or_si128, a, b)
    }
    #[inline(always)]
    fn xor(self, a: I, b: I) -> I {
        each!(_mm_xor_si128, a, b)
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        each!(_mm_add_epi32, a, b)
    }
    #[inline(always)]
    fn sub_bytes(self, a: I, b: I) -> I {
        each!(_mm_sub_epi8, a, b)
    }
    #[inline(always)]
    fn max_i(self, a: I, b: I) -> I {
        each!(larger, a, b)
    }
    #[inline(always)]
    fn largest(self, a: I) -> i32 {
        Portable.largest(bytemuck::cast(a))
    }
    #[inline(always)]
    fn store_bytes(self, v: I, to: &mut [u8; LANES]) {
        let v = self.and(v, self.splat_i(0xff));
        // SAFETY: SSE2 is part of x86-64.
        let bytes =
            unsafe { _mm_packus_epi16(_mm_packs_epi32(v[0], v[1]), _mm_packs_epi32(v[2], v[3])) };
        *to = bytemuck::cast(bytes);
    }
    #[inline(always)]
    fn mul_i(self, a: I, b: I) -> I {
        each!(products, a, b)
    }
    #[inline(always)]
    fn dot_16(self, acc: I, a: I, b: I) -> I {
        self.add_i(acc, each!(_mm_madd_epi16, a, b))
    }
    #[inline(always)]
    fn shl(self, a: I, n: u32) -> I {
        // SAFETY: SSE2 is part of x86-64.
        let n = unsafe { [_mm_cvtsi32_si128(n as i32); 4] };
        each!(_mm_sll_epi32, a, n)
    }
    #[inline(always)]
    fn shr(self, a: I, n: u32) -> I {
        // SAFETY: SSE2 is part of x86-64.
        let n = unsafe { [_mm_cvtsi32_si128(n as i32); 4] };
        each!(_mm_srl_epi32, a, n)
    }
    #[inline(always)]
    fn sar(self, a: I, n: u32) -> I {
        // SAFETY: SSE2 is part of x86-64.
        let n = unsafe { [_mm_cvtsi32_si128(n as i32); 4] };
        each!(_mm_sra_epi32, a, n)
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], index: I) -> I {
        bytemuck::cast(Portable.look_up(table, bytemuck::cast(index)))
    }
    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: I, w: I, a: I) -> I {
        self.add_i(acc, each!(dot_4, w, a))
    }
    #[inline(always)]
    fn add_pairs(self, sums: I, w: I, a: I) -> I {
        let pairs = each!(pairs_of, w, a);
        each!(_mm_add_epi16, sums, pairs)
    }
    #[inline(always)]
    fn twice(self, v: I) -> I {
        self.or(self.and(v, self.splat_i(0xffff)), self.shl(v, 16))
    }

    #[inline(always)]
    fn splat_f(self, v: f32) -> F {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { [_mm_set1_ps(v); 4] }
    }
    #[inline(always)]
    fn load_f(self, from: &[f32; LANES]) -> F {
        bytemuck::cast(*from)
    }
    #[inline(always)]
    fn store_f(self, v: F, to: &mut [f32; LANES]) {
        *to = bytemuck::cast(v);
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        each!(_mm_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        each!(_mm_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        each!(_mm_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        each!(_mm_div_ps, a, b)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        each!(_mm_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        each!(_mm_min_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // Two roundings, as in plain Rust.
        self.add(c, self.mul(a, b))
    }
    #[inline(always)]
    fn to_f(self, v: I) -> F {
        each!(_mm_cvtepi32_ps, v)
    }
    #[inline(always)]
    fn to_i(self, v: F) -> I {
        each!(_mm_cvtps_epi32, v)
    }
    #[inline(always)]
    fn as_f(self, v: I) -> F {
        each!(_mm_castsi128_ps, v)
    }
    #[inline(always)]
    fn as_i(self, v: F) -> I {
        each!(_mm_castps_si128, v)
    }
    #[inline(always)]
    fn f16_pair(self, v: I) -> [F; 2] {
        [
            self.widened_halves(self.and(v, self.splat_i(0xffff))),
            self.widened_halves(self.shr(v, 16)),
        ]
    }
    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> F {
        self.widened_halves(widened_words(*from))
    }
    #[inline(always)]
    fn widen_bf16(self, from: &[u8; 32]) -> F {
        self.as_f(self.shl(widened_words(*from), 16))
    }
    #[inline(always)]
    fn widen_i8(self, from: &[u8; 16]) -> F {
        let bytes: __m128i = bytemuck::cast(*from);
        // Each byte four times, of which the top one stays.
        // SAFETY: SSE2 is part of x86-64.
        let four_times = unsafe {
            let (low, high) = (_mm_unpacklo_epi8(bytes, bytes), _mm_unpackhi_epi8(bytes, bytes));
            [
                _mm_unpacklo_epi16(low, low),
                _mm_unpackhi_epi16(low, low),
                _mm_unpacklo_epi16(high, high),
                _mm_unpackhi_epi16(high, high),
            ]
        };
        self.to_f(self.sar(four_times, 24))
    }

    #[inline(always)]
    fn gather_4(self, tile: Tile<'_>, at: usize) -> [I; 4] {
        let (start, stride) = tile.pointer(at, 16);
        let mut out = [self.splat_i(0); 4];
        for quarter in 0..4 {
            // SAFETY: `Tile` holds 16 bytes at `at` of each of 16 rows.
            let words = unsafe { transposed_4(start.add(4 * quarter * stride), stride) };
            for i in 0..4 {
                out[i][quarter] = words[i];
            }
        }
        out
    }
    #[inline(always)]
    fn gather_1(self, tile: Tile<'_>, at: usize) -> I {
        bytemuck::cast(Portable.gather_1(tile, at))
    }
}

impl Sse2 {
    /// The f16 with these bits, as plain Rust does it.
    #[inline(always)]
    fn widened_halves(self, bits: I) -> F {
        const REBIAS: i32 = (127 - 15) << 23;
        let (top, zero) = (self.splat_i(0x7c00), self.splat_i(0));
        let exponent = self.and(bits, top);
        let sign = self.shl(self.and(bits, self.splat_i(0x8000)), 16);
        // An infinite or NaN exponent moves from the top of the one type to that of the other.
        let infinite = each!(_mm_cmpeq_epi32, exponent, top);
        let rebias = self.splat_i(REBIAS);
        let rebias = self.add_i(rebias, self.and(infinite, rebias));
        let normal = self.add_i(self.shl(self.and(bits, self.splat_i(0x7fff)), 13), rebias);
        let fraction = self.to_f(self.and(bits, self.splat_i(0x03ff)));
        let subnormal = self.as_i(self.mul(fraction, self.splat_f(1.0 / 16_777_216.0)));
        let is_subnormal = each!(_mm_cmpeq_epi32, exponent, zero);
        let rest = each!(_mm_andnot_si128, is_subnormal, normal);
        self.as_f(self.or(sign, self.or(self.and(is_subnormal, subnormal), rest)))
    }
}

/// 16 words of 16 bits in a row.
#[inline(always)]
fn widened_words(from: [u8; 32]) -> I {
    let [a, b]: [__m128i; 2] = bytemuck::cast(from);
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let zero = _mm_setzero_si128();
        [
            _mm_unpacklo_epi16(a, zero),
            _mm_unpackhi_epi16(a, zero),
            _mm_unpacklo_epi16(b, zero),
            _mm_unpackhi_epi16(b, zero),
        ]
    }
}

// Parts of the methods above, for one register. None of them touches memory but the last.

#[inline(always)]
unsafe fn larger(a: __m128i, b: __m128i) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let first = _mm_cmpgt_epi32(a, b);
        _mm_or_si128(_mm_and_si128(first, a), _mm_andnot_si128(first, b))
    }
}

/// The low 32 bits of products.
#[inline(always)]
unsafe fn products(a: __m128i, b: __m128i) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let even = _mm_mul_epu32(a, b);
        let odd = _mm_mul_epu32(_mm_srli_epi64::<32>(a), _mm_srli_epi64::<32>(b));
        _mm_unpacklo_epi32(_mm_shuffle_epi32::<0b1000>(even), _mm_shuffle_epi32::<0b1000>(odd))
    }
}

/// Even and odd bytes in 16 bits each, without sign.
#[inline(always)]
unsafe fn unsigned_halves(v: __m128i) -> [__m128i; 2] {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { [_mm_and_si128(v, _mm_set1_epi16(0xff)), _mm_srli_epi16::<8>(v)] }
}

/// The same with sign.
#[inline(always)]
unsafe fn signed_halves(v: __m128i) -> [__m128i; 2] {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { [_mm_srai_epi16::<8>(_mm_slli_epi16::<8>(v)), _mm_srai_epi16::<8>(v)] }
}

/// The sum of each lane's four products.
#[inline(always)]
unsafe fn dot_4(w: __m128i, a: __m128i) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let (w, a) = (unsigned_halves(w), signed_halves(a));
        _mm_add_epi32(_mm_madd_epi16(w[0], a[0]), _mm_madd_epi16(w[1], a[1]))
    }
}

/// The sums of two products in 16 bits each.
#[inline(always)]
unsafe fn pairs_of(w: __m128i, a: __m128i) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let (w, a) = (unsigned_halves(w), signed_halves(a));
        _mm_add_epi16(_mm_mullo_epi16(w[0], a[0]), _mm_mullo_epi16(w[1], a[1]))
    }
}

/// 16 bytes of 4 rows, as four lines of 4 lanes.
///
/// # Safety
/// 16 bytes are readable in each row.
#[inline(always)]
unsafe fn transposed_4(start: *const u8, stride: usize) -> [__m128i; 4] {
    // SAFETY: the caller's promise, and SSE2 is part of x86-64.
    unsafe {
        let (a, b) = (_mm_loadu_si128(start.cast()), _mm_loadu_si128(start.add(stride).cast()));
        let c = _mm_loadu_si128(start.add(2 * stride).cast());
        let d = _mm_loadu_si128(start.add(3 * stride).cast());
        let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let (ab2, cd2) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        [
            _mm_unpacklo_epi64(ab, cd),
            _mm_unpackhi_epi64(ab, cd),
            _mm_unpacklo_epi64(ab2, cd2),
            _mm_unpackhi_epi64(ab2, cd2),
        ]
    }
}
