// What kernels that make blocks share: the extremes of a block's elements, and stores of its fields.
#pragma once
#include "blocks.cuh"
#include "rounding.cuh"

// ---- Groups of WIDTH lanes that share a block, each with PER elements (see rounding.cuh) -----------

// Whether the first of the group's elements that has this magnitude is negative.
template <int WIDTH, int PER> DEVICE bool first_is_negative(const float (&x)[PER], float magnitude) {
    int first = 64;
#pragma unroll
    for (int i = PER - 1; i >= 0; --i)
        if (fabsf(x[i]) == magnitude) first = int(threadIdx.x % WIDTH * PER + i) * 2 + int(__float_as_uint(x[i]) >> 31);
    return group_min<WIDTH>(first) % 2 == 1;
}

// The element of largest magnitude (the first of equals) with its sign; 0 is positive.
template <int WIDTH, int PER> DEVICE float signed_max(const float (&x)[PER]) {
    const float most = largest_magnitude<WIDTH>(x);
    const bool negative = first_is_negative<WIDTH>(x, most);
    return negative && most > 0.0f ? -most : most;
}

// ---- Fields, which are aligned to two bytes -----------------------------------------------------

DEVICE void store_u16(uint8_t* to, uint32_t x) { *reinterpret_cast<uint16_t*>(to) = uint16_t(x); }
DEVICE void store_u32(uint8_t* to, uint32_t x) { store_u16(to, x), store_u16(to + 2, x >> 16); }
DEVICE void store_half(uint8_t* to, float x) { store_u16(to, to_f16(x).bits); }
