// K-quants from plain numbers, to the bytes that the crate `blocks` makes of them without importances: the
// searches of its module `fit`, which tries roundings of a group of 16 or 32 and keeps the scale of least error.
//
// Bound by: arithmetic. Floor: roundings tried times operations an element of each, over the rate of floats: for
// Q4_K 22 roundings of about 18 operations, for Q5_K and Q2_K 17, for Q6_K 19 of about 11, for Q3_K one and up to five
// rounds of a division and 15 more. The bytes take a tenth of that time for Q4_K, a sixth for Q6_K.
//
// A lane has a group and searches alone: a rounding's sums run in the order of its elements, and where there are minima
// each rounding starts from the minimum that the one before has left. So a warp has four super-blocks in groups of 32
// or two in groups of 16, whose lanes meet for the scales of the scales and to put their levels together. Elements,
// their weights and a rounding's levels are in registers.
//
// Every operation is rounded by itself, since a level at a tie depends on it: arithmetic is that of `Real`.
//
// Launch: any grid of 256 threads; its warps walk on.
#include "quantize.cuh"

// ---- Floats of which no product is fused with a sum ----------------------------------------------

struct Real {
    float value;
};
DEVICE Real operator+(Real a, Real b) { return {__fadd_rn(a.value, b.value)}; }
DEVICE Real operator-(Real a, Real b) { return {__fsub_rn(a.value, b.value)}; }
DEVICE Real operator*(Real a, Real b) { return {__fmul_rn(a.value, b.value)}; }
DEVICE Real operator/(Real a, Real b) { return {__fdiv_rn(a.value, b.value)}; }
DEVICE Real operator-(Real a) { return {-a.value}; }
DEVICE bool operator<(Real a, Real b) { return a.value < b.value; }
DEVICE bool operator>(Real a, Real b) { return a.value > b.value; }
DEVICE bool operator==(Real a, Real b) { return a.value == b.value; }
DEVICE bool operator!=(Real a, Real b) { return a.value != b.value; }

constexpr Real ZERO{0.0f}, ONE{1.0f}, TENTH{0.1f};
constexpr Real ROUND{12582912.0f};  // 1.5 * 2^23: adding and subtracting it rounds, ties to even
constexpr Real TINY{1e-15f};        // groups whose largest magnitude is below this are taken as zero

DEVICE Real real(int x) { return {float(x)}; }
DEVICE Real magnitude(Real x) { return {fabsf(x.value)}; }
DEVICE Real nearest(Real x) { return (x + ROUND) - ROUND; }
// What is not a number becomes `low`.
DEVICE Real clamp(Real x, Real low, Real high) { return {fminf(fmaxf(x.value, low.value), high.value)}; }

// As `nearest_int` of the crate `blocks`: beyond 2^22 some integer, the same as there. What is not a number gives 0, as
// there by the bits that processors give it.
DEVICE int nearest_int(Real x) {
    const Real sum = x + ROUND;
    return sum == sum ? (__float_as_int(sum.value) & 0x7fffff) - 0x400000 : 0;
}
DEVICE int nearest_int(Real x, int low, int high) { return min(max(nearest_int(x), low), high); }

// The first of a lane's elements that have the largest magnitude.
template <int COUNT> DEVICE Real lane_signed_max(const Real (&x)[COUNT]) {
    Real most = ZERO;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) most = magnitude(x[i]) > magnitude(most) ? x[i] : most;
    return most;
}

// The same of the numbers that the lanes of a block have.
template <int LANES> DEVICE Real block_signed_max(Real x) {
    const float own[1] = {x.value};
    return {signed_max<LANES>(own)};
}

// ---- x ~ scale * q + min, q in 0..N, min <= 0 ------------------------------------------------------

struct WithMin {
    Real scale, min;
    Real inverse, origin;  // the rounding of the best fit: q = inverse * (x - origin)
    bool flat;
};

template <int N> DEVICE Real level_above(Real inverse, Real x, Real origin) {
    return nearest(clamp(inverse * (x - origin), ZERO, real(N)));
}

template <bool ABSOLUTE> DEVICE Real deviation(Real level, Real scale, Real min, Real x) {
    const Real apart = scale * level + min - x;
    return ABSOLUTE ? magnitude(apart) : apart * apart;
}

// Elements weigh `weight` + |x|; the largest is tried at N + start + i / 10, i in 0..steps.
template <int N, bool ABSOLUTE, int COUNT>
DEVICE WithMin fit_with_min(const Real (&x)[COUNT], Real weight, Real start, int steps) {
    Real low = x[0], high = x[0], sum_w = weight + magnitude(x[0]), sum_x = sum_w * x[0];
#pragma unroll
    for (int i = 1; i < COUNT; ++i) {
        const Real w = weight + magnitude(x[i]);
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sum_w = sum_w + w;
        sum_x = sum_x + w * x[i];
    }
    low = low > ZERO ? ZERO : low;
    const Real plain = real(N) / (high - low);
    WithMin fit = {ONE / plain, low, plain, low, !(high > low)};
    Real best = ZERO;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const Real level = level_above<N>(plain, x[i], low);
        best = best + (weight + magnitude(x[i])) * deviation<ABSOLUTE>(level, fit.scale, low, x[i]);
    }
