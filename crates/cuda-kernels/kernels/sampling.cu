// From logits to tokens: the largest of a row, the logarithms of probabilities, and the draw of the crate
// `sampling` (temperature, top-k, top-p, min-p, then one uniform number).
//
// Every cut keeps the first tokens by rank: largest logit first, of equals the lowest id. So a cut is a
// number and a place among those that equal it, which are found without sorting: by a search over keys,
// integers in the order of the logits. Weights w = exp((l - max) / T) are summed as integers, in units of
// 2^-44: such sums are the same in any order, so that atomics and any number of threads may make them.
//
// Bound by: latency. A block has a row and reads it from the L2 cache once for each pass: 512 KB at about
// 100 GB/s, 5 us. Floor: 4 bytes an element over the copy bandwidth, for batches that fill the device.
#include "reduce.cuh"

// Of a row, as the host writes it.
struct SampleParams {
    double uniform;  // in [0, 1)
    float temperature;
    int top_k;  // 0 keeps all
    float top_p;
    float min_p;
};

// Equal numbers have equal keys: -0 becomes 0.
DEVICE uint32_t logit_key(float x) { return ordered(x + 0.0f); }

// The first of the largest of a row, `nan` the rank of what is not a number. By a block, in every thread.
DEVICE uint64_t best_of_row(const float* row, int cols, uint64_t nan, uint64_t* scratch) {
    uint64_t best = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
        const float x = row[i];
        best = Larger()(best, x == x ? ranked(logit_key(x), i) : nan);
    }
    return block_reduce(best, uint64_t(0), scratch, Larger());
}

// The largest of each row, of equals the first; -1 if none is a number. Launch: a block a row.
KERNEL(1024, argmax, const float* logits, int* tokens, int cols) {
    SHARED(uint64_t, scratch, 32);
    const uint64_t best = best_of_row(logits + int64_t(blockIdx.x) * cols, cols, 0, scratch);
    if (threadIdx.x == 0) tokens[blockIdx.x] = best ? place_of(best) : -1;
}

// ln of the softmax of a row at each of its ids, [rows, each]: l - max - ln sum exp(l - max). An id that the row
// does not have gets what is not a number. Launch: a block a row.
KERNEL(1024, log_softmax_at, const float* logits, const int* ids, float* out, int cols, int quads, int each) {
    SHARED(float, scratch, 32);
    const float* row = logits + int64_t(blockIdx.x) * cols;
    const Online all = online_of_row(row, cols, quads, scratch);
    const float log_sum = logf(all.sum);
    for (int i = threadIdx.x; i < each; i += blockDim.x) {
        const int64_t at = int64_t(blockIdx.x) * each + i;
        const int id = ids[at];
        out[at] = id >= 0 && id < cols ? (row[id] - all.max) - log_sum : __uint_as_float(0x7fc00000u);
    }
}

// ---- Sampling ----------------------------------------------------------------------------------

constexpr int THREADS = 1024, WARPS = THREADS / WARP;
// Keys that fit into shared memory: in most rows all that a cut can keep.
constexpr int CAPACITY = 8192;
constexpr float UNIT = 17592186044416.0f;  // 2^44: a row of 2^19 weights of 1 stays below 2^64

struct Row {
    const float* at;
    int cols;
    float max, temperature;
};

DEVICE float weight(const Row& row, float logit) { return expf((logit - row.max) / row.temperature); }
DEVICE uint64_t mass(float weight) { return uint64_t(weight * UNIT); }
DEVICE uint64_t mass_of_key(const Row& row, uint32_t key) { return mass(weight(row, from_ordered(key))); }

// Sums over the block, in every thread. `scratch` has N times 32 elements.
template <int N> DEVICE void block_sums(uint64_t (&x)[N], uint64_t* scratch) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < N; ++j) {
        x[j] = warp_reduce(x[j], Plus());
        if (lane_id() == 0) scratch[j * WARPS + warp_id()] = x[j];
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = warp_reduce(scratch[j * WARPS + lane_id()], Plus());
}

// Sums of this lane and those before.
DEVICE uint64_t running_sum(uint64_t x) {
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        const uint64_t before = __shfl_up_sync(ALL_LANES, x, distance);
        if (lane_id() >= distance) x += before;
    }
    return x;
}

