// y = x W^T + bias with weights of 4 bits, groups of 128 along k with an f16 scale and a zero point each,
// w = scale * (q - zero), and x of f16: for batches of decoding, where W is read once for up to 64 rows. Weights lie
// as the lanes of mma want them (as in Marlin, Frantar et al. 2024, sec. 3) and become halves in registers.
//
// Bound by: the bytes of W, n k / 2; from some 40 rows on by tensor cores. Floor: those bytes over the copy
// bandwidth. What is in the way: enough bytes under way (three or four stages of 16 KiB a block), the instructions
// that make halves of nibbles (9 for 8 of them), and shared memory, which gives x to each of four strips of columns.
//
// A block makes BM x 128 elements of y over a part of k, with 8 warps: warp i has the 32 columns of strip i % 4 and,
// of the two groups of a step, group i / 4. It sums a group on tensor cores in f32, multiplies that by
// the scale, and adds it up; then the halves are added. Where there are too few columns to fill the device, `splits`
// blocks share k; the last of them to be done adds the parts in their order. So the order of a sum depends on n, k
// and `splits` alone: neither on m nor on BM.
#include "gemm.cuh"

constexpr int GROUP = 128, COLUMNS = 128, STRIPS = COLUMNS / 32, HALVES = 2;
constexpr int STEP = HALVES * GROUP;                          // of k
constexpr int X_CHUNKS = STEP * 2 / 16;                       // 16 bytes of a row of x
constexpr int BLOCK_BYTES = 512;                              // 32 columns by 32 of k
constexpr int W_BYTES = STEP * COLUMNS / 2, SCALE_BYTES = HALVES * COLUMNS * 2, ZERO_BYTES = HALVES * COLUMNS;
constexpr int W4_THREADS = STRIPS * HALVES * WARP;

struct W4a16 {
    const uint8_t* x;       // f16 [m][k]
    const uint8_t* w;       // [strips of 32 columns][k / 32][lane][4 words]: see `Packed` on the host
    const uint8_t* scales;  // f16 [k / 128][32 * strips]
    const uint8_t* zeros;   // uint8_t of the same shape; null: 8 everywhere
    float* parts;           // where splits > 1: [tiles][splits][BM * COLUMNS], as the lanes have it
    int* done;              // [tiles], zero before and after
    int k, splits;
};

// A lane's quarter of a 16 x 16 part of the weights, two of b's columns: nibbles 0 and 4 are b[0] of the first
// (low and high), 1 and 5 its b[1], 2 and 6 b[0] of the second, 3 and 7 its b[1]. A nibble q under 0x6400 is the half
// 1024 + q, four bits higher 1024 + 16 q: less 1024 + zero, or a sixteenth of it less 64 + zero, it is q - zero,
// without error.
DEVICE void nibbles_to_b(uint32_t (&b)[2], uint32_t word, uint32_t low_zero, uint32_t high_zero) {
    b[0] = sub_f16x2(and_or(word, 0x000f000fu, 0x64006400u), low_zero);
    b[1] = fma_f16x2(and_or(word, 0x00f000f0u, 0x64006400u), 0x2c002c00u, high_zero);
}

