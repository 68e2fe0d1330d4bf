// GGML's block types (the crate `blocks` is the reference), all behind one view. Every type is
//
//     x = scale * (level - ZERO) - min,   levels in signed bytes, scale and min shared by GROUP elements,
//
// so that a product with bytes is one template for all of them:
//
//     B::LEN, B::GROUP     elements of a block, and of those that share scale and min (8, 16 or 32);
//     B::ZERO, B::HAS_MIN  the level of zero, and whether min can be other than 0;
//     B::ALIGNED           where blocks lie: the largest power of two that divides their size. The
//                          first must begin at a multiple of it;
//     levels(block, i)     the levels of elements 4 i .. 4 i + 4, the first in the lowest byte;
//     scale_of(block, g)   scale and min of group g;
//     decode<N>(block, i, x)  the numbers N i .. N i + N, N = 4 or 8, to the bits of `blocks`;
//     decode_element(block, i)
//
// Blocks are of bytes, since most are not aligned; fields are read by the loads below. What a thread
// reads twice (a word of nibbles holds elements 16 apart) the compiler reads once.
#pragma once
#include "common.cuh"

// ---- Loads -------------------------------------------------------------------------------------

// Little-endian words at a multiple of ALIGNED bytes.
template <int ALIGNED> DEVICE uint32_t load_u16(const void* p) {
    const uint8_t* bytes = static_cast<const uint8_t*>(p);
    if constexpr (ALIGNED >= 2) return *static_cast<const uint16_t*>(p);
    else return bytes[0] | uint32_t(bytes[1]) << 8;
}
template <int ALIGNED> DEVICE uint32_t load_u32(const void* p) {
    if constexpr (ALIGNED >= 4) return *static_cast<const uint32_t*>(p);
    else {
        const uint8_t* bytes = static_cast<const uint8_t*>(p);
        return load_u16<ALIGNED>(bytes) | load_u16<ALIGNED>(bytes + 2) << 16;
    }
}

// Several words, in as few loads as the alignment allows.
template <int ALIGNED, int WORDS> DEVICE void load_words(const void* p, uint32_t (&words)[WORDS]) {
    const uint8_t* bytes = static_cast<const uint8_t*>(p);
    constexpr int AT_ONCE = ALIGNED >= 16 && WORDS % 4 == 0 ? 4 : ALIGNED >= 8 && WORDS % 2 == 0 ? 2 : 1;
#pragma unroll
    for (int w = 0; w < WORDS; w += AT_ONCE) {
        if constexpr (AT_ONCE == 4) {
            const Bytes16 x = *reinterpret_cast<const Bytes16*>(bytes + 4 * w);
#pragma unroll
            for (int i = 0; i < 4; ++i) words[w + i] = x.words[i];
        } else if constexpr (AT_ONCE == 2) {
            const Bytes8 x = *reinterpret_cast<const Bytes8*>(bytes + 4 * w);
            words[w] = x.words[0], words[w + 1] = x.words[1];
        } else {
            words[w] = load_u32<ALIGNED>(bytes + 4 * w);
        }
    }
}

template <int ALIGNED> DEVICE float load_half(const void* p) { return to_float(f16_of(load_u16<ALIGNED>(p))); }

// ---- Four bytes in a word ----------------------------------------------------------------------

DEVICE int byte_of(uint32_t word, int i) { return int(int8_t(word >> 8 * i)); }

// a - b of each byte, for a and b of 0..127.
DEVICE uint32_t subtract_bytes(uint32_t a, uint32_t b) { return ((a | 0x80808080u) - b) ^ 0x80808080u; }

