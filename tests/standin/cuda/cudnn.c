/* libcudnn.so.9: the recurrent operators', softmax's and the reductions' calls; onnxruntime finds each
 * by name when it needs it, so what is not here (convolutions) fails by name. A call that computes is
 * one launch on its handle's stream; how many kernels cuDNN would make of it nobody here knows. */
#include "standin.h"

#include <stdlib.h>
#include <string.h>

struct handle {
    void *stream;
};

int cudnnCreate(struct handle **handle) {
    *handle = calloc(1, sizeof **handle);
    return *handle ? SUCCESS : 2; /* CUDNN_STATUS_ALLOC_FAILED, roughly: not success */
}
int cudnnDestroy(struct handle *handle) {
    free(handle);
    return SUCCESS;
}
int cudnnSetStream(struct handle *handle, void *stream) {
    handle->stream = stream;
    return SUCCESS;
}
int cudnnGetStream(struct handle *handle, void **stream) {
    *stream = handle->stream;
    return SUCCESS;
}
size_t cudnnGetVersion(void) { return 92801; }
const char *cudnnGetErrorString(int status) { return status ? "refused by the stand-in" : "success"; }
void cudnnGetLastErrorString(char *text, size_t room) {
    if (room) *text = 0;
}

/* CUDNN_STATUS_EXECUTION_FAILED where the stream refuses. */
#define COMPUTES(name) \
    int name(struct handle *handle) { return standin_launch(handle->stream, "cudnn", #name) ? 5000 : SUCCESS; }
COMPUTES(cudnnRNNForward)
COMPUTES(cudnnSoftmaxForward)
COMPUTES(cudnnReduceTensor)
COMPUTES(cudnnActivationForward)
COMPUTES(cudnnAddTensor)

#define DESCRIPTOR(what)                                   \
    int cudnnCreate##what##Descriptor(void **made) {       \
        *made = calloc(1, 64);                             \
        return *made ? SUCCESS : 2;                        \
    }                                                      \
    int cudnnDestroy##what##Descriptor(void *given) {      \
        free(given);                                       \
        return SUCCESS;                                    \
    }
#define TAKEN(name) \
    int name() { return SUCCESS; }
DESCRIPTOR(Activation)
TAKEN(cudnnSetActivationDescriptor)
DESCRIPTOR(Dropout)
TAKEN(cudnnSetDropoutDescriptor)
DESCRIPTOR(Filter)
TAKEN(cudnnSetFilterNdDescriptor)
DESCRIPTOR(ReduceTensor)
TAKEN(cudnnSetReduceTensorDescriptor)
DESCRIPTOR(RNN)
TAKEN(cudnnSetRNNDescriptor_v8)
DESCRIPTOR(RNNData)
TAKEN(cudnnSetRNNDataDescriptor)
DESCRIPTOR(Tensor)
TAKEN(cudnnSetTensorNdDescriptor)

int cudnnDropoutGetStatesSize(void *handle, size_t *bytes) {
    *bytes = 1024;
    return SUCCESS;
}
int cudnnGetReductionIndicesSize(void *handle, void *reduce, void *a, void *b, size_t *bytes) {
    *bytes = 0;
    return SUCCESS;
}
int cudnnGetReductionWorkspaceSize(void *handle, void *reduce, void *a, void *b, size_t *bytes) {
    *bytes = 0;
    return SUCCESS;
}
int cudnnGetRNNTempSpaceSizes(void *handle, void *rnn, int mode, void *x, size_t *work, size_t *reserved) {
    *work = 4096;
    *reserved = 0;
    return SUCCESS;
}

/* Where a gate's weights lie: all at the beginning, of one number, since nothing reads them. */
int cudnnGetRNNWeightParams(void *handle, void *rnn, int layer, size_t bytes, const void *weights, int gate,
                            void *matrix, const void **matrix_at, void *bias, const void **bias_at) {
    *matrix_at = *bias_at = weights;
    return SUCCESS;
}
int cudnnGetTensorNdDescriptor(void *tensor, int room, int *type, int *count, int *shape, int *strides) {
    *type = 0;
    *count = 3;
    for (int k = 0; k < room; k++) shape[k] = strides[k] = 1;
    return SUCCESS;
}
