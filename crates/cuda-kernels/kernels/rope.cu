// Rotary position embedding (Su et al. 2021), (a, b) -> (a cos - b sin, a sin + b cos), and with it the
// writing of keys and values to a cache.
//
// A head's first 2 * half elements turn: interleaved, elements 2i and 2i + 1 are a pair; else i and i + half.
// Cosines and sines are [rows, half]. Nothing is fused here (no multiply-add), and numbers are encoded as
// the crate `blocks` does, so that a cache has the same bytes as one that the CPU wrote.
//
// Bound by: bytes. Floor: queries read and written, keys and values read, both written as the cache has
// them, over the copy bandwidth. Turned keys go to the cache alone: writing them back would cost as much again
// as reading them.
#include "reduce.cuh"

struct Turn {
    const float* cos;
    const float* sin;
    int head_dim, half;
    bool interleaved;
};

DEVICE float turned_first(float a, float b, float cos, float sin) { return __fsub_rn(__fmul_rn(a, cos), __fmul_rn(b, sin)); }
DEVICE float turned_second(float a, float b, float cos, float sin) { return __fadd_rn(__fmul_rn(a, sin), __fmul_rn(b, cos)); }

// Turns V pairs of a row in place: those from `pair` on, counted over its heads. V divides half, and 4 * V
// the head where V is 4.
template <int V> DEVICE void turn_pairs(float* x, int64_t row, int pair, const Turn& t) {
    const int i = pair % t.half;
    float* head = x + int64_t(pair / t.half) * t.head_dim;
    const Floats<V> cos = load<V>(t.cos + row * t.half + i), sin = load<V>(t.sin + row * t.half + i);
    float* first = head + (t.interleaved ? 2 * i : i);
    float* second = first + (t.interleaved ? V : t.half);
    Floats<V> a = load<V>(first), b = load<V>(second);
    if (t.interleaved) {
        // The pairs lie in a, then in b.
        float all[2 * V];
#pragma unroll
        for (int k = 0; k < V; ++k) all[k] = a.at[k], all[V + k] = b.at[k];
#pragma unroll
        for (int k = 0; k < V; ++k) {
            const float even = all[2 * k], odd = all[2 * k + 1];
            all[2 * k] = turned_first(even, odd, cos.at[k], sin.at[k]);
            all[2 * k + 1] = turned_second(even, odd, cos.at[k], sin.at[k]);
        }
#pragma unroll
        for (int k = 0; k < V; ++k) a.at[k] = all[k], b.at[k] = all[V + k];
    } else {
#pragma unroll
        for (int k = 0; k < V; ++k) {
            const float left = a.at[k], right = b.at[k];
            a.at[k] = turned_first(left, right, cos.at[k], sin.at[k]);
            b.at[k] = turned_second(left, right, cos.at[k], sin.at[k]);
        }
    }
    store<V>(first, a);
    store<V>(second, b);
}

// The V elements of a row from `e` on, turned; nothing is written.
template <int V> DEVICE Floats<V> turned(const float* x, int64_t row, int e, const Turn& t) {
    const Floats<V> own = load<V>(x + e);
    const int i = e % t.head_dim;
    if (i >= 2 * t.half) return own;
    const float* cos = t.cos + row * t.half;
    const float* sin = t.sin + row * t.half;
    Floats<V> z;
    if (t.interleaved && V > 1) {
#pragma unroll
        for (int k = 0; k < V; ++k) {
            const float a = own.at[k & ~1], b = own.at[k | (V > 1)], c = cos[(i + k) / 2], s = sin[(i + k) / 2];
            z.at[k] = k % 2 == 0 ? turned_first(a, b, c, s) : turned_second(a, b, c, s);
        }
        return z;
    }
    const bool first = t.interleaved ? i % 2 == 0 : i < t.half;
    const int apart = t.interleaved ? 1 : t.half, angle = t.interleaved ? i / 2 : first ? i : i - t.half;
    const Floats<V> other = load<V>(x + (first ? e + apart : e - apart));
    const Floats<V> c = load<V>(cos + angle), s = load<V>(sin + angle);
#pragma unroll
    for (int k = 0; k < V; ++k)
        z.at[k] = first ? turned_first(own.at[k], other.at[k], c.at[k], s.at[k])
                        : turned_second(other.at[k], own.at[k], c.at[k], s.at[k]);
    return z;
}

// What a cache's elements are.
enum Cache { F32, F16, BF16, Q8_0, Q4_0 };

constexpr int BLOCK = 32;

DEVICE float reciprocal(float x) { return x == 0.0f ? 0.0f : 1.0f / x; }

// Towards zero; of what is not a number or too large, 0.
DEVICE int truncated(float x) { return fabsf(x) <= 4194304.0f ? int(x) : 0; }

