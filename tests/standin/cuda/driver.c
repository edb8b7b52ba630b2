/* libcuda.so.1: what the server and benchmarks/gpu/floor.py ask the driver, and what onnxruntime's provider
 * links to. It finds one device, or $STANDIN_DEVICES. */
#include "standin.h"

#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) { return SUCCESS; }
int cuDeviceGetCount(int *count) {
    const char *told = getenv("STANDIN_DEVICES");
    *count = told ? atoi(told) : 1;
    return SUCCESS;
}
int cuDeviceGet(int *device, int index) {
    *device = index;
    return index ? INVALID_VALUE : SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    static int only;
    *context = &only;
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
int cuCtxPushCurrent_v2(void *context) { return SUCCESS; }
int cuCtxPopCurrent_v2(void **context) { return SUCCESS; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = standin_free_memory();
    *total = standin_memory();
    return SUCCESS;
}
int cuCtxSetCurrent(void *context) { return context ? SUCCESS : INVALID_VALUE; }

/* What the runtime has under another name, and its memory as numbers. */
enum { TO_DEVICE = 1, TO_HOST = 2, ON_DEVICE = 3 };
int cudaStreamCreateWithFlags(void **made, unsigned flags);
int cudaStreamSynchronize(void *stream);
int cudaStreamBeginCapture(void *stream, int mode);
int cudaStreamEndCapture(void *stream, void **graph);
int cudaGraphInstantiate(void **made, void *graph, unsigned long long flags);
int cudaGraphLaunch(void *graph, void *stream);
int cudaMalloc(void **at, size_t bytes);
int cudaHostAlloc(void **at, size_t bytes, unsigned flags);
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int direction, void *stream);

int cuStreamCreate(void **made, unsigned flags) { return cudaStreamCreateWithFlags(made, flags); }
int cuStreamSynchronize(void *stream) { return cudaStreamSynchronize(stream); }
int cuStreamBeginCapture_v2(void *stream, int mode) { return cudaStreamBeginCapture(stream, mode); }
int cuStreamEndCapture(void *stream, void **graph) { return cudaStreamEndCapture(stream, graph); }
int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    return cudaGraphInstantiate(made, graph, flags);
}
int cuGraphLaunch(void *graph, void *stream) { return cudaGraphLaunch(graph, stream); }
int cuMemAlloc_v2(uint64_t *at, size_t bytes) { return cudaMalloc((void **)at, bytes); }
int cuMemHostAlloc(void **at, size_t bytes, unsigned flags) { return cudaHostAlloc(at, bytes, flags); }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    return cudaMemcpyAsync((void *)to, (const void *)from, bytes, ON_DEVICE, stream);
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    return cudaMemcpyAsync((void *)to, from, bytes, TO_DEVICE, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    return cudaMemcpyAsync(to, (const void *)from, bytes, TO_HOST, stream);
}

/* A module is its PTX, and a kernel its name in there. */
int cuModuleLoadData(void **module, const void *image) {
    *module = (void *)image;
    return strstr(image, ".entry") ? SUCCESS : INVALID_VALUE;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = strstr(module, name);
    return *function ? SUCCESS : INVALID_VALUE;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void *stream,
                   void **arguments, void **more) {
    if (!function || !(x && y && z && threads_x && threads_y && threads_z)) return INVALID_VALUE;
    return standin_launch(stream, "driver", "nothing");
}

int cuTensorMapEncodeTiled() { return NOT_SUPPORTED; }
