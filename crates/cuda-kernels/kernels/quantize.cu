// Blocks of 32 from plain numbers: weights, to the bytes that the crate `blocks` makes of them; activations, for
// products in bytes; NF4 and FP4 with double quantization.
//
// Bound by: bytes. Floor: four an element and those of the blocks over the copy bandwidth. Only IQ4_NL,
// which tries sixteen scales, is bound by its arithmetic.
//
// Every product is rounded before it is added to something (__fmul_rn), as on processors without fused
// multiply-add: a level at a tie depends on it.
#include "quantize.cuh"

// ---- Blocks of 32 by eight lanes, each with four elements ----------------------------------------

// Element j in the low nibble of byte j, j + 16 in the high one: lane l < 4 writes four bytes.
DEVICE void store_nibbles(uint8_t* qs, uint32_t levels, int lane, bool there) {
    const uint32_t other = __shfl_xor_sync(ALL_LANES, levels, 4);
    if (there && lane < 4) store_u32(qs + 4 * lane, (levels & 0x0f0f0f0fu) | (other & 0x0f0f0f0fu) << 4);
}
DEVICE void store_fifth_bits(uint8_t* qh, uint32_t levels, int lane, bool there) {
    uint32_t bits = levels >> 4 & 0x01010101u;
    bits = ((bits | bits >> 7 | bits >> 14 | bits >> 21) & 15) << 4 * lane;
#pragma unroll
    for (int mask = 4; mask > 0; mask /= 2) bits |= __shfl_xor_sync(ALL_LANES, bits, mask);
    if (there && lane == 0) store_u32(qh, bits);
}

// Scale and levels 0..2 N of the types without minimum: the element of largest magnitude becomes -N.
template <int N> DEVICE float to_signed(const float (&x)[4], uint32_t& levels) {
    const float scale = __fdiv_rn(signed_max<8>(x), float(-N)), inverse = reciprocal(scale);
    int q[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
        q[i] = min(int(int8_t(truncate(__fadd_rn(__fmul_rn(x[i], inverse), float(N) + 0.5f)))), 2 * N - 1);
    levels = join_bytes(q);
    return scale;
}

// Scale, minimum and levels 0..N of the others. A minimum of zero has the sign of the first zero.
template <int N> DEVICE Scale to_unsigned(const float (&x)[4], uint32_t& levels) {
    const float high = group_max<8>(fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])));
    float low = -group_max<8>(fmaxf(fmaxf(-x[0], -x[1]), fmaxf(-x[2], -x[3])));
    const bool negative = first_is_negative<8>(x, 0.0f);
    if (low == 0.0f) low = negative ? -0.0f : 0.0f;
    const float scale = high > low ? __fdiv_rn(__fsub_rn(high, low), float(N)) : 0.0f, inverse = reciprocal(scale);
    int q[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        q[i] = truncate(__fadd_rn(__fmul_rn(__fsub_rn(x[i], low), inverse), 0.5f));
        if (N == 15) q[i] = min(int(int8_t(q[i])), 15);
    }
    levels = join_bytes(q);
    return {scale, low};
}