// A block's scale: of infinite elements, or such that are no numbers, it is not a number, so that what the
// block cannot hold shows in all that is read from it.
DEVICE f16 scale_of(float d, uint32_t largest) { return to_f16(largest < 0x7f800000u ? d : __uint_as_float(0x7fc00000u)); }

// Of the lanes that hold a block, V elements each, which is first and which elements are the lane's.
template <int V> struct Share {
    static constexpr int LANES = BLOCK / V;
    DEVICE int first() { return lane_id() % LANES * V; }
    template <class T, class F> static __device__ T reduce(T x, F f) {
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2) x = f(x, __shfl_xor_sync(ALL_LANES, x, distance));
        return x;
    }
};

// Bytes of a block lie at multiples of 2.
template <int V> DEVICE void store_bytes(uint8_t* to, const uint8_t (&bytes)[V]) {
    if constexpr (V == 1) *to = bytes[0];
    else {
#pragma unroll
        for (int k = 0; k < V; k += 2) *reinterpret_cast<uint16_t*>(to + k) = uint16_t(bytes[k] | bytes[k + 1] << 8);
    }
}

// 8 bits: the largest magnitude becomes 127.
template <int V> DEVICE void store_q8_0(uint8_t* block, const Floats<V>& x, bool there) {
    uint32_t largest = 0;
#pragma unroll
    for (int k = 0; k < V; ++k) largest = max(largest, __float_as_uint(x.at[k]) & 0x7fffffffu);
    largest = Share<V>::reduce(largest, Larger());
    const float d = __uint_as_float(largest) / 127.0f, inverse = reciprocal(d);
    if (!there) return;
    uint8_t q[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
        // Half away from zero; the largest number below a half, since a half would carry 0.49999997 to 1.
        const float scaled = __fmul_rn(x.at[k], inverse);
        q[k] = uint8_t(truncated(__fadd_rn(scaled, scaled < 0.0f ? -0.49999997f : 0.49999997f)));
    }
    if (Share<V>::first() == 0) *reinterpret_cast<f16*>(block) = scale_of(d, largest);
    store_bytes<V>(block + 2 + Share<V>::first(), q);
}

// 4 bits: the element of largest magnitude, the first of equals, becomes -8. Element j is in the low half of
// byte j, j + 16 in the high half.
template <int V> DEVICE void store_q4_0(uint8_t* block, const Floats<V>& x, bool there) {
    uint64_t best = 0;
#pragma unroll
    for (int k = 0; k < V; ++k) {
        const uint32_t bits = __float_as_uint(x.at[k]);
        const uint32_t order = uint32_t(BLOCK - 1 - (Share<V>::first() + k)) << 1 | bits >> 31;
        best = max(best, uint64_t(bits & 0x7fffffffu) << 32 | order);
    }
    best = Share<V>::reduce(best, Larger());
    const uint32_t largest = uint32_t(best >> 32);
    const bool negative = largest > 0 && best & 1;
    const float d = __uint_as_float(largest | uint32_t(negative) << 31) / -8.0f, inverse = reciprocal(d);
    uint8_t q[V];
    uint32_t word = 0;
#pragma unroll
    for (int k = 0; k < V; ++k) {
        q[k] = uint8_t(min(truncated(__fadd_rn(__fmul_rn(x.at[k], inverse), 8.5f)), 15));
        word |= uint32_t(q[k]) << 8 * k;
    }
    const uint32_t upper = __shfl_xor_sync(ALL_LANES, word, Share<V>::LANES / 2);
    if (!there) return;
    const int first = Share<V>::first();
    if (first == 0) *reinterpret_cast<f16*>(block) = scale_of(d, largest);
    if (first >= BLOCK / 2) return;
#pragma unroll
    for (int k = 0; k < V; ++k) q[k] = uint8_t((q[k] & 15) | (upper >> 8 * k & 15) << 4);
    store_bytes<V>(block + 2 + first, q);
}

// Stores V elements of a slot from `e` on. All lanes of a warp come here, `there` or not.
template <Cache TYPE, int V> DEVICE void store_slot(uint8_t* cache, int64_t slot, int width, int e, const Floats<V>& x, bool there) {
    if (TYPE == Q8_0 || TYPE == Q4_0) {
        constexpr int BYTES = TYPE == Q8_0 ? 34 : 18;
        uint8_t* block = cache + (slot * (width / BLOCK) + e / BLOCK) * BYTES;
        if (TYPE == Q8_0) store_q8_0<V>(block, x, there);
        else store_q4_0<V>(block, x, there);
        return;
    }
    if (!there) return;
    const int64_t at = slot * width + e;
    if (TYPE == F32) store<V>(reinterpret_cast<float*>(cache) + at, x);
    else if (V == 4) {
        Bytes8 packed;
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const float low = x.at[2 * k % V], high = x.at[(2 * k + 1) % V];
            packed.words[k] = TYPE == F16 ? pack_f16(low, high) : pack_bf16(low, high);
        }
        *reinterpret_cast<Bytes8*>(cache + 2 * at) = packed;
    } else {
        *reinterpret_cast<uint16_t*>(cache + 2 * at) = TYPE == F16 ? to_f16(x.at[0]).bits : to_bf16(x.at[0]).bits;
    }
}

