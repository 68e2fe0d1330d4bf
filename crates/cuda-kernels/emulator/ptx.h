// The instructions that common.cuh writes in PTX, for the emulator: the same names, which see there.
#pragma once

DEVICE float to_float(f16 x) { return float(reinterpreted<_Float16>(x.bits)); }

DEVICE f16 to_f16(float x) { return f16{reinterpreted<uint16_t>(_Float16(x))}; }

DEVICE bf16 to_bf16(float x) {
    const uint32_t bits = __float_as_uint(x);
    if (x != x) return bf16{0x7fff};
    return bf16{uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

DEVICE uint32_t pack_f16(float low, float high) { return to_f16(low).bits | uint32_t(to_f16(high).bits) << 16; }
DEVICE uint32_t pack_bf16(float low, float high) { return to_bf16(low).bits | uint32_t(to_bf16(high).bits) << 16; }

DEVICE uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }

// Of each half: rounded once, since f64 holds a product of two halves and its sum with a third to more
// bits than a half has twice.
DEVICE uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    const auto half = [&](int shift) -> uint32_t {
        const auto number = [&](uint32_t word) { return double(reinterpreted<_Float16>(uint16_t(word >> shift))); };
        return reinterpreted<uint16_t>(_Float16(number(a) * number(b) + number(c)));
    };
    return half(0) | half(16) << 16;
}
DEVICE uint32_t sub_f16x2(uint32_t a, uint32_t b) { return fma_f16x2(b, 0xbc00bc00, a); }
DEVICE float exp2_approx(float x) { return std::exp2(x); }

DEVICE uint32_t choose_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    if (selector & 0x8888) emulator::fault("choose_bytes of a nibble beyond 7");
    return __byte_perm(low, high, selector);
}

DEVICE int dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
    return c;
}

DEVICE void copy_now(const emulator::Copy& copy) {
    if (copy.read > 0) std::memcpy(copy.to, copy.from, copy.read);
    std::memset(static_cast<char*>(copy.to) + copy.read, 0, copy.bytes - copy.read);
}

template <int N> DEVICE void cp_async(void* to, const void* from, int read) {
    if (reinterpret_cast<uintptr_t>(to) % N || reinterpret_cast<uintptr_t>(from) % N)
        emulator::fault("cp_async of an address that is not a multiple of its bytes");
    auto& fibre = *emulator::current;
    fibre.copies.push_back({to, from, N, unsigned(read), fibre.groups});
    if (emulator::copies_at_once) copy_now(fibre.copies.back());
}
DEVICE void cp_async_16(void* to, const void* from, bool there = true) {
    cp_async<16>(to, there ? from : nullptr, there ? 16 : 0);
}

DEVICE void cp_async_commit() { ++emulator::current->groups; }

template <int N> DEVICE void cp_async_wait() {
    auto& fibre = *emulator::current;
    const auto waited = [&](const emulator::Copy& copy) { return copy.group + N < fibre.groups; };
    size_t kept = 0;
    for (const auto& copy : fibre.copies) {
        if (!waited(copy)) fibre.copies[kept++] = copy;
        else if (!emulator::copies_at_once) copy_now(copy);
    }
    fibre.copies.resize(kept);
}

template <bool TRANSPOSED> DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16) emulator::fault("ldmatrix of an address that is not a multiple of 16");
    const auto rows = emulator::meet(emulator::Meeting::LDMATRIX, row);
    const unsigned lane = emulator::current->linear % emulator::LANES;
    const auto element = [&](unsigned matrix, unsigned row, unsigned column) -> uint32_t {
        return emulator::slot<const uint16_t*>(rows, matrix * 8 + row)[column];
    };
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned one = lane / 4, two = 2 * (lane % 4);
        r[i] = TRANSPOSED ? element(i, two, one) | element(i, two + 1, one) << 16
                          : element(i, one, two) | element(i, one, two + 1) << 16;
    }
}
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) { load_matrices<false>(r, row); }
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { load_matrices<true>(r, row); }

struct Fragments {
    uint32_t a[4], b[2];
};

// d += a b of fragments of 16-bit (`PER_WORD` = 2) or 8-bit (4) elements.
template <int PER_WORD, class D, class ELEMENT>
DEVICE void multiply_fragments(D (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], ELEMENT element) {
    Fragments own{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const auto slots = emulator::meet(emulator::Meeting::MMA, own);
    const unsigned lane = emulator::current->linear % emulator::LANES, group = lane / 4, place = lane % 4;
    for (int i = 0; i < 4; ++i) {
        const int lower = i / 2;                           // row group + 8 * lower
        const unsigned column = 2 * place + i % 2;
        for (int half = 0; half < 2; ++half)
            for (unsigned t = 0; t < 4; ++t) {
                const auto left = emulator::slot<Fragments>(slots, group * 4 + t).a[lower + 2 * half];
                const auto right = emulator::slot<Fragments>(slots, column * 4 + t).b[half];
                for (int e = 0; e < PER_WORD; ++e) d[i] += element(left, e) * element(right, e);
            }
    }
}

DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply_fragments<2>(d, a, b, [](uint32_t word, int e) { return to_float(f16{uint16_t(word >> 16 * e)}); });
}
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply_fragments<2>(d, a, b, [](uint32_t word, int e) { return __uint_as_float(word >> 16 * e << 16); });
}
DEVICE void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply_fragments<4>(d, a, b, [](uint32_t word, int e) { return int(int8_t(word >> 8 * e)); });
}
