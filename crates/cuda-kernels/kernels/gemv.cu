// Products of 1 to 8 rows with a matrix of GGML's blocks, as they lie in a file; x rounded to int8 with a
// scale for each 32, integer products by dp4a, exact within a block or group. See gemv.cuh for what
// bounds them, how they are launched, and how an element is summed.
//
// What they compute, beside their bytes: at the copy bandwidth a multiprocessor of an H200 gets 18.6
// bytes a cycle, 33 weights of Q4_0, and has 128 lanes that do an instruction each. One row of x
// takes 1.2 (Q4_0, Q4_K) to 2.3 (IQ4_NL) instructions a weight, so that a third to two thirds of the lanes'
// cycles are used; each further row 0.35 more. From 5 rows on instructions are what bounds them: 64
// dp4a a cycle are the most there are, and 8 rows of Q4_0 at that pace want 66.
//
// For Q4_0 the way there: 1 a thread a row, 2 a warp a row, 3 what gemv.cuh says.
#include "gemv.cuh"

struct Int8Rows {
    const int8_t* q;       // [m, k]
    const Bytes8* scales;  // [m, k / 32]: a float, and that times the sum of the 32 q
};

DEVICE float scale_of(Bytes8 scale) { return __uint_as_float(scale.words[0]); }
DEVICE float sum_of(Bytes8 scale) { return __uint_as_float(scale.words[1]); }

DEVICE float half_at(const uint8_t* at) { return to_float(f16_of(*reinterpret_cast<const uint16_t*>(at))); }

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
       int m, int n, int k, int split) {
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
       int m, int n, int k, int split) {
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

// N words from an even address on.
template <int N> DEVICE void load_words(uint32_t (&words)[N], const uint8_t* base, int offset) {
    const uint32_t* const from = reinterpret_cast<const uint32_t*>(base + (offset & ~3));
    const uint32_t which = offset & 2 ? 0x5432 : 0x3210;
    uint32_t low = from[0];
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const uint32_t high = from[i + 1];
        words[i] = __byte_perm(low, high, which);
        low = high;
    }
}

// A scale of 2 bytes and N words after it, from an even address on; nothing beyond their last word is read.
template <int N> DEVICE float load_scaled(uint32_t (&words)[N], const uint8_t* base, int offset) {
    const uint32_t* const from = reinterpret_cast<const uint32_t*>(base + (offset & ~3));
    const uint32_t which = offset & 2 ? 0x7654 : 0x5432;
    uint32_t low = from[0];
    const float scale = to_float(f16_of(offset & 2 ? low >> 16 : low));
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const uint32_t high = from[i + 1];
        words[i] = __byte_perm(low, high, which);
        low = high;
    }
    return scale;
}

template <int N> DEVICE void load_x(uint32_t (&words)[N], const int8_t* from) {
    static_assert(N % 4 == 0, "16 bytes at once");
#pragma unroll
    for (int i = 0; i < N / 4; ++i) {
        const Bytes16 bytes = reinterpret_cast<const Bytes16*>(from)[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) words[4 * i + j] = bytes.words[j];
    }
}