DEVICE void encode(BlockQ8_0& b, const float (&x)[4], int lane, bool there) {
    int q[4];
    const float scale = to_bytes(x, q);
    if (there) store_u32(b.qs + 4 * lane, join_bytes(q));
    if (there && lane == 0) store_half(b.d, scale);
}
DEVICE void encode(BlockQ8_1& b, const float (&x)[4], int lane, bool there) {
    int q[4];
    const float scale = to_bytes(x, q), sum = float(group_sum<8>(q[0] + q[1] + q[2] + q[3]));
    if (there) store_u32(b.qs + 4 * lane, join_bytes(q));
    if (there && lane == 0) store_half(b.d, scale), store_half(b.s, __fmul_rn(sum, scale));
}
DEVICE void encode(BlockQ4_0& b, const float (&x)[4], int lane, bool there) {
    uint32_t levels;
    const float scale = to_signed<8>(x, levels);
    if (there && lane == 0) store_half(b.d, scale);
    store_nibbles(b.qs, levels, lane, there);
}
DEVICE void encode(BlockQ5_0& b, const float (&x)[4], int lane, bool there) {
    uint32_t levels;
    const float scale = to_signed<16>(x, levels);
    if (there && lane == 0) store_half(b.d, scale);
    store_nibbles(b.qs, levels, lane, there);
    store_fifth_bits(b.qh, levels, lane, there);
}
DEVICE void encode(BlockQ4_1& b, const float (&x)[4], int lane, bool there) {
    uint32_t levels;
    const Scale scale = to_unsigned<15>(x, levels);
    if (there && lane == 0) store_half(b.d, scale.scale), store_half(b.m, scale.min);
    store_nibbles(b.qs, levels, lane, there);
}
DEVICE void encode(BlockQ5_1& b, const float (&x)[4], int lane, bool there) {
    uint32_t levels;
    const Scale scale = to_unsigned<31>(x, levels);
    if (there && lane == 0) store_half(b.d, scale.scale), store_half(b.m, scale.min);
    store_nibbles(b.qs, levels, lane, there);
    store_fifth_bits(b.qh, levels, lane, there);
}

DEVICE void load_4(const float* from, float (&x)[4]) {
    uint32_t words[4];
    load_words<16>(from, words);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = __uint_as_float(words[i]);
}

// Launch: any grid of 256 threads; its warps walk on, each with four blocks of 32 at once. A lane loads 16
// bytes, its neighbours those beside; twice before anything is done with them.
template <class B> DEVICE void quantize_32(const float* x, uint8_t* out, int64_t blocks) {
    const int lane = threadIdx.x % 8;
    const int64_t step = int64_t(gridDim.x) * blockDim.x / 8;
    const int64_t warp = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP * 4, own = threadIdx.x % WARP / 8;
    for (int64_t first = warp; first < blocks; first += 2 * step) {
        float elements[2][4];
#pragma unroll
        for (int u = 0; u < 2; ++u) load_4(x + min(first + u * step + own, blocks - 1) * 32 + 4 * lane, elements[u]);
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            const int64_t block = first + u * step + own;
            const bool there = block < blocks;
            encode(*reinterpret_cast<B*>(out + (there ? block : 0) * int(sizeof(B))), elements[u], lane, there);
        }
    }
}

#define QUANTIZE(block, name) \
    KERNEL(256, name, const float* x, uint8_t* out, int64_t blocks) { quantize_32<block>(x, out, blocks); }

QUANTIZE(BlockQ4_0, quantize_q4_0)
QUANTIZE(BlockQ4_1, quantize_q4_1)
QUANTIZE(BlockQ5_0, quantize_q5_0)
QUANTIZE(BlockQ5_1, quantize_q5_1)
QUANTIZE(BlockQ8_0, quantize_q8_0)
QUANTIZE(BlockQ8_1, quantize_q8_1)

// ---- IQ4_NL by sixteen lanes, each with two elements and one of the scales to try ---------------

// The nearest code and its value; at a tie the larger. Midpoints are half-integers: rounding 2 x down to an
// integer loses nothing. Not a number counts as 0.
DEVICE void nearest_iq4(float x, int& code, int& value) {
    const int values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    float doubled = __fadd_rn(x, x);
    doubled = doubled < -256.0f ? -256.0f : doubled > 256.0f ? 256.0f : doubled;
    const int down = doubled == doubled ? int(floorf(doubled)) : 0;
    code = 0, value = values[0];
#pragma unroll
    for (int c = 0; c < 15; ++c)
        if (down >= values[c] + values[c + 1]) code = c + 1, value = values[c + 1];
}

