//! Sixteen lanes in one AVX-512 register.

use super::{Bf16Dot, Bf16Op, CACHE_LINE, LANES, Line, Op, Simd, Tile};
use std::arch::x86_64::*;

/// The AVX-512 path, with AMX's tiles if `TILES`, with AVX512_BF16 if `BF16`. A value exists only
/// where [`run`] or [`run_bf16`] made it: inside code compiled for the instructions, on a processor
/// that has them.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const TILES: bool, const BF16: bool>(());

/// Runs `op` compiled for AVX-512.
pub(super) fn run<const TILES: bool, O: Op>(op: O) -> O::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn with_features<const TILES: bool, O: Op>(op: O) -> O::Output {
        op.run(Avx512::<TILES, false>(()))
    }
    let isa = if TILES { crate::Isa::Amx } else { crate::Isa::Avx512 };
    assert!(isa.is_supported());
    // SAFETY: the processor has all of these features, as just asserted.
    unsafe { with_features::<TILES, O>(op) }
}

/// Whether the processor can [`run_bf16`].
pub(super) fn has_bf16() -> bool {
    crate::Isa::Avx512.is_supported() && is_x86_feature_detected!("avx512bf16")
}

/// Runs `op` compiled for AVX-512 and AVX512_BF16.
pub(super) fn run_bf16<O: Bf16Op>(op: O) -> O::Output {
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c"
    )]
    fn with_features<O: Bf16Op>(op: O) -> O::Output {
        op.run(Avx512::<false, true>(()))
    }
    assert!(has_bf16());
    // SAFETY: the processor has all of these features, as just asserted.
    unsafe { with_features(op) }
}

impl Bf16Dot for Avx512<false, true> {
    #[inline(always)]
    fn dot_bf16(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX512_BF16; both types are 64 bytes of any content.
        unsafe {
            use std::mem::transmute;
            _mm512_dpbf16_ps(
                acc,
                transmute::<__m512, __m512bh>(a),
                transmute::<__m512, __m512bh>(b),
            )
        }
    }
}

// Every method below has the same reason to be sound: `self` is the proof that the processor has
// the instructions, and what goes through memory is a whole array or checked by `Tile`.

impl<const TILES: bool, const BF16: bool> Simd for Avx512<TILES, BF16> {
    type I = __m512i;
    type F = __m512;
    const MANY_REGISTERS: bool = true;
    const TILES: bool = TILES;