// The first place of a row at which the running sum of f(logit, place) is above goal(sum of all), which must be
// less than that sum. Each warp sums a part; the part in which it happens is divided again.
template <class F, class G> DEVICE int first_beyond(const Row& row, F f, G goal_of, uint64_t* scratch) {
    int begin = 0, end = row.cols, part = row.cols;
    uint64_t before = 0, goal = 0;
    bool known = false;
    while (part > WARP) {
        part = ((end - begin + WARPS - 1) / WARPS + WARP - 1) / WARP * WARP;
        const int from = begin + warp_id() * part, to = min(from + part, end);
        uint64_t sum = 0;
#pragma unroll 4
        for (int i = from + lane_id(); i < to; i += WARP) sum += f(row.at[i], i);
        sum = warp_reduce(sum, Plus());
        __syncthreads();
        if (lane_id() == 0) scratch[warp_id()] = sum;
        __syncthreads();
        const uint64_t mine = scratch[lane_id()], up_to = running_sum(mine);
        if (!known) goal = goal_of(__shfl_sync(ALL_LANES, up_to, WARP - 1));
        known = true;
        const int where = lowest_bit(__ballot_sync(ALL_LANES, before + up_to > goal));
        before += __shfl_sync(ALL_LANES, up_to - mine, where);
        begin += where * part;
        end = min(begin + part, end);
    }
    const int i = begin + lane_id();
    const uint64_t up_to = running_sum(i < end ? f(row.at[i], i) : 0);
    if (!known) goal = goal_of(__shfl_sync(ALL_LANES, up_to, WARP - 1));
    return begin + lowest_bit(__ballot_sync(ALL_LANES, before + up_to > goal));
}

// Keys to choose among: `count` in shared memory that are at least `low`, or those of the whole row.
struct Keys {
    const uint32_t* kept;
    int count;
    uint32_t low;
};

template <class F> DEVICE void for_each_key(const Row& row, const Keys& keys, F f) {
    if (keys.kept) {
        for (int i = threadIdx.x; i < keys.count; i += THREADS) f(keys.kept[i]);
    } else {
#pragma unroll 4
        for (int i = threadIdx.x; i < row.cols; i += THREADS) f(logit_key(row.at[i]));
    }
}

struct Found {
    uint32_t key;
    uint64_t above, at;  // sums of f over larger keys, and over those equal
};

// The largest key for which the sum of f over it and all larger ones is `need` or more; over `low` and larger
// ones, of which the sum is `sum`, it is. No key is above `top`. Each round divides the range by four.
template <class F>
DEVICE Found search(const Row& row, const Keys& keys, uint32_t low, uint64_t sum, uint32_t top, uint64_t need, F f,
                    uint64_t* scratch) {
    uint64_t above = 0;
    uint32_t high = top + 1;
    while (high - low > 1) {
        const uint32_t range = high - low;
        const uint32_t pivots[3] = {low + range / 4, low + range / 2, low + range / 2 + range / 4};
        uint64_t sums[3] = {0, 0, 0};
        for_each_key(row, keys, [&](uint32_t key) {
            if (key < pivots[0]) return;
            const uint64_t x = f(key);
#pragma unroll
            for (int j = 0; j < 3; ++j) sums[j] += key >= pivots[j] ? x : 0;
        });
        block_sums<3>(sums, scratch);
        for (int j = 0; j < 3; ++j) {
            // Of those that reach it the last counts, of those that do not the first.
            if (sums[j] >= need) low = pivots[j], sum = sums[j];
            else {
                high = pivots[j], above = sums[j];
                break;
            }
        }
    }
    return {low, above, sum - above};
}

// What is kept: larger keys, and equal ones up to place `last`.
struct Cut {
    uint32_t key;
    int last;
    DEVICE bool keeps(const Cut& cut, uint32_t key, int place) { return key > cut.key || (key == cut.key && place <= cut.last); }
};

