// Plain numbers from the packed formats of Hugging Face's checkpoints: NF4 and FP4 of bitsandbytes, GPTQ
// and AWQ of 4 bits.
//
// Bound by: bytes. Floor: 0.53 to 0.56 an element read and those of the result written (2 of a half), over the
// copy bandwidth.
#include "blocks.cuh"
#include "chunks.cuh"

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
    write_chunks<N>(out, n, [&](int64_t chunk, float (&x)[N]) {
        const uint32_t codes = N == 8 ? load_u32<N / 2>(packed + chunk * 4) : load_u16<N / 2>(packed + chunk * 2);
        const float s = scale(chunk * N / 64);
#pragma unroll
        for (int i = 0; i < N; ++i) x[i] = table[codes >> (i / 2 * 8 + (i % 2 ? 0 : 4)) & 15] * s;
    });
    write_rest<N>(out, n, [&](int64_t i) { return table[packed[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale(i / 64); });
}

#define DEQUANTIZE_4BIT(type, name)                                                                               \
    KERNEL(256, name, const uint8_t* packed, const float* code, const float* absmax, const uint8_t* nested_codes, \
           const float* map, const float* offset, type* out, int64_t n) {                                         \
        dequantize_4bit(packed, code, absmax, nested_codes, map, offset, out, n);                                 \
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
// its place over the group's size, or groups[input] where given (kept within the groups). One is added to
// a zero (modulo 16) unless the file is of version 2.
// AWQ: word (i, c) of [k, n / 8] has outputs 8 c + {0, 2, 4, 6, 1, 3, 5, 7} of input i, zeros likewise.
struct Gptq {
    static constexpr int ROWS = 8, COLUMNS = 64;  // words of a tile
    static constexpr int PITCH = 68;              // eight rows apart in eight groups of four banks
    DEVICE int level(const uint32_t* tile, int k, int n) { return tile[k / 8 * PITCH + n] >> k % 8 * 4 & 15; }
    DEVICE int zero(uint32_t word, int n, int more) { return ((word >> n % 8 * 4 & 15) + more) & 15; }
};
struct Awq {
    static constexpr int ROWS = 64, COLUMNS = 8;
    static constexpr int PITCH = 9;  // rows eight apart in different banks, but for pairs
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

#define DEQUANTIZE_PACKED(format, type, name)                                                              \
    KERNEL(256, name, const uint32_t* words, const uint32_t* zeros, const f16* scales, const int* groups, \
           type* out, int k, int n, int group_size, int group_count, int more) {                           \
        dequantize_packed<format>(words, zeros, scales, groups, out, k, n, group_size, group_count, more); \
    }

DEQUANTIZE_PACKED(Gptq, float, dequantize_gptq_f32)
DEQUANTIZE_PACKED(Gptq, f16, dequantize_gptq_f16)
DEQUANTIZE_PACKED(Gptq, bf16, dequantize_gptq_bf16)
DEQUANTIZE_PACKED(Awq, float, dequantize_awq_f32)
DEQUANTIZE_PACKED(Awq, f16, dequantize_awq_f16)
DEQUANTIZE_PACKED(Awq, bf16, dequantize_awq_bf16)