// The sums over a block run in the order of its elements, so each lane makes them alone, of another
// rounding: that for which the element of largest magnitude becomes 127, or -127 + i, -7 <= i <= 7. Of all
// d = sum(w q x) / sum(w q^2), w = x^2, the one of least error is taken. Launch as above.
KERNEL(256, quantize_iq4_nl, const float* x, uint8_t* out, int64_t blocks) {
    const int lane = threadIdx.x % 16;
    const int64_t step = int64_t(gridDim.x) * blockDim.x / 16;
    const int64_t warp = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP * 2;
    for (int64_t first = warp; first < blocks; first += step) {
        const int64_t block = first + threadIdx.x % WARP / 16;
        const bool there = block < blocks;
        uint32_t words[2];
        load_words<8>(x + (there ? block : 0) * 32 + 2 * lane, words);
        const float own[2] = {__uint_as_float(words[0]), __uint_as_float(words[1])};
        const float max = signed_max<16>(own);
        const float inverse = lane == 0 ? __fdiv_rn(1.0f, __fdiv_rn(-max, -127.0f)) : __fdiv_rn(float(lane - 8) - 127.0f, max);
        const int base = threadIdx.x % WARP / 16 * 16;
        float qx = 0.0f, q2 = 0.0f;
        int code, value;
        for (int i = 0; i < 32; ++i) {
            const float element = __shfl_sync(ALL_LANES, i % 2 ? own[1] : own[0], base + i / 2);
            nearest_iq4(__fmul_rn(inverse, element), code, value);
            const float wq = __fmul_rn(__fmul_rn(element, element), float(value));
            qx = __fadd_rn(qx, __fmul_rn(wq, element));
            q2 = __fadd_rn(q2, __fmul_rn(wq, float(value)));
        }
        float d = 0.0f, best = 0.0f;
        for (int c = 0; c < 16; ++c) {
            const float of_x = __shfl_sync(ALL_LANES, qx, base + c), of_q = __shfl_sync(ALL_LANES, q2, base + c);
            const bool better = of_q > 0.0f && (c == 0 || __fmul_rn(of_x, of_x) > __fmul_rn(best, of_q));
            if (better) d = __fdiv_rn(of_x, of_q), best = __fmul_rn(d, of_x);
        }
        if (fabsf(max) < 1e-15f) d = 0.0f;
        int codes[2];
        for (int i = 0; i < 2; ++i) nearest_iq4(__fmul_rn(reciprocal(d), own[i]), codes[i], value);
        const uint32_t both = codes[0] | codes[1] << 8, other = __shfl_xor_sync(ALL_LANES, both, 8);
        BlockIq4Nl& b = *reinterpret_cast<BlockIq4Nl*>(out + (there ? block : 0) * int(sizeof(BlockIq4Nl)));
        if (there && lane < 8) store_u16(b.qs + 2 * lane, both | other << 4);
        if (there && lane == 0) store_half(b.d, d);
    }
}

// ---- Activations -------------------------------------------------------------------------------

// What products with blocks by dp4a take (see rounding.cuh). `groups` are all groups of 32, of all rows. Launch as `quantize_32`.
KERNEL(256, quantize_activations, const float* x, int8_t* out, ActivationScale* scales, int64_t groups) {
    const int lane = threadIdx.x % 8;
    const int64_t step = int64_t(gridDim.x) * blockDim.x / 8;
    const int64_t warp = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP * 4;
    for (int64_t first = warp; first < groups; first += step) {
        const int64_t group = first + threadIdx.x % WARP / 8;
        const bool there = group < groups;
        float elements[4];
        load_4(x + (there ? group : 0) * 32 + 4 * lane, elements);
        store_rounded(elements, out, scales, group, there);
    }
}

// Bytes with one scale a row, x = scale * q: what the product of bytes with bytes (W8A8) takes. The
// largest magnitude becomes 127, others the nearest, ties to even. Launch: a block a row; k a multiple of
// 4. A row is read twice, the second time from the cache.
KERNEL(256, quantize_rows, const float* x, int8_t* out, float* scales, int rows, int k) {
    SHARED(float, scratch, 32);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* from = x + int64_t(row) * k;
        float most = 0.0f;
        for (int i = threadIdx.x; i < k / 4; i += blockDim.x) {
            float elements[4];
            load_4(from + 4 * i, elements);
            for (float element : elements) most = fmaxf(most, fabsf(element));
        }
        most = block_max(most, scratch);
        const float inverse = most > 0.0f ? __fdiv_rn(127.0f, most) : 0.0f;
        for (int i = threadIdx.x; i < k / 4; i += blockDim.x) {
            float elements[4];
            load_4(from + 4 * i, elements);
            int q[4];
            for (int e = 0; e < 4; ++e) q[e] = min(max(__float2int_rn(__fmul_rn(elements[e], inverse)), -127), 127);
            reinterpret_cast<uint32_t*>(out + int64_t(row) * k)[i] = join_bytes(q);
        }
        if (threadIdx.x == 0) scales[row] = __fdiv_rn(most, 127.0f);
    }
}

