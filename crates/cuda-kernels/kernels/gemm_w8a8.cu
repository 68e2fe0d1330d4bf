// y = x W^T + bias with INT8 on both sides (W8A8; Dettmers et al. 2022, sec. 2): W has a scale a channel (a row of
// W), x is rounded here with a scale a row. The sums are of integers and exact, so that a row of y is the same
// whatever the other rows and the tiles are.
//
// Bound by: operations for many rows, the bytes of W for few. Floor: 2 m n k operations over the INT8 rate, twice
// that of f16, and n k bytes over the copy bandwidth.
#include "gemm.cuh"

// A row of x to q = round(x / scale), scale = max |x| / 127, in rows of `padded` bytes, a multiple of 16, with zeros
// behind the k that there are. Bound by: bytes, 9 an element; the second reading is from the caches.
// Launch: a block of 256 a row.
KERNEL(256, gemm_quantize_rows, const float* x, int8_t* out, float* scales, int k, int padded) {
    SHARED(float, scratch, WARP);
    const float* row = x + int64_t(blockIdx.x) * k;
    float most = 0.0f;
    for (int i = threadIdx.x; i < k; i += int(blockDim.x)) most = fmaxf(most, fabsf(row[i]));
    most = block_max(most, scratch);
    const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    uint32_t* words = reinterpret_cast<uint32_t*>(out + int64_t(blockIdx.x) * padded);
    for (int i = threadIdx.x; i < padded / 4; i += int(blockDim.x)) {
        uint32_t word = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int q = i * 4 + e < k ? __float2int_rn(row[i * 4 + e] * inverse) : 0;
            word |= uint32_t(uint8_t(min(max(q, -127), 127))) << 8 * e;
        }
        words[i] = word;
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = most / 127.0f;
}

// The kernels of gemm.cu, with mma of signed bytes. k is a multiple of 16 here, below 2^17, so that a sum of products
// up to 2^14 does not overflow. Launch: (m / BM, n / BN) of WM * WN warps.
#define TENSOR(name, BM, BN, WM, WN, STAGES)                                                                              \
    KERNEL(WM * WN * WARP, name, const uint8_t* x, const uint8_t* w, const float* x_scales, const float* w_scales,        \
           const float* bias, float* y, int64_t stride, int m, int n, int k) {                                            \
        DYNAMIC_SHARED(uint8_t, shared);                                                                                  \
        const Output out = {y, stride, m, n, bias, x_scales, w_scales};                                                   \
        tile_product<S8, BM, BN, WM, WN, STAGES>(shared, x, w, k, out);                                                   \
    }
TENSOR(gemm_w8a8, 128, 128, 2, 4, 3)
TENSOR(gemm_w8a8_few_rows, 32, 64, 2, 2, 4)
