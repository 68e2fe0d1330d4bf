// What every kernel is written in. NVRTC compiles it for a GPU; with `emulator.h` before it a C++
// compiler builds it for the emulator, which defines the same names.
//
// No header of CUDA is included, so that the library NVRTC alone is enough; what is missing for it
// is inline PTX here (PTX ISA 8.0; sm_80 and newer), which the emulator's `ptx.h` says in C++.
//
// Rules that both sides rely on:
// - A kernel begins with KERNEL(threads, name, parameters...): `threads` is the most a block may have.
//   KERNEL_BLOCKS(threads, blocks, ...) also says how many blocks a multiprocessor should have registers for.
// - Shared memory is SHARED(type, name, count), at the top of a kernel, or DYNAMIC_SHARED once.
// - Every thread of a block reaches each __syncthreads(), every lane of a warp each shuffle, ldmatrix
//   and mma: no early return before one. Blocks have whole warps.
// - Half floats are their bits, `f16` and `bf16`; arithmetic is in float.
#pragma once

#ifndef EMULATOR
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#endif

#define WARP 32
#define ALL_LANES 0xffffffffu
#define MINUS_INFINITY __uint_as_float(0xff800000u)

// Bits of IEEE binary16 and of bfloat16. Aligned as they are wide, unlike in GGML's blocks.
struct f16 { uint16_t bits; };
struct bf16 { uint16_t bits; };

// Sixteen bytes that move at once; pointers to it must be aligned to 16.
struct alignas(16) Bytes16 { uint32_t words[4]; };
struct alignas(8) Bytes8 { uint32_t words[2]; };

#ifndef EMULATOR

#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
// The same for a kernel of which so many blocks are to fit on a multiprocessor: its registers are cut to that.
#define KERNEL_BLOCKS(threads, blocks, name, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define DYNAMIC_SHARED(type, name)                         \
    extern __shared__ __align__(16) uint8_t dynamic_shared[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared)
#define DEVICE static __device__ __forceinline__

DEVICE float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

// Round to nearest, ties to even, as every conversion here.
DEVICE f16 to_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

DEVICE bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two halves in a word, the first in the low bits.
DEVICE uint32_t pack_f16(float low, float high) {
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// (a & b) | c in one instruction, also where b and c are constants: the compiler makes two of those.
DEVICE uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}

// Of two halves in a word each: a - b, and a b + c with one rounding.
DEVICE uint32_t sub_f16x2(uint32_t a, uint32_t b) {
    uint32_t y;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
}
DEVICE uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t y;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}

// 2 to the power of x, up to 2 in the last place; what is below the normal numbers becomes zero.
DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Bytes 0..7 of two words that the low four nibbles of a selector name. Unlike __byte_perm it does not mask
// the nibbles, which are below 8.
DEVICE uint32_t choose_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t y;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(low), "r"(high), "r"(selector));
    return y;
}

// c + the sum of four products of signed bytes.
DEVICE int dp4a(int a, int b, int c) {
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}

DEVICE uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16 bytes from global to shared memory without waiting; both aligned to 16. Where `there` is
// false nothing is read and the target becomes zeros. A thread's copies since its last commit are a
// group; cp_async_wait<N>() returns when all but its N newest groups are there, for this thread
// alone: __syncthreads() makes them visible to the others.
DEVICE void cp_async_16(void* to, const void* from, bool there = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
// The same of N = 4, 8 or 16 bytes, both aligned to N; the first `bytes` are read, the others become zeros.
template <int N> DEVICE void cp_async(void* to, const void* from, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(shared_address(to)), "l"(from), "n"(N), "r"(bytes) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

// Loads four 8x8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix l / 8
// (16 bytes, aligned); of matrix i it receives in r[i] the elements (l / 4, 2 * (l % 4)) and the next;
// transposed: (2 * (l % 4), l / 4) and that of the next row.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// d += a b: a is 16 x 16, row by row, b is 16 x 8, column by column, d is 16 x 8 of float. With
// g = lane / 4 and t = lane % 4, pairs of 16-bit elements in a word, the lower column (of b: row) low:
//   a[0] (g, 2t), a[1] (g + 8, 2t), a[2] (g, 2t + 8), a[3] (g + 8, 2t + 8); b[0] rows 2t, b[1] rows 2t + 8
//   of column g; d[0], d[1] (g, 2t) and (g, 2t + 1), d[2], d[3] the same of row g + 8.
DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same of signed bytes, four in a word: a is 16 x 32, b is 32 x 8, d of int32.
//   a[0] (g, 4t..), a[1] (g + 8, 4t..), a[2] (g, 4t + 16..), a[3] (g + 8, 4t + 16..); b[0] rows 4t.., b[1]
//   rows 4t + 16.. of column g; d as above.
DEVICE void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else
#include "ptx.h"
#endif

DEVICE float to_float(bf16 x) {
    return __uint_as_float(uint32_t(x.bits) << 16);
}

DEVICE float to_float(float x) { return x; }

DEVICE f16 f16_of(uint32_t bits) { return f16{uint16_t(bits)}; }

DEVICE int lane_id() { return threadIdx.x % WARP; }
DEVICE int warp_id() { return threadIdx.x / WARP; }

// Sums and maxima over a warp, in every lane; always in the same order.
DEVICE float warp_sum(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}
DEVICE float warp_max(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

// The same over a block of whole warps, in every thread. `scratch` is shared, of 32 elements, and free
// for the next use at once.
DEVICE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (lane_id() == 0) scratch[warp_id()] = x;
    __syncthreads();
    x = lane_id() < int(blockDim.x / WARP) ? scratch[lane_id()] : 0.0f;
    return warp_sum(x);
}
DEVICE float block_max(float x, float* scratch) {
    x = warp_max(x);
    __syncthreads();
    if (lane_id() == 0) scratch[warp_id()] = x;
    __syncthreads();
    x = lane_id() < int(blockDim.x / WARP) ? scratch[lane_id()] : MINUS_INFINITY;
    return warp_max(x);
}