// Top-k, then top-p of what it left.
DEVICE Cut cut_of(const Row& row, const SampleParams& p, uint32_t* kept, int* count, uint64_t* scratch) {
    const bool by_count = p.top_k > 0 && p.top_k < row.cols, by_mass = p.top_p < 1.0f;
    if (!by_count && !by_mass) return {0, row.cols};
    const auto mass_of = [&](uint32_t key) { return mass_of_key(row, key); };
    const auto target_of = [&](uint64_t sum) {
        const double exact = double(p.top_p) * double(sum);
        const uint64_t whole = uint64_t(exact);
        return max(whole + uint64_t(double(whole) < exact), uint64_t(1));
    };

    // Candidates: all within a distance of the largest that is enough for the cut, if they fit.
    const uint32_t top = logit_key(row.max);
    Keys keys = {nullptr, row.cols, 0};
    uint64_t total[2] = {0, 0};
    for (int depth = 5; depth <= 20 && !keys.kept; depth *= 2) {
        const uint32_t low = logit_key(row.max - float(depth) * (by_count ? 1.0f : row.temperature));
        uint64_t sums[2] = {0, 0};
        __syncthreads();
        if (threadIdx.x == 0) *count = 0;
        __syncthreads();
        for_each_key(row, keys, [&](uint32_t key) {
            const uint64_t x = by_count ? 0 : mass_of(key);
            sums[0] += x;
            if (key < low) return;
            sums[1] += x;
            const int place = atomicAdd(count, 1);
            if (place < CAPACITY) kept[place] = key;
        });
        block_sums<2>(sums, scratch);
        total[0] = sums[0], total[1] = sums[0];
        const int found = *count;
        if (found > CAPACITY) break;
        if (by_count ? found >= p.top_k : sums[1] >= target_of(sums[0])) {
            keys = {kept, found, low};
            total[1] = sums[1];
        }
    }

    Found at = {keys.low, 0, 0};
    uint64_t equals = 0, wanted = 0;
    if (by_count) {
        const uint64_t k = uint64_t(p.top_k);
        at = search(row, keys, keys.low, uint64_t(keys.count), top, k, [](uint32_t) { return uint64_t(1); }, scratch);
        equals = at.at, wanted = k - at.above;
    }
    if (by_mass) {
        const uint32_t low = at.key;
        if (by_count) {
            uint64_t larger[1] = {0};
            for_each_key(row, keys, [&](uint32_t key) { larger[0] += key > low ? mass_of(key) : 0; });
            block_sums<1>(larger, scratch);
            total[0] = total[1] = larger[0] + wanted * mass_of(low);
        }
        const uint64_t target = target_of(total[0]);
        at = search(row, keys, low, total[1], top, target, mass_of, scratch);
        const uint64_t each = max(mass_of(at.key), uint64_t(1)), enough = (target - at.above + each - 1) / each;
        if (by_count && at.key == low) wanted = min(wanted, enough);
        else equals = at.at / each, wanted = enough;
    }
    Cut cut = {at.key, row.cols};
    if (wanted < equals) {
        const auto is_equal = [&](float logit, int) { return uint64_t(logit_key(logit) == at.key); };
        cut.last = first_beyond(row, is_equal, [=](uint64_t) { return wanted - 1; }, scratch);
    }
    return cut;
}

// A token of each row; -1 for a row from which none can be drawn: what is not a number in it, or +inf, or
// nothing but -inf. Launch: a block of 1024 threads a row.
KERNEL(1024, sample, const float* logits, const SampleParams* params, int* tokens, int cols) {
    SHARED(uint64_t, scratch, 3 * 32);
    SHARED(uint32_t, kept, CAPACITY);
    SHARED(int, count, 1);
    const SampleParams p = params[blockIdx.x];
    Row row = {logits + int64_t(blockIdx.x) * cols, cols, 0.0f, p.temperature};
    const uint64_t best = best_of_row(row.at, cols, ~0ull, scratch);
    row.max = from_ordered(key_of(best));
    int token = -1;
    if (fabsf(row.max) <= 3.402823466e38f) {
        token = place_of(best);
        if (p.temperature > 0.0f && p.top_k != 1) {
            const Cut cut = cut_of(row, p, kept, count, scratch);
            const auto left = [&](float logit, int place) {
                const float w = weight(row, logit);
                return Cut::keeps(cut, logit_key(logit), place) && w >= p.min_p ? mass(w) : 0;
            };
            // `u < cumulative / total`, as the crate `sampling` draws.
            const auto goal = [&](uint64_t total) { return min(uint64_t(p.uniform * double(total)), total - 1); };
            token = first_beyond(row, left, goal, scratch);
        }
    }
    if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}
