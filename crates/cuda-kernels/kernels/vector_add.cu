// The first kernels: out = a + b of INT8 vectors, each with a scale and a zero point of its own,
// x = scale * (q - zero_point) (Jacob et al. 2018, eq. 1). What they show is how threads should walk
// over memory.
//
// Bound by: bytes. Floor: 3 bytes an element over the copy bandwidth; two multiplications and a
// conversion an element are far below what the device computes meanwhile.
#include "common.cuh"

DEVICE int8_t add_quantized(int8_t a, int8_t b, float scale_a, int zero_a, float scale_b, int zero_b, float inverse_out,
                            int zero_out) {
    const float sum = scale_a * float(int(a) - zero_a) + scale_b * float(int(b) - zero_b);
    const int rounded = __float2int_rn(sum * inverse_out) + zero_out;
    return int8_t(min(max(rounded, -128), 127));
}

// 1: each thread has a stretch of its own, so that the threads of a warp read far from each other: 32
// sectors of 32 bytes for 32 bytes that are wanted. Launch: any grid; a thread takes `stretch` elements.
KERNEL(256, quantized_vector_add_strided, const int8_t* a, const int8_t* b, int8_t* out, int64_t n, int stretch, float scale_a,
       int zero_a, float scale_b, int zero_b, float inverse_out, int zero_out) {
    const int64_t begin = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * stretch;
    for (int64_t i = begin; i < min(begin + stretch, n); ++i)
        out[i] = add_quantized(a[i], b[i], scale_a, zero_a, scale_b, zero_b, inverse_out, zero_out);
}

// 2: neighbours read neighbours: a warp reads one sector. Launch: any grid; the whole grid walks on.
KERNEL(256, quantized_vector_add_coalesced, const int8_t* a, const int8_t* b, int8_t* out, int64_t n, float scale_a, int zero_a,
       float scale_b, int zero_b, float inverse_out, int zero_out) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
        out[i] = add_quantized(a[i], b[i], scale_a, zero_a, scale_b, zero_b, inverse_out, zero_out);
}

// 3: and each takes 16 bytes at once, so that a sixteenth of the loads are under way for the same bytes.
// Pointers aligned to 16; what is left behind the last whole 16 is added one by one.
KERNEL(256, quantized_vector_add, const int8_t* a, const int8_t* b, int8_t* out, int64_t n, float scale_a, int zero_a,
       float scale_b, int zero_b, float inverse_out, int zero_out) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t whole = n / 16;
    for (int64_t i = first; i < whole; i += step) {
        const Bytes16 x = reinterpret_cast<const Bytes16*>(a)[i], y = reinterpret_cast<const Bytes16*>(b)[i];
        Bytes16 sum;
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            uint32_t word = 0;
#pragma unroll
            for (int shift = 0; shift < 32; shift += 8) {
                const int8_t q = add_quantized(int8_t(x.words[w] >> shift), int8_t(y.words[w] >> shift), scale_a, zero_a, scale_b,
                                               zero_b, inverse_out, zero_out);
                word |= uint32_t(uint8_t(q)) << shift;
            }
            sum.words[w] = word;
        }
        reinterpret_cast<Bytes16*>(out)[i] = sum;
    }
    for (int64_t i = whole * 16 + first; i < n; i += step)
        out[i] = add_quantized(a[i], b[i], scale_a, zero_a, scale_b, zero_b, inverse_out, zero_out);
}
