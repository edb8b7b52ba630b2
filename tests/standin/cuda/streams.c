/* Streams, events, capture and graphs. What is put on a stream is done at once, in the caller's thread;
 * on one that is captured it becomes a node, and is done when the graph is launched: copies read the
 * memory as it is then. Kernels do nothing in either.
 *
 * A capture keeps CUDA's rules, since they are what breaks in service: it ends in the thread that began
 * it, what CUDA calls unsafe is refused meanwhile and loses the capture, whichever thread did it (mode
 * 0), and a captured stream cannot be waited for. */
#include "standin.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { GLOBAL, THREAD_LOCAL, RELAXED };

struct graph {
    struct work *nodes;
    int count;
    long id;
};
struct stream {
    bool blocking; /* waits for the legacy stream, and it for this one */
    struct graph *capture;
    int mode, thread;
    bool lost;
    struct stream *next;
};
struct event {
    struct stream *of; /* where it was recorded, if that was captured */
};

static struct stream legacy = {.blocking = true};
static struct stream *streams = &legacy;
static long graphs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* NULL where it was destroyed. 1 and 2 are CUDA's names for the legacy stream and a thread's own. */
static struct stream *of(void *stream) {
    if ((uintptr_t)stream <= 2) return &legacy;
    pthread_mutex_lock(&lock);
    struct stream *each = streams;
    while (each && each != stream) each = each->next;
    pthread_mutex_unlock(&lock);
    return each;
}

/* With the lock held: whether `thread` may not make an unsafe call; captures that forbid it are lost. */
static bool forbidden(int thread) {
    bool any = false;
    for (struct stream *each = streams; each; each = each->next) {
        if (!each->capture || each->mode == RELAXED) continue;
        if (each->mode == THREAD_LOCAL && each->thread != thread) continue;
        each->lost = any = true;
    }
    return any;
}

int standin_unsafe(const char *function) {
    pthread_mutex_lock(&lock);
    bool refused = forbidden(standin_thread());
    pthread_mutex_unlock(&lock);
    if (refused) standin_log("refused", "\"function\": \"%s\"", function);
    return refused ? CAPTURE_UNSUPPORTED : SUCCESS;
}

static void tell(const struct work *work, const struct stream *stream, bool captured) {
    const char *where = captured ? "true" : "false";
    if (work->kind == LAUNCH)
        standin_log("launch", "\"library\": \"%s\", \"name\": \"%.400s\", \"threads\": %llu, "
                    "\"stream\": %llu, \"captured\": %s", work->library, work->name, work->threads,
                    (unsigned long long)(uintptr_t)stream, where);
    else if (work->kind == COPY)
        standin_log("copy", "\"function\": \"%s\", \"bytes\": %zu, \"source\": \"%s\", \"target\": \"%s\", "
                    "\"stream\": %llu, \"captured\": %s", work->function, work->bytes,
                    standin_place(work->from), standin_place(work->to),
                    (unsigned long long)(uintptr_t)stream, where);
    else if (work->kind == FILL)
        standin_log("fill", "\"function\": \"%s\", \"bytes\": %zu, \"captured\": %s", work->function,
                    work->bytes, where);
    else
        standin_log("host", "\"captured\": %s", where);
}

static void perform(const struct work *work) {
    if (work->kind == COPY) memmove(work->to, work->from, work->bytes);
    if (work->kind == FILL) memset(work->to, work->value, work->bytes);
    if (work->kind == HOST) work->host(work->data);
}

static int keep(struct stream *stream, const struct work *work) {
    if (stream->lost) return CAPTURE_INVALIDATED;
    struct graph *graph = stream->capture;
    struct work *more = realloc(graph->nodes, (graph->count + 1) * sizeof *more);
    if (!more) return MEMORY_ALLOCATION;
    graph->nodes = more;
    graph->nodes[graph->count++] = *work;
    return SUCCESS;
}

/* With the lock held: the legacy stream waits for streams that are captured, which nobody can. */
static bool waits_for_captured(const struct stream *stream) {
    bool any = false;
    for (struct stream *each = streams; stream == &legacy && each; each = each->next)
        if (each->capture && each->blocking) each->lost = any = true;
    return any;
}

