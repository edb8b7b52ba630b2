/* The log: one JSON object a line, in one write each, so that threads do not mix and a kill loses none.
 * With $STANDIN_PARTS=1 only what lies between marks "begin ..." and "end ..." is in it. */
#define _GNU_SOURCE
#include "standin.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int file = -1;
static bool only_parts;
static int parts; /* begun and not ended */

__attribute__((constructor)) static void open_log(void) {
    const char *path = getenv("STANDIN_LOG");
    only_parts = getenv("STANDIN_PARTS") != NULL;
    if (path) file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

int standin_thread(void) { return (int)syscall(SYS_gettid); }

void standin_log(const char *call, const char *format, ...) {
    if (file < 0 || (only_parts && !parts)) return;
    char line[2048];
    int used = snprintf(line, sizeof line, "{\"thread\": %d, \"call\": \"%s\"", standin_thread(), call);
    va_list rest;
    va_start(rest, format);
    if (*format) {
        used += snprintf(line + used, sizeof line - used, ", ");
        used += vsnprintf(line + used, sizeof line - used, format, rest);
    }
    va_end(rest);
    if (used > (int)sizeof line - 3) abort(); /* a line cut short would not be JSON */
    used += snprintf(line + used, sizeof line - used, "}\n");
    if (write(file, line, used) != used) abort();
}

/* What a traced program says itself: the reader cuts the log there. No quotes, no backslashes. */
void standin_mark(const char *text) {
    parts += !strncmp(text, "begin ", 6);
    standin_log("mark", "\"text\": \"%s\"", text);
    parts -= !strncmp(text, "end ", 4);
}