#pragma unroll 1
    for (int step = 0; step <= steps; ++step) {
        const Real trial = (start + TENTH * real(step) + real(N)) / (high - fit.min);
        Real levels[COUNT], sum_l = ZERO, sum_l2 = ZERO, sum_xl = ZERO;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            levels[i] = level_above<N>(trial, x[i], fit.min);
            const Real wl = (weight + magnitude(x[i])) * levels[i];
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * levels[i];
            sum_xl = sum_xl + wl * x[i];
        }
        const Real det = sum_w * sum_l2 - sum_l * sum_l;
        Real scale = (sum_w * sum_xl - sum_x * sum_l) / det, min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        if (min > ZERO) scale = sum_xl / sum_l2, min = ZERO;
        Real error = ZERO;
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            error = error + (weight + magnitude(x[i])) * deviation<ABSOLUTE>(levels[i], scale, min, x[i]);
        if (det > ZERO && error < best) {
            best = error;
            fit = {scale, min, trial, fit.min, fit.flat};
        }
    }
    if (fit.flat) fit.scale = ZERO, fit.min = low;
    return fit;
}

// ---- x ~ scale * (q - N), q in 0..2 N ---------------------------------------------------------------

template <int N> DEVICE Real level_around(Real inverse, Real x) {
    return clamp(nearest(inverse * x), real(-N), real(N - 1));
}

struct Sums {
    Real lx, l2;
};

template <int N, int COUNT> DEVICE Sums sums_of(const Real (&x)[COUNT], Real inverse) {
    Sums sums = {ZERO, ZERO};
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const Real w = x[i] * x[i], l = level_around<N>(inverse, x[i]);
        sums.lx = sums.lx + w * x[i] * l;
        sums.l2 = sums.l2 + w * l * l;
    }
    return sums;
}

struct Signed {
    Real scale;
    Real inverse;  // the rounding of the best fit: q - N = inverse * x
    bool zero;
};

// Elements weigh x^2; that of largest magnitude is tried at N + i / 10, i in -9..9.
template <int N, int COUNT> DEVICE Signed fit_signed(const Real (&x)[COUNT]) {
    const Real most = lane_signed_max(x), plain = real(-N) / most;
    const Sums first = sums_of<N>(x, plain);
    Signed fit = {first.l2 == ZERO ? ZERO : first.lx / first.l2, plain, magnitude(most) < TINY};
    Real best = fit.scale * first.lx;
#pragma unroll 1
    for (int tenths = -9; tenths <= 9; tenths += tenths == -1 ? 2 : 1) {
        const Real trial = -(real(N) + TENTH * real(tenths)) / most;
        const Sums sums = sums_of<N>(x, trial);
        if (sums.l2 > ZERO && sums.lx * sums.lx > best * sums.l2) {
            fit.scale = sums.lx / sums.l2, fit.inverse = trial;
            best = fit.scale * sums.lx;
        }
    }
    if (fit.zero) fit.scale = ZERO;
    return fit;
}

// The same, but from the plain rounding on one level is moved at a time, in five rounds at most.
template <int N, int COUNT> DEVICE Real fit_signed_by_steps(const Real (&x)[COUNT], int (&q)[COUNT]) {
    const Real most = lane_signed_max(x), inverse = real(-N) / most;
    Real levels[COUNT], lx = ZERO, l2 = ZERO;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const Real w = x[i] * x[i], l = real(nearest_int(inverse * x[i], -N, N - 1));
        levels[i] = l;
        lx = lx + w * x[i] * l;
        l2 = l2 + w * l * l;
    }
    bool changed = true;
#pragma unroll 1
    for (int round = 0; round < 5 && changed; ++round) {
        changed = false;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const Real w = x[i] * x[i], l = levels[i];
            const Real less_lx = lx - w * x[i] * l, less_l2 = l2 - w * l * l;
            const Real moved = real(nearest_int(x[i] * less_l2 / less_lx, -N, N - 1));
            const Real new_lx = less_lx + w * x[i] * moved, new_l2 = less_l2 + w * moved * moved;
            const bool better =
                less_lx > ZERO && moved != l && new_l2 > ZERO && new_lx * new_lx * l2 > lx * lx * new_l2;
            if (better) levels[i] = moved, lx = new_lx, l2 = new_l2, changed = true;
        }
    }
    const bool zero = magnitude(most) < TINY;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) q[i] = zero ? 0 : int(levels[i].value) + N;
    return !zero && l2 > ZERO ? lx / l2 : ZERO;
}