template <int BYTES> struct Blocks32 {
    static constexpr int BLOCK = 32, BLOCK_BYTES = BYTES;
    static constexpr int SLAB = 32 * WARP, SLAB_BYTES = BYTES * WARP, SPAN = (SLAB_BYTES + 14 + 15) / 16 * 16;
    static constexpr int PARTS = 1, ROWS = 4;
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

template <int M> struct Q4_0 : Blocks32<18> {
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

// The values of eight codes: those of the low halves of the bytes, and those of the high halves.
DEVICE void iq4_values(uint32_t codes, uint32_t& low, uint32_t& high) {
    // -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113
    const uint32_t t0 = 0xbfad9881, t1 = 0xf6eaddcf, t2 = 0x26190d01, t3 = 0x71594535;
    // The lowest three bits choose of both halves of the table, the fourth between the halves.
    const uint32_t within = codes & 0x77777777, side = (codes >> 1 & 0x44444444) | 0x32103210;
    const uint32_t first = __byte_perm(__byte_perm(t0, t1, within), __byte_perm(t2, t3, within), side);
    const uint32_t second =
        __byte_perm(__byte_perm(t0, t1, within >> 16), __byte_perm(t2, t3, within >> 16), side >> 16);
    low = __byte_perm(first, second, 0x6420), high = __byte_perm(first, second, 0x7531);
}

template <int M> struct Iq4Nl : Q4_0<M> {
    using typename Q4_0<M>::Weights;
    using typename Q4_0<M>::X;
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

template <int M> struct Q8_0 : Blocks32<34> {
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

// ---- 3: types of blocks of 256, four lanes a block ------------------------------------------------

// SPARE: where blocks are no multiples of 16 bytes. Of more than two rows of x fewer rows of W, for want of
// registers, and more stages instead.
template <int BYTES, int M, int SPARE> struct Blocks256 {
    static constexpr int BLOCK = 256, BLOCK_BYTES = BYTES;
    static constexpr int SLAB = 8 * 256, SLAB_BYTES = 8 * BYTES, SPAN = (SLAB_BYTES + SPARE + 15) / 16 * 16;
    static constexpr int PARTS = 1, ROWS = M > 2 ? 2 : 4, STAGES = 8 / ROWS;
    using Activations = Int8Rows;
    // Elements 64 p of a block and the next 63, p = lane % 4: two groups of 32.
    struct X {
        uint32_t q[16];
        float scale[2], sum[2];
    };
    DEVICE int block() { return lane_id() / 4 * BYTES; }
    DEVICE int element(int) { return 64 * lane_id(); }
    DEVICE X take(const Int8Rows& x, int row, int at, int k) {
        X taken;
        load_x(taken.q, x.q + int64_t(row) * k + at);
        const Bytes16 scales = *reinterpret_cast<const Bytes16*>(x.scales + (int64_t(row) * k + at) / 32);
#pragma unroll
        for (int g = 0; g < 2; ++g)
            taken.scale[g] = __uint_as_float(scales.words[2 * g]), taken.sum[g] = __uint_as_float(scales.words[2 * g + 1]);
        return taken;
    }
};

template <int M, int BYTES> struct Q45K : Blocks256<BYTES, M, 0> {
    using Base = Blocks256<BYTES, M, 0>;
    using typename Base::X;
    struct Weights {
        uint32_t q[2][8];
        int scale[2];
        float min[2], d, dmin;
    };
    DEVICE Weights load(const uint8_t* ring, int, int) {
        constexpr bool FIVE = BYTES == 176;
        Weights w;
        const int pair = lane_id() % 4;
        const Bytes16* const block = reinterpret_cast<const Bytes16*>(ring + Base::block());
        const Bytes16 header = block[0];
        w.d = to_float(f16_of(header.words[0])), w.dmin = to_float(f16_of(header.words[0] >> 16));
        // Two bytes of scales and two of minima: 6 bits of the groups below 4, else 4 and 2.
        const int shift = pair % 2 * 16;
        const uint32_t a = header.words[1] >> shift, b = header.words[2] >> shift, c = header.words[3] >> shift;
        const bool late = pair >= 2;
        const uint32_t scales = late ? (c & 0x0f0f) | (a >> 2 & 0x3030) : a & 0x3f3f;
        const uint32_t mins = late ? (c >> 4 & 0x0f0f) | (b >> 2 & 0x3030) : b & 0x3f3f;
        w.scale[0] = scales & 0xff, w.scale[1] = scales >> 8;
        w.min[0] = float(int(mins & 0xff)), w.min[1] = float(int(mins >> 8));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const Bytes16 low = block[(FIVE ? 3 : 1) + 2 * pair + i];
            Bytes16 fifth{};
            if (FIVE) fifth = block[1 + i];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint32_t bits = fifth.words[j] >> (2 * pair);
                w.q[0][4 * i + j] = (low.words[j] & 0x0f0f0f0f) | (bits << 4 & 0x10101010);
                w.q[1][4 * i + j] = (low.words[j] >> 4 & 0x0f0f0f0f) | (bits << 3 & 0x10101010);
            }
        }
        return w;
    }
    DEVICE void multiply(const Weights& w, const X& x, float& sum) {
        int dots[2] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            dots[0] = dp4a(w.q[0][i], x.q[i], dots[0]);
            dots[1] = dp4a(w.q[1][i], x.q[8 + i], dots[1]);
        }
        const float first = x.scale[0] * float(w.scale[0] * dots[0]);
        const float min = w.min[0] * x.sum[0];
        sum = fmaf(w.d, fmaf(x.scale[1], float(w.scale[1] * dots[1]), first), sum);
        sum = fmaf(-w.dmin, fmaf(w.min[1], x.sum[1], min), sum);
    }
};
template <int M> struct Q4K : Q45K<M, 144> {};
template <int M> struct Q5K : Q45K<M, 176> {};

template <int M> struct Iq4Xs : Blocks256<136, M, 8> {
    using Base = Blocks256<136, M, 8>;
    using typename Base::X;
    struct Weights {
        uint32_t q[2][8];
        int scale[2];
        float d;
    };
    DEVICE Weights load(const uint8_t* ring, int offset, int) {
        Weights w;
        const int pair = lane_id() % 4;
        const Bytes8* const block = reinterpret_cast<const Bytes8*>(ring + offset + Base::block());
        const Bytes8 header = block[0];
        w.d = to_float(f16_of(header.words[0]));
        const uint32_t low = header.words[1] >> (8 * pair), high = header.words[0] >> (16 + 4 * pair);
        w.scale[0] = int((low & 15) | (high & 3) << 4) - 32;
        w.scale[1] = int((low >> 4 & 15) | (high >> 2 & 3) << 4) - 32;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Bytes8 codes = block[1 + 4 * pair + i];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int word = i % 2 * 2 + j;
                iq4_values(codes.words[j], w.q[i / 2][word], w.q[i / 2][4 + word]);
            }
        }
        return w;
    }
    DEVICE void multiply(const Weights& w, const X& x, float& sum) {
        int dots[2] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            dots[0] = dp4a(w.q[0][i], x.q[i], dots[0]);
            dots[1] = dp4a(w.q[1][i], x.q[8 + i], dots[1]);
        }
        const float first = x.scale[0] * float(w.scale[0] * dots[0]);
        sum = fmaf(w.d, fmaf(x.scale[1], float(w.scale[1] * dots[1]), first), sum);
    }
};

