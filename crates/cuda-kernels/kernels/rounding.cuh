// Numbers to bytes with a scale for each 32, by groups of lanes. Activations so rounded are what products with blocks
// take: int8_t q[rows][K], K a multiple of 32, and beside it ActivationScale scales[rows][K / 32], x = scale * q.
//
// Every product is rounded before it is added to something (__fmul_rn), as on processors without fused
// multiply-add: a level at a tie depends on it.
#pragma once
#include "common.cuh"

struct alignas(8) ActivationScale {
    float scale;
    float sum;  // scale times the sum of the 32 bytes
};

// ---- Rounding, as `blocks::round` does it ------------------------------------------------------

// Towards zero, but what is beyond 2^22 or not a number becomes the lowest integer.
DEVICE int truncate(float x) { return fabsf(x) <= 4194304.0f ? int(x) : int(0x80000000u); }

// To nearest, ties away from zero; added is the largest number below a half.
DEVICE int round_away(float x) { return truncate(__fadd_rn(x, copysignf(0.49999997f, x))); }

DEVICE float reciprocal(float x) { return x == 0.0f ? 0.0f : __fdiv_rn(1.0f, x); }

// ---- Groups of WIDTH lanes that share a block of 32, each with PER elements -----------------------

template <int WIDTH> DEVICE float group_max(float x) {
#pragma unroll
    for (int mask = WIDTH / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, mask));
    return x;
}
template <int WIDTH> DEVICE int group_min(int x) {
#pragma unroll
    for (int mask = WIDTH / 2; mask > 0; mask /= 2) x = min(x, __shfl_xor_sync(ALL_LANES, x, mask));
    return x;
}
template <int WIDTH> DEVICE int group_sum(int x) {
#pragma unroll
    for (int mask = WIDTH / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(ALL_LANES, x, mask);
    return x;
}

template <int WIDTH, int PER> DEVICE float largest_magnitude(const float (&x)[PER]) {
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; ++i) most = fmaxf(most, fabsf(x[i]));
    return group_max<WIDTH>(most);
}

DEVICE uint32_t join_bytes(const int (&q)[4]) {
    return (q[0] & 0xff) | (q[1] & 0xff) << 8 | (q[2] & 0xff) << 16 | uint32_t(q[3] & 0xff) << 24;
}

// Scale and bytes: the largest magnitude becomes 127.
DEVICE float to_bytes(const float (&x)[4], int (&q)[4]) {
    const float scale = __fdiv_rn(largest_magnitude<8>(x), 127.0f), inverse = reciprocal(scale);
#pragma unroll
    for (int i = 0; i < 4; ++i) q[i] = int8_t(round_away(__fmul_rn(x[i], inverse)));
    return scale;
}

// 32 elements by eight lanes, four each: their bytes, their scale, and that times the sum of the bytes. All lanes of a
// warp are here, also those whose group is not there.
DEVICE void store_rounded(const float (&x)[4], int8_t* out, ActivationScale* scales, int64_t group, bool there) {
    int q[4];
    const float scale = to_bytes(x, q), sum = float(group_sum<8>(q[0] + q[1] + q[2] + q[3]));
    const int lane = threadIdx.x % 8;
    if (there) reinterpret_cast<uint32_t*>(out)[group * 8 + lane] = join_bytes(q);
    if (there && lane == 0) scales[group] = {scale, __fmul_rn(scale, sum)};
}
