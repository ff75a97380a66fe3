/*
 * A small pool of threads bound to cores. Work is a number of independent tasks, each writing its own
 * fixed part of the output; which thread runs which task is free, so results cannot depend on it.
 * One caller at a time; the caller works too, as worker 0. No OpenMP, no process globals.
 */
#ifndef MPT_POOL_H
#define MPT_POOL_H

#include "log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_pool mpt_pool_t;

typedef struct mpt_pool_params {
    int threads;           /* >= 1, the caller included */
    const int *cpus;       /* logical processor of each worker, `threads` entries; NULL: not bound */
    int yield;             /* 1: more threads than cores on this host: sleep at once, do not spin */
    const mpt_log_t *log;  /* borrowed */
} mpt_pool_params_t;

/** Runs one task. `worker` in [0, threads) names the thread, for per-thread scratch. Must not call mpt_pool_run. */
typedef void (*mpt_task_t)(void *ctx, int task, int worker);

/** Start the threads, and bind the caller as well where `cpus` is given, until mpt_pool_destroy: a thread
 *  that it starts in between inherits the binding unless it sets its own. A processor that the
 *  kernel refuses is a warning. Workers leave signals to other threads and run with MXCSR 0x1f80 (round to nearest even, no flush to zero).
 *  @return MPT_OK; MPT_ERR_INVALID_ARG; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_pool_create(const mpt_pool_params_t *params, mpt_pool_t **pool_p);
/** Join the threads; NULL is allowed. */
void mpt_pool_destroy(mpt_pool_t *pool);
int mpt_pool_threads(const mpt_pool_t *pool);
/** Run tasks 0 .. tasks-1 and return when all are done; the caller sees all their writes. Never
 *  allocates. With one thread, or one task, runs in the caller. The caller's MXCSR is set for the
 *  duration and put back. Tasks are handed out in increasing order, so costly ones go first if numbered first. */
void mpt_pool_run(mpt_pool_t *pool, mpt_task_t task, void *ctx, int tasks);

#ifdef __cplusplus
}
#endif
#endif
