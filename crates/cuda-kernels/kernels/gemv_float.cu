// Products of 1 to 8 rows of f32 with a matrix of f32, f16 or bf16, in f32. See gemv.cuh for what bounds them,
// how they are launched, and how an element is summed.
//
// At the copy bandwidth a multiprocessor of an H200 gets 18.6 bytes a cycle, 9.3 halves. The compiler makes 4
// instructions for each with one row of x, 29 % of what the 128 lanes do meanwhile, and 12.6 with 8 rows, 92 %: bytes are
// the bound for all of them, if barely. x is 32 bytes a weight then, from the cache, for the 4 rows of W that share it.
#include "gemv.cuh"

struct FloatRows {
    const float* x;  // [m, k]
};

// Elements of 16 bytes as floats; of the types of 16 bits the lower one of a word is the first.
DEVICE void widen(const Bytes16& bytes, float (&x)[4], float) {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = __uint_as_float(bytes.words[i]);
}
DEVICE void widen(const Bytes16& bytes, float (&x)[8], f16) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = to_float(f16_of(bytes.words[i / 2] >> (i % 2 * 16)));
}
DEVICE void widen(const Bytes16& bytes, float (&x)[8], bf16) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
        x[i] = __uint_as_float(i % 2 ? bytes.words[i / 2] & 0xffff0000u : bytes.words[i / 2] << 16);
}

// A lane has 16 bytes of each half of a slab of 1 KB. Rows begin at multiples of 16 bytes.
template <class E, int M> struct Floats {
    static constexpr int PER = 16 / sizeof(E), PARTS = 2, SLAB = PARTS * WARP * PER, SLAB_BYTES = PARTS * WARP * 16;
    static constexpr int SPAN = SLAB_BYTES, ROWS = 4, STAGES = 2, BLOCKS = M == 1 ? 4 : 3;
    using Activations = FloatRows;
    struct Weights {
        float w[PER];
    };
    struct X {
        float x[PER];
    };
    DEVICE int element(int part) { return (part * WARP + lane_id()) * PER; }
    DEVICE Weights load(const uint8_t* ring, int, int part) {
        Weights weights;
        widen(reinterpret_cast<const Bytes16*>(ring)[part * WARP + lane_id()], weights.w, E{});
        return weights;
    }
    DEVICE X take(const FloatRows& x, int row, int at, int k) {
        X taken;
        const Bytes16* const from = reinterpret_cast<const Bytes16*>(x.x + int64_t(row) * k + at);
#pragma unroll
        for (int i = 0; i < PER / 4; ++i) {
            const Bytes16 four = from[i];
#pragma unroll
            for (int j = 0; j < 4; ++j) taken.x[4 * i + j] = __uint_as_float(four.words[j]);
        }
        return taken;
    }
    DEVICE void multiply(const Weights& weights, const X& x, float& sum) {
#pragma unroll
        for (int i = 0; i < PER; ++i) sum = fmaf(weights.w[i], x.x[i], sum);
    }
};

// For rows that are no multiples of 16 bytes: a warp has an element of y, a lane every 32nd of k. Launch: a
// warp for each element.
template <class E>
DEVICE void gemv_any(const E* w, const float* x, const float* bias, float* y, int m, int n, int k) {
    const int64_t element = int64_t(blockIdx.x) * GEMV_WARPS + warp_id();
    const bool there = element < int64_t(m) * n;
    const int64_t row = element % n, i = element / n;
    float sum = 0.0f;
    if (there)
        for (int at = lane_id(); at < k; at += WARP) sum = fmaf(to_float(w[row * k + at]), x[i * k + at], sum);
    sum = warp_sum(sum);
    if (there && lane_id() == 0) y[element] = bias ? sum + bias[row] : sum;
}

#define GEMV_FLOAT(E, M)                                                                                           \
    KERNEL(GEMV_THREADS((Floats<E, M>::BLOCKS)), gemv_##E##_m##M, GEMV_MATRICES, const float* x, int m, int k) {   \
        using T = Floats<E, M>;                                                                                    \
        GEMV_SHARED(T);                                                                                            \
        gemv<T, M>(rings, parts, GEMV_OWN(M), {x}, m, k, int64_t(k) * int64_t(sizeof(E)));                         \
    }
#define GEMV_FLOAT_ALL(E)                                                                                          \
    GEMV_FLOAT(E, 1) GEMV_FLOAT(E, 2) GEMV_FLOAT(E, 4) GEMV_FLOAT(E, 8)                                            \
    KERNEL(128, gemv_##E##_any, const E* w, const float* x, const float* bias, float* y, int m, int n, int k) {    \
        gemv_any(w, x, bias, y, m, n, k);                                                                          \
    }
GEMV_FLOAT_ALL(float)
GEMV_FLOAT_ALL(f16)
GEMV_FLOAT_ALL(bf16)
