/*
 * A worker: jobs that run one after the other, in the order in which they were posted, on a helper thread, while the
 * thread that posts goes on. Or, where it is made without a thread, at once in the caller: code that posts and waits
 * is right for both.
 *
 *   owner    post 1   post 2   post 3 ....... wait 1   ............ wait 3   call
 *                \        \        \             ^                    ^      (here, after 3)
 *   helper        1111111111 222222 3333333333333|33333333333333333333
 *
 * The first job that fails ends the work: jobs after it are not run, and every call returns its status. One thread, the
 * owner, makes all calls. What it wrote before a post the job sees; what the job wrote it sees after the wait. Jobs run with MXCSR 0x1f80
 * (round to nearest even, no flush to zero); the caller's is put back. Nothing is allocated after create.
 */
#ifndef MPT_WORKER_H
#define MPT_WORKER_H

#include <stdint.h>
#include "log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_worker mpt_worker_t;
/** Of a posted job; they count from 1 in the order of the posts. 0: of none, and always done. */
typedef uint64_t mpt_ticket_t;
typedef mpt_status_t (*mpt_job_t)(void *ctx, int a, int b);

typedef struct mpt_worker_params {
    int threaded;  /* 0: no helper, jobs run in the caller */
    int capacity;  /* jobs that can wait, >= 1: a post beyond waits for room */
    const int *cpus; /* the processors that the helper may use, cpu_count of them; NULL: those of the creator */
    int cpu_count;
    /* Called once where the first job fails, by the thread that ran it, before it counts as done; may be NULL. */
    void (*failed)(void *ctx, mpt_status_t status);
    void *ctx;
    const mpt_log_t *log; /* borrowed */
} mpt_worker_params_t;

/** Where the time went, seconds from create to now; what is under way counts as far as it is. Of any stretch of time `waited` is a part of
 *  `busy`. */
typedef struct mpt_worker_times {
    double busy;   /* a job was under way, or the owner waited for one */
    double waited; /* the owner waited, or ran a job itself */
} mpt_worker_times_t;

/** @return MPT_OK; MPT_ERR_NO_MEMORY (logged). A processor that the kernel refuses is a warning. */
mpt_status_t mpt_worker_create(const mpt_worker_params_t *params, mpt_worker_t **worker_p);
/** Finish what is posted and end the helper; NULL is allowed. */
void mpt_worker_destroy(mpt_worker_t *worker);
/** Run job(ctx, a, b) after all that was posted before. @return MPT_OK; else what the work ended with, and nothing is posted. */
mpt_status_t mpt_worker_post(mpt_worker_t *worker, mpt_job_t job, void *ctx, int a, int b, mpt_ticket_t *ticket_p);
/** Wait until the job of `ticket` is done. @return MPT_OK; what the work ended with, maybe in a later job. */
mpt_status_t mpt_worker_wait(mpt_worker_t *worker, mpt_ticket_t ticket);
/** Wait for everything posted. */
mpt_status_t mpt_worker_drain(mpt_worker_t *worker);
/** Drain, then run job(ctx, a, b) in the caller; its time counts as waited. @return its status, or that of the work. */
mpt_status_t mpt_worker_call(mpt_worker_t *worker, mpt_job_t job, void *ctx, int a, int b);
/** End the work with `status`, as if a job had failed with it, but for the callback: jobs that have not begun are not run. */
void mpt_worker_stop(mpt_worker_t *worker, mpt_status_t status);
mpt_worker_times_t mpt_worker_times(mpt_worker_t *worker);

#ifdef __cplusplus
}
#endif
#endif
