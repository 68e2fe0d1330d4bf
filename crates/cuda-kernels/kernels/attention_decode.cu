// Attention of single rows over a paged cache: out = softmax(scale q K^T) V for each query head, of which
// n_heads / n_kv_heads share a head of keys and values.
//
// A row has seven integers: its row of q and out, where its table begins, the first position that it may see
// (a window can move it up), how many positions it sees through the table, where its branch begins in a list
// of slots and how long that is (further positions, each in a slot of its own), and how many pieces the rows
// before it may have.
//
// Bound by: bytes, those of the keys and values that a row sees, 2 * head_bytes a position and kv head; they
// over the copy bandwidth are the floor. Products are few, 4 * head_dim operations a position and query head,
// but not free: 8 query heads over an 8-bit cache are 15 operations a byte, more than lanes do beside all else.
#include "attention.cuh"

#define WARPS 4
#define THREADS (WARPS * WARP)
// Positions that a warp takes at once, positions whose slots are looked up at once, query heads of a block.
#define TILE 16
#define LOOKED_UP 256
#define QUERIES 8

// What a row sees: positions from..to, those up to prefix through the table.
struct Seen {
    const int *table, *branch;
    int row, from, prefix, to, pieces_before;
};

DEVICE Seen seen(const int* rows, int index, const int* tables, const int* branches, int window) {
    const int* row = rows + 7 * int64_t(index);
    const int to = row[3] + row[5];
    return {tables + row[1], branches + row[4], row[0], window > 0 ? max(row[2], to - window) : row[2], row[3], to, row[6]};
}

DEVICE int slot_seen(const Seen& seen, int block_size, int position) {
    return position < seen.prefix ? slot_of(seen.table, block_size, position) : seen.branch[position - seen.prefix];
}

// Pieces that a row's positions are cut into: fixed numbers of them, counted from the first that it sees, so
// that neither other rows nor the device change a bit of the result.
DEVICE int pieces_of(const Seen& seen, int piece) {
    const int positions = seen.to - seen.from;
    return positions / piece + (positions % piece != 0);
}

// ---- 1: a block a row and query head ------------------------------------------------------------

// 1: each warp takes every fourth position, a lane eight elements of it: a sum over the warp gives the score,
// the softmax is online (Milakov and Gimelshein 2018, alg. 3). Heads that share keys read them again each,
// and a row of one sequence has no more blocks than heads, far too few for the device. Sums of floats throughout.
// Launch: grid (rows, n_heads), 128 threads.
KERNEL(THREADS, attention_decode_per_head, const float* q, const uint8_t* keys, const uint8_t* values, const int* tables,
       const int* rows, const int* branches, float* out, int type, int n_heads, int n_kv_heads, int head_dim,
       int block_size, int window, float scale, float softcap) {
    SHARED(float, sums, WARPS * 256);
    SHARED(float, maxima, WARPS);
    SHARED(float, weights, WARPS);
    const Seen see = seen(rows, blockIdx.x, tables, branches, window);
    const int head = blockIdx.y, kv_head = head / (n_heads / n_kv_heads), lane = lane_id(), warp = warp_id();
    const int bytes = head_bytes(type, head_dim);
    const bool mine = lane * CHUNK < head_dim;
    OneRow state = one_row(q + (int64_t(see.row) * n_heads + head) * head_dim, lane, head_dim);
    const float factor = query_factor(scale, softcap);
    for (int position = see.from + warp; position < see.to; position += WARPS) {
        const int64_t at = (int64_t(slot_seen(see, block_size, position)) * n_kv_heads + kv_head) * bytes;
        see_position(state, keys + at, values + at, type, mine, factor, softcap);
    }
    for (int i = 0; i < CHUNK; ++i) sums[(warp * WARP + lane) * CHUNK + i] = state.sum[i];
    if (lane == 0) maxima[warp] = state.most, weights[warp] = state.weight;
    __syncthreads();
    for (int d = threadIdx.x; d < head_dim; d += THREADS) {
        // The first warp has a position, so that this is a number.
        float all = maxima[0], total = 0.0f, of = 0.0f;
        for (int w = 1; w < WARPS; ++w) all = fmaxf(all, maxima[w]);
        for (int w = 0; w < WARPS; ++w) {
            const float share = exp2_approx(maxima[w] - all);
            total += share * weights[w];
            of += share * sums[w * 256 + d];
        }
        out[(int64_t(see.row) * n_heads + head) * head_dim + d] = of / total;
    }
}