// Lane 2 h + s of a block has 16 elements of each quarter of half h: 128 h + 32 quarter + 16 s.
template <int M> struct Q6K : Blocks256<210, M, 14> {
    static constexpr int ROWS = 2, STAGES = 3;
    struct Weights {
        uint32_t q[4][4];
        int scale[4];
        float d;
    };
    struct X {
        uint32_t q[4][4];
        int start[4];  // -32 times the sum of q
        float scale[4];
    };
    DEVICE int first() { return 128 * (lane_id() / 2 % 2) + 16 * (lane_id() % 2); }
    DEVICE Weights load(const uint8_t* ring, int offset, int) {
        Weights w;
        const int at = offset + lane_id() / 4 * 210, half = lane_id() / 2 % 2, side = lane_id() % 2;
        uint32_t low[2][4], high[4];
        load_words(low[0], ring, at + 64 * half + 16 * side);
        load_words(low[1], ring, at + 64 * half + 32 + 16 * side);
        load_words(high, ring, at + 128 + 32 * half + 16 * side);
#pragma unroll
        for (int quarter = 0; quarter < 4; ++quarter) {
            w.scale[quarter] = int8_t(ring[at + 192 + 8 * half + 2 * quarter + side]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t four = low[quarter % 2][i] >> (quarter / 2 * 4) & 0x0f0f0f0f;
                const uint32_t two = quarter < 2 ? high[i] << (4 - 2 * quarter) : high[i] >> (2 * quarter - 4);
                w.q[quarter][i] = four | (two & 0x30303030);
            }
        }
        w.d = half_at(ring + at + 208);
        return w;
    }
    DEVICE int element(int) { return 256 * (lane_id() / 4) + first(); }
    DEVICE X take(const Int8Rows& x, int row, int at, int k) {
        X taken;
        const int8_t* const from = x.q + int64_t(row) * k + at;
        // The scales of the four quarters follow each other.
        const Bytes16* const scales = reinterpret_cast<const Bytes16*>(x.scales + (int64_t(row) * k + at) / 128 * 4);
#pragma unroll
        for (int quarter = 0; quarter < 4; ++quarter) {
            load_x(taken.q[quarter], from + 32 * quarter);
            int sum = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) sum = dp4a(taken.q[quarter][i], 0x01010101, sum);
            taken.start[quarter] = -32 * sum;
            taken.scale[quarter] = __uint_as_float(scales[quarter / 2].words[quarter % 2 * 2]);
        }
        return taken;
    }
    DEVICE void multiply(const Weights& w, const X& x, float& sum) {
        float all = 0.0f;
#pragma unroll
        for (int quarter = 0; quarter < 4; ++quarter) {
            int dot = x.start[quarter];
#pragma unroll
            for (int i = 0; i < 4; ++i) dot = dp4a(w.q[quarter][i], x.q[quarter][i], dot);
            all = fmaf(x.scale[quarter], float(w.scale[quarter] * dot), all);
        }
        sum = fmaf(w.d, all, sum);
    }
};

// For up to M rows of x: a kernel does the work of M, so that there is one for each power of two.
#define GEMV_INT8(T, name, M)                                                                                           \
    KERNEL(WARP* GEMV_WARPS, name##_m##M, const uint8_t* w, const int8_t* q, const Bytes8* scales, const float* bias,       \
           float* y, int m, int n, int k, int split) {                                                                      \
        GEMV_SHARED(T<M>);                                                                                                  \
        gemv<T<M>, M>(rings, parts, w, {q, scales}, bias, y, {m, n, k, split}, int64_t(k) / T<M>::BLOCK * T<M>::BLOCK_BYTES); \
    }
#define GEMV_INT8_ALL(T, name) GEMV_INT8(T, name, 1) GEMV_INT8(T, name, 2) GEMV_INT8(T, name, 4) GEMV_INT8(T, name, 8)

GEMV_INT8_ALL(Q4_0, gemv_q4_0)
GEMV_INT8_ALL(Q8_0, gemv_q8_0)
GEMV_INT8_ALL(Q4K, gemv_q4_k)
GEMV_INT8_ALL(Q5K, gemv_q5_k)
GEMV_INT8_ALL(Q6K, gemv_q6_k)
GEMV_INT8_ALL(Iq4Nl, gemv_iq4_nl)
GEMV_INT8_ALL(Iq4Xs, gemv_iq4_xs)
