// y[m, n] = x[m, k] W[n, k]^T (+ bias) for m of 1 to 8: the loop that all types share. A type says how
// many bytes a warp takes of a row at once (a slab), what a lane makes of them, and what it multiplies.
//
// Bound by: the bytes of W. Floor: those over the copy bandwidth; x is read from the caches.
//
// What it takes to be there. With 4.3 TB/s and some 700 ns from a load to its data, 3 MB must be on
// their way at any time (Little's law): 23 KB a multiprocessor of an H200's 132, and more while
// warps compute. So loads are asynchronous copies to shared memory, which hold no registers: each warp
// has a ring of its own, of STAGES times ROWS slabs, 7 to 11 KB, filled STAGES - 1 ahead, without a barrier
// of the block. 16 warps a multiprocessor have 65 to 115 KB on their way. The ring goes on over the
// ends of rows: a block stays, and takes row after row, so that only the launch's beginning and end wait.
// Copies are of 16 bytes, from the multiple of 16 below the slab's first byte, since blocks of 18, 34 or
// 210 bytes lie at any even address; lanes read them from shared memory as words and shift.
//
// Launch: 128 threads; a warp has ROWS rows of W, whose x it loads once, or with `split` 2 or 4 a half or
// a quarter of their slabs (where rows are few, as in a layer's keys and values); then the parts
// meet in shared memory. Any grid; 4 blocks a multiprocessor are what the rings leave room for, and
// with more than one row of x 3 are what registers do.
//
// The sum of an element of y: each lane over its parts of the slabs in order, the lanes pairwise, the
// parts in order. Nothing of it depends on m, the grid or ROWS; it does on `split`, which depends on n and k.
#pragma once
#include "common.cuh"

constexpr int GEMV_WARPS = 4;

// Threads of a block; a compiler for a device also keeps to the registers that so many blocks can have.
#ifdef EMULATOR
#define GEMV_THREADS(blocks) 128
#else
#define GEMV_THREADS(blocks) 128, blocks
#endif

struct GemvShape {
    int m, n, k, split;
};

// One of the matrices of a launch, and which of its blocks this is.
struct GemvProduct {
    const uint8_t* w;
    const float* bias;
    float* y;
    int n, split, block, blocks;
};

// A launch has up to three matrices [n, k], of one type and for the same x: a layer's queries, keys and values, or its
// gates and values. Blocks up to `end` of the first are its own, then those up to `end` of the second; each is computed
// as it is alone. Where there are fewer the others have no blocks. Kernels for eight rows have the first alone, for
// want of registers.
#define GEMV_MATRIX(i) const uint8_t *w##i, const float *bias##i, float *y##i, int n##i, int split##i, int end##i
#define GEMV_MATRICES GEMV_MATRIX(0), GEMV_MATRIX(1), GEMV_MATRIX(2)
#define GEMV_PRODUCT(i, begin) GemvProduct{w##i, bias##i, y##i, n##i, split##i, int(blockIdx.x) - begin, end##i - begin}
#define GEMV_OWN(M)                                                 \
    (M == 8 || int(blockIdx.x) < end0 ? GEMV_PRODUCT(0, 0)          \
     : int(blockIdx.x) < end1         ? GEMV_PRODUCT(1, end0)       \
                                      : GEMV_PRODUCT(2, end1))

// N sums over a warp at once: lane l gets that of v[l / (32 / N)]. Half of the values go to the other half of
// the lanes at each step, so that N - 1 + log2(32 / N) shuffles do. The order of an element's sum is
// that of warp_sum for any N.
template <int DISTANCE, int N> DEVICE float warp_sums(const float (&v)[N]) {
    if constexpr (N == 1) {
        float sum = v[0];
#pragma unroll
        for (int distance = DISTANCE; distance > 0; distance /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, distance);
        return sum;
    } else {
        const bool upper = lane_id() & DISTANCE;
        float folded[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; ++i) {
            const float mine = upper ? v[i + N / 2] : v[i], other = upper ? v[i] : v[i + N / 2];
            folded[i] = mine + __shfl_xor_sync(ALL_LANES, other, DISTANCE);
        }
        return warp_sums<DISTANCE / 2>(folded);
    }
}

