// Plain numbers from GGML's IQ1, IQ2 and IQ3 blocks: fours and eights of small numbers from code books,
// which the host uploads (`blocks::IQ2_XXS_GRID` and so on, a byte a number).
//
// Bound by: bytes. Floor: as in dequantize.cu; a code book (1 to 16 KiB) comes from the cache.
#include "blocks.cuh"
#include "chunks.cuh"

// As in blocks.cuh, but that levels need the code book.
#define BLOCK(group, bytes)                                         \
    static constexpr int LEN = 256, GROUP = group, ZERO = 0;        \
    static constexpr bool HAS_MIN = false;                          \
    static constexpr int BYTES = bytes, ALIGNED = (bytes) & -(bytes)

struct BlockIq1S { BLOCK(32, 50); uint8_t d[2], qs[32], qh[16]; };
struct BlockIq1M { BLOCK(16, 56); uint8_t qs[32], qh[16], scales[8]; };
struct BlockIq2Xxs { BLOCK(32, 66); uint8_t d[2], qs[64]; };
struct BlockIq2Xs { BLOCK(16, 74); uint8_t d[2], qs[64], scales[8]; };
struct BlockIq2S { BLOCK(16, 82); uint8_t d[2], qs[32], signs[32], qh[8], scales[8]; };
struct BlockIq3Xxs { BLOCK(32, 98); uint8_t d[2], qs[64], scales_signs[32]; };
struct BlockIq3S { BLOCK(32, 110); uint8_t d[2], qs[64], qh[8], signs[32], scales[4]; };
#undef BLOCK
static_assert(CheckedBlock<BlockIq1S>::OK && CheckedBlock<BlockIq1M>::OK && CheckedBlock<BlockIq2Xxs>::OK &&
              CheckedBlock<BlockIq2Xs>::OK && CheckedBlock<BlockIq2S>::OK && CheckedBlock<BlockIq3Xxs>::OK &&
              CheckedBlock<BlockIq3S>::OK, "layouts");

// ---- Levels of elements 4 i .. 4 i + 4 -----------------------------------------------------------

// Negates bytes of 1..127 where the bit of `signs` is set.
DEVICE uint32_t with_signs(uint32_t magnitudes, uint32_t signs) {
    const uint32_t negative = spread_bits(signs);
    return (magnitudes ^ negative * 0xff) + negative;
}

// Seven signs to eight: the eighth makes the number of minus signs even.
DEVICE uint32_t eight_signs(uint32_t seven) { return seven | (__popc(seven) & 1) << 7; }

DEVICE uint32_t levels(const BlockIq2Xxs& b, int i, const uint32_t* grid) {
    const int eight = i / 2 % 4;
    const uint32_t signs = eight_signs(word_of(b, b.qs, i / 8 * 2 + 1) >> 7 * eight & 127);
    return with_signs(grid[b.qs[i / 8 * 8 + eight] * 2 + i % 2], signs >> i % 2 * 4);
}
DEVICE uint32_t levels(const BlockIq2Xs& b, int i, const uint32_t* grid) {
    const uint32_t word = load_u16<2>(b.qs + i / 2 * 2);
    return with_signs(grid[(word & 511) * 2 + i % 2], eight_signs(word >> 9) >> i % 2 * 4);
}
DEVICE uint32_t levels(const BlockIq2S& b, int i, const uint32_t* grid) {
    const int eight = i / 2, code = b.qs[eight] | (b.qh[eight / 4] >> eight % 4 * 2 & 3) << 8;
    return with_signs(grid[code * 2 + i % 2], uint32_t(b.signs[eight]) >> i % 2 * 4);
}
DEVICE uint32_t levels(const BlockIq3Xxs& b, int i, const uint32_t* grid) {
    const uint32_t signs = eight_signs(word_of(b, b.scales_signs, i / 8) >> i / 2 % 4 * 7 & 127);
    return with_signs(grid[b.qs[i]], signs >> i % 2 * 4);
}
DEVICE uint32_t levels(const BlockIq3S& b, int i, const uint32_t* grid) {
    const int code = b.qs[i] | (b.qh[i / 8] >> i % 8 & 1) << 8;
    return with_signs(grid[code], uint32_t(b.signs[i / 2]) >> i % 2 * 4);
}

// Numbers -1, 0 and 1, shifted by an eighth: eight times that, 8 v + 1 or 8 v - 1, is the level.
DEVICE uint32_t shifted(uint32_t values, bool down) {
    const uint32_t eightfold = values << 3 & 0xf8f8f8f8u;
    return down ? ((eightfold ^ 0x80808080u) - 0x01010101u) ^ 0x80808080u : eightfold | 0x01010101u;
}
DEVICE uint32_t levels(const BlockIq1S& b, int i, const uint32_t* grid) {
    const uint32_t high = load_u16<2>(b.qh + i / 8 * 2);
    const uint32_t code = b.qs[i / 2] | (high >> i / 2 % 4 * 3 & 7) << 8;
    return shifted(grid[code * 2 + i % 2], high & 0x8000);
}
DEVICE uint32_t levels(const BlockIq1M& b, int i, const uint32_t* grid) {
    const int high = b.qh[i / 4] >> i / 2 % 2 * 4, code = b.qs[i / 2] | (high & 7) << 8;
    return shifted(grid[code * 2 + i % 2], high & 8);
}

