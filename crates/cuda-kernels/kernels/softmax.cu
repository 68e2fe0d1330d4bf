// Softmax of rows, exp(x - max) / sum exp(x - max), and rows divided by their sum; in place.
//
// A row of nothing but -inf, or with NaN or +inf, becomes NaN, as in PyTorch.
//
// Bound by: bytes. Floor: 8 bytes an element over the copy bandwidth, reached where a row stays in registers.
#include "reduce.cuh"

// Rows of up to 1024 elements, a warp each, 32 elements a lane in registers. Launch: four rows a block.
KERNEL(128, softmax_warp, float* x, int rows, int cols) {
    constexpr int PER = 32;
    const int64_t row = int64_t(blockIdx.x) * (blockDim.x / WARP) + warp_id();
    float* at = x + row * cols;
    const int n = row < rows ? cols : 0;
    float v[PER], max = MINUS_INFINITY, sum = 0.0f;
#pragma unroll
    for (int j = 0; j < PER; ++j) {
        const int i = lane_id() + j * WARP;
        v[j] = i < n ? at[i] : MINUS_INFINITY;
    }
#pragma unroll
    for (int j = 0; j < PER; ++j) max = fmaxf(max, v[j]);
    max = reference(warp_max(max));
#pragma unroll
    for (int j = 0; j < PER; ++j) sum += v[j] = expf(v[j] - max);
    const float scale = 1.0f / warp_sum(sum);
#pragma unroll
    for (int j = 0; j < PER; ++j) {
        const int i = lane_id() + j * WARP;
        if (i < n) at[i] = v[j] * scale;
    }
}

// Longer rows, a block each: one pass for maximum and sum, one for the result, which finds a row of up to
// some MB in the L2 cache. The first `4 * quads` elements move four at once.
KERNEL(1024, softmax_block, float* x, int cols, int quads) {
    SHARED(float, scratch, 32);
    float* at = x + int64_t(blockIdx.x) * cols;
    const Online row = online_of_row(at, cols, quads, scratch);
    const float to = reference(row.max), scale = 1.0f / row.sum;
#pragma unroll 2
    for (int i = threadIdx.x; i < quads; i += blockDim.x) {
        Floats<4> v = load<4>(at + 4 * i);
#pragma unroll
        for (int e = 0; e < 4; ++e) v.at[e] = expf(v.at[e] - to) * scale;
        store<4>(at + 4 * i, v);
    }
    for (int i = 4 * quads + threadIdx.x; i < cols; i += blockDim.x) at[i] = expf(at[i] - to) * scale;
}

// Each row divided by its sum, a warp a row: the shares of the experts that a row was sent to. Launch: four
// rows a block.
KERNEL(128, normalise_rows, float* x, int rows, int cols) {
    const int64_t row = int64_t(blockIdx.x) * (blockDim.x / WARP) + warp_id();
    float* at = x + row * cols;
    const int n = row < rows ? cols : 0;
    float sum = 0.0f;
    for (int i = lane_id(); i < n; i += WARP) sum += at[i];
    sum = warp_sum(sum);
    for (int i = lane_id(); i < n; i += WARP) at[i] = at[i] / sum;
}