// ---- 2 and 3: a block a row, a kv head and a piece of the positions -----------------------------
//
// Keys and values come once for up to eight query heads that share them, and tensor cores multiply:
//   S = Q K^T with m16n8k16: rows 0..8 are the queries, rows 8..16 what halves leave of them, so that the
//     sum of both is a product with nearly float queries, at the price of rows that would be idle;
//   O^T = V^T P^T: 16 elements of the head by 8 queries; P is split into two halves the same way.
// The order of the elements within a head is free as long as Q and K agree; it is chosen so that a lane's
// share of K, and of V, are 16 bytes of the cache. The scores come as the fragment that P^T must be.
//
// Bytes in flight: each warp has 16 keys and 16 values of its own in shared memory, and asks for the next
// keys when these are multiplied, for the next values when those are. At head_dim 128 in f16 that is 8 KiB a
// warp and, with the four blocks that registers and 163 KiB of shared memory leave room for, 128 KiB a
// multiprocessor. A latency of 700 ns at 4.8 TB/s is covered by 26 KiB.

// How a cache's elements become fragments: in one half each, or, of floats, in two. Elements of a quantized
// type are rounded to f16.
template <int TYPE> struct Cache {
    typedef F16 Half;
    static constexpr int PARTS = 1, BLOCK = TYPE == CACHE_Q8_0 ? 34 : 18, PER_BLOCK = 32;
    DEVICE void read(const uint8_t* row, int chunk, uint32_t (&words)[1][4]) {
        if constexpr (TYPE == CACHE_Q8_0) chunk_q8_0(row, chunk, words[0]);
        else chunk_q4_0(row, chunk, words[0]);
    }
};
template <class HALF> struct HalfCache {
    typedef HALF Half;
    static constexpr int PARTS = 1, BLOCK = 2, PER_BLOCK = 1;
    DEVICE void read(const uint8_t* row, int chunk, uint32_t (&words)[1][4]) {
        chunk_halves(row, chunk, words[0]);
    }
};
template <> struct Cache<CACHE_F16> : HalfCache<F16> {};
template <> struct Cache<CACHE_BF16> : HalfCache<BF16> {};
template <> struct Cache<CACHE_F32> {
    typedef BF16 Half;  // has the range of floats
    static constexpr int PARTS = 2, BLOCK = 4, PER_BLOCK = 1;
    DEVICE void read(const uint8_t* row, int chunk, uint32_t (&words)[2][4]) {
        float x[CHUNK];
        chunk_f32(row, chunk, x);
#pragma unroll
        for (int i = 0; i < 4; ++i) split<BF16>(x[2 * i], x[2 * i + 1], words[0][i], words[1][i]);
    }
};

// A head's bytes into shared memory, then zeros up to ROOM, by the lanes of half a warp (`lane` of 16). Where
// heads are no multiple of 8 bytes, one may begin at an even address: copied are the words that it lies in,
// and it begins in shared memory as far behind a multiple of four.
template <bool QUANTIZED, int ROOM>
DEVICE void copy_head(uint8_t* to, const uint8_t* from, int bytes, int lane, bool there) {
    const int end = there ? bytes : 0;
    if (!QUANTIZED) {
#pragma unroll
        for (int i = lane * 16; i < ROOM; i += 16 * 16) cp_async_16(to + i, i < end ? from + i : from, i < end);
    } else if (bytes % 8 == 0) {
        for (int i = lane * 8; i < ROOM; i += 8 * 16) cp_async<8>(to + i, i < end ? from + i : from, i < end ? 8 : 0);
    } else {
        // Even where nothing is read the address must be a multiple of four.
        const int before = reinterpret_cast<uint64_t>(from) % 4;
        for (int i = lane * 4; i < ROOM; i += 4 * 16) {
            const int read = there ? max(0, min(4, before + end - i)) : 0;
            cp_async<4>(to + i, from - before + (read > 0 ? i : 0), read);
        }
    }
}

