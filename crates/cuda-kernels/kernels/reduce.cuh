// What kernels over rows share: floats that move together, reductions of any kind, numbers as keys
// whose order is that of integers.
#pragma once
#include "common.cuh"

// `N` floats that move at once; a pointer to them is aligned as they are wide.
template <int N> struct alignas(4 * N) Floats { float at[N]; };

template <int N> DEVICE Floats<N> load(const float* from) { return *reinterpret_cast<const Floats<N>*>(from); }
template <int N> DEVICE void store(float* to, const Floats<N>& x) { *reinterpret_cast<Floats<N>*>(to) = x; }

// x and y of every element, combined.
template <int N, class F> DEVICE Floats<N> combined(const Floats<N>& x, const Floats<N>& y, F f) {
    Floats<N> z;
#pragma unroll
    for (int i = 0; i < N; ++i) z.at[i] = f(x.at[i], y.at[i]);
    return z;
}

// What `f` makes of the values of a warp, in every lane; always in the same order.
template <class T, class F> DEVICE T warp_reduce(T x, F f) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) x = f(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

// The same over a block of whole warps, in every thread. `scratch` is shared, of 32 elements, and free for
// the next use at once.
template <class T, class F> DEVICE T block_reduce(T x, T identity, T* scratch, F f) {
    x = warp_reduce(x, f);
    __syncthreads();
    if (lane_id() == 0) scratch[warp_id()] = x;
    __syncthreads();
    return warp_reduce(lane_id() < int(blockDim.x / WARP) ? scratch[lane_id()] : identity, f);
}

struct Larger {
    template <class T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};
struct Plus {
    template <class T> __device__ T operator()(T a, T b) const { return a + b; }
};

// An integer whose order is IEEE 754's totalOrder of the number: -inf, ..., -0, 0, ..., inf, NaN.
DEVICE uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEVICE float from_ordered(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// A number and where it is, as an integer whose order is by number, and of equals the lowest place largest.
DEVICE uint64_t ranked(uint32_t key, int place) { return uint64_t(key) << 32 | ~uint32_t(place); }
DEVICE int place_of(uint64_t rank) { return int(~uint32_t(rank)); }
DEVICE uint32_t key_of(uint64_t rank) { return uint32_t(rank >> 32); }

DEVICE int lowest_bit(uint32_t word) { return __popc((word & (0u - word)) - 1u); }

// ---- Softmax -----------------------------------------------------------------------------------

// A maximum and the sum of exp(x - max) beside it (Milakov and Gimelshein 2018): one pass instead of two.
struct Online {
    float max, sum;
};

// Where nothing but -inf was seen the reference is 0, so that exp(x - reference) is 0, not NaN.
DEVICE float reference(float max) { return max == MINUS_INFINITY ? 0.0f : max; }

// The sum for another maximum. Of nothing but -inf it is 0, whatever the maximum.
DEVICE float moved(Online x, float max) { return x.max == MINUS_INFINITY ? x.sum : x.sum * expf(x.max - max); }

// The maximum is of what are numbers: a NaN shows in the sum.
DEVICE Online joined(Online a, Online b) {
    const float max = fmaxf(a.max, b.max);
    return {max, moved(a, max) + moved(b, max)};
}


// Maximum and sum of a row, by a block, in every thread. The first `4 * quads` elements move four at once.
DEVICE Online online_of_row(const float* row, int cols, int quads, float* scratch) {
    Online mine = {MINUS_INFINITY, 0.0f};
#pragma unroll 2
    for (int i = threadIdx.x; i < quads; i += blockDim.x) {
        const Floats<4> v = load<4>(row + 4 * i);
        const float max = fmaxf(fmaxf(v.at[0], v.at[1]), fmaxf(v.at[2], v.at[3])), to = reference(max);
        const float sum = expf(v.at[0] - to) + expf(v.at[1] - to) + expf(v.at[2] - to) + expf(v.at[3] - to);
        mine = joined(mine, {max, sum});
    }
    for (int i = 4 * quads + threadIdx.x; i < cols; i += blockDim.x)
        mine = joined(mine, {row[i], expf(row[i] - reference(row[i]))});
    const float max = block_max(mine.max, scratch);
    return {max, block_sum(moved(mine, max), scratch)};
}
