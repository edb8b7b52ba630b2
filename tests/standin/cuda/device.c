/* One device, as large as $STANDIN_MEMORY, of compute capability 9.0; its figures are a Hopper's. */
#include "standin.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAJOR = 9, MINOR = 0, PROCESSORS = 132, THREADS = 1024, WARP = 32, PER_PROCESSOR = 2048 };
enum { SHARED = 49152, SHARED_MOST = 232448, SHARED_PROCESSOR = 233472, REGISTERS = 65536 };
enum { CUDA = 13000 };

/* driver_types.h's cudaDeviceProp of CUDA 13, up to what anybody here reads. */
struct properties {
    char name[256], uuid[16], luid[8];
    unsigned luid_mask;
    size_t memory, shared;
    int registers, warp;
    size_t pitch;
    int threads, block[3], grid[3];
    size_t constants;
    int major, minor;
    size_t texture_alignment, texture_pitch;
    int processors;
    char rest[1008 - 388];
};
_Static_assert(offsetof(struct properties, memory) == 288, "as in driver_types.h");
_Static_assert(offsetof(struct properties, major) == 360, "as in driver_types.h");
_Static_assert(offsetof(struct properties, processors) == 384, "as in driver_types.h");
_Static_assert(sizeof(struct properties) == 1008, "as in driver_types.h");

int cudaGetDeviceProperties(struct properties *told, int device) {
    *told = (struct properties){
        .name = "stand-in", .memory = standin_memory(), .shared = SHARED, .registers = REGISTERS,
        .warp = WARP, .pitch = 2147483647, .threads = THREADS, .block = {THREADS, THREADS, 64},
        .grid = {2147483647, 65535, 65535}, .constants = 65536, .major = MAJOR, .minor = MINOR,
        .texture_alignment = 512, .texture_pitch = 32, .processors = PROCESSORS,
    };
    return device ? INVALID_VALUE : SUCCESS;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    static const int told[150] = {
        [1] = THREADS, [2] = THREADS, [3] = THREADS, [4] = 64, [5] = 2147483647, [6] = 65535, [7] = 65535,
        [8] = SHARED, [9] = 65536, [10] = WARP, [12] = REGISTERS, [16] = PROCESSORS, [19] = 1, [31] = 1,
        [38] = 52428800, [39] = PER_PROCESSOR, [40] = 3, [41] = 1, [75] = MAJOR, [76] = MINOR,
        [81] = SHARED_PROCESSOR, [82] = REGISTERS, [95] = 1, [97] = SHARED_MOST, [99] = 1, [106] = 32,
        [115] = 1,
    };
    if (attribute < 1 || attribute >= 150) return INVALID_VALUE;
    *value = told[attribute];
    return SUCCESS;
}

static __thread int current;

/* Once the file $STANDIN_FAILS_IF is there the device has failed, for good: as after a kernel that went
 * astray, or memory that broke. */
int standin_failed(void) {
    static bool failed;
    const char *told = getenv("STANDIN_FAILS_IF");
    if (!failed && told && !access(told, F_OK)) failed = true;
    return failed ? ILLEGAL_ADDRESS : SUCCESS;
}

int cudaGetDeviceCount(int *count) {
    *count = 1;
    return SUCCESS;
}
int cudaGetDevice(int *device) {
    *device = current;
    return SUCCESS;
}
int cudaSetDevice(int device) { return device ? INVALID_VALUE : SUCCESS; }
int cudaDriverGetVersion(int *version) {
    *version = CUDA;
    return SUCCESS;
}
int cudaRuntimeGetVersion(int *version) {
    *version = CUDA;
    return SUCCESS;
}

/* driver_types.h's cudaFuncAttributes: three sizes and 29 numbers, all zero here. */
int cudaFuncGetAttributes(void *told, const void *stub) {
    memset(told, 0, 144);
    return SUCCESS;
}

/* Errors are returned, never kept: nothing here goes on after its call. */
int cudaGetLastError(void) { return SUCCESS; }
int cudaPeekAtLastError(void) { return SUCCESS; }
const char *cudaGetErrorName(int status) { return status ? "cudaErrorOfStandIn" : "cudaSuccess"; }
const char *cudaGetErrorString(int status) {
    switch (status) {
    case SUCCESS: return "no error";
    case INVALID_VALUE: return "invalid argument";
    case MEMORY_ALLOCATION: return "out of memory";
    case INVALID_HANDLE: return "invalid resource handle";
    case ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
    case NOT_SUPPORTED: return "operation not supported by the stand-in";
    case CAPTURE_UNSUPPORTED: return "operation not permitted when stream is capturing";
    case CAPTURE_INVALIDATED: return "operation failed due to a previous error during capture";
    case CAPTURE_UNMATCHED: return "the capture was not initiated in this stream";
    case CAPTURE_IMPLICIT: return "operation would make the legacy stream depend on a capturing blocking stream";
    case CAPTURE_WRONG_THREAD: return "attempt to terminate a thread-local capture sequence from another thread";
    default: return "unrecognized error code";
    }
}

int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                     unsigned long long flags, int *found) {
    *function = NULL;
    if (found) *found = 1; /* no such symbol */
    return SUCCESS;
}

/* Pools are not offered: onnxruntime uses its own arena, as it does by default. */
int cudaMemPoolCreate() { return NOT_SUPPORTED; }
int cudaMemPoolDestroy() { return NOT_SUPPORTED; }
int cudaMemPoolGetAttribute() { return NOT_SUPPORTED; }
int cudaMemPoolSetAttribute() { return NOT_SUPPORTED; }
int cudaMemPoolTrimTo() { return NOT_SUPPORTED; }
