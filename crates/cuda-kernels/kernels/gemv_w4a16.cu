// y[m, n] = x[m, k] W[n, k]^T (+ bias) for m of 1 to 8 with weights of 4 bits, groups of 128 along k with an f16
// scale and a zero point each, w = scale * (q - zero), x rounded to f16, products by mma with sums in f32. The
// matrix is the one that gemm_w4a16.cu takes (`gemm::W4Matrix`):
//   w       [strips of 32 rows][k / 32][lane][4 words]: lane 4 g + t has, of row 8 j + g of the strip and 16 s + 2 t, + 1,
//           + 8 and + 9 of the 32 of k, nibbles i, i + 4, i + 1 and i + 5 of word 2 s + j / 2, where i = j % 2 * 2
//   scales  f16 [k / 128][32 * strips]
//   zeros   bytes of the same shape, or null: 8 everywhere
//
// Bound by: the bytes of W, n k / 2. Floor: those over the copy bandwidth. Why mma, when 1 row of 8 may be
// used: at that pace a multiprocessor of an H200 gets 35 weights a cycle, which leaves its 128 lanes 3.6
// instructions for each, and float products would take 3.2 (a nibble apart, to a half, to a float, product).
// Here it is 2.7, three quarters of what there is: 1.2 for halves, of which mma wants pairs, the rest for x, mma
// and copies; for any m the same.
// W is mma's left operand: what lies there for the right operand of gemm, two columns of 8, is as it is one of 16 rows.
//
// Launch: 256 threads, any grid; 3 blocks a multiprocessor are what the rings leave room for. A block
// has a strip, a warp every eighth group, so that a block reads 16 KB of W in a piece; then the sums of
// the warps meet in shared memory. Each warp has a ring of its own of 3 groups (6.4 KB), 2 under way: 100 KB a
// multiprocessor (see gemv.cuh for what it takes). The ring goes on over the ends of strips.
//
// The sum of an element: in a group as mma has it, the groups of a warp in order, the warps in order: whatever m is.
#include "common.cuh"

constexpr int W4_WARPS = 8, W4_STAGES = 3, W4_GROUP = 128, W4_ROWS = 32, W4_MOST_M = 8;
constexpr int W4_QUANTS = W4_ROWS * W4_GROUP / 2, W4_SLAB = W4_QUANTS + W4_ROWS * 2 + W4_ROWS;
constexpr int W4_RING = W4_STAGES * W4_SLAB, W4_MET = W4_MOST_M * W4_ROWS;  // bytes; floats

struct W4Matrix {
    const uint8_t *w, *scales, *zeros;
    int n, k;
};

// Asks for a group of a strip: the words as they lie, 32 scales, 32 zeros.
DEVICE void copy_group(uint8_t* to, const W4Matrix& matrix, int strip, int group) {
    const int64_t columns = int64_t(matrix.n + W4_ROWS - 1) / W4_ROWS * W4_ROWS;
    const uint8_t* const w = matrix.w + (int64_t(strip) * (matrix.k / W4_GROUP) + group) * W4_QUANTS;
    const int lane = lane_id();
#pragma unroll
    for (int i = 0; i < W4_QUANTS; i += 16 * WARP) cp_async_16(to + i + 16 * lane, w + i + 16 * lane);
    const int64_t first = group * columns + strip * W4_ROWS;
    if (lane < 4) cp_async_16(to + W4_QUANTS + 16 * lane, matrix.scales + first * 2 + 16 * lane);
    else if (lane < 6 && matrix.zeros)
        cp_async_16(to + W4_QUANTS + W4_ROWS * 2 + 16 * (lane - 4), matrix.zeros + first + 16 * (lane - 4));
}

// The group's x as mma's right operand: word 2 i is of 2 t of sixteen i, word 2 i + 1 of 2 t + 8. Of its 8 columns the
// first m count; the others are the last of them once more.
DEVICE void take_x(uint32_t (&b)[8][2], const float* x, int m, int k, int group) {
    const float* const from = x + int64_t(min(lane_id() / 4, m - 1)) * k + group * W4_GROUP + lane_id() % 4 * 2;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        const Bytes8 pair = *reinterpret_cast<const Bytes8*>(from + 8 * i);
        b[i / 2][i % 2] = pack_f16(__uint_as_float(pair.words[0]), __uint_as_float(pair.words[1]));
    }
}

