/* libcuda.so.1: what the server asks the driver, and what onnxruntime's provider links to. It finds one
 * device, or $STANDIN_DEVICES. */
#include "standin.h"

#include <stdlib.h>

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
int cuTensorMapEncodeTiled() { return NOT_SUPPORTED; }