// A type T of M rows of x has
//   SLAB, SLAB_BYTES   elements and bytes of a row that a warp takes at once, SPAN bytes of the ring for them
//   PARTS              of a slab, one after the other
//   ROWS, STAGES       rows of W at once, slabs of the ring; M * ROWS is a power of two, at most 32
//   BLOCKS             of a multiprocessor, 3 or 4: as it takes for no register to spill
//   Activations        the rows of x
//   load(ring, offset, part) -> Weights  of this lane: the slab is at that offset of what begins at a multiple of 16
//   element(part)                        the first element of the slab that this lane takes
//   take(activations, row, at, k) -> X   what they meet: x from element `at` on of a row of k
//   multiply(weights, x, sum)            adds the products to the sum
template <class T> struct GemvRing {
    static constexpr int BYTES = T::STAGES * T::ROWS * T::SPAN;
    static_assert(T::SPAN % 16 == 0 && T::SPAN >= T::SLAB_BYTES, "copies are of 16 bytes");
};

// From the multiple of 16 before a row's slabs to their first bytes: slabs are multiples of 16, and W begins at one.
template <class T> DEVICE int skipped(int row, int64_t row_bytes) {
    if (T::SPAN == T::SLAB_BYTES) return 0;  // rows are multiples too
    return int(uint32_t(row) * uint32_t(row_bytes) % 16);
}

// Asks for a slab of ROWS rows, which begins at `from` in the first of them. All of SPAN is copied, whatever the alignment:
// a few bytes more than are wanted, and fewer instructions.
template <class T> DEVICE void copy_whole_slab(uint8_t* to, const uint8_t* from, int64_t row_bytes) {
    static_assert(T::SPAN % 16 == 0 && T::SLAB_BYTES % 16 == 0, "copies are of 16 bytes");
    const int lane = 16 * lane_id();
#pragma unroll
    for (int r = 0; r < T::ROWS; ++r) {
        const uint8_t* const row = from + r * row_bytes;
        const uint8_t* const source = row - reinterpret_cast<uint64_t>(row) % 16 + lane;
#pragma unroll
        for (int i = 0; i < T::SPAN; i += 16 * WARP)
            if (i + 16 * WARP <= T::SPAN || i + lane < T::SPAN) cp_async_16(to + r * T::SPAN + i + lane, source + i);
    }
}

// The same at the end of the rows or of the matrix; rows beyond the last are the last one.
template <class T>
DEVICE void copy_last_slab(uint8_t* to, const uint8_t* w, GemvShape s, int64_t row_bytes, int group, int slab) {
    const int64_t first = int64_t(slab) * T::SLAB_BYTES;
    const int length = int(min(int64_t(T::SLAB_BYTES), row_bytes - first));
#pragma unroll 1
    for (int r = 0; r < T::ROWS; ++r) {
        const int row = min(group * T::ROWS + r, s.n - 1), skip = skipped<T>(row, row_bytes), bytes = skip + length;
        const uint8_t* const from = w + row * row_bytes + first - skip;
        // The last 16 bytes may go beyond the row, but not beyond the matrix.
        const bool ends = row == s.n - 1 && first + length == row_bytes;
        const int whole = ends ? bytes & ~15 : bytes;
#pragma unroll 1
        for (int at = 16 * lane_id(); at < whole; at += 16 * WARP) cp_async_16(to + r * T::SPAN + at, from + at);
        const int at = whole + lane_id();
        if (T::SPAN != T::SLAB_BYTES && ends && at < bytes) to[r * T::SPAN + at] = from[at];
    }
}

