// Attention of many rows of a sequence over a paged cache, after FlashAttention-2 (Dao 2023, alg. 1): a tile of
// queries stays, tiles of keys and values pass, and the softmax is online, so that no score is ever in memory.
//
// A span is rows that follow each other in one sequence, as five integers: its first row of q and out, how
// many rows, where its table begins, the position of its first row, and how many positions each row sees,
// or 0 if each sees those up to its own. A window leaves the last `window` of these.
//
// Three versions of the same, from simple to fast: a warp a row; tiles, multiplied by lanes; tiles, multiplied by
// tensor cores. What is said here of time and memory is of the third, which is used.
//
// Bound by: operations of tensor cores, 4 * head_dim for each query head, row and position seen; they over
// the rate of the tensor cores are the floor. FlashAttention-2, with the same instruction, reaches 335 of
// some 790 TFLOP/s on an H100: between the products each score takes an exponential and a dozen operations,
// and mma.sync alone does not fill Hopper's tensor cores.
//
// The query heads that share keys lie in one tile: row m of the tiles is query head m % heads of row
// m / heads, so that few rows fill a tile too and keys are read once for all of them. The last tile of a
// span, which sees the most, comes first. Tiles of keys begin at multiples of their size, so that
// neither the other rows of a tile nor where a prompt was cut change a bit of a row's result.
//
// Four warps have 16 or 32 queries each. What is where:
//
//   head_dim   queries   keys     shared memory      accumulators        blocks a multiprocessor
//              a tile    a tile   Q + K + V, KiB     O + S, registers    163 KiB / 227 KiB
//   64         128       64       16 + 8 + 8         64 + 64             2 / 2, by registers
//   128        128       64       32 + 16 + 16       128 + 64            2 / 2, by registers
//   256        64        64       32 + 32 + 32       128 + 32            1 / 2
//
// 32 queries a warp, so that a fragment of K or V that was read from shared memory is multiplied twice: with
// 16 the reads would take as long as the products. That leaves no registers for Q: its fragments are read
// again for every tile of keys, once for eight products with them. At 256 the accumulators of 32 queries do
// not fit into 255 registers. There is one buffer of keys and one of values: the next values are asked for
// before Q K^T, the next keys before the softmax and P V, and the second block of a multiprocessor computes while
// the first waits.
// Tiles are swizzled: chunk c (16 bytes) of row r lies at c ^ r % 8, so that the eight rows of an 8x8 matrix are in
// different banks.
#include "attention.cuh"

#define WARPS 4
#define THREADS (WARPS * WARP)
#define KEYS 64

// Rows first..=last of the span that a block computes, row m being query head m % heads of the span's row m / heads;
// none where last < first.
struct Tile {
    int first_row, table, first_position, length, heads, window, first, last;
};

DEVICE Tile tile_of(const int* spans, int n_spans, int heads, int window, int rows) {
    int which = 0, tile = blockIdx.x, tiles = 0;
    for (; which < n_spans; ++which, tile -= tiles) {
        tiles = (spans[5 * which + 1] * heads + rows - 1) / rows;
        if (tile < tiles) break;
    }
    if (which == n_spans) return {0, 0, 0, 0, heads, window, 0, -1};
    const int* span = spans + 5 * which;
    const int first = (tiles - 1 - tile) * rows, last = min(first + rows, span[1] * heads) - 1;
    return {span[0], span[2], span[3], span[4], heads, window, first, last};
}

// The positions that row m sees are seen_from..seen_to.
DEVICE int seen_to(const Tile& tile, int m) {
    return tile.length > 0 ? tile.length : tile.first_position + m / tile.heads + 1;
}
DEVICE int window_of(const Tile& tile, int to) { return tile.window > 0 ? max(0, to - tile.window) : 0; }
DEVICE int seen_from(const Tile& tile, int m) { return window_of(tile, seen_to(tile, m)); }

// Of row m among the heads of q and out.
DEVICE int64_t head_of(const Tile& tile, int m, int n_heads, int kv_head) {
    return int64_t(tile.first_row + m / tile.heads) * n_heads + kv_head * tile.heads + m % tile.heads;
}

#define PREFILL_PARAMETERS                                                                                   \
    const float *q, const uint8_t *keys, const uint8_t *values, const int *tables, const int *spans, float *out, \
        int n_spans, int type, int n_heads, int n_kv_heads, int head_dim, int block_size, int window, float scale, float softcap
#define PREFILL_ARGUMENTS                                                                                             \
    q, keys, values, tables, spans, out, n_spans, type, n_heads, n_kv_heads, head_dim, block_size, window, scale, softcap