// ---- A block's scales and fields ----------------------------------------------------------------

// What its half says.
DEVICE Real through_half(Real x) { return {to_float(to_f16(x.value))}; }

// The lanes' scales as bytes, so that the largest becomes N; and the scale of those.
template <int N, int LANES> DEVICE int scale_to(Real scale, Real& of_scales) {
    const Real most = {group_max<LANES>(scale > ZERO ? scale.value : 0.0f)};
    const Real inverse = most > ZERO ? real(N) / most : ZERO;
    of_scales = most / real(N);
    return uint8_t(nearest_int(inverse * scale));
}

// The levels that the scales as they are stored ask for; where the scale is zero, those of the fit.
template <int N, int COUNT>
DEVICE void levels_of(const Real (&x)[COUNT], const WithMin& fit, Real scale, Real min, int (&q)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        if (scale != ZERO) q[i] = nearest_int((x[i] + min) / scale, 0, N);
        else q[i] = fit.flat ? 0 : int(level_above<N>(fit.inverse, x[i], fit.origin).value);
    }
}

// Stores a field that has BITS bits of each level, from bit SHIFT on. A byte of it has those of the 8 / BITS lanes that
// differ in the lowest bits of lane / APART, the first of them lowest; these lanes share the stores of the words.
template <int SHIFT, int BITS, int APART, int COUNT>
DEVICE void store_bits(uint8_t* to, const int (&q)[COUNT], bool there) {
    constexpr int SHARE = 8 / BITS;
    constexpr uint32_t MASK = ((1u << BITS) - 1) * 0x01010101u;
    const int own = lane_id() / APART % SHARE;
#pragma unroll
    for (int w = 0; w < COUNT / 4; ++w) {
        const int levels[4] = {q[4 * w], q[4 * w + 1], q[4 * w + 2], q[4 * w + 3]};
        uint32_t word = (join_bytes(levels) >> SHIFT & MASK) << BITS * own;
#pragma unroll
        for (int mask = APART; mask < APART * SHARE; mask *= 2) word |= __shfl_xor_sync(ALL_LANES, word, mask);
        if (there && w % SHARE == own) store_u32(to + 4 * w, word);
    }
}

// Six bits for each of the eight lanes, twice: see `blocks::unpack_scales_mins`.
DEVICE void store_scales_mins(uint8_t* to, int scale, int min, int lane, bool there) {
    const int high_scale = __shfl_xor_sync(ALL_LANES, scale, 4), high_min = __shfl_xor_sync(ALL_LANES, min, 4);
    if (there && lane < 4) {
        to[lane] = uint8_t(scale | high_scale >> 4 << 6);
        to[4 + lane] = uint8_t(min | high_min >> 4 << 6);
    } else if (there) {
        to[4 + lane] = uint8_t((scale & 15) | min << 4);
    }
}

// Six bits for each of the sixteen lanes: see `blocks::unpack_q3k_scales`.
DEVICE void store_q3k_scales(uint8_t* to, int scale, int lane, bool there) {
    int low = (scale & 15) << lane / 8 * 4, high = scale >> 4 << lane / 4 * 2;
    low |= __shfl_xor_sync(ALL_LANES, low, 8);
    high |= __shfl_xor_sync(ALL_LANES, high, 8);
    high |= __shfl_xor_sync(ALL_LANES, high, 4);
    if (there && lane < 8) to[lane] = uint8_t(low);
    if (there && lane < 4) to[8 + lane] = uint8_t(high);
}

// ---- The types: a lane has group `lane` of block b --------------------------------------------------

// What Q4_K and Q5_K have in common; to levels of 0..N.
template <int N, class B>
DEVICE void encode_45(B& b, const Real (&x)[32], Real start, int steps, int lane, bool there, int (&q)[32]) {
    Real squares = ZERO;
#pragma unroll
    for (int i = 0; i < 32; ++i) squares = squares + x[i] * x[i];
    const Real rms = {__fsqrt_rn((squares / real(32)).value)};
    const WithMin fit = fit_with_min<N, false>(x, rms, start, steps);
    Real d, dmin;
    const int scale = min(scale_to<63, 8>(fit.scale, d), 63), low = min(scale_to<63, 8>(-fit.min, dmin), 63);
    levels_of<N>(x, fit, through_half(d) * real(scale), through_half(dmin) * real(low), q);
    if (there && lane == 0) store_half(b.d, d.value), store_half(b.dmin, dmin.value);
    store_scales_mins(b.scales, scale, low, lane, there);
    store_bits<0, 4, 1>(b.qs + lane / 2 * 32, q, there);
}

DEVICE void encode(BlockQ4K& b, const Real (&x)[32], int lane, bool there) {
    int q[32];
    encode_45<15>(b, x, {-1.0f}, 20, lane, there, q);
}

