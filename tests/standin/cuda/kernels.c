/* Kernels: nvcc's code registers each by the address of its stub on the host, which its launches name.
 * None does anything. */
#include "standin.h"

#include <search.h>
#include <stdlib.h>

struct kernel {
    const void *stub;
    const char *name;
};
struct launch {
    dim3 grid, block;
    size_t shared;
    void *stream;
};

static void *kernels; /* a tree of <search.h>; filled while libraries load, so without a lock */
static __thread struct launch configured;

static int by_stub(const void *one, const void *other) {
    const void *a = ((const struct kernel *)one)->stub, *b = ((const struct kernel *)other)->stub;
    return (a > b) - (a < b);
}

static const char *name_of(const void *stub) {
    struct kernel wanted = {stub, NULL};
    struct kernel **found = tfind(&wanted, &kernels, by_stub);
    return found ? (*found)->name : "unknown";
}

void **__cudaRegisterFatBinary(void *binary) { return malloc(sizeof(void *)); }
void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) { free(handle); }
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int outer,
                       size_t bytes, int constant, int global) {}
void __cudaRegisterFunction(void **handle, const char *stub, char *device, const char *name, int limit,
                            void *thread, void *block, void *blocks, void *grid, int *warp) {
    struct kernel *kernel = malloc(sizeof *kernel);
    *kernel = (struct kernel){stub, name};
    if (*(struct kernel **)tsearch(kernel, &kernels, by_stub) != kernel) free(kernel);
}

/* f<<<grid, block, shared, stream>>>() is a push here, and a pop in the stub. */
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    configured = (struct launch){grid, block, shared, stream};
    return 0;
}
int __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void **stream) {
    *grid = configured.grid, *block = configured.block;
    *shared = configured.shared, *stream = configured.stream;
    return SUCCESS;
}
int __cudaGetKernel(const void **kernel, const void *stub) {
    *kernel = stub;
    return SUCCESS;
}

static int launched(const void *stub, dim3 grid, dim3 block, void *stream) {
    unsigned long long blocks = (unsigned long long)grid.x * grid.y * grid.z;
    return standin_put(stream, &(struct work){
        .kind = LAUNCH, .function = "cudaLaunchKernel", .library = "kernel", .name = name_of(stub),
        .threads = blocks * block.x * block.y * block.z,
    });
}

int cudaLaunchKernel(const void *stub, dim3 grid, dim3 block, void **arguments, size_t shared,
                     void *stream) {
    return launched(stub, grid, block, stream);
}
int __cudaLaunchKernel(const void *stub, dim3 grid, dim3 block, void **arguments, size_t shared,
                       void *stream) {
    return launched(stub, grid, block, stream);
}
int cudaLaunchCooperativeKernel(const void *stub, dim3 grid, dim3 block, void **arguments,
                                size_t shared, void *stream) {
    return launched(stub, grid, block, stream);
}
int cudaLaunchKernelExC(const struct launch *launch, const void *stub, void **arguments) {
    return launched(stub, launch->grid, launch->block, launch->stream);
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *stub, int threads,
                                                           size_t shared, unsigned flags) {
    *blocks = 8;
    return SUCCESS;
}
int cudaFuncSetAttribute(const void *stub, int attribute, int value) { return SUCCESS; }
int cudaKernelSetAttributeForDevice(void *kernel, int attribute, int value, int device) {
    return SUCCESS;
}
/* Of a library loaded at run time there would be code to run. */
int cudaLibraryLoadData() { return NOT_SUPPORTED; }
int cudaLibraryGetKernel() { return NOT_SUPPORTED; }
int cudaLibraryUnload() { return NOT_SUPPORTED; }