// ---- 1: a warp a row and query head -------------------------------------------------------------

// 1: the equation, position by position: a sum over the warp gives a score. Every row reads all its keys and values
// again, a byte of f16 for each operation, and for each score the lanes wait for five shuffles.
// Launch: grid (tiles of 4 rows of all spans, n_kv_heads), 128 threads.
KERNEL_BLOCKS(THREADS, 8, attention_prefill_per_row, PREFILL_PARAMETERS) {
    const Tile tile = tile_of(spans, n_spans, n_heads / n_kv_heads, window, WARPS);
    const int m = tile.first + warp_id(), lane = lane_id(), kv_head = blockIdx.y, bytes = head_bytes(type, head_dim);
    if (m > tile.last) return;
    const bool mine = lane * CHUNK < head_dim;
    const int64_t head = head_of(tile, m, n_heads, kv_head);
    OneRow row = one_row(q + head * head_dim, lane, head_dim);
    const float factor = query_factor(scale, softcap);
    const int to = seen_to(tile, m);
    for (int position = seen_from(tile, m); position < to; ++position) {
        const int64_t at = (int64_t(slot_of(tables + tile.table, block_size, position)) * n_kv_heads + kv_head) * bytes;
        see_position(row, keys + at, values + at, type, mine, factor, softcap);
    }
#pragma unroll
    for (int i = 0; i < CHUNK; ++i)
        if (mine) out[head * head_dim + lane * CHUNK + i] = row.sum[i] / row.weight;
}

// ---- 2: tiles, multiplied by lanes --------------------------------------------------------------

#define TILED_ROWS 32
#define TILED_KEYS 32

// Decodes chunk `chunk` of a head into a tile of floats.
DEVICE void fill_floats(float* to, int type, const uint8_t* from, int chunk, bool there) {
    float x[CHUNK] = {};
    if (there) read_chunk(type, from, chunk, x);
#pragma unroll
    for (int e = 0; e < CHUNK; ++e) to[chunk * CHUNK + e] = x[e];
}

struct alignas(16) Float4 { float x[4]; };
DEVICE Float4 four(const float* at) { return *reinterpret_cast<const Float4*>(at); }

