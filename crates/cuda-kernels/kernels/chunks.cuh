// Numbers made and written by a whole grid, 16 bytes a thread at a time: 4 floats or 8 halves.
#pragma once
#include "common.cuh"

template <class T> constexpr int AT_ONCE = 16 / int(sizeof(T));

DEVICE void store(float* to, const float (&x)[4]) {
    const Bytes16 words = {{__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])}};
    *reinterpret_cast<Bytes16*>(to) = words;
}
DEVICE void store(float* to, const float (&x)[8]) {
    const float low[4] = {x[0], x[1], x[2], x[3]}, high[4] = {x[4], x[5], x[6], x[7]};
    store(to, low);
    store(to + 4, high);
}
DEVICE uint32_t pack(f16, float low, float high) { return pack_f16(low, high); }
DEVICE uint32_t pack(bf16, float low, float high) { return pack_bf16(low, high); }
template <class T> DEVICE void store(T* to, const float (&x)[4]) {
    *reinterpret_cast<Bytes8*>(to) = {{pack(T{}, x[0], x[1]), pack(T{}, x[2], x[3])}};
}
template <class T> DEVICE void store(T* to, const float (&x)[8]) {
    const T t{};
    const Bytes16 words = {{pack(t, x[0], x[1]), pack(t, x[2], x[3]), pack(t, x[4], x[5]), pack(t, x[6], x[7])}};
    *reinterpret_cast<Bytes16*>(to) = words;
}

DEVICE void set(float& y, float x) { y = x; }
DEVICE void set(f16& y, float x) { y = to_f16(x); }
DEVICE void set(bf16& y, float x) { y = to_bf16(x); }

// Chunks whose loads a thread has under way before it stores the first.
constexpr int UNROLL = 4;

// Writes the first n / N chunks of N numbers, chunk c as `read(c, x)` gives them. Neighbours write beside each
// other; the whole grid walks on. Loads of a thread's next chunks do not wait for its stores, since what
// is beyond the end is read (the last chunk once more) and not written.
template <int N, class T, class READ> DEVICE void write_chunks(T* out, int64_t n, READ read) {
    const int64_t chunks = n / N, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; first < chunks; first += UNROLL * step) {
        float x[UNROLL][N];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) read(min(first + u * step, chunks - 1), x[u]);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (first + u * step < chunks) store(out + (first + u * step) * N, x[u]);
    }
}

// The same for the numbers behind the last whole chunk, one by one: number i is `read(i)`.
template <int N, class T, class READ> DEVICE void write_rest(T* out, int64_t n, READ read) {
    const int64_t i = n / N * N + int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) set(out[i], read(i));  // fewer than N, and a block has more threads
}
