// Operations on each element of f32 activations, in place: sums, products, activations, the gated product
// of feed-forward layers (Shazeer 2020).
//
// Bound by: bytes. Floor: 8 bytes an element over the copy bandwidth (x read and written), 12 with a second
// operand, and a quarter of 4 more where the result is also rounded, which saves a launch and its reading.
//
// Launch: a grid that walks on, four elements a thread and step. The first `4 * quads` elements move four at
// once and must be aligned to 16; the others one by one (all of them, where memory is not aligned).
#include "reduce.cuh"
#include "rounding.cuh"

struct Silu { DEVICE float of(float x) { return x / (1.0f + expf(-x)); } };
// x Phi(x) as x erfc(-x / sqrt 2) / 2, which does not cancel for negative x.
struct GeluErf { DEVICE float of(float x) { return x * 0.5f * erfcf(x * -0.70710678f); } };
// (1 + tanh u) / 2 = 1 / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3), for the same reason.
struct GeluTanh {
    DEVICE float of(float x) { return x / (1.0f + expf(-1.5957691f * x * (1.0f + 0.044715f * x * x))); }
};
struct GeluQuick { DEVICE float of(float x) { return x / (1.0f + expf(-1.702f * x)); } };
// What is not a number stays, as in all of them.
struct Relu { DEVICE float of(float x) { return x < 0.0f ? 0.0f : x; } };
struct ReluSquared { DEVICE float of(float x) { return Relu::of(x) * Relu::of(x); } };

// x[i] = f(x[i], y[i]); without a second operand f gets 0 for it.
template <bool TWO, class F> DEVICE void walk(float* x, const float* y, int64_t n, int64_t quads, F f) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (int64_t i = first; i < quads; i += step) {
        const Floats<4> b = TWO ? load<4>(y + 4 * i) : Floats<4>{};
        store<4>(x + 4 * i, combined(load<4>(x + 4 * i), b, f));
    }
    for (int64_t i = 4 * quads + first; i < n; i += step) x[i] = f(x[i], TWO ? y[i] : 0.0f);
}

// The same of a matrix's columns: out[row, i] = f(x[row, i], y[row, i]), rows of so many elements from each
// other. Launch: blocks over the columns, and over rows, on which they walk.
template <class F>
DEVICE void walk_rows(float* out, int64_t out_stride, const float* x, int64_t x_stride, const float* y, int64_t y_stride,
                      int rows, int cols, int quads, F f) {
    const int step = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        const float* a = x + row * x_stride;
        const float* b = y + row * y_stride;
        float* to = out + row * out_stride;
        for (int i = first; i < quads; i += step) store<4>(to + 4 * i, combined(load<4>(a + 4 * i), load<4>(b + 4 * i), f));
        for (int i = 4 * quads + first; i < cols; i += step) to[i] = f(a[i], b[i]);
    }
}

// x[i] = f(x[i], y[i]) in quads that make whole groups of 32, and the same rounded (see rounding.cuh). Warps go on
// together, for groups are of eight lanes.
template <class F>
DEVICE void walk_rounded(float* x, const float* y, int8_t* bytes, ActivationScale* scales, int64_t quads, F f) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (int64_t i = first; i - lane_id() < quads; i += step) {
        Floats<4> z{};
        if (i < quads) {
            z = combined(load<4>(x + 4 * i), load<4>(y + 4 * i), f);
            store<4>(x + 4 * i, z);
        }
        store_rounded(z.at, bytes, scales, i / 8, i < quads);
    }
}

KERNEL(256, add, float* x, const float* y, int64_t n, int64_t quads) { walk<true>(x, y, n, quads, Plus()); }

KERNEL(256, mul, float* x, const float* y, int64_t n, int64_t quads) {
    walk<true>(x, y, n, quads, [](float a, float b) { return a * b; });
}

KERNEL(256, scale, float* x, int64_t n, int64_t quads, float factor) {
    walk<false>(x, nullptr, n, quads, [=](float a, float) { return a * factor; });
}

// Gemma 2: cap * tanh(x / cap).
KERNEL(256, softcap, float* x, int64_t n, int64_t quads, float cap) {
    walk<false>(x, nullptr, n, quads, [=](float a, float) { return cap * tanhf(a / cap); });
}

// One row added to each: 8 bytes an element, the row stays in a cache.
KERNEL(256, add_row, float* x, const float* y, int rows, int cols, int quads) {
    walk_rows(x, cols, x, cols, y, 0, rows, cols, quads, Plus());
}

// An activation; its gated product, gate = f(gate) * up; and that rounded too.
#define ACTIVATION(name, F)                                                                                   \
    KERNEL(256, name, float* x, int64_t n, int64_t quads) {                                                   \
        walk<false>(x, nullptr, n, quads, [](float a, float) { return F::of(a); });                           \
    }                                                                                                         \
    KERNEL(256, name##_gated, float* gate, const float* up, int64_t n, int64_t quads) {                       \
        walk<true>(gate, up, n, quads, [](float a, float b) { return F::of(a) * b; });                        \
    }                                                                                                         \
    KERNEL(256, name##_gated_rounded, float* gate, const float* up, int8_t* bytes, ActivationScale* scales,   \
           int64_t quads) {                                                                                   \
        walk_rounded(gate, up, bytes, scales, quads, [](float a, float b) { return F::of(a) * b; });          \
    }

ACTIVATION(silu, Silu)
ACTIVATION(gelu_erf, GeluErf)
ACTIVATION(gelu_tanh, GeluTanh)
ACTIVATION(gelu_quick, GeluQuick)
ACTIVATION(relu, Relu)
ACTIVATION(relu_squared, ReluSquared)