// 2: 32 rows share a tile of 32 keys and values, which are read from memory once for all of them. Four threads have a
// row: eight of its scores each, then a quarter of its output. Now shared memory is the bound: of Q K^T, two reads of
// 16 bytes for four multiplications of a lane, where an instruction of the tensor cores does 2048.
// Lines are four floats longer than heads, so that rows beside each other begin in different banks.
template <int DIM> DEVICE void tiled(PREFILL_PARAMETERS) {
    constexpr int LINE = DIM + 4, CHUNKS = DIM / CHUNK;
    DYNAMIC_SHARED(float, memory);
    float *queries = memory, *key_tile = queries + TILED_ROWS * LINE, *value_tile = key_tile + TILED_KEYS * LINE;
    const int kv_head = blockIdx.y, bytes = head_bytes(type, head_dim);
    const Tile tile = tile_of(spans, n_spans, n_heads / n_kv_heads, window, TILED_ROWS);
    if (tile.last < tile.first) return;
    for (int i = threadIdx.x; i < TILED_ROWS * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, m = min(tile.first + row, tile.last);
        const float* from = q + head_of(tile, m, n_heads, kv_head) * head_dim;
        fill_floats(queries + row * LINE, CACHE_F32, reinterpret_cast<const uint8_t*>(from), chunk, chunk * CHUNK < head_dim);
    }
    const int own = threadIdx.x / 4, part = threadIdx.x % 4, m = min(tile.first + own, tile.last);
    const int to = seen_to(tile, m), from = window_of(tile, to), end = seen_to(tile, tile.last);
    const float factor = query_factor(scale, softcap), *query = queries + own * LINE;
    float sum[DIM / 16][4] = {}, most = MINUS_INFINITY, weight = 0.0f;
    for (int base = seen_from(tile, tile.first) / TILED_KEYS * TILED_KEYS; base < end; base += TILED_KEYS) {
        __syncthreads();  // all are done with the tiles before
        for (int i = threadIdx.x; i < TILED_KEYS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS, position = base + row;
            const bool there = position < end && chunk * CHUNK < head_dim;
            const int slot = position < end ? slot_of(tables + tile.table, block_size, position) : 0;
            const int64_t at = (int64_t(slot) * n_kv_heads + kv_head) * bytes;
            fill_floats(key_tile + row * LINE, type, keys + at, chunk, there);
            fill_floats(value_tile + row * LINE, type, values + at, chunk, there);
        }
        __syncthreads();
        float score[TILED_KEYS / 4], now = most;
#pragma unroll
        for (int j = 0; j < TILED_KEYS / 4; ++j) {
            const int key = 4 * j + part, position = base + key;
            float product = 0.0f;
#pragma unroll 4
            for (int d = 0; d < DIM; d += 4) {
                const Float4 a = four(query + d), b = four(key_tile + key * LINE + d);
#pragma unroll
                for (int e = 0; e < 4; ++e) product += a.x[e] * b.x[e];
            }
            score[j] = softcap > 0.0f ? soft_capped(product * factor, softcap) : product * factor;
            if (position < from || position >= to) score[j] = MINUS_INFINITY;
            now = fmaxf(now, score[j]);
        }
        now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
        now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
        // A row that sees nothing of this tile nor of those before has no maximum.
        const float shift = now == MINUS_INFINITY ? 0.0f : now, old = exp2_approx(most - shift);
        most = now;
        weight *= old;
#pragma unroll
        for (int j = 0; j < TILED_KEYS / 4; ++j) {
            score[j] = exp2_approx(score[j] - shift);
            weight += score[j];
        }
#pragma unroll
        for (int j = 0; j < DIM / 16; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[j][e] *= old;
#pragma unroll
        for (int i = 0; i < TILED_KEYS / 4; ++i)
#pragma unroll 2
            for (int owner = 0; owner < 4; ++owner) {  // which of the row's threads has the weight
                const float p = __shfl_sync(ALL_LANES, score[i], (lane_id() & ~3) | owner);
                const float* value = value_tile + (4 * i + owner) * LINE + 4 * part;
#pragma unroll
                for (int j = 0; j < DIM / 16; ++j) {
                    const Float4 v = four(value + 16 * j);
#pragma unroll
                    for (int e = 0; e < 4; ++e) sum[j][e] += p * v.x[e];
                }
            }
    }
    weight += __shfl_xor_sync(ALL_LANES, weight, 1);
    weight += __shfl_xor_sync(ALL_LANES, weight, 2);
    if (tile.first + own > tile.last) return;
    float* to_head = out + head_of(tile, m, n_heads, kv_head) * head_dim;
#pragma unroll
    for (int j = 0; j < DIM / 16; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (16 * j + 4 * part < head_dim) to_head[16 * j + 4 * part + e] = sum[j][e] / weight;
}

// Launch: grid (tiles of 32 rows of all spans, n_kv_heads), 128 threads, 96 * (dim + 4) * 4 bytes of shared
// memory, dim being the next of 64, 128 and 256 from head_dim on.
#define TILED(dim) \
    KERNEL(THREADS, attention_prefill_tiled_##dim, PREFILL_PARAMETERS) { tiled<dim>(PREFILL_ARGUMENTS); }
TILED(64)
TILED(128)
TILED(256)

// ---- 3: tiles, multiplied by tensor cores -------------------------------------------------------

// Place of a chunk in a tile of DIM columns of halves.
template <int DIM> DEVICE uint8_t* chunk_of(uint8_t* tile, int row, int chunk) {
    return tile + (row * (DIM / CHUNK) + (chunk ^ row % 8)) * 16;
}

// Fills a tile of keys or values with the heads that `heads` lists, counted over all slots; zeros where it
// is -1, and beyond the head. Halves are asked for (wait for the group), other types are here when it
// returns, as f16.
template <int DIM, bool CONVERTED>
DEVICE void fill(uint8_t* tile, const uint8_t* from, const int* heads, int type, int head_dim) {
    constexpr int LINE = DIM / CHUNK;
    const int bytes = head_bytes(type, head_dim), chunk = threadIdx.x % LINE;
    const bool within = chunk * CHUNK < head_dim;
#pragma unroll 2
    for (int row = threadIdx.x / LINE; row < KEYS; row += THREADS / LINE) {
        const int head = heads[row];
        const bool there = head >= 0 && within;
        const uint8_t* at = from + (there ? int64_t(head) * bytes : 0);
        uint8_t* to = chunk_of<DIM>(tile, row, chunk);
        if constexpr (CONVERTED) {
            uint32_t words[4] = {};
            if (there && type == CACHE_Q8_0) {
                chunk_q8_0(at, chunk, words);
            } else if (there && type == CACHE_Q4_0) {
                chunk_q4_0(at, chunk, words);
            } else if (there) {
                float x[CHUNK];
                chunk_f32(at, chunk, x);
#pragma unroll
                for (int e = 0; e < 4; ++e) words[e] = F16::pack(F16::bounded(x[2 * e]), F16::bounded(x[2 * e + 1]));
            }
            *reinterpret_cast<Bytes16*>(to) = {{words[0], words[1], words[2], words[3]}};
        } else {
            cp_async_16(to, at + (there ? chunk * 16 : 0), there);
        }
    }
    cp_async_commit();
}

template <class HALF, int DIM, int PER_WARP, bool CONVERTED>
DEVICE void prefill(PREFILL_PARAMETERS) {
    constexpr int MATRICES = PER_WARP / 16, ROWS = WARPS * PER_WARP, STEPS = DIM / 16;
    DYNAMIC_SHARED(uint8_t, memory);
    SHARED(int, listed, 2 * KEYS);
    uint8_t *queries = memory, *key_tile = queries + ROWS * DIM * 2, *value_tile = key_tile + KEYS * DIM * 2;
    const int lane = lane_id(), g = lane / 4, t = lane % 4;
    const int kv_head = blockIdx.y;
    const Tile tile = tile_of(spans, n_spans, n_heads / n_kv_heads, window, ROWS);
    const int first = tile.first, last = tile.last, *table = tables + tile.table;
    if (last < first) return;
    const int begin = seen_from(tile, first) / KEYS * KEYS, end = seen_to(tile, last);

    const auto look_up = [&](int base) {
        for (int i = threadIdx.x; i < KEYS; i += THREADS)
            listed[base / KEYS % 2 * KEYS + i] =
                base + i < end ? slot_of(table, block_size, base + i) * n_kv_heads + kv_head : -1;
    };
    const auto fill_tile = [&](uint8_t* to, const uint8_t* from, int base) {
        fill<DIM, CONVERTED>(to, from, listed + base / KEYS % 2 * KEYS, type, head_dim);
    };
    look_up(begin);
    __syncthreads();
    fill_tile(key_tile, keys, begin);

    const float factor = query_factor(scale, softcap);
    for (int i = threadIdx.x; i < ROWS * DIM / CHUNK; i += THREADS) {
        const int row = i / (DIM / CHUNK), chunk = i % (DIM / CHUNK), m = first + row;
        float x[CHUNK] = {};
        if (m <= last && chunk * CHUNK < head_dim) {
            const int64_t head = head_of(tile, m, n_heads, kv_head);
            chunk_f32(reinterpret_cast<const uint8_t*>(q + head * head_dim), chunk, x);
        }
        Bytes16 words;
#pragma unroll
        for (int e = 0; e < 4; ++e)
            words.words[e] = HALF::pack(HALF::bounded(x[2 * e] * factor), HALF::bounded(x[2 * e + 1] * factor));
        *reinterpret_cast<Bytes16*>(chunk_of<DIM>(queries, row, chunk)) = words;
    }

    // Of each matrix of 16 queries a lane has rows g and g + 8.
    const int own = warp_id() * PER_WARP;
    float sum[MATRICES][DIM / 8][4] = {}, most[MATRICES][2], weight[MATRICES][2] = {};
    int to[MATRICES][2];
#pragma unroll
    for (int i = 0; i < MATRICES; ++i)
        for (int half = 0; half < 2; ++half) {
            const int m = min(first + own + 16 * i + 8 * half + g, last);
            most[i][half] = MINUS_INFINITY;
            to[i][half] = seen_to(tile, m);
        }
    const int all_from = seen_from(tile, last), all_to = seen_to(tile, first);

    for (int base = begin; base < end; base += KEYS) {
        cp_async_wait<0>();
        __syncthreads();
        fill_tile(value_tile, values, base);
        look_up(base + KEYS);

        // S = Q K^T. Matrix lane / 8 of a load: of Q rows 0 or 8, then columns 0 or 8; of K the other way.
        float score[MATRICES][KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            uint32_t a[MATRICES][4];
#pragma unroll
            for (int i = 0; i < MATRICES; ++i)
                ldmatrix_x4(a[i], chunk_of<DIM>(queries, own + 16 * i + lane % 16, 2 * step + lane / 16));
#pragma unroll
            for (int pair = 0; pair < KEYS / 16; ++pair) {
                uint32_t k[4];
                ldmatrix_x4(k, chunk_of<DIM>(key_tile, 16 * pair + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < MATRICES; ++i) {
                    HALF::mma(score[i][2 * pair], a[i], {k[0], k[1]});
                    HALF::mma(score[i][2 * pair + 1], a[i], {k[2], k[3]});
                }
            }
        }
        cp_async_wait<0>();
        __syncthreads();
        if (base + KEYS < end) fill_tile(key_tile, keys, base + KEYS);

        if (softcap > 0.0f) {
#pragma unroll
            for (int i = 0; i < MATRICES; ++i)
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) score[i][j][e] = soft_capped(score[i][j][e], softcap);
        }
        if (base < all_from || base + KEYS > all_to) {
#pragma unroll
            for (int i = 0; i < MATRICES; ++i)
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const int position = base + 8 * j + 2 * t + e % 2;
                        if (position >= to[i][e / 2] || position < window_of(tile, to[i][e / 2])) score[i][j][e] = MINUS_INFINITY;
                    }
        }
#pragma unroll
        for (int i = 0; i < MATRICES; ++i) {
            float old[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float now = most[i][half];
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j) now = fmaxf(now, fmaxf(score[i][j][2 * half], score[i][j][2 * half + 1]));
                now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
                now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
                // A row that sees nothing of this tile nor of those before has no maximum.
                const float shift = now == MINUS_INFINITY ? 0.0f : now;
                old[half] = exp2_approx(most[i][half] - shift);
                most[i][half] = now;
                float added = 0.0f;
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; ++e) {
                        score[i][j][e] = exp2_approx(score[i][j][e] - shift);
                        added += score[i][j][e];
                    }
                weight[i][half] = weight[i][half] * old[half] + added;
            }
            // A maximum that stays, as most do, multiplies by one.
            if (__any_sync(ALL_LANES, old[0] != 1.0f || old[1] != 1.0f)) {
#pragma unroll
                for (int n = 0; n < DIM / 8; ++n) {
                    sum[i][n][0] *= old[0], sum[i][n][1] *= old[0];
                    sum[i][n][2] *= old[1], sum[i][n][3] *= old[1];
                }
            }
        }

        // O += P V: the accumulators of S are P's fragments as they are. Matrix lane / 8 of a load of V, which is
        // transposed on the way: rows 0 or 8, then columns 0 or 8.
#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) {
            uint32_t p[MATRICES][4];
#pragma unroll
            for (int i = 0; i < MATRICES; ++i)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float(&of)[4] = score[i][2 * step + e / 2];
                    p[i][e] = HALF::pack(of[2 * (e % 2)], of[2 * (e % 2) + 1]);
                }
#pragma unroll
            for (int pair = 0; pair < STEPS; ++pair) {
                uint32_t v[4];
                ldmatrix_x4_trans(v, chunk_of<DIM>(value_tile, 16 * step + lane % 16, 2 * pair + lane / 16));
#pragma unroll
                for (int i = 0; i < MATRICES; ++i) {
                    HALF::mma(sum[i][2 * pair], p[i], {v[0], v[1]});
                    HALF::mma(sum[i][2 * pair + 1], p[i], {v[2], v[3]});
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < MATRICES; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float total = weight[i][half];
            total += __shfl_xor_sync(ALL_LANES, total, 1);
            total += __shfl_xor_sync(ALL_LANES, total, 2);
            const float inverse = __fdividef(1.0f, total);
            const int m = first + own + 16 * i + 8 * half + g;
            if (m > last) continue;
            const int64_t head = head_of(tile, m, n_heads, kv_head);
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n)
                if (8 * n < head_dim) {
                    const uint32_t low = __float_as_uint(sum[i][n][2 * half] * inverse);
                    const uint32_t high = __float_as_uint(sum[i][n][2 * half + 1] * inverse);
                    *reinterpret_cast<Bytes8*>(out + head * head_dim + 8 * n + 2 * t) = {{low, high}};
                }
        }
}

// Launch: grid (tiles of all spans, n_kv_heads), 128 threads, (queries + 128) * 2 * head_dim bytes of shared
// memory, head_dim being the next of 64, 128 and 256: those between are padded with zeros. `converted` takes
// f32, Q8_0 and Q4_0.
#define PREFILL(name, half, dim, per_warp, converted)                                     \
    KERNEL_BLOCKS(THREADS, 2, attention_prefill_##name##_##dim, PREFILL_PARAMETERS) {     \
        prefill<half, dim, per_warp, converted>(PREFILL_ARGUMENTS);                       \
    }
#define PREFILL_EACH(name, half, converted) \
    PREFILL(name, half, 64, 32, converted)  \
    PREFILL(name, half, 128, 32, converted) \
    PREFILL(name, half, 256, 16, converted)
PREFILL_EACH(f16, F16, false)
PREFILL_EACH(bf16, BF16, false)
PREFILL_EACH(converted, F16, true)
