#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#define LINE_BYTES 1024 /* the longest line, its newline not counted */

static size_t clamp_length(int printed, size_t room)
{
    if (printed < 0)
        return 0;
    return (size_t)printed < room ? (size_t)printed : room;
}

/* A newline inside the text (a file name may hold one) would forge a second line. */
static void flatten(char *line, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
}

static size_t format_line(char *line, const mpt_log_t *log, const char *format, va_list args)
{
    size_t used = 0;
    if (log->rank >= 0)
        used = clamp_length(snprintf(line, LINE_BYTES + 1, "rank %d: ", log->rank), LINE_BYTES);
    size_t room = LINE_BYTES - used;
    used += clamp_length(vsnprintf(line + used, room + 1, format, args), room);
    flatten(line, used);
    line[used] = '\0';
    return used;
}

/* One write for the whole line: lines of several threads, and of several ranks on one pipe, stay
 * whole. */
static void write_stderr(char *line, size_t length)
{
    line[length++] = '\n';
    while (length > 0) {
        ssize_t written = write(STDERR_FILENO, line, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return; /* nobody is left to tell */
        line += written;
        length -= (size_t)written;
    }
}

void mpt_log_write(const mpt_log_t *log, mpt_log_level_t level, const char *format, ...)
{
    if (!log || level > log->level)
        return;
    int saved_errno = errno;
    char line[LINE_BYTES + 2];
    va_list args;
    va_start(args, format);
    size_t length = format_line(line, log, format, args);
    va_end(args);
    if (log->sink)
        log->sink(log->ctx, level, line);
    else
        write_stderr(line, length);
    errno = saved_errno;
}

mpt_status_t mpt_log_no_memory(const mpt_log_t *log, size_t bytes, const char *what)
{
    mpt_log_error(log, "out of memory: %zu bytes for %s", bytes, what);
    return MPT_ERR_NO_MEMORY;
}
