// A driver for tests: GPUs whose memory is the host's and whose kernels are the two at the end. What is asynchronous it
// does as late as it may, and it refuses what a driver would: a call without a context, a copy beyond an allocation, a
// launch with more shared memory than was said. The environment says what machine it plays: see `setting`.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

using CUresult = int;
enum : CUresult {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    DEVICE_UNAVAILABLE = 46,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_UNSUPPORTED = 900,
};

// FAKE_VERSION (13000), FAKE_DEVICES (1), FAKE_CAPABILITY (80), FAKE_MEMORY in bytes (1 GiB); FAKE_BROKEN, a device that
// does not answer; FAKE_NO_PINNED.
static long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}

using Work = std::function<CUresult()>;
using Graph = std::vector<Work>;

struct Event {
    bool timed;
    bool recorded = false; // and not done yet
    std::chrono::steady_clock::time_point when;
};

// Reads a kernel's parameters, as a driver does before the launch returns, and says what the kernel does.
using Kernel = std::function<Work(void** params)>;
static const std::map<std::string, Kernel>& kernels();

struct Function {
    const Kernel* kernel;
    unsigned shared = 48 << 10;
};

struct Module {
    std::map<std::string, Function> functions;
};

static std::recursive_mutex mutex;
static bool started = false;
static std::map<uintptr_t, size_t> memory, pinned;
static std::vector<Work> waiting; // in the one stream
static Graph* capture = nullptr;
static bool capture_broken = false;
static CUresult sticky = SUCCESS; // what a kernel has done to the context
static std::map<std::string, long> alive, ever;
static thread_local void* current = nullptr;

static void made(const char* what) { ++alive[what], ++ever[what]; }

// How many of these are there, or were ever made: "context", "stream", "memory" and so on.
extern "C" long fake_alive(const char* what) { return alive[what]; }
extern "C" long fake_ever(const char* what) { return ever[what]; }

static CUresult enqueue(Work work) {
    if (capture)
        capture->push_back(work);
    else
        waiting.push_back(work);
    return sticky;
}

// For the other fakes.
extern "C" void fake_enqueue(const Work& work) { enqueue(work); }

static CUresult drain() {
    std::vector<Work> works;
    works.swap(waiting);
    for (const Work& work : works)
        if (sticky == SUCCESS) sticky = work();
    return sticky;
}

static bool within(const std::map<uintptr_t, size_t>& all, const void* at, size_t bytes) {
    const uintptr_t begin = uintptr_t(at);
    auto next = all.upper_bound(begin);
    if (next == all.begin()) return false;
    --next;
    return begin + bytes <= next->first + next->second;
}

#define CALL extern "C" CUresult
#define LOCKED std::lock_guard<std::recursive_mutex> lock(mutex)
#define IN_CONTEXT \
    LOCKED; \
    if (!current) return INVALID_CONTEXT

// The machine.

CALL cuInit(unsigned) { return started = true, SUCCESS; }
CALL cuDriverGetVersion(int* version) { return *version = int(setting("FAKE_VERSION", 13000)), SUCCESS; }
CALL cuGetErrorString(CUresult, const char** text) { return *text = "as planned", SUCCESS; }

CALL cuDeviceGetCount(int* count) {
    if (!started) return NOT_INITIALIZED;
    return *count = int(setting("FAKE_DEVICES", 1)), SUCCESS;
}

CALL cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= setting("FAKE_DEVICES", 1)) return INVALID_DEVICE;
    return *device = ordinal, SUCCESS;
}

static bool broken(int device) { return device == setting("FAKE_BROKEN", -1); }

CALL cuDeviceGetName(char* name, int length, int device) {
    if (broken(device)) return DEVICE_UNAVAILABLE;
    return strncpy(name, "a fake", size_t(length)), SUCCESS;
}

CALL cuDeviceTotalMem_v2(size_t* bytes, int device) {
    if (broken(device)) return DEVICE_UNAVAILABLE;
    return *bytes = size_t(setting("FAKE_MEMORY", 1 << 30)), SUCCESS;
}

CALL cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (broken(device)) return DEVICE_UNAVAILABLE;
    const int capability = int(setting("FAKE_CAPABILITY", 80));
    switch (attribute) {
    case 16: return *value = 108, SUCCESS; // multiprocessors
    case 75: return *value = capability / 10, SUCCESS;
    case 76: return *value = capability % 10, SUCCESS;
    case 97: return *value = 163 << 10, SUCCESS; // shared memory that a block can ask for
    case 115: return *value = 1, SUCCESS;        // pools
    default: return INVALID_VALUE;
    }
}

// Contexts.

static int contexts[64];

