//! Sixteen lanes in two AVX2 registers.

use super::{LANES, Line, Op, Simd, Tile};
use std::arch::x86_64::*;

/// The AVX2 path, with AVX-VNNI's dot product if `VNNI`. A value exists only where [`run`] made
/// it: inside code compiled for the instructions, on a processor that has them.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

/// Runs `op` compiled for AVX2.
pub(super) fn run<O: Op>(op: O) -> O::Output {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn with_features<O: Op>(op: O) -> O::Output {
        op.run(Avx2::<false>(()))
    }
    assert!(crate::Isa::Avx2.is_supported());
    // SAFETY: the processor has all of these features, as just asserted.
    unsafe { with_features(op) }
}

/// Runs `op` compiled for AVX2 with AVX-VNNI.
pub(super) fn run_vnni<O: Op>(op: O) -> O::Output {
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn with_features<O: Op>(op: O) -> O::Output {
        op.run(Avx2::<true>(()))
    }
    assert!(crate::Isa::Avx2Vnni.is_supported());
    // SAFETY: the processor has all of these features, as just asserted.
    unsafe { with_features(op) }
}

// Every method below has the same reason to be sound: `self` is the proof that the processor has
// the instructions, and what goes through memory is a whole array or checked by `Tile`.

type I = [__m256i; 2];
type F = [__m256; 2];

macro_rules! both {
    ($f:expr, $a:expr) => {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { [$f($a[0]), $f($a[1])] }
    };
    ($f:expr, $a:expr, $b:expr) => {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { [$f($a[0], $b[0]), $f($a[1], $b[1])] }
    };
    ($f:expr, $a:expr, $b:expr, $c:expr) => {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { [$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])] }
    };
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type I = I;
    type F = F;
    const MANY_REGISTERS: bool = false;
    const PAIRS: bool = !VNNI;
    const SIGNED: bool = !VNNI;

    #[inline(always)]
    fn splat_i(self, v: i32) -> I {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_set1_epi32(v); 2] }
    }
    #[inline(always)]
    fn load_i(self, from: &Line) -> I {
        let p = from.as_ptr();
        // SAFETY: 64 bytes are readable; `self` proves AVX2.
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    fn store_i(self, v: I, to: &mut Line) {
        let p = to.as_mut_ptr();
        // SAFETY: 64 bytes are writable; `self` proves AVX2.
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }
    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        both!(_mm256_and_si256, a, b)
    }
    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn xor(self, a: I, b: I) -> I {
        both!(_mm256_xor_si256, a, b)
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        both!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    fn sub_bytes(self, a: I, b: I) -> I {
        both!(_mm256_sub_epi8, a, b)
    }
    #[inline(always)]
    fn max_i(self, a: I, b: I) -> I {
        both!(_mm256_max_epi32, a, b)
    }
    #[inline(always)]
    fn largest(self, a: I) -> i32 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let a = _mm256_max_epi32(a[0], a[1]);
            let a = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_max_epi32(a, _mm_shuffle_epi32::<0b1110>(a));
            _mm_cvtsi128_si32(_mm_max_epi32(a, _mm_shuffle_epi32::<1>(a)))
        }
    }
    #[inline(always)]
    fn store_bytes(self, v: I, to: &mut [u8; LANES]) {
        // SAFETY: 16 bytes are writable; `self` proves AVX2.
        unsafe {
            // The low bytes of each four lanes become a word; a word of each half is then taken.
            let low = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let words = _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4);
            let a = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v[0], low), words);
            let b = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v[1], low), words);
            let bytes = _mm_unpacklo_epi64(_mm256_castsi256_si128(a), _mm256_castsi256_si128(b));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn mul_i(self, a: I, b: I) -> I {
        both!(_mm256_mullo_epi32, a, b)
    }
    #[inline(always)]
    fn dot_16(self, acc: I, a: I, b: I) -> I {
        self.add_i(acc, both!(_mm256_madd_epi16, a, b))
    }
    #[inline(always)]
    fn shl(self, a: I, n: u32) -> I {
        // A count known once inlined: LLVM picks the immediate form.
        let n = self.splat_i(n as i32);
        both!(_mm256_sllv_epi32, a, n)
    }
    #[inline(always)]
    fn shr(self, a: I, n: u32) -> I {
        // A count known once inlined: LLVM picks the immediate form.
        let n = self.splat_i(n as i32);
        both!(_mm256_srlv_epi32, a, n)
    }
    #[inline(always)]
    fn sar(self, a: I, n: u32) -> I {
        // A count known once inlined: LLVM picks the immediate form.
        let n = self.splat_i(n as i32);
        both!(_mm256_srav_epi32, a, n)
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], index: I) -> I {
        // SAFETY: 16 bytes are readable; `self` proves AVX2.
        let table =
            unsafe { [_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())); 2] };
        both!(_mm256_shuffle_epi8, table, index)
    }
    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: I, w: I, a: I) -> I {
        // SAFETY: `self` proves AVX2, and AVX-VNNI if `VNNI`.
        unsafe {
            if VNNI {
                [
                    _mm256_dpbusd_avx_epi32(acc[0], w[0], a[0]),
                    _mm256_dpbusd_avx_epi32(acc[1], w[1], a[1]),
                ]
            } else if WIDE {
                [dot_signed(acc[0], w[0], a[0]), dot_signed(acc[1], w[1], a[1])]
            } else {
                [dot_narrow(acc[0], w[0], a[0]), dot_narrow(acc[1], w[1], a[1])]
            }
        }
    }

    #[inline(always)]
    fn add_pairs(self, sums: I, w: I, a: I) -> I {
        let pairs = both!(_mm256_maddubs_epi16, w, a);
        both!(_mm256_add_epi16, sums, pairs)
    }
    #[inline(always)]
    fn twice(self, v: I) -> I {
        // SAFETY: `self` proves AVX2.
        let low = unsafe {
            _mm256_setr_epi8(
                0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, //
                0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13,
            )
        };
        both!(_mm256_shuffle_epi8, v, [low; 2])
    }

    #[inline(always)]
    fn splat_f(self, v: f32) -> F {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_set1_ps(v); 2] }
    }
    #[inline(always)]
    fn load_f(self, from: &[f32; LANES]) -> F {
        let p = from.as_ptr();
        // SAFETY: 16 values are readable; `self` proves AVX2.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    fn store_f(self, v: F, to: &mut [f32; LANES]) {
        let p = to.as_mut_ptr();
        // SAFETY: 16 values are writable; `self` proves AVX2.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn to_f(self, v: I) -> F {
        both!(_mm256_cvtepi32_ps, v)
    }
    #[inline(always)]
    fn to_i(self, v: F) -> I {
        both!(_mm256_cvtps_epi32, v)
    }
    #[inline(always)]
    fn as_f(self, v: I) -> F {
        both!(_mm256_castsi256_ps, v)
    }
    #[inline(always)]
    fn as_i(self, v: F) -> I {
        both!(_mm256_castps_si256, v)
    }
    #[inline(always)]
    fn f16_pair(self, v: I) -> [F; 2] {
        let low = self.and(v, self.splat_i(0xffff));
        let high = self.shr(v, 16);
        // SAFETY: `self` proves AVX2 and F16C.
        unsafe {
            [
                [_mm256_cvtph_ps(pack(low[0])), _mm256_cvtph_ps(pack(low[1]))],
                [_mm256_cvtph_ps(pack(high[0])), _mm256_cvtph_ps(pack(high[1]))],
            ]
        }
    }
    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> F {
        let p = from.as_ptr().cast::<__m128i>();
        // SAFETY: 32 bytes are readable; `self` proves AVX2 and F16C.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))] }
    }
    #[inline(always)]
    fn widen_bf16(self, from: &[u8; 32]) -> F {
        let p = from.as_ptr().cast::<__m128i>();
        // SAFETY: 32 bytes are readable; `self` proves AVX2.
        let v = unsafe {
            [
                _mm256_cvtepu16_epi32(_mm_loadu_si128(p)),
                _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(1))),
            ]
        };
        self.as_f(self.shl(v, 16))
    }
    #[inline(always)]
    fn widen_i8(self, from: &[u8; 16]) -> F {
        // SAFETY: 16 bytes are readable; `self` proves AVX2.
        let v = unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))]
        };
        self.to_f(v)
    }

    #[inline(always)]
    fn gather_4(self, tile: Tile<'_>, at: usize) -> [I; 4] {
        let (start, stride) = tile.pointer(at, 16);
        // SAFETY: `Tile` holds 16 bytes at `at` of each of 16 rows; `self` proves AVX2.
        let (x, y) =
            unsafe { (transposed_8(start, stride), transposed_8(start.add(8 * stride), stride)) };
        [[x[0], y[0]], [x[1], y[1]], [x[2], y[2]], [x[3], y[3]]]
    }
    #[inline(always)]
    fn gather_1(self, tile: Tile<'_>, at: usize) -> I {
        let (start, stride) = tile.pointer(at, 4);
        // SAFETY: `Tile` holds 4 bytes at `at` of each of 16 rows, at offsets that fit i32;
        // `self` proves AVX2.
        unsafe {
            let lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
            let offsets = _mm256_mullo_epi32(lanes, _mm256_set1_epi32(stride as i32));
            [
                _mm256_i32gather_epi32::<1>(start.cast(), offsets),
                _mm256_i32gather_epi32::<1>(start.add(8 * stride).cast(), offsets),
            ]
        }
    }
}