    #[inline(always)]
    fn splat_i(self, v: i32) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_epi32(v) }
    }
    #[inline(always)]
    fn load_i(self, from: &Line) -> __m512i {
        // SAFETY: 64 bytes are readable; `self` proves AVX-512.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_i(self, v: __m512i, to: &mut Line) {
        // SAFETY: 64 bytes are writable; `self` proves AVX-512.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    fn add_i(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn sub_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sub_epi8(a, b) }
    }
    #[inline(always)]
    fn max_i(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_max_epi32(a, b) }
    }
    #[inline(always)]
    fn largest(self, a: __m512i) -> i32 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_reduce_max_epi32(a) }
    }
    #[inline(always)]
    fn store_bytes(self, v: __m512i, to: &mut [u8; LANES]) {
        // SAFETY: 16 bytes are writable; `self` proves AVX-512.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    fn mul_i(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mullo_epi32(a, b) }
    }
    #[inline(always)]
    fn dot_16(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512 VNNI.
        unsafe { _mm512_dpwssd_epi32(acc, a, b) }
    }
    #[inline(always)]
    fn shl(self, a: __m512i, n: u32) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    fn shr(self, a: __m512i, n: u32) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_srlv_epi32(a, _mm512_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    fn sar(self, a: __m512i, n: u32) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_srav_epi32(a, _mm512_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], index: __m512i) -> __m512i {
        // SAFETY: 16 bytes are readable; `self` proves AVX-512.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, index)
        }
    }
    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512 VNNI.
        unsafe { _mm512_dpbusd_epi32(acc, w, a) }
    }

    #[inline(always)]
    fn splat_f(self, v: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    fn load_f(self, from: &[f32; LANES]) -> __m512 {
        // SAFETY: 16 values are readable; `self` proves AVX-512.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn store_f(self, v: __m512, to: &mut [f32; LANES]) {
        // SAFETY: 16 values are writable; `self` proves AVX-512.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_past(self, v: __m512, to: &mut [f32; LANES]) {
        if to.as_ptr().align_offset(CACHE_LINE) == 0 {
            // SAFETY: 16 values are writable, at a multiple of 64; `self` proves AVX-512.
            unsafe { _mm512_stream_ps(to.as_mut_ptr(), v) };
        } else {
            self.store_f(v, to);
        }
    }
    #[inline(always)]
    fn fence(self) {
        // SAFETY: every processor with AVX-512 has SSE.
        unsafe { _mm_sfence() };
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn to_f(self, v: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn to_i(self, v: __m512) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtps_epi32(v) }
    }
    #[inline(always)]
    fn as_f(self, v: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_castsi512_ps(v) }
    }
    #[inline(always)]
    fn as_i(self, v: __m512) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    fn f16_pair(self, v: __m512i) -> [__m512; 2] {
        // SAFETY: `self` proves AVX-512 F and BW.
        unsafe {
            // The low halves of all lanes first, then the high halves.
            let order = _mm512_set_epi16(
                31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, //
                30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0,
            );
            let v = _mm512_permutexvar_epi16(order, v);
            let low = _mm512_castsi512_si256(v);
            let high = _mm512_extracti64x4_epi64::<1>(v);
            [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> __m512 {
        // SAFETY: 32 bytes are readable; `self` proves AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn widen_bf16(self, from: &[u8; 32]) -> __m512 {
        // SAFETY: 32 bytes are readable; `self` proves AVX-512.
        unsafe {
            let v = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v))
        }
    }
    #[inline(always)]
    fn widen_i8(self, from: &[u8; 16]) -> __m512 {
        // SAFETY: 16 bytes are readable; `self` proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn gather_4(self, tile: Tile<'_>, at: usize) -> [__m512i; 4] {
        let (start, stride) = tile.pointer(at, 16);
        // SAFETY: `Tile` holds 16 bytes at `at` of each of 16 rows; `self` proves AVX-512.
        unsafe {
            let (a, b) = (four_rows(start, stride, 0), four_rows(start, stride, 1));
            let (c, d) = (four_rows(start, stride, 2), four_rows(start, stride, 3));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab2, cd2),
                _mm512_unpackhi_epi64(ab2, cd2),
            ]
        }
    }
    #[inline(always)]
    fn gather_1(self, tile: Tile<'_>, at: usize) -> __m512i {
        let (start, stride) = tile.pointer(at, 4);
        // SAFETY: `Tile` holds 4 bytes at `at` of each of 16 rows, at offsets that fit i32;
        // `self` proves AVX-512.
        unsafe {
            let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            let offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(stride as i32));
            _mm512_i32gather_epi32::<1>(offsets, start.cast())
        }
    }
}

/// 16 bytes of rows `r`, `r + 4`, `r + 8` and `r + 12`: so that two rounds of interleaving leave
/// the rows in order. No closure, which might not be inlined.
///
/// # Safety
/// The processor has AVX-512; 16 bytes are readable in each row.
#[inline(always)]
unsafe fn four_rows(start: *const u8, stride: usize, r: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let at = start.add(r * stride);
        let v = _mm512_castsi128_si512(_mm_loadu_si128(at.cast()));
        let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(at.add(4 * stride).cast()));
        let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(at.add(8 * stride).cast()));
        _mm512_inserti32x4::<3>(v, _mm_loadu_si128(at.add(12 * stride).cast()))
    }
}
