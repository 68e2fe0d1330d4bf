// A tile of y = x W^T on tensor cores, for every type that mma takes: x is [m][k], W is [n][k], both
// with k inside, so that a row is bytes to the copies and to ldmatrix whatever its elements are. 32 bytes
// of a row (16 halves, 32 bytes of int8) are one step of mma.
#pragma once
#include "common.cuh"

// A row of a tile in shared memory is CHUNKS chunks of 16 bytes, a multiple of 8. Chunk c of row r lies at
// c ^ (r % 8): the eight rows whose chunk c an ldmatrix reads at once are in different banks.
template <int CHUNKS> DEVICE int swizzled(int row, int chunk) { return (row * CHUNKS + (chunk ^ row % 8)) * 16; }

// Copies ROWS rows from `first` on, CHUNKS chunks each from byte `begin` on, of a matrix of `rows` rows of `bytes`
// bytes, a multiple of 16. What is beyond the matrix becomes zeros.
template <int ROWS, int CHUNKS, int THREADS>
DEVICE void copy_tile(uint8_t* tile, const uint8_t* matrix, int first, int rows, int begin, int bytes) {
    static_assert(ROWS * CHUNKS % THREADS == 0, "each thread copies as much");
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / THREADS; ++i) {
        const int which = i * THREADS + int(threadIdx.x), row = which / CHUNKS, chunk = which % CHUNKS;
        const int at = begin + chunk * 16;
        const bool there = first + row < rows && at < bytes;
        cp_async_16(tile + swizzled<CHUNKS>(row, chunk), matrix + (there ? int64_t(first + row) * bytes + at : 0), there);
    }
}

// Operand a of mma: rows row..row + 15, the 32 bytes from chunk 2 * step on.
template <int CHUNKS> DEVICE void load_rows(uint32_t (&a)[4], const uint8_t* tile, int row, int step) {
    ldmatrix_x4(a, tile + swizzled<CHUNKS>(row + lane_id() % 16, 2 * step + lane_id() / 16));
}

// Operand b of two mma: columns of W^T, thus rows of W, row..row + 7 and row + 8..row + 15.
template <int CHUNKS> DEVICE void load_columns(uint32_t (&b)[2][2], const uint8_t* tile, int row, int step) {
    uint32_t r[4];
    const int lane = lane_id();
    ldmatrix_x4(r, tile + swizzled<CHUNKS>(row + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// What is multiplied, and in what it is summed.
struct F16 {
    typedef float Sum;
    static const bool SCALED = false;
    DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_f16(d, a, b); }
};
struct Bf16 {
    typedef float Sum;
    static const bool SCALED = false;
    DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_bf16(d, a, b); }
};
struct S8 {
    typedef int Sum;
    static const bool SCALED = true;
    DEVICE void multiply(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_s8(d, a, b); }
};

// Where y goes: rows of `stride` floats, of which `m` rows and `n` columns are there.
struct Output {
    float* y;
    int64_t stride;
    int m, n;
    const float* bias;         // of a column, or null
    const float* row_scale;    // of sums that are SCALED
    const float* column_scale;
};

// Writes two neighbours of a row, the first of an even column, with their bias.
DEVICE void store_pair(const Output& out, int row, int column, float first, float second) {
    if (row >= out.m || column >= out.n) return;
    float* at = out.y + row * out.stride + column;
    const bool both = column + 1 < out.n;
    if (out.bias) {
        first += out.bias[column];
        if (both) second += out.bias[column + 1];
    }
    if (both && reinterpret_cast<uint64_t>(at) % 8 == 0) {
        *reinterpret_cast<Bytes8*>(at) = Bytes8{{__float_as_uint(first), __float_as_uint(second)}};
    } else {
        at[0] = first;
        if (both) at[1] = second;
    }
}

// Adds to the sums of a warp, of M_TILES x N_TILES tiles of mma, the products of 128 bytes of its rows, which
// begin at `row` and `column` in shared tiles of 8 chunks a row.
template <class TYPE, class SUM, int M_TILES, int N_TILES>
DEVICE void multiply_tiles(SUM (&sum)[M_TILES][N_TILES][4], const uint8_t* x_tile, const uint8_t* w_tile, int row, int column) {
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        uint32_t a[M_TILES][4], b[N_TILES / 2][2][2];
#pragma unroll
        for (int i = 0; i < M_TILES; ++i) load_rows<8>(a[i], x_tile, row + i * 16, part);
#pragma unroll
        for (int j = 0; j < N_TILES / 2; ++j) load_columns<8>(b[j], w_tile, column + j * 16, part);
#pragma unroll
        for (int i = 0; i < M_TILES; ++i)
#pragma unroll
            for (int j = 0; j < N_TILES; ++j) TYPE::multiply(sum[i][j], a[i], b[j / 2][j % 2]);
    }
}