DEVICE void encode(BlockQ5K& b, const Real (&x)[32], int lane, bool there) {
    int q[32];
    encode_45<31>(b, x, {-0.5f}, 15, lane, there, q);
    store_bits<4, 1, 1>(b.qh, q, there);
}

DEVICE void encode(BlockQ2K& b, const Real (&x)[16], int lane, bool there) {
    const WithMin fit = fit_with_min<3, true>(x, ZERO, {-0.5f}, 15);
    Real d, dmin;
    const int scale = scale_to<15, 16>(fit.scale, d), low = scale_to<15, 16>(-fit.min, dmin);
    const int both = (scale | low << 4) & 0xff;
    int q[16];
    levels_of<3>(x, fit, through_half(d) * real(both & 15), through_half(dmin) * real(both >> 4), q);
    if (there && lane == 0) store_half(b.d, d.value), store_half(b.dmin, dmin.value);
    if (there) b.scales[lane] = uint8_t(both);
    store_bits<0, 2, 2>(b.qs + lane / 8 * 32 + lane % 2 * 16, q, there);
}

DEVICE void encode(BlockQ3K& b, const Real (&x)[16], int lane, bool there) {
    int q[16];
    const Real fitted = fit_signed_by_steps<4>(x, q), most = block_signed_max<16>(fitted);
    const bool zero = most == ZERO;
    const Real inverse = real(-32) / most, d = zero ? ZERO : ONE / inverse;
    const int packed = zero ? 0 : min(max(int(int8_t(nearest_int(inverse * fitted))), -32), 31) + 32;
    const Real scale = through_half(d) * real(packed - 32);
    if (scale != ZERO) {
#pragma unroll
        for (int i = 0; i < 16; ++i) q[i] = nearest_int(x[i] / scale, -4, 3) + 4;
    }
    if (there && lane == 0) store_half(b.d, d.value);
    store_q3k_scales(b.scales, packed, lane, there);
    store_bits<2, 1, 2>(b.hmask + lane % 2 * 16, q, there);
    store_bits<0, 2, 2>(b.qs + lane / 8 * 32 + lane % 2 * 16, q, there);
}

DEVICE void encode(BlockQ6K& b, const Real (&x)[16], int lane, bool there) {
    const Signed fit = fit_signed<32>(x);
    const Real most = block_signed_max<16>(fit.scale);
    const bool zero = magnitude(most) < TINY;
    const Real inverse = real(-128) / most, d = zero ? ZERO : ONE / inverse;
    const int packed = zero ? 0 : int8_t(min(nearest_int(inverse * fit.scale), 127));
    const Real scale = through_half(d) * real(packed);
    int q[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        if (scale != ZERO) q[i] = nearest_int(x[i] / scale, -32, 31) + 32;
        else q[i] = zero || fit.zero ? 0 : int(level_around<32>(fit.inverse, x[i]).value) + 32;
    }
    if (there && lane == 0) store_half(b.d, d.value);
    if (there) b.scales[lane] = uint8_t(packed);
    store_bits<0, 4, 4>(b.ql + lane / 8 * 64 + lane % 4 * 16, q, there);
    store_bits<4, 2, 2>(b.qh + lane / 8 * 32 + lane % 2 * 16, q, there);
}

template <class B> DEVICE void quantize_256(const float* x, uint8_t* out, int64_t blocks) {
    constexpr int GROUPS = B::LEN / B::GROUP, AT_ONCE = WARP / GROUPS;
    const int lane = lane_id() % GROUPS;
    const int64_t step = int64_t(gridDim.x) * blockDim.x / WARP * AT_ONCE;
    const int64_t warp = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP * AT_ONCE;
    for (int64_t first = warp; first < blocks; first += step) {
        const int64_t block = first + lane_id() / GROUPS;
        const bool there = block < blocks;
        uint32_t words[B::GROUP];
        load_words<16>(x + (there ? block : 0) * B::LEN + lane * B::GROUP, words);
        Real elements[B::GROUP];
#pragma unroll
        for (int i = 0; i < B::GROUP; ++i) elements[i] = {__uint_as_float(words[i])};
        encode(*reinterpret_cast<B*>(out + (there ? block : 0) * int(sizeof(B))), elements, lane, there);
    }
}

#define QUANTIZE(block, name) \
    KERNEL(256, name, const float* x, uint8_t* out, int64_t blocks) { quantize_256<block>(x, out, blocks); }

QUANTIZE(BlockQ2K, quantize_q2_k)
QUANTIZE(BlockQ3K, quantize_q3_k)
QUANTIZE(BlockQ4K, quantize_q4_k)
QUANTIZE(BlockQ5K, quantize_q5_k)
QUANTIZE(BlockQ6K, quantize_q6_k)