// `GROUPS` times 64 elements of a head have room; what it has less is zeros.
template <int TYPE, int GROUPS>
DEVICE void decode(const float* q, const uint8_t* keys, const uint8_t* values, const int* tables, const int* rows,
                   const int* branches, float* out, float* stats, float* partial, int piece, int n_heads, int n_kv_heads,
                   int head_dim, int block_size, int window, float scale, float softcap) {
    typedef Cache<TYPE> Elements;
    typedef typename Elements::Half Half;
    constexpr int PARTS = Elements::PARTS, DIM = 64 * GROUPS, ROOM = DIM / Elements::PER_BLOCK * Elements::BLOCK;
    constexpr int STRIDE = ROOM / 16 * 16 + 16;
    constexpr bool QUANTIZED = Elements::PER_BLOCK > 1;
    DYNAMIC_SHARED(uint8_t, memory);
    SHARED(int, listed, LOOKED_UP);
    SHARED(Bytes16, queries, 4 * GROUPS * WARP);
    SHARED(float, maxima, WARPS * QUERIES);
    SHARED(float, weights, WARPS * QUERIES);
    const int heads = n_heads / n_kv_heads, tiles = (heads + QUERIES - 1) / QUERIES;
    const int lane = lane_id(), warp = warp_id(), g = lane / 4, t = lane % 4;
    const int first_query = blockIdx.x % tiles * QUERIES, kv_head = blockIdx.x / tiles % n_kv_heads;
    const int index = blockIdx.x / (tiles * n_kv_heads);
    const Seen see = seen(rows, index, tables, branches, window);
    if (int(blockIdx.y) >= pieces_of(see, piece)) return;
    const int begin = see.from + int(blockIdx.y) * piece, end = min(see.to - begin, piece) + begin;
    const int bytes = head_bytes(TYPE, head_dim);

    // Chunk 4 i + t of query g: elements 0..4 are its share of step 2 i of the products, 4..8 of the next.
#pragma unroll 1
    for (int i = warp; i < 2 * GROUPS; i += WARPS) {
        float x[CHUNK] = {};
        if (first_query + g < heads && (4 * i + t) * CHUNK < head_dim) {
            const int64_t head = int64_t(see.row) * n_heads + kv_head * heads + first_query + g;
            chunk_f32(reinterpret_cast<const uint8_t*>(q + head * head_dim), 4 * i + t, x);
        }
        const float factor = query_factor(scale, softcap);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Bytes16 words;
#pragma unroll
            for (int e = 0; e < 4; e += 2)
                split<Half>(Half::bounded(x[4 * half + e] * factor), Half::bounded(x[4 * half + e + 1] * factor),
                            words.words[e], words.words[e + 1]);
            queries[(2 * i + half) * WARP + lane] = words;
        }
    }

    uint8_t *own_keys = memory + warp * 2 * TILE * STRIDE, *own_values = own_keys + TILE * STRIDE;
    float sum[4 * GROUPS][4] = {};
    float most = MINUS_INFINITY, weight = 0.0f;