// ---- Scales of groups ----------------------------------------------------------------------------

DEVICE int nibble_of(const uint8_t* field, int g) { return field[g / 2] >> g % 2 * 4 & 15; }

DEVICE Scale scale_of(const BlockIq2Xxs& b, int g) {
    return {d_of(b) * (0.5f + float(word_of(b, b.qs, g * 2 + 1) >> 28)) * 0.25f, 0.0f};
}
DEVICE Scale scale_of(const BlockIq2Xs& b, int g) {
    return {d_of(b) * (0.5f + float(nibble_of(b.scales, g))) * 0.25f, 0.0f};
}
DEVICE Scale scale_of(const BlockIq2S& b, int g) {
    return {d_of(b) * (0.5f + float(nibble_of(b.scales, g))) * 0.25f, 0.0f};
}
DEVICE Scale scale_of(const BlockIq3Xxs& b, int g) {
    return {d_of(b) * (0.5f + float(word_of(b, b.scales_signs, g) >> 28)) * 0.5f, 0.0f};
}
DEVICE Scale scale_of(const BlockIq3S& b, int g) {
    return {d_of(b) * float(2 * nibble_of(b.scales, g) + 1), 0.0f};
}
// An eighth of theirs, exactly, as levels are eightfold.
DEVICE Scale scale_of(const BlockIq1S& b, int g) {
    return {d_of(b) * float(2 * (load_u16<2>(b.qh + 2 * g) >> 12 & 7) + 1) * 0.125f, 0.0f};
}
// The scale of the scales is in the high nibbles of four words, from the lowest up.
DEVICE Scale scale_of(const BlockIq1M& b, int g) {
    uint32_t words[2];
    load_words<8>(b.scales, words);
    const uint32_t d = (words[0] >> 12 & 15) | (words[0] >> 28) << 4 | (words[1] >> 12 & 15) << 8 | (words[1] >> 28) << 12;
    const uint32_t scale = load_u16<2>(b.scales + g / 4 * 2) >> g % 4 * 3 & 7;
    return {to_float(f16_of(d)) * float(2 * scale + 1) * 0.125f, 0.0f};
}

// Launch: any grid; the whole grid walks on.
template <class B, class T> DEVICE void dequantize(const uint8_t* blocks, const uint32_t* grid, T* out, int64_t elements) {
    constexpr int N = AT_ONCE<T>, PER_BLOCK = B::LEN / N;
    write_chunks<N>(out, elements, [&](int64_t chunk, float (&x)[N]) {
        const B& block = *reinterpret_cast<const B*>(blocks + chunk / PER_BLOCK * int(sizeof(B)));
        const int first = int(chunk % PER_BLOCK) * (N / 4);
        const Scale scale = scale_of(block, first * 4 / B::GROUP);
#pragma unroll
        for (int w = 0; w < N / 4; ++w) {
            const uint32_t word = levels(block, first + w, grid);
#pragma unroll
            for (int k = 0; k < 4; ++k) x[4 * w + k] = number_of<B>(byte_of(word, k), scale);
        }
    });
}

#define DEQUANTIZE(block, name)                                                                                        \
    KERNEL(256, dequantize_##name##_f32, const uint8_t* blocks, const uint32_t* grid, float* out, int64_t elements) {  \
        dequantize<block>(blocks, grid, out, elements);                                                                \
    }                                                                                                                  \
    KERNEL(256, dequantize_##name##_f16, const uint8_t* blocks, const uint32_t* grid, f16* out, int64_t elements) {    \
        dequantize<block>(blocks, grid, out, elements);                                                                \
    }                                                                                                                  \
    KERNEL(256, dequantize_##name##_bf16, const uint8_t* blocks, const uint32_t* grid, bf16* out, int64_t elements) {  \
        dequantize<block>(blocks, grid, out, elements);                                                                \
    }

DEQUANTIZE(BlockIq1S, iq1_s)
DEQUANTIZE(BlockIq1M, iq1_m)
DEQUANTIZE(BlockIq2Xxs, iq2_xxs)
DEQUANTIZE(BlockIq2Xs, iq2_xs)
DEQUANTIZE(BlockIq2S, iq2_s)
DEQUANTIZE(BlockIq3Xxs, iq3_xxs)
DEQUANTIZE(BlockIq3S, iq3_s)
