// Rows of matrices picked, added up and ranked: embedding, routing to experts, parts of a product.
//
// Bound by: bytes. Floor: what is read and what is written over the copy bandwidth; for each kernel as it
// says. Indices are int32. One that is not in the matrix reads no memory: its row is filled with what is not a
// number, so that it shows.
#include "blocks.cuh"
#include "reduce.cuh"

#define NOT_A_NUMBER __uint_as_float(0x7fc00000u)

// out[i] = x[ids[i]], `vectors` times V elements a row. 8 bytes an element. Launch: blocks over a row, and
// over rows, on which they walk.
template <int V>
DEVICE void gather(const float* x, const int* ids, float* out, int rows, int n, int cols) {
    const int step = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
    for (int row = blockIdx.y; row < n; row += gridDim.y) {
        const int id = ids[row];
        const bool there = id >= 0 && id < rows;
        for (int i = first; i < cols / V; i += step) {
            Floats<V> v;
#pragma unroll
            for (int e = 0; e < V; ++e) v.at[e] = NOT_A_NUMBER;
            if (there) v = load<V>(x + int64_t(id) * cols + V * i);
            store<V>(out + int64_t(row) * cols + V * i, v);
        }
    }
}

KERNEL(256, gather_rows_4, const float* x, const int* ids, float* out, int rows, int n, int cols) {
    gather<4>(x, ids, out, rows, n, cols);
}
KERNEL(256, gather_rows_1, const float* x, const int* ids, float* out, int rows, int n, int cols) {
    gather<1>(x, ids, out, rows, n, cols);
}

// acc[ids[i]] += weights[i] * y[i], rounded after the product and after the sum, for i ascending: without
// atomics, the same in every run and as on the CPU. 12 bytes an element of y, and the list of ids once for each
// row of acc. Launch: a block a row of acc, which looks for it among the ids.
template <int V>
DEVICE void scatter_add(float* acc, const int* ids, const float* weights, const float* y, int n, int cols, uint32_t* found) {
    constexpr int EACH = 4, WARPS = 256 / WARP;
    float* to = acc + int64_t(blockIdx.x) * cols;
    for (int begin = 0; begin < n; begin += EACH * 256) {
        int id[EACH];
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int i = begin + j * 256 + threadIdx.x;
            id[j] = i < n ? ids[i] : -1;
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const uint32_t lanes = __ballot_sync(ALL_LANES, id[j] == int(blockIdx.x));
            if (lane_id() == 0) found[j * WARPS + warp_id()] = lanes;
        }
        __syncthreads();
        for (int word = 0; word < EACH * WARPS; ++word)
            for (uint32_t left = found[word]; left; left &= left - 1) {
                const int i = begin + word * WARP + lowest_bit(left);
                const float weight = weights[i];
                for (int c = threadIdx.x; c < cols / V; c += blockDim.x) {
                    const auto add = [=](float a, float b) { return __fadd_rn(a, __fmul_rn(weight, b)); };
                    store<V>(to + V * c, combined(load<V>(to + V * c), load<V>(y + int64_t(i) * cols + V * c), add));
                }
            }
    }
}

KERNEL(256, scatter_add_rows_4, float* acc, const int* ids, const float* weights, const float* y, int n, int cols) {
    SHARED(uint32_t, found, 32);
    scatter_add<4>(acc, ids, weights, y, n, cols, found);
}
KERNEL(256, scatter_add_rows_1, float* acc, const int* ids, const float* weights, const float* y, int n, int cols) {
    SHARED(uint32_t, found, 32);
    scatter_add<1>(acc, ids, weights, y, n, cols, found);
}

// out[row] = x[row, begin..begin + width], rows of `cols` elements. 8 bytes an element. Launch as gather_rows.
template <int V> DEVICE void slice(const float* x, float* out, int rows, int cols, int begin, int width) {
    const int step = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
    for (int row = blockIdx.y; row < rows; row += gridDim.y)
        for (int i = first; i < width / V; i += step)
            store<V>(out + int64_t(row) * width + V * i, load<V>(x + int64_t(row) * cols + begin + V * i));
}

KERNEL(256, slice_cols_4, const float* x, float* out, int rows, int cols, int begin, int width) {
    slice<4>(x, out, rows, cols, begin, width);
}
KERNEL(256, slice_cols_1, const float* x, float* out, int rows, int cols, int begin, int width) {
    slice<1>(x, out, rows, cols, begin, width);
}

