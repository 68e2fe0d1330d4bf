// A GPU's blocks, warps and shared memory on one thread of a processor, so that the bodies of kernels
// run, and are checked, where there is no GPU. A kernel's file is compiled as C++ behind this header.
//
// Each CUDA thread is a fibre with a stack of its own, run until it ends or meets others: at
// __syncthreads(), a shuffle, ldmatrix or mma. Which goes first is a permutation that the launch
// chooses, so that a result that hangs on an order shows in another launch; in one schedule a warp runs as
// far ahead of the others as it goes. Shared memory begins as
// bytes 0xff (not a number, as floats) and is allocated to the byte, so that AddressSanitizer sees
// where it ends. Asynchronous copies happen at their wait, or at once, as the schedule says: both
// are allowed on a device.
//
// What it cannot show: races between threads that meet nowhere in between and write what the others
// do not read in any of the orders tried; memory ordering; speed.
#pragma once
#define EMULATOR 1

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

constexpr unsigned LANES = 32;
constexpr size_t STACK = 256 << 10;

struct Dim {
    unsigned x, y, z;
};

// ---- Fibres ------------------------------------------------------------------------------------

struct Context {
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t registers;
#endif
    const void* stack = nullptr;
    size_t stack_size = 0;
    void* sanitizer = nullptr;
};