template <int BM, int STAGES> DEVICE void w4a16_product(uint8_t* shared, const W4a16& in, const Output& out) {
    constexpr int M_TILES = BM / 16, X_BYTES = BM * X_CHUNKS * 16, STAGE = W_BYTES + X_BYTES + SCALE_BYTES + ZERO_BYTES;
    const int lane = lane_id(), strip = warp_id() % STRIPS, half = warp_id() / STRIPS;
    const int first_row = blockIdx.y * BM, first_column = blockIdx.x * COLUMNS;
    const int groups = in.k / GROUP, steps = (groups + HALVES - 1) / HALVES, split = blockIdx.z;
    const int begin = int(int64_t(steps) * split / in.splits), end = int(int64_t(steps) * (split + 1) / in.splits);
    const int strips = (out.n + 31) / 32, columns = strips * 32;  // that W has, some of them padding

    // What a thread copies in step 0; the steps follow at equal distances. Of W a lane copies what it reads itself.
    // Of x a warp copies rows warp, warp + 8, ..., a lane a chunk of each. Scales and zero points are 48 chunks more.
    const int own_strip = first_column / 32 + strip, chunk_bytes = in.k * 2;
    const bool has_strip = own_strip < strips;
    const int64_t own_block = int64_t(has_strip ? own_strip : 0) * (in.k / 32) + half * 4;
    const uint8_t* words = in.w + own_block * BLOCK_BYTES + lane * 16;
    const uint8_t* rows = in.x + int64_t(first_row + warp_id()) * chunk_bytes + lane * 16;
    const int words_to = warp_id() * 4 * BLOCK_BYTES + lane * 16;
    const int rows_to = W_BYTES + swizzled<X_CHUNKS>(warp_id(), lane);
    const bool of_scale = threadIdx.x < SCALE_BYTES / 16;
    const int more = of_scale ? int(threadIdx.x) : int(threadIdx.x) - SCALE_BYTES / 16, value = of_scale ? 2 : 1;
    const bool has_more = of_scale || (in.zeros && more < ZERO_BYTES / 16);
    const int in_group = COLUMNS * value / 16, more_group = more / in_group;
    const int more_column = first_column + more % in_group * 16 / value;
    const uint8_t* values = (of_scale ? in.scales : in.zeros) + (int64_t(more_group) * columns + more_column) * value;
    const int values_to = W_BYTES + X_BYTES + (of_scale ? 0 : SCALE_BYTES) + more * 16;
    const auto copy = [&](int step, int slot) {
        uint8_t* stage = shared + slot * STAGE;
        const bool there = has_strip && step * HALVES + half < groups;
#pragma unroll
        for (int block = 0; block < 4; ++block) {
            const uint8_t* from = words + (int64_t(step) * HALVES * 4 + block) * BLOCK_BYTES;
            cp_async_16(stage + words_to + block * BLOCK_BYTES, from, there);
        }
        const bool within = step * STEP * 2 + lane * 16 < chunk_bytes;
#pragma unroll
        for (int i = 0; i < BM / 8; ++i) {
            const uint8_t* from = rows + int64_t(i) * 8 * chunk_bytes + step * STEP * 2;
            cp_async_16(stage + rows_to + i * 8 * X_CHUNKS * 16, from, within && first_row + warp_id() + i * 8 < out.m);
        }
        if (has_more) {
            const bool present = step * HALVES + more_group < groups && more_column < columns;
            cp_async_16(stage + values_to, values + int64_t(step) * HALVES * columns * value, present);
        }
    };

    float sum[M_TILES][4][4] = {};
    const auto multiply = [&](int slot) {
        const uint8_t* stage = shared + slot * STAGE;
        const uint8_t* x_tile = stage + W_BYTES;
        const uint8_t* scales = x_tile + X_BYTES + (half * COLUMNS + strip * 32) * 2;
        const uint8_t* zeros = x_tile + X_BYTES + SCALE_BYTES + half * COLUMNS + strip * 32;
        uint32_t low_zero[4], high_zero[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const uint32_t zero = in.zeros ? zeros[j * 8 + lane / 4] : 8;
            low_zero[j] = 0x64006400u + zero * 0x00010001u;   // 1024 + zero, twice
            high_zero[j] = 0xd400d400u + zero * 0x00100010u;  // -64 - zero
        }
        float part[M_TILES][4][4] = {};
        // Four at once take more registers than two blocks of threads on a multiprocessor have.
#pragma unroll 2
        for (int block = 0; block < 4; ++block) {
            const Bytes16 four = *reinterpret_cast<const Bytes16*>(stage + words_to + block * BLOCK_BYTES);
#pragma unroll
            for (int sixteen = 0; sixteen < 2; ++sixteen) {
                uint32_t a[M_TILES][4];
#pragma unroll
                for (int i = 0; i < M_TILES; ++i)
                    load_rows<X_CHUNKS>(a[i], x_tile, i * 16, half * (GROUP / 16) + block * 2 + sixteen);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    uint32_t b[2];
                    nibbles_to_b(b, four.words[sixteen * 2 + j / 2] >> (j % 2 * 8), low_zero[j], high_zero[j]);
#pragma unroll
                    for (int i = 0; i < M_TILES; ++i) mma_f16(part[i][j], a[i], b);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const uint32_t pair = *reinterpret_cast<const uint32_t*>(scales + (j * 8 + lane % 4 * 2) * 2);
            const float scale[2] = {to_float(f16_of(pair)), to_float(f16_of(pair >> 16))};
#pragma unroll
            for (int i = 0; i < M_TILES; ++i)
#pragma unroll
                for (int e = 0; e < 4; ++e) sum[i][j][e] += scale[e % 2] * part[i][j][e];
        }
    };

#pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) {
        if (begin + i < end) copy(begin + i, i);
        cp_async_commit();
    }
    int slot = 0, next = STAGES - 1;
    for (int step = begin; step < end; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < end) copy(step + STAGES - 1, next);
        cp_async_commit();
        multiply(slot);
        slot = slot + 1 < STAGES ? slot + 1 : 0, next = next + 1 < STAGES ? next + 1 : 0;
    }

    // The halves: one shows its sums, the other adds them to its own.
    __syncthreads();
    float* shown = reinterpret_cast<float*>(shared) + strip * WARP + lane;
    int* last = reinterpret_cast<int*>(shared + BM * COLUMNS * 4);
    const bool writes = half == 0;
    if (!writes) {
#pragma unroll
        for (int i = 0; i < M_TILES * 16; ++i) shown[i * STRIPS * WARP] = sum[i / 16][i / 4 % 4][i % 4];
    }
    __syncthreads();
    if (writes) {
#pragma unroll
        for (int i = 0; i < M_TILES * 16; ++i) sum[i / 16][i / 4 % 4][i % 4] += shown[i * STRIPS * WARP];
    }

    if (in.splits > 1) {
        const int tile = blockIdx.y * gridDim.x + blockIdx.x;
        const int thread = strip * WARP + lane;
        Bytes16* parts = reinterpret_cast<Bytes16*>(in.parts) + int64_t(tile) * in.splits * (BM * COLUMNS / 4) + thread;
        if (writes) {
            Bytes16* own = parts + int64_t(split) * (BM * COLUMNS / 4);
#pragma unroll
            for (int i = 0; i < M_TILES * 4; ++i) {
                Bytes16 words;
#pragma unroll
                for (int e = 0; e < 4; ++e) words.words[e] = __float_as_uint(sum[i / 4][i % 4][e]);
                own[i * STRIPS * WARP] = words;
            }
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            *last = atomicAdd(in.done + tile, 1) == in.splits - 1;
            __threadfence();
        }
        __syncthreads();
        if (!*last) return;
        if (threadIdx.x == 0) in.done[tile] = 0;
        if (writes) {
#pragma unroll
            for (int i = 0; i < M_TILES * 16; ++i) sum[i / 16][i / 4 % 4][i % 4] = 0.0f;
            for (int s = 0; s < in.splits; ++s) {
                const Bytes16* from = parts + int64_t(s) * (BM * COLUMNS / 4);
#pragma unroll
                for (int i = 0; i < M_TILES * 4; ++i) {
                    const Bytes16 words = from[i * STRIPS * WARP];
#pragma unroll
                    for (int e = 0; e < 4; ++e) sum[i / 4][i % 4][e] += __uint_as_float(words.words[e]);
                }
            }
        }
    }
    if (writes) store_tiles<F16>(sum, out, first_row, first_column + strip * 32);
}

