// Plain numbers from GGML's blocks, and from other plain ones: for products of many rows, which read a
// matrix often, and for whatever has no kernel for blocks.
//
// Bound by: bytes. Floor: those of the blocks and of the result over the copy bandwidth; most are the
// result's (Q4_0 to f16: 0.56 read and 2 written an element).
#include "blocks.cuh"
#include "chunks.cuh"

// ---- GGML's blocks -----------------------------------------------------------------------------

// Launch: any grid; the whole grid walks on. A block's bytes, which several threads read, come from the cache.
template <class B, class T> DEVICE void dequantize(const uint8_t* blocks, T* out, int64_t elements) {
    constexpr int N = AT_ONCE<T>, PER_BLOCK = B::LEN / N;
    write_chunks<N>(out, elements, [&](int64_t chunk, float (&x)[N]) {
        const B& block = *reinterpret_cast<const B*>(blocks + chunk / PER_BLOCK * int(sizeof(B)));
        decode(block, int(chunk % PER_BLOCK), x);
    });
}

#define DEQUANTIZE(block, name)                                                                           \
    KERNEL(256, dequantize_##name##_f32, const uint8_t* blocks, float* out, int64_t elements) {           \
        dequantize<block>(blocks, out, elements);                                                         \
    }                                                                                                     \
    KERNEL(256, dequantize_##name##_f16, const uint8_t* blocks, f16* out, int64_t elements) {             \
        dequantize<block>(blocks, out, elements);                                                         \
    }                                                                                                     \
    KERNEL(256, dequantize_##name##_bf16, const uint8_t* blocks, bf16* out, int64_t elements) {           \
        dequantize<block>(blocks, out, elements);                                                         \
    }

DEQUANTIZE(BlockQ1_0, q1_0)
DEQUANTIZE(BlockQ2_0, q2_0)
DEQUANTIZE(BlockQ4_0, q4_0)
DEQUANTIZE(BlockQ4_1, q4_1)
DEQUANTIZE(BlockQ5_0, q5_0)
DEQUANTIZE(BlockQ5_1, q5_1)
DEQUANTIZE(BlockQ8_0, q8_0)
DEQUANTIZE(BlockQ8_1, q8_1)
DEQUANTIZE(BlockQ2K, q2_k)
DEQUANTIZE(BlockQ3K, q3_k)
DEQUANTIZE(BlockQ4K, q4_k)
DEQUANTIZE(BlockQ5K, q5_k)
DEQUANTIZE(BlockQ6K, q6_k)
DEQUANTIZE(BlockQ8K, q8_k)
DEQUANTIZE(BlockIq4Nl, iq4_nl)
DEQUANTIZE(BlockIq4Xs, iq4_xs)
DEQUANTIZE(BlockTq1_0, tq1_0)
DEQUANTIZE(BlockTq2_0, tq2_0)
DEQUANTIZE(BlockMxfp4, mxfp4)
DEQUANTIZE(BlockNvfp4, nvfp4)

// ---- Plain types -------------------------------------------------------------------------------

template <class T, int N> DEVICE void load(const T* from, float (&x)[N]) {
    uint32_t words[N * sizeof(T) / 4];
    load_words<(N * sizeof(T) >= 16 ? 16 : 8)>(from, words);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if constexpr (sizeof(T) == 4) x[i] = __uint_as_float(words[i]);
        else x[i] = to_float(T{uint16_t(words[i / 2] >> i % 2 * 16)});
    }
}

// Each of n numbers in another type, rounded to nearest, ties to even. Launch: any grid; the whole grid
// walks on. A thread moves 16 bytes of the wider type at a time; what is left is done one by one.
template <class From, class To> DEVICE void convert(const From* from, To* to, int64_t n) {
    constexpr int N = sizeof(From) == 2 && sizeof(To) == 2 ? 8 : 4;
    write_chunks<N>(to, n, [&](int64_t chunk, float (&x)[N]) { load(from + chunk * N, x); });
    write_rest<N>(to, n, [&](int64_t i) { return to_float(from[i]); });
}

#define CONVERT(from_type, to_type, name) \
    KERNEL(256, name, const from_type* from, to_type* to, int64_t n) { convert(from, to, n); }

CONVERT(float, f16, convert_f32_f16)
CONVERT(float, bf16, convert_f32_bf16)
CONVERT(f16, float, convert_f16_f32)
CONVERT(f16, bf16, convert_f16_bf16)
CONVERT(bf16, float, convert_bf16_f32)
CONVERT(bf16, f16, convert_bf16_f16)
