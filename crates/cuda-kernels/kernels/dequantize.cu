// Plain numbers from blocks and packed words: for products of many rows, which read a matrix often, and
// for whatever has no kernel for blocks.
//
// Bound by: bytes. Floor: those of the blocks and of the result over the copy bandwidth; most are the
// result's (Q4_0 to f16: 0.56 read and 2 written an element).
#include "blocks.cuh"

// ---- Stores: 4 floats or 8 halves are 16 bytes ---------------------------------------------------

template <class T> constexpr int AT_ONCE = 16 / int(sizeof(T));

DEVICE void store(float* to, const float (&x)[4]) {
    *reinterpret_cast<Bytes16*>(to) = {{__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])}};
}
DEVICE void store(float* to, const float (&x)[8]) {
    const float low[4] = {x[0], x[1], x[2], x[3]}, high[4] = {x[4], x[5], x[6], x[7]};
    store(to, low);
    store(to + 4, high);
}
DEVICE uint32_t pack(f16, float low, float high) { return pack_f16(low, high); }
DEVICE uint32_t pack(bf16, float low, float high) { return pack_bf16(low, high); }
template <class T> DEVICE void store(T* to, const float (&x)[4]) {
    *reinterpret_cast<Bytes8*>(to) = {{pack(T{}, x[0], x[1]), pack(T{}, x[2], x[3])}};
}
template <class T> DEVICE void store(T* to, const float (&x)[8]) {
    *reinterpret_cast<Bytes16*>(to) = {{pack(T{}, x[0], x[1]), pack(T{}, x[2], x[3]), pack(T{}, x[4], x[5]), pack(T{}, x[6], x[7])}};
}

DEVICE void set(float& y, float x) { y = x; }
DEVICE void set(f16& y, float x) { y = to_f16(x); }
DEVICE void set(bf16& y, float x) { y = to_bf16(x); }

// Chunks whose loads a thread has under way before it stores the first.
constexpr int UNROLL = 4;

// ---- GGML's blocks -----------------------------------------------------------------------------

// Launch: any grid; the whole grid walks on. A thread makes 16 bytes of the result at a time, its
// neighbours those beside; the block's bytes, which several threads read, come from the cache.
template <class B, class T> DEVICE void dequantize(const uint8_t* blocks, T* out, int64_t elements) {
    constexpr int N = AT_ONCE<T>, PER_BLOCK = B::LEN / N;
    const int64_t chunks = elements / N, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; first < chunks; first += UNROLL * step) {
        float x[UNROLL][N];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const int64_t chunk = min(first + u * step, chunks - 1);
            const B& block = *reinterpret_cast<const B*>(blocks + chunk / PER_BLOCK * int(sizeof(B)));
            decode(block, int(chunk % PER_BLOCK), x[u]);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (first + u * step < chunks) store(out + (first + u * step) * N, x[u]);
    }
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
    const int64_t chunks = n / N, step = int64_t(gridDim.x) * blockDim.x;
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (int64_t first = thread; first < chunks; first += UNROLL * step) {
        float x[UNROLL][N];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) load(from + min(first + u * step, chunks - 1) * N, x[u]);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (first + u * step < chunks) store(to + (first + u * step) * N, x[u]);
    }
    for (int64_t i = chunks * N + thread; i < n; i += step) set(to[i], to_float(from[i]));
}

#define CONVERT(from_type, to_type, name) \
    KERNEL(256, name, const from_type* from, to_type* to, int64_t n) { convert(from, to, n); }

CONVERT(float, f16, convert_f32_f16)
CONVERT(float, bf16, convert_f32_bf16)
CONVERT(f16, float, convert_f16_f32)
CONVERT(f16, bf16, convert_f16_bf16)
CONVERT(bf16, float, convert_bf16_f32)
CONVERT(bf16, f16, convert_bf16_f16)

// ---- NF4 and FP4 (QLoRA, Dettmers et al. 2023) -------------------------------------------------

