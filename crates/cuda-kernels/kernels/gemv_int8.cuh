// What products with blocks have in common: x rounded to int8 with a scale for each 32, integer products by
// dp4a, exact within a block or group.
//
// What they compute, beside their bytes: at the copy bandwidth a multiprocessor of an H200 gets 18.6
// bytes a cycle, 33 weights of Q4_0, and has 128 lanes that do an instruction each. For one row of x the
// compiler makes (instructions a weight, and the part of the lanes' cycles that they take at that pace):
//   Q4_0 2.1, 53 %; Q8_0 2.1, 28 %; Q4_K 1.7, 43 %; Q5_K 2.4, 51 %; Q6_K 3.1, 54 %; IQ4_XS 3.3, 90 %; IQ4_NL 3.8, 99 %
// so that all but the last two, whose codes are looked up, leave the bytes to be the bound. Each further row is
// half an instruction more: from 4 rows on instructions are what bounds them, 8 rows of Q4_0 (5.6) to 70 %.
#pragma once
#include "gemv.cuh"

struct Int8Rows {
    const int8_t* q;       // [m, k]
    const Bytes8* scales;  // [m, k / 32]: a float, and that times the sum of the 32 q
};

DEVICE float scale_of(Bytes8 scale) { return __uint_as_float(scale.words[0]); }
DEVICE float sum_of(Bytes8 scale) { return __uint_as_float(scale.words[1]); }

DEVICE float half_at(const uint8_t* at) { return to_float(f16_of(*reinterpret_cast<const uint16_t*>(at))); }

// N words from an even address on.
template <int N> DEVICE void load_words(uint32_t (&words)[N], const uint8_t* base, int offset) {
    const uint32_t* const from = reinterpret_cast<const uint32_t*>(base + (offset & ~3));
    const uint32_t which = offset & 2 ? 0x5432 : 0x3210;
    uint32_t low = from[0];
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const uint32_t high = from[i + 1];
        words[i] = __byte_perm(low, high, which);
        low = high;
    }
}

// A scale of 2 bytes and N words after it, from an even address on; nothing beyond their last word is read.
template <int N> DEVICE float load_scaled(uint32_t (&words)[N], const uint8_t* base, int offset) {
    const uint32_t* const from = reinterpret_cast<const uint32_t*>(base + (offset & ~3));
    const uint32_t which = offset & 2 ? 0x7654 : 0x5432;
    uint32_t low = from[0];
    const float scale = to_float(f16_of(offset & 2 ? low >> 16 : low));
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const uint32_t high = from[i + 1];
        words[i] = __byte_perm(low, high, which);
        low = high;
    }
    return scale;
}

template <int N> DEVICE void load_x(uint32_t (&words)[N], const int8_t* from) {
    static_assert(N % 4 == 0, "16 bytes at once");
#pragma unroll
    for (int i = 0; i < N / 4; ++i) {
        const Bytes16 bytes = reinterpret_cast<const Bytes16*>(from)[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) words[4 * i + j] = bytes.words[j];
    }
}

// The values of eight codes: those of the low halves of the bytes, and those of the high halves.
DEVICE void iq4_values(uint32_t codes, uint32_t& low, uint32_t& high) {
    // -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113
    const uint32_t t0 = 0xbfad9881, t1 = 0xf6eaddcf, t2 = 0x26190d01, t3 = 0x71594535;
    // The lowest three bits choose of both halves of the table, the fourth between the halves.
    const uint32_t within = codes & 0x77777777, side = and_or(codes >> 1, 0x44444444, 0x32103210);
    const uint32_t first = choose_bytes(choose_bytes(t0, t1, within), choose_bytes(t2, t3, within), side);
    const uint32_t second =
        choose_bytes(choose_bytes(t0, t1, within >> 16), choose_bytes(t2, t3, within >> 16), side >> 16);
    low = __byte_perm(first, second, 0x6420), high = __byte_perm(first, second, 0x7531);
}

// For up to M rows of x: a kernel does the work of M, so that there is one for each power of two.
#define GEMV_INT8(T, name, M)                                                                                           \
    KERNEL(GEMV_THREADS(T<M>::BLOCKS), name##_m##M, GEMV_MATRICES, const int8_t* q, const Bytes8* scales, int m,        \
           int k) {                                                                                                     \
        GEMV_SHARED(T<M>);                                                                                              \
        const int64_t row_bytes = int64_t(k) / T<M>::BLOCK * T<M>::BLOCK_BYTES;                                         \
        gemv<T<M>, M>(rings, parts, GEMV_OWN(M), {q, scales}, m, k, row_bytes);                                         \
    }
#define GEMV_INT8_ALL(T, name) GEMV_INT8(T, name, 1) GEMV_INT8(T, name, 2) GEMV_INT8(T, name, 4) GEMV_INT8(T, name, 8)