#if defined(__x86_64__)
// Saves what a call must preserve (System V ABI) and goes on where the other stopped.
__attribute__((naked, noinline)) static void swap_stacks(void**, void*) {
    __asm__("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
            "mov %rsp, (%rdi); mov %rsi, %rsp\n"
            "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}
#endif

static void switch_context(Context& from, Context& to, bool ends = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(ends ? nullptr : &from.sanitizer, to.stack, to.stack_size);
#else
    (void)ends;
#endif
#if defined(__x86_64__)
    swap_stacks(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.registers, &to.registers);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

struct Copy {
    void* to;
    const void* from;
    unsigned bytes;
    unsigned read;  // The first of them are read, the others become zeros.
    unsigned group;
};

struct Fibre {
    Context context;
    char* memory = nullptr;
    Dim thread{};
    unsigned linear = 0;
    bool done = false;
    // It goes on when the counter is no longer this.
    const unsigned* waits_for = nullptr;
    unsigned until = 0;
    unsigned shared_declarations = 0;
    unsigned groups = 0;
    std::vector<Copy> copies;
};

// What the lanes of a warp meet at.
enum class Meeting { SHUFFLE, BALLOT, SYNC, LDMATRIX, MMA };

struct Warp {
    // Two sets, since a lane may be at the next meeting while others still read this one's.
    alignas(16) unsigned char slots[2][LANES][32];
    Meeting meeting;
    unsigned arrived, generation;
};

struct Array {
    void* at;
    size_t bytes;
};

static Dim block_index, block_dim, grid_dim;
static Context scheduler;
static std::vector<Fibre> fibres;
static std::vector<Warp> warps;
static Fibre* current;
static unsigned barrier_arrived, barrier_generation;
static std::vector<Array> shared_arrays;
static size_t dynamic_bytes;
static void* dynamic_array;
static bool copies_at_once, as_far_as_it_goes;
static char fault_text[512];

static void pause() { switch_context(current->context, scheduler); }

// Ends the launch with what is wrong; does not return.
[[noreturn]] static void fault(const char* what) {
    std::snprintf(fault_text, sizeof fault_text, "block (%u, %u, %u), thread %u: %s", block_index.x, block_index.y,
                  block_index.z, current->linear, what);
    for (;;) pause();
}

static void wait_while(const unsigned& counter, unsigned value) {
    current->waits_for = &counter;
    current->until = value;
    pause();
}

static void syncthreads() {
    const unsigned generation = barrier_generation;
    if (++barrier_arrived == fibres.size()) {
        barrier_arrived = 0;
        ++barrier_generation;
    } else {
        wait_while(barrier_generation, generation);
    }
}

using Slots = unsigned char (*)[32];

// Shows a value to the warp, and gives those of all its lanes.
template <class T> Slots meet(Meeting meeting, const T& value) {
    static_assert(sizeof(T) <= 32 && std::is_trivially_copyable<T>::value, "a value of a lane");
    Warp& warp = warps[current->linear / LANES];
    const unsigned generation = warp.generation;
    Slots slots = warp.slots[generation % 2];
    if (warp.arrived == 0) warp.meeting = meeting;
    if (warp.meeting != meeting) fault("the lanes of a warp are at different operations");
    std::memcpy(slots[current->linear % LANES], &value, sizeof value);
    if (++warp.arrived == LANES) {
        warp.arrived = 0;
        ++warp.generation;
    } else {
        wait_while(warp.generation, generation);
    }
    return slots;
}

template <class T> T slot(Slots slots, unsigned lane) {
    T value;
    std::memcpy(&value, slots[lane % LANES], sizeof value);
    return value;
}

// ---- Shared memory -----------------------------------------------------------------------------

static void* unset_memory(size_t bytes) {
    void* at = nullptr;
    if (posix_memalign(&at, 128, std::max<size_t>(bytes, 1)) != 0) std::abort();
    std::memset(at, 0xff, bytes);
    return at;
}

// The array of a declaration: the n-th that a thread comes to is the n-th of the others.
template <class T> T* shared(size_t count) {
    const unsigned which = current->shared_declarations++;
    if (which == shared_arrays.size()) shared_arrays.push_back({unset_memory(count * sizeof(T)), count * sizeof(T)});
    if (which > shared_arrays.size() || shared_arrays[which].bytes != count * sizeof(T))
        fault("threads declare different shared memory");
    return static_cast<T*>(shared_arrays[which].at);
}

// ---- Kernels -----------------------------------------------------------------------------------

struct Registered {
    const char* name;
    unsigned most_threads, parameters;
    void (*function)();
    void (*call)(void (*)(), void**);
    Registered* next;

    static Registered*& first() {
        static Registered* list = nullptr;
        return list;
    }

    template <class... A>
    Registered(const char* name, unsigned most_threads, void (*kernel)(A...))
        : name(name), most_threads(most_threads), parameters(sizeof...(A)),
          function(reinterpret_cast<void (*)()>(kernel)), next(first()) {
        call = [](void (*function)(), void** arguments) {
            invoke(reinterpret_cast<void (*)(A...)>(function), arguments, std::index_sequence_for<A...>());
        };
        first() = this;
    }

    template <class... A, size_t... I>
    static void invoke(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
    }
};

static Registered* running;
static void** arguments;

static void run_fibre() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_size);
#endif
    running->call(running->function, arguments);
    current->done = true;
    switch_context(current->context, scheduler, true);
    std::abort();
}

static void prepare(Fibre& fibre) {
    if (!fibre.memory) fibre.memory = static_cast<char*>(std::malloc(STACK));
    if (!fibre.memory) std::abort();
    Context& context = fibre.context;
    context.stack = fibre.memory;
    context.stack_size = STACK;
    context.sanitizer = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(fibre.memory, STACK);
#endif
#if defined(__x86_64__)
    // What `swap_stacks` takes off: six registers, where to go, and where that would return to.
    auto top = reinterpret_cast<uintptr_t>(fibre.memory + STACK) & ~uintptr_t(15);
    auto words = reinterpret_cast<void**>(top) - 8;
    std::fill(words, words + 8, nullptr);
    words[6] = reinterpret_cast<void*>(&run_fibre);
    context.stack_pointer = words;
#else
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = fibre.memory;
    context.registers.uc_stack.ss_size = STACK;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, run_fibre, 0);
#endif
    fibre.done = false;
    fibre.waits_for = nullptr;
    fibre.shared_declarations = fibre.groups = 0;
    fibre.copies.clear();
}

