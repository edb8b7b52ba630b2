/* What the stand-in libraries share. README.md in the folder above says what they are for.
 *
 * One line a call goes to $STANDIN_LOG, a JSON object each. */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* CUDA's own numbers, as its headers have them. */
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    MEMORY_ALLOCATION = 2,
    INVALID_HANDLE = 400,
    ILLEGAL_ADDRESS = 700,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_IMPLICIT = 906,
    CAPTURE_WRONG_THREAD = 908,
};

typedef struct {
    unsigned x, y, z;
} dim3;

/* One thing on a stream: done at once, or kept as a node while the stream is captured. */
struct work {
    enum { LAUNCH, COPY, FILL, HOST } kind;
    const char *function;          /* what was called: cudaMemcpyAsync */
    const char *library, *name;    /* LAUNCH: "kernel", "cublas", ... and what it is called there */
    unsigned long long threads;    /* LAUNCH of a kernel: in all its blocks */
    void *to;                      /* COPY, FILL */
    const void *from;              /* COPY */
    size_t bytes;                  /* COPY, FILL */
    int value;                     /* FILL */
    void (*host)(void *);          /* HOST */
    void *data;
};

int standin_put(void *stream, const struct work *work);
int standin_launch(void *stream, const char *library, const char *name);

/* A call that CUDA forbids while a stream is captured: CAPTURE_UNSUPPORTED, and the capture is lost. */
int standin_unsafe(const char *function);

/* ILLEGAL_ADDRESS once the device has failed: from then on every call fails so. */
int standin_failed(void);

/* Where an address lies: "device", "pinned" or "pageable". */
const char *standin_place(const void *address);
size_t standin_memory(void);
size_t standin_free_memory(void);

/* `format` is of what stands beside "thread" and "call" in the line. */
void standin_log(const char *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
int standin_thread(void);

#endif
