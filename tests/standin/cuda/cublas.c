/* libcublas.so.13: every product is one launch on its handle's stream. */
#include "standin.h"

#include <stdlib.h>

struct handle {
    void *stream;
    int mode;
};

int cublasCreate_v2(struct handle **handle) {
    *handle = calloc(1, sizeof **handle);
    return *handle ? SUCCESS : 3; /* CUBLAS_STATUS_ALLOC_FAILED */
}
int cublasDestroy_v2(struct handle *handle) {
    free(handle);
    return SUCCESS;
}
int cublasSetStream_v2(struct handle *handle, void *stream) {
    handle->stream = stream;
    return SUCCESS;
}
int cublasSetMathMode(struct handle *handle, int mode) {
    handle->mode = mode;
    return SUCCESS;
}
int cublasGetMathMode(struct handle *handle, int *mode) {
    *mode = handle->mode;
    return SUCCESS;
}
const char *cublasGetStatusName(int status) { return status ? "refused" : "CUBLAS_STATUS_SUCCESS"; }
const char *cublasGetStatusString(int status) { return status ? "refused by the stand-in" : "success"; }

/* CUBLAS_STATUS_EXECUTION_FAILED where the stream refuses. */
#define PRODUCT(name) \
    int name(struct handle *handle) { return standin_launch(handle->stream, "cublas", #name) ? 13 : SUCCESS; }
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmBatchedEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemmBatched)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasDgemmBatched)
PRODUCT(cublasDgemmStridedBatched)
PRODUCT(cublasSgeam)
PRODUCT(cublasDgeam)
PRODUCT(cublasScopy_v2)
PRODUCT(cublasSscal_v2)
PRODUCT(cublasSgetrfBatched)
PRODUCT(cublasDgetrfBatched)
PRODUCT(cublasSgetriBatched)
PRODUCT(cublasDgetriBatched)