// A warp's work is up to 32 * V pairs of a row's queries, or as many elements of its keys or its values.
// Launch: a grid that walks on over the work of all rows. A row whose slot is not in the cache (a negative
// one, for rows that only fill a graph's batch) is turned and not stored.
template <Cache TYPE, int V>
DEVICE void turn_and_store_rows(float* q, const float* k, const float* v, const int* slots, uint8_t* keys, uint8_t* values,
                                int rows, int q_width, int width, int n_slots, const Turn& t) {
    const int pairs = q_width / t.head_dim * t.half, lanes = WARP * V;
    const int q_work = (pairs + lanes - 1) / lanes, kv_work = (width + lanes - 1) / lanes, work = q_work + 2 * kv_work;
    const int warps = gridDim.x * (blockDim.x / WARP);
    for (int unit = blockIdx.x * (blockDim.x / WARP) + warp_id(); unit < rows * work; unit += warps) {
        const int row = unit / work, part = unit % work;
        if (part < q_work) {
            const int pair = part * lanes + lane_id() * V;
            if (pair < pairs) turn_pairs<V>(q + int64_t(row) * q_width, row, pair, t);
            continue;
        }
        const bool is_key = part < q_work + kv_work;
        const int e = (part - q_work - (is_key ? 0 : kv_work)) * lanes + lane_id() * V;
        const int slot = slots[row];
        const bool there = e < width && slot >= 0 && slot < n_slots;
        Floats<V> x = {};
        if (there) x = is_key ? turned<V>(k + int64_t(row) * width, row, e, t) : load<V>(v + int64_t(row) * width + e);
        store_slot<TYPE, V>(is_key ? keys : values, slot, width, e, x, there);
    }
}

// `_4`: head_dim is a multiple of 4 and half as well, pointers are aligned to 16; `_1`: any.
#define TURN_AND_STORE(name, TYPE)                                                                                     \
    KERNEL(256, name##_4, float* q, const float* k, const float* v, const float* cos, const float* sin,                \
           const int* slots, uint8_t* keys, uint8_t* values, int rows, int q_width, int width, int n_slots,            \
           int head_dim, int half, int interleaved) {                                                                  \
        turn_and_store_rows<TYPE, 4>(q, k, v, slots, keys, values, rows, q_width, width, n_slots,                      \
                                     Turn{cos, sin, head_dim, half, interleaved != 0});                                \
    }                                                                                                                  \
    KERNEL(256, name##_1, float* q, const float* k, const float* v, const float* cos, const float* sin,                \
           const int* slots, uint8_t* keys, uint8_t* values, int rows, int q_width, int width, int n_slots,            \
           int head_dim, int half, int interleaved) {                                                                  \
        turn_and_store_rows<TYPE, 1>(q, k, v, slots, keys, values, rows, q_width, width, n_slots,                      \
                                     Turn{cos, sin, head_dim, half, interleaved != 0});                                \
    }

TURN_AND_STORE(turn_and_store_f32, F32)
TURN_AND_STORE(turn_and_store_f16, F16)
TURN_AND_STORE(turn_and_store_bf16, BF16)
TURN_AND_STORE(turn_and_store_q8_0, Q8_0)
TURN_AND_STORE(turn_and_store_q4_0, Q4_0)

// The rotation alone. Floor: 8 bytes an element that turns. Launch: a grid that walks on, V pairs a thread.
template <int V> DEVICE void rope_rows(float* x, int rows, int width, const Turn& t) {
    const int each = width / t.head_dim * t.half / V, step = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * each; i += step) {
        const int row = i / each;
        turn_pairs<V>(x + int64_t(row) * width, row, i % each * V, t);
    }
}

KERNEL(256, rope_4, float* x, const float* cos, const float* sin, int rows, int width, int head_dim, int half, int interleaved) {
    rope_rows<4>(x, rows, width, Turn{cos, sin, head_dim, half, interleaved != 0});
}
KERNEL(256, rope_1, float* x, const float* cos, const float* sin, int rows, int width, int head_dim, int half, int interleaved) {
    rope_rows<1>(x, rows, width, Turn{cos, sin, head_dim, half, interleaved != 0});
}
