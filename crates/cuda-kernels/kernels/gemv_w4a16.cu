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
// Here it is two: 1.4 for halves, of which mma wants pairs, the rest for x, mma and copies; for any m the same.
//
// Launch: 256 threads, any grid; 3 blocks a multiprocessor are what the rings leave room for. A block
// has a strip, a warp every eighth group, so that a block reads 16 KB of W in a piece; then the sums of
// the warps meet in shared memory. Each warp has a ring of its own of 4 groups (8.5 KB), 3 under way: 150 KB a
// multiprocessor (see gemv.cuh for what it takes). The ring goes on over the ends of strips.
//
// The sum of an element: in a group as mma has it, the groups of a warp in order, the warps in order: whatever m is.
#include "common.cuh"

constexpr int W4_WARPS = 8, W4_STAGES = 4, W4_GROUP = 128, W4_ROWS = 32, W4_MOST_M = 8;
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

// The group's x as mma's left operand: word 2 i is of 2 t of sixteen i, word 2 i + 1 of 2 t + 8. Of 16 rows the first
// m count; the others of the first 8 are the last of them once more, the other 8 zero.
DEVICE void take_x(uint32_t (&a)[16], const float* x, int m, int k, int group) {
    const float* const from = x + int64_t(min(lane_id() / 4, m - 1)) * k + group * W4_GROUP + lane_id() % 4 * 2;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        const Bytes8 pair = *reinterpret_cast<const Bytes8*>(from + 8 * i);
        a[i] = pack_f16(__uint_as_float(pair.words[0]), __uint_as_float(pair.words[1]));
    }
}

// Adds a group's products: lane 4 g + t has in sums[j] rows g of x and 8 j + 2 t, + 1 of the strip.
DEVICE void multiply_group(float (&sums)[4][2], const uint32_t (&x)[16], const uint8_t* slab, bool zeros) {
    const int lane = lane_id();
    float products[4][4] = {};
    uint32_t low_zero[4], high_zero[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const float zero = zeros ? float(int(slab[W4_QUANTS + W4_ROWS * 2 + 8 * j + lane / 4])) : 8.0f;
        low_zero[j] = pack_f16(1024.0f + zero, 1024.0f + zero);
        high_zero[j] = pack_f16(-64.0f - zero, -64.0f - zero);
    }
#pragma unroll
    for (int block = 0; block < 4; ++block) {
        const Bytes16 words = reinterpret_cast<const Bytes16*>(slab)[block * WARP + lane];
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            const int sixteen = 2 * block + s;
            const uint32_t a[4] = {x[2 * sixteen], 0, x[2 * sixteen + 1], 0};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                // A nibble q under 0x6400 is the half 1024 + q, four bits higher 1024 + 16 q: less 1024 + zero,
                // or a sixteenth of it less 64 + zero, it is q - zero, exactly.
                const uint32_t word = words.words[2 * s + j / 2] >> (j % 2 * 8);
                const uint32_t b[2] = {sub_f16x2((word & 0x000f000fu) | 0x64006400u, low_zero[j]),
                                       fma_f16x2((word & 0x00f000f0u) | 0x64006400u, 0x2c002c00u, high_zero[j])};
                mma_f16(products[j], a, b);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const uint32_t pair = *reinterpret_cast<const uint32_t*>(slab + W4_QUANTS + 2 * (8 * j + lane % 4 * 2));
        sums[j][0] = fmaf(to_float(f16_of(pair)), products[j][0], sums[j][0]);
        sums[j][1] = fmaf(to_float(f16_of(pair >> 16)), products[j][1], sums[j][1]);
    }
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
        ahead_slot = (ahead_slot + 1) % W4_STAGES;
        if (++ahead_step == steps) ahead_step = 0, ahead_strip += gridDim.x;
    };
    for (int i = 0; i < W4_STAGES - 1; ++i) fill();

    int slot = 0, set = 0;
    for (int strip = blockIdx.x; strip < strips; strip += gridDim.x) {
        float sums[4][2] = {};
        for (int step = 0; step < steps; ++step) {
            __syncwarp();  // all lanes are done with the slot that is filled now
            fill();
            const int group = step * W4_WARPS + warp_id();
            uint32_t a[16];
            take_x(a, x, m, k, min(group, groups - 1));
            cp_async_wait<W4_STAGES - 1>();
            __syncwarp();
            if (group < groups) multiply_group(sums, a, ring + slot * W4_SLAB, zeros != nullptr);
            slot = (slot + 1) % W4_STAGES;
        }
        // Two sets in turn: one barrier a strip is enough.
        float* const own = met + set * W4_WARPS * W4_MET;
        set ^= 1;
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e)
                own[warp_id() * W4_MET + lane_id() / 4 * W4_ROWS + 8 * j + lane_id() % 4 * 2 + e] = sums[j][e];
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
