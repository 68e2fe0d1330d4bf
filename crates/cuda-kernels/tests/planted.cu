// Faults that the emulator must see: tests/emulator.rs says which.
#include "common.cuh"

// The last thread's element for all: without a barrier between, some read what is not written yet.
KERNEL(64, planted_race, const float* x, float* out) {
    SHARED(float, shared, 64);
    shared[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = shared[63 - threadIdx.x];
}

KERNEL(64, planted_race_mended, const float* x, float* out) {
    SHARED(float, shared, 64);
    shared[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = shared[63 - threadIdx.x];
}

// A warp overwrites what the other has not read, which shows only where it runs ahead: the warps meet nowhere
// after the barrier, but each has a shuffle.
KERNEL(64, planted_race_of_warps, const float* x, float* out) {
    SHARED(float, shared, 64);
    shared[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    const float zero = __shfl_sync(ALL_LANES, 0.0f, 0);
    out[threadIdx.x] = shared[63 - threadIdx.x] + zero;
    shared[threadIdx.x] = __shfl_sync(ALL_LANES, -1.0f, 0);
}

// An asynchronous copy that nobody waits for.
KERNEL(32, planted_no_wait, const float* x, float* out) {
    SHARED(float, shared, 128);
    cp_async_16(shared + 4 * threadIdx.x, x + 4 * threadIdx.x);
    cp_async_commit();
    __syncwarp();
    out[threadIdx.x] = shared[4 * threadIdx.x];
}

// One element beyond what there is, in global and in shared memory.
KERNEL(32, planted_global_overrun, const float* x, float* out, int n) {
    if (int(threadIdx.x) <= n) out[0] = x[threadIdx.x];
}

KERNEL(32, planted_shared_overrun, float* out) {
    SHARED(float, shared, 31);
    shared[threadIdx.x] = 1.0f;
    __syncwarp();
    out[threadIdx.x] = shared[0];
}

// A barrier that half of the threads do not reach, and a shuffle where the others sum.
KERNEL(64, planted_divergent_barrier, float* out) {
    if (threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = 1.0f;
}

KERNEL(32, planted_divergent_warp, float* out) {
    if (threadIdx.x < 16) __syncwarp();
    else out[threadIdx.x] = __shfl_sync(ALL_LANES, 1.0f, 0);
}
