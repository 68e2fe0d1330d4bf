// Products of 1 to 8 rows with a matrix of blocks of 256 as they lie in a file: Q4_K, Q5_K, Q6_K, IQ4_XS. See
// gemv.cuh for what bounds them, how they are launched, and how an element is summed; gemv_int8.cuh for what they compute.
#include "gemv_int8.cuh"

// Four lanes have a block. SPARE: the most bytes between a multiple of 16 and a slab that begins after it. With more
// than two rows of x fewer rows of W, for want of registers, and more stages instead.
template <int BYTES, int M, int SPARE> struct Blocks256 {
    static constexpr int BLOCK = 256, BLOCK_BYTES = BYTES;
    static constexpr int SLAB = 8 * 256, SLAB_BYTES = 8 * BYTES, SPAN = (SLAB_BYTES + SPARE + 15) / 16 * 16;
    static constexpr int PARTS = 1, ROWS = M > 2 ? 2 : 4, STAGES = 8 / ROWS, BLOCKS = M == 2 || M == 4 ? 3 : 4;
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
    static constexpr int ROWS = 2, STAGES = 3, BLOCKS = M == 1 ? 4 : 3;
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

GEMV_INT8_ALL(Q4K, gemv_q4_k)
GEMV_INT8_ALL(Q5K, gemv_q5_k)
GEMV_INT8_ALL(Q6K, gemv_q6_k)
GEMV_INT8_ALL(Iq4Xs, gemv_iq4_xs)