// The k largest elements of each row and their columns, largest first, of equal ones the lower column first;
// the order is IEEE 754's totalOrder, in which what is not a number (of positive sign) is above all. A thread
// has every blockDim-th element of the row and knows the best that is left of them; in each of k rounds the
// best of all is taken, and who had it looks again.
//
// Floor: 4 bytes an element; what it takes is k reductions of about a microsecond. Launch: a warp a row of up
// to 1024 elements, four rows a block; else a block a row.
template <bool BLOCK>
DEVICE void top_k(const float* x, int* columns, float* values, int rows, int cols, int k, uint64_t* scratch) {
    const int threads = BLOCK ? int(blockDim.x) : WARP, me = BLOCK ? int(threadIdx.x) : lane_id();
    const int64_t row = BLOCK ? int64_t(blockIdx.x) : int64_t(blockIdx.x) * (blockDim.x / WARP) + warp_id();
    const float* from = x + row * cols;
    const int n = row < rows ? cols : 0;
    const auto best_below = [=](uint64_t bound) {
        uint64_t best = 0;
#pragma unroll 4
        for (int i = me; i < n; i += threads) {
            const uint64_t rank = ranked(ordered(from[i]), i);
            if (rank < bound && rank > best) best = rank;
        }
        return best;
    };
    uint64_t mine = best_below(~0ull);
    for (int j = 0; j < k; ++j) {
        const uint64_t best = BLOCK ? block_reduce(mine, uint64_t(0), scratch, Larger()) : warp_reduce(mine, Larger());
        if (me == 0 && row < rows) {
            columns[row * k + j] = place_of(best);
            values[row * k + j] = from_ordered(key_of(best));
        }
        if (mine == best) mine = best_below(best);
    }
}

KERNEL(128, top_k_warp, const float* x, int* columns, float* values, int rows, int cols, int k) {
    top_k<false>(x, columns, values, rows, cols, k, nullptr);
}
KERNEL(1024, top_k_block, const float* x, int* columns, float* values, int rows, int cols, int k) {
    SHARED(uint64_t, scratch, 32);
    top_k<true>(x, columns, values, rows, cols, k, scratch);
}

// Rows of a table of any type, as f32: the embedding. What a row takes in the table and 4 bytes an element.
// Launch as gather_rows; of plain numbers a thread takes one at a time, of blocks four.
template <class T> DEVICE void embed_plain(const T* table, const int* ids, float* out, int rows, int n, int cols) {
    const int step = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
    for (int row = blockIdx.y; row < n; row += gridDim.y) {
        const int id = ids[row];
        const bool there = id >= 0 && id < rows;
#pragma unroll 4
        for (int i = first; i < cols; i += step)
            out[int64_t(row) * cols + i] = there ? to_float(table[int64_t(id) * cols + i]) : NOT_A_NUMBER;
    }
}

template <class B> DEVICE void embed_blocks(const B* table, const int* ids, float* out, int rows, int n, int cols) {
    const int step = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
    for (int row = blockIdx.y; row < n; row += gridDim.y) {
        const int id = ids[row];
        const bool there = id >= 0 && id < rows;
        const B* from = table + int64_t(there ? id : 0) * (cols / B::LEN);
        for (int i = first; i < cols / 4; i += step) {
            Floats<4> x;
            decode<4>(from[i / (B::LEN / 4)], i % (B::LEN / 4), x.at);
#pragma unroll
            for (int e = 0; e < 4; ++e) x.at[e] = there ? x.at[e] : NOT_A_NUMBER;
            store<4>(out + int64_t(row) * cols + 4 * i, x);
        }
    }
}

#define EMBED(name, TYPE, HOW)                                                                        \
    KERNEL(256, embed_##name, const TYPE* table, const int* ids, float* out, int rows, int n, int cols) { \
        HOW(table, ids, out, rows, n, cols);                                                          \
    }

EMBED(f32, float, embed_plain)
EMBED(f16, f16, embed_plain)
EMBED(bf16, bf16, embed_plain)
EMBED(q1_0, BlockQ1_0, embed_blocks)
EMBED(q2_0, BlockQ2_0, embed_blocks)
EMBED(q4_0, BlockQ4_0, embed_blocks)
EMBED(q4_1, BlockQ4_1, embed_blocks)
EMBED(q5_0, BlockQ5_0, embed_blocks)
EMBED(q5_1, BlockQ5_1, embed_blocks)
EMBED(q8_0, BlockQ8_0, embed_blocks)
EMBED(q2_k, BlockQ2K, embed_blocks)
EMBED(q3_k, BlockQ3K, embed_blocks)
EMBED(q4_k, BlockQ4K, embed_blocks)
EMBED(q5_k, BlockQ5K, embed_blocks)
EMBED(q6_k, BlockQ6K, embed_blocks)
EMBED(iq4_nl, BlockIq4Nl, embed_blocks)
EMBED(iq4_xs, BlockIq4Xs, embed_blocks)
EMBED(tq1_0, BlockTq1_0, embed_blocks)
EMBED(tq2_0, BlockTq2_0, embed_blocks)
EMBED(mxfp4, BlockMxfp4, embed_blocks)
EMBED(nvfp4, BlockNvfp4, embed_blocks)