// x = code[q] * absmax[i / 64]; two codes a byte, the first in the high nibble. With double quantization
// (`nested_codes` not null) absmax[b] = map[nested_codes[b]] * nested_absmax[b / 256] + *offset.
// Launch: any grid; the whole grid walks on. n is even.
template <class T>
DEVICE void dequantize_4bit(const uint8_t* packed, const float* code, const float* absmax, const uint8_t* nested_codes,
                            const float* map, const float* offset, T* out, int64_t n) {
    constexpr int N = AT_ONCE<T>;
    SHARED(float, table, 16);
    if (threadIdx.x < 16) table[threadIdx.x] = code[threadIdx.x];
    __syncthreads();
    const auto scale = [&](int64_t block) {
        if (!nested_codes) return absmax[block];
        return __fadd_rn(__fmul_rn(map[nested_codes[block]], absmax[block / 256]), *offset);
    };
    const int64_t chunks = n / N, step = int64_t(gridDim.x) * blockDim.x;
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (int64_t first = thread; first < chunks; first += UNROLL * step) {
        float x[UNROLL][N];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const int64_t chunk = min(first + u * step, chunks - 1);
            const uint8_t* at = packed + chunk * (N / 2);
            const uint32_t codes = N == 8 ? load_u32<N / 2>(at) : load_u16<N / 2>(at);
            const float s = scale(chunk * N / 64);
#pragma unroll
            for (int i = 0; i < N; ++i) x[u][i] = table[codes >> (i / 2 * 8 + (i % 2 ? 0 : 4)) & 15] * s;
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (first + u * step < chunks) store(out + (first + u * step) * N, x[u]);
    }
    for (int64_t i = chunks * N + thread; i < n; i += step)
        set(out[i], table[packed[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale(i / 64));
}

#define DEQUANTIZE_4BIT(type, name)                                                                            \
    KERNEL(256, name, const uint8_t* packed, const float* code, const float* absmax, const uint8_t* nested_codes, \
           const float* map, const float* offset, type* out, int64_t n) {                                       \
        dequantize_4bit(packed, code, absmax, nested_codes, map, offset, out, n);                               \
    }

DEQUANTIZE_4BIT(float, dequantize_4bit_f32)
DEQUANTIZE_4BIT(f16, dequantize_4bit_f16)
DEQUANTIZE_4BIT(bf16, dequantize_4bit_bf16)

// ---- GPTQ and AWQ ------------------------------------------------------------------------------

// Both have a matrix of k x n (inputs x outputs) in words of eight nibbles, with groups of inputs that
// share scales (f16 [groups, n]) and zeros (nibbles [groups, n / 8]): w = scale * (q - zero). Written is
// its transpose, n x k, row by row, as all other weights lie.
//
// GPTQ: word (i, c) of [k / 8, n] has inputs 8 i .. 8 i + 8 of output c, in order. The group of an input is
// its place over the group's size, or groups[input] where given (kept within the groups). One is added to a zero (modulo 16)
// unless the file is of version 2.
// AWQ: word (i, c) of [k, n / 8] has outputs 8 c + {0, 2, 4, 6, 1, 3, 5, 7} of input i, zeros likewise.
struct Gptq {
    static constexpr int ROWS = 8, COLUMNS = 64;  // words of a tile
    static constexpr int PITCH = 68;              // eight rows apart in eight groups of four banks
    DEVICE int level(const uint32_t* tile, int k, int n) { return tile[k / 8 * PITCH + n] >> k % 8 * 4 & 15; }
    DEVICE int zero(uint32_t word, int n, int more) { return ((word >> n % 8 * 4 & 15) + more) & 15; }
};
struct Awq {
    static constexpr int ROWS = 64, COLUMNS = 8;
    static constexpr int PITCH = 9;
    DEVICE int place(int n) { return n % 8 / 2 + n % 2 * 4; }
    DEVICE int level(const uint32_t* tile, int k, int n) { return tile[k * PITCH + n / 8] >> place(n) * 4 & 15; }
    DEVICE int zero(uint32_t word, int n, int) { return word >> place(n) * 4 & 15; }
};

// Launch: a block a tile of 64 inputs (grid x) and 64 outputs (grid y). Words are read along rows of the
// file, turned in shared memory, and eight inputs of an output written at once: eight threads beside each
// other write 128 bytes of halves. k and n are multiples of 8, the group's size too.
template <class FORMAT, class T>
DEVICE void dequantize_packed(const uint32_t* words, const uint32_t* zeros, const f16* scales, const int* groups,
                              T* out, int k, int n, int group_size, int group_count, int more) {
    SHARED(uint32_t, tile, FORMAT::ROWS * FORMAT::PITCH);
    const int k0 = blockIdx.x * 64, n0 = blockIdx.y * 64;
    const int rows = FORMAT::ROWS == 8 ? k / 8 : k, columns = FORMAT::COLUMNS == 8 ? n / 8 : n;
    for (int w = threadIdx.x; w < FORMAT::ROWS * FORMAT::COLUMNS; w += blockDim.x) {
        const int i = w / FORMAT::COLUMNS, c = w % FORMAT::COLUMNS;
        const int row = k0 * FORMAT::ROWS / 64 + i, column = n0 * FORMAT::COLUMNS / 64 + c;
        tile[i * FORMAT::PITCH + c] = row < rows && column < columns ? words[int64_t(row) * columns + column] : 0;
    }
    __syncthreads();
    for (int chunk = threadIdx.x; chunk < 64 * 8; chunk += blockDim.x) {
        const int in = chunk % 8 * 8, on = chunk / 8, first = k0 + in, output = n0 + on;
        if (first >= k || output >= n) continue;
        float x[8], scale = 0.0f;
        int zero = 0, last = -1;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int group = groups ? min(max(groups[first + j], 0), group_count - 1) : first / group_size;
            if (group != last) {
                scale = to_float(scales[int64_t(group) * n + output]);
                zero = FORMAT::zero(zeros[int64_t(group) * (n / 8) + output / 8], output, more);
                last = group;
            }
            x[j] = scale * float(FORMAT::level(tile, in + j, on) - zero);
        }
        store(out + int64_t(output) * k + first, x);
    }
}

#define DEQUANTIZE_PACKED(format, type, name)                                                                    \
    KERNEL(256, name, const uint32_t* words, const uint32_t* zeros, const f16* scales, const int* groups, type* out, \
           int k, int n, int group_size, int group_count, int more) {                                                              \
        dequantize_packed<format>(words, zeros, scales, groups, out, k, n, group_size, group_count, more);                     \
    }

DEQUANTIZE_PACKED(Gptq, float, dequantize_gptq_f32)
DEQUANTIZE_PACKED(Gptq, f16, dequantize_gptq_f16)
DEQUANTIZE_PACKED(Gptq, bf16, dequantize_gptq_bf16)
DEQUANTIZE_PACKED(Awq, float, dequantize_awq_f32)
DEQUANTIZE_PACKED(Awq, f16, dequantize_awq_f16)
DEQUANTIZE_PACKED(Awq, bf16, dequantize_awq_bf16)
