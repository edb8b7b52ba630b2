/* Memory: a device's is the host's own, so copies are real, and it runs out at $STANDIN_MEMORY bytes.
 * It is mapped, not touched: a large arena costs nothing until it is written. */
#define _GNU_SOURCE
#include "standin.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum place { DEVICE, PINNED, REGISTERED };
struct range {
    char *at;
    size_t bytes;
    enum place place;
    struct range *next;
};

static struct range *ranges;
static size_t used; /* on the device */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

size_t standin_memory(void) {
    const char *told = getenv("STANDIN_MEMORY");
    return told ? strtoull(told, NULL, 10) : (size_t)8 << 30;
}

size_t standin_free_memory(void) { return standin_memory() - used; }

static struct range *find(const void *address) {
    struct range *each = ranges;
    while (each && !((char *)address >= each->at && (char *)address < each->at + each->bytes))
        each = each->next;
    return each;
}

const char *standin_place(const void *address) {
    pthread_mutex_lock(&lock);
    struct range *found = find(address);
    const char *told = !found ? "pageable" : found->place == DEVICE ? "device" : "pinned";
    pthread_mutex_unlock(&lock);
    return told;
}

static int add(void *at, size_t bytes, enum place place) {
    struct range *range = malloc(sizeof *range);
    if (!range) return MEMORY_ALLOCATION;
    pthread_mutex_lock(&lock);
    bool room = place != DEVICE || bytes <= standin_memory() - used;
    if (room) {
        *range = (struct range){at, bytes, place, ranges};
        ranges = range;
        used += place == DEVICE ? bytes : 0;
    } else {
        free(range);
    }
    pthread_mutex_unlock(&lock);
    return room ? SUCCESS : MEMORY_ALLOCATION;
}

static int allocate(const char *function, void **at, size_t bytes, enum place place) {
    if (standin_failed()) return ILLEGAL_ADDRESS;
    if (standin_unsafe(function)) return CAPTURE_UNSUPPORTED;
    *at = NULL;
    if (!bytes) return SUCCESS;
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int status = mapped == MAP_FAILED ? MEMORY_ALLOCATION : add(mapped, bytes, place);
    if (status == SUCCESS)
        *at = mapped;
    else if (mapped != MAP_FAILED)
        munmap(mapped, bytes);
    standin_log("allocate", "\"function\": \"%s\", \"place\": \"%s\", \"bytes\": %zu, \"status\": %d",
                function, place == DEVICE ? "device" : "pinned", bytes, status);
    return status;
}

static int give_back(const char *function, void *at, bool unmap) {
    if (!at) return SUCCESS;
    if (standin_unsafe(function)) return CAPTURE_UNSUPPORTED;
    pthread_mutex_lock(&lock);
    struct range **link = &ranges;
    while (*link && (*link)->at != at) link = &(*link)->next;
    struct range *found = *link;
    if (found) {
        *link = found->next;
        used -= found->place == DEVICE ? found->bytes : 0;
    }
    pthread_mutex_unlock(&lock);
    if (!found) return INVALID_VALUE;
    standin_log("free", "\"function\": \"%s\", \"place\": \"%s\", \"bytes\": %zu", function,
                found->place == DEVICE ? "device" : "pinned", found->bytes);
    if (unmap) munmap(at, found->bytes);
    free(found);
    return SUCCESS;
}

int cudaMalloc(void **at, size_t bytes) { return allocate("cudaMalloc", at, bytes, DEVICE); }
int cudaMallocAsync(void **at, size_t bytes, void *stream) {
    return allocate("cudaMallocAsync", at, bytes, DEVICE);
}
int cudaMallocFromPoolAsync(void **at, size_t bytes, void *pool, void *stream) {
    return allocate("cudaMallocFromPoolAsync", at, bytes, DEVICE);
}
int cudaHostAlloc(void **at, size_t bytes, unsigned flags) {
    return allocate("cudaHostAlloc", at, bytes, PINNED);
}
int cudaMallocHost(void **at, size_t bytes) { return allocate("cudaMallocHost", at, bytes, PINNED); }
int cudaFree(void *at) { return give_back("cudaFree", at, true); }
int cudaFreeAsync(void *at, void *stream) { return give_back("cudaFreeAsync", at, true); }
int cudaFreeHost(void *at) { return give_back("cudaFreeHost", at, true); }
int cudaHostRegister(void *at, size_t bytes, unsigned flags) {
    standin_log("allocate", "\"function\": \"cudaHostRegister\", \"place\": \"pinned\", \"bytes\": %zu, "
                "\"status\": 0", bytes);
    return add(at, bytes, REGISTERED);
}
int cudaHostUnregister(void *at) { return give_back("cudaHostUnregister", at, false); }

int cudaMemGetInfo(size_t *free, size_t *total) {
    *free = standin_free_memory();
    *total = standin_memory();
    return SUCCESS;
}

/* As driver_types.h: kinds are 0 unregistered, 1 host, 2 device. */
struct pointer_attributes {
    int kind, device;
    const void *on_device, *on_host;
    long reserved[8];
};

int cudaPointerGetAttributes(struct pointer_attributes *told, const void *address) {
    const char *place = standin_place(address);
    bool device = !strcmp(place, "device"), pinned = !strcmp(place, "pinned");
    *told = (struct pointer_attributes){.kind = device ? 2 : pinned, .device = device || pinned ? 0 : -2};
    told->on_device = device || pinned ? address : NULL;
    told->on_host = device ? NULL : address;
    return SUCCESS;
}

static int copy(const char *function, void *to, const void *from, size_t bytes, void *stream) {
    return standin_put(stream, &(struct work){.kind = COPY, .function = function, .to = to,
                                              .from = from, .bytes = bytes});
}

/* The copies without a stream are the legacy stream's, and wait for it. */
int cudaMemcpy(void *to, const void *from, size_t bytes, int direction) {
    if (standin_unsafe("cudaMemcpy")) return CAPTURE_UNSUPPORTED;
    return copy("cudaMemcpy", to, from, bytes, NULL);
}
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int direction, void *stream) {
    return copy("cudaMemcpyAsync", to, from, bytes, stream);
}
int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                      size_t height, int direction, void *stream) {
    for (size_t row = 0; row < height; row++) {
        int status = copy("cudaMemcpy2DAsync", (char *)to + row * to_pitch,
                          (const char *)from + row * from_pitch, width, stream);
        if (status) return status;
    }
    return SUCCESS;
}
/* What lies in a symbol only kernels know. */
int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, int direction) {
    return NOT_SUPPORTED;
}

static int fill(const char *function, void *to, int value, size_t bytes, void *stream) {
    return standin_put(stream, &(struct work){.kind = FILL, .function = function, .to = to,
                                              .value = value, .bytes = bytes});
}

int cudaMemset(void *to, int value, size_t bytes) {
    if (standin_unsafe("cudaMemset")) return CAPTURE_UNSUPPORTED;
    return fill("cudaMemset", to, value, bytes, NULL);
}
int cudaMemsetAsync(void *to, int value, size_t bytes, void *stream) {
    return fill("cudaMemsetAsync", to, value, bytes, stream);
}