// Adds a group's products: lane 4 g + t has in sums[i] row 16 i + g of the strip with rows 2 t and 2 t + 1 of x, then
// row 16 i + 8 + g with them.
DEVICE void multiply_group(float (&sums)[2][4], const uint32_t (&x)[8][2], const uint8_t* slab, bool zeros) {
    const int lane = lane_id();
    float products[2][4] = {};
    uint32_t low_zero[4], high_zero[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        // The halves 1024 + zero and -64 - zero, twice each; zero is below 64.
        const uint32_t zero = zeros ? slab[W4_QUANTS + W4_ROWS * 2 + 8 * j + lane / 4] : 8;
        low_zero[j] = (0x6400u + zero) * 0x10001u;
        high_zero[j] = (0xd400u + 16 * zero) * 0x10001u;
    }
#pragma unroll
    for (int sixteen = 0; sixteen < 8; ++sixteen) {
        const Bytes8 words = reinterpret_cast<const Bytes8*>(slab)[(sixteen / 2 * WARP + lane) * 2 + sixteen % 2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            // A nibble q under 0x6400 is the half 1024 + q, four bits higher 1024 + 16 q: less 1024 + zero,
            // or a sixteenth of it less 64 + zero, it is q - zero, exactly.
            uint32_t a[4];
#pragma unroll
            for (int lower = 0; lower < 2; ++lower) {
                const uint32_t word = words.words[i] >> (8 * lower);
                const int j = 2 * i + lower;
                a[lower] = sub_f16x2(and_or(word, 0x000f000fu, 0x64006400u), low_zero[j]);
                a[2 + lower] = fma_f16x2(and_or(word, 0x00f000f0u, 0x64006400u), 0x2c002c00u, high_zero[j]);
            }
            mma_f16(products[i], a, x[sixteen]);
        }
    }
    const f16* const scales = reinterpret_cast<const f16*>(slab + W4_QUANTS);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            sums[i][e] = fmaf(to_float(scales[16 * i + e / 2 * 8 + lane / 4]), products[i][e], sums[i][e]);
}

// Dynamic shared memory: W4_WARPS rings, then twice W4_WARPS times W4_MET floats.
KERNEL(W4_WARPS* WARP, gemv_w4a16, const float* x, const uint8_t* w, const uint8_t* scales, const uint8_t* zeros,
       const float* bias, float* y, int m, int n, int k) {
    DYNAMIC_SHARED(uint8_t, shared);
    const W4Matrix matrix = {w, scales, zeros, n, k};
    uint8_t* const ring = shared + warp_id() * W4_RING;
    float* const met = reinterpret_cast<float*>(shared + W4_WARPS * W4_RING);
    const int strips = (n + W4_ROWS - 1) / W4_ROWS, groups = k / W4_GROUP, steps = (groups + W4_WARPS - 1) / W4_WARPS;

    int ahead_strip = blockIdx.x, ahead_step = 0, ahead_slot = 0;
    const auto fill = [&]() {
        const int group = ahead_step * W4_WARPS + warp_id();
        if (ahead_strip < strips && group < groups) copy_group(ring + ahead_slot * W4_SLAB, matrix, ahead_strip, group);
        cp_async_commit();
        ahead_slot = ahead_slot + 1 == W4_STAGES ? 0 : ahead_slot + 1;
        if (++ahead_step == steps) ahead_step = 0, ahead_strip += gridDim.x;
    };
    for (int i = 0; i < W4_STAGES - 1; ++i) fill();

    int slot = 0, set = 0;
    for (int strip = blockIdx.x; strip < strips; strip += gridDim.x) {
        float sums[2][4] = {};
        for (int step = 0; step < steps; ++step) {
            __syncwarp();  // all lanes are done with the slot that is filled now
            fill();
            const int group = step * W4_WARPS + warp_id();
            uint32_t b[8][2];
            take_x(b, x, m, k, min(group, groups - 1));
            cp_async_wait<W4_STAGES - 1>();
            __syncwarp();
            if (group < groups) multiply_group(sums, b, ring + slot * W4_SLAB, zeros != nullptr);
            slot = slot + 1 == W4_STAGES ? 0 : slot + 1;
        }
        // Two sets in turn: one barrier a strip is enough.
        float* const own = met + set * W4_WARPS * W4_MET;
        set ^= 1;
#pragma unroll
        for (int e = 0; e < 8; ++e)
            own[warp_id() * W4_MET + (lane_id() % 4 * 2 + e % 2) * W4_ROWS + e / 2 * 8 + lane_id() / 4] = sums[e / 4][e % 4];
        __syncthreads();
        static_assert(W4_WARPS * WARP == W4_MET, "a thread has an element");
        const int i = threadIdx.x / W4_ROWS, row = strip * W4_ROWS + threadIdx.x % W4_ROWS;
        if (i < m && row < n) {
            float sum = 0.0f;
#pragma unroll
            for (int part = 0; part < W4_WARPS; ++part) sum += own[part * W4_MET + threadIdx.x];
            y[int64_t(i) * n + row] = bias ? sum + bias[row] : sum;
        }
    }
}