CALL cuDevicePrimaryCtxRetain(void** context, int device) {
    if (broken(device)) return DEVICE_UNAVAILABLE;
    return made("context"), *context = &contexts[device], SUCCESS;
}

CALL cuDevicePrimaryCtxRelease_v2(int) { return --alive["context"], SUCCESS; }
CALL cuCtxGetCurrent(void** context) { return *context = current, SUCCESS; }
CALL cuCtxSetCurrent(void* context) { return current = context, sticky; }

// Memory.

static size_t used() {
    size_t sum = 0;
    for (auto& [at, bytes] : memory) sum += bytes;
    return sum;
}

CALL cuMemGetInfo_v2(size_t* free, size_t* total) {
    IN_CONTEXT;
    *total = size_t(setting("FAKE_MEMORY", 1 << 30));
    return *free = *total - used(), SUCCESS;
}

CALL cuMemAlloc_v2(uintptr_t* at, size_t bytes) {
    IN_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    if (used() + bytes > size_t(setting("FAKE_MEMORY", 1 << 30))) return OUT_OF_MEMORY;
    *at = uintptr_t(aligned_alloc(256, (bytes + 255) / 256 * 256));
    memset(reinterpret_cast<void*>(*at), 0xff, bytes);
    return memory[*at] = bytes, made("memory"), SUCCESS;
}

CALL cuMemFree_v2(uintptr_t at) {
    IN_CONTEXT;
    drain();
    if (!memory.erase(at)) return INVALID_VALUE;
    return free(reinterpret_cast<void*>(at)), --alive["memory"], SUCCESS;
}

CALL cuMemHostAlloc(void** at, size_t bytes, unsigned) {
    IN_CONTEXT;
    if (getenv("FAKE_NO_PINNED")) return OUT_OF_MEMORY;
    *at = malloc(bytes);
    return pinned[uintptr_t(*at)] = bytes, made("pinned"), SUCCESS;
}

CALL cuMemFreeHost(void* at) {
    IN_CONTEXT;
    if (!pinned.erase(uintptr_t(at))) return INVALID_VALUE;
    return free(at), --alive["pinned"], SUCCESS;
}

CALL cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void*) {
    IN_CONTEXT;
    if (!within(memory, to, bytes)) return INVALID_VALUE;
    if (within(pinned, from, bytes)) return enqueue([=] { return memcpy(to, from, bytes), SUCCESS; });
    // What is not pinned has been read when the call returns.
    std::string copied(static_cast<const char*>(from), bytes);
    return enqueue([=] { return memcpy(to, copied.data(), bytes), SUCCESS; });
}

CALL cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void*) {
    IN_CONTEXT;
    if (!within(memory, from, bytes)) return INVALID_VALUE;
    return enqueue([=] { return memcpy(to, from, bytes), SUCCESS; });
}

CALL cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t bytes, void*) {
    IN_CONTEXT;
    if (!within(memory, to, bytes) || !within(memory, from, bytes)) return INVALID_VALUE;
    return enqueue([=] { return memcpy(to, from, bytes), SUCCESS; });
}

CALL cuMemsetD8Async(void* to, unsigned char byte, size_t bytes, void*) {
    IN_CONTEXT;
    if (!within(memory, to, bytes)) return INVALID_VALUE;
    return enqueue([=] { return memset(to, byte, bytes), SUCCESS; });
}

// The stream, and moments in it.

CALL cuStreamCreate(void** stream, unsigned) {
    IN_CONTEXT;
    return made("stream"), *stream = &waiting, SUCCESS;
}

CALL cuStreamDestroy_v2(void*) {
    IN_CONTEXT;
    return --alive["stream"], drain();
}

CALL cuStreamSynchronize(void*) {
    IN_CONTEXT;
    if (capture) return capture_broken = true, CAPTURE_UNSUPPORTED;
    return drain();
}

CALL cuEventCreate(Event** event, unsigned flags) {
    IN_CONTEXT;
    return made("event"), *event = new Event{!(flags & 2), false, {}}, SUCCESS;
}

CALL cuEventDestroy_v2(Event* event) {
    IN_CONTEXT;
    if (event->recorded) drain();
    return delete event, --alive["event"], SUCCESS;
}

// One that takes the time is done at once, or all times would be those of the waits.
CALL cuEventRecord(Event* event, void*) {
    IN_CONTEXT;
    event->recorded = true;
    enqueue([=] { return event->when = std::chrono::steady_clock::now(), event->recorded = false, SUCCESS; });
    return event->timed ? drain() : sticky;
}

CALL cuEventSynchronize(Event* event) {
    IN_CONTEXT;
    return event->recorded ? drain() : sticky;
}

