/*
 * Log lines: levels and a sink chosen by the host program. A mpt_log_t is owned by its creator (a
 * session holds one); modules borrow it. Lines from several threads do not interleave. The first
 * function to find an error logs it once, with the values; callers pass the status up.
 */
#ifndef MPT_LOG_H
#define MPT_LOG_H

#include <stddef.h>

#include "mpt_status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mpt_log_level {
    MPT_LOG_ERROR = 0,
    MPT_LOG_WARN = 1,
    MPT_LOG_INFO = 2,
    MPT_LOG_DEBUG = 3
} mpt_log_level_t;

/** Receives one line without its newline; `line` lives until the return. May be called by any thread. */
typedef void (*mpt_log_sink_t)(void *ctx, mpt_log_level_t level, const char *line);

typedef struct mpt_log {
    mpt_log_level_t level; /* lines above this level are dropped */
    int rank;              /* lines read "rank 3: text"; negative: no prefix */
    mpt_log_sink_t sink;   /* NULL: standard error */
    void *ctx;             /* handed to the sink, borrowed */
} mpt_log_t;

/** Write one line. `log` may be NULL (dropped). Lines over 1 KiB are cut. */
void mpt_log_write(const mpt_log_t *log, mpt_log_level_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** Log the error "out of memory: BYTES bytes for WHAT". @return MPT_ERR_NO_MEMORY, for the caller to pass up. */
mpt_status_t mpt_log_no_memory(const mpt_log_t *log, size_t bytes, const char *what);

#define mpt_log_error(log, ...) mpt_log_write(log, MPT_LOG_ERROR, __VA_ARGS__)
#define mpt_log_warn(log, ...) mpt_log_write(log, MPT_LOG_WARN, __VA_ARGS__)
#define mpt_log_info(log, ...) mpt_log_write(log, MPT_LOG_INFO, __VA_ARGS__)
#define mpt_log_debug(log, ...) mpt_log_write(log, MPT_LOG_DEBUG, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