#pragma unroll 1
    for (int base = begin; base < end; base += LOOKED_UP) {
        const int count = min(end - base, LOOKED_UP);
        __syncthreads();
        // Heads, counted over all slots.
        for (int i = threadIdx.x; i < count; i += THREADS)
            listed[i] = slot_seen(see, block_size, base + i) * n_kv_heads + kv_head;
        __syncthreads();
        const auto ask = [&](uint8_t* own, const uint8_t* from, int tile) {
#pragma unroll 2
            for (int row = lane / 16; row < TILE; row += 2) {
                const bool there = tile + row < count;
                const int64_t head = listed[there ? tile + row : 0];
                copy_head<QUANTIZED, ROOM>(own + row * STRIDE, from + head * bytes, bytes, lane % 16, there);
            }
        };
        // Where that head is, see copy_head.
        const auto row_of = [&](uint8_t* own, int tile, int row) {
            const int before = QUANTIZED ? (listed[min(tile + row, count - 1)] % 2) * (bytes % 4) : 0;
            return own + row * STRIDE + before;
        };
        // The first round only asks.
#pragma unroll 1
        for (int tile = (warp - WARPS) * TILE; tile < count; tile += WARPS * TILE) {
            const int next = tile + WARPS * TILE;
            float score[2][2];
            if (tile >= 0) {
                cp_async_wait<1>();
                __syncwarp();
                // Scores of query g with positions 8 h + 2 t and the next.
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const uint8_t* row = row_of(own_keys, tile, 8 * h + g);
                    float d[4] = {};
#pragma unroll
                    for (int i = 0; i < 2 * GROUPS; ++i) {
                        uint32_t k[PARTS][4];
                        Elements::read(row, 4 * i + t, k);
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            const Bytes16 a = queries[(2 * i + half) * WARP + lane];
                            const uint32_t query[4] = {a.words[0], a.words[1], a.words[2], a.words[3]};
#pragma unroll
                            for (int part = 0; part < PARTS; ++part)
                                Half::mma(d, query, {k[part][2 * half], k[part][2 * half + 1]});
                        }
                    }
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        score[h][e] = d[e] + d[2 + e];
                        if (softcap > 0.0f) score[h][e] = soft_capped(score[h][e], softcap);
                        if (tile + 8 * h + 2 * t + e >= count) score[h][e] = MINUS_INFINITY;
                    }
                }
                __syncwarp();
            }
            if (next < count) ask(own_keys, keys, next);
            cp_async_commit();
            if (tile >= 0) {
                float now = fmaxf(most, fmaxf(fmaxf(score[0][0], score[0][1]), fmaxf(score[1][0], score[1][1])));
                now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
                now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
                const float old = exp2_approx(most - now);
                uint32_t coarse[2], fine[2];
                weight *= old;
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const float low = exp2_approx(score[h][0] - now), high = exp2_approx(score[h][1] - now);
                    weight += low;
                    weight += high;
                    split<Half>(low, high, coarse[h], fine[h]);
                }
                most = now;
                // Sums belong to queries 2 t and 2 t + 1, which other lanes have the scores of.
                const float even = __shfl_sync(ALL_LANES, old, 8 * t), odd = __shfl_sync(ALL_LANES, old, 8 * t + 4);
#pragma unroll
                for (int i = 0; i < 4 * GROUPS; ++i) {
                    sum[i][0] *= even, sum[i][1] *= odd;
                    sum[i][2] *= even, sum[i][3] *= odd;
                }
                cp_async_wait<1>();
                __syncwarp();
#pragma unroll
                for (int group = 0; group < GROUPS; ++group) {
                    uint32_t v[4][PARTS][4];
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        Elements::read(row_of(own_values, tile, i / 2 * 8 + 2 * t + i % 2), 8 * group + g, v[i]);
#pragma unroll
                    for (int part = 0; part < PARTS; ++part)
#pragma unroll
                        for (int j = 0; j < 4; ++j) {
                            // Elements 2 j and 2 j + 1 of the chunk are rows g and g + 8.
                            const uint32_t a[4] = {low_half(v[0][part][j], v[1][part][j]), high_half(v[0][part][j], v[1][part][j]),
                                                   low_half(v[2][part][j], v[3][part][j]), high_half(v[2][part][j], v[3][part][j])};
                            Half::mma(sum[4 * group + j], a, coarse);
                            Half::mma(sum[4 * group + j], a, fine);
                        }
                }
                __syncwarp();
            }
            if (next < count) ask(own_values, values, next);
            cp_async_commit();
        }
        cp_async_wait<0>();
    }

    // The warps' sums, put together in their order.
    weight += __shfl_xor_sync(ALL_LANES, weight, 1);
    weight += __shfl_xor_sync(ALL_LANES, weight, 2);
    __syncthreads();
    float* sums = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int i = 0; i < 4 * GROUPS; ++i) {
        const int element = (i / 4 * 8 + g) * CHUNK + 2 * (i % 4);
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[(warp * QUERIES + 2 * t + e % 2) * DIM + element + e / 2] = sum[i][e];
    }
    if (t == 0) maxima[warp * QUERIES + g] = most, weights[warp * QUERIES + g] = weight;
    __syncthreads();
    const int here = min(heads - first_query, QUERIES);
    for (int i = threadIdx.x; i < here * head_dim; i += THREADS) {
        const int query = i / head_dim, d = i % head_dim;
        const int64_t head = int64_t(kv_head) * heads + first_query + query;
        // The first warp has a position, so that this is a number.
        float all = maxima[query], total = 0.0f, of = 0.0f;
        for (int w = 1; w < WARPS; ++w) all = fmaxf(all, maxima[w * QUERIES + query]);
        for (int w = 0; w < WARPS; ++w) {
            const float share = exp2_approx(maxima[w * QUERIES + query] - all);
            total += share * weights[w * QUERIES + query];
            of += share * sums[(w * QUERIES + query) * DIM + d];
        }
        if (gridDim.y == 1) {
            out[(int64_t(see.row) * n_heads + head) * head_dim + d] = of / total;
        } else {
            const int64_t at = (int64_t(see.pieces_before) + blockIdx.y) * n_heads + head;
            partial[at * head_dim + d] = of;
            if (d == 0) stats[2 * at] = all, stats[2 * at + 1] = total;
        }
    }
}

