// NVRTC for tests: whatever the source, it makes what the driver beside it takes; with FAKE_IMAGE set, that.
#include <cstdlib>
#include <cstring>

using nvrtcResult = int;

static const char* image() {
    const char* other = getenv("FAKE_IMAGE");
    return other ? other : "FAKE CUBIN";
}

#define CALL extern "C" nvrtcResult

CALL nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0; }

CALL nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*, const char* const*) {
    return *program = malloc(1), 0;
}

CALL nvrtcDestroyProgram(void** program) { return free(*program), 0; }
CALL nvrtcCompileProgram(void*, int, const char* const*) { return 0; }
CALL nvrtcGetProgramLogSize(void*, size_t* size) { return *size = 1, 0; }
CALL nvrtcGetProgramLog(void*, char* log) { return *log = 0; }
CALL nvrtcGetCUBINSize(void*, size_t* size) { return *size = strlen(image()) + 1, 0; }
CALL nvrtcGetCUBIN(void*, char* cubin) { return strcpy(cubin, image()), 0; }