template <class T, int M>
DEVICE void gemv(uint8_t* rings, float* parts, GemvProduct own, typename T::Activations activations, int m, int k,
                 int64_t row_bytes) {
    const GemvShape s = {m, own.n, k, own.split};
    constexpr int SUMS = M * T::ROWS;
    static_assert(SUMS <= WARP && (SUMS & (SUMS - 1)) == 0, "lanes share the sums evenly");
    uint8_t* const ring = rings + warp_id() * GemvRing<T>::BYTES;
    const int part = warp_id() % s.split, slots = GEMV_WARPS / s.split;
    const int groups = (s.n + T::ROWS - 1) / T::ROWS, slabs = (s.k + T::SLAB - 1) / T::SLAB;
    const int steps = (slabs + s.split - 1) / s.split, items = (groups + slots - 1) / slots;
    const int mine = (items - own.block + own.blocks - 1) / own.blocks;
    const int first_group = own.block * slots + warp_id() / s.split, group_step = own.blocks * slots;

    // The ring is filled ahead of what is computed, over the ends of rows.
    int ahead = 0, ahead_slab = part, ahead_group = first_group, ahead_slot = 0;
    const auto first_slab = [&]() { return int64_t(ahead_group) * T::ROWS * row_bytes + part * T::SLAB_BYTES; };
    int64_t from = first_slab();
    const int whole_slabs = int(row_bytes / T::SLAB_BYTES);
    const int64_t last_whole = (s.n - T::ROWS + 1) * row_bytes - T::SPAN;  // what begins later goes beyond the matrix
    const auto fill = [&]() {
        if (ahead < mine && ahead_group < groups && ahead_slab < slabs) {
            uint8_t* const to = ring + ahead_slot * T::ROWS * T::SPAN;
            if (ahead_slab < whole_slabs && from <= last_whole) copy_whole_slab<T>(to, own.w + from, row_bytes);
            else copy_last_slab<T>(to, own.w, s, row_bytes, ahead_group, ahead_slab);
        }
        cp_async_commit();
        ahead_slot = ahead_slot + 1 == T::STAGES ? 0 : ahead_slot + 1;
        ahead_slab += s.split, from += s.split * T::SLAB_BYTES;
        if (ahead_slab >= steps * s.split) ahead_slab = part, ++ahead, ahead_group += group_step, from = first_slab();
    };
#pragma unroll 1
    for (int i = 0; i < T::STAGES - 1; ++i) fill();

    int slot = 0, group = first_group;
    for (int item = 0; item < mine; ++item, group += group_step) {
        float sums[SUMS] = {};
        for (int step = 0; step < steps; ++step) {
            __syncwarp();  // all lanes are done with the slot that is filled now
            fill();
            // A single row of x is asked for before the wait; more would take too many registers.
            const int slab = step * s.split + part, first = slab * T::SLAB + T::element(0);
            typename T::X first_x = {};
            if (M == 1 && first < s.k) first_x = T::take(activations, 0, first, s.k);
            cp_async_wait<T::STAGES - 1>();
            __syncwarp();
            const uint8_t* const slabs_here = ring + slot * T::ROWS * T::SPAN;
            slot = slot + 1 == T::STAGES ? 0 : slot + 1;
            if (group >= groups) continue;
#pragma unroll
            for (int p = 0; p < T::PARTS; ++p) {
                const int at = slab * T::SLAB + T::element(p);
                if (at >= s.k) continue;
                typename T::Weights weights[T::ROWS];
#pragma unroll
                for (int r = 0; r < T::ROWS; ++r) {
                    const int row = min(group * T::ROWS + r, s.n - 1);
                    weights[r] = T::load(slabs_here + r * T::SPAN, skipped<T>(row, row_bytes), p);
                }
#pragma unroll
                for (int i = 0; i < M; ++i) {
                    const typename T::X x = M == 1 && p == 0 ? first_x : T::take(activations, min(i, s.m - 1), at, s.k);
#pragma unroll
                    for (int r = 0; r < T::ROWS; ++r) T::multiply(weights[r], x, sums[i * T::ROWS + r]);
                }
            }
        }
        float sum = warp_sums<WARP / 2>(sums);
        constexpr int LANES_A_SUM = WARP / SUMS;
        const int which = lane_id() / LANES_A_SUM, row = group * T::ROWS + which % T::ROWS, i = which / T::ROWS;
        if (s.split > 1) {
            // Two sets in turn: one barrier an item is enough.
            float* const met = parts + item % 2 * GEMV_WARPS * WARP;
            met[warp_id() * WARP + which] = sum;
            __syncthreads();
#pragma unroll 1
            for (int p = 1; p < s.split && part == 0; ++p) sum += met[(warp_id() + p) * WARP + which];
        }
        if (part == 0 && lane_id() % LANES_A_SUM == 0 && i < s.m && row < s.n)
            own.y[int64_t(i) * s.n + row] = own.bias ? sum + own.bias[row] : sum;
    }
}

#define GEMV_SHARED(T)                                       \
    SHARED(uint8_t, rings, GEMV_WARPS * GemvRing<T>::BYTES); \
    SHARED(float, parts, 2 * GEMV_WARPS * WARP)