// Writes them to y, the first at this row and column.
template <class TYPE, class SUM, int M_TILES, int N_TILES>
DEVICE void store_tiles(const SUM (&sum)[M_TILES][N_TILES][4], const Output& out, int row, int column) {
    row += lane_id() / 4, column += lane_id() % 4 * 2;
#pragma unroll
    for (int i = 0; i < M_TILES; ++i)
#pragma unroll
        for (int j = 0; j < N_TILES; ++j)
#pragma unroll
            for (int lower = 0; lower < 2; ++lower) {
                const int r = row + i * 16 + lower * 8, c = column + j * 8;
                float pair[2];
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    pair[e] = float(sum[i][j][2 * lower + e]);
                    if (TYPE::SCALED && r < out.m && c + e < out.n) pair[e] *= out.row_scale[r] * out.column_scale[c + e];
                }
                store_pair(out, r, c, pair[0], pair[1]);
            }
}

// A block's tile of BM x BN of y, by WM x WN warps, each with its part of it in registers. A step of the
// loop takes 128 bytes of each row of x and W through shared memory, (BM + BN) * 128 bytes a stage, in
// STAGES stages: while one is multiplied, the copies of STAGES - 1 more are under way. With one stage
// nothing is. Each element is summed over k in order, whatever the tiles are.
// Dynamic shared memory: STAGES * (BM + BN) * 128 bytes.
template <class TYPE, int BM, int BN, int WM, int WN, int STAGES>
DEVICE void tile_product(uint8_t* shared, const uint8_t* x, const uint8_t* w, int bytes, const Output& out) {
    constexpr int CHUNKS = 8, ROW = CHUNKS * 16, THREADS = WM * WN * WARP, STAGE = (BM + BN) * ROW;
    static_assert(BM % (WM * 16) == 0 && BN % (WN * 16) == 0, "whole tiles of mma, two at a time");
    const int first_row = blockIdx.x * BM, first_column = blockIdx.y * BN;
    const int warp_row = warp_id() % WM * (BM / WM), warp_column = warp_id() / WM * (BN / WN);
    const int steps = (bytes + ROW - 1) / ROW;
    const auto copy = [&](int step) {
        uint8_t* stage = shared + step % STAGES * STAGE;
        copy_tile<BM, CHUNKS, THREADS>(stage, x, first_row, out.m, step * ROW, bytes);
        copy_tile<BN, CHUNKS, THREADS>(stage + BM * ROW, w, first_column, out.n, step * ROW, bytes);
    };
    typename TYPE::Sum sum[BM / WM / 16][BN / WN / 8][4] = {};
    const auto multiply = [&](int step) {
        const uint8_t* stage = shared + step % STAGES * STAGE;
        multiply_tiles<TYPE>(sum, stage, stage + BM * ROW, warp_row, warp_column);
    };
    if constexpr (STAGES == 1) {
        for (int step = 0; step < steps; ++step) {
            copy(step);
            cp_async_commit();
            cp_async_wait<0>();
            __syncthreads();
            multiply(step);
            __syncthreads();
        }
    } else {
#pragma unroll
        for (int step = 0; step < STAGES - 1; ++step) {
            if (step < steps) copy(step);
            cp_async_commit();
        }
        for (int step = 0; step < steps; ++step) {
            cp_async_wait<STAGES - 2>();
            // Also: everyone is done with the stage that is copied over next.
            __syncthreads();
            if (step + STAGES - 1 < steps) copy(step + STAGES - 1);
            cp_async_commit();
            multiply(step);
        }
    }
    store_tiles<TYPE>(sum, out, first_row + warp_row, first_column + warp_column);
}