// ---- NF4 and FP4, double quantization (QLoRA, Dettmers et al. 2023) ------------------------------

// Blocks of 64 by sixteen lanes, each with four elements: the nearest code of x / absmax, at a tie the
// lower. `midpoints` lie between the sorted numbers, `order` has their codes in nibbles. n is even; two
// codes a byte, the first in the high nibble. Launch: any grid; its warps walk on, with two blocks each.
KERNEL(256, quantize_4bit, const float* x, const float* midpoints, uint8_t* packed, float* absmax, int64_t n, int64_t order) {
    SHARED(float, bounds, 16);
    if (threadIdx.x < 15) bounds[threadIdx.x] = midpoints[threadIdx.x];
    __syncthreads();
    const int lane = threadIdx.x % 16;
    const int64_t step = int64_t(gridDim.x) * blockDim.x / 16, blocks = (n + 63) / 64;
    const int64_t warp = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP * 2;
    for (int64_t first = warp; first < blocks; first += step) {
        const int64_t block = first + threadIdx.x % WARP / 16, at = block * 64 + 4 * lane;
        float elements[4] = {};
        if (at + 4 <= n) load_4(x + at, elements);
        else
            for (int i = 0; i < 4; ++i) elements[i] = at + i < n ? x[at + i] : 0.0f;
        const float most = largest_magnitude<16>(elements), inverse = reciprocal(most);
        uint32_t codes = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float scaled = __fmul_rn(elements[i], inverse);
            int place = 0;
#pragma unroll
            for (int b = 0; b < 15; ++b) place += scaled > bounds[b];
            codes |= uint32_t(order >> 4 * place & 15) << (i / 2 * 8 + (i % 2 ? 0 : 4));
        }
        if (at + 4 <= n) store_u16(packed + at / 2, codes);
        else if (at + 2 <= n) packed[at / 2] = uint8_t(codes);
        if (lane == 0 && block < blocks) absmax[block] = most;
    }
}

// The mean of the absmax of all blocks. Launch: one block.
KERNEL(1024, absmax_mean, const float* absmax, float* mean, int64_t blocks) {
    SHARED(float, scratch, 32);
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < blocks; i += blockDim.x) sum += absmax[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *mean = __fdiv_rn(sum, float(blocks));
}

// absmax - *offset in blocks of 256, each with its own largest magnitude, by the nearest of the 256 sorted
// numbers of `map`. Launch: a block of 256 threads for each.
KERNEL(256, quantize_absmax, const float* absmax, const float* map, const float* offset, uint8_t* codes, float* nested_absmax,
       int64_t blocks) {
    SHARED(float, sorted, 256);
    SHARED(float, scratch, 32);
    const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
    sorted[threadIdx.x] = map[threadIdx.x];
    const float x = i < blocks ? __fsub_rn(absmax[i], *offset) : 0.0f;
    const float most = block_max(fabsf(x), scratch);
    const float scaled = __fmul_rn(x, reciprocal(most));
    // How many midpoints lie below, by halves.
    int below = 0;
    for (int half = 128; half > 0; half /= 2) {
        const int middle = below + half;
        if (scaled > __fmul_rn(0.5f, __fadd_rn(sorted[middle - 1], sorted[middle]))) below = middle;
    }
    if (i < blocks) codes[i] = uint8_t(below);
    if (threadIdx.x == 0) nested_absmax[blockIdx.x] = most;
}
