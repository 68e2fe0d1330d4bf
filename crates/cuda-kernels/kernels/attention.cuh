// What both attentions share: the types of a cache, and where its elements lie.
//
// A layer's keys, and its values, are a buffer [slots, n_kv_heads * head_dim]. Position p of a sequence
// lies in slot table[p / block_size] * block_size + p % block_size, where table lists the sequence's blocks.
#pragma once
#include "common.cuh"

// As the host numbers them.
enum CacheType { CACHE_F16, CACHE_BF16, CACHE_F32, CACHE_Q8_0, CACHE_Q4_0 };

// Elements that are read at once: 16 bytes of halves, a quarter of a GGML block.
#define CHUNK 8

#define LOG2_E 1.4426950408889634f

DEVICE int slot_of(const int* table, int block_size, int position) {
    return table[position / block_size] * block_size + position % block_size;
}

// Bytes of a head in a slot.
DEVICE int head_bytes(int type, int head_dim) {
    switch (type) {
        case CACHE_F32: return 4 * head_dim;
        case CACHE_Q8_0: return head_dim / 32 * 34;
        case CACHE_Q4_0: return head_dim / 32 * 18;
        default: return 2 * head_dim;
    }
}

// cap * tanh(score / cap) in units of log2(e), from score / cap. 1 - 2 / (e^2x + 1) is exact to 1e-7 of the
// cap and has no branch.
DEVICE float soft_capped(float x, float cap) {
    return cap * LOG2_E * (1.0f - __fdividef(2.0f, exp2_approx(2.0f * LOG2_E * x) + 1.0f));
}

// What queries are multiplied by, so that their products are scores in units of log2(e), or scores / cap.
DEVICE float query_factor(float scale, float softcap) { return softcap > 0.0f ? scale / softcap : scale * LOG2_E; }

DEVICE uint32_t low_half(uint32_t a, uint32_t b) { return (a & 0xffffu) | (b << 16); }
DEVICE uint32_t high_half(uint32_t a, uint32_t b) { return (a >> 16) | (b & 0xffff0000u); }

// The two element types of products. `bounded` keeps what overflows f16 from becoming infinite.
struct F16 {
    DEVICE float bounded(float x) { return fminf(fmaxf(x, -65504.0f), 65504.0f); }
    DEVICE uint32_t pack(float low, float high) { return pack_f16(low, high); }
    DEVICE float low(uint32_t word) { return to_float(f16_of(word)); }
    DEVICE float high(uint32_t word) { return to_float(f16_of(word >> 16)); }
    DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_f16(d, a, b); }
};
struct BF16 {
    DEVICE float bounded(float x) { return x; }
    DEVICE uint32_t pack(float low, float high) { return pack_bf16(low, high); }
    DEVICE float low(uint32_t word) { return __uint_as_float(word << 16); }
    DEVICE float high(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }
    DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_bf16(d, a, b); }
};

// Two floats as the sum of two halves each: f16 keeps 22 bits of them, bf16 16.
template <class HALF> DEVICE void split(float low, float high, uint32_t& coarse, uint32_t& fine) {
    coarse = HALF::pack(low, high);
    fine = HALF::pack(low - HALF::low(coarse), high - HALF::high(coarse));
}

DEVICE uint16_t half_at(const uint8_t* at) { return *reinterpret_cast<const uint16_t*>(at); }

// Eight bytes at an even address.
DEVICE Bytes8 unaligned_8(const uint8_t* at) {
    const bool apart = reinterpret_cast<uint64_t>(at) % 4 != 0;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(at + (apart ? 2 : 0));
    if (!apart) return {{words[0], words[1]}};
    return {{half_at(at) | words[0] << 16, words[0] >> 16 | uint32_t(half_at(at + 6)) << 16}};
}

// Chunk `chunk` of a head whose elements begin at `row`, as floats. Q8_0 and Q4_0 are those of GGML: blocks of
// 32 with an f16 step d; int8 q stands for d q, nibbles, those of elements 0..16 low, for d (q - 8).
DEVICE void chunk_q8_0(const uint8_t* row, int chunk, float (&x)[CHUNK]) {
    const uint8_t* block = row + chunk / 4 * 34;
    const Bytes8 q = unaligned_8(block + 2 + chunk % 4 * CHUNK);
    const float d = to_float(f16{half_at(block)});
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) x[i] = d * float(int8_t(q.words[i / 4] >> 8 * (i % 4)));
}
DEVICE void chunk_q4_0(const uint8_t* row, int chunk, float (&x)[CHUNK]) {
    const uint8_t* block = row + chunk / 4 * 18;
    const Bytes8 q = unaligned_8(block + 2 + chunk % 2 * CHUNK);
    const float d = to_float(f16{half_at(block)});
    const int shift = chunk % 4 / 2 * 4;
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) x[i] = d * float(int(q.words[i / 4] >> (8 * (i % 4) + shift) & 15) - 8);
}
DEVICE void chunk_f32(const uint8_t* row, int chunk, float (&x)[CHUNK]) {
    const Bytes16* at = reinterpret_cast<const Bytes16*>(row) + 2 * chunk;
    const Bytes16 a = at[0], b = at[1];
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) x[i] = __uint_as_float(i < 4 ? a.words[i] : b.words[i - 4]);
}
template <class HALF> DEVICE void chunk_halves(const uint8_t* row, int chunk, float (&x)[CHUNK]) {
    const Bytes16 a = reinterpret_cast<const Bytes16*>(row)[chunk];
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) x[i] = i % 2 ? HALF::high(a.words[i / 2]) : HALF::low(a.words[i / 2]);
}
