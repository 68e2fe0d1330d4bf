// Products of 1 to 8 rows with a matrix of blocks of 32 as they lie in a file: Q4_0, Q8_0, IQ4_NL. See gemv.cuh
// for what bounds them, how they are launched, and how an element is summed; gemv_int8.cuh for what they compute.
//
// For Q4_0 the way there: 1 a thread a row, 2 a warp a row, 3 what gemv.cuh says.
#include "gemv_int8.cuh"

// ---- 1 and 2: Q4_0 -----------------------------------------------------------------------------

// The products of one block with the 32 of x that it meets.
DEVICE float q4_0_block(const uint8_t* block, const int8_t* q, Bytes8 scale) {
    int dot = 0;
    for (int i = 0; i < 4; ++i) {
        const uint16_t* const halves = reinterpret_cast<const uint16_t*>(block + 2) + 2 * i;
        const uint32_t word = halves[0] | uint32_t(halves[1]) << 16;
        dot = dp4a(word & 0x0f0f0f0f, reinterpret_cast<const int*>(q)[i], dot);
        dot = dp4a(word >> 4 & 0x0f0f0f0f, reinterpret_cast<const int*>(q)[i + 4], dot);
    }
    return half_at(block) * fmaf(scale_of(scale), float(dot), -8.0f * sum_of(scale));
}

// 1: a thread has a row. Lanes read far from each other, so that each load of 2 bytes takes a sector of 32,
// and hopes to find the rest of it in the cache. Launch: a thread for each element of y.
KERNEL(128, gemv_q4_0_thread, const uint8_t* w, const int8_t* q, const Bytes8* scales, const float* bias, float* y,
       int m, int n, int k) {
    const int64_t element = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (element >= int64_t(m) * n) return;
    const int row = int(element % n), blocks = k / 32;
    const int64_t x = element / n * blocks;
    float sum = 0.0f;
    for (int b = 0; b < blocks; ++b)
        sum += q4_0_block(w + (int64_t(row) * blocks + b) * 18, q + (x + b) * 32, scales[x + b]);
    y[element] = bias ? sum + bias[row] : sum;
}

// 2: a warp has a row, a lane every 32nd block, so that the warp reads 576 bytes in a piece; but by 2
// bytes a load, and none before the last is used. Launch: a warp for each element of y.
KERNEL(128, gemv_q4_0_warp, const uint8_t* w, const int8_t* q, const Bytes8* scales, const float* bias, float* y,
       int m, int n, int k) {
    const int64_t element = int64_t(blockIdx.x) * GEMV_WARPS + warp_id();
    const int row = int(element % n), blocks = k / 32;
    const int64_t x = element / n * blocks;
    float sum = 0.0f;
    if (element < int64_t(m) * n)
        for (int b = lane_id(); b < blocks; b += WARP)
            sum += q4_0_block(w + (int64_t(row) * blocks + b) * 18, q + (x + b) * 32, scales[x + b]);
    sum = warp_sum(sum);
    if (element < int64_t(m) * n && lane_id() == 0) y[element] = bias ? sum + bias[row] : sum;
}

// ---- 3: types of blocks of 32, one a lane --------------------------------------------------------

template <int BYTES, int M> struct Blocks32 {
    static constexpr int BLOCK = 32, BLOCK_BYTES = BYTES;
    static constexpr int SLAB = 32 * WARP, SLAB_BYTES = BYTES * WARP, SPAN = (SLAB_BYTES + 14 + 15) / 16 * 16;
    static constexpr int PARTS = 1, ROWS = 4, BLOCKS = M == 1 ? 4 : 3;
    using Activations = Int8Rows;
    struct X {
        uint32_t q[8];
        float scale, sum;
    };
    DEVICE int element(int) { return 32 * lane_id(); }
    DEVICE X take(const Int8Rows& x, int row, int at, int k) {
        X taken;
        load_x(taken.q, x.q + int64_t(row) * k + at);
        const Bytes8 scale = x.scales[(int64_t(row) * k + at) / 32];
        taken.scale = scale_of(scale), taken.sum = sum_of(scale);
        return taken;
    }
};

template <int M> struct Q4_0 : Blocks32<18, M> {
    using typename Blocks32<18, M>::X;
    static constexpr int STAGES = 3;
    struct Weights {
        uint32_t low[4], high[4];
        float d;
    };
    DEVICE Weights load(const uint8_t* ring, int offset, int) {
        Weights w;
        uint32_t words[4];
        w.d = load_scaled(words, ring, offset + 18 * lane_id());
#pragma unroll
        for (int i = 0; i < 4; ++i) w.low[i] = words[i] & 0x0f0f0f0f, w.high[i] = words[i] >> 4 & 0x0f0f0f0f;
        return w;
    }
    DEVICE void multiply(const Weights& w, const X& x, float& sum) {
        int dot = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) dot = dp4a(w.high[i], x.q[i + 4], dp4a(w.low[i], x.q[i], dot));
        sum = fmaf(w.d, fmaf(x.scale, float(dot), -8.0f * x.sum), sum);
    }
};

template <int M> struct Iq4Nl : Q4_0<M> {
    using typename Q4_0<M>::Weights;
    using typename Q4_0<M>::X;
    static constexpr int STAGES = 4;
    DEVICE Weights load(const uint8_t* ring, int offset, int) {
        Weights w;
        uint32_t words[4];
        w.d = load_scaled(words, ring, offset + 18 * lane_id());
#pragma unroll
        for (int i = 0; i < 4; ++i) iq4_values(words[i], w.low[i], w.high[i]);
        return w;
    }
    DEVICE void multiply(const Weights& w, const X& x, float& sum) {
        int dot = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) dot = dp4a(w.high[i], x.q[i + 4], dp4a(w.low[i], x.q[i], dot));
        sum = fmaf(w.d * x.scale, float(dot), sum);
    }
};

template <int M> struct Q8_0 : Blocks32<34, M> {
    using typename Blocks32<34, M>::X;
    static constexpr int STAGES = 2;
    struct Weights {
        uint32_t q[8];
        float d;
    };
    DEVICE Weights load(const uint8_t* ring, int offset, int) {
        Weights w;
        w.d = load_scaled(w.q, ring, offset + 34 * lane_id());
        return w;
    }
    DEVICE void multiply(const Weights& w, const X& x, float& sum) {
        int dot = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) dot = dp4a(w.q[i], x.q[i], dot);
        sum = fmaf(w.d * x.scale, float(dot), sum);
    }
};

GEMV_INT8_ALL(Q4_0, gemv_q4_0)
GEMV_INT8_ALL(Q8_0, gemv_q8_0)
GEMV_INT8_ALL(Iq4Nl, gemv_iq4_nl)
