#include "pool.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "thread.h"

/*
 * One run:
 *
 *   caller                                   worker
 *   task, ctx  (plain)                       read epoch
 *   done = 0                                 +-> ticket.fetch_add(1) -> (tasks, next)
 *   ticket = (tasks, 0)    -- release -->    |   next < tasks: run task `next` --+
 *   epoch += 1, wake sleepers                +-----------------------------------+
 *   take tickets like a worker               done += tasks run  -- release --> caller
 *   wait until done == tasks                 sleep until epoch changes
 *
 * The caller waits for tasks, not for workers: one that wakes late finds no ticket left and never
 * reads the job. A valid ticket keeps the job alive, since `done` cannot reach `tasks` before its
 * task is counted.
 */

#define CACHE_LINE 64
/* Looks at a word before sleeping on it: some 30 us, longer than most gaps between kernels. */
#define SPINS 700

typedef struct cpu_mask {
    cpu_set_t sets[MPT_THREAD_MAX_CPUS / CPU_SETSIZE];
} cpu_mask_t;

typedef struct worker {
    mpt_pool_t *pool;
    int index;
    pthread_t thread; /* not set for worker 0, the caller */
} worker_t;

struct mpt_pool {
    int threads;
    int spins;
    const mpt_log_t *log;
    worker_t *workers;
    int started; /* workers 1 .. started - 1 run */
    int caller_bound;
    pthread_t caller;
    cpu_mask_t caller_mask; /* to put back */

    mpt_task_t task; /* the job: written while no ticket is valid */
    void *ctx;

    /* Tasks in the high half, the next task in the low one. */
    _Alignas(CACHE_LINE) _Atomic uint64_t ticket;
    /* Tasks finished: the caller's futex. */
    _Alignas(CACHE_LINE) _Atomic uint32_t done;
    _Atomic uint32_t caller_sleeps;
    /* Runs so far: the workers' futex. */
    _Alignas(CACHE_LINE) _Atomic uint32_t epoch;
    _Atomic uint32_t sleepers;
    _Atomic uint32_t stop;
    _Atomic uint32_t running; /* finds callers that overlap */
};

/* ---- waiting ------------------------------------------------------------------------ */

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* ---- running ------------------------------------------------------------------------ */

/* Takes tickets until none is left, then reports what it ran. */
static void run_tickets(mpt_pool_t *pool, int worker)
{
    uint32_t finished = 0;
    uint32_t tasks;
    for (;;) {
        uint64_t ticket = atomic_fetch_add_explicit(&pool->ticket, 1, memory_order_acquire);
        uint32_t next = (uint32_t)ticket;
        tasks = (uint32_t)(ticket >> 32);
        if (next >= tasks)
            break;
        pool->task(pool->ctx, (int)next, worker);
        finished++;
    }
    if (finished == 0)
        return;
    /* Sequentially consistent, as the caller's side is: either it sees the count or we see it
     * asleep. */
    uint32_t before = atomic_fetch_add(&pool->done, finished);
    if (before + finished == tasks && atomic_load(&pool->caller_sleeps))
        futex_wake(&pool->done, 1);
}

static void wait_for_epoch_after(mpt_pool_t *pool, uint32_t seen)
{
    for (int i = 0; i < pool->spins; i++) {
        if (atomic_load_explicit(&pool->epoch, memory_order_acquire) != seen)
            return;
        mpt_thread_pause();
    }
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->epoch) == seen)
        futex_wait(&pool->epoch, seen);
    atomic_fetch_sub(&pool->sleepers, 1);
}

static void *worker_main(void *arg)
{
    worker_t *worker = arg;
    mpt_pool_t *pool = worker->pool;
    (void)mpt_thread_set_float_control(MPT_MXCSR_DEFAULT);
    uint32_t seen =
        0; /* the epoch at creation: no run is missed, however late this thread starts */
    for (;;) {
        wait_for_epoch_after(pool, seen);
        seen = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        run_tickets(pool, worker->index);
    }
}

static void start_epoch(mpt_pool_t *pool, int helpers)
{
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->sleepers) > 0)
        futex_wake(&pool->epoch, helpers);
}

static void wait_until_done(mpt_pool_t *pool, uint32_t tasks)
{
    for (int i = 0; i < pool->spins; i++) {
        if (atomic_load_explicit(&pool->done, memory_order_acquire) == tasks)
            return;
        mpt_thread_pause();
    }
    atomic_store(&pool->caller_sleeps, 1);
    uint32_t done;
    while ((done = atomic_load(&pool->done)) != tasks)
        futex_wait(&pool->done, done);
    atomic_store(&pool->caller_sleeps, 0);
}

static void run_shared(mpt_pool_t *pool, mpt_task_t task, void *ctx, int tasks)
{
    pool->task = task;
    pool->ctx = ctx;
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->ticket, (uint64_t)tasks << 32, memory_order_release);
    start_epoch(pool, tasks - 1 < pool->threads - 1 ? tasks - 1 : pool->threads - 1);
    run_tickets(pool, 0);
    wait_until_done(pool, (uint32_t)tasks);
}

