// Normalisation of rows, each over `width` elements (a row of activations, or a head):
//   RMSNorm (Zhang and Sennrich 2019, eq. 4)   out = x / sqrt(mean(x^2) + eps) * (offset + w)
//   LayerNorm (Ba et al. 2016)                 out = (x - mean) / sqrt(var + eps) * w + b
// and the same of x + y, which is written to x: the residual of a layer.
//
// Bound by: bytes. Floor: x read and out written, 8 bytes an element, over the copy bandwidth; with y and the
// sum 16 bytes. Done one after the other, sum and norm would take 20.
//
// The first two also write the norm as products with blocks take it (rounding.cuh), if they are given where to: a
// quarter more is written, and a launch and its reading saved.
//
// Three ways to keep a row: in the registers of a warp (heads), in those of a block (rows of activations),
// or, for other widths, in memory, from where it is read again for each pass. `out` may be x.
#include "reduce.cuh"
#include "rounding.cuh"

enum Kind { RMS, LAYER };

// How a row's elements become its norm.
struct Scaling {
    float mean, scale;
    const float* weight;
    const float* bias;
    float offset;
    int8_t* bytes;  // null, or the norm as bytes; width a multiple of 32 then
    ActivationScale* scales;
};

template <Kind KIND> DEVICE float normalised(float x, float w, float b, const Scaling& s) {
    if (KIND == RMS) return x * s.scale * (s.offset + w);
    return (x - s.mean) * s.scale * w + b;
}

template <bool BLOCK> DEVICE float row_sum(float x, float* scratch) {
    return BLOCK ? block_sum(x, scratch) : warp_sum(x);
}

// A row in registers, PER times four elements a thread. Width a multiple of 4, pointers aligned to 16.
// Loads do not wait for each other; x, y and the weights are all under way before the sums.
template <Kind KIND, bool ADD, bool BLOCK, int PER>
DEVICE void norm_in_registers(float* x, const float* y, float* out, int64_t rows, int width, float eps, Scaling s,
                              float* scratch) {
    const int threads = BLOCK ? blockDim.x : WARP, me = BLOCK ? threadIdx.x : lane_id();
    const int64_t row = BLOCK ? int64_t(blockIdx.x) : int64_t(blockIdx.x) * (blockDim.x / WARP) + warp_id();
    const int quads = row < rows ? width / 4 : 0;
    const int64_t begin = row * width;
    Floats<4> v[PER];
#pragma unroll
    for (int j = 0; j < PER; ++j) {
        const int i = me + j * threads;
        v[j] = i < quads ? load<4>(x + begin + 4 * i) : Floats<4>{};
    }
    if (ADD) {
        Floats<4> added[PER];
#pragma unroll
        for (int j = 0; j < PER; ++j) {
            const int i = me + j * threads;
            added[j] = i < quads ? load<4>(y + begin + 4 * i) : Floats<4>{};
        }
#pragma unroll
        for (int j = 0; j < PER; ++j) {
            const int i = me + j * threads;
            v[j] = combined(v[j], added[j], Plus());
            if (i < quads) store<4>(x + begin + 4 * i, v[j]);
        }
    }
    float sum = 0.0f;
    if (KIND == LAYER) {
#pragma unroll
        for (int j = 0; j < PER; ++j)
            for (int e = 0; e < 4; ++e) sum += v[j].at[e];
        s.mean = row_sum<BLOCK>(sum, scratch) / float(width);
        sum = 0.0f;
    }
#pragma unroll
    for (int j = 0; j < PER; ++j)
        for (int e = 0; e < 4; ++e) {
            const float difference = me + j * threads < quads ? v[j].at[e] - (KIND == LAYER ? s.mean : 0.0f) : 0.0f;
            sum += difference * difference;
        }
    s.scale = 1.0f / sqrtf(row_sum<BLOCK>(sum, scratch) / float(width) + eps);
#pragma unroll
    for (int j = 0; j < PER; ++j) {
        const int i = me + j * threads;
        Floats<4> z{};
        if (i < quads) {
            const Floats<4> w = load<4>(s.weight + 4 * i);
            const Floats<4> b = KIND == LAYER && s.bias ? load<4>(s.bias + 4 * i) : Floats<4>{};
#pragma unroll
            for (int e = 0; e < 4; ++e) z.at[e] = normalised<KIND>(v[j].at[e], w.at[e], b.at[e], s);
            store<4>(out + begin + 4 * i, z);
        }
        if (s.bytes) store_rounded(z.at, s.bytes, s.scales, (begin / 4 + i) / 8, i < quads);
    }
}

// A row of any width, element by element; a thread reads again only what it wrote itself.
template <Kind KIND, bool ADD>
DEVICE void norm_in_passes(float* x, const float* y, float* out, int width, float eps, Scaling s, float* scratch) {
    const int64_t begin = int64_t(blockIdx.x) * width;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float v = x[begin + i];
        if (ADD) {
            v += y[begin + i];
            x[begin + i] = v;
        }
        sum += KIND == LAYER ? v : v * v;
    }
    sum = block_sum(sum, scratch);
    if (KIND == LAYER) {
        s.mean = sum / float(width);
        sum = 0.0f;
        for (int i = threadIdx.x; i < width; i += blockDim.x) {
            const float difference = x[begin + i] - s.mean;
            sum += difference * difference;
        }
        sum = block_sum(sum, scratch);
    }
    s.scale = 1.0f / sqrtf(sum / float(width) + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        out[begin + i] = normalised<KIND>(x[begin + i], s.weight[i], KIND == LAYER && s.bias ? s.bias[i] : 0.0f, s);
}

#define PARAMETERS                                                                                                    \
    float *x, const float *y, const float *weight, const float *bias, float *out, int64_t rows, int width, float eps, \
        float offset, int8_t *bytes, ActivationScale *scales
#define SCALING Scaling{0.0f, 0.0f, weight, bias, offset, bytes, scales}

// Launch: `_warp` a warp a row of up to 256 elements; `_block` a block a row of up to 16 elements a thread;
// `_any` a block a row.
#define NORM(name, KIND, ADD)                                                                        \
    KERNEL(256, name##_warp, PARAMETERS) {                                                           \
        norm_in_registers<KIND, ADD, false, 2>(x, y, out, rows, width, eps, SCALING, nullptr);       \
    }                                                                                                \
    KERNEL(1024, name##_block, PARAMETERS) {                                                         \
        SHARED(float, scratch, 32);                                                                  \
        norm_in_registers<KIND, ADD, true, 4>(x, y, out, rows, width, eps, SCALING, scratch);        \
    }                                                                                                \
    KERNEL(1024, name##_any, PARAMETERS) {                                                           \
        SHARED(float, scratch, 32);                                                                  \
        norm_in_passes<KIND, ADD>(x, y, out, width, eps, SCALING, scratch);                          \
    }

NORM(rms_norm, RMS, false)
NORM(add_rms_norm, RMS, true)
NORM(layer_norm, LAYER, false)
NORM(add_layer_norm, LAYER, true)
