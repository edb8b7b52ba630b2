/* libcublasLt.so.13: a product is one launch, on the stream that it is given. */
#include "standin.h"

#include <stdlib.h>
#include <string.h>

int cublasLtMatmul(void *handle, void *what, const void *alpha, const void *a, void *a_layout,
                   const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                   void *d, void *d_layout, const void *algorithm, void *workspace, size_t bytes,
                   void *stream) {
    return standin_launch(stream, "cublasLt", "cublasLtMatmul") ? 13 : SUCCESS;
}
int cublasLtMatrixTransform(void *handle, void *what, const void *alpha, const void *a, void *a_layout,
                            const void *beta, const void *b, void *b_layout, void *c, void *c_layout,
                            void *stream) {
    return standin_launch(stream, "cublasLt", "cublasLtMatrixTransform") ? 13 : SUCCESS;
}

/* One way to do it: algorithm uint64[8], workspace, state, waves, reserved: 96 bytes as in cublasLt.h. */
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *what, void *a, void *b, void *c, void *d,
                                   void *preference, int most, void *results, int *found) {
    memset(results, 0, 96);
    *found = 1;
    return SUCCESS;
}

#define MADE(name)                               \
    int name(void **made) {                      \
        *made = malloc(64);                      \
        return *made ? SUCCESS : 3;              \
    }
#define FREED(name)         \
    int name(void *given) { \
        free(given);        \
        return SUCCESS;     \
    }
#define TAKEN(name) \
    int name() { return SUCCESS; }
MADE(cublasLtCreate)
FREED(cublasLtDestroy)
MADE(cublasLtMatmulDescCreate)
FREED(cublasLtMatmulDescDestroy)
TAKEN(cublasLtMatmulDescSetAttribute)
MADE(cublasLtMatmulPreferenceCreate)
FREED(cublasLtMatmulPreferenceDestroy)
TAKEN(cublasLtMatmulPreferenceSetAttribute)
MADE(cublasLtMatrixLayoutCreate)
FREED(cublasLtMatrixLayoutDestroy)
TAKEN(cublasLtMatrixLayoutSetAttribute)
MADE(cublasLtMatrixTransformDescCreate)
FREED(cublasLtMatrixTransformDescDestroy)
TAKEN(cublasLtMatmulAlgoConfigSetAttribute)
TAKEN(cublasLtMatmulAlgoInit)