void mpt_pool_run(mpt_pool_t *pool, mpt_task_t task, void *ctx, int tasks)
{
    if (tasks <= 0)
        return;
    uint32_t overlapping = atomic_exchange_explicit(&pool->running, 1, memory_order_acquire);
    assert(!overlapping);
    (void)overlapping;
    unsigned control = mpt_thread_set_float_control(MPT_MXCSR_DEFAULT);
    if (pool->threads == 1 || tasks == 1) {
        for (int i = 0; i < tasks; i++)
            task(ctx, i, 0);
    } else {
        run_shared(pool, task, ctx, tasks);
    }
    (void)mpt_thread_set_float_control(control);
    atomic_store_explicit(&pool->running, 0, memory_order_release);
}

int mpt_pool_threads(const mpt_pool_t *pool)
{
    return pool->threads;
}

/* ---- creation ----------------------------------------------------------------------- */

/* Bind a thread to one processor. A refusal costs speed, not results: say so and go on unbound. */
static int bind_thread(const mpt_pool_t *pool, pthread_t thread, int index, int cpu)
{
    int error = mpt_thread_bind(thread, &cpu, 1);
    if (error != 0)
        mpt_log_warn(pool->log, "pool: cannot bind worker %d to cpu %d: %s", index, cpu,
                     strerror(error));
    return error;
}

static void bind_caller(mpt_pool_t *pool, int cpu)
{
    pool->caller = pthread_self();
    int saved =
        pthread_getaffinity_np(pool->caller, sizeof pool->caller_mask, pool->caller_mask.sets) == 0;
    if (bind_thread(pool, pool->caller, 0, cpu) == 0)
        pool->caller_bound = saved;
}

static mpt_status_t start_worker(mpt_pool_t *pool, int index, const int *cpus)
{
    worker_t *worker = &pool->workers[index];
    worker->pool = pool;
    worker->index = index;
    char name[24]; /* MPT_THREAD_MAX_CPUS keeps it below */
    snprintf(name, sizeof name, "mpt-pool-%d", index);
    int error = mpt_thread_start(&worker->thread, name, worker_main, worker);
    if (error != 0) {
        mpt_log_error(pool->log, "pool: cannot start worker %d of %d: %s", index, pool->threads,
                      strerror(error));
        return MPT_ERR_NO_MEMORY;
    }
    if (cpus)
        (void)bind_thread(pool, worker->thread, index, cpus[index]);
    return MPT_OK;
}

static mpt_status_t start_workers(mpt_pool_t *pool, const int *cpus)
{
    mpt_status_t status = MPT_OK;
    for (pool->started = 1; pool->started < pool->threads && status == MPT_OK;) {
        status = start_worker(pool, pool->started, cpus);
        if (status == MPT_OK)
            pool->started++;
    }
    return status;
}

static mpt_status_t check_params(const mpt_pool_params_t *params)
{
    if (params->threads < 1 || params->threads > MPT_THREAD_MAX_CPUS) {
        mpt_log_error(params->log, "pool: %d threads: must be 1 to %d", params->threads, MPT_THREAD_MAX_CPUS);
        return MPT_ERR_INVALID_ARG;
    }
    for (int i = 0; params->cpus && i < params->threads; i++) {
        if (params->cpus[i] < 0 || params->cpus[i] >= MPT_THREAD_MAX_CPUS) {
            mpt_log_error(params->log, "pool: worker %d: no cpu %d", i, params->cpus[i]);
            return MPT_ERR_INVALID_ARG;
        }
    }
    return MPT_OK;
}

mpt_status_t mpt_pool_create(const mpt_pool_params_t *params, mpt_pool_t **pool_p)
{
    mpt_status_t status = check_params(params);
    if (status != MPT_OK)
        return status;
    mpt_pool_t *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    if (!pool)
        goto err_memory;
    memset(pool, 0, sizeof *pool);
    pool->threads = params->threads;
    pool->spins = params->yield ? 0 : SPINS;
    pool->log = params->log;
    pool->workers = calloc((size_t)params->threads, sizeof *pool->workers);
    if (!pool->workers)
        goto err_memory;
    status = start_workers(pool, params->cpus);
    if (status != MPT_OK)
        goto err_pool;
    if (params->cpus)
        bind_caller(pool, params->cpus[0]);
    *pool_p = pool;
    return MPT_OK;
err_memory:
    status = MPT_ERR_NO_MEMORY;
    mpt_log_error(params->log, "pool: no memory for %d threads", params->threads);
err_pool:
    mpt_pool_destroy(pool);
    return status;
}

void mpt_pool_destroy(mpt_pool_t *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stop, 1);
    start_epoch(pool, INT_MAX);
    for (int i = 1; i < pool->started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    /* What the caller starts after this must not inherit a binding that was ours. */
    if (pool->caller_bound && pthread_equal(pool->caller, pthread_self()))
        (void)pthread_setaffinity_np(pool->caller, sizeof pool->caller_mask,
                                     pool->caller_mask.sets);
    free(pool->workers);
    free(pool);
}
