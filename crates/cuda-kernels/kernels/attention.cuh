// What both attentions share: the types of a cache, where its elements lie, a row by a warp (`OneRow`), and which
// positions are seen.
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

// Chunk `chunk` of a head whose elements begin at `row`: as halves in words, or as floats. Q8_0 and Q4_0 are
// those of GGML: blocks of 32 with an f16 step d; int8 q stands for d q, nibbles, those of elements 0..16 low,
// for d (q - 8). A byte u below 0x64 is the f16 1024 + u: no conversion, and one rounding, that of the product.
DEVICE void scaled_bytes(Bytes8 bytes, uint32_t bias, uint16_t d, uint32_t (&words)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t pair = __byte_perm(bytes.words[i / 2], 0x64646464, i % 2 ? 0x4342 : 0x4140);
        words[i] = fma_f16x2(sub_f16x2(pair, bias), d | uint32_t(d) << 16, 0);
    }
}
DEVICE void chunk_q8_0(const uint8_t* row, int chunk, uint32_t (&words)[4]) {
    const uint8_t* block = row + chunk / 4 * 34;
    Bytes8 q = unaligned_8(block + 2 + chunk % 4 * CHUNK);
    for (int i = 0; i < 2; ++i) q.words[i] ^= 0x80808080;
    scaled_bytes(q, 0x64806480, half_at(block), words);  // 1024 + 128
}
DEVICE void chunk_q4_0(const uint8_t* row, int chunk, uint32_t (&words)[4]) {
    const uint8_t* block = row + chunk / 4 * 18;
    Bytes8 q = unaligned_8(block + 2 + chunk % 2 * CHUNK);
    for (int i = 0; i < 2; ++i) q.words[i] = q.words[i] >> chunk % 4 / 2 * 4 & 0x0f0f0f0f;
    scaled_bytes(q, 0x64086408, half_at(block), words);  // 1024 + 8
}
DEVICE void chunk_halves(const uint8_t* row, int chunk, uint32_t (&words)[4]) {
    const Bytes16 bytes = reinterpret_cast<const Bytes16*>(row)[chunk];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = bytes.words[i];
}
template <class HALF> DEVICE void widen(const uint32_t (&words)[4], float (&x)[CHUNK]) {
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) x[i] = i % 2 ? HALF::high(words[i / 2]) : HALF::low(words[i / 2]);
}
DEVICE void chunk_f32(const uint8_t* row, int chunk, float (&x)[CHUNK]) {
    const Bytes16* at = reinterpret_cast<const Bytes16*>(row) + 2 * chunk;
    const Bytes16 a = at[0], b = at[1];
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) x[i] = __uint_as_float(i < 4 ? a.words[i] : b.words[i - 4]);
}
DEVICE void read_chunk(int type, const uint8_t* row, int chunk, float (&x)[CHUNK]) {
    uint32_t words[4];
    if (type == CACHE_F32) return chunk_f32(row, chunk, x);
    if (type == CACHE_Q8_0) chunk_q8_0(row, chunk, words);
    else if (type == CACHE_Q4_0) chunk_q4_0(row, chunk, words);
    else chunk_halves(row, chunk, words);
    if (type == CACHE_BF16) widen<BF16>(words, x);
    else widen<F16>(words, x);
}

// A row of one query head on a warp, a lane having eight elements of the head: the softmax is online (Milakov and
// Gimelshein 2018, alg. 3), everything in floats.
struct OneRow {
    float query[CHUNK], sum[CHUNK], most, weight;
};
DEVICE OneRow one_row(const float* q, int lane, int head_dim) {
    OneRow row = {};
    row.most = MINUS_INFINITY;
    if (lane * CHUNK < head_dim) chunk_f32(reinterpret_cast<const uint8_t*>(q), lane, row.query);
    return row;
}
DEVICE void see_position(OneRow& row, const uint8_t* key, const uint8_t* value, int type, bool mine, float factor, float softcap) {
    float x[CHUNK] = {}, product = 0.0f;
    if (mine) read_chunk(type, key, lane_id(), x);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) product += row.query[i] * x[i];
    float score = warp_sum(product) * factor;
    if (softcap > 0.0f) score = soft_capped(score, softcap);
    const float now = fmaxf(row.most, score), old = exp2_approx(row.most - now), p = exp2_approx(score - now);
    if (mine) read_chunk(type, value, lane_id(), x);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) row.sum[i] = row.sum[i] * old + p * x[i];
    row.weight = row.weight * old + p;
    row.most = now;
}
