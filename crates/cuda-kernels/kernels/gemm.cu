// Matrix products y[m][n] = x[m][k] W[n][k]^T + bias of floats: f32 as they are, f16 and bf16 on tensor cores
// with sums in f32. Versions from simple to fast; every one sums an element over k in order, so that a row of y
// is the same whatever the other rows are.
//
// Bound by: operations for many rows, the bytes of W for few. Floor: 2 m n k operations over the rate of the
// tensor cores, and 2 n k bytes (4 of f32) over the copy bandwidth. mma.sync reaches about two thirds of the
// rate that wgmma has on Hopper.
#include "gemm.cuh"

// 0: x, f32, to the type of the weights, in rows of `padded` elements, a multiple of 8, with zeros behind the k that
// there are. Bound by: bytes, 6 an element. Launch: any grid of 256 threads; a thread makes 16 bytes at a time.
template <class PACK> DEVICE void round_rows(const float* x, Bytes16* out, int64_t rows, int k, int padded, PACK pack) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x, count = rows * (padded / 8);
    const bool wide = k % 8 == 0 && reinterpret_cast<uint64_t>(x) % 16 == 0;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        const int64_t row = i / (padded / 8);
        const int begin = int(i % (padded / 8)) * 8;
        const float* from = x + row * k + begin;
        float values[8];
        if (wide) {
            const Bytes16 low = reinterpret_cast<const Bytes16*>(from)[0], high = reinterpret_cast<const Bytes16*>(from)[1];
#pragma unroll
            for (int e = 0; e < 8; ++e) values[e] = __uint_as_float(e < 4 ? low.words[e] : high.words[e - 4]);
        } else {
#pragma unroll
            for (int e = 0; e < 8; ++e) values[e] = begin + e < k ? from[e] : 0.0f;
        }
        Bytes16 words;
#pragma unroll
        for (int e = 0; e < 4; ++e) words.words[e] = pack(values[2 * e], values[2 * e + 1]);
        out[i] = words;
    }
}
KERNEL(256, gemm_round_f16, const float* x, Bytes16* out, int64_t rows, int k, int padded) {
    round_rows(x, out, rows, k, padded, [](float low, float high) { return pack_f16(low, high); });
}
KERNEL(256, gemm_round_bf16, const float* x, Bytes16* out, int64_t rows, int k, int padded) {
    round_rows(x, out, rows, k, padded, [](float low, float high) { return pack_bf16(low, high); });
}

// Rows of `bytes` bytes into rows of `padded`, with zeros behind: for weights whose rows do not begin at multiples
// of 16 bytes, which is rare. Launch: any grid.
KERNEL(256, gemm_pad_rows, const uint8_t* from, uint8_t* to, int64_t rows, int bytes, int padded) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * padded; i += step) {
        const int64_t row = i / padded;
        const int at = int(i % padded);
        to[i] = at < bytes ? from[row * bytes + at] : 0;
    }
}

// 1: a thread makes one element. The lanes of a warp read W in strides of k, and each element of x and W is read
// from the caches n or m times. Launch: (n / 32, m / 8) of 256.
template <class T> DEVICE void naive_product(const float* x, const T* w, int k, const Output& out) {
    const int row = blockIdx.y * 8 + warp_id(), column = blockIdx.x * WARP + lane_id();
    if (row >= out.m || column >= out.n) return;
    float sum = 0.0f;
    for (int i = 0; i < k; ++i) sum += x[int64_t(row) * k + i] * to_float(w[int64_t(column) * k + i]);
    out.y[row * out.stride + column] = sum + (out.bias ? out.bias[column] : 0.0f);
}