int standin_put(void *given, const struct work *work) {
    struct stream *stream = of(given);
    pthread_mutex_lock(&lock);
    bool captured = stream && stream->capture;
    int status = standin_failed()             ? ILLEGAL_ADDRESS
                 : !stream                    ? INVALID_HANDLE
                 : captured                   ? keep(stream, work)
                 : waits_for_captured(stream) ? CAPTURE_IMPLICIT
                                              : SUCCESS;
    pthread_mutex_unlock(&lock);
    if (status) {
        standin_log("refused", "\"function\": \"%s\"", work->function);
        return status;
    }
    tell(work, stream, captured);
    if (!captured) perform(work);
    return SUCCESS;
}

int standin_launch(void *stream, const char *library, const char *name) {
    return standin_put(stream, &(struct work){.kind = LAUNCH, .function = "launch", .library = library,
                                              .name = name});
}

int cudaLaunchHostFunc(void *stream, void (*host)(void *), void *data) {
    return standin_put(stream, &(struct work){.kind = HOST, .function = "cudaLaunchHostFunc",
                                              .host = host, .data = data});
}

int cudaStreamCreateWithFlags(void **made, unsigned flags) {
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) return MEMORY_ALLOCATION;
    stream->blocking = !(flags & 1);
    pthread_mutex_lock(&lock);
    stream->next = streams;
    streams = stream;
    pthread_mutex_unlock(&lock);
    *made = stream;
    standin_log("stream", "\"stream\": %llu", (unsigned long long)(uintptr_t)stream);
    return SUCCESS;
}
int cudaStreamCreate(void **made) { return cudaStreamCreateWithFlags(made, 0); }
int cudaStreamCreateWithPriority(void **made, unsigned flags, int priority) {
    return cudaStreamCreateWithFlags(made, flags);
}

int cudaStreamDestroy(void *stream) {
    pthread_mutex_lock(&lock);
    struct stream **link = &streams;
    while (*link && *link != stream) link = &(*link)->next;
    bool found = *link && *link != &legacy;
    if (found) *link = (*link)->next;
    pthread_mutex_unlock(&lock);
    if (!found) return INVALID_HANDLE;
    free(stream);
    return SUCCESS;
}

static int waited(const char *function, struct stream *stream) {
    if (standin_failed()) return ILLEGAL_ADDRESS;
    pthread_mutex_lock(&lock);
    bool captured = stream && stream->capture;
    if (captured) stream->lost = true;
    pthread_mutex_unlock(&lock);
    if (captured)
        standin_log("refused", "\"function\": \"%s\"", function);
    else
        standin_log("sync", "\"function\": \"%s\", \"stream\": %llu", function,
                    (unsigned long long)(uintptr_t)stream);
    return captured ? CAPTURE_UNSUPPORTED : SUCCESS;
}

int cudaStreamSynchronize(void *stream) {
    return of(stream) ? waited("cudaStreamSynchronize", of(stream)) : INVALID_HANDLE;
}
int cudaStreamQuery(void *stream) {
    return of(stream) ? waited("cudaStreamQuery", of(stream)) : INVALID_HANDLE;
}
int cudaDeviceSynchronize(void) {
    if (standin_unsafe("cudaDeviceSynchronize")) return CAPTURE_UNSUPPORTED;
    return waited("cudaDeviceSynchronize", NULL);
}

int cudaEventCreateWithFlags(void **made, unsigned flags) {
    *made = calloc(1, sizeof(struct event));
    return *made ? SUCCESS : MEMORY_ALLOCATION;
}
int cudaEventCreate(void **made) { return cudaEventCreateWithFlags(made, 0); }
int cudaEventDestroy(void *event) {
    free(event);
    return SUCCESS;
}
int cudaEventRecordWithFlags(void *event, void *stream, unsigned flags) {
    if (!of(stream)) return INVALID_HANDLE;
    ((struct event *)event)->of = of(stream)->capture ? of(stream) : NULL;
    standin_log("event", "\"function\": \"cudaEventRecord\"");
    return SUCCESS;
}
int cudaEventRecord(void *event, void *stream) { return cudaEventRecordWithFlags(event, stream, 0); }
int cudaEventSynchronize(void *event) {
    return waited("cudaEventSynchronize", ((struct event *)event)->of);
}
int cudaEventQuery(void *event) { return waited("cudaEventQuery", ((struct event *)event)->of); }
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) { return NOT_SUPPORTED; }