CALL cuEventElapsedTime(float* ms, Event* from, Event* to) {
    IN_CONTEXT;
    if (!from->timed || !to->timed) return INVALID_VALUE;
    return *ms = std::chrono::duration<float, std::milli>(to->when - from->when).count(), SUCCESS;
}

// Modules and launches.

CALL cuModuleLoadData(Module** module, const char* image) {
    IN_CONTEXT;
    if (strcmp(image, "FAKE CUBIN")) return INVALID_IMAGE;
    return made("module"), *module = new Module, SUCCESS;
}

CALL cuModuleUnload(Module* module) {
    IN_CONTEXT;
    return delete module, --alive["module"], SUCCESS;
}

CALL cuModuleGetFunction(Function** function, Module* module, const char* name) {
    IN_CONTEXT;
    auto kernel = kernels().find(name);
    if (kernel == kernels().end()) return NOT_FOUND;
    return *function = &(module->functions[name] = Function{&kernel->second}), SUCCESS;
}

CALL cuFuncSetAttribute(Function* function, int attribute, int value) {
    IN_CONTEXT;
    if (attribute != 8 || value > 163 << 10) return INVALID_VALUE;
    return function->shared = unsigned(value), SUCCESS;
}

CALL cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                    unsigned shared, void*, void** params, void**) {
    IN_CONTEXT;
    if (x * y * z == 0 || bx * by * bz == 0 || bx * by * bz > 1024 || shared > function->shared) return INVALID_VALUE;
    return enqueue((*function->kernel)(params));
}

// Graphs.

CALL cuStreamBeginCapture_v2(void*, int) {
    IN_CONTEXT;
    if (capture) return CAPTURE_UNSUPPORTED;
    return made("graph"), capture = new Graph, capture_broken = false, sticky;
}

CALL cuStreamEndCapture(void*, Graph** graph) {
    IN_CONTEXT;
    if (!capture) return INVALID_VALUE;
    *graph = capture, capture = nullptr;
    if (!capture_broken) return SUCCESS;
    return delete *graph, *graph = nullptr, --alive["graph"], CAPTURE_UNSUPPORTED;
}

CALL cuGraphDestroy(Graph* graph) {
    IN_CONTEXT;
    return delete graph, --alive["graph"], SUCCESS;
}

CALL cuGraphInstantiateWithFlags(Graph** executable, const Graph* graph, unsigned long long) {
    IN_CONTEXT;
    return made("executable"), *executable = new Graph(*graph), SUCCESS;
}

CALL cuGraphLaunch(const Graph* executable, void*) {
    IN_CONTEXT;
    for (const Work& work : *executable) enqueue(work);
    return sticky;
}

CALL cuGraphExecDestroy(Graph* executable) {
    IN_CONTEXT;
    return delete executable, --alive["executable"], SUCCESS;
}

// Kernels, with the parameters of the real ones.

template <class T>
static T parameter(void** params, int i) {
    T value;
    return memcpy(&value, params[i], sizeof value), value;
}

static Work add(void** params) {
    const auto *a = parameter<const int8_t*>(params, 0), *b = parameter<const int8_t*>(params, 1);
    auto* out = parameter<int8_t*>(params, 2);
    const auto n = parameter<int64_t>(params, 3);
    const float scale_a = parameter<float>(params, 4), scale_b = parameter<float>(params, 6);
    const int zero_a = parameter<int>(params, 5), zero_b = parameter<int>(params, 7);
    const float inverse_out = parameter<float>(params, 8);
    const int zero_out = parameter<int>(params, 9);
    return [=] {
        for (int64_t i = 0; i < n; ++i) {
            const float sum = scale_a * float(a[i] - zero_a) + scale_b * float(b[i] - zero_b);
            out[i] = int8_t(fminf(fmaxf(rintf(sum * inverse_out) + float(zero_out), -128), 127));
        }
        return SUCCESS;
    };
}

// Rows of `k` floats to rows of `padded` bf16. The numbers of the tests lose nothing.
static Work round_bf16(void** params) {
    const auto* x = parameter<const uint32_t*>(params, 0);
    auto* out = parameter<uint16_t*>(params, 1);
    const auto rows = parameter<int64_t>(params, 2);
    const int k = parameter<int>(params, 3), padded = parameter<int>(params, 4);
    return [=] {
        for (int64_t row = 0; row < rows; ++row)
            for (int i = 0; i < padded; ++i) out[row * padded + i] = i < k ? uint16_t(x[row * k + i] >> 16) : 0;
        return SUCCESS;
    };
}

static const std::map<std::string, Kernel>& kernels() {
    static const std::map<std::string, Kernel> all = {
        {"quantized_vector_add", add},
        {"gemm_round_bf16", round_bf16},
        {"goes_astray", [](void**) { return [] { return ILLEGAL_ADDRESS; }; }},
    };
    return all;
}