// 2: tiles of 64 x 64 by 256 threads with 4 x 4 elements each in registers: shared memory gives an element to 64
// others, a register to 4, and reads of x and W are coalesced. As fast as f32 gets without tensor cores, but for
// the waiting. Any k and alignment. Launch: (m / 64, n / 64) of 256.
template <class T> DEVICE void tiled_product(const float* x, const T* w, int k, const Output& out) {
    constexpr int SIDE = 64, DEPTH = 16, PITCH = SIDE + 4;
    SHARED(float, x_tile, DEPTH * PITCH);
    SHARED(float, w_tile, DEPTH * PITCH);
    const int first_row = blockIdx.x * SIDE, first_column = blockIdx.y * SIDE;
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int begin = 0; begin < k; begin += DEPTH) {
#pragma unroll
        for (int i = 0; i < SIDE * DEPTH / 256; ++i) {
            const int which = i * 256 + int(threadIdx.x), r = which / DEPTH, depth = which % DEPTH, at = begin + depth;
            const int x_row = first_row + r, w_row = first_column + r;
            x_tile[depth * PITCH + r] = x_row < out.m && at < k ? x[int64_t(x_row) * k + at] : 0.0f;
            w_tile[depth * PITCH + r] = w_row < out.n && at < k ? to_float(w[int64_t(w_row) * k + at]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < DEPTH; ++depth) {
            const Bytes16 xs = *reinterpret_cast<const Bytes16*>(x_tile + depth * PITCH + row);
            const Bytes16 ws = *reinterpret_cast<const Bytes16*>(w_tile + depth * PITCH + column);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] += __uint_as_float(xs.words[i]) * __uint_as_float(ws.words[j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; j += 2)
            store_pair(out, first_row + row + i, first_column + column + j, sum[i][j], sum[i][j + 1]);
}

#define SIMPLE(name, body, T)                                                                                           \
    KERNEL(256, name, const float* x, const T* w, const float* bias, float* y, int64_t stride, int m, int n, int k) {   \
        const Output out = {y, stride, m, n, bias, nullptr, nullptr};                                                   \
        body<T>(x, w, k, out);                                                                                          \
    }
SIMPLE(gemm_naive_f32, naive_product, float)
SIMPLE(gemm_naive_f16, naive_product, f16)
SIMPLE(gemm_naive_bf16, naive_product, bf16)
SIMPLE(gemm_tiled_f32, tiled_product, float)
SIMPLE(gemm_tiled_f16, tiled_product, f16)
SIMPLE(gemm_tiled_bf16, tiled_product, bf16)

// 3: tensor cores: x rounded before (0), tiles through swizzled shared memory and ldmatrix, one stage: copies and
//    products take turns.
// 4: pipelined: three stages of tiles of 128 x 128, two under way while one is multiplied.
// 5: the same with tiles of 32 x 64 in four stages, for few rows, whose work would otherwise be of few blocks.
// Rows of x and W begin at multiples of 16 bytes; k is a multiple of 8. Launch: (m / BM, n / BN) of WM * WN warps:
// neighbouring blocks share W, which thus comes from memory once.
#define TENSOR(name, TYPE, BM, BN, WM, WN, STAGES)                                                                            \
    KERNEL(WM * WN * WARP, name, const uint8_t* x, const uint8_t* w, const float* bias, float* y, int64_t stride, int m, int n, \
           int k) {                                                                                                           \
        DYNAMIC_SHARED(uint8_t, shared);                                                                                      \
        const Output out = {y, stride, m, n, bias, nullptr, nullptr};                                                         \
        tile_product<TYPE, BM, BN, WM, WN, STAGES>(shared, x, w, 2 * k, out);                                                 \
    }
TENSOR(gemm_mma_f16, F16, 128, 128, 2, 4, 1)
TENSOR(gemm_mma_bf16, Bf16, 128, 128, 2, 4, 1)
TENSOR(gemm_pipelined_f16, F16, 128, 128, 2, 4, 3)
TENSOR(gemm_pipelined_bf16, Bf16, 128, 128, 2, 4, 3)
TENSOR(gemm_few_rows_f16, F16, 32, 64, 2, 2, 4)
TENSOR(gemm_few_rows_bf16, Bf16, 32, 64, 2, 2, 4)