// Runs a block; false after a fault.
static bool run_block(const std::vector<unsigned>& order) {
    barrier_arrived = barrier_generation = 0;
    for (Warp& warp : warps) warp.arrived = warp.generation = 0;
    dynamic_array = unset_memory(dynamic_bytes);
    for (Fibre& fibre : fibres) prepare(fibre);
    size_t left = fibres.size();
    while (left > 0 && !fault_text[0]) {
        bool moved = false;
        for (unsigned which : order) {
            Fibre& fibre = fibres[which];
            if (fibre.done || (fibre.waits_for && *fibre.waits_for == fibre.until)) continue;
            fibre.waits_for = nullptr;
            current = &fibre;
            moved = true;
            switch_context(scheduler, fibre.context);
            if (fault_text[0]) break;
            left -= fibre.done;
            if (as_far_as_it_goes) break;
        }
        if (!moved) {
            const size_t at_barrier = barrier_arrived;
            std::snprintf(fault_text, sizeof fault_text,
                          "block (%u, %u, %u): %zu of %zu threads wait for others that do not come (%zu at __syncthreads)",
                          block_index.x, block_index.y, block_index.z, left, fibres.size(), at_barrier);
        }
    }
    for (Array& array : shared_arrays) std::free(array.at);
    shared_arrays.clear();
    std::free(dynamic_array);
    return !fault_text[0];
}

static const char* launch(const char* name, Dim grid, Dim block, unsigned shared_bytes, void** args, unsigned count,
                          uint64_t schedule) {
    fault_text[0] = 0;
    const auto fails = [&](const char* why) {
        std::snprintf(fault_text, sizeof fault_text, "%s: %s", name, why);
        return fault_text;
    };
    running = Registered::first();
    while (running && std::strcmp(running->name, name) != 0) running = running->next;
    if (!running) return fails("no such kernel");
    if (running->parameters != count) return fails("another number of parameters");
    const unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads % LANES != 0) return fails("a block is not of whole warps");
    if (threads > running->most_threads) return fails("more threads than the kernel says");
    if (shared_bytes > 227u * 1024) return fails("more shared memory than a block can have");
    arguments = args;
    block_dim = block, grid_dim = grid;
    dynamic_bytes = shared_bytes;
    copies_at_once = schedule % 2 == 1;
    as_far_as_it_goes = schedule == 2;
    if (fibres.size() != threads) {
        for (Fibre& fibre : fibres) std::free(fibre.memory);
        fibres = std::vector<Fibre>(threads);
    }
    warps.resize(threads / LANES);
    for (unsigned i = 0; i < threads; ++i) {
        fibres[i].thread = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
        fibres[i].linear = i;
    }
    // Schedule 0 is ascending, 1 descending, 2 ascending with each warp as far ahead of the others as it goes;
    // the others are shuffled.
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0u);
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    if (schedule == 1) std::reverse(order.begin(), order.end());
    std::mt19937_64 random(schedule);
    if (schedule > 2) std::shuffle(order.begin(), order.end(), random);
    for (uint64_t i = 0; i < blocks; ++i) {
        const uint64_t b = schedule == 1 ? blocks - 1 - i : i;
        block_index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (uint64_t(grid.x) * grid.y))};
        if (!run_block(order)) {
            fibres.clear();  // They stand where they stopped: their stacks are given up.
            return fault_text;
        }
    }
    return nullptr;
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) const char* emulator_launch(const char* name, const unsigned* grid, const unsigned* block,
                                       unsigned shared_bytes, void** args, unsigned count, uint64_t schedule) {
    return emulator::launch(name, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes, args,
                            count, schedule);
}

// ---- What CUDA C++ has -------------------------------------------------------------------------

#define threadIdx (::emulator::current->thread)
#define blockIdx (::emulator::block_index)
#define blockDim (::emulator::block_dim)
#define gridDim (::emulator::grid_dim)

