// What a device can do at most, by the instructions that the kernels here use.
#include "common.cuh"

// Products of bf16 with sums of f32, over and over from registers: eight that do not wait for each other.
// out: what each thread holds in the end, so that nothing is left out as unused.
//
// Bound by: operations, 4096 for each mma of a warp; it is what it measures. Floor: none below itself. Hopper's
// wgmma does about half as much again, which cuBLASLt uses. Launch: whole warps, a few blocks a multiprocessor.
KERNEL(256, mma_bf16_rate, float* out, int repetitions) {
    const uint32_t one = pack_bf16(1.0f, 1.0f);
    const uint32_t a[4] = {one, one, one, one}, b[2] = {one, one};
    float d[8][4];
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) d[i][j] = 0.0f;
    for (int r = 0; r < repetitions; ++r) {
#pragma unroll
        for (int i = 0; i < 8; ++i) mma_bf16(d[i], a, b);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum += d[i][j];
    out[int64_t(blockIdx.x) * blockDim.x + threadIdx.x] = sum;
}