// 2 is 3 with pieces that have no end. 3: `piece` positions each, so that a single long sequence fills the
// device. Launch: grid (rows * n_kv_heads * tiles of 8 query heads, pieces of the longest row), 128 threads;
// with head_dim rounded up to DIM, a multiple of 64, 128 * DIM bytes of shared memory or 128 times the least
// multiple of 16 above the bytes of such a head, whichever are more. With one piece the result is written, else its parts:
// `partial` [pieces of all rows, n_heads, head_dim] and `stats` [pieces of all rows, n_heads, 2], the greatest
// score and the sum of weights.
#define DECODE(name, type, groups, blocks)                                                                            \
    KERNEL_BLOCKS(THREADS, blocks, attention_decode_##name, const float* q, const uint8_t* keys,                      \
                  const uint8_t* values, const int* tables, const int* rows, const int* branches, float* out,         \
                  float* stats, float* partial, int piece, int n_heads, int n_kv_heads, int head_dim, int block_size, \
                  int window, float scale, float softcap) {                                                           \
        decode<type, groups>(q, keys, values, tables, rows, branches, out, stats, partial, piece, n_heads,            \
                             n_kv_heads, head_dim, block_size, window, scale, softcap);                               \
    }
#define DECODE_EACH(name, type)   \
    DECODE(name##_64, type, 1, 5)  \
    DECODE(name##_128, type, 2, 4) \
    DECODE(name##_192, type, 3, 3) \
    DECODE(name##_256, type, 4, 2)
DECODE_EACH(f16, CACHE_F16)
DECODE_EACH(bf16, CACHE_BF16)
// By shared memory.
DECODE(f32_64, CACHE_F32, 1, 5)
DECODE(f32_128, CACHE_F32, 2, 3)
DECODE(f32_192, CACHE_F32, 3, 2)
DECODE(f32_256, CACHE_F32, 4, 1)
DECODE_EACH(q8_0, CACHE_Q8_0)
DECODE_EACH(q4_0, CACHE_Q4_0)

// The pieces of a row, put together in their order. Bound by: bytes, those of `partial`, a hundredth of the
// cache's. Launch: grid (rows, n_heads), 128 threads.
KERNEL(THREADS, attention_decode_combine, const float* stats, const float* partial, const int* rows, float* out, int piece,
        int n_heads, int head_dim, int window) {
    SHARED(float, scratch, 32);
    SHARED(float, shares, THREADS);
    const Seen see = seen(rows, blockIdx.x, nullptr, nullptr, window);
    const int count = pieces_of(see, piece), head = blockIdx.y;
    const auto at = [&](int i) { return (int64_t(see.pieces_before) + i) * n_heads + head; };
    float most = MINUS_INFINITY;
    for (int i = threadIdx.x; i < count; i += THREADS) most = fmaxf(most, stats[2 * at(i)]);
    most = block_max(most, scratch);
    float total = 0.0f, sum[2] = {};
    for (int base = 0; base < count; base += THREADS) {
        const int here = min(count - base, THREADS), i = threadIdx.x;
        __syncthreads();
        if (i < here) shares[i] = exp2_approx(stats[2 * at(base + i)] - most);
        __syncthreads();
#pragma unroll 4
        for (int p = 0; p < here; ++p) {
            const float share = shares[p];
            total += share * stats[2 * at(base + p) + 1];
            for (int half = 0; half < 2; ++half) {
                const int d = threadIdx.x + half * THREADS;
                if (d < head_dim) sum[half] += share * partial[at(base + p) * head_dim + d];
            }
        }
    }
    for (int half = 0; half < 2; ++half) {
        const int d = threadIdx.x + half * THREADS;
        if (d < head_dim) out[(int64_t(see.row) * n_heads + head) * head_dim + d] = sum[half] / total;
    }
}
