// y = x W^T + bias with weights in GGML's blocks, for a few dozen rows: blocks become halves on their way to
// shared memory, so that W is read once and as small as it is. For more rows than a tile has it is cheaper to make the
// halves once, in memory (dequantize.cu and gemm.cu).
//
// Bound by: the bytes of W, and nearly as much by the instructions that decode it, some ten an element pair.
// Floor: the bytes of the blocks over the copy bandwidth (4.5 bits a weight of Q4_K).
//
// A block of threads makes BM x 64 elements of y over a part of k. In a step of 64 of k each thread decodes 32
// elements of a row of W: the loads of the next step are under way while this one is multiplied. Where there are too few
// columns to fill the device, `splits` blocks share k and write their sums side by side, which `gemm_add_parts` adds in
// their order: the order of a sum depends on n, k and `splits`, not on m.
#include "blocks.cuh"
#include "gemm.cuh"

// Rounds eight numbers to f16.
DEVICE Bytes16 halves_of(const float (&x)[8]) {
    return {{pack_f16(x[0], x[1]), pack_f16(x[2], x[3]), pack_f16(x[4], x[5]), pack_f16(x[6], x[7])}};
}

template <class B, int BM>
DEVICE void blocks_product(uint8_t* shared, const uint8_t* x, const uint8_t* w, int k, int splits, Output out) {
    constexpr int BN = 64, CHUNKS = 8, ROW = CHUNKS * 16, STEP = 64, THREADS = 4 * WARP, STAGES = 3;
    constexpr int X_TILE = BM * ROW, W_TILE = BN * ROW, OWN = BN * CHUNKS / THREADS;
    const int first_row = blockIdx.x * BM, first_column = blockIdx.y * BN, split = blockIdx.z;
    const int steps = (k + STEP - 1) / STEP;
    const int begin = int(int64_t(steps) * split / splits), end = int(int64_t(steps) * (split + 1) / splits);
    if (splits > 1) out.y += int64_t(split) * out.m * out.stride;
    uint8_t* w_tiles = shared + STAGES * X_TILE;

    // Two threads share a row: chunk c and those two and four further are of one thread, which is where two nibbles of
    // a byte are.
    const int own_row = threadIdx.x / 2, column = first_column + own_row;
    const uint8_t* blocks = w + int64_t(min(column, out.n - 1)) * (k / B::LEN) * int(sizeof(B));
    Bytes16 decoded[OWN];
    const auto decode_step = [&](int step) {
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int at = step * STEP + (int(threadIdx.x) % 2 + 2 * i) * 8;
            float numbers[8] = {};
            if (at < k && column < out.n)
                decode(*reinterpret_cast<const B*>(blocks + at / B::LEN * int(sizeof(B))), at % B::LEN / 8, numbers);
            decoded[i] = halves_of(numbers);
        }
    };
    const auto keep_step = [&](int step) {
        uint8_t* tile = w_tiles + (step - begin) % 2 * W_TILE;
#pragma unroll
        for (int i = 0; i < OWN; ++i)
            *reinterpret_cast<Bytes16*>(tile + swizzled<CHUNKS>(own_row, int(threadIdx.x) % 2 + 2 * i)) = decoded[i];
    };
    const auto copy = [&](int step) {
        copy_tile<BM, CHUNKS, THREADS>(shared + (step - begin) % STAGES * X_TILE, x, first_row, out.m, step * ROW, 2 * k);
    };

    float sum[BM / 2 / 16][BN / 2 / 8][4] = {};
    const int warp_row = warp_id() % 2 * (BM / 2), warp_column = warp_id() / 2 * (BN / 2);
#pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) {
        if (begin + i < end) copy(begin + i);
        cp_async_commit();
    }
    if (begin < end) {
        decode_step(begin);
        keep_step(begin);
    }
    for (int step = begin; step < end; ++step) {
        if (step + 1 < end) decode_step(step + 1);
        cp_async_wait<STAGES - 2>();
        // Everyone is done with the step before, whose tiles are written over next.
        __syncthreads();
        if (step + STAGES - 1 < end) copy(step + STAGES - 1);
        cp_async_commit();
        multiply_tiles<F16>(sum, shared + (step - begin) % STAGES * X_TILE, w_tiles + (step - begin) % 2 * W_TILE, warp_row,
                            warp_column);
        if (step + 1 < end) keep_step(step + 1);
    }
    store_tiles<F16>(sum, out, first_row + warp_row, first_column + warp_column);
}

// Launch: (m / BM, n / 64, splits) of 128; dynamic shared memory: (3 BM + 2 * 64) * 128 bytes. Rows of x, f16, begin at
// multiples of 16 bytes.
#define BLOCKS(name, B, BM)                                                                                                 \
    KERNEL(4 * WARP, name, const uint8_t* x, const uint8_t* w, const float* bias, float* y, int64_t stride, int m, int n,   \
           int k, int splits) {                                                                                             \
        DYNAMIC_SHARED(uint8_t, shared);                                                                                    \
        const Output out = {y, stride, m, n, bias, nullptr, nullptr};                                                       \
        blocks_product<B, BM>(shared, x, w, k, splits, out);                                                                \
    }
#define BOTH(type, B)                     \
    BLOCKS(gemm_##type##_f16_32, B, 32)   \
    BLOCKS(gemm_##type##_f16_64, B, 64)
BOTH(q4_0, BlockQ4_0)
BOTH(q4_1, BlockQ4_1)
BOTH(q5_0, BlockQ5_0)
BOTH(q8_0, BlockQ8_0)
BOTH(q3_k, BlockQ3K)
BOTH(q4_k, BlockQ4K)
BOTH(q5_k, BlockQ5K)
BOTH(q6_k, BlockQ6K)

// y = the sum of `parts` results [m][n], the first first, + bias. Bound by: bytes, most from the caches.
// Launch: any grid of 256.
KERNEL(256, gemm_add_parts, const float* from, const float* bias, float* y, int64_t elements, int n, int parts) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += step) {
        float sum = 0.0f;
#pragma unroll 4
        for (int part = 0; part < parts; ++part) sum += from[part * elements + i];
        y[i] = sum + (bias ? bias[i % n] : 0.0f);
    }
}