// Parts of the methods above. Always inlined into them, and no closures, which might not be: a
// function compiled without the instructions would call each of them.

/// Sums of four products of bytes less 128. Magnitudes times the other factor with the sign: two products are at most
/// 2 * 128 * 127, which 16 bits hold, where those of bytes up to 255 would saturate.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn dot_signed(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(i8::MIN));
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Sums of four products for weights of at most 127: pairs are at most 2 * 127 * 127.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn dot_narrow(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let pairs = _mm256_maddubs_epi16(w, a);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// The low halves of 8 lanes whose high halves are zero, in order.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn pack(v: __m256i) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm256_packus_epi32(v, v);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(v))
    }
}

/// 16 bytes of row `r` below, and of row `r + 4` above.
///
/// # Safety
/// The processor has AVX2; 16 bytes are readable in both rows.
#[inline(always)]
unsafe fn two_rows(start: *const u8, stride: usize, r: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm_loadu_si128(start.add(r * stride).cast());
        let high = _mm_loadu_si128(start.add((r + 4) * stride).cast());
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
    }
}

/// 16 bytes of 8 rows, as four lines of 8 lanes.
///
/// # Safety
/// The processor has AVX2; 16 bytes are readable in each row.
#[inline(always)]
unsafe fn transposed_8(start: *const u8, stride: usize) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (two_rows(start, stride, 0), two_rows(start, stride, 1));
        let (c, d) = (two_rows(start, stride, 2), two_rows(start, stride, 3));
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab2, cd2) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab2, cd2),
            _mm256_unpackhi_epi64(ab2, cd2),
        ]
    }
}