/* A second stream that joins a capture would be a graph with branches, which nobody here makes. */
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) {
    struct stream *from = ((struct event *)event)->of;
    standin_log("event", "\"function\": \"cudaStreamWaitEvent\"");
    return from == NULL || from == of(stream) ? SUCCESS : NOT_SUPPORTED;
}

int cudaStreamIsCapturing(void *stream, int *told) {
    if (!of(stream)) return INVALID_HANDLE;
    *told = !of(stream)->capture ? 0 : of(stream)->lost ? 2 : 1;
    return SUCCESS;
}

int cudaStreamBeginCapture(void *given, int mode) {
    struct stream *stream = of(given);
    if (!stream) return INVALID_HANDLE;
    if (stream == &legacy || stream->capture) return CAPTURE_UNSUPPORTED;
    struct graph *graph = calloc(1, sizeof *graph);
    if (!graph) return MEMORY_ALLOCATION;
    pthread_mutex_lock(&lock);
    graph->id = ++graphs;
    stream->capture = graph;
    stream->mode = mode;
    stream->thread = standin_thread();
    stream->lost = false;
    pthread_mutex_unlock(&lock);
    standin_log("capture", "\"graph\": %ld, \"mode\": %d", graph->id, mode);
    return SUCCESS;
}

int cudaStreamEndCapture(void *given, void **made) {
    struct stream *stream = of(given);
    *made = NULL;
    if (!stream || !stream->capture) return CAPTURE_UNMATCHED;
    if (stream->mode != RELAXED && stream->thread != standin_thread()) return CAPTURE_WRONG_THREAD;
    pthread_mutex_lock(&lock);
    struct graph *graph = stream->capture;
    stream->capture = NULL;
    pthread_mutex_unlock(&lock);
    standin_log("captured", "\"graph\": %ld, \"nodes\": %d, \"lost\": %s", graph->id, graph->count,
                stream->lost ? "true" : "false");
    if (stream->lost) return CAPTURE_INVALIDATED;
    *made = graph;
    return SUCCESS;
}

static int count(const struct graph *graph, int kind) {
    int found = 0;
    for (int k = 0; k < graph->count; k++) found += (int)graph->nodes[k].kind == kind;
    return found;
}

int cudaGraphInstantiate(void **made, void *given, unsigned long long flags) {
    const struct graph *graph = given;
    struct graph *whole = calloc(1, sizeof *whole);
    struct work *nodes = malloc((graph->count + 1) * sizeof *nodes);
    if (!whole || !nodes) return MEMORY_ALLOCATION;
    if (graph->count) memcpy(nodes, graph->nodes, graph->count * sizeof *nodes);
    *whole = (struct graph){nodes, graph->count, graph->id};
    *made = whole;
    return SUCCESS;
}

int cudaGraphLaunch(void *given, void *stream) {
    const struct graph *graph = given;
    if (standin_failed()) return ILLEGAL_ADDRESS;
    if (!of(stream)) return INVALID_HANDLE;
    if (of(stream)->capture) return NOT_SUPPORTED;
    standin_log("replay", "\"graph\": %ld, \"launches\": %d, \"copies\": %d, \"fills\": %d, "
                "\"stream\": %llu", graph->id, count(graph, LAUNCH), count(graph, COPY),
                count(graph, FILL), (unsigned long long)(uintptr_t)of(stream));
    for (int k = 0; k < graph->count; k++) perform(&graph->nodes[k]);
    return SUCCESS;
}

int cudaGraphDestroy(void *given) {
    struct graph *graph = given;
    free(graph->nodes);
    free(graph);
    return SUCCESS;
}
int cudaGraphExecDestroy(void *given) { return cudaGraphDestroy(given); }