#define DEVICE static inline
#define __restrict__ __restrict
#define __device__
#define __constant__
#define __align__(n) alignas(n)
#define KERNEL(threads, name, ...)                                            \
    static void name(__VA_ARGS__);                                            \
    static ::emulator::Registered registered_##name(#name, threads, &name);   \
    static void name(__VA_ARGS__)
#define KERNEL_BLOCKS(threads, blocks, name, ...) KERNEL(threads, name, __VA_ARGS__)
#define SHARED(type, name, count) type* name = ::emulator::shared<type>(count)
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(::emulator::dynamic_array)

using std::max;
using std::min;

static inline void __syncthreads() { emulator::syncthreads(); }
static inline void __syncwarp(unsigned = 0xffffffffu) { emulator::meet(emulator::Meeting::SYNC, 0); }

template <class T> T __shfl_sync(unsigned, T value, int lane) {
    return emulator::slot<T>(emulator::meet(emulator::Meeting::SHUFFLE, value), lane);
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    const unsigned lane = emulator::current->linear % emulator::LANES;
    return emulator::slot<T>(emulator::meet(emulator::Meeting::SHUFFLE, value), lane ^ mask);
}
template <class T> T __shfl_down_sync(unsigned, T value, unsigned delta) {
    const unsigned lane = emulator::current->linear % emulator::LANES;
    const unsigned from = lane + delta < emulator::LANES ? lane + delta : lane;
    return emulator::slot<T>(emulator::meet(emulator::Meeting::SHUFFLE, value), from);
}
template <class T> T __shfl_up_sync(unsigned, T value, unsigned delta) {
    const unsigned lane = emulator::current->linear % emulator::LANES;
    return emulator::slot<T>(emulator::meet(emulator::Meeting::SHUFFLE, value), lane >= delta ? lane - delta : lane);
}
static inline unsigned __ballot_sync(unsigned, int predicate) {
    emulator::Slots slots = emulator::meet(emulator::Meeting::BALLOT, predicate);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < emulator::LANES; ++lane) bits |= unsigned(emulator::slot<int>(slots, lane) != 0) << lane;
    return bits;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }

template <class T> T atomicAdd(T* at, T value) {
    const T old = *at;
    *at = old + value;
    return old;
}
template <class T> T atomicMax(T* at, T value) {
    const T old = *at;
    *at = std::max(old, value);
    return old;
}
static inline void __threadfence() {}

template <class To, class From> To reinterpreted(From from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned x) { return reinterpreted<float>(x); }
static inline unsigned __float_as_uint(float x) { return reinterpreted<unsigned>(x); }
static inline float __int_as_float(int x) { return reinterpreted<float>(x); }
static inline int __float_as_int(float x) { return reinterpreted<int>(x); }
// Names that the C library has for itself.
#define __expf(x) std::exp(float(x))
#define __logf(x) std::log(float(x))
static inline float __fdividef(float x, float y) { return x / y; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const uint64_t bytes = low | uint64_t(high) << 32;
    unsigned chosen = 0;
    for (int i = 0; i < 4; ++i) chosen |= unsigned(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return chosen;
}

// Results that are rounded by themselves: nothing before or after them is fused with them.
static inline float rounded(float x) {
#if defined(__x86_64__)
    __asm__("" : "+x"(x));
    return x;
#else
    volatile float y = x;
    return y;
#endif
}
static inline float __fmul_rn(float x, float y) { return rounded(x * y); }
static inline float __fadd_rn(float x, float y) { return rounded(rounded(x) + rounded(y)); }
static inline float __fsub_rn(float x, float y) { return rounded(rounded(x) - rounded(y)); }
static inline float __fdiv_rn(float x, float y) { return rounded(x / y); }
static inline float __fsqrt_rn(float x) { return rounded(std::sqrt(x)); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
template <class T> T __ldg(const T* at) { return *at; }