// Launch: (n / 128, m / BM, splits) of 256; dynamic shared memory: STAGES * (16 KiB + 512 BM + 768) bytes.
#define W4A16(name, BM, STAGES, BLOCKS)                                                                                      \
    KERNEL_BLOCKS(W4_THREADS, BLOCKS, name, const uint8_t* x, const uint8_t* w, const uint8_t* scales, const uint8_t* zeros, \
           const float* bias, float* y, float* parts, int* done, int m, int n, int k, int splits) {                          \
        DYNAMIC_SHARED(uint8_t, shared);                                                                                     \
        const W4a16 in = {x, w, scales, zeros, parts, done, k, splits};                                                      \
        const Output out = {y, n, m, n, bias, nullptr, nullptr};                                                             \
        w4a16_product<BM, STAGES>(shared, in, out);                                                                          \
    }
W4A16(gemm_w4a16_16, 16, 4, 2)
W4A16(gemm_w4a16_32, 32, 3, 2)
W4A16(gemm_w4a16_64, 64, 3, 1)

// Columns first..end - 1 of the weights as halves, [end - first][k], for products of more rows than pay for making
// halves again and again. `first` is a multiple of 32. Bound by: bytes, 2.5 a weight. Launch: any grid of 256.
KERNEL(256, gemm_w4_decode, const Bytes16* w, const f16* scales, const uint8_t* zeros, uint32_t* out, int first, int end,
       int columns, int k) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    const int64_t strip_lanes = int64_t(k / 32) * WARP, count = (end - first + 31) / 32 * strip_lanes;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        const int strip = int(i / strip_lanes), block = int(i % strip_lanes / WARP), lane = int(i % WARP);
        const Bytes16 words = w[first / 32 * strip_lanes + i];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int column = first + strip * 32 + j * 8 + lane / 4;
            if (column >= end) continue;
            const int64_t at = int64_t(block * 32 / GROUP) * columns + column;
            const float scale = to_float(scales[at]), zero = zeros ? float(zeros[at]) : 8.0f;
            uint32_t* row = out + (int64_t(column - first) * k + block * 32) / 2 + lane % 4;