// Bits 0..3 to the lowest bits of four bytes.
DEVICE uint32_t spread_bits(uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

// The low nibbles of the four bytes of a word (shift 0) or the high ones (4).
DEVICE uint32_t nibbles(uint32_t word, int shift) { return word >> shift & 0x0f0f0f0fu; }

// A table of 16 bytes at four codes 0..15, one a byte.
DEVICE uint32_t look_up(const uint32_t (&table)[4], uint32_t codes) {
    const uint32_t pairs = codes | codes >> 4;
    const uint32_t selector = ((pairs & 0xff) | (pairs >> 8 & 0xff00)) & 0x7777;
    const uint32_t low = __byte_perm(table[0], table[1], selector), high = __byte_perm(table[2], table[3], selector);
    const uint32_t upper = (codes >> 3 & 0x01010101u) * 0xff;
    return (low & ~upper) | (high & upper);
}

// ---- The types ---------------------------------------------------------------------------------

struct Scale {
    float scale, min;
};

// What a block struct says of itself; BYTES only to check its size and find its alignment.
#define BLOCK(len, group, zero, has_min, bytes)                     \
    static constexpr int LEN = len, GROUP = group, ZERO = zero;     \
    static constexpr bool HAS_MIN = has_min;                        \
    static constexpr int BYTES = bytes;                             \
    static constexpr int ALIGNED = (bytes) & -(bytes) & 31 ? (bytes) & -(bytes) : 16

struct BlockQ1_0 { BLOCK(128, 32, 1, false, 18); uint8_t d[2], qs[16]; };
struct BlockQ2_0 { BLOCK(64, 32, 1, false, 18); uint8_t d[2], qs[16]; };
struct BlockQ4_0 { BLOCK(32, 32, 8, false, 18); uint8_t d[2], qs[16]; };
struct BlockQ4_1 { BLOCK(32, 32, 0, true, 20); uint8_t d[2], m[2], qs[16]; };
struct BlockQ5_0 { BLOCK(32, 32, 16, false, 22); uint8_t d[2], qh[4], qs[16]; };
struct BlockQ5_1 { BLOCK(32, 32, 0, true, 24); uint8_t d[2], m[2], qh[4], qs[16]; };
struct BlockQ8_0 { BLOCK(32, 32, 0, false, 34); uint8_t d[2], qs[32]; };
struct BlockQ8_1 { BLOCK(32, 32, 0, false, 36); uint8_t d[2], s[2], qs[32]; };
struct BlockQ2K { BLOCK(256, 16, 0, true, 84); uint8_t scales[16], qs[64], d[2], dmin[2]; };
struct BlockQ3K { BLOCK(256, 16, 4, false, 110); uint8_t hmask[32], qs[64], scales[12], d[2]; };
struct BlockQ4K { BLOCK(256, 32, 0, true, 144); uint8_t d[2], dmin[2], scales[12], qs[128]; };
struct BlockQ5K { BLOCK(256, 32, 0, true, 176); uint8_t d[2], dmin[2], scales[12], qh[32], qs[128]; };
struct BlockQ6K { BLOCK(256, 16, 32, false, 210); uint8_t ql[128], qh[64], scales[16], d[2]; };
struct BlockQ8K { BLOCK(256, 32, 0, false, 292); uint8_t d[4], qs[256], sums[32]; };
struct BlockIq4Nl { BLOCK(32, 32, 0, false, 18); uint8_t d[2], qs[16]; };
struct BlockIq4Xs { BLOCK(256, 32, 0, false, 136); uint8_t d[2], scales_h[2], scales_l[4], qs[128]; };
struct BlockTq1_0 { BLOCK(256, 32, 1, false, 54); uint8_t qs[48], qh[4], d[2]; };
struct BlockTq2_0 { BLOCK(256, 32, 1, false, 66); uint8_t qs[64], d[2]; };
struct BlockMxfp4 { BLOCK(32, 32, 0, false, 17); uint8_t e, qs[16]; };
struct BlockNvfp4 { BLOCK(64, 16, 0, false, 36); uint8_t d[4], qs[32]; };
#undef BLOCK

template <class B> struct CheckedBlock {
    static_assert(sizeof(B) == B::BYTES && alignof(B) == 1, "the block's layout");
    static constexpr bool OK = true;
};
static_assert(CheckedBlock<BlockQ1_0>::OK && CheckedBlock<BlockQ2_0>::OK && CheckedBlock<BlockQ4_0>::OK &&
              CheckedBlock<BlockQ4_1>::OK && CheckedBlock<BlockQ5_0>::OK && CheckedBlock<BlockQ5_1>::OK &&
              CheckedBlock<BlockQ8_0>::OK && CheckedBlock<BlockQ8_1>::OK && CheckedBlock<BlockQ2K>::OK &&
              CheckedBlock<BlockQ3K>::OK && CheckedBlock<BlockQ4K>::OK && CheckedBlock<BlockQ5K>::OK &&
              CheckedBlock<BlockQ6K>::OK && CheckedBlock<BlockQ8K>::OK && CheckedBlock<BlockIq4Nl>::OK &&
              CheckedBlock<BlockIq4Xs>::OK && CheckedBlock<BlockTq1_0>::OK && CheckedBlock<BlockTq2_0>::OK &&
              CheckedBlock<BlockMxfp4>::OK && CheckedBlock<BlockNvfp4>::OK, "layouts");

// A field's word i.
template <class B> DEVICE uint32_t word_of(const B&, const uint8_t* field, int i) {
    // No field that is read by words lies at less than what its block's alignment and 4 have in common.
    return load_u32<(B::ALIGNED < 4 ? B::ALIGNED : 4)>(field + 4 * i);
}

// ---- Levels ------------------------------------------------------------------------------------

// Of the types of 32 elements: nibble i % 16 of a pair of elements 16 apart.
template <class B> DEVICE uint32_t nibbles_of_32(const B& b, int i) { return nibbles(word_of(b, b.qs, i % 4), i / 4 * 4); }

// Pairs of bits of elements 32 apart.
template <class B> DEVICE uint32_t pairs_of_256(const B& b, const uint8_t* field, int i) {
    return word_of(b, field, i / 32 * 8 + i % 8) >> (i / 8 % 4 * 2) & 0x03030303u;
}

// Nibbles of elements 32 apart.
template <class B> DEVICE uint32_t nibbles_of_256(const B& b, int i) {
    return nibbles(word_of(b, b.qs, i / 16 * 8 + i % 8), i / 8 % 2 * 4);
}

DEVICE uint32_t levels(const BlockQ1_0& b, int i) { return spread_bits(b.qs[i / 2] >> (i % 2 * 4)) << 1; }
DEVICE uint32_t levels(const BlockQ2_0& b, int i) {
    const uint32_t q = b.qs[i];
    return (q | q << 6 | q << 12 | q << 18) & 0x03030303u;
}
DEVICE uint32_t levels(const BlockQ4_0& b, int i) { return nibbles_of_32(b, i); }
DEVICE uint32_t levels(const BlockQ4_1& b, int i) { return nibbles_of_32(b, i); }
DEVICE uint32_t levels(const BlockQ5_0& b, int i) {
    return nibbles_of_32(b, i) | spread_bits(word_of(b, b.qh, 0) >> 4 * i) << 4;
}
DEVICE uint32_t levels(const BlockQ5_1& b, int i) {
    return nibbles_of_32(b, i) | spread_bits(word_of(b, b.qh, 0) >> 4 * i) << 4;
}
DEVICE uint32_t levels(const BlockQ8_0& b, int i) { return word_of(b, b.qs, i); }
DEVICE uint32_t levels(const BlockQ8_1& b, int i) { return word_of(b, b.qs, i); }
DEVICE uint32_t levels(const BlockQ8K& b, int i) { return word_of(b, b.qs, i); }
DEVICE uint32_t levels(const BlockQ2K& b, int i) { return pairs_of_256(b, b.qs, i); }
DEVICE uint32_t levels(const BlockQ3K& b, int i) {
    return pairs_of_256(b, b.qs, i) | (word_of(b, b.hmask, i % 8) >> i / 8 & 0x01010101u) << 2;
}
DEVICE uint32_t levels(const BlockQ4K& b, int i) { return nibbles_of_256(b, i); }
DEVICE uint32_t levels(const BlockQ5K& b, int i) {
    return nibbles_of_256(b, i) | (word_of(b, b.qh, i % 8) >> i / 8 & 0x01010101u) << 4;
}
DEVICE uint32_t levels(const BlockQ6K& b, int i) {
    const int quarter = i / 8 % 4;
    const uint32_t low = word_of(b, b.ql, i / 32 * 16 + quarter % 2 * 8 + i % 8);
    return nibbles(low, quarter / 2 * 4) | pairs_of_256(b, b.qh, i) << 4;
}

DEVICE uint32_t iq4_values(uint32_t codes) {
    // -127 -104 -83 -65 | -49 -35 -22 -10 | 1 13 25 38 | 53 69 89 113
    const uint32_t table[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
    return look_up(table, codes);
}
DEVICE uint32_t fp4_values(uint32_t codes) {
    // Twice the numbers of E2M1: 0 1 2 3 | 4 6 8 12 and their negatives.
    const uint32_t table[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};
    return look_up(table, codes);
}
DEVICE uint32_t levels(const BlockIq4Nl& b, int i) { return iq4_values(nibbles_of_32(b, i)); }
DEVICE uint32_t levels(const BlockIq4Xs& b, int i) {
    return iq4_values(nibbles(word_of(b, b.qs, i / 8 * 4 + i % 4), i / 4 % 2 * 4));
}
DEVICE uint32_t levels(const BlockMxfp4& b, int i) { return fp4_values(nibbles_of_32(b, i)); }
DEVICE uint32_t levels(const BlockNvfp4& b, int i) {
    return fp4_values(nibbles(word_of(b, b.qs, i / 4 * 2 + i % 2), i / 2 % 2 * 4));
}
DEVICE uint32_t levels(const BlockTq2_0& b, int i) { return pairs_of_256(b, b.qs, i); }

// Digit k in base 3 of a byte: 3^k times it is carried into the ninth bit by another 3. The digits of
// 32 bytes are elements 0..160, those of the next 16 elements 160..240, of the last 4, `qh`, 240..256.
DEVICE uint32_t levels(const BlockTq1_0& b, int i) {
    const int k = i < 40 ? i / 8 : i < 60 ? (i - 40) / 4 : i - 60;
    const int word = i < 40 ? i % 8 : i < 60 ? 8 + i % 4 : 12;
    const uint32_t power = k == 0 ? 1 : k == 1 ? 3 : k == 2 ? 9 : k == 3 ? 27 : 81;
    const uint32_t bytes = word_of(b, b.qs, word);
    uint32_t digits = 0;
#pragma unroll
    for (int shift = 0; shift < 32; shift += 8) digits |= ((bytes >> shift & 0xff) * power & 0xff) * 3 >> 8 << shift;
    return digits;
}

// ---- Scales ------------------------------------------------------------------------------------

template <class B> DEVICE float d_of(const B& b) { return load_half<(B::ALIGNED < 2 ? 1 : 2)>(b.d); }

DEVICE Scale scale_of(const BlockQ1_0& b, int) { return {d_of(b), 0.0f}; }
DEVICE Scale scale_of(const BlockQ2_0& b, int) { return {d_of(b), 0.0f}; }
DEVICE Scale scale_of(const BlockQ4_0& b, int) { return {d_of(b), 0.0f}; }
DEVICE Scale scale_of(const BlockQ4_1& b, int) { return {d_of(b), -load_half<2>(b.m)}; }
DEVICE Scale scale_of(const BlockQ5_0& b, int) { return {d_of(b), 0.0f}; }
DEVICE Scale scale_of(const BlockQ5_1& b, int) { return {d_of(b), -load_half<2>(b.m)}; }
DEVICE Scale scale_of(const BlockQ8_0& b, int) { return {d_of(b), 0.0f}; }
DEVICE Scale scale_of(const BlockQ8_1& b, int) { return {d_of(b), 0.0f}; }
DEVICE Scale scale_of(const BlockQ8K& b, int) { return {__uint_as_float(word_of(b, b.d, 0)), 0.0f}; }
DEVICE Scale scale_of(const BlockTq1_0& b, int) { return {d_of(b), 0.0f}; }
DEVICE Scale scale_of(const BlockTq2_0& b, int) { return {d_of(b), 0.0f}; }
DEVICE Scale scale_of(const BlockIq4Nl& b, int) { return {d_of(b), 0.0f}; }

DEVICE Scale scale_of(const BlockQ2K& b, int g) {
    return {d_of(b) * float(b.scales[g] & 15), load_half<2>(b.dmin) * float(b.scales[g] >> 4)};
}

// The scale of group g of 16, -32..31: its low four bits are in byte g % 8 (from g = 8 on the high
// nibble), the high two in byte 8 + g % 4 from bit 2 * (g / 4) on.
DEVICE Scale scale_of(const BlockQ3K& b, int g) {
    const int low = b.scales[g % 8] >> (g / 8 * 4) & 15, high = b.scales[8 + g % 4] >> (g / 4 * 2) & 3;
    return {d_of(b) * float((low | high << 4) - 32), 0.0f};
}

// Scale and min of group g of 32 of Q4_K and Q5_K, 0..63: below 4 the low six bits of bytes g and g + 4;
// from 4 on the nibbles of byte g + 4 and, high, the upper two bits of bytes g - 4 and g.
DEVICE void unpack_scale_min(const uint8_t* packed, int g, int& scale, int& min) {
    scale = g < 4 ? packed[g] & 63 : (packed[g + 4] & 15) | packed[g - 4] >> 6 << 4;
    min = g < 4 ? packed[g + 4] & 63 : packed[g + 4] >> 4 | packed[g] >> 6 << 4;
}
template <class B> DEVICE Scale scale_of_k45(const B& b, int g) {
    int scale, min;
    unpack_scale_min(b.scales, g, scale, min);
    const uint32_t both = word_of(b, b.d, 0);
    return {to_float(f16_of(both)) * float(scale), to_float(f16_of(both >> 16)) * float(min)};
}
DEVICE Scale scale_of(const BlockQ4K& b, int g) { return scale_of_k45(b, g); }
DEVICE Scale scale_of(const BlockQ5K& b, int g) { return scale_of_k45(b, g); }

DEVICE Scale scale_of(const BlockQ6K& b, int g) { return {d_of(b) * float(int8_t(b.scales[g])), 0.0f}; }

DEVICE Scale scale_of(const BlockIq4Xs& b, int g) {
    const int low = b.scales_l[g / 2] >> (g % 2 * 4) & 15, high = load_u16<2>(b.scales_h) >> (2 * g) & 3;
    return {d_of(b) * float((low | high << 4) - 32), 0.0f};
}

// Half of 2^(e - 127), as the levels are doubled; 2^-128 and 2^-127 are subnormal.
DEVICE Scale scale_of(const BlockMxfp4& b, int) {
    return {__uint_as_float(b.e < 2 ? 0x00200000u << b.e : uint32_t(b.e - 1) << 23), 0.0f};
}

// Half of the UE4M3 number: four bits of exponent, three of mantissa; 0x7f is read as 0, as GGML does.
DEVICE Scale scale_of(const BlockNvfp4& b, int g) {
    const int x = b.d[g], exponent = x >> 3 & 15;
    const float mantissa = float(x & 7);
    if (x == 0x7f) return {0.0f, 0.0f};
    if (exponent == 0) return {mantissa * (1.0f / 1024.0f), 0.0f};
    return {(1.0f + mantissa * 0.125f) * __uint_as_float(uint32_t(exponent - 8 + 127) << 23), 0.0f};
}

// ---- Numbers -----------------------------------------------------------------------------------

// Rounded after the product and after the sum, as on processors without fused multiply-add.
template <class B> DEVICE float number_of(int level, Scale s) {
    const float product = __fmul_rn(s.scale, float(level - B::ZERO));
    return B::HAS_MIN ? __fsub_rn(product, s.min) : product;
}

template <int N, class B> DEVICE void decode(const B& b, int i, float (&x)[N]) {
    static_assert(N == 4 || N == 8, "within the smallest group");
    const Scale s = scale_of(b, N * i / B::GROUP);
#pragma unroll
    for (int w = 0; w < N / 4; ++w) {
        const uint32_t word = levels(b, N / 4 * i + w);
#pragma unroll
        for (int k = 0; k < 4; ++k) x[4 * w + k] = number_of<B>(byte_of(word, k), s);
    }
}

template <class B> DEVICE float decode_element(const B& b, int i) {
    return number_of<B>(byte_of(levels(b, i / 4), i % 4), scale_of(b, i / B::GROUP));
}