#pragma unroll
            for (int eight = 0; eight < 4; ++eight) {
                const uint32_t word = words.words[eight / 2 * 2 + j / 2] >> (j % 2 * 8 + eight % 2 * 4);
                row[eight * 4] = pack_f16(scale * (float(word & 15) - zero), scale * (float(word >> 16 & 15) - zero));
            }
        }
    }
}

// Weights from floats x [n][k], to nearest: of each group and 0 the range becomes 0..15, its scale is rounded to f16
// before levels and zero point are made with it. Bound by: bytes, 4.5 a weight. A warp has a group of the 32 rows of a
// strip; four lanes share a row, so that each load of the warp is of whole sectors, and each has the levels of its own
// words. Launch: any grid of 256; k a multiple of 128.
KERNEL(256, gemm_w4_encode, const float* x, Bytes16* w, f16* scales, uint8_t* zeros, int n, int k) {
    const int lane = lane_id(), groups = k / GROUP, strips = (n + 31) / 32;
    const int64_t step = int64_t(gridDim.x) * blockDim.x / WARP, count = int64_t(strips) * groups;
    for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP; i < count; i += step) {
        const int strip = int(i / groups), group = int(i % groups);
        Bytes16 words[GROUP / 32] = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int row = strip * 32 + j * 8 + lane / 4;
            const float* const from = x + int64_t(min(row, n - 1)) * k + group * GROUP + lane % 4 * 2;
            float elements[GROUP / 4], low = 0.0f, high = 0.0f;
#pragma unroll
            for (int e = 0; e < GROUP / 4; e += 2) {
                const Bytes8 pair = *reinterpret_cast<const Bytes8*>(from + 4 * e);
#pragma unroll
                for (int p = 0; p < 2; ++p) {
                    elements[e + p] = row < n ? __uint_as_float(pair.words[p]) : 0.0f;
                    low = fminf(low, elements[e + p]), high = fmaxf(high, elements[e + p]);
                }
            }
#pragma unroll
            for (int mask = 1; mask < 4; mask *= 2) {
                low = fminf(low, __shfl_xor_sync(ALL_LANES, low, mask));
                high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, mask));
            }
            // No more than the largest half.
            const f16 scale = to_f16(fminf(__fdiv_rn(__fsub_rn(high, low), 15.0f), 65504.0f));
            const float inverse = scale.bits == 0 ? 0.0f : __fdiv_rn(1.0f, to_float(scale));
            const int zero = __float2int_rn(fminf(__fmul_rn(-low, inverse), 15.0f));
#pragma unroll
            for (int e = 0; e < GROUP / 4; ++e) {
                const float level = fminf(fmaxf(__fmul_rn(elements[e], inverse), float(-zero)), float(15 - zero));
                const int nibble = j % 2 * 2 + e / 2 % 2 + e % 2 * 4;
                words[e / 8].words[e / 4 % 2 * 2 + j / 2] |= uint32_t(__float2int_rn(level) + zero) << 4 * nibble;
            }
            if (lane % 4 == j) {
                const int64_t at = int64_t(group) * strips * 32 + row;
                scales[at] = scale;
                zeros[at] = uint8_t(zero);
            }
        }
#pragma unroll
        for (int block = 0; block < GROUP / 32; ++block) w[(i * (GROUP / 32) + block) * WARP + lane] = words[block];
    }
}
